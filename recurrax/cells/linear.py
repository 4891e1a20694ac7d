"""Linear recurrences h_t = a_t * h_{t-1} + b_t: the contract of their cells, the derivative."""

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

# Computes every h from a and b `[T, ...]` and `restart` `bool[T, *B]` or None, starting from zero.
# `reverse` goes from the last step to the first. Where a step restarts, h = b. The state before
# such a step may be NaN: it is not selected.
Solver = Callable[[jax.Array, jax.Array, jax.Array | None, bool], jax.Array]


class LinearState(NamedTuple):
    """State of a `LinearCell`.

    Attributes:
        h: `[*B, H]`; a cell may choose another shape.
    """

    h: jax.Array


class Coefficients(NamedTuple):
    """The coefficients of a `LinearCell`, for every step at once.

    Attributes:
        a: the factor of the state, with the axes of `b`; batch axes and the feature axis may have
            size 1.
        b: the number to add, in the shape of the state after the axis of time.
        rest: a pytree that `outputs` needs beside the states.
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

    A subclass draws its parameters in `init` and computes its coefficients in `project_inputs`. If
    the output is not h itself, the subclass also has `outputs`. This class takes single steps.
    `recurrax.implementations` takes all steps in parallel.

    Args:
        hidden_size: the number of features H of the state.
        dtype: the dtype of the matrix products; `None` follows the parameters and the inputs.

    Example:
        An exponential moving average with a rate from the input:

        >>> import dataclasses, jax, jax.numpy as jnp, recurrax
        >>> @dataclasses.dataclass(frozen=True, repr=False)
        ... class AverageCell(recurrax.LinearCell):
        ...     def init(self, key, input_size, dtype=jnp.float32):
        ...         shape = (input_size, 2 * self.hidden_size)
        ...         return jax.nn.initializers.glorot_uniform()(key, shape, dtype)
        ...     def project_inputs(self, params, xs):
        ...         rate, value = jnp.split(xs @ params, 2, axis=-1)
        ...         rate = jax.nn.sigmoid(rate)
        ...         return recurrax.cells.Coefficients(1 - rate, rate * value)
        >>> cell = AverageCell(4)
        >>> params = cell.init(jax.random.key(0), 3)
        >>> xs = jnp.ones((2, 7, 3))
        >>> state, ys = recurrax.scan(cell, params, xs, implementation="associative")
        >>> ys.shape, bool(jnp.all(ys[:, -1] == state.h))
        ((2, 7, 4), True)

    References:
        Blelloch, Prefix sums and their applications, 1990,
        https://www.cs.cmu.edu/~guyb/papers/Ble93.pdf

        Martin and Cundy, Parallelizing linear recurrent neural nets over sequence length, 2018,
        https://arxiv.org/abs/1709.04057
    """

    independent_units: ClassVar[bool] = True
    # `step` is h' = a * h + b, so that implementations may take all steps at once.
    is_linear: ClassVar[bool] = True

    rests_on: ClassVar[dict[str, tuple[str, ...]]] = {
        "independent_units": ("step",),
        "is_linear": ("step",),
        "tells_gates": ("step", "project_inputs"),
    }

    @abc.abstractmethod
    def project_inputs(self, params: Params, xs: jax.Array) -> Coefficients:
        """The coefficients of every step of `xs` `[..., *B, I]`; one step has no axis of time."""

    def outputs(self, params: Params, hs: jax.Array, rest: Any) -> jax.Array:
        """The output of every step, from the state after it and `rest`; by default the state."""
        return hs

    def output(self, params: Params, state: Any, z: Coefficients) -> jax.Array:
        """The output of one step."""
        return self.outputs(params, state.h, z.rest)

    def initial_state(
        self, batch_shape: tuple[int, ...] = (), dtype: DTypeLike = jnp.float32
    ) -> LinearState:
        """Zeros, `[*B, H]`."""
        return LinearState(jnp.zeros((*batch_shape, self.hidden_size), dtype))

    def step(self, params: Params, state: Any, z: Coefficients) -> tuple[Any, jax.Array]:
        """One multiplication, one addition and the output."""
        h = z.a.astype(state.h.dtype) * state.h + z.b.astype(state.h.dtype)
        return state._replace(h=h), self.outputs(params, h, z.rest)


def linear_scan(
    solve: Solver,
    a: jax.Array,
    b: jax.Array,
    restart: jax.Array | None = None,
    *,
    reverse: bool = False,
    product: Callable = jnp.multiply,
    transposed: Callable | None = None,
) -> jax.Array:
    """Every h of h_t = a_t * h_{t-1} + b_t, from zero; h_t = b_t where step t restarts.

    The recurrence is a linear system. Its derivative is such a system too:

    dh_t = a_t * dh_{t-1} + (da_t * h_{t-1} + db_t)

    Its transpose is the same recurrence in the other direction. So `solve` serves all of them, to
    every order. The derivatives store only `a` and `h`.

    Args:
        solve: computes every h of a recurrence.
        a: `[T, ...]`, of the rank of `b` if a is not a matrix.
        b: `[T, ...]`.
        restart: `bool[T, *B]`, or None.
        reverse: whether to go from the last step to the first.
        product: a * h, of all steps; a may be a matrix.
        transposed: from a to the a of the transposed product; None for numbers a.

    Returns:
        An array like `b`.
    """

    def residual(h: jax.Array) -> jax.Array:
        before = shifted(h, 1, reverse)
        # A selection, not a product with 0: the state before a restart may be NaN.
        if restart is not None:
            before = where(restart, jnp.zeros_like(before), before)
        return h - product(a, before)

    def transpose_solve(_: Callable, g: jax.Array) -> jax.Array:
        # The transpose runs in the other direction. There step t uses the a of step t + 1.
        later = restart
        if restart is not None:
            later = shifted(restart, -1, reverse)
        a_transposed = a if transposed is None else transposed(a)
        return solve(shifted(a_transposed, -1, reverse), g, later, not reverse)

    def forward_solve(_: Callable, b: jax.Array) -> jax.Array:
        return solve(a, b, restart, reverse)

    return lax.custom_linear_solve(residual, b, forward_solve, transpose_solve)


def shifted(x: jax.Array, by: int, reverse: bool) -> jax.Array:
    """The entry `by` steps before, in the direction of the scan; zero if there is no such step.

    `by` is 1 or -1.
    """
    zero = jnp.zeros_like(x[:1])
    # In reverse, the step before stands behind.
    if (by > 0) != reverse:
        return jnp.concatenate([zero, x[:-1]])
    return jnp.concatenate([x[1:], zero])
