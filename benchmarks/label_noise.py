"""How well suspected wrong labels are found: precision, recall and F1 beside other methods.

    python benchmarks/label_noise.py --clean train.csv [--labels given.csv --gold gold.csv]
        [--json FILE]

Plants wrong labels in clean rows, several ways and at several rates, and lets every method
look for them; with `--labels` and `--gold` it scores them on a file whose wrong labels are
known. Rows of `--labels` take no part in planting. Every method sees the texts, their labels
as given and a frozen encoder, nothing else.
"""

from __future__ import annotations

import argparse
import csv
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from cleanlab.filter import find_label_issues
from sklearn.cluster import KMeans
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_predict
from sklearn.neighbors import NearestNeighbors

from budgerigar.audit import labels as audit
from budgerigar.audit.vectors import DEMO_MODEL, TextEncoder
from budgerigar.data.texts import Texts
from budgerigar.files import write_json

NEIGHBOURS = 30
DROPS = 5
TOPICS = 60


@dataclass(frozen=True)
class Case:
    """Texts, their labels as given, which of them are wrong, and what the encoder makes of them."""

    name: str
    texts: list[str]
    given_B: np.ndarray
    wrong_B: np.ndarray
    vectors_BD: np.ndarray
    width: int

    @property
    def sentence_BD(self) -> np.ndarray:
        """The last layer's vectors, of length one: what a sentence encoder gives."""
        last_BD = self.vectors_BD[:, -self.width :]
        return last_BD / np.linalg.norm(last_BD, axis=1, keepdims=True)


def main() -> None:
    """Scores every method on every case, prints a table, writes the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clean", required=True, help="a CSV of text,label with right labels")
    parser.add_argument("--labels", help="a CSV of text,label with wrong ones among them")
    parser.add_argument("--gold", help="a CSV of row,gold for it")
    parser.add_argument("--rows", type=int, default=5_000, help="clean rows of a case")
    parser.add_argument("--seeds", type=int, default=2, help="draws of each way of planting")
    parser.add_argument("--model", default=DEMO_MODEL)
    parser.add_argument("--only-gold", action="store_true", help="plant nothing")
    parser.add_argument("--json", type=Path, help="write the figures here")
    asked = parser.parse_args()
    encoder = TextEncoder(asked.model)
    figures = []
    human = read(asked.labels) if asked.labels else ([], np.empty(0, np.int64))
    if not asked.only_gold:
        taken = {letters(text) for text in human[0]}
        texts, truth_B = read(asked.clean)
        free = np.array([row for row, text in enumerate(texts) if letters(text) not in taken])
        texts, truth_B = [texts[row] for row in free], truth_B[free]
        vectors_BD, width = encoded(encoder, texts)
        planter = Planter(texts, truth_B, vectors_BD, width)
        figures.extend(score(case) for case in planter.cases(asked.rows, asked.seeds))
    if asked.gold:
        texts, given_B = human
        with Path(asked.gold).open(newline="", encoding="utf-8") as file:
            gold = {int(row["row"]): int(row["gold"]) for row in csv.DictReader(file)}
        wrong_B = np.array([gold[row] for row in range(len(texts))]) != given_B
        vectors_BD, width = encoded(encoder, texts)
        figures.append(score(Case("human labels", texts, given_B, wrong_B, vectors_BD, width)))
    if asked.json:
        write_json(asked.json, {"cases": figures})


def score(case: Case) -> dict[str, object]:
    """Runs every method on a case and prints its line."""
    found: dict[str, object] = {
        "case": case.name,
        "rows": len(case.texts),
        "wrong": float(case.wrong_B.mean()),
    }
    print(f"\n{case.name}: {len(case.texts):,} rows, {case.wrong_B.mean():.1%} wrong")
    print(f"{'method':28}{'flagged':>9}{'precision':>11}{'recall':>8}{'F1':>7}{'CPU s':>8}")
    for name, method in METHODS.items():
        start = time.process_time()
        flagged_B = method(case)
        seconds = time.process_time() - start
        hits = np.count_nonzero(flagged_B & case.wrong_B)
        precision = hits / max(1, flagged_B.sum())
        recall = hits / max(1, case.wrong_B.sum())
        f1 = 2 * hits / max(1, flagged_B.sum() + case.wrong_B.sum())
        found[name] = {
            "flagged": int(flagged_B.sum()),
            "precision": precision,
            "recall": recall,
            "f1": f1,
            "cpu_seconds": seconds,
        }
        print(
            f"{name:28}{flagged_B.mean():9.1%}{precision:11.3f}{recall:8.3f}{f1:7.3f}{seconds:8.1f}",
            flush=True,
        )
    return found


def budgerigar(case: Case) -> np.ndarray:
    """What `budgie inspect` flags."""
    classes = int(case.given_B.max()) + 1
    suspicion = audit.suspects(case.vectors_BD, case.width, case.given_B, classes, texts=case.texts)
    flagged_B = np.zeros(len(case.texts), bool)
    flagged_B[suspicion.rows] = True
    return flagged_B


def cleanlab_words(case: Case) -> np.ndarray:
    """cleanlab's filter on TF-IDF with logistic regression."""
    words = TfidfVectorizer(sublinear_tf=True, min_df=2, ngram_range=(1, 2))
    return cleanlab(words.fit_transform(case.texts), case.given_B)


