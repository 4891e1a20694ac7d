"""Perturbed parameters, noise, the expected results of `scan`, and comparisons of pytrees."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from recurrax._layer import Layer, Params, State
from recurrax._mask import where


def perturbed_params(layer: Layer, input_size: int, seed: int = 0, scale: float = 0.1) -> Params:
    """The parameters of `init` plus noise: biases of zero would hide mistakes.

    Args:
        layer: the layer.
        input_size: the number of features of its inputs.
        seed: the seed of both the parameters and the noise.
        scale: the standard deviation of the noise.

    Returns:
        A pytree like the result of `layer.init`.

    Example:
        >>> import recurrax
        >>> from recurrax.testing import perturbed_params
        >>> bool((perturbed_params(recurrax.GRUCell(4), 3).bias != 0).all())
        True
    """
    params = jax.jit(lambda: layer.init(jax.random.key(seed), input_size))()
    noise = normal_like(params, seed)
    return jax.tree.map(lambda p, n: p + scale * n, params, noise)


def normal_like(like: Any, seed: int) -> Any:
    """Standard normal noise in the structure, shapes and dtypes of a pytree.

    Complex leaves get noise in both parts.

    Args:
        like: a pytree of arrays, or of `jax.ShapeDtypeStruct`.
        seed: the seed of the noise.

    Returns:
        A pytree like `like`.

    Example:
        >>> import jax.numpy as jnp
        >>> from recurrax.testing import normal_like
        >>> normal_like({"x": jnp.zeros((2, 3))}, seed=0)["x"].shape
        (2, 3)
    """
    rng = np.random.default_rng(seed)

    def draw(leaf: Any) -> jax.Array:
        drawn = rng.standard_normal(leaf.shape)
        if jnp.issubdtype(leaf.dtype, jnp.complexfloating):
            drawn = drawn + 1j * rng.standard_normal(leaf.shape)
        return jnp.asarray(drawn, leaf.dtype)

    return jax.tree.map(draw, like)


def run_segments_apart(
    run: Callable,
    initial: State,
    params: Params,
    xs: jax.Array,
    state: State,
    mask: Any,
    reset: Any,
    reverse: bool,
) -> tuple[State, jax.Array]:
    """The meaning of `mask`, `reset` and `reverse`: each segment of each row is run alone.

    Args:
        run: `run(params, xs, state, reverse=...)`, on `xs` `[N, T, I]`: N segments of one length.
        initial: the initial state of one row.
        params: the parameters.
        xs: `[B, T, I]`.
        state: the state of each row before its first step.
        mask: concrete `bool[B, T]`.
        reset: concrete `bool[B, T]`.
        reverse: the direction of the context.

    Returns:
        The state and the outputs that `scan` must return.
    """
    segments = _segments(mask, reset, reverse)

    def both_starts(s: jax.Array, i: jax.Array) -> jax.Array:
        # Index 0 holds the initial state of each row, index 1 its `state`.
        return jnp.stack([jnp.broadcast_to(i[None], s.shape), s], axis=1)  # [B, 2, ...]

    starts = jax.tree.map(both_starts, state, initial)
    # A row's last segment may have no unmasked step. Then the row returns the initial state.
    has_reset = jnp.asarray(reset.any(axis=1))  # [B]
    final = jax.tree.map(lambda s: where(has_reset, s[:, 0], s[:, 1]), starts)
    ys = None
    # Segments of one length form one batch.
    by_length: dict[int, list[_Segment]] = {}
    for segment in segments:
        by_length.setdefault(len(segment.steps), []).append(segment)
    for batch in by_length.values():
        rows, steps, is_first, is_last = map(np.array, zip(*batch, strict=True))
        start = jax.tree.map(operator.itemgetter((rows, is_first.astype(int))), starts)
        end, outputs = run(params, xs[rows[:, None], steps], start, reverse=reverse)
        # The state after a row's last segment is the state of the row.
        put = functools.partial(_put, np.flatnonzero(is_last), rows)
        final = jax.tree.map(put, final, end)
        if ys is None:
            ys = jnp.zeros((*mask.shape, *outputs.shape[2:]), outputs.dtype)  # [B, T, O]
        ys = ys.at[rows[:, None], steps].set(outputs)
    if ys is None:
        ys = jnp.zeros(())
    return final, ys


class _Segment(NamedTuple):
    """A segment of one row: its unmasked steps, and whether it is the first or last to run."""

    row: int
    steps: np.ndarray
    is_first: bool
    is_last: bool


def _segments(mask: Any, reset: Any, reverse: bool) -> list[_Segment]:
    segments = []
    for row in range(len(mask)):
        # Steps before the first flag are segment 0.
        number = np.cumsum(reset[row])
        unmasked = np.flatnonzero(mask[row])
        # `state` enters at one end of the row; the row's state leaves at the other end.
        first, last = 0, number[-1]
        if reverse:
            first, last = last, first
        for n in sorted(set(number[unmasked]), reverse=reverse):
            steps = unmasked[number[unmasked] == n]
            segments.append(_Segment(row, steps, n == first, n == last))
    return segments


def _put(chosen: np.ndarray, rows: np.ndarray, into: jax.Array, new: jax.Array) -> jax.Array:
    return into.at[rows[chosen]].set(new[chosen])


def assert_close(what: str, got: Any, expected: Any, tol: float) -> None:
    """Compares two pytrees leaf by leaf, relative to the largest entry of each leaf.

    Raises:
        AssertionError: that names the leaf.
    """
    chex.assert_trees_all_equal_structs(got, expected)
    leaves = jax.tree_util.tree_leaves_with_path(got)
    for (path, a), b in zip(leaves, jax.tree.leaves(expected), strict=True):
        # NumPy has no tolerance for bfloat16, so both leaves become float64 or complex128.
        a, b = _widest(a), _widest(b)
        atol = tol * max(1.0, np.abs(b).max(initial=0))
        place = f"{what} at {jax.tree_util.keystr(path)}"
        np.testing.assert_allclose(a, b, rtol=0, atol=atol, equal_nan=False, err_msg=place)


def _widest(leaf: Any) -> np.ndarray:
    if np.iscomplexobj(leaf):
        return np.asarray(leaf, np.complex128)
    return np.asarray(leaf, np.float64)


def values_and_gradients(run: Callable, *args: Any) -> tuple[Any, Any]:
    """The results of `run`, and the gradients of its arguments for random cotangents."""

    def both(*args: Any) -> tuple[Any, Any]:
        out, vjp = jax.vjp(run, *args)
        return out, vjp(normal_like(out, seed=3))

    return jax.jit(both)(*args)
