"""Linear recurrences h_t = a_t * h_{t-1} + b_t: the contract of their cells, and the one rule for their derivative."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike

from recurrax._layer import Cell, Params
from recurrax._mask import where

# From a and b `[T, ...]` and `restart` `bool[T, *B]` or None to every h, starting from zero; `reverse` walks from the
# last step to the first. Where a step restarts, h = b: what came before is not selected, so it may be NaN.
Solver = Callable[[jax.Array, jax.Array, jax.Array | None, bool], jax.Array]


class LinearState(NamedTuple):
    """State of a `LinearCell`.

    Attributes:
        h: `[*B, H]`, unless the cell says otherwise.
    """

    h: jax.Array


class Coefficients(NamedTuple):
    """What a `LinearCell` makes of its inputs, for every step at once.

    Attributes:
        a: how much of the state is kept, with the axes of `b`; those of the batch and of the features may have size 1.
        b: what is added to it, in the shape of the state, after the axis of time.
        rest: whatever `outputs` needs to see beside the states, a pytree.
    """

    a: jax.Array
    b: jax.Array
    rest: Any = ()


@dataclasses.dataclass(frozen=True, repr=False)
class LinearCell(Cell):
    """A cell whose state obeys a linear recurrence with coefficients from the inputs alone.

    a, b, rest = project_inputs(x)
    h' = a * h + b
    y = outputs(h', rest)

    A subclass says what its parameters are, its coefficients in `project_inputs` and, where the output is not h itself,
    `outputs`; steps one by one and the implementations that are parallel over time are here and in `kernels`.

    Args:
        hidden_size: the number of features H of the state.
        dtype: the dtype of the matrix products; `None` follows the parameters and the inputs.

    Example:
        An exponential moving average whose rate is read off the input:

        >>> import dataclasses, jax, jax.numpy as jnp, recurrax
        >>> @dataclasses.dataclass(frozen=True, repr=False)
        ... class AverageCell(recurrax.LinearCell):
        ...     def init(self, key, input_size, dtype=jnp.float32):
        ...         return jax.nn.initializers.glorot_uniform()(key, (input_size, 2 * self.hidden_size), dtype)
        ...     def project_inputs(self, params, xs):
        ...         rate, value = jnp.split(xs @ params, 2, axis=-1)
        ...         rate = jax.nn.sigmoid(rate)
        ...         return recurrax.cells.Coefficients(1 - rate, rate * value)
        >>> cell = AverageCell(4)
        >>> params = cell.init(jax.random.key(0), 3)
        >>> state, ys = recurrax.scan(cell, params, jnp.ones((2, 7, 3)), implementation="associative")
        >>> ys.shape, bool(jnp.all(ys[:, -1] == state.h))
        ((2, 7, 4), True)

    References:
        Blelloch, Prefix sums and their applications, 1990, https://www.cs.cmu.edu/~guyb/papers/Ble93.pdf

        Martin and Cundy, Parallelizing linear recurrent neural nets over sequence length, 2018,
        https://arxiv.org/abs/1709.04057
    """

    independent_units: ClassVar[bool] = True

    @abc.abstractmethod
    def project_inputs(self, params: Params, xs: jax.Array) -> Coefficients:
        """The coefficients of every step of `xs` `[..., *B, I]`; a single step has no axis of time."""

    def outputs(self, params: Params, hs: jax.Array, rest: Any) -> jax.Array:
        """The outputs of every step, from the states after them and `rest`; by default the states themselves."""
        return hs

    def output(self, params: Params, state: Any, z: Coefficients) -> jax.Array:
        """That of one step."""
        return self.outputs(params, state.h, z.rest)

    def initial_state(self, batch_shape: tuple[int, ...] = (), dtype: DTypeLike = jnp.float32) -> LinearState:
        """Zeros, `[*B, H]`."""
        return LinearState(jnp.zeros((*batch_shape, self.hidden_size), dtype))

    def step(self, params: Params, state: Any, z: Coefficients) -> tuple[Any, jax.Array]:
        """One multiplication, one addition and the output."""
        h = z.a.astype(state.h.dtype) * state.h + z.b.astype(state.h.dtype)
        return state._replace(h=h), self.outputs(params, h, z.rest)


def linear_scan(
    solve: Solver, a: jax.Array, b: jax.Array, restart: jax.Array | None = None, *, reverse: bool = False
) -> jax.Array:
    """Every h of h_t = a_t * h_{t-1} + b_t, from zero; h_t = b_t where step t restarts.

    That is a linear system, and so is its derivative: dh_t = a_t * dh_{t-1} + (da_t * h_{t-1} + db_t), and its
    transpose is the same recurrence walked the other way. So `solve` serves all of them, to every order, and they keep
    `a` and `h` alone.

    Args:
        solve: evaluates such a recurrence.
        a: `[T, ...]`, of the rank of `b`.
        b: `[T, ...]`.
        restart: `bool[T, *B]`, or None.
        reverse: whether to walk from the last step to the first.

    Returns:
        An array like `b`.
    """

    def residual(h: jax.Array) -> jax.Array:
        before = shifted(h, 1, reverse)
        if restart is not None:  # Selected, not multiplied by 0: it may be NaN.
            before = where(restart, jnp.zeros_like(before), before)
        return h - a * before

    def transpose_solve(_: Callable, g: jax.Array) -> jax.Array:
        later = None if restart is None else shifted(restart, -1, reverse)
        return solve(shifted(a, -1, reverse), g, later, not reverse)

    return lax.custom_linear_solve(residual, b, lambda _, b: solve(a, b, restart, reverse), transpose_solve)


def shifted(x: jax.Array, by: int, reverse: bool) -> jax.Array:
    """What stood `by` steps before, in the direction of the walk; zero where nothing did."""
    by = -by if reverse else by
    zero = jnp.zeros_like(x[:1])
    return jnp.concatenate([zero, x[:-1]] if by > 0 else [x[1:], zero])
