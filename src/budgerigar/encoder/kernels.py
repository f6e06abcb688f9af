"""Kernels in Triton for packed texts on a GPU; `fused` and `device_shares` start them.

Each does in one pass over memory what would be several operations of torch. Sums are float32;
factors of products have the number type of the tensors, and FACTORS says to what those of float32
are rounded (`tf32`: to 10 bits). Tensors are contiguous unless a step between rows is given; `to_x`
is the gradient of x, of its shape. `drawn` are random bytes, one for each value that may be
dropped, and those below `dropped` drop it. `ends` says where texts, or runs, end, after a 0.

Shape letters: T rows, D width, H heads, K width of a head, B texts, E features a token, N runs,
R rank, I inputs, O outputs.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def add_norm_forward(
    hidden, change, drawn, dropped, scale, weight, bias, result, narrowed, rows, width, epsilon,
    DRAWS: tl.constexpr, SCALES: tl.constexpr, NARROWS: tl.constexpr, ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """Some rows: result = norm(hidden + scale * keep * change), all `[T, D]`, and the same in the
    number type of products; `scale` is a number or `[T]`."""
    column, place, inside = _whole_rows(rows, width, ROWS, BLOCK)
    factor = _factor(drawn, dropped, scale, rows, place, inside, DRAWS, SCALES, ROWS)
    normed, _ = _normed(hidden, change, factor, place, inside, width, epsilon)
    normed *= tl.load(weight + column, column < width, 0.0)[None, :]
    normed += tl.load(bias + column, column < width, 0.0)[None, :]
    tl.store(result + place, normed, inside)
    if NARROWS:
        tl.store(narrowed + place, normed.to(narrowed.dtype.element_ty), inside)


@triton.jit
def add_norm_backward(
    to_result, to_narrowed, hidden, change, drawn, dropped, scale, weight, to_hidden, to_change,
    rows, width, epsilon, DRAWS: tl.constexpr, SCALES: tl.constexpr, RESULT: tl.constexpr,
    NARROWS: tl.constexpr, HIDDEN: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The gradients of some rows' hidden and change; the norm is computed anew."""
    column, place, inside = _whole_rows(rows, width, ROWS, BLOCK)
    factor = _factor(drawn, dropped, scale, rows, place, inside, DRAWS, SCALES, ROWS)
    normed, deviation = _normed(hidden, change, factor, place, inside, width, epsilon)
    gradient = tl.zeros((ROWS, BLOCK), tl.float32)
    if RESULT:
        gradient += tl.load(to_result + place, inside, 0.0)
    if NARROWS:
        gradient += tl.load(to_narrowed + place, inside, 0.0).to(tl.float32)
    gradient *= tl.load(weight + column, column < width, 0.0)[None, :]
    along = tl.sum(gradient * normed, 1)[:, None] / width
    mean = tl.sum(gradient, 1)[:, None] / width
    gradient = (gradient - mean - normed * along) / deviation
    if HIDDEN:
        tl.store(to_hidden + place, gradient, inside)
    tl.store(to_change + place, (gradient * factor).to(to_change.dtype.element_ty), inside)


