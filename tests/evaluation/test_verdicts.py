"""Words that follow from numbers."""

from __future__ import annotations

import json
import re
from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from budgerigar.errors import DataError
from budgerigar.evaluation.crossed import NeededSize
from budgerigar.evaluation.statistics import Interval
from budgerigar.evaluation.verdicts import compare
from budgerigar.evaluation.wording import words_of_pair, written_p


@st.composite
def recipes(draw) -> dict[str, np.ndarray]:
    texts = draw(st.integers(1, 25))
    count = draw(st.integers(1, 4))
    return {
        f"recipe-{number}": draw(arrays(bool, (draw(st.integers(1, 4)), texts)))
        for number in range(count)
    }


def recipe(accuracy: float, seeds: int, texts: int = 2_000, number: int = 0) -> np.ndarray:
    """Right on the first texts always, on a band of them by chance: `[S, B]`."""
    random = np.random.default_rng(number)
    sure, band = int((accuracy - 0.02) * texts), int(0.04 * texts)
    right_SB = np.zeros((seeds, texts), dtype=bool)
    right_SB[:, :sure] = True
    right_SB[:, sure : sure + band] = random.random((seeds, band)) < 0.5
    return right_SB


@settings(max_examples=40)
@given(recipes())
def test_words_follow_from_the_numbers(named):
    found = compare(named)
    json.dumps(asdict(found), allow_nan=False)
    assert [one.name for one in found.recipes] == list(named)
    assert len(found.pairs) == len(named) * (len(named) - 1) // 2
    for pair in found.pairs:
        out = pair.interval.low > 0 or pair.interval.high < 0
        assert (pair.better is not None) == (pair.p_holm < 0.05) == out
        assert pair.p <= pair.p_holm <= 1
        assert pair.interval.low <= pair.points <= pair.interval.high
        assert ("no difference shown" in pair.words) == (pair.better is None)
        assert "nan" not in pair.words
        assert "inf" not in pair.words
        shown = re.search(r"interval (-?[\d.]+) to (-?[\d.]+)\)", pair.words)
        assert shown
        low, high = float(shown[1]), float(shown[2])
        if pair.better:
            assert low > 0
            best = pair.points > 0
            assert pair.better == (pair.first if best else pair.second)
        else:
            assert low <= 0 <= high


@settings(max_examples=20)
@given(recipes(), st.permutations(range(4)))
def test_the_order_of_recipes_changes_no_verdict(named, order):
    names = [f"recipe-{number}" for number in order if number < len(named)]
    shuffled = compare({name: named[name] for name in names})
    verdict = {frozenset((pair.first, pair.second)): pair for pair in shuffled.pairs}
    for pair in compare(named).pairs:
        other = verdict[frozenset((pair.first, pair.second))]
        assert other.better == pair.better
        assert other.p_holm == pytest.approx(pair.p_holm)
        assert other.confidence == pytest.approx(pair.confidence)


def test_a_better_recipe():
    named = {"plain": recipe(0.90, 5, number=1), "good": recipe(0.93, 5, number=2)}
    (pair,) = compare(named).pairs
    assert (pair.better, pair.speaks_of, pair.confidence) == ("good", "recipes", 0.95)
    assert pair.points < 0
    assert re.fullmatch(
        r"good is better than plain \(p < 0\.001, \+[23]\.\d points, "
        r"95 % interval [12]\.\d to [34]\.\d\)",
        pair.words,
    )


def test_no_difference_names_the_size_that_would_show_one():
    named = {"one": recipe(0.9, 3, 400, 1), "other": recipe(0.9, 3, 400, 2)}
    (pair,) = compare(named).pairs
    assert pair.better is None
    assert pair.words.startswith("no difference shown between one and other (p = ")
    assert "; to see one of 0.5 points would take about " in pair.words
    assert pair.needed.points == 0.5


def test_one_seed_a_side_speaks_of_models():
    named = {"plain": recipe(0.90, 1, number=1), "good": recipe(0.93, 1, number=2)}
    comparison = compare(named)
    (pair,) = comparison.pairs
    assert (pair.speaks_of, pair.test, pair.freedom) == ("models", "McNemar, exact", None)
    assert pair.words.startswith("the one model of good is better than the one model of plain (")
    assert pair.words.endswith("speaks of the two models and cannot speak of the recipes")
    assert pair.needed.seeds is None
    assert [one.speaks_of for one in comparison.recipes] == ["model", "model"]
    assert comparison.recipes[0].standard_deviation is None


