"""How many of some texts are unlike others, and which, from one score a text.

OTHER is taken as a mixture: a share of texts that are drawn as TRAIN is, and the rest
(learning from positive and unlabelled examples).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from sklearn.isotonic import IsotonicRegression

SLACK, DOUBT = 0.01, 0.1
"""Gamma and delta of Garg et al. 2021, algorithm 1."""


@dataclass(frozen=True)
class Mixture:
    """What the scores of two sets say.

    Attributes:
        share: of OTHER that is unlike TRAIN, at least.
        unlike_B: probability that each text of OTHER is unlike TRAIN, `[B]`.
    """

    share: float
    unlike_B: np.ndarray


def like_share(train: np.ndarray, other: np.ndarray) -> float:
    """The largest share of OTHER that could be drawn as TRAIN is; scores grow with unlikeness.

    The best bin's estimate: Garg et al. 2021, "Mixture Proportion Estimation and PU Learning:
    A Modern Approach" (arXiv:2111.00980), algorithm 1.
    """
    cuts = np.unique(train)
    below_train = np.searchsorted(np.sort(train), cuts, side="right") / len(train)
    below_other = np.searchsorted(np.sort(other), cuts, side="right") / len(other)
    doubt = np.sqrt(np.log(4 / DOUBT) / 2) * (len(train) ** -0.5 + len(other) ** -0.5)
    bound = below_other / below_train + (1 + SLACK) * doubt / below_train
    best = int(bound.argmin())
    return float(min(1.0, below_other[best] / below_train[best]))


def separate(train: np.ndarray, other: np.ndarray) -> Mixture:
    """Splits OTHER by scores that grow with unlikeness; both sets scored out of sample."""
    like = like_share(train, other)
    scores = np.concatenate([train, other])
    origin = np.repeat([0.0, 1.0], [len(train), len(other)])
    weights = np.repeat([1 / len(train), 1 / len(other)], [len(train), len(other)])
    # The share of OTHER among equally many of both grows with the score: f / (f0 + f).
    smooth = IsotonicRegression(y_min=0.0, y_max=1.0, out_of_bounds="clip")
    smooth.fit(scores, origin, sample_weight=weights)
    of_other = np.clip(smooth.predict(other), 1e-9, 1.0)
    unlike = np.clip(1.0 - like * (1.0 - of_other) / of_other, 0.0, 1.0)
    return Mixture(1.0 - like, unlike)
