"""Duplicates, near ones, contradictions and leaks: planted ones are found, with their rows."""

from __future__ import annotations

import re

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from budgerigar.audit import duplicates
from budgerigar.data import near_duplicates, split
from budgerigar.data.texts import Texts

LONG = "the parrots of the northern park were counted again this week by forty helpers who "
LONG += "walked every path twice and wrote down each bird that they saw in the old trees"
OTHER = "a small bank in the harbour town lends boats instead of money and takes fish as interest"


def texts_of(strings: list[str]) -> Texts:
    return Texts(pa.chunked_array([pa.array(strings, pa.large_string())]))


def by_code(findings):
    return {one.code: one for one in findings}


def jaccard(first: str, second: str) -> float:
    def runs(text: str) -> set[tuple[str, ...]]:
        words = re.findall(r"\w+", text.casefold()) or [text.casefold()]
        return {tuple(words[at : at + 5]) for at in range(max(1, len(words) - 4))}

    one, other = runs(first), runs(second)
    return len(one & other) / len(one | other)


def test_copies_are_counted_with_their_first_row():
    found = by_code(
        duplicates.findings(texts_of(["Oil  rises", "b", "oil rises", "OIL RISES ", "c"]), None)
    )
    assert found["duplicate"].rows == (2, 3)
    assert found["duplicate"].examples[0].about == "same as row 0"
    assert set(found) == {"duplicate"}


def test_labels_that_contradict_each_other_are_an_error():
    texts = texts_of(["same text", "b", "Same text", "c", "c"])
    found = by_code(
        duplicates.findings(texts, np.array([0, 1, 1, 0, 0]), classes=["World", "Sports"])
    )
    contradiction = found["duplicate-different-label"]
    assert contradiction.severity == "error"
    assert contradiction.rows == (0, 2)
    assert contradiction.count == 1
    assert contradiction.examples[1].about == "labelled Sports; row 0 has the same text"
    assert found["duplicate"].rows == (2, 4)


def test_near_duplicates_are_found_and_their_labels_compared():
    changed = LONG + " today"
    texts = texts_of([OTHER, LONG, "short", changed, "short one"])
    found = by_code(duplicates.findings(texts, np.array([0, 0, 1, 1, 0])))
    near = found["near-duplicate"]
    assert near.rows == (3,)
    assert near.details["pairs"] == [[1, 3]]
    assert near.examples[0].about == f"{jaccard(LONG, changed):.0%} like row 1"
    assert found["near-duplicate-different-label"].rows == (1, 3)
    same = by_code(duplicates.findings(texts, np.zeros(5, int)))
    assert "near-duplicate-different-label" not in same


def test_leaks_name_rows_of_the_other_file():
    train = texts_of([OTHER, LONG, "x"])
    other = texts_of(["new", LONG.upper(), f"{OTHER} now", "also new", f"{OTHER} now"])
    found = by_code(duplicates.findings(train, None, {"against": other}))
    leak, near = found["leak"], found["near-leak"]
    assert (leak.severity, leak.file, leak.rows) == ("error", "against", (1,))
    assert leak.details["train_rows"] == [1]
    assert leak.examples[0].about == "same as training row 1"
    assert (near.file, near.rows) == ("against", (2, 4))
    assert near.details["train_rows"] == [0]
    # What the other file repeats is its own matter.
    assert set(found) == {"leak", "near-leak"}


few = st.lists(st.text("abAB ", max_size=2), min_size=1, max_size=20)


@settings(max_examples=100)
@given(few, few, few)
def test_leaks_are_what_a_plain_search_finds(train, test, unlabelled):
    def normal(text: str) -> str:
        return " ".join(text.casefold().split())

    files = {"train": train, "test": test, "unlabelled": unlabelled}
    others = {name: texts_of(files[name]) for name in ("test", "unlabelled")}
    found = {
        (one.details["known"], one.file): (one.rows, one.details[f"{one.details['known']}_rows"])
        for one in duplicates.findings(texts_of(train), None, others)
        if one.code == "leak"
    }
    for known, other in (("train", "test"), ("train", "unlabelled"), ("test", "unlabelled")):
        stand, come = ({normal(text) for text in files[name]} for name in (known, other))
        rows = tuple(row for row, text in enumerate(files[other]) if normal(text) in stand)
        known_rows = [row for row, text in enumerate(files[known]) if normal(text) in come]
        assert found.get((known, other), ((), [])) == (rows, known_rows)


