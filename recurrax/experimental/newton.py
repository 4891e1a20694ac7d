"""Newton iterations over the whole trajectory: a nonlinear recurrence in parallel over time."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp

from recurrax._arguments import check_fields, check_number
from recurrax._dtype import cast, compute_dtype, promote
from recurrax._layer import Cell, Layer, Params, State, features
from recurrax._mask import where
from recurrax.experimental._trajectory import Equation, Flags, Given, trajectory
from recurrax.experimental._units import Cut

# A state of up to this size takes its full Jacobian if nothing else is asked for.
_SMALL = 32


class NewtonReport(NamedTuple):
    """How the iterations of `Newton` went, row by row.

    Attributes:
        iterations: `int[*B]`, how often the trajectory was changed.
        residual: `[*B]`, the largest abs(f_t(s_{t-1}) - s_t) / (1 + abs(s_t)) of what they arrived at.
        converged: `bool[*B]`, whether that is within the tolerance.
    """

    iterations: jax.Array
    residual: jax.Array
    converged: jax.Array


@dataclasses.dataclass(frozen=True, repr=False)
class Newton:
    """An `implementation` of `scan` that evaluates any cell in parallel over time, by Newton iterations.

    d_t = A_t @ d_{t-1} + f_t(s_{t-1}) - s_t,  s <- s + d,

    from a first guess s of all states at once, until s_t = f_t(s_{t-1}) at every step. Each iteration is a linear
    recurrence, evaluated in about 2 log T rounds; A_t is the Jacobian of the step, or what of it is cheap. At most T
    iterations are needed, a handful where the cell contracts, about T where it is chaotic. Derivatives are those of the
    equation s_t = f_t(s_{t-1}), to every order, whatever the iterations were.

    A row that has not converged within `max_iterations`, or whose inputs are not finite, is never returned as if it
    had: its state, outputs and gradients are NaN. `newton_report` says how the iterations went.

    States are iterated, and products formed, in float32 at least: no iteration can settle below the rounding of its
    map.

    Args:
        jacobian: "full" takes the whole Jacobian, `[S, S]` for the S numbers of a state, in O(S^3) operations a step
            and iteration; "diagonal" what each unit has of its own past, one number, or k x k for a state of k parts,
            in O(S), with more iterations. `None` takes the full one up to S = 32. Where a cell's
            `independent_units` says so, the two are the same, exact and O(S).
        damping: A is (1 - damping) times the Jacobian, in [0, 1). Cells that expand may need fewer iterations with
            about 0.1; others need more.
        tol: the residual, relative to 1 + abs(s_t), at which a row has converged; by default 8 units of rounding, 1e-6
            in float32.
        max_iterations: the most iterations, T by default.
        fallback: whether to take one step after another, for all rows, if a row has not converged.

    Raises:
        ValueError: if an option is none of these.

    Example:
        >>> import jax, jax.numpy as jnp, recurrax
        >>> cell = recurrax.GRUCell(4)
        >>> params = cell.init(jax.random.key(0), input_size=3)
        >>> xs = jax.random.normal(jax.random.key(1), (2, 100, 3))
        >>> state, ys = recurrax.scan(cell, params, xs, implementation=recurrax.experimental.Newton(max_iterations=20))
        >>> bool(jnp.allclose(ys, recurrax.scan(cell, params, xs)[1], atol=1e-5))
        True

    References:
        Lim et al., Parallelizing non-linear sequential models over the sequence length (the full Jacobian), 2024,
        https://arxiv.org/abs/2309.12252

        Gonzalez et al., Towards scalable and stable parallelization of nonlinear RNNs (the diagonal; the damping is
        that of appendix A.4), 2024, https://arxiv.org/abs/2407.19115
    """

    jacobian: Literal["full", "diagonal"] | None = None
    damping: float = 0.0
    tol: float | None = None
    max_iterations: int | None = None
    fallback: bool = False

    takes_composites: ClassVar[bool] = False
    __repr__ = Layer.__repr__

    def __post_init__(self) -> None:
        check_fields(self)
        if self.jacobian not in ("full", "diagonal", None):
            raise ValueError(f'`jacobian` must be "full", "diagonal" or None; got {self.jacobian!r}.')
        if not 0 <= self.damping < 1:
            raise ValueError(f"`damping` must be at least 0 and below 1; got {self.damping}.")
        if self.tol is not None and not self.tol > 0:
            raise ValueError(f"`tol` must be above 0, or None; got {self.tol}.")
        if self.max_iterations is not None:
            check_number("max_iterations", self.max_iterations)

    def run(self, cell: Cell, params: Params, state: State, xs: Any, **walk: Any) -> tuple[State, jax.Array]:
        """Takes all steps at once, again and again."""
        equation, given, flags = self._pose(cell, params, state, xs, **walk)
        s, mask = jnp.zeros((features(xs).shape[0], *given.state.shape), given.state.dtype), flags[0]
        if not s.shape[0]:
            return state, equation.outputs(given, flags, s).astype(features(xs).dtype)
        s, (residual, _) = trajectory(equation, given, flags)
        # Factors, not choices: the gradients of a row that is not solved shall be NaN too.
        solved = jnp.where(residual <= equation.tol, 1, jnp.nan)

        def of_solved(rows: jax.Array) -> jax.Array:
            return rows * jnp.expand_dims(solved, tuple(range(solved.ndim, rows.ndim))).astype(rows.dtype)

        final = equation.cut.part(of_solved(s[0 if equation.reverse else -1]))
        state = jax.tree.map(lambda new, old: new.astype(old.dtype), final, state)
        ys = jax.vmap(of_solved)(equation.outputs(given, flags, s)).astype(features(xs).dtype)
        return state, ys if mask is None else where(mask, ys, jnp.zeros_like(ys))

    def refuses(self, cell: Cell, params: Params, state: State, *_: Any, **__: Any) -> str | None:
        """Why a cell has no such form, or None."""
        if cell.alters_gradient:
            return "its derivative is that of the equation, and the cell alters what flows back through each step."
        others = {str(leaf.dtype) for leaf in jax.tree.leaves(state) if not jnp.issubdtype(leaf.dtype, jnp.floating)}
        return f"its state must be of real numbers; got {', '.join(sorted(others))}." if others else None

    def report(self, cell: Cell, params: Params, state: State, xs: Any, **given: Any) -> NewtonReport:
        """How the iterations go; arguments as those of `run`. `fallback` is left aside."""
        equation, given_arrays, flags = dataclasses.replace(self, fallback=False)._pose(
            cell, params, state, xs, **given
        )
        row = given_arrays.state[..., 0, 0]  # [*B]
        residual = iterations = jnp.zeros_like(row)
        if features(xs).shape[0]:
            _, (residual, iterations) = trajectory(equation, given_arrays, flags)
        return NewtonReport(iterations.astype(jnp.int32), residual, residual <= equation.tol)

    def _pose(
        self,
        cell: Cell,
        params: Params,
        state: State,
        xs: Any,
        *,
        initial: State,
        mask: jax.Array | None,
        restart: jax.Array | None,
        reverse: bool,
        **_: Any,
    ) -> tuple[Equation, Given, Flags]:
        dtype = promote(compute_dtype(cell, params, xs), jnp.float32, *(s.dtype for s in jax.tree.leaves(state)))
        params = cast(params, dtype)
        size = sum(math.prod(part.shape) for part in jax.tree.leaves(jax.eval_shape(cell.initial_state)))
        apart = cell.independent_units
        full = not apart and (self.jacobian or ("full" if size <= _SMALL else "diagonal")) == "full"
        equation = Equation(
            cell,
            Cut.of(cell, single=full),
            exact=full or apart,
            reverse=reverse,
            tol=float(8 * jnp.finfo(dtype).eps) if self.tol is None else self.tol,
            limit=features(xs).shape[0] if self.max_iterations is None else self.max_iterations,
            damping=self.damping,
            fallback=self.fallback,
        )
        zs = cell.project_inputs(params, cast(xs, dtype))
        join = lambda state: equation.cut.join(state, dtype)  # noqa: E731
        return equation, Given(params, join(state), join(initial), zs), (mask, restart)
