"""Labels and vectors -> how likely each class is the true one, whatever the label says.

Wrong labels that people give are plausible: texts between two classes, or a class that was
misunderstood. A classifier trained on such labels learns them. A generative model with few
parameters does not: each class is one Gaussian, all with one covariance, and the label is
drawn from the true class by a confusion matrix (Dawid and Skene 1979, with one annotator;
Lawrence and Schölkopf 2001, "Estimating a kernel Fisher discriminant in the presence of label
noise"). Expectation and maximisation turn by turn find both; nothing is trained on more than
the file itself.

Shape letters: B texts, D width of the vectors, P principal components, C classes, S parts of a
class, K = C x S.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

COMPONENTS = 200
ROWS_PER_COMPONENT = 10
"""A small file gets fewer components."""
FITTED_ROWS = 20_000
"""Rows that projections and cross-validated heads are fitted on at most."""
CHUNK = 4_096
SHRINKAGE = 0.3
"""Share of the covariance that is the same in every direction."""
TRUST = 0.9
"""Belief in the labels as given, before anything is seen."""
PRIOR_ROWS = 5.0
"""Weight of the confusion matrix's prior, in rows a class."""
PARTS, STARTS = 2, 2
"""Gaussians a class, and how often they are fitted from another cut."""
CUT_COMPONENTS, CUT_TRUST = 30, 0.8
"""Leading components that a class is cut by at first, and belief in that cut."""
LEAST_DIVIDED = 20
"""Rows of a class below which it stays in one part."""
ROUNDS = 60
CHANGE = 1e-4
"""Mean change of the probabilities below which the rounds end."""
FOLDS = 5
TERMS = 100_000


@dataclass(frozen=True)
class Belief:
    """What is believed of the true classes.

    Attributes:
        probabilities_BC: of each class given the text alone.
        confusion_CC: probability of each label (column) given the true class (row).
    """

    probabilities_BC: np.ndarray
    confusion_CC: np.ndarray


def believe(
    vectors_BD: np.ndarray,
    width: int,
    labels_B: np.ndarray,
    classes: int,
    texts: Sequence[str] | None,
    seed: int,
) -> Belief:
    """Averages the Gaussian model over several views of the texts, and a head trained on it.

    Args:
        vectors_BD: mean-pooled states of a frozen encoder, layers side by side, the last one last.
        width: of one layer; divides D.
        labels_B: class of each row as given; every class from 0 to `classes - 1` occurs.
        classes: C.
        texts: the texts, whose words are a view of their own; None goes without.
        seed: of projections and folds.
    """
    seen = _views(vectors_BD, width, texts, seed)
    beliefs = [gaussian_belief(view_BP, labels_B, classes, seed) for view_BP in seen]
    by_text_BC = np.mean([one.probabilities_BC for one in beliefs], axis=0)
    head_BC = _cross_validated(seen[-1], by_text_BC.argmax(1), classes, seed)
    return Belief(
        (by_text_BC + head_BC) / 2, np.mean([one.confusion_CC for one in beliefs], axis=0)
    )


def gaussian_belief(
    view_BP: np.ndarray, labels_B: np.ndarray, classes: int, seed: int = 0
) -> Belief:
    """Fits Gaussians with a common covariance, `PARTS` a class, and the labels' confusion matrix.

    Args:
        view_BP: vectors, centred.
        labels_B: class of each row as given.
        classes: C.
        seed: of the cuts that divide a class in parts at first.
    """
    given_BC = np.eye(classes)[labels_B]
    start_BC = given_BC * TRUST + (1 - given_BC) * (1 - TRUST) / (classes - 1)
    whole_BC = _fit(view_BP, labels_B, start_BC[:, :, None])[1].sum(2)
    fits = []
    for start in range(STARTS):
        parts_BCS = _divided(view_BP, whole_BC.argmax(1), classes, seed + start)
        fits.append(_fit(view_BP, labels_B, whole_BC[:, :, None] * parts_BCS))
    return Belief(
        np.mean([text_BC for text_BC, _, _ in fits], axis=0),
        np.mean([confusion_CC for _, _, confusion_CC in fits], axis=0),
    )


