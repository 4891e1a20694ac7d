"""Newton iterations over all states at once: a nonlinear recurrence in parallel over time."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp

from recurrax._arguments import check_fields, check_number
from recurrax._dtype import cast, compute_dtype, promote
from recurrax._layer import Cell, Layer, Params, State, features
from recurrax._mask import Steps
from recurrax.experimental._trajectory import Equation, Inputs, trajectory
from recurrax.experimental._units import UnitLayout

# Up to this size of a state, `jacobian=None` means the full Jacobian.
_SMALL = 32


class NewtonReport(NamedTuple):
    """A report on the iterations of `Newton`, row by row.

    Attributes:
        iterations: `int[*B]`, how often the trajectory was changed.
        residual: `[*B]`, the largest abs(f_t(s_{t-1}) - s_t) / (1 + abs(s_t)) of the result.
        converged: `bool[*B]`, whether the residual is within the tolerance.
    """

    iterations: jax.Array
    residual: jax.Array
    converged: jax.Array


@dataclasses.dataclass(frozen=True, repr=False)
class Newton:
    """An `implementation` of `scan` that runs any cell in parallel over time, by Newton iterations.

    d_t = A_t @ d_{t-1} + f_t(s_{t-1}) - s_t,  s <- s + d

    The iterations start from a guess s of all states and end when s_t = f_t(s_{t-1}) at every
    step. Each iteration is a linear recurrence, computed in about 2 log T rounds. A_t is the
    Jacobian of the step, or a cheap part of it. At most T iterations are needed: a handful where
    the cell contracts, about T where it is chaotic. The derivatives are the derivatives of the
    equation s_t = f_t(s_{t-1}), to every order, whatever the iterations were.

    A row may fail to converge within `max_iterations`, or its inputs may not be finite. The
    state, outputs and gradients of such a row are NaN. `newton_report` describes the iterations.

    States and products have at least float32. No iteration can settle below the rounding error
    of its step.

    Args:
        jacobian: "full" takes all of the Jacobian, `[S, S]` for the S numbers of a state. It costs
            O(S^3) operations for each step and iteration. "diagonal" takes each unit's dependence
            on its own past: one number, or k x k for a state of k parts. It costs O(S) and needs
            more iterations. `None` means "full" up to S = 32. Where a cell has
            `independent_units`, the two are the same, exact and O(S).
        damping: A is (1 - damping) times the Jacobian, in [0, 1). Cells that expand may need fewer
            iterations with about 0.1. Other cells need more.
        tol: the residual, relative to 1 + abs(s_t), at which a row has converged. By default, it
            is 8 units of rounding, 1e-6 in float32.
        max_iterations: the largest number of iterations, T by default.
        fallback: whether all rows run one step after another if a row has not converged.

    Raises:
        ValueError: if an option has no allowed value.

    Example:
        >>> import jax, jax.numpy as jnp, recurrax
        >>> cell = recurrax.GRUCell(4)
        >>> params = cell.init(jax.random.key(0), input_size=3)
        >>> xs = jax.random.normal(jax.random.key(1), (2, 100, 3))
        >>> newton = recurrax.experimental.Newton(max_iterations=20)
        >>> state, ys = recurrax.scan(cell, params, xs, implementation=newton)
        >>> bool(jnp.allclose(ys, recurrax.scan(cell, params, xs)[1], atol=1e-5))
        True

    References:
        Lim et al., Parallelizing non-linear sequential models over the sequence length
        (the full Jacobian), 2024, https://arxiv.org/abs/2309.12252

        Gonzalez et al., Towards scalable and stable parallelization of nonlinear RNNs
        (the diagonal; appendix A.4 has the damping), 2024, https://arxiv.org/abs/2407.19115
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
            raise ValueError(
                f'`jacobian` must be "full", "diagonal" or None; got {self.jacobian!r}.'
            )
        if not 0 <= self.damping < 1:
            raise ValueError(f"`damping` must be at least 0 and below 1; got {self.damping}.")
        if self.tol is not None and not self.tol > 0:
            raise ValueError(f"`tol` must be above 0, or None; got {self.tol}.")
        if self.max_iterations is not None:
            check_number("max_iterations", self.max_iterations)

    def run(
        self,
        cell: Cell,
        params: Params,
        state: State,
        xs: Any,
        steps: Steps,
        *,
        initial: State,
        keeps_states: bool = False,
        **others: Any,
    ) -> tuple[State, Any]:
        """Computes all steps at once, again and again; `keeps_states` adds the state after each."""
        equation, inputs = self._set_up(cell, params, state, xs, steps, initial)
        number, output = features(xs).shape[0], features(xs).dtype

        def in_dtypes_of_state(new: State) -> State:
            return jax.tree.map(lambda new, old: new.astype(old.dtype), new, state)

        if not number:
            s = jnp.zeros((0, *inputs.state.shape), inputs.state.dtype)  # [0, *B, U, k]
            ys = equation.outputs(inputs, steps, s).astype(output)
            if keeps_states:
                return state, (ys, in_dtypes_of_state(equation.layout.split(s)), None)
            return state, ys
        s, (residual, _) = trajectory(equation, inputs, steps)  # [T, *B, U, k], residual [*B]
        # Factors, not choices: the gradients of an unsolved row become NaN too.
        solved = jnp.where(residual <= equation.tol, 1, jnp.nan)  # [*B]

        def spoil_unsolved(rows: jax.Array) -> jax.Array:
            trailing = tuple(range(solved.ndim, rows.ndim))
            return rows * jnp.expand_dims(solved, trailing).astype(rows.dtype)  # [*B, ...]

        last = s[0 if equation.reverse else -1]  # [*B, U, k]
        final = in_dtypes_of_state(equation.layout.split(spoil_unsolved(last)))
        ys = jax.vmap(spoil_unsolved)(equation.outputs(inputs, steps, s))  # [T, *B, O]
        ys = steps.zero_masked(ys.astype(output))
        if not keeps_states:
            return final, ys
        states = equation.layout.split(jax.vmap(spoil_unsolved)(s))  # leaves [T, *B, ...]
        return final, (ys, in_dtypes_of_state(states), None)

    def run_states(self, *args: Any, **options: Any) -> tuple[State, Any]:
        """Also returns the state after each step."""
        return self.run(*args, keeps_states=True, **options)

    def refuses(self, cell: Cell, params: Params, state: State, *_: Any) -> str | None:
        """Why a cell has no such form, or None."""
        if cell.alters_gradient:
            return (
                "its derivative is that of the equation,"
                " and the cell alters what flows back through each step."
            )
        dtypes = {leaf.dtype for leaf in jax.tree.leaves(state)}
        others = sorted(str(d) for d in dtypes if not jnp.issubdtype(d, jnp.floating))
        if others:
            return f"its state must be of real numbers; got {', '.join(others)}."
        return None

    def report(
        self, cell: Cell, params: Params, state: State, xs: Any, steps: Steps, *, initial: State
    ) -> NewtonReport:
        """Describes the iterations. It takes the arguments of `run` and ignores `fallback`."""
        iterating = dataclasses.replace(self, fallback=False)
        equation, inputs = iterating._set_up(cell, params, state, xs, steps, initial)
        residual = iterations = jnp.zeros_like(inputs.state[..., 0, 0])  # [*B]
        if features(xs).shape[0]:
            _, (residual, iterations) = trajectory(equation, inputs, steps)  # [*B] each
        converged = residual <= equation.tol
        return NewtonReport(iterations.astype(jnp.int32), residual, converged)

    def _takes_full_jacobian(self, cell: Cell) -> bool:
        """Whether the state is one unit, so that A is all of the Jacobian."""
        # Independent units have no entries outside their own blocks.
        if cell.independent_units:
            return False
        if self.jacobian is not None:
            return self.jacobian == "full"
        parts = jax.tree.leaves(jax.eval_shape(cell.initial_state))
        return sum(math.prod(part.shape) for part in parts) <= _SMALL

    def _set_up(
        self,
        cell: Cell,
        params: Params,
        state: State,
        xs: Any,
        steps: Steps,
        initial: State,
    ) -> tuple[Equation, Inputs]:
        """The equation of the trajectory, and its inputs."""
        # At least float32, and at least the precision of the products and of the state.
        state_dtypes = [leaf.dtype for leaf in jax.tree.leaves(state)]
        dtype = promote(compute_dtype(cell, params, xs), jnp.float32, *state_dtypes)
        params = cast(params, dtype)
        full = self._takes_full_jacobian(cell)
        layout = UnitLayout.of(cell, single=full)
        tol = self.tol
        if tol is None:
            tol = float(8 * jnp.finfo(dtype).eps)
        limit = self.max_iterations
        if limit is None:
            limit = features(xs).shape[0]
        equation = Equation(
            cell,
            layout,
            exact=full or cell.independent_units,
            reverse=steps.reverse,
            tol=tol,
            limit=limit,
            damping=self.damping,
            fallback=self.fallback,
        )
        zs = cell.project_inputs(params, cast(xs, dtype))  # [T, *B, G*H]
        first, initial = layout.join(state, dtype), layout.join(initial, dtype)  # [*B, U, k]
        return equation, Inputs(params, first, initial, zs)
