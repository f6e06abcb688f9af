"""Kinds of texts for people: words, parts, differences."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from budgerigar.audit.populations import clusters, differences, marking_words
from budgerigar.audit.shift import Shift
from budgerigar.evaluation.statistics import Interval
from budgerigar.evaluation.two_samples import TwoSamples


def test_words_that_mark_a_kind_are_its_own_and_no_chance():
    here = Counter({"the": 500, "robot": 60, "rare": 2})
    there = Counter({"the": 500, "goal": 60, "rare": 1})
    assert marking_words(here, there) == ["robot"]
    assert marking_words(here, here) == []


def test_parts_of_a_kind_are_guessed_from_vectors():
    draw = np.random.default_rng(0)
    unlike_B = np.repeat([False, True], [40, 100])
    vectors = draw.normal(scale=0.1, size=(140, 20))
    vectors[40:80, 0] += 3
    vectors[80:, 1] += 3
    texts = ["plain words"] * 40 + ["river bank"] * 40 + ["stock market"] * 60
    test = TwoSamples(0.9, Interval(0.8, 1.0), 0.0)
    scores = np.arange(140.0)
    shift = Shift(test, unlike_B, unlike_B.astype(float), scores, 0.7, 1.0, (40, 140), 1)
    unlike, like = clusters(shift, ["plain words"] * 50, texts, vectors, seed=0)
    assert (unlike["group"], like["group"]) == ("unlike", "like")
    assert [part["texts"] for part in unlike["parts"]] == [60, 40]
    assert unlike["parts"][0]["rows"] == list(range(80, 140))
    assert set(unlike["parts"][0]["words"]) == {"stock", "market"}
    assert "parts" not in like


def test_differences_are_largest_first_and_finite_where_nothing_varies():
    train = ["Plain words here is."] * 20
    other = ["Plain words here is."] * 10 + ["Plain wörds hére ïs."] * 10
    found = differences(train, other, np.repeat([False, True], 10))
    distances = [abs(one["distance"]) for one in found]
    assert distances == sorted(distances, reverse=True)
    beyond = next(one for one in found if one["measure"] == "characters beyond ASCII")
    assert beyond["train"] == beyond["like"] == 0
    assert beyond["unlike"] == pytest.approx(3)
    assert beyond["distance"] == 10
    assert np.isfinite(distances).all()
