"""Where the texts of a batch stand."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from budgerigar.encoder import frozen

LENGTHS = st.lists(st.integers(1, 70), min_size=1, max_size=12)


@given(
    runs=st.lists(LENGTHS, min_size=1, max_size=4),
    multiple=st.sampled_from([1, 8, 32]),
    seed=st.integers(0, 2**32 - 1),
)
def test_each_run_has_whole_rows_of_its_own_and_its_texts_in_order(runs, multiple, seed):
    lengths = np.array([length for own in runs for length in own])
    numbers = np.random.default_rng(seed).permutation(len(lengths))
    ends = np.cumsum([len(own) for own in runs])[:-1]
    batch = frozen.pack(np.split(numbers, ends), lengths, multiple)
    first = row = 0
    for texts, rows, (same, filled) in zip(
        batch.texts, batch.rows, batch.texts_rows(), strict=True
    ):
        own = lengths[texts]
        assert same is texts
        assert rows.start == filled.start == row
        assert filled.stop == row + own.sum()
        assert rows.stop - filled.stop < multiple
        assert (rows.stop - rows.start) % multiple == 0
        last = first + len(texts)
        assert batch.lengths_B[first:last].tolist() == own.tolist()
        assert batch.starts_B[first:last].tolist() == (row + np.cumsum(own) - own).tolist()
        first, row = last, rows.stop
    assert batch.all_rows == row
