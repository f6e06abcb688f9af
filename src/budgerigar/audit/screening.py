"""Rows left out of training because their label is suspected wrong."""

from __future__ import annotations

import numpy as np

from budgerigar.audit import labels as label_audit
from budgerigar.audit.vectors import TextEncoder
from budgerigar.data.corpus import Corpus


def suspects(texts: Corpus, encoder: TextEncoder, seed: int) -> np.ndarray:
    """Rows of a labelled set whose label is suspected wrong, sorted; as `budgie inspect` flags.

    Args:
        texts: with labels and class names.
        encoder: whose frozen states tell texts apart.
        seed: of projections and folds.
    """
    assert texts.labels is not None
    assert texts.classes is not None
    vectors = encoder.encode(texts.texts, texts.source, label_audit.layers(encoder.depth))
    suspicion = label_audit.suspects(
        vectors.vectors_BD,
        encoder.width,
        texts.labels,
        len(texts.classes),
        texts=texts.texts[: len(texts.texts)],
        seed=seed,
    )
    return np.sort(suspicion.rows)
