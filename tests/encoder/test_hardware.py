"""What the encoder asks of the machine."""

from __future__ import annotations

import os
import platform
import resource
import subprocess
import sys

import pytest

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
