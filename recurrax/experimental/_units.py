"""Linear recurrences with blocks as coefficients: h_t = a_t @ h_{t-1} + b_t, parallel over time.

A state consists of units. Each unit has its own block, and the units do not mix.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from recurrax._layer import Cell, State
from recurrax.cells.linear import linear_scan
from recurrax.implementations import linear


@dataclasses.dataclass(frozen=True)
class UnitLayout:
    """The layout of a state as an array of units: `[..., U, k]`, U units of k numbers in each row.

    Attributes:
        shapes: the shape of each part of the state, for one row.
        tree: the structure of the state.
        single: whether the state is a single unit, so that k is the size of the state. If not, a
            unit has one number of every part. Where the parts differ in size, it has one number.
    """

    shapes: tuple[tuple[int, ...], ...]
    tree: Any
    single: bool

    @staticmethod
    def of(cell: Cell, single: bool) -> UnitLayout:
        """The layout of a cell's state."""
        parts, tree = jax.tree.flatten(jax.eval_shape(cell.initial_state))
        return UnitLayout(tuple(part.shape for part in parts), tree, single)

    @property
    def stacked(self) -> bool:
        """Whether a unit has one number of every part."""
        return not self.single and len(set(self.shapes)) == 1

    @property
    def sizes(self) -> list[int]:
        """How many numbers each part of the state has, for one row."""
        return [math.prod(shape) for shape in self.shapes]

    def join(self, state: State, dtype: jnp.dtype) -> jax.Array:
        """The state as one array `[..., U, k]`."""
        parts = []
        for part, shape in zip(jax.tree.leaves(state), self.shapes, strict=True):
            batch = part.shape[: part.ndim - len(shape)]
            parts.append(part.astype(dtype).reshape(*batch, math.prod(shape)))
        if self.stacked:
            return jnp.stack(parts, axis=-1)  # [..., U, k]
        joined = jnp.concatenate(parts, axis=-1)  # [..., S]
        # One unit of S numbers, or S units of one number.
        return jnp.expand_dims(joined, -2 if self.single else -1)

    def split(self, joined: jax.Array) -> State:
        """The inverse of `join`: the state, from an array `[..., U, k]`."""
        batch = joined.shape[:-2]
        if self.stacked:
            parts = [joined[..., i] for i in range(len(self.shapes))]  # [..., U] each
        else:
            flat = joined.reshape(*batch, sum(self.sizes))  # [..., S]
            ends = [sum(self.sizes[:i]) for i in range(1, len(self.sizes))]
            parts = jnp.split(flat, ends, axis=-1)
        shaped = [x.reshape(*batch, *shape) for x, shape in zip(parts, self.shapes, strict=True)]
        return jax.tree.unflatten(self.tree, shaped)


def block_scan(a: jax.Array, b: jax.Array, reverse: bool) -> jax.Array:
    """Every h of h_t = a_t @ h_{t-1} + b_t, from zero, with the derivative rule of `linear_scan`.

    Args:
        a: `[T, *B, U, k, k]`.
        b: `[T, *B, U, k]`.
        reverse: whether to run from the last step to the first.

    Returns:
        An array like `b`.
    """

    def solve_blocks(a: jax.Array, b: jax.Array, _: Any, reverse: bool) -> jax.Array:
        return solve(a, b, reverse)

    def transposed(a: jax.Array) -> jax.Array:
        return jnp.swapaxes(a, -1, -2)  # [T, *B, U, k, k]

    return linear_scan(
        solve_blocks, a, b, reverse=reverse, product=block_product, transposed=transposed
    )


def solve(a: jax.Array, b: jax.Array, reverse: bool) -> jax.Array:
    """`block_scan` without a derivative rule: an associative scan over pairs (a, b)."""
    # Blocks of one number need no matrix product.
    if b.shape[-1] == 1:
        return linear.associative(a[..., 0], b, None, reverse)

    def compose(before: tuple, after: tuple) -> tuple[jax.Array, jax.Array]:
        (a1, b1), (a2, b2) = before, after
        return block_product(a2, a1), block_product(a2, b1) + b2

    return lax.associative_scan(compose, (a, b), reverse=reverse)[1]  # [T, *B, U, k]


def block_product(a: jax.Array, b: jax.Array) -> jax.Array:
    """`a @ b` of blocks `[..., k, k]` with blocks, or with units `[..., k]`."""
    if b.ndim < a.ndim:
        return block_product(a, b[..., None])[..., 0]
    # For many small blocks, matrix products cost more than the sums themselves.
    k = a.shape[-1]
    if k <= 4:
        terms = [a[..., :, i, None] * b[..., i, None, :] for i in range(k)]
        return functools.reduce(jnp.add, terms)
    return jnp.matmul(a, b, precision=lax.Precision.HIGHEST)