def test_rows_in_use_are_named_as_their_file_numbers_them():
    """Near leaks too, where their text first comes up in a third file, and copies with them."""
    file = texts_of(["y", LONG, "a", "A", "b", OTHER, "a", "c"])
    train, validation = file.select(np.array([2, 3, 6, 7])), file.select(np.array([0, 1]))
    test = texts_of(["new", f"{LONG} now", OTHER])
    unlabelled = texts_of(["x", "c", f"{LONG} now", LONG])
    found = duplicates.findings(
        train,
        np.array([0, 1, 0, 0]),
        {"validation": validation, "test": test, "unlabelled": unlabelled},
    )
    copies = by_code(found)["duplicate"]
    assert (copies.rows, copies.details["first_rows"]) == ((3, 6), [2, 2])
    assert copies.examples[0].about == "same as row 2"
    assert by_code(found)["duplicate-different-label"].rows == (2, 3, 6)
    assert {
        (one.code, one.details["known"], one.file): (one.rows, one.examples[0].about)
        for one in found
        if "known" in one.details
    } == {
        ("leak", "train", "unlabelled"): ((1,), "same as training row 7"),
        ("near-leak", "validation", "test"): ((1,), "96% like validation row 1"),
        ("leak", "validation", "unlabelled"): ((3,), "same as validation row 1"),
        ("near-leak", "validation", "unlabelled"): ((2,), "96% like validation row 1"),
        ("leak", "test", "unlabelled"): ((2,), "same as test row 1"),
        ("near-leak", "test", "unlabelled"): ((3,), "96% like test row 1"),
    }


def test_a_clean_file_gives_no_finding():
    train = texts_of([f"{LONG} {n} {OTHER[n:]} {n * 7}" for n in range(3)])
    assert duplicates.findings(train, np.arange(3), {"against": texts_of(["new"])}) == []
    assert duplicates.findings(texts_of(["..."]), None) == []


words = st.lists(st.sampled_from("a b c d e f g".split()), min_size=1, max_size=14).map(" ".join)


@settings(max_examples=300)
@given(st.lists(words, min_size=2, max_size=25))
def test_no_pair_is_invented_and_each_has_its_exact_similarity(strings):
    texts = texts_of(strings)
    exact = split.duplicate_groups(texts)
    near = near_duplicates.pairs(texts, exact)
    for first, second, index in zip(near.first, near.second, near.similarity, strict=True):
        assert first < second
        assert index == pytest.approx(jaccard(strings[first], strings[second]))
        assert index >= near_duplicates.SIMILAR
        assert exact[first] != exact[second]


def perturbed(generator: np.random.Generator, count: int) -> list[str]:
    """Random texts, and after each a copy with a word appended, replaced or dropped."""
    vocabulary = np.array([f"w{n}" for n in range(5_000)])
    found = []
    for _ in range(count):
        own = generator.choice(vocabulary, generator.integers(25, 60)).tolist()
        found.append(" ".join(own))
        at = int(generator.integers(len(own)))
        copies = [[*own, "more"], [*own[:at], "other", *own[at + 1 :]], own[1:]]
        found.append(" ".join(copies[generator.integers(3)]))
    return found


def test_nearly_all_pairs_above_the_threshold_are_found():
    strings = perturbed(np.random.default_rng(0), 1_500)
    texts = texts_of(strings)
    near = near_duplicates.pairs(texts, split.duplicate_groups(texts))
    found = set(zip(near.first.tolist(), near.second.tolist(), strict=True))
    wanted = {
        (row, row + 1)
        for row in range(0, len(strings), 2)
        if jaccard(strings[row], strings[row + 1]) >= near_duplicates.SIMILAR
    }
    assert len(wanted) > 800
    assert found <= wanted
    assert len(wanted - found) <= 0.005 * len(wanted)


def test_thousands_of_variants_of_one_text_form_one_group():
    strings = [f"{LONG} {OTHER} number {n}" for n in range(3_000)]
    texts = texts_of(strings)
    assert len(set(duplicates.groups(texts).joined_B.tolist())) == 1


def test_near_duplicates_stay_on_one_side_of_a_split():
    strings = perturbed(np.random.default_rng(1), 100)
    texts = texts_of(strings)
    joined = duplicates.groups(texts).joined_B
    assert len(set(joined.tolist())) < 170
    for seed in range(5):
        kept, held = split.stratified(np.arange(200) // 2 % 2, texts, 0.3, seed)
        assert not set(joined[kept].tolist()) & set(joined[held].tolist())
