"""A whole trajectory as the solution of one equation, s = F(s), by Newton iterations, with an implicit derivative.

F takes every step at once from the states before them, s_t = f_t(s_{t-1}), so its Jacobian has blocks J_t below the
diagonal alone, and an iteration is a linear recurrence, which is parallel over time:

    d_t = A_t @ d_{t-1} + f_t(s_{t-1}) - s_t,   s_t <- f_t(s_{t-1}) + A_t @ d_{t-1} = s_t + d_t,   A_t ≈ J_t.

Written in the first of these two forms, steps that are right stay as they are, bit by bit, and make the next one right,
whatever A is and whatever later steps hold: T iterations always suffice. The derivative is that of the equation,

    ds_t = J_t @ ds_{t-1} + dF_t,

one more linear recurrence, however the solution was found.
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
from recurrax._mask import where
from recurrax.cells.affine import AffineCell
from recurrax.cells.linear import shifted
from recurrax.experimental._units import Cut, block_scan, solve, times

Flags = tuple[jax.Array | None, jax.Array | None]  # `mask` and `reset`


class Given(NamedTuple):
    """What a trajectory depends on; the states are cut, `[*B, U, k]`."""

    params: Params
    state: jax.Array
    initial: jax.Array
    zs: Any


@dataclasses.dataclass(frozen=True)
class Equation:
    """The equation of a cell's trajectory `[T, *B, U, k]`, and how it is solved.

    Attributes:
        cell: the cell.
        cut: how its state is cut into units.
        exact: whether its Jacobian has no entries but those within units.
        reverse: the direction of the context.
        tol: the residual, relative to 1 + abs(s), at which a row is solved.
        limit: the number of iterations after which it must be.
        damping: the share of the Jacobian that is left out of A.
        fallback: whether steps are taken one after another if it is not.
    """

    cell: Cell
    cut: Cut
    exact: bool
    reverse: bool
    tol: float
    limit: int
    damping: float
    fallback: bool

    def before(self, given: Given, s: jax.Array) -> jax.Array:
        """The states before the steps."""
        first = given.state[None]
        return jnp.concatenate([s, first])[1:] if self.reverse else jnp.concatenate([first, s])[:-1]

    def every(self, given: Given, flags: Flags, before: jax.Array, step: Callable | None = None) -> jax.Array:
        """F: every step at once."""
        advance = functools.partial(self._advance, step or self.cell.step, given)
        return jax.vmap(advance)(before, (given.zs, *flags))

    def outputs(self, given: Given, flags: Flags, s: jax.Array) -> jax.Array:
        """The outputs of every step, from the trajectory."""

        def output(before: jax.Array, z: Any, restart: jax.Array | None) -> jax.Array:
            before = self._restarted(given, before, restart)
            return self.cell.step(given.params, self.cut.part(before), z)[1]

        return jax.vmap(output)(self.before(given, s), given.zs, flags[1])

    def iterate(self, given: Given, flags: Flags) -> tuple[jax.Array, jax.Array, jax.Array]:
        """The trajectory, and for each row its residual and the number of iterations."""

        def unsolved(carry: tuple) -> jax.Array:
            _, residual, _, done = carry
            return jnp.any(residual > self.tol) & (done <= self.limit)

        def body(carry: tuple) -> tuple:
            s, last, iterations, done = carry
            after, a = self.linearized(given, flags, s)
            residual = jnp.max(jnp.abs(after - s) / (1 + jnp.abs(s)), axis=(0, -2, -1))
            # What is NaN from the first guess is so in the inputs: such a row ends here. A later one went too far.
            residual = jnp.where((done > 0) & jnp.isnan(residual) & ~jnp.isnan(last), jnp.inf, residual)
            a = jnp.where(jnp.isfinite(a), a, 0) * (1 - self.damping)
            new = after + times(a, shifted(solve(a, after - s, self.reverse), 1, self.reverse))
            # Products of many Jacobians overflow where the cell expands; then a step goes on from the one before it.
            new = jnp.where(jnp.isfinite(new), new, jnp.where(jnp.isfinite(after), after, 0))
            moves = (residual > self.tol) & (done < self.limit)
            return (
                jnp.where(moves[None, ..., None, None], new, s),
                residual,
                iterations + moves.astype(jnp.int32),
                done + 1,
            )

        steps = jax.tree.leaves(given.zs)[0].shape[0]
        s = jnp.broadcast_to(given.state, (steps, *given.state.shape))
        row = given.state[..., 0, 0]  # [*B], placed like the batch
        carry = (s, jnp.full_like(row, jnp.inf), jnp.zeros_like(row, jnp.int32), 0)
        s, residual, iterations, _ = lax.while_loop(unsolved, body, carry)
        if self.fallback:
            solved = jnp.all(residual <= self.tol)
            s = lax.cond(solved, lambda: s, lambda: self._one_by_one(given, flags))
            residual = jnp.where(solved, residual, 0)
        return s, residual, iterations

    def linearized(self, given: Given, flags: Flags, s: jax.Array) -> tuple[jax.Array, jax.Array]:
        """F(s), and the blocks A `[T, *B, U, k, k]` of its Jacobian."""
        before, (units, k) = self.before(given, s), s.shape[-2:]
        step = None if self.exact else _step_by_units(self.cell, self.cut, given.params)
        after, push = jax.linearize(lambda before: self.every(given, flags, before, step), before)

        def columns(weights: jax.Array) -> jax.Array:
            # For each i < k, the Jacobian times the i-th numbers of all units, so weighted.
            basis = jnp.eye(k, dtype=s.dtype)[:, None, :] * weights.astype(s.dtype)[None, :, None]
            basis = jnp.expand_dims(basis, tuple(range(1, s.ndim - 1)))
            # Zeros made of s bring its placement along, which an Explicit mesh asks for.
            return jax.vmap(push, out_axes=-1)(jnp.zeros_like(s)[None] + basis)

        if self.exact:
            return after, columns(jnp.ones(units))
        if step is not None:
            # Where `pointwise` mixes units after all, what it adds to a unit's own is cancelled on average.
            signs = jax.random.rademacher(jax.random.key(0), (units,), s.dtype)
            a = columns(signs) * signs.reshape(*[1] * (s.ndim - 2), units, 1, 1)
        else:
            own = lambda u: columns(jnp.arange(units) == u)[..., u, :, :]  # noqa: E731
            a = jnp.moveaxis(lax.map(own, jnp.arange(units)), 0, -3)
        # Any A leads to the solution, but one that expands may overflow on its way; this costs no iterations.
        return after, a / jnp.maximum(1, jnp.abs(a).sum(axis=-1, keepdims=True).max(axis=-2, keepdims=True))

    def _advance(self, step: Callable, given: Given, before: jax.Array, at: tuple) -> jax.Array:
        z, real, restart = at
        # A flag on a masked step acts at once, as in the loop.
        before = self._restarted(given, before, restart)
        after = self.cut.join(step(given.params, self.cut.part(before), z)[0], before.dtype)
        return after if real is None else where(real, after, before)

    def _restarted(self, given: Given, before: jax.Array, restart: jax.Array | None) -> jax.Array:
        return before if restart is None else where(restart, given.initial, before)

    def _one_by_one(self, given: Given, flags: Flags) -> jax.Array:
        def body(before: jax.Array, at: tuple) -> tuple[jax.Array, jax.Array]:
            after = self._advance(self.cell.step, given, before, at)
            return after, after

        return lax.scan(body, given.state, (given.zs, *flags), reverse=self.reverse)[1]


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def trajectory(equation: Equation, given: Given, flags: Flags) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    """The trajectory `[T, *B, U, k]` under the derivative rule above; each row's residual and number of iterations."""
    s, residual, iterations = equation.iterate(given, flags)
    return s, (residual, iterations.astype(residual.dtype))


