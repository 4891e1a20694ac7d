"""A trajectory as the solution of one equation, s = F(s), with an implicit derivative.

F computes every step at once from the states before the steps: s_t = f_t(s_{t-1}). So the Jacobian
of F has blocks J_t only below the diagonal. One Newton iteration is then a linear recurrence, which
is parallel over time:

    d_t = A_t @ d_{t-1} + f_t(s_{t-1}) - s_t,   s_t <- f_t(s_{t-1}) + A_t @ d_{t-1},   A_t ≈ J_t.

The right-hand side equals s_t + d_t. In the form above, a step that is right keeps its bits and
makes the next step right, for any A and any later steps. So T iterations always suffice. The
derivative of the solution is the derivative of the equation,

    ds_t = J_t @ ds_{t-1} + dF_t.

This is one more linear recurrence, whatever iterations found the solution.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from recurrax._layer import Cell, Params, State
from recurrax._mask import Steps
from recurrax.cells.affine import AffineCell
from recurrax.cells.linear import shifted
from recurrax.experimental._units import UnitLayout, block_product, block_scan, solve


class Inputs(NamedTuple):
    """The inputs of a trajectory. The states are arrays of units, `[*B, U, k]`."""

    params: Params
    state: jax.Array
    initial: jax.Array
    zs: Any


class _Iteration(NamedTuple):
    """The state of the Newton iterations: s `[T, *B, U, k]`, and `[*B]` for each row's facts."""

    s: jax.Array
    residual: jax.Array
    iterations: jax.Array
    count: Any


