"""What this machine is: its device, the number types that it computes natively, its pace."""

from __future__ import annotations

import ctypes
import functools
import os
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

SIXTEEN_BITS = {"bfloat16": torch.bfloat16, "float16": torch.float16}
MEASURED_TOKENS = 864
"""Rows of the product that `product_rate` times: about 16 texts of AG News."""

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Options of glibc's mallopt (malloc.h)."""
LARGEST_KEPT = (256 << 20, 32 << 20)
"""Bytes of the largest allocation that is not asked of the system each time; where the C library
refuses one, the next is tried: older ones take no more than 32 MiB."""
MOST_KEPT = 512 << 20
"""Bytes that stay at the heap's end when they are free."""


@dataclass(frozen=True)
class Precision:
    """The number type of the frozen products, and a line where it is not the one asked for."""

    name: str
    note: str = ""


def device() -> torch.device:
    """The CUDA GPU where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def native_bfloat16() -> bool:
    """Whether this CPU multiplies bfloat16 itself: emulated, it is many times slower."""
    found = _capabilities()
    return bool(found.get("avx512_bf16") or found.get("amx_bf16"))


@functools.cache
def onednn_keeps_float32() -> bool:
    """Whether oneDNN multiplies float32 as such on this CPU also where it may round it to bfloat16:
    it makes use of that with AMX alone."""
    return not any(on for name, on in _capabilities().items() if name.startswith("amx_"))


def resolve_precision(asked: str, where: torch.device) -> Precision:
    """The number type to use for a wish on a device.

    Args:
        asked: `auto`, `float32`, `bfloat16` or `float16`.
        where: the device.
    """
    if where.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
        if asked == "auto":
            return Precision("bfloat16" if native else "float16")
        if asked == "bfloat16" and not native:
            return Precision("float16", "float16 instead of bfloat16: this GPU has no bfloat16")
        return Precision(asked)
    best = "bfloat16" if native_bfloat16() else "float32"
    if asked == "auto":
        return Precision(best)
    if asked == "float16":
        why = "has bfloat16" if best == "bfloat16" else "has neither natively"
        return Precision(best, f"{best} instead of float16: float16 is for GPUs, this CPU {why}")
    if asked == "bfloat16" and best != "bfloat16":
        return Precision("float32", "float32 instead of bfloat16: this CPU only emulates it")
    return Precision(asked)


def keep_freed_memory() -> None:
    """Has the C library keep the memory of tensors that are freed for the next ones.

    By default it gives large ones back, and the system clears every page anew: in a pass of
    4,096 tokens that takes longer than attention's arithmetic. Settings from outside hold, and
    other libraries than glibc are left alone.
    """
    outside = "MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_"
    if any(name in os.environ for name in outside):
        return
    if "glibc.malloc." in os.environ.get("GLIBC_TUNABLES", ""):
        return
    mallopt = _of_c_library("mallopt")
    # The second option alone would leave every allocation of 128 KiB to the system.
    if mallopt is not None and any(mallopt(M_MMAP_THRESHOLD, size) for size in LARGEST_KEPT):
        mallopt(M_TRIM_THRESHOLD, MOST_KEPT)


def give_back_freed_memory() -> None:
    """Has the C library give all of it back: what one stage of a run leaves in pieces of its sizes
    fits the next one's badly, and that would take its own beside them."""
    if (trim := _of_c_library("malloc_trim")) is not None:
        trim(0)


def product_rate(width: int, outputs: int, precision: str, where: torch.device) -> float:
    """Floating-point operations a second of `[864, width] @ [width, outputs]`, measured now.

    The best of several short stretches, as other programs on the machine only ever slow it.
    """
    number_type = SIXTEEN_BITS.get(precision, torch.float32)
    left = torch.randn(MEASURED_TOKENS, width, device=where).to(number_type)
    right = torch.randn(width, outputs, device=where).to(number_type)
    best = float("inf")
    for _ in range(5):
        start = time.perf_counter()
        for _ in range(4):
            left @ right
        if where.type == "cuda":
            torch.cuda.synchronize()
        best = min(best, (time.perf_counter() - start) / 4)
    return 2.0 * MEASURED_TOKENS * width * outputs / best


def describe(where: torch.device) -> dict[str, str | int]:
    """The machine in a few words, for a run's records."""
    facts: dict[str, str | int] = {
        "platform": f"{platform.system()} {platform.machine()}",
        "processor": str(_capabilities().get("cpu_name", "")),
        "threads": torch.get_num_threads(),
        "device": where.type,
    }
    if where.type == "cuda":
        facts["gpu"] = torch.cuda.get_device_name(where)
    return facts


def _of_c_library(name: str) -> Callable[..., int] | None:
    """One of its functions; None where it has none of that name."""
    if os.name != "posix":
        return None
    found: Callable[..., int] | None = getattr(ctypes.CDLL(None), name, None)
    return found


def _capabilities() -> dict[str, Any]:
    """What torch says of the processor; older versions do not say."""
    ask = getattr(torch.cpu, "get_capabilities", None)
    return ask() if ask is not None else {}
