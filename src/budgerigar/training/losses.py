"""Losses of a batch: cross-entropy, and two that wrong labels lead astray less.

All take logits in float32 and give a sum over the texts, so that a step's mean does not
depend on how its texts are cut into batches.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch.nn import functional as F

LOG_OF_ZERO = -4.0
"""What stands for log 0 in the reverse cross-entropy (Wang et al. 2019, section 4.1, their A)."""


class Loss(Protocol):
    """A sum over texts."""

    def total(
        self, logits_BC: torch.Tensor, labels_B: torch.Tensor, weights_C: torch.Tensor | None
    ) -> torch.Tensor:
        """The loss of a batch.

        Args:
            logits_BC: float32.
            labels_B: class of each text as given, int64.
            weights_C: what each class counts for; None: all alike.

        Returns:
            A scalar: the weighted sum, not the mean.
        """


@dataclass(frozen=True)
class CrossEntropy:
    """Minus the log probability of the given class.

    Attributes:
        smoothing: share of the target that is spread evenly over all classes (Szegedy et al.
            2016, arXiv:1512.00567, section 7).
    """

    smoothing: float = 0.0

    def total(
        self, logits_BC: torch.Tensor, labels_B: torch.Tensor, weights_C: torch.Tensor | None
    ) -> torch.Tensor:
        """See `Loss.total`."""
        return F.cross_entropy(
            logits_BC, labels_B, weights_C, reduction="sum", label_smoothing=self.smoothing
        )


@dataclass(frozen=True)
class GeneralizedCrossEntropy:
    """(1 - p^q) / q of the given class's probability p (Zhang and Sabuncu 2018, arXiv:1805.07836,
    equation 6): cross-entropy as q goes to 0, mean absolute error at 1.

    A text whose given class is improbable pulls less than in cross-entropy, by the factor p^q.
    """

    q: float

    def total(
        self, logits_BC: torch.Tensor, labels_B: torch.Tensor, weights_C: torch.Tensor | None
    ) -> torch.Tensor:
        """See `Loss.total`."""
        # From the log: p^q itself has no gradient once p has gone to 0 in float32.
        logs_B = _log_probabilities(logits_BC, labels_B)
        return _weighted(-torch.expm1(self.q * logs_B) / self.q, labels_B, weights_C)


@dataclass(frozen=True)
class SymmetricCrossEntropy:
    """`alpha` times cross-entropy and `beta` times reverse cross-entropy (Wang et al. 2019,
    arXiv:1908.06112, equation 7).

    The reverse one, of the given label under the prediction, is a multiple of 1 - p: bounded, so
    that no single text can pull without end.
    """

    alpha: float
    beta: float

    def total(
        self, logits_BC: torch.Tensor, labels_B: torch.Tensor, weights_C: torch.Tensor | None
    ) -> torch.Tensor:
        """See `Loss.total`."""
        logs_B = _log_probabilities(logits_BC, labels_B)
        values_B = -self.alpha * logs_B + self.beta * LOG_OF_ZERO * torch.expm1(logs_B)
        return _weighted(values_B, labels_B, weights_C)


def _log_probabilities(logits_BC: torch.Tensor, labels_B: torch.Tensor) -> torch.Tensor:
    """Log probability of each text's given class, `[B]`."""
    return F.log_softmax(logits_BC, dim=1).gather(1, labels_B[:, None])[:, 0]


def _weighted(
    values_B: torch.Tensor, labels_B: torch.Tensor, weights_C: torch.Tensor | None
) -> torch.Tensor:
    return values_B.sum() if weights_C is None else (values_B * weights_C[labels_B]).sum()