def test_one_seed_on_one_side_speaks_of_that_model():
    named = {"plain": recipe(0.90, 4, number=1), "good": recipe(0.93, 1, number=2)}
    (pair,) = compare(named).pairs
    assert (pair.speaks_of, pair.test) == ("model and recipe", "seeds and texts")
    assert pair.words.startswith("the one model of good is better than plain (")
    assert pair.words.endswith("speaks of that model and cannot speak of the recipe good")


def test_several_pairs_say_how_they_were_corrected():
    named = {
        "a": recipe(0.90, 5, number=1),
        "b": recipe(0.93, 5, number=2),
        "c": recipe(0.90, 5, number=3),
    }
    pairs = compare(named).pairs
    assert all("after Holm's correction for 3 pairs" in pair.words for pair in pairs)
    assert pairs[0].p_holm > pairs[0].p
    assert sorted(pair.confidence for pair in pairs) == pytest.approx(
        [0.95, 1 - 0.05 / 2, 1 - 0.05 / 3]
    )
    assert "98.3 % interval" in " ".join(pair.words for pair in pairs)


def test_a_summary():
    right_SB = np.array([[1, 1, 1, 0], [1, 1, 0, 0], [1, 1, 1, 1]], dtype=bool)
    (found,) = compare({"one": right_SB}).recipes
    assert found.accuracies == (0.75, 0.5, 1.0)
    assert (found.mean, found.standard_deviation) == (0.75, 0.25)
    assert (found.worst, found.worst_seed) == (0.5, 1)
    assert found.interval.low < 0.75 < found.interval.high


def test_how_often_models_of_a_pair_differ():
    a = np.array([[1, 1, 0, 0]], dtype=bool)
    b = np.array([[1, 0, 0, 0], [0, 0, 0, 0]], dtype=bool)
    (pair,) = compare({"a": a, "b": b}).pairs
    assert pair.differ == pytest.approx((1 / 4 + 2 / 4) / 2)


@pytest.mark.parametrize(
    ("named", "words"),
    [
        ({}, "nothing to compare"),
        ({"a": np.ones((2, 0))}, "a has nothing to compare: 2 seeds with 0 predictions each"),
        ({"a": np.ones((0, 9))}, "a has nothing to compare: 0 seeds with 9 predictions each"),
        ({"a": np.ones((2, 9)), "b": np.ones((2, 8))}, "different texts: a on 9, b on 8"),
    ],
)
def test_what_cannot_be_compared_is_said(named, words):
    with pytest.raises(DataError, match=words):
        compare(named)


def test_p_values_stay_on_their_side():
    assert written_p(0.0000004) == "p < 0.001"
    assert written_p(0.0312) == "p = 0.031"
    assert written_p(0.04999) == "p = 0.04999"
    assert written_p(0.0500001) == "p = 0.05"
    assert written_p(1.0) == "p = 1"


def worded(needed: NeededSize, seeds: tuple[int, int] = (5, 5), low: float = -0.3) -> str:
    interval = Interval(low, 0.5)
    return words_of_pair(("A", "B"), seeds, 0.1, interval, 0.95, 0.412, 1, needed, None)


@pytest.mark.parametrize(
    ("needed", "words"),
    [
        (NeededSize(0.5, False, 20_817, 12, None),
         "to see one of 0.5 points would take about 21,000 texts or 12 seeds a side"),
        (NeededSize(0.5, False, None, 12, None),
         "to see one of 0.5 points would take about 12 seeds a side; "
         "more texts alone would not do"),
        (NeededSize(0.5, False, 990, None, None),
         "to see one of 0.5 points would take about 990 texts; more seeds alone would not do"),
        (NeededSize(1, False, None, None, (9, 4_321)),
         "to see one of 1 points would take about 9 seeds a side with 4,400 texts; "
         "neither more texts nor more seeds alone would do"),
        (NeededSize(0.5, True, 500, 3, None),
         "one of 0.5 points would have been seen four times out of five"),
    ],
)  # fmt: skip
def test_what_it_would_take(needed, words):
    numbers = "(p = 0.41, +0.1 points, 95 % interval -0.3 to 0.5)"
    assert worded(needed) == f"no difference shown between A and B {numbers}; {words}"


def test_limits_near_zero_keep_their_side():
    assert "95 % interval -0.004 to 0.500" in worded(NeededSize(0.5, True, 9, 9, None), low=-0.004)
    assert "12 seeds of B" in worded(NeededSize(0.5, False, None, 12, None), (1, 5))
