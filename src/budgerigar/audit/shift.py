"""How one file of texts differs from another, and which of its texts are unlike.

A classifier two-sample test (Lopez-Paz and Oquab 2017, arXiv:1610.06545): what tells texts of
OTHER from texts of TRAIN out of sample, if anything does, is the shift. Where OTHER holds two
kinds of texts, some drawn as TRAIN is, such a classifier learns from wrong labels; so its
scores become labels, the texts that look like TRAIN going to its side, and it is fitted again
(learning from positive and unlabelled examples; compare the alternation in Garg et al. 2021,
arXiv:2111.00980, section 5).

Shape letters: N texts of both files, TRAIN's first, F folds, W views.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from budgerigar.audit.mixture import Mixture, separate
from budgerigar.audit.views import View, views_of
from budgerigar.evaluation.two_samples import TwoSamples, two_sample_test

FOLDS = 4
ROUNDS = 6
"""Times at most that scores become labels again."""
SETTLED = 0.002
"""Share of OTHER that changes sides in the last round."""
LARGEST_SAMPLE = 8_000
"""Texts of either file that classifiers are fitted to; all of OTHER are scored."""
FEWEST = 10
"""Texts of a file, below which nothing can be said."""
LEVEL = 0.01
"""A p value below which there is a shift."""
SMALLEST_GROUP = 0.02
"""Share of OTHER that is a group of its own at least."""
CERTAIN = 0.85
"""Mean probability of the likelier side from which on two kinds of texts stand apart."""


@dataclass(frozen=True)
class Shift:
    """How OTHER differs from TRAIN.

    Attributes:
        test: of the null hypothesis that both are drawn alike.
        unlike_B: whether each text of OTHER is unlike TRAIN, `[B]`; nowhere where no kind of
            its own was shown.
        probability_B: that it is, by the last round, `[B]`.
        score_B: how unlike TRAIN it is: orders texts that are equally sure.
        share: of OTHER that is unlike, as the mixture's lower bound says.
        certainty: mean probability of the likelier side.
        sampled: texts of TRAIN and OTHER that classifiers were fitted to.
        rounds: times that scores became labels.
    """

    test: TwoSamples
    unlike_B: np.ndarray
    probability_B: np.ndarray
    score_B: np.ndarray
    share: float
    certainty: float
    sampled: tuple[int, int]
    rounds: int

    @property
    def shown(self) -> bool:
        """Whether the files differ by more than chance."""
        return self.test.p_value < LEVEL

    @property
    def kinds(self) -> str:
        """`none`, `gradual`, `two` or `all`: what OTHER holds beside texts like TRAIN."""
        if not self.shown:
            return "none"
        unlike = float(self.unlike_B.mean())
        if unlike == 0.0:
            return "gradual"
        return "all" if unlike > 1 - SMALLEST_GROUP else "two"

    @property
    def most_unlike(self) -> np.ndarray:
        """Rows of OTHER, the one that is most unlike TRAIN first."""
        return np.argsort(-self.score_B, kind="stable")


def sample(texts: int, generator: np.random.Generator) -> np.ndarray:
    """Sorted rows of at most `LARGEST_SAMPLE` texts."""
    if texts <= LARGEST_SAMPLE:
        return np.arange(texts)
    rows: np.ndarray = np.sort(generator.choice(texts, LARGEST_SAMPLE, replace=False))
    return rows


def detect(
    train: Sequence[str],
    train_vectors: np.ndarray,
    other: Sequence[str],
    other_vectors: np.ndarray,
    seed: int = 0,
) -> Shift:
    """Tests whether OTHER differs from TRAIN, and says which of its texts are unlike.

    Args:
        train: texts, at most `LARGEST_SAMPLE` of them are used.
        train_vectors: of an encoder, `[., D]`; see `vectors.TextEncoder`.
        other: all texts of OTHER.
        other_vectors: theirs.
        seed: of samples and folds.
    """
    generator = np.random.default_rng(seed)
    of_train = sample(len(train), generator)
    fitted_other = np.zeros(len(other), bool)
    fitted_other[sample(len(other), generator)] = True
    texts = [*(train[row] for row in of_train.tolist()), *other]
    vectors = np.concatenate([train_vectors[of_train], other_vectors])
    first = len(of_train)
    fitted_N = np.concatenate([np.ones(first, bool), fitted_other])
    folds_N = folds_of(texts, first, generator)
    views = views_of(texts, vectors, fitted_N)

    labels_N = np.repeat([0, 1], [first, len(other)])
    scores_WN = _scores(views, labels_N, folds_N, fitted_N)
    summed_N = scores_WN.sum(axis=0)
    test = two_sample_test(
        summed_N[fitted_N], labels_N[fitted_N] == 1, folds_N[fitted_N], cross_validated=True
    )
    mixture = separate(summed_N[:first], summed_N[first:])
    rounds = 0
    while test.p_value < LEVEL and rounds < ROUNDS:
        before = mixture.unlike_B > 0.5
        labels_N[first:] = before
        if min(np.bincount(labels_N[fitted_N], minlength=2)) < FEWEST:
            break
        rounds += 1
        scores_WN = _scores(views, labels_N, folds_N, fitted_N)
        summed_N = _weighted(scores_WN, labels_N, fitted_N)
        mixture = separate(summed_N[:first], summed_N[first:])
        if np.mean(before != (mixture.unlike_B > 0.5)) < SETTLED:
            break
    return _shift(test, mixture, summed_N[first:], (first, int(fitted_other.sum())), rounds)


def folds_of(texts: Sequence[str], first: int, generator: np.random.Generator) -> np.ndarray:
    """A fold for each text, `[N]`: equal texts share one, either file's are spread evenly.

    Args:
        texts: of both files.
        first: how many of them are TRAIN's.
        generator: draws.
    """
    keys: dict[str, int] = {}
    place_N = np.array([keys.setdefault(" ".join(t.casefold().split()), len(keys)) for t in texts])
    of_other = np.ones(len(keys))
    of_other[place_N[:first]] = 0
    order = np.lexsort((generator.random(len(keys)), of_other))
    fold_of_key = np.empty(len(keys), int)
    fold_of_key[order] = np.arange(len(keys)) % FOLDS
    folds: np.ndarray = fold_of_key[place_N]
    return folds


def _scores(
    views: Sequence[View], labels_N: np.ndarray, folds_N: np.ndarray, fitted_N: np.ndarray
) -> np.ndarray:
    """Out-of-sample scores of each view, `[W, N]`, of one spread in every fold."""
    scores_WN = np.zeros((len(views), len(labels_N)))
    for fold in range(FOLDS):
        inside = folds_N == fold
        rows = np.flatnonzero(fitted_N & ~inside)
        if len(np.unique(labels_N[rows])) < 2:
            continue
        for number, view in enumerate(views):
            found = view.fit_and_score(rows, labels_N[rows], np.flatnonzero(inside))
            scores_WN[number, inside] = (found - found.mean()) / (found.std() + 1e-9)
    return scores_WN


def _weighted(scores_WN: np.ndarray, labels_N: np.ndarray, fitted_N: np.ndarray) -> np.ndarray:
    """The views' scores together, each as telling as it is: a logistic regression on them."""
    from sklearn.linear_model import LogisticRegression

    stacked = LogisticRegression(class_weight="balanced")
    stacked.fit(scores_WN[:, fitted_N].T, labels_N[fitted_N])
    combined: np.ndarray = stacked.decision_function(scores_WN.T)
    return combined


def _shift(
    test: TwoSamples, mixture: Mixture, score_B: np.ndarray, sampled: tuple[int, int], rounds: int
) -> Shift:
    unlike_B = mixture.unlike_B > 0.5
    certainty = float(np.maximum(mixture.unlike_B, 1 - mixture.unlike_B).mean())
    stands_apart = (
        test.p_value < LEVEL
        and rounds > 0
        and unlike_B.mean() >= SMALLEST_GROUP
        and unlike_B.sum() >= FEWEST
        and certainty >= CERTAIN
    )
    if not stands_apart:
        unlike_B = np.zeros(len(score_B), bool)
    return Shift(
        test, unlike_B, mixture.unlike_B, score_B, mixture.share, certainty, sampled, rounds
    )
