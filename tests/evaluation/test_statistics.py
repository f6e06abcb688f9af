"""Tests of models and of recipes: against scipy, by property, and by simulation."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from budgerigar.evaluation.crossed import (
    Chance,
    Side,
    chance,
    mean_interval,
    needed_size,
    needed_texts,
    side,
)
from budgerigar.evaluation.statistics import LEVEL, compare_models, holm, wilson_interval

VARIANCE = 0.4 / (2.2 * 3.2)
"""Of a prediction, mean over the texts of `simulated`: p (1 - p) of a beta(2, 0.2)."""


def right(seeds: int, texts: int, draw: st.DrawFn) -> np.ndarray:
    return draw(arrays(bool, (seeds, texts)))


@st.composite
def two_sides(draw, fewest_seeds: int = 1) -> tuple[np.ndarray, np.ndarray]:
    texts = draw(st.integers(1, 30))
    seeds = st.integers(fewest_seeds, 5)
    return right(draw(seeds), texts, draw), right(draw(seeds), texts, draw)


def simulated(
    random: np.random.Generator,
    spread: float,
    difference: float = 0.0,
    seeds: int = 5,
    texts: int = 1_000,
) -> tuple[np.ndarray, np.ndarray]:
    """Two recipes over texts of unlike difficulty, `[S, B]` each; shares, not points."""
    chance_B = random.beta(2.0, 0.2, texts)
    moves_B = chance_B * (1 - chance_B) / VARIANCE
    sides = []
    for sign in (1, -1):
        shift_S1 = random.normal(sign * difference / 2, spread, (seeds, 1))
        sides.append(random.random((seeds, texts)) < chance_B + shift_S1 * moves_B)
    return sides[0], sides[1]


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60))
def test_mcnemar_is_a_binomial_test_of_the_texts_on_which_models_differ(answers):
    a, b = (np.array(column) for column in zip(*answers, strict=True))
    test = compare_models(a, b)
    only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
    expected = stats.binomtest(only_a, only_a + only_b).pvalue if only_a + only_b else 1.0
    assert test.p == pytest.approx(expected)
    assert test.difference == pytest.approx(a.mean() - b.mean())


@given(two_sides(), st.sampled_from([0.9, 0.95, 0.99]))
def test_an_interval_leaves_out_zero_exactly_where_p_is_small(sides, confidence):
    a, b = sides
    for test in (compare_models(a[0], b[0]), chance(a, b).test()):
        interval = test.interval(confidence)
        assert 0 <= test.p <= 1
        assert -1 <= interval.low <= test.difference <= interval.high <= 1
        if abs(test.p - (1 - confidence)) > 1e-9:
            assert (test.p < 1 - confidence) == (interval.low > 0 or interval.high < 0)


@given(two_sides())
def test_swapping_sides_negates(sides):
    a, b = sides
    for one, other in (
        (compare_models(a[0], b[0]), compare_models(b[0], a[0])),
        (chance(a, b).test(), chance(b, a).test()),
    ):
        assert one.p == pytest.approx(other.p)
        assert one.difference == pytest.approx(-other.difference)
        assert one.interval().low == pytest.approx(-other.interval().high)
        assert one.interval().high == pytest.approx(-other.interval().low)


@given(two_sides(), st.randoms(use_true_random=False))
def test_the_order_of_texts_changes_nothing(sides, random):
    a, b = sides
    order = list(range(a.shape[1]))
    random.shuffle(order)
    assert chance(a[:, order], b[:, order]) == chance(a, b)
    assert compare_models(a[0][order], b[0][order]) == compare_models(a[0], b[0])
    assert mean_interval(a[:, order]) == mean_interval(a)


@given(two_sides())
def test_one_recipe_is_not_better_than_itself(sides):
    a, _ = sides
    assert chance(a, a).test().p == 1
    assert compare_models(a[0], a[0]).p == 1


@given(two_sides())
def test_the_interval_of_a_mean_contains_it(sides):
    a, _ = sides
    interval = mean_interval(a)
    assert 0 <= interval.low <= a.mean() <= interval.high <= 1
    wilson = wilson_interval(int(a[0].sum()), a.shape[1])
    assert mean_interval(a[:1]) == wilson


def test_one_text_shows_nothing_about_texts():
    all_right, all_wrong = np.ones((5, 1), dtype=bool), np.zeros((5, 1), dtype=bool)
    test = chance(all_right, all_wrong).test()
    assert (test.difference, test.p) == (1.0, 1.0)
    assert (test.interval().low, test.interval().high) == (-1.0, 1.0)


def test_agreement_on_few_texts_is_no_proof():
    few, many = 4, 200
    all_right, all_wrong = np.ones((3, many), dtype=bool), np.zeros((3, many), dtype=bool)
    assert chance(all_right[:, :few], all_wrong[:, :few]).test().p > LEVEL
    assert chance(all_right, all_wrong).test().p < 1e-6
    # All seeds of both sides stand still; the texts still count.
    same = chance(all_right, all_right).test().interval()
    assert 0 < same.high < 3.7 / many


def test_the_interval_beside_mcnemar_covers():
    random = np.random.default_rng(0)
    for share_a, share_b, texts in ((0.03, 0.02, 400), (0.2, 0.0, 60), (0.01, 0.01, 100)):
        outcomes = random.multinomial(texts, [share_a, share_b, 1 - share_a - share_b], 120)
        covered = 0
        for only_a, only_b, _ in outcomes:
            a, b = np.zeros((2, texts), dtype=bool)
            a[:only_a] = True
            b[only_a : only_a + only_b] = True
            interval = compare_models(a, b).interval()
            covered += interval.low <= share_a - share_b <= interval.high
        assert stats.binomtest(covered, 120, 0.95, alternative="less").pvalue > 0.01


def test_variances_of_a_case_worked_by_hand():
    found = side(np.array([[1, 1, 1, 0], [1, 1, 0, 0]], dtype=bool))
    # Accuracies 3/4 and 1/2; two-way analysis of variance: residual 1/24 of 3 * 1 cells.
    assert found.observed == pytest.approx(1 / 32)
    assert found.residual == pytest.approx(1 / 8)
    assert found.own == pytest.approx(0)


@settings(max_examples=30)
@given(st.integers(2, 6), st.integers(2, 20), st.integers(0, 2**32))
def test_variances_are_those_of_a_two_way_analysis(seeds, texts, number):
    values = np.random.default_rng(number).random((seeds, texts)) < 0.7
    centred = values - values.mean(axis=1, keepdims=True) - values.mean(axis=0) + values.mean()
    residual = (centred**2).sum() / ((seeds - 1) * (texts - 1))
    found = side(values)
    assert found.residual == pytest.approx(residual, abs=1e-12)
    assert found.own == pytest.approx(
        max(values.mean(axis=1).var(ddof=1) - residual / texts, 0), abs=1e-12
    )


@pytest.mark.parametrize("spread", [0.0, 0.02])
def test_equal_recipes_are_rarely_called_different(spread):
    random = np.random.default_rng(1)
    comparisons = 400
    pairs = [simulated(random, spread) for _ in range(comparisons)]
    called = sum(chance(a, b).test().p < LEVEL for a, b in pairs)
    assert stats.binomtest(called, comparisons, LEVEL, alternative="greater").pvalue > 0.01
    # A test over texts alone, on the same comparisons: the reason why seeds must count.
    if spread:
        over_texts = [
            stats.ttest_1samp(a.mean(axis=0) - b.mean(axis=0), 0).pvalue for a, b in pairs
        ]
        assert np.mean(np.array(over_texts) < LEVEL) > 0.3


def test_texts_count_too():
    """Recipes of equal accuracy that differ on which texts they get right, their seeds alike."""
    random = np.random.default_rng(2)
    called = seeds_alone = 0
    for _ in range(300):
        a, b = random.random((2, 5, 400)) < random.beta(2.0, 0.2, (2, 1, 400))
        called += chance(a, b).test().p < LEVEL
        seeds_alone += stats.ttest_ind(a.mean(axis=1), b.mean(axis=1)).pvalue < LEVEL
    assert stats.binomtest(called, 300, LEVEL, alternative="greater").pvalue > 0.01
    assert seeds_alone > 0.15 * 300


def test_a_model_against_a_recipe_counts_the_recipes_seeds():
    random = np.random.default_rng(3)
    called = 0
    for _ in range(300):
        _, b = simulated(random, 0.02)
        model, _ = simulated(random, 0.0, seeds=1)
        called += chance(model, b).test().p < LEVEL
    assert stats.binomtest(called, 300, LEVEL, alternative="greater").pvalue > 0.01


def known(own: float, texts: int, seeds: int = 5) -> Chance:
    """Two equal recipes of `simulated`, as exactly known variances would describe them."""
    one = Side(seeds, 0.909, own + VARIANCE / texts, VARIANCE, own)
    return Chance(one, one, texts, 2 * VARIANCE / seeds / texts)


def test_more_seeds_see_what_was_said_they_would():
    random = np.random.default_rng(4)
    needed = needed_size(known(0.01**2, 2_000), 1.5)
    assert not needed.enough
    assert needed.seeds is not None
    seen = sum(
        chance(*simulated(random, 0.01, 0.015, needed.seeds, 2_000)).test().p < LEVEL
        for _ in range(300)
    )
    assert 0.72 < seen / 300 < 0.9


def test_more_texts_see_what_was_said_they_would():
    random = np.random.default_rng(8)
    needed = needed_size(known(0.0, 300, seeds=10), 1.5)
    assert not needed.enough
    assert needed.texts is not None
    seen = sum(
        chance(*simulated(random, 0.0, 0.015, 10, needed.texts)).test().p < LEVEL
        for _ in range(300)
    )
    assert 0.7 < seen / 300 < 0.9


def test_no_number_of_texts_makes_up_for_seeds_nor_seeds_for_texts():
    random = np.random.default_rng(5)
    restless = needed_size(chance(*simulated(random, 0.02, seeds=3, texts=5_000)), 0.5)
    assert restless.texts is None
    assert restless.seeds is not None
    a, b = random.random((2, 5, 400)) < random.beta(2.0, 0.2, (2, 1, 400))
    few_texts = needed_size(chance(a, b), 0.5)
    assert few_texts.seeds is None
    both = needed_size(chance(*simulated(random, 0.03, seeds=3, texts=200)), 0.2)
    assert (both.texts, both.seeds) == (None, None)
    assert both.seeds_with_texts is not None
    seeds, texts = both.seeds_with_texts
    assert seeds > 3
    assert texts > 200


def test_a_larger_difference_needs_less():
    found = known(0.001**2, 2_000, seeds=10)
    small, large = needed_size(found, 0.5), needed_size(found, 3.0)
    assert (small.enough, large.enough) == (False, True)
    assert large.texts < small.texts
    strict = needed_size(found, 3.0, LEVEL / 10)
    assert strict.texts > large.texts


def test_texts_that_mcnemar_needs():
    random = np.random.default_rng(7)
    share_a, share_b = 0.04, 0.02
    needed = needed_texts(600, 10_000, 2.0)
    assert not needed_texts(60, 1_000, 2.0).enough
    assert needed.enough
    seen = 0
    for _ in range(400):
        shares = [share_a, share_b, 1 - share_a - share_b]
        only_a, only_b, _ = random.multinomial(needed.texts, shares)
        seen += stats.binomtest(only_a, only_a + only_b).pvalue < LEVEL
    assert 0.7 < seen / 400 < 0.88


@settings(max_examples=30)
@given(st.lists(st.floats(1e-6, 1.0), max_size=8))
def test_holm_against_its_definition(p):
    found = holm(p)
    running, expected = 0.0, {}
    for step, value in enumerate(sorted(p)):
        running = max(running, min(1.0, value * (len(p) - step)))
        expected.setdefault(value, running)
    assert found.p == pytest.approx([expected[value] for value in p])
    for value, adjusted, level in zip(p, found.p, found.levels, strict=True):
        assert LEVEL / len(p) <= level * (1 + 1e-9) <= LEVEL * (1 + 2e-9)
        if abs(value - level) > 1e-12:
            assert (value < level) == (adjusted < LEVEL)
