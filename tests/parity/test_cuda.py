"""On a GPU the same numbers as on the CPU; skipped where there is none.

The other tests of this folder run on the GPU too where there is one.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from test_engine import ALL, RAGGED, base_of, gradients_of, largest_difference, texts_of

from budgerigar.encoder import paths
from budgerigar.encoder.budget import Selection
from budgerigar.encoder.dropout import Dropouts
from budgerigar.encoder.lora import LowRank

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
__all__ = ["base_of"]


@pytest.mark.parametrize("family", ALL)
@pytest.mark.parametrize("layers", [(2, 3), (0, 1, 2, 3), ()])
def test_float32_equals_the_cpus(base_of, family, layers):
    selection = Selection(("all",), layers, 4, {}, "none", "full")
    low_rank, dropouts = LowRank(16, 0.0, False), Dropouts(0.0, 0.0, prefix=False)
    texts, rows = texts_of(RAGGED), np.array([3, 0, 1, 2, 6, 5])
    found = [
        gradients_of(
            paths.fresh(
                replace(base_of(family), device=torch.device(device)),
                selection,
                low_rank,
                dropouts,
                seed=3,
                force_reference=False,
            ),
            texts,
            rows,
        )
        for device in ("cpu", "cuda")
    ]
    (logits, gradients), (on_gpu, gradients_on_gpu) = found
    assert float((logits - on_gpu.cpu()).abs().max()) < 1e-5
    there = {name: gradient.cpu() for name, gradient in gradients_on_gpu.items()}
    assert largest_difference(gradients, there) < 1e-5