@triton.jit
def _whole_rows(rows, width, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    """Columns, and for some whole rows each value's place and whether there is one."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, BLOCK)
    inside = (row < rows)[:, None] & (column < width)[None, :]
    return column, row[:, None] * width + column[None, :], inside


@triton.jit
def _factor(
    drawn, dropped, scale, rows, place, inside, DRAWS: tl.constexpr, SCALES: tl.constexpr,
    ROWS: tl.constexpr,
):  # fmt: skip
    """By which each value of a change is multiplied: 0 where it is dropped."""
    factor = scale
    if SCALES:
        row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
        factor = tl.load(scale + row, row < rows, 0.0)[:, None]
    if DRAWS:
        factor = tl.where(tl.load(drawn + place, inside, 0) >= dropped, factor, 0.0)
    return factor


@triton.jit
def _normed(hidden, change, factor, place, inside, width, epsilon):
    """hidden + factor * change without its mean, divided by its deviation; and that."""
    added = tl.load(hidden + place, inside, 0.0)
    added += factor * tl.load(change + place, inside, 0.0).to(tl.float32)
    centred = tl.where(inside, added - tl.sum(added, 1)[:, None] / width, 0.0)
    deviation = tl.sqrt(tl.sum(centred * centred, 1)[:, None] / width + epsilon)
    return centred / deviation, deviation


@triton.jit
def attend_forward(
    qkv, context, spread, ends, width, scale,
    K: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK: tl.constexpr, FACTORS: tl.constexpr,
):  # fmt: skip
    """A head's attention within a text for a block of queries, keys block by block (Dao et al.
    2022, arXiv:2205.14135, algorithm 1): `qkv` `[T, 3 * D]` to `context` `[T, D]`; `spread` takes
    the logarithm of each sum of exponentials, `[T, H]`."""
    head, heads, own = tl.program_id(1), tl.num_programs(1), tl.program_id(2) * BLOCK
    start, length = _text(ends)
    if own >= length:
        return
    own += tl.arange(0, BLOCK)
    column = tl.arange(0, BLOCK_K)
    at = head * K + column
    query = _tile(qkv, start, own, length, 3 * width, at, column, K)
    top = tl.full((BLOCK,), float("-inf"), tl.float32)
    total = tl.zeros((BLOCK,), tl.float32)
    mixed = tl.zeros((BLOCK, BLOCK_K), tl.float32)
    for first in range(0, length, BLOCK):
        seen = first + tl.arange(0, BLOCK)
        key = _tile(qkv, start, seen, length, 3 * width, width + at, column, K)
        value = _tile(qkv, start, seen, length, 3 * width, 2 * width + at, column, K)
        scores = _product(query, tl.trans(key), FACTORS) * scale
        scores = tl.where((seen < length)[None, :], scores, float("-inf"))
        higher = tl.maximum(top, tl.max(scores, 1))
        weights = tl.exp(scores - higher[:, None])
        shrink = tl.exp(top - higher)
        total = total * shrink + tl.sum(weights, 1)
        mixed = mixed * shrink[:, None] + _product(weights.to(value.dtype), value, FACTORS)
        top = higher
    _put(context, mixed / total[:, None], start, own, length, width, at, column, K)
    tl.store(spread + (start + own) * heads + head, top + tl.log(total), own < length)


@triton.jit
def attend_backward(
    to_context, qkv, context, spread, ends, to_qkv, width, scale,
    K: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK: tl.constexpr, FACTORS: tl.constexpr,
):  # fmt: skip
    """The gradients of a block of a head's queries, and of keys and values, within a text."""
    head, heads, block = tl.program_id(1), tl.num_programs(1), tl.program_id(2) * BLOCK
    start, length = _text(ends)
    if block >= length:
        return
    own = block + tl.arange(0, BLOCK)
    column = tl.arange(0, BLOCK_K)
    at = head * K + column
    spread += start * heads + head
    key = _tile(qkv, start, own, length, 3 * width, width + at, column, K)
    value = _tile(qkv, start, own, length, 3 * width, 2 * width + at, column, K)
    to_query = tl.zeros((BLOCK, BLOCK_K), tl.float32)
    to_key = tl.zeros((BLOCK, BLOCK_K), tl.float32)
    to_value = tl.zeros((BLOCK, BLOCK_K), tl.float32)
    for first in range(0, length, BLOCK):
        other = first + tl.arange(0, BLOCK)
        query = _tile(qkv, start, other, length, 3 * width, at, column, K)
        toward = _tile(to_context, start, other, length, width, at, column, K)
        mixed = _tile(context, start, other, length, width, at, column, K)
        weights, to_scores = _scores_backward(
            query, key, value, toward, mixed, spread, other, own, length, heads, scale, FACTORS
        )
        to_value += _product(tl.trans(weights.to(toward.dtype)), toward, FACTORS)
        to_key += _product(tl.trans(to_scores.to(query.dtype)), query, FACTORS)
        if length <= BLOCK:
            to_query = _product(to_scores.to(key.dtype), key, FACTORS)
    _put(to_qkv, to_key, start, own, length, 3 * width, width + at, column, K)
    _put(to_qkv, to_value, start, own, length, 3 * width, 2 * width + at, column, K)
    if length > BLOCK:
        query = _tile(qkv, start, own, length, 3 * width, at, column, K)
        toward = _tile(to_context, start, own, length, width, at, column, K)
        mixed = _tile(context, start, own, length, width, at, column, K)
        for first in range(0, length, BLOCK):
            other = first + tl.arange(0, BLOCK)
            key = _tile(qkv, start, other, length, 3 * width, width + at, column, K)
            value = _tile(qkv, start, other, length, 3 * width, 2 * width + at, column, K)
            _, to_scores = _scores_backward(
                query, key, value, toward, mixed, spread, own, other, length, heads, scale, FACTORS
            )
            to_query += _product(to_scores.to(key.dtype), key, FACTORS)
    _put(to_qkv, to_query, start, own, length, 3 * width, at, column, K)


