"""The sample data set is what its README says: balanced, varied, and each text there once."""

from __future__ import annotations

import csv
import re
from collections import Counter, defaultdict
from dataclasses import dataclass

import pytest

from conftest import CLASSES, ROOT

FOLDER = ROOT / "examples" / "headlines"
PER_CLASS = {"train.csv": 200, "test.csv": 100}
RUN_OF_WORDS = 6
MOST_TEXTS_WITH_A_RUN = 2

ABBREVIATIONS = re.compile(
    r"\b(?:[A-Z]\.)+(?!$)|\b(?:Mr|Mrs|Ms|Dr|Prof|Gen|Sgt|Lt|Capt|Col|Sen|Rep|Gov|St|Jr|Sr|Inc|Corp|Co|Ltd"
    r"|Bros|No|vs|Ariz|Calif|Colo|Conn|Fla|Ga|Ill|Ind|Kan|Mass|Md|Mich|Minn|Miss|Mo|Neb|Nev|Okla"
    r"|Ont|Ore|Pa|Tenn|Va|Wash|Wis)\.(?!$)"
)
SENTENCE_END = re.compile(r"""[.?!]["')]*(?=\s+["'(]?[A-Z0-9]|$)""")


@dataclass(frozen=True)
class Row:
    """A row of one of the files, and where it stands."""

    place: str
    label: str
    title: str
    description: str

    @property
    def words(self) -> list[str]:
        """Title and description in words, without case and punctuation."""
        return re.findall(r"\w+", f"{self.title} {self.description}".casefold())


def read(name: str) -> list[Row]:
    with (FOLDER / name).open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file, strict=True)
        assert reader.fieldnames == ["label", "title", "description"]
        return [
            Row(f"{name} row {number}", row["label"], row["title"], row["description"])
            for number, row in enumerate(reader, 1)
        ]


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    return [row for name in PER_CLASS for row in read(name)]


@pytest.mark.parametrize("name", PER_CLASS)
def test_every_class_has_its_rows(name):
    counts = Counter(row.label for row in read(name))
    assert set(counts) == set(CLASSES)
    assert min(counts.values()) >= PER_CLASS[name]


def test_the_readme_counts_what_is_there():
    readme = (FOLDER / "README.md").read_text(encoding="utf-8")
    for name in PER_CLASS:
        counts = Counter(row.label for row in read(name))
        cells = [f"`{name}`", str(counts.total()), *(str(counts[label]) for label in CLASSES)]
        assert f"| {' | '.join(cells)} |" in readme


def test_no_text_or_title_stands_twice(rows):
    texts, titles = defaultdict(list), defaultdict(list)
    for row in rows:
        texts[tuple(row.words)].append(row.place)
        titles[tuple(re.findall(r"\w+", row.title.casefold()))].append(row.place)
    assert [places for places in texts.values() if len(places) > 1] == []
    assert [places for places in titles.values() if len(places) > 1] == []


def test_no_run_of_words_stands_in_more_than_two_texts(rows):
    found = defaultdict(set)
    for row in rows:
        words = row.words
        for first in range(len(words) - RUN_OF_WORDS + 1):
            found[" ".join(words[first : first + RUN_OF_WORDS])].add(row.place)
    assert {run: at for run, at in found.items() if len(at) > MOST_TEXTS_WITH_A_RUN} == {}


def test_each_text_is_a_title_and_one_or_two_sentences(rows):
    wrong = []
    for row in rows:
        ends = len(SENTENCE_END.findall(ABBREVIATIONS.sub("X", row.description)))
        sound = (
            20 <= len(row.title) <= 80
            and 80 <= len(row.description) <= 300
            and ends in (1, 2)
            and row.description[-1] in ".?!\"'"
            and (row.title, row.description) == (row.title.strip(), row.description.strip())
        )
        if not sound:
            wrong.append((row.place, ends, row.title, row.description))
    assert wrong == []
