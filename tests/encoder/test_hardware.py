"""What the encoder asks of the machine."""

from __future__ import annotations

import os
import platform
import resource
import subprocess
import sys

import pytest

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


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")
def test_freed_memory_is_kept_unless_settings_from_outside_say_otherwise():
    bare = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    outside = {"MALLOC_MMAP_THRESHOLD_": str(1 << 20), "MALLOC_TRIM_THRESHOLD_": str(1 << 20)}
    kept, given_back = (
        int(subprocess.check_output([sys.executable, "-c", FAULTS], env=bare | settings))
        for settings in ({}, outside)
    )
    assert kept < 10 * (40 << 20) // resource.getpagesize() // 100
    assert given_back > 10 * kept