@triton.jit
def _text(ends):
    """Where a program's text starts, and how many tokens it has."""
    start = tl.load(ends + tl.program_id(0)).to(tl.int64)
    return start, (tl.load(ends + tl.program_id(0) + 1) - start).to(tl.int32)


@triton.jit
def _scores_backward(
    query, key, value, toward, mixed, spread, own, seen, length, heads, scale,
    FACTORS: tl.constexpr,
):  # fmt: skip
    """Weights of a block of queries and keys, and the gradient of their products."""
    both = (own < length)[:, None] & (seen < length)[None, :]
    log_total = tl.load(spread + own * heads, own < length, 0.0)
    scores = _product(query, tl.trans(key), FACTORS) * scale - log_total[:, None]
    weights = tl.where(both, tl.exp(scores), 0.0)
    along = tl.sum(toward.to(tl.float32) * mixed.to(tl.float32), 1)
    to_weights = _product(toward, tl.trans(value), FACTORS) - along[:, None]
    return weights, tl.where(both, weights * to_weights * scale, 0.0)


@triton.jit
def _product(left, right, FACTORS: tl.constexpr):
    return tl.dot(left, right, input_precision=FACTORS)


@triton.jit
def _tile(x, start, row, length, stride, at, column, K: tl.constexpr):
    """Some rows of a text, some columns of them; zero outside."""
    inside = (row < length)[:, None] & (column < K)[None, :]
    return tl.load(x + (start + row)[:, None] * stride + at[None, :], inside, 0.0)


@triton.jit
def _put(x, tile, start, row, length, stride, at, column, K: tl.constexpr):
    inside = (row < length)[:, None] & (column < K)[None, :]
    place = x + (start + row)[:, None] * stride + at[None, :]
    tl.store(place, tile.to(x.dtype.element_ty), inside)


@triton.jit
def first_scores(
    features, queries, scores, ends, heads, width,
    HEADS: tl.constexpr, BLOCK: tl.constexpr, CHUNK: tl.constexpr, FACTORS: tl.constexpr,
):  # fmt: skip
    """Products of a block of a text's features, `[T, E]`, and the text's queries, `[B, H, E]`:
    `[T, H]`."""
    row = tl.program_id(1) * BLOCK
    start, length = _text(ends)
    if row >= length:
        return
    row += tl.arange(0, BLOCK)
    head = tl.arange(0, HEADS)
    found = tl.zeros((BLOCK, HEADS), tl.float32)
    for first in range(0, width, CHUNK):
        column = first + tl.arange(0, CHUNK)
        own = _features(features, start, row, length, width, column)
        found += _product(own, tl.trans(_of_text(queries, head, heads, width, column)), FACTORS)
    _put_scores(scores, found, start, row, length, head, heads)


