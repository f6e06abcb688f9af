"""What the encoder asks of the machine."""

from __future__ import annotations

import os
import platform
import resource
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from budgerigar.encoder import hardware

FAULTS = """
import resource
import torch
from budgerigar.encoder import hardware

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        torch.ones(40 << 18)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

hardware.keep_freed_memory()
faults()
print(faults())
"""
"""Page faults of ten tensors of 40 MiB, each freed before the next, after ten others."""


def faults(**settings: str) -> int:
    bare = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("MALLOC_", "GLIBC_TUNABLES"))
    }
    return int(subprocess.check_output([sys.executable, "-c", FAULTS], env=bare | settings))


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")
def test_freed_memory_is_kept_unless_settings_from_outside_say_otherwise():
    kept = faults()
    assert kept < 10 * (40 << 20) // resource.getpagesize() // 100
    assert faults(MALLOC_MMAP_THRESHOLD_=str(1 << 20)) > 10 * kept
    tunables = "glibc.malloc.mmap_threshold=1048576:glibc.malloc.trim_threshold=1048576"
    assert faults(GLIBC_TUNABLES=tunables) > 10 * kept


PIECES = """
import resource
from pathlib import Path
import torch
from budgerigar.encoder import hardware

def own():
    status = Path("/proc/self/status").read_text()
    return int(status.split("RssAnon:")[1].split()[0]) << 10

hardware.keep_freed_memory()
small = [torch.ones(1 << 18)]
before = own()
pieces = [(torch.ones(1 << 18), torch.ones(9 << 18)) for _ in range(40)]
small = [piece for piece, _ in pieces]
del pieces
kept = own()
hardware.give_back_freed_memory()
print(before, kept, own())
"""
"""Bytes of the process: before 40 tensors of 1 MiB that stay and as many of 9 between them that
are freed, then, and when freed memory was given back."""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")
def test_freed_memory_between_what_is_held_is_given_back():
    before, kept, left = map(int, subprocess.check_output([sys.executable, "-c", PIECES]).split())
    assert kept - before > 390 << 20
    assert left - before < 60 << 20


@pytest.mark.parametrize(
    ("system", "library"),
    [("nt", lambda name: pytest.fail("opened")), ("posix", lambda name: None)],
)
def test_other_c_libraries_are_left_alone(monkeypatch, system, library):
    monkeypatch.setattr(hardware, "os", SimpleNamespace(name=system, environ={}))
    monkeypatch.setattr(hardware.ctypes, "CDLL", library)
    hardware.give_back_freed_memory()
    hardware.keep_freed_memory()


@pytest.mark.parametrize(
    ("largest", "set_to"), [(1 << 40, [(-3, 256 << 20), (-1, 512 << 20)]),
                            (32 << 20, [(-3, 256 << 20), (-3, 32 << 20), (-1, 512 << 20)]),
                            (0, [(-3, 256 << 20), (-3, 32 << 20)])],
)  # fmt: skip
def test_older_libraries_keep_what_they_can(monkeypatch, largest, set_to):
    """They refuse a large threshold, and the other option alone would make all worse."""
    asked = []

    class Library:
        def mallopt(self, option: int, size: int) -> bool:
            asked.append((option, size))
            return option == hardware.M_TRIM_THRESHOLD or size <= largest

    for name in ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(hardware.ctypes, "CDLL", lambda name: Library())
    hardware.keep_freed_memory()
    assert asked == set_to


@pytest.mark.parametrize(
    ("found", "keeps"),
    [
        ({"avx512_bf16": True, "amx_tile": False, "amx_bf16": False}, True),
        ({"avx512_bf16": True, "amx_tile": True, "amx_bf16": True}, False),
        ({}, True),
    ],
)
def test_onednn_rounds_float32_with_amx_alone(monkeypatch, found, keeps):
    monkeypatch.setattr(hardware, "_capabilities", lambda: found)
    assert hardware.onednn_keeps_float32.__wrapped__() == keeps


def test_onednn_keeps_float32_here_where_it_is_said_to():
    """Also where torch lets it round: numbers that bfloat16 cannot hold stay apart."""
    if not hardware.onednn_keeps_float32():
        pytest.skip("this CPU has AMX")
    one = torch.ones(2, 64, 64)
    matmul = torch.backends.mkldnn.matmul
    matmul.fp32_precision = "bf16"
    try:
        found = torch.bmm(one * (1 + 2**-12), one)
    finally:
        matmul.fp32_precision = "none"
    torch.testing.assert_close(found, one * 64 * (1 + 2**-12), rtol=0, atol=1e-5)


BF16 = [{"avx512_bf16": True}, {"avx512_bf16": False, "amx_bf16": True}]
NO_BF16 = [{}, {"avx512_bf16": False, "amx_bf16": False, "amx_int8": True}]


@pytest.mark.parametrize(
    ("machines", "asked", "name", "note"),
    [
        (BF16, "auto", "bfloat16", ""),
        (BF16, "float32", "float32", ""),
        (BF16, "bfloat16", "bfloat16", ""),
        (BF16, "float16", "bfloat16", "bfloat16 instead of float16: float16 is for GPUs, "
                                      "this CPU has bfloat16"),
        (NO_BF16, "auto", "float32", ""),
        (NO_BF16, "float32", "float32", ""),
        (NO_BF16, "bfloat16", "float32", "float32 instead of bfloat16: this CPU only emulates it"),
        (NO_BF16, "float16", "float32", "float32 instead of float16: float16 is for GPUs, "
                                        "this CPU has neither natively"),
    ],
)  # fmt: skip
def test_a_cpu_computes_in_what_it_has_and_says_where_that_is_not_what_was_asked(
    monkeypatch, machines, asked, name, note
):
    for found in machines:
        monkeypatch.setattr(hardware, "_capabilities", lambda found=found: found)
        resolved = hardware.resolve_precision(asked, torch.device("cpu"))
        assert (resolved.name, resolved.note) == (name, note)