def _fit(
    view_BP: np.ndarray, labels_B: np.ndarray, true_BCS: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Expectation and maximisation from a first guess of each row's class and part of it.

    Returns:
        Probabilities of each class given the text `[B, C]`, of class and part given text and
        label `[B, C, S]`, and of each label given the class `[C, C]`.
    """
    rows, width = view_BP.shape
    classes, parts = true_BCS.shape[1:]
    given_BC = np.eye(classes)[labels_B]
    prior_CC = PRIOR_ROWS * (0.8 * np.eye(classes) + 0.2 / classes)
    spread = float((view_BP**2).sum()) / (rows * width) + 1e-12
    total_PP = view_BP.T @ view_BP
    text_BC, confusion_CC = true_BCS.sum(2), np.eye(classes)
    for _ in range(ROUNDS):
        true_BK = true_BCS.reshape(rows, -1)
        weights_K = true_BK.sum(0) + 1e-6
        means_KP = true_BK.T @ view_BP / weights_K[:, None]
        within_PP = (total_PP - (means_KP.T * weights_K) @ means_KP) / rows
        level = max(float(np.trace(within_PP)) / width, 1e-9 * spread)
        within_PP = (1 - SHRINKAGE) * within_PP + SHRINKAGE * level * np.eye(width)
        directions_PK = np.linalg.solve(within_PP, means_KP.T)
        offsets_K = np.log(weights_K / rows) - 0.5 * (means_KP * directions_PK.T).sum(1)
        confusion_CC = true_BCS.sum(2).T @ given_BC + prior_CC
        confusion_CC /= confusion_CC.sum(1, keepdims=True)
        text_BCS = _softmax(view_BP @ directions_PK + offsets_K).reshape(rows, classes, parts)
        text_BC = text_BCS.sum(2)
        before_BCS = true_BCS
        # A text far outside the classes that its label can come from leaves nothing to divide.
        true_BCS = text_BCS * confusion_CC[:, labels_B].T[:, :, None] + 1e-300
        true_BCS /= true_BCS.sum((1, 2), keepdims=True)
        if np.abs(true_BCS - before_BCS).sum((1, 2)).mean() < CHANGE * classes:
            break
    return text_BC, true_BCS, confusion_CC


def _divided(view_BP: np.ndarray, classes_B: np.ndarray, classes: int, seed: int) -> np.ndarray:
    """A first guess of the part of each class that a row is in, `[B, C, S]`."""
    from sklearn.cluster import KMeans

    found_BCS = np.full((len(view_BP), classes, PARTS), 1 / PARTS)
    leading_BP = view_BP[:, :CUT_COMPONENTS]
    for label in range(classes):
        own = leading_BP[classes_B == label]
        if len(own) >= LEAST_DIVIDED and own.std(0).any():
            cut = KMeans(PARTS, n_init=1, random_state=seed).fit(own)
            near_B = cut.predict(leading_BP)
            found_BCS[:, label] = (1 - CUT_TRUST) / PARTS
            found_BCS[np.arange(len(view_BP)), label, near_B] += CUT_TRUST
    return found_BCS


def _views(
    vectors_BD: np.ndarray, width: int, texts: Sequence[str] | None, seed: int
) -> list[np.ndarray]:
    """The last layer, all layers, the words, and all of these together; each projected."""
    layers_BD = np.array(vectors_BD, dtype=np.float32)
    for first in range(0, layers_BD.shape[1], width):
        layer_BD = layers_BD[:, first : first + width]
        layer_BD /= np.linalg.norm(layer_BD, axis=1, keepdims=True) + 1e-12
        layer_BD -= layer_BD.mean(0)
    found = [_projected(layers_BD[:, -width:], seed)]
    if layers_BD.shape[1] > width:
        found.append(_projected(layers_BD, seed))
    words_BP = None if texts is None else _words(texts, seed)
    if words_BP is not None:
        found.append(_projected(words_BP, seed))
        found.append(_projected(np.hstack([layers_BD, words_BP]), seed))
    return found


def _words(texts: Sequence[str], seed: int) -> np.ndarray | None:
    """Latent semantic vectors of single words and pairs, of length one; None without any."""
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer

    counter = TfidfVectorizer(
        sublinear_tf=True, min_df=2, ngram_range=(1, 2), max_features=TERMS, dtype=np.float32
    )
    try:
        weights = counter.fit_transform(texts)
    except ValueError:
        # No word stands in two texts.
        return None
    sample = _sample(len(texts), seed)
    components = min(COMPONENTS, weights.shape[1] - 1, len(sample) - 1)
    if components < 2:
        return None
    reducer = TruncatedSVD(components, random_state=seed).fit(weights[sample])
    words_BP = np.asarray(reducer.transform(weights), dtype=np.float32)
    return np.asarray(words_BP / (np.linalg.norm(words_BP, axis=1, keepdims=True) + 1e-12))


def _projected(matrix_BD: np.ndarray, seed: int) -> np.ndarray:
    """Leading principal components, found on a sample, `[B, P]` float64."""
    from sklearn.decomposition import PCA

    sample = _sample(len(matrix_BD), seed)
    most = min(COMPONENTS, matrix_BD.shape[1], len(sample) // ROWS_PER_COMPONENT)
    if not matrix_BD[sample].std(0).any():
        return np.zeros((len(matrix_BD), 1))
    reducer = PCA(max(1, most), svd_solver="randomized", random_state=seed)
    reducer.fit(matrix_BD[sample])
    found = [
        reducer.transform(matrix_BD[first : first + CHUNK])
        for first in range(0, len(matrix_BD), CHUNK)
    ]
    view_BP = np.concatenate(found).astype(np.float64)
    return np.asarray(view_BP - view_BP.mean(0))


def _cross_validated(
    view_BP: np.ndarray, classes_B: np.ndarray, classes: int, seed: int
) -> np.ndarray:
    """Probabilities of a linear head, for each row from heads that never saw it, `[B, C]`."""
    from sklearn.linear_model import LogisticRegression

    generator = np.random.default_rng([seed, len(view_BP)])
    fold_B = generator.permutation(len(view_BP)) % FOLDS
    found_BC = np.zeros((len(view_BP), classes))
    for fold in range(FOLDS):
        held = np.flatnonzero(fold_B == fold)
        kept = np.flatnonzero(fold_B != fold)
        kept = np.sort(generator.permutation(kept)[:FITTED_ROWS])
        present = np.unique(classes_B[kept])
        if len(present) == 1:
            found_BC[held, present[0]] = 1
            continue
        head = LogisticRegression(C=1.0, max_iter=300).fit(view_BP[kept], classes_B[kept])
        found_BC[np.ix_(held, head.classes_)] = head.predict_proba(view_BP[held])
    return found_BC


def _sample(rows: int, seed: int) -> np.ndarray:
    if rows <= FITTED_ROWS:
        return np.arange(rows)
    generator = np.random.default_rng([seed, rows])
    return np.sort(generator.choice(rows, FITTED_ROWS, replace=False))


def _softmax(scores_BC: np.ndarray) -> np.ndarray:
    powers_BC = np.exp(scores_BC - scores_BC.max(1, keepdims=True))
    return np.asarray(powers_BC / powers_BC.sum(1, keepdims=True))