def cleanlab_vectors(case: Case) -> np.ndarray:
    """cleanlab's filter on sentence vectors with logistic regression."""
    return cleanlab(case.sentence_BD, case.given_B)


def cleanlab(matrix: np.ndarray, given_B: np.ndarray) -> np.ndarray:
    """cleanlab's own choice of rows, from cross-validated probabilities."""
    return find_label_issues(given_B, cross_validated(matrix, given_B), n_jobs=1)


def disagreement(case: Case) -> np.ndarray:
    """Rows where a cross-validated head disagrees."""
    return cross_validated(case.sentence_BD, case.given_B).argmax(1) != case.given_B


def neighbours(case: Case) -> np.ndarray:
    """Rows where most neighbours have another label."""
    vectors_BD, given_B = case.sentence_BD, case.given_B
    search = NearestNeighbors(n_neighbors=NEIGHBOURS + 1).fit(vectors_BD)
    near = search.kneighbors(vectors_BD, return_distance=False)[:, 1:]
    votes_BC = np.stack([(given_B[near] == c).sum(1) for c in range(given_B.max() + 1)], axis=1)
    return votes_BC.argmax(1) != given_B


def iterated_dropping(case: Case) -> np.ndarray:
    """Rows that a head trained on the rows it agreed with before disagrees with."""
    vectors_BD, given_B = case.sentence_BD, case.given_B
    kept_B = np.ones(len(given_B), bool)
    for number in range(DROPS):
        fold_B = np.random.default_rng(number).permutation(len(given_B)) % 5
        predicted_B = given_B.copy()
        for fold in range(5):
            trained = (fold_B != fold) & kept_B
            head = LogisticRegression(C=1.0, max_iter=300)
            head.fit(vectors_BD[trained], given_B[trained])
            predicted_B[fold_B == fold] = head.predict(vectors_BD[fold_B == fold])
        kept_B = predicted_B == given_B
    return ~kept_B


METHODS: dict[str, Callable[[Case], np.ndarray]] = {
    "budgerigar": budgerigar,
    "cleanlab, words": cleanlab_words,
    "cleanlab, sentence vectors": cleanlab_vectors,
    "plain disagreement": disagreement,
    "nearest neighbours": neighbours,
    "iterated dropping": iterated_dropping,
}


