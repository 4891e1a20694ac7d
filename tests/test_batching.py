"""Sequences in rows and in batches of like lengths: nothing is lost, nothing leaks, and shapes are few."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import recurrax as rx
from recurrax.testing import assert_close, perturbed_params


def sequences(lengths: list[int]) -> list[dict]:
    draw = np.random.default_rng(0)
    return [{"x": draw.normal(size=(n, 3)).astype(np.float32), "y": draw.integers(9, size=n)} for n in lengths]


@given(st.lists(st.integers(0, 7), min_size=1, max_size=12), st.integers(0, 3))
def test_what_is_packed_comes_back(lengths: list[int], more: int) -> None:
    packed = rx.data.pack(given := sequences(lengths), 7)
    R = len(packed.segment_ids)
    for again, was in zip(rx.data.unpack(packed.xs, packed), given, strict=True):
        np.testing.assert_array_equal(again["x"], was["x"])
        np.testing.assert_array_equal(again["y"], was["y"])
    assert packed.mask.sum() == sum(lengths)
    assert packed.reset.sum() == sum(n > 0 for n in lengths)
    flags = rx.segment_ids_to_reset(jnp.asarray(packed.segment_ids))
    np.testing.assert_array_equal(packed.reset, flags)
    assert not packed.xs["x"][~packed.mask].any()
    if R > 1:  # First fit: no two rows would have fitted into one.
        assert sum(sorted(packed.mask.sum(1))[:2]) > 7
    assert rx.data.pack(given, 7, rows=R + more).xs["x"].shape == (R + more, 7, 3)


@pytest.mark.thorough
def test_packed_sequences_do_not_meet() -> None:
    layer, given = rx.Bidirectional(rx.LSTMCell(4)), sequences([3, 5, 0, 2, 6, 1])
    params, packed = perturbed_params(layer, 3), rx.data.pack(given, 7)
    _, ys = rx.scan(layer, params, packed.xs["x"], mask=packed.mask, reset=packed.reset)
    for got, alone in zip(rx.data.unpack(ys, packed), given, strict=True):
        assert_close("alone", got, rx.scan(layer, params, alone["x"])[1], 1e-6)


def test_batches_compile_once_for_each_length() -> None:
    lengths = [3, 9, 1, 16, 4, 4, 8, 2, 0, 5, 12]
    cell, given, traces = rx.GRUCell(4), sequences(lengths), []
    params, seen = perturbed_params(cell, 3), {}

    @jax.jit
    def run(xs: jax.Array, lengths: jax.Array) -> jax.Array:
        traces.append(xs.shape)
        return rx.scan(cell, params, xs, lengths=lengths)[0].h

    for batch in rx.data.batch_by_length(iter(given), (16, 4, 8), batch_size=2):
        assert batch.lengths.dtype == np.int32
        hs = run(batch.xs["x"], batch.lengths)
        seen |= {index: h for index, h in zip(batch.indices.tolist(), hs, strict=True) if index >= 0}
        assert not np.asarray(hs)[batch.indices < 0].any()
    assert sorted(traces) == [(2, 4, 3), (2, 8, 3), (2, 16, 3)]
    assert sorted(seen) == list(range(len(lengths)))
    for index, h in seen.items():
        assert_close("alone", h, rx.scan(cell, params, given[index]["x"])[0].h, 1e-6)


def test_what_is_refused() -> None:
    three = np.ones((3, 2))
    with pytest.raises(ValueError, match=r"`row_length` must be at least .*; got 2, and `sequences\[1\]` has 3"):
        rx.data.pack([np.ones((1, 2)), three], 2)
    with pytest.raises(ValueError, match=r"`rows` must be at least 2, which 3 sequences need; got 1"):
        rx.data.pack([three] * 3, 6, rows=1)
    with pytest.raises(ValueError, match="at least 1 sequence; got none"):
        rx.data.pack([], 6)
    with pytest.raises(ValueError, match=r"`sequences\[0\]` must be \[T, ...\], .*; got float64\[3, 2\], float64\[2\]"):
        rx.data.pack([{"a": three, "b": np.ones(2)}], 6)
    with pytest.raises(ValueError, match=r"`ys` must be \[1, 6, ...\], as the rows are; got float64\[6, 1\]"):
        rx.data.unpack(np.ones((6, 1)), rx.data.pack([three], 6))
    with pytest.raises(ValueError, match="the greatest is 2, and sequence 0 has 3"):
        list(rx.data.batch_by_length([three], (1, 2), 4))
    with pytest.raises(ValueError, match="`lengths` must hold at least 1"):
        list(rx.data.batch_by_length([three], (), 4))