@triton.jit
def first_softmax(
    scores, ends, heads, scale, HEADS: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """A text's scores become its tokens' weights, `[T, H]`, in place."""
    start, length = _text(ends)
    head = tl.arange(0, HEADS)
    top = tl.full((HEADS,), float("-inf"), tl.float32)
    total = tl.zeros((HEADS,), tl.float32)
    for first in range(0, length, BLOCK):
        row = first + tl.arange(0, BLOCK)
        found = _scores(scores, start, row, length, head, heads) * scale
        found = tl.where((row < length)[:, None], found, float("-inf"))
        higher = tl.maximum(top, tl.max(found, 0))
        total = total * tl.exp(top - higher) + tl.sum(tl.exp(found - higher[None, :]), 0)
        top = higher
    for first in range(0, length, BLOCK):
        row = first + tl.arange(0, BLOCK)
        found = _scores(scores, start, row, length, head, heads) * scale
        weights = tl.exp(found - top[None, :]) / total[None, :]
        _put_scores(scores, weights, start, row, length, head, heads)


@triton.jit
def first_softmax_backward(
    to_weights, weights, ends, heads, scale, HEADS: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """The gradients of a text's weights become those of its scores, `[T, H]`, in place."""
    start, length = _text(ends)
    head = tl.arange(0, HEADS)
    along = tl.zeros((HEADS,), tl.float32)
    for first in range(0, length, BLOCK):
        row = first + tl.arange(0, BLOCK)
        own = _scores(weights, start, row, length, head, heads)
        along += tl.sum(own * _scores(to_weights, start, row, length, head, heads), 0)
    for first in range(0, length, BLOCK):
        row = first + tl.arange(0, BLOCK)
        own = _scores(weights, start, row, length, head, heads) * scale
        toward = _scores(to_weights, start, row, length, head, heads) - along[None, :]
        _put_scores(to_weights, own * toward, start, row, length, head, heads)


@triton.jit
def first_forward(
    features, weights, mixed, ends, heads, width,
    HEADS: tl.constexpr, BLOCK: tl.constexpr, CHUNK: tl.constexpr, FACTORS: tl.constexpr,
):  # fmt: skip
    """The weighted mean of a text's features, some of them, for each head: `[B, H, E]`."""
    column = tl.program_id(1) * CHUNK + tl.arange(0, CHUNK)
    start, length = _text(ends)
    head = tl.arange(0, HEADS)
    found = tl.zeros((HEADS, CHUNK), tl.float32)
    for first in range(0, length, BLOCK):
        row = first + tl.arange(0, BLOCK)
        own = _features(features, start, row, length, width, column)
        weighed = _scores(weights, start, row, length, head, heads)
        found += _product(tl.trans(weighed), own, FACTORS)
    _put_of_text(mixed, found, head, heads, width, column)


@triton.jit
def first_backward(
    to_mixed, features, queries, weights, to_scores, ends, to_features, to_queries, heads, width,
    FEATURES: tl.constexpr, HEADS: tl.constexpr, BLOCK: tl.constexpr, CHUNK: tl.constexpr,
    FACTORS: tl.constexpr,
):  # fmt: skip
    """The gradients of some features of a text's tokens, and of its queries there."""
    column = tl.program_id(1) * CHUNK + tl.arange(0, CHUNK)
    start, length = _text(ends)
    head = tl.arange(0, HEADS)
    asked = _of_text(queries, head, heads, width, column)
    toward = _of_text(to_mixed, head, heads, width, column)
    to_asked = tl.zeros((HEADS, CHUNK), tl.float32)
    for first in range(0, length, BLOCK):
        row = first + tl.arange(0, BLOCK)
        own = _features(features, start, row, length, width, column)
        to_own_scores = _scores(to_scores, start, row, length, head, heads)
        to_asked += _product(tl.trans(to_own_scores), own, FACTORS)
        if FEATURES:
            weighed = _scores(weights, start, row, length, head, heads)
            to_own = _product(weighed, toward, FACTORS) + _product(to_own_scores, asked, FACTORS)
            inside = (row < length)[:, None] & (column < width)[None, :]
            tl.store(to_features + (start + row)[:, None] * width + column[None, :], to_own, inside)
    _put_of_text(to_queries, to_asked, head, heads, width, column)


@triton.jit
def _scores(scores, start, row, length, head, heads):
    inside = (row < length)[:, None] & (head < heads)[None, :]
    return tl.load(scores + (start + row)[:, None] * heads + head[None, :], inside, 0.0)


@triton.jit
def _features(features, start, row, length, width, column):
    inside = (row < length)[:, None] & (column < width)[None, :]
    return tl.load(features + (start + row)[:, None] * width + column[None, :], inside, 0.0)


@triton.jit
def _put_scores(scores, found, start, row, length, head, heads):
    inside = (row < length)[:, None] & (head < heads)[None, :]
    tl.store(scores + (start + row)[:, None] * heads + head[None, :], found, inside)


@triton.jit
def _of_text(queries, head, heads, width, column):
    """Some columns of what a program's text has for each head; zero outside."""
    inside = (head < heads)[:, None] & (column < width)[None, :]
    row = tl.program_id(0).to(tl.int64) * heads + head
    return tl.load(queries + row[:, None] * width + column[None, :], inside, 0.0)


@triton.jit
def _put_of_text(mixed, found, head, heads, width, column):
    inside = (head < heads)[:, None] & (column < width)[None, :]
    row = tl.program_id(0).to(tl.int64) * heads + head
    tl.store(mixed + row[:, None] * width + column[None, :], found, inside)


@triton.jit
def down(
    x, drawn, dropped, weight, low, tiles, first_run, runs, inputs, rank, x_row, run_step,
    rank_step, step,
    DRAWS: tl.constexpr, RANK: tl.constexpr, BLOCK: tl.constexpr, CHUNK: tl.constexpr,
    FACTORS: tl.constexpr,
):  # fmt: skip
    """A tile of rows of one run: low = (keep * x) W^T, `[T, I]` to `[T, R]` with a weight
    `[N, R, I]` of any strides; `tiles` holds run, first row and end of each."""
    run, row, inside_T = _rows_of(tiles, first_run, BLOCK)
    if (run < 0) | (run >= runs):
        return
    own = tl.arange(0, RANK)
    found = tl.zeros((BLOCK, RANK), tl.float32)
    for first in range(0, inputs, CHUNK):
        column = first + tl.arange(0, CHUNK)
        given = _kept(x, drawn, dropped, row, inside_T, column, inputs, x_row, DRAWS)
        factor = _factors(weight, run, own, rank, column, inputs, run_step, rank_step, step)
        found += _product(given, tl.trans(factor), FACTORS)
    inside = inside_T[:, None] & (own < rank)[None, :]
    tl.store(low + row[:, None] * rank + own[None, :], found.to(low.dtype.element_ty), inside)


@triton.jit
def up(
    low, weight, drawn, dropped, into, tiles, first_run, runs, outputs, rank, into_row, run_step,
    rank_step, step,
    DRAWS: tl.constexpr, RANK: tl.constexpr, BLOCK: tl.constexpr, CHUNK: tl.constexpr,
    FACTORS: tl.constexpr,
):  # fmt: skip
    """A tile of rows of one run, some columns: into += keep * (low W), `[T, R]` to `[T, O]`."""
    run, row, inside_T = _rows_of(tiles, first_run, BLOCK)
    if (run < 0) | (run >= runs):
        return
    own = tl.arange(0, RANK)
    column = tl.program_id(1) * CHUNK + tl.arange(0, CHUNK)
    inside = inside_T[:, None] & (own < rank)[None, :]
    given = tl.load(low + row[:, None] * rank + own[None, :], inside, 0.0)
    factor = _factors(weight, run, own, rank, column, outputs, run_step, rank_step, step)
    change = _product(given, factor, FACTORS)
    inside = inside_T[:, None] & (column < outputs)[None, :]
    if DRAWS:
        kept = tl.load(drawn + row[:, None] * outputs + column[None, :], inside, 0) >= dropped
        change = tl.where(kept, change, 0.0)
    place = into + row[:, None] * into_row + column[None, :]
    before = tl.load(place, inside, 0.0).to(tl.float32)
    tl.store(place, (before + change).to(into.dtype.element_ty), inside)


@triton.jit
def outer(
    low, x, drawn, dropped, gradient, ends, first_run, inputs, rank, x_row,
    DRAWS: tl.constexpr, RANK: tl.constexpr, BLOCK: tl.constexpr, CHUNK: tl.constexpr,
    FACTORS: tl.constexpr,
):  # fmt: skip
    """Some columns of one run's low^T (keep * x), over all of its rows, `[N, R, I]`."""
    run = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * CHUNK + tl.arange(0, CHUNK)
    own = tl.arange(0, RANK)
    start, stop = tl.load(ends + first_run + run), tl.load(ends + first_run + run + 1)
    found = tl.zeros((RANK, CHUNK), tl.float32)
    for first in range(start, stop, BLOCK):
        row = (first + tl.arange(0, BLOCK)).to(tl.int64)
        inside_T = row < stop
        inside = inside_T[:, None] & (own < rank)[None, :]
        short = tl.load(low + row[:, None] * rank + own[None, :], inside, 0.0)
        given = _kept(x, drawn, dropped, row, inside_T, column, inputs, x_row, DRAWS)
        found += _product(tl.trans(short), given, FACTORS)
    inside = (own < rank)[:, None] & (column < inputs)[None, :]
    place = (run * rank + own)[:, None] * inputs + column[None, :]
    tl.store(gradient + place, found, inside)


@triton.jit
def _rows_of(tiles, first_run, BLOCK: tl.constexpr):
    """The run that a tile belongs to, its rows, and which of them there are."""
    tile = tiles + 3 * tl.program_id(0)
    run, start, stop = tl.load(tile), tl.load(tile + 1), tl.load(tile + 2)
    row = (start + tl.arange(0, BLOCK)).to(tl.int64)
    return (run - first_run).to(tl.int64), row, row < stop


@triton.jit
def _kept(x, drawn, dropped, row, inside_T, column, inputs, x_row, DRAWS: tl.constexpr):
    inside = inside_T[:, None] & (column < inputs)[None, :]
    given = tl.load(x + row[:, None] * x_row + column[None, :], inside, 0.0)
    if DRAWS:
        kept = tl.load(drawn + row[:, None] * inputs + column[None, :], inside, 0) >= dropped
        given = tl.where(kept, given, tl.zeros_like(given))
    return given


@triton.jit
def _factors(weight, run, own, rank, column, columns, run_step, rank_step, step):
    """A run's half of an update, some columns, `[RANK, CHUNK]`."""
    inside = (own < rank)[:, None] & (column < columns)[None, :]
    place = run * run_step + own[:, None] * rank_step + column[None, :] * step
    return tl.load(weight + place, inside, 0.0)