class Planter:
    """Puts wrong labels into clean rows, as people would and as chance would.

    What makes a text easily mistaken comes from heads trained on other clean rows; they are
    used for planting only.
    """

    def __init__(
        self, texts: list[str], truth_B: np.ndarray, vectors_BD: np.ndarray, width: int
    ) -> None:
        self.texts, self.truth_B = texts, truth_B
        self.vectors_BD, self.width = vectors_BD, width
        words = TfidfVectorizer(sublinear_tf=True, min_df=2).fit_transform(texts)
        layer_BD = vectors_BD[:, -2 * width : -width]
        layer_BD = layer_BD / np.linalg.norm(layer_BD, axis=1, keepdims=True)
        self.by_layer_BC = cross_validated(layer_BD, truth_B, 2.0)
        both_BC = np.sqrt(self.by_layer_BC * cross_validated(words, truth_B, 2.0))
        self.by_both_BC = both_BC / both_BC.sum(1, keepdims=True)
        reduced = TruncatedSVD(100, random_state=0).fit_transform(words)
        reduced /= np.linalg.norm(reduced, axis=1, keepdims=True) + 1e-12
        self.topic_B = KMeans(TOPICS, n_init=1, random_state=0).fit_predict(reduced)

    def cases(self, rows: int, seeds: int) -> list[Case]:
        """Every way of planting at its rates, and the clean rows as they are."""
        ways = {
            "concept": (self.concept, (0.05, 0.1, 0.2, 0.35)),
            "ambiguous": (self.ambiguous, (0.05, 0.2, 0.4)),
            "topics": (self.topics, (0.2,)),
            "uniform": (self.uniform, (0.2,)),
        }
        planted = [
            self._case(f"{name} {rate:.0%} {seed}", way, rate, rows, seed)
            for name, (way, rates) in ways.items()
            for rate in rates
            for seed in range(seeds if rate == 0.2 else 1)
        ]
        clean = self._case("clean", lambda at, rate, draws: self.truth_B[at], 0, rows, 0)
        return [*planted, clean]

    def concept(self, at: np.ndarray, rate: float, draws: np.random.Generator) -> np.ndarray:
        """An annotator with a notion of the classes of their own: wider here, narrower there,
        shifted in some topics, and held to nearly without exception."""
        classes = self.truth_B.max() + 1
        scores_BC = 0.6 * np.log(self.by_layer_BC[at] + 1e-4)
        scores_BC += np.linspace(0.6, -0.5, classes)
        scores_BC += draws.normal(size=(TOPICS, classes))[self.topic_B[at]]
        scores_BC += 0.2 * draws.gumbel(size=scores_BC.shape)
        truth_B, rows = self.truth_B[at], np.arange(len(at))

        def labels(bonus: float) -> np.ndarray:
            raised_BC = scores_BC.copy()
            raised_BC[rows, truth_B] += bonus
            return raised_BC.argmax(1)

        low, high = 0.0, 30.0
        for _ in range(40):
            middle = (low + high) / 2
            low, high = (
                (middle, high) if (labels(middle) != truth_B).mean() > rate else (low, middle)
            )
        return labels(high)

    def ambiguous(self, at: np.ndarray, rate: float, draws: np.random.Generator) -> np.ndarray:
        """The likelier another class, the likelier it is given, each text by chance."""
        return self._drawn(self.by_both_BC[at] ** 0.7, at, rate, draws)

    def topics(self, at: np.ndarray, rate: float, draws: np.random.Generator) -> np.ndarray:
        """Some topics are taken for another class as a whole."""
        classes = int(self.truth_B.max()) + 1
        mistaken = draws.random((TOPICS, classes)) < 0.3
        weights_BC = np.full((len(at), classes), 0.05)
        targets = draws.integers(classes, size=(TOPICS, classes))
        topic_B, truth_B = self.topic_B[at], self.truth_B[at]
        hit = np.flatnonzero(mistaken[topic_B, truth_B])
        weights_BC[hit, targets[topic_B[hit], truth_B[hit]]] += 0.6
        return self._drawn(weights_BC, at, rate, draws)

    def uniform(self, at: np.ndarray, rate: float, draws: np.random.Generator) -> np.ndarray:
        """Carelessness: any text, any other class."""
        return self._drawn(np.ones((len(at), self.truth_B.max() + 1)), at, rate, draws)

    def _drawn(
        self, weights_BC: np.ndarray, at: np.ndarray, rate: float, draws: np.random.Generator
    ) -> np.ndarray:
        """Labels with chances in proportion to weights, scaled to the rate."""
        truth_B, rows = self.truth_B[at], np.arange(len(at))
        weights_BC = weights_BC.copy()
        weights_BC[rows, truth_B] = 0
        total_B = weights_BC.sum(1)
        low, high = 0.0, 1e6
        for _ in range(80):
            middle = (low + high) / 2
            enough = np.minimum(0.95, middle * total_B).mean() > rate
            low, high = (low, middle) if enough else (middle, high)
        changed = draws.random(len(at)) < np.minimum(0.95, high * total_B)
        steps_BC = np.cumsum(weights_BC / (total_B[:, None] + 1e-12), axis=1)
        other_B = (draws.random(len(at))[:, None] > steps_BC).sum(1).clip(0, steps_BC.shape[1] - 1)
        return np.where(changed & (total_B > 0), other_B, truth_B)

    def _case(
        self,
        name: str,
        way: Callable[[np.ndarray, float, np.random.Generator], np.ndarray],
        rate: float,
        rows: int,
        seed: int,
    ) -> Case:
        draws = np.random.default_rng([seed, round(rate * 100), len(name)])
        at = np.sort(draws.permutation(len(self.texts))[:rows])
        given_B = way(at, rate, draws)
        texts = [self.texts[row] for row in at]
        wrong_B = given_B != self.truth_B[at]
        return Case(name, texts, given_B, wrong_B, self.vectors_BD[at], self.width)


def cross_validated(matrix: np.ndarray, labels_B: np.ndarray, strength: float = 1.0) -> np.ndarray:
    """Probabilities of a linear head that never saw the row, `[B, C]`."""
    head = LogisticRegression(C=strength, max_iter=300)
    return cross_val_predict(head, matrix, labels_B, cv=5, method="predict_proba")


def encoded(encoder: TextEncoder, texts: list[str]) -> tuple[np.ndarray, int]:
    """Vectors of the layers that the audit wants, and the width of one."""
    depth = int(encoder.checkpoint.config()["num_hidden_layers"])
    wanted = audit.layers(depth)
    source = Texts(pa.chunked_array([pa.array(texts, pa.large_string())]))
    vectors_BD = encoder.encode(source, "texts", wanted).vectors_BD
    return vectors_BD, vectors_BD.shape[1] // len(wanted)


def read(path: str) -> tuple[list[str], np.ndarray]:
    """Texts and labels of a CSV."""
    with Path(path).open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return [row["text"] for row in rows], np.array([int(row["label"]) for row in rows])


def letters(text: str) -> str:
    """A text's letters and digits, by which equal texts are known."""
    return "".join(filter(str.isalnum, text.casefold()))


if __name__ == "__main__":
    main()
