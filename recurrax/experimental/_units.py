"""Linear recurrences whose coefficients are blocks: h_t = a_t @ h_{t-1} + b_t, unit by unit, in parallel over time."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from recurrax._layer import Cell, State
from recurrax.cells.linear import shifted
from recurrax.implementations import linear


@dataclasses.dataclass(frozen=True)
class Cut:
    """A state, cut into units: `[..., U, k]`, U units of k numbers, each row's apart.

    Attributes:
        shapes: of each part of the state, for one row.
        tree: how the parts stand together.
        single: whether the state is a single unit, so that k is its size. Else each unit has one number of every part,
            or, where the parts differ in size, one number alone.
    """

    shapes: tuple[tuple[int, ...], ...]
    tree: Any
    single: bool

    @staticmethod
    def of(cell: Cell, single: bool) -> Cut:
        """How a cell's state is cut."""
        parts, tree = jax.tree.flatten(jax.eval_shape(cell.initial_state))
        return Cut(tuple(part.shape for part in parts), tree, single)

    @property
    def stacked(self) -> bool:
        """Whether a unit has one number of every part."""
        return not self.single and len(set(self.shapes)) == 1

    def join(self, state: State, dtype: jnp.dtype) -> jax.Array:
        """The state as one array."""
        parts = [
            part.astype(dtype).reshape(*part.shape[: part.ndim - len(shape)], math.prod(shape))
            for part, shape in zip(jax.tree.leaves(state), self.shapes, strict=True)
        ]
        if self.stacked:
            return jnp.stack(parts, axis=-1)
        return jnp.expand_dims(jnp.concatenate(parts, axis=-1), -2 if self.single else -1)

    def part(self, joined: jax.Array) -> State:
        """The way back."""
        batch, parts = joined.shape[:-2], []
        if self.stacked:
            parts = [joined[..., i] for i in range(len(self.shapes))]
        else:
            ends = [sum(map(math.prod, self.shapes[: i + 1])) for i in range(len(self.shapes) - 1)]
            parts = jnp.split(joined.reshape(*batch, sum(map(math.prod, self.shapes))), ends, axis=-1)
        parts = [part.reshape(*batch, *shape) for part, shape in zip(parts, self.shapes, strict=True)]
        return jax.tree.unflatten(self.tree, parts)


def block_scan(a: jax.Array, b: jax.Array, reverse: bool) -> jax.Array:
    """Every h of h_t = a_t @ h_{t-1} + b_t, from zero, with the derivative rule of `linear_scan`.

    Args:
        a: `[T, *B, U, k, k]`.
        b: `[T, *B, U, k]`.
        reverse: whether to walk from the last step to the first.

    Returns:
        An array like `b`.
    """

    def residual(h: jax.Array) -> jax.Array:
        return h - times(a, shifted(h, 1, reverse))

    def transpose_solve(_: Callable, g: jax.Array) -> jax.Array:
        return solve(shifted(jnp.swapaxes(a, -1, -2), -1, reverse), g, not reverse)

    return lax.custom_linear_solve(residual, b, lambda _, b: solve(a, b, reverse), transpose_solve)


def solve(a: jax.Array, b: jax.Array, reverse: bool) -> jax.Array:
    """The same without a derivative rule: an associative scan over pairs (a, b)."""
    if b.shape[-1] == 1:
        return linear.associative(a[..., 0], b, None, reverse)

    def then(before: tuple, after: tuple) -> tuple[jax.Array, jax.Array]:
        (a1, b1), (a2, b2) = before, after
        return times(a2, a1), times(a2, b1) + b2

    return lax.associative_scan(then, (a, b), reverse=reverse)[1]


def times(a: jax.Array, b: jax.Array) -> jax.Array:
    """`a @ b` for blocks `[..., k, k]` and others, or units `[..., k]`."""
    if b.ndim < a.ndim:
        return times(a, b[..., None])[..., 0]
    if a.shape[-1] <= 4:  # A matrix product for each of many small blocks costs more than the sums themselves.
        return functools.reduce(jnp.add, (a[..., :, i, None] * b[..., i, None, :] for i in range(a.shape[-1])))
    return jnp.matmul(a, b, precision=lax.Precision.HIGHEST)
