"""Inputs at irregular times, for cells whose step depends on how much time has passed."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from recurrax._check import describe, kind


class TimedInputs(NamedTuple):
    """Inputs at irregular times, the `xs` of `CfCCell` and `LTCCell`.

    Attributes:
        x: the features, `[*B, T, I]`.
        dt: the time that passes with each step, `[*B, T]`; None for 1.
    """

    x: jax.Array
    dt: jax.Array | None = None


def timed(xs: jax.Array | TimedInputs) -> TimedInputs:
    """The inputs of a cell in continuous time, whichever way they came.

    Raises:
        ValueError: if `dt` is not one number for each step.
        TypeError: if these are no numbers of time.
    """
    inputs = xs if isinstance(xs, TimedInputs) else TimedInputs(xs)
    if inputs.dt is not None and inputs.dt.shape != inputs.x.shape[:-1]:
        raise ValueError(
            f"`dt` must have the axes of `x` {describe(inputs.x)} without its last, "
            f"[{', '.join(map(str, inputs.x.shape[:-1]))}]; got {describe(inputs.dt)}."
        )
    if inputs.dt is not None and kind(inputs.dt) not in ("floating", "integer"):
        raise TypeError(f"`dt` must be of a floating dtype; got {describe(inputs.dt)}.")
    return inputs


def elapsed(dt: jax.Array | None, dtype: DTypeLike) -> jax.Array:
    """The time of each step beside its features."""
    return jnp.ones((), dtype) if dt is None else jnp.expand_dims(dt.astype(dtype), -1)