@dataclasses.dataclass(frozen=True)
class Equation:
    """The equation of a cell's trajectory `[T, *B, U, k]`, and the options of its solution.

    Attributes:
        cell: the cell.
        layout: the layout of its state as units.
        exact: whether its Jacobian has entries only within units.
        reverse: the direction of the context.
        tol: the residual, relative to 1 + abs(s), at which a row is solved.
        limit: the largest number of iterations.
        damping: the share of the Jacobian that A leaves out.
        fallback: whether steps run one after another if a row is not solved.
    """

    cell: Cell
    layout: UnitLayout
    exact: bool
    reverse: bool
    tol: float
    limit: int
    damping: float
    fallback: bool

    def before(self, inputs: Inputs, s: jax.Array) -> jax.Array:
        """The states before the steps, `[T, *B, U, k]`."""
        first = inputs.state[None]  # [1, *B, U, k]
        if self.reverse:
            return jnp.concatenate([s, first])[1:]
        return jnp.concatenate([first, s])[:-1]

    def all_steps(
        self, inputs: Inputs, steps: Steps, before: jax.Array, step: Callable | None = None
    ) -> jax.Array:
        """F: every step at once, `[T, *B, U, k]`."""
        advance = functools.partial(self._advance, step or self.cell.step, inputs)
        return jax.vmap(advance)(before, (inputs.zs, steps))

    def outputs(self, inputs: Inputs, steps: Steps, s: jax.Array) -> jax.Array:
        """The outputs of every step `[T, *B, O]`, from the trajectory."""

        def output(before: jax.Array, z: Any, flags: Steps) -> jax.Array:
            before = flags.restarted(before, inputs.initial)  # [*B, U, k]
            return self.cell.step(inputs.params, self.layout.split(before), z)[1]

        return jax.vmap(output)(self.before(inputs, s), inputs.zs, steps)

    def iterate(self, inputs: Inputs, steps: Steps) -> tuple[jax.Array, jax.Array, jax.Array]:
        """The trajectory, and for each row its residual and the number of iterations."""

        def unsolved(current: _Iteration) -> jax.Array:
            return jnp.any(current.residual > self.tol) & (current.count <= self.limit)

        # The first guess: every state equals the first state.
        number = jax.tree.leaves(inputs.zs)[0].shape[0]
        s = jnp.broadcast_to(inputs.state, (number, *inputs.state.shape))  # [T, *B, U, k]
        row = inputs.state[..., 0, 0]  # [*B], placed like the batch
        start = _Iteration(s, jnp.full_like(row, jnp.inf), jnp.zeros_like(row, jnp.int32), 0)
        body = functools.partial(self._iteration, inputs, steps)
        s, residual, iterations, _ = lax.while_loop(unsolved, body, start)
        if self.fallback:
            solved = jnp.all(residual <= self.tol)
            s = lax.cond(solved, lambda: s, lambda: self._one_by_one(inputs, steps))
            residual = jnp.where(solved, residual, 0)  # [*B]
        return s, residual, iterations

    def _iteration(self, inputs: Inputs, steps: Steps, current: _Iteration) -> _Iteration:
        """One Newton iteration, for the rows that are not solved."""
        s, last, iterations, count = current
        after, a = self.linearized(inputs, steps, s)  # [T, *B, U, k] and [T, *B, U, k, k]
        error = jnp.abs(after - s) / (1 + jnp.abs(s))  # [T, *B, U, k]
        residual = jnp.max(error, axis=(0, -2, -1))  # [*B]
        # NaN after the first guess comes from the inputs: such a row ends here.
        # NaN that comes later is a step that went too far, so the row goes on.
        overshot = (count > 0) & jnp.isnan(residual) & ~jnp.isnan(last)  # [*B]
        residual = jnp.where(overshot, jnp.inf, residual)  # [*B]
        a = jnp.where(jnp.isfinite(a), a, 0) * (1 - self.damping)  # [T, *B, U, k, k]
        d = solve(a, after - s, self.reverse)  # [T, *B, U, k]
        new = after + block_product(a, shifted(d, 1, self.reverse))  # [T, *B, U, k]
        # Products of many Jacobians overflow where the cell expands.
        # There, a step continues from the step before it alone.
        finite_after = jnp.where(jnp.isfinite(after), after, 0)  # [T, *B, U, k]
        new = jnp.where(jnp.isfinite(new), new, finite_after)  # [T, *B, U, k]
        moves = (residual > self.tol) & (count < self.limit)  # [*B]
        s = jnp.where(moves[None, ..., None, None], new, s)  # [T, *B, U, k]
        return _Iteration(s, residual, iterations + moves.astype(jnp.int32), count + 1)

    def linearized(self, inputs: Inputs, steps: Steps, s: jax.Array) -> tuple[jax.Array, jax.Array]:
        """F(s), and the blocks A `[T, *B, U, k, k]` of its Jacobian."""
        before, (units, k) = self.before(inputs, s), s.shape[-2:]
        step = None
        if not self.exact:
            step = _step_by_units(self.cell, self.layout, inputs.params)
        all_steps = functools.partial(self.all_steps, inputs, steps, step=step)
        after, jacobian = jax.linearize(all_steps, before)

        def columns(weights: jax.Array) -> jax.Array:
            # For each i < k: the Jacobian times the i-th numbers of all units, with weights [U].
            basis = jnp.eye(k, dtype=s.dtype)[:, None, :]  # [k, 1, k]
            basis = basis * weights.astype(s.dtype)[None, :, None]  # [k, U, k]
            basis = jnp.expand_dims(basis, tuple(range(1, s.ndim - 1)))  # [k, 1, ..., U, k]
            # Zeros made of s have the placement of s, which an Explicit mesh asks for.
            basis = jnp.zeros_like(s)[None] + basis  # [k, T, *B, U, k]
            return jax.vmap(jacobian, out_axes=-1)(basis)  # [T, *B, U, k, k]

        # Units that do not mix: one product gives the blocks of all units.
        if self.exact:
            return after, columns(jnp.ones(units))
        if step is not None:
            # `pointwise` may mix units. Random signs cancel the other units' share on average.
            signs = jax.random.rademacher(jax.random.key(0), (units,), s.dtype)  # [U]
            by_unit = signs.reshape(*[1] * (s.ndim - 2), units, 1, 1)  # [1, ..., U, 1, 1]
            a = columns(signs) * by_unit  # [T, *B, U, k, k]
        else:

            def block(unit: jax.Array) -> jax.Array:
                # The unit's own block, from a product with this unit alone.
                return columns(jnp.arange(units) == unit)[..., unit, :, :]  # [T, *B, k, k]

            blocks = lax.map(block, jnp.arange(units))  # [U, T, *B, k, k]
            a = jnp.moveaxis(blocks, 0, -3)  # [T, *B, U, k, k]
        # Any A leads to the solution, but an A that expands may overflow before it arrives.
        # This bound on the row sums costs no iterations.
        norm = jnp.abs(a).sum(axis=-1, keepdims=True).max(axis=-2, keepdims=True)
        return after, a / jnp.maximum(1, norm)

    def _advance(self, step: Callable, inputs: Inputs, before: jax.Array, at: tuple) -> jax.Array:
        """One step in units, from `[*B, U, k]` to `[*B, U, k]`."""
        z, flags = at  # the flags of this step: `Steps` with bool[*B] or None
        # A flag on a masked step acts at once, as in the loop.
        before = flags.restarted(before, inputs.initial)
        state, _ = step(inputs.params, self.layout.split(before), z)
        return flags.keep_masked(self.layout.join(state, before.dtype), before)

    def _one_by_one(self, inputs: Inputs, steps: Steps) -> jax.Array:
        """The trajectory `[T, *B, U, k]` by one step after another."""

        def body(before: jax.Array, at: tuple) -> tuple[jax.Array, jax.Array]:
            after = self._advance(self.cell.step, inputs, before, at)
            return after, after

        sequences = (inputs.zs, steps)
        return lax.scan(body, inputs.state, sequences, reverse=self.reverse)[1]


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def trajectory(
    equation: Equation, inputs: Inputs, steps: Steps
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    """The trajectory `[T, *B, U, k]` under the derivative rule above.

    Also returns each row's residual and number of iterations, `[*B]`.
    """
    s, residual, iterations = equation.iterate(inputs, steps)
    return s, (residual, iterations.astype(residual.dtype))


@trajectory.defjvp
def _trajectory_jvp(equation: Equation, primals: tuple, tangents: tuple) -> tuple[tuple, tuple]:
    inputs, steps = primals
    s, facts = trajectory(equation, inputs, steps)

    def all_steps(inputs: Inputs, s: jax.Array) -> jax.Array:
        return equation.all_steps(inputs, steps, equation.before(inputs, s))

    # b = dF: the tangent of F for a fixed trajectory.
    _, b = jax.jvp(lambda inputs: all_steps(inputs, s), (inputs,), (tangents[0],))
    _, a = equation.linearized(inputs, steps, s)
    if equation.exact:
        ds = block_scan(a, b, equation.reverse)  # [T, *B, U, k]
    else:
        _, jacobian = jax.linearize(functools.partial(all_steps, inputs), s)
        a = lax.stop_gradient(a)
        ds = _solve_tangent(equation, lambda v: v - jacobian(v), a, b)
    return (s, facts), (ds, jax.tree.map(jnp.zeros_like, facts))


def _solve_tangent(equation: Equation, residual: Callable, a: jax.Array, b: jax.Array) -> jax.Array:
    """The solution v `[T, *B, U, k]` of `residual(v) = b`, from the approximate blocks a.

    The Jacobian is known only by its product with a vector. A solution step by step would take as
    long as the loop. The blocks that led to the trajectory lead to its derivative too: they
    shrink the same error. The number of iterations is about the same, and T at most.
    """

    def solver(a: jax.Array, reverse: bool) -> Callable:
        def refine(product: Callable, b: jax.Array) -> jax.Array:
            def unsolved(current: tuple) -> jax.Array:
                _, moves, count = current
                return jnp.any(moves) & (count < b.shape[0])

            def body(current: tuple) -> tuple:
                v, _, count = current
                error = b - product(v)  # [T, *B, U, k]
                size = jnp.maximum(jnp.abs(b), jnp.abs(v)).max(axis=(0, -2, -1))  # [*B]
                moves = jnp.abs(error).max(axis=(0, -2, -1)) > equation.tol * size  # [*B]
                change = solve(a, error, reverse)  # [T, *B, U, k]
                return v + jnp.where(moves[None, ..., None, None], change, 0), moves, count + 1

            start = (jnp.zeros_like(b), jnp.ones_like(b[0, ..., 0, 0], bool), 0)
            return lax.while_loop(unsolved, body, start)[0]

        return refine

    # The transpose is a recurrence of the same form, in the other direction.
    forward = solver(a, equation.reverse)
    transposed = shifted(jnp.swapaxes(a, -1, -2), -1, equation.reverse)  # [T, *B, U, k, k]
    backward = solver(transposed, not equation.reverse)
    return lax.custom_linear_solve(residual, b, forward, backward)


def _step_by_units(cell: Cell, layout: UnitLayout, params: Params) -> Callable | None:
    """A step whose derivative sees only a unit's own share of the recurrent product, or None.

    The values of this step are the values of the cell's step.
    """
    if not isinstance(cell, AffineCell) or not cell.is_affine or not layout.stacked:
        return None
    # Only a plain map has one weight from each unit to itself.
    if not cell.plain_state:
        return None
    diagonals = [jnp.diagonal(gate) for gate in cell.split(params.recurrent_kernel)]  # [H] each

    def step(params: Params, state: State, z: jax.Array) -> tuple[State, jax.Array]:
        constant = lax.stop_gradient(state.h)  # [*B, H]
        # Zeros as values; the derivative passes through them.
        moved = state.h - constant  # [*B, H]
        leading = tuple(range(constant.ndim - 1))
        u = []
        gates = cell.split(cell.project_state(params, constant))  # G arrays [*B, H]
        for gate, diagonal in zip(gates, diagonals, strict=True):
            u.append(gate + moved * jnp.expand_dims(diagonal, leading))  # [*B, H]
        a = cell.preactivations(cell.split(z), tuple(u))
        return cell.pointwise(cell.other_params(params), a, state)

    return step
