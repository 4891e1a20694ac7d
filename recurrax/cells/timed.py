"""Inputs at irregular times, for cells whose step depends on how much time has passed."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike

from recurrax._arguments import describe
from recurrax._layer import Layer


class TimedInputs(NamedTuple):
    """Inputs at irregular times: features, and the time that passes before each step.

    `CfCCell` and `LTCCell` read the time, and so does every layer with one of them among its parts. Other layers act
    on the features. What they put out goes on to the next layer with the same times.

    `dt` of a step is the time since the last unmasked step. What `dt` holds at a masked step is not read, so the gap
    behind a masked step must hold the time of both.

    In reverse, step t comes after step t + 1, so the elapsed time is `dt[t+1]`: each unmasked step takes the `dt` of
    the next one of its segment. The last step of a segment comes first then. It takes the `dt` of the first step, so
    that the gap before a segment stays before it. A reversed part of a sequence does not know the gap to the part
    behind it.

    Attributes:
        x: the features, `[*B, T, I]`.
        dt: the time that passes before each step, `[*B, T]`; None for 1.

    Example:
        >>> import jax, jax.numpy as jnp, recurrax
        >>> layer = recurrax.Stack((recurrax.Dense(4), recurrax.CfCCell(4), recurrax.CfCCell(4)))
        >>> params = layer.init(jax.random.key(0), input_size=3)
        >>> xs = recurrax.cells.TimedInputs(jnp.ones((2, 7, 3)), dt=jnp.full((2, 7), 0.5))
        >>> recurrax.scan(layer, params, xs)[1].shape
        (2, 7, 4)
    """

    x: jax.Array
    dt: jax.Array | None = None


def check_time(layer: Layer, xs: Any) -> None:
    """Checks `TimedInputs`, where `xs` are that.

    Raises:
        TypeError: if `dt` is not of numbers.
        ValueError: if no part of the layer reads the time, or `dt` is not one number for each step.
    """
    if not isinstance(xs, TimedInputs):
        return
    if not layer.reads_time:
        raise ValueError(
            f"`xs` must be an array of features, since no part of {layer} reads the time; got TimedInputs. "
            "Give it `xs.x`, or put a CfCCell or an LTCCell into it. A cell of your own that reads the time says so "
            "by `reads_time = True`."
        )
    if xs.dt is None:
        return
    steps = xs.x.shape[: xs.x.ndim - layer.feature_ndim]
    must = f"`dt` must be [{', '.join(map(str, steps))}], one number per step of `x` {describe(xs.x)}"
    if xs.dt.shape != steps:
        raise ValueError(f"{must}; got {describe(xs.dt)}.")
    if not (jnp.issubdtype(xs.dt.dtype, jnp.floating) or jnp.issubdtype(xs.dt.dtype, jnp.integer)):
        raise TypeError(f"{must}; got {describe(xs.dt)}. Is it a mask?")


def with_features(xs: Any, ys: jax.Array) -> Any:
    """The inputs of the layer above one that made `ys` of `xs`: `ys`, at the times of `xs` where it has any."""
    return xs._replace(x=ys) if isinstance(xs, TimedInputs) else ys


def without_time(xs: Any) -> Any:
    """The features alone of `TimedInputs`; other inputs as they are."""
    return xs.x if isinstance(xs, TimedInputs) else xs


def in_reverse(xs: Any, mask: jax.Array | None, reset: jax.Array | None) -> Any:
    """The inputs with each `dt` at the step that it leads to in reverse, as `TimedInputs` says.

    Args:
        xs: inputs `[T, *B, ...]`, among them `TimedInputs`, anywhere in the tree.
        mask: `bool[T, *B]`, or None.
        reset: `bool[T, *B]`, the flags of the data, or None.
    """

    def turned(part: Any) -> Any:
        if not isinstance(part, TimedInputs) or part.dt is None or not len(part.dt):
            return part
        if mask is None and reset is None:
            return part._replace(dt=jnp.roll(part.dt, -1, axis=0))
        return part._replace(dt=jnp.take_along_axis(part.dt, _next_step(mask, reset), axis=0))

    return jax.tree.map(turned, xs, is_leaf=lambda part: isinstance(part, TimedInputs))


def _next_step(mask: Any, reset: Any) -> jax.Array:
    """For each step the next unmasked one of its segment; for the last of a segment, the first."""
    real = jnp.ones_like(reset) if mask is None else mask
    segment = jnp.zeros_like(real, jnp.int32) if reset is None else jnp.cumsum(reset, axis=0, dtype=jnp.int32)
    end = jnp.full_like(segment[:1], jnp.iinfo(jnp.int32).max)
    # Made of the flags, so that it lies on a mesh as they do.
    at = lax.broadcasted_iota(jnp.int32, real.shape, 0) + jnp.zeros_like(segment)

    def behind(x: jax.Array) -> jax.Array:
        """What `x`, which never falls, is at the next unmasked step."""
        seen = lax.cummin(jnp.where(real, x, end), axis=0, reverse=True)
        return jnp.concatenate([seen[1:], end])

    seen = lax.cummax(jnp.where(real, segment, -1), axis=0)
    begins = real & (jnp.concatenate([jnp.full_like(end, -1), seen[:-1]]) != segment)
    first = lax.cummax(jnp.where(begins, at, 0), axis=0)
    return jnp.where(behind(segment) == segment, behind(at), first)


def timed(xs: jax.Array | TimedInputs) -> TimedInputs:
    """The inputs of a cell in continuous time, whichever way they came."""
    return xs if isinstance(xs, TimedInputs) else TimedInputs(xs)


def elapsed(dt: jax.Array | None, dtype: DTypeLike) -> jax.Array:
    """The time of each step beside its features."""
    return jnp.ones((), dtype) if dt is None else jnp.expand_dims(dt.astype(dtype), -1)
