"""Parameters and noise to test with, what a walk must give, and how pytrees are compared."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np

from recurrax._layer import Layer, Params, State
from recurrax._mask import where


def perturbed_params(layer: Layer, input_size: int, seed: int = 0, scale: float = 0.1) -> Params:
    """Parameters as `init` draws them with noise upon each, since zero biases hide mistakes.

    Args:
        layer: the layer.
        input_size: the number of features of its inputs.
        seed: the seed of both the parameters and the noise.
        scale: the standard deviation of the noise.

    Returns:
        A pytree like that of `layer.init`.

    Example:
        >>> import recurrax
        >>> from recurrax.testing import perturbed_params
        >>> bool((perturbed_params(recurrax.GRUCell(4), 3).bias != 0).all())
        True
    """
    params = jax.jit(lambda: layer.init(jax.random.key(seed), input_size))()
    return jax.tree.map(lambda p, n: p + scale * n, params, normal_like(params, seed))


def normal_like(like: Any, seed: int) -> Any:
    """Standard normal noise in the structure, shapes and dtypes of a pytree, in both parts of complex leaves."""
    rng = np.random.default_rng(seed)

    def draw(leaf: Any) -> jax.Array:
        drawn = rng.standard_normal(leaf.shape)
        if jnp.issubdtype(leaf.dtype, jnp.complexfloating):
            drawn = drawn + 1j * rng.standard_normal(leaf.shape)
        return jnp.asarray(drawn, leaf.dtype)

    return jax.tree.map(draw, like)


def run_segments_apart(run: Callable, initial: State, params: Params, xs: jax.Array, state: State, mask: Any, reset: Any,
              reverse: bool) -> tuple[State, jax.Array]:  # fmt: skip
    """The meaning of `mask`, `reset` and `reverse`, spelt out: each segment of each row is run by itself.

    Args:
        run: `run(params, xs, state, reverse=...)`, on `xs` `[N, T, I]`: all segments of one length.
        initial: the initial state of one row.
        params: the parameters.
        xs: `[B, T, I]`.
        state: the state of each row before its first step.
        mask: concrete `bool[B, T]`.
        reset: concrete `bool[B, T]`.
        reverse: the direction of the context.

    Returns:
        What `scan` must return.
    """
    segments = []
    for row in range(len(mask)):
        number, real = np.cumsum(reset[row]), np.flatnonzero(mask[row])
        # Steps before the first flag are segment 0. The state comes into the segment at one end of the row, and the
        # state after that at the other end is handed out.
        begin, end = (number[-1], 0) if reverse else (0, number[-1])
        for n in sorted(set(number[real]), reverse=reverse):
            segments.append((row, real[number[real] == n], n == begin, n == end))
    starts = jax.tree.map(lambda s, i: jnp.stack([jnp.broadcast_to(i[None], s.shape), s], axis=1), state, initial)
    # In a row whose last segment has no real step, the state that is handed out is the initial state.
    final = jax.tree.map(lambda s: where(jnp.asarray(reset.any(axis=1)), s[:, 0], s[:, 1]), starts)
    ys = jnp.zeros(())
    for length in sorted({len(steps) for _, steps, *_ in segments}):
        chosen = [segment for segment in segments if len(segment[1]) == length]
        rows, steps, goes_on, last = (np.array(part) for part in zip(*chosen, strict=True))
        start = jax.tree.map(operator.itemgetter((rows, goes_on.astype(int))), starts)
        end, part = run(params, xs[rows[:, None], steps], start, reverse=reverse)
        final = jax.tree.map(functools.partial(_put, np.flatnonzero(last), rows), final, end)
        ys = ys if ys.ndim else jnp.zeros((*mask.shape, *part.shape[2:]), part.dtype)
        ys = ys.at[rows[:, None], steps].set(part)
    return final, ys


def _put(chosen: np.ndarray, rows: np.ndarray, into: jax.Array, new: jax.Array) -> jax.Array:
    return into.at[rows[chosen]].set(new[chosen])


def assert_close(what: str, got: Any, expected: Any, tol: float) -> None:
    """Compares two pytrees leaf by leaf, relative to the largest entry of each leaf.

    Raises:
        AssertionError: that names the leaf.
    """
    chex.assert_trees_all_equal_structs(got, expected)
    for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(got), jax.tree.leaves(expected), strict=True):
        a, b = (np.asarray(x, np.complex128 if np.iscomplexobj(x) else np.float64) for x in (a, b))
        atol = tol * max(1.0, np.abs(b).max(initial=0))
        place = f"{what} at {jax.tree_util.keystr(path)}"
        np.testing.assert_allclose(a, b, rtol=0, atol=atol, equal_nan=False, err_msg=place)


def values_and_gradients(run: Callable, *args: Any) -> tuple[Any, Any]:
    """What `run` returns, and the gradients of its arguments for random cotangents of all of it."""

    def both(*args: Any) -> tuple[Any, Any]:
        out, vjp = jax.vjp(run, *args)
        return out, vjp(normal_like(out, seed=3))

    return jax.jit(both)(*args)
