"""The sides from which texts of two files are compared: words, an encoder's layers, style.

Each view is a linear classifier that is fitted to some rows and scores others.

Shape letters: N texts, D width of dense features.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from budgerigar.audit.style import measures

RIDGE = 0.05
"""Added to the diagonal, as a share of the number of texts: features have variance 1."""
WORDS = r"\w+|[^\w\s]"
"""Marks are words too: how texts are punctuated tells their kind."""


class View(Protocol):
    """Fits some rows and scores others; scores grow with the label."""

    def fit_and_score(
        self, rows: np.ndarray, labels: np.ndarray, scored: np.ndarray
    ) -> np.ndarray: ...


def views_of(texts: Sequence[str], vectors: np.ndarray, fitted: np.ndarray) -> list[View]:
    """The views of texts.

    Args:
        texts: of both files, N.
        vectors: of an encoder, `[N, D]`.
        fitted: the rows that classifiers are fitted to, bool `[N]`.
    """
    return [Dense(vectors, fitted), Dense(measures(texts), fitted), Words(texts, fitted)]


class Dense:
    """Ridge regression on standardised features (Hoerl and Kennard 1970)."""

    def __init__(self, features: np.ndarray, fitted: np.ndarray) -> None:
        mean = features[fitted].mean(axis=0, dtype=np.float64).astype(np.float32)
        spread = features[fitted].std(axis=0, dtype=np.float64).astype(np.float32)
        # A feature that hardly varies says nothing, and would grow without bound.
        usable = spread > 1e-3 * max(1e-6, float(spread.max()))
        self._features_ND = (features[:, usable] - mean[usable]) / spread[usable]
        self._features_ND = np.clip(self._features_ND, -8.0, 8.0).astype(np.float32)
        self._products: dict[bytes, np.ndarray] = {}

    def fit_and_score(self, rows: np.ndarray, labels: np.ndarray, scored: np.ndarray) -> np.ndarray:
        from scipy.linalg import cho_solve

        inputs = self._features_ND[rows]
        mean = inputs.mean(axis=0)
        target = (labels - labels.mean()).astype(np.float32)
        weights = cho_solve(self._factor(rows, inputs, mean), inputs.T @ target)
        found: np.ndarray = (self._features_ND[scored] - mean) @ weights
        return found

    def _factor(self, rows: np.ndarray, inputs: np.ndarray, mean: np.ndarray) -> Any:
        """Cholesky's factor of a fold's covariance, the same in every round."""
        from scipy.linalg import cho_factor

        key = rows.tobytes()
        if key not in self._products:
            product = inputs.T @ inputs - len(rows) * np.outer(mean, mean)
            product += RIDGE * len(rows) * np.eye(len(product), dtype=np.float32)
            self._products[key] = cho_factor(product, lower=True)
        return self._products[key]


class Words:
    """Logistic regression on TF-IDF of words and word pairs, capitals and marks as they are."""

    def __init__(self, texts: Sequence[str], fitted: np.ndarray) -> None:
        from sklearn.feature_extraction.text import TfidfVectorizer

        rows = np.flatnonzero(fitted)
        vectorizer = TfidfVectorizer(
            ngram_range=(1, 2),
            lowercase=False,
            token_pattern=WORDS,
            sublinear_tf=True,
            min_df=3 if len(rows) >= 1000 else 2,
            dtype=np.float32,
        )
        try:
            vectorizer.fit([texts[row] for row in rows.tolist()])
        except ValueError:  # No word occurs twice.
            self._features: Any = None
            return
        self._features = vectorizer.transform(texts).tocsr()

    def fit_and_score(self, rows: np.ndarray, labels: np.ndarray, scored: np.ndarray) -> np.ndarray:
        if self._features is None:
            return np.zeros(len(scored))
        import warnings

        from sklearn.exceptions import ConvergenceWarning
        from sklearn.linear_model import LogisticRegression

        fitted = LogisticRegression(C=3.0, max_iter=40, class_weight="balanced")
        with warnings.catch_warnings():
            # The ranking settles long before the weights do.
            warnings.simplefilter("ignore", ConvergenceWarning)
            fitted.fit(self._features[rows], labels)
        found: np.ndarray = fitted.decision_function(self._features[scored])
        return found