@trajectory.defjvp
def _(equation: Equation, primals: tuple, tangents: tuple) -> tuple[tuple, tuple]:
    given, flags = primals
    s, how = trajectory(equation, given, flags)

    def every(given: Given, s: jax.Array) -> jax.Array:
        return equation.every(given, flags, equation.before(given, s))

    _, b = jax.jvp(lambda given: every(given, s), (given,), (tangents[0],))
    _, a = equation.linearized(given, flags, s)
    if equation.exact:
        ds = block_scan(a, b, equation.reverse)
    else:
        _, push = jax.linearize(functools.partial(every, given), s)
        ds = _refined(equation, lambda v: v - push(v), lax.stop_gradient(a), b)
    return (s, how), (ds, jax.tree.map(jnp.zeros_like, how))


def _refined(equation: Equation, residual: Callable, a: jax.Array, b: jax.Array) -> jax.Array:
    # Of the true Jacobian there is only its product with a vector. To solve with it one step after another would take
    # as long as the loop that the iterations replace; the blocks that led to the trajectory lead to its derivative
    # too, in about as many iterations as at the end of that way, since it is the same error that they shrink, and in
    # T at most.
    def solver(a: jax.Array, reverse: bool) -> Callable:
        def refine(product: Callable, b: jax.Array) -> jax.Array:
            def body(carry: tuple) -> tuple:
                v, _, done = carry
                r, size = b - product(v), jnp.maximum(jnp.abs(b), jnp.abs(v))
                moves = jnp.abs(r).max(axis=(0, -2, -1)) > equation.tol * size.max(axis=(0, -2, -1))
                return v + jnp.where(moves[None, ..., None, None], solve(a, r, reverse), 0), moves, done + 1

            carry = (jnp.zeros_like(b), jnp.ones_like(b[0, ..., 0, 0], bool), 0)
            return lax.while_loop(lambda c: jnp.any(c[1]) & (c[2] < b.shape[0]), body, carry)[0]

        return refine

    transposed = shifted(jnp.swapaxes(a, -1, -2), -1, equation.reverse)
    return lax.custom_linear_solve(residual, b, solver(a, equation.reverse), solver(transposed, not equation.reverse))


def _step_by_units(cell: Cell, cut: Cut, params: Params) -> Callable | None:
    """A step with the same values, in whose derivative a unit's recurrent product sees that unit alone; or None."""
    if not isinstance(cell, AffineCell) or not cell.is_affine or not cut.stacked:
        return None
    if type(cell).project_state is not AffineCell.project_state:
        return None
    own = [jnp.diagonal(gate) for gate in cell.split(params.recurrent_kernel)]

    def step(params: Params, state: State, z: jax.Array) -> tuple[State, jax.Array]:
        still = lax.stop_gradient(state.h)
        moved, row = state.h - still, tuple(range(still.ndim - 1))
        u = cell.split(cell.project_state(params, still))
        u = tuple(u_g + moved * jnp.expand_dims(own_g, row) for u_g, own_g in zip(u, own, strict=True))
        return cell.pointwise(cell.other_params(params), cell.preactivations(cell.split(z), u), state)

    return step
