"""Mixtures: shares and probabilities from scores whose truth is known."""

from __future__ import annotations

import numpy as np
import pytest

from budgerigar.audit.mixture import like_share, separate


@pytest.mark.parametrize("like", [0.0, 0.1, 0.5, 0.9, 1.0])
def test_the_share_is_found_where_kinds_stand_apart(like):
    draw = np.random.default_rng(0)
    train = draw.normal(size=4000)
    count = round(4000 * like)
    other = np.concatenate([draw.normal(size=count), draw.normal(4, 1, size=4000 - count)])
    assert like_share(train, other) == pytest.approx(like, abs=0.04)
    mixture = separate(train, other)
    assert mixture.share == pytest.approx(1 - like, abs=0.04)
    if 0 < like < 1:
        assert np.mean((mixture.unlike_B > 0.5) == (np.arange(4000) >= count)) > 0.95


def test_overlapping_kinds_give_a_lower_bound_and_calibrated_probabilities():
    draw = np.random.default_rng(1)
    train = draw.normal(size=8000)
    other = np.concatenate([draw.normal(size=4000), draw.normal(1.5, 1, size=4000)])
    truth = np.arange(8000) >= 4000
    mixture = separate(train, other)
    assert 0.3 < mixture.share < 0.53
    sure = mixture.unlike_B > 0.9
    assert truth[sure].mean() > 0.85
