"""Linear recurrences with the time axis spread over devices."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import AbstractMesh, AxisType, Mesh, PartitionSpec

from recurrax._arguments import check_fields
from recurrax._layer import Cell, Params, State
from recurrax._mask import Steps
from recurrax.cells.linear import LinearCell
from recurrax.implementations import linear


@dataclasses.dataclass(frozen=True)
class TimeSharded:
    """An `implementation` of linear recurrences: every device runs its own part of the sequence.

    A device solves its part of h_t = a_t * h_{t-1} + b_t from zero. It also forms the products of
    its a up to each step. The devices then exchange the ends of their parts once. From these ends
    each device learns the state before its part, and the products carry this state to every step.

    Args:
        mesh: the devices.
        axis: the name of the mesh axis on which the time axis lies. Other axes, such as a batch
            axis, stay the same.
        within: how each device runs its part, "sequential", "associative" or "blocked".

    Raises:
        ValueError: if the mesh has no such axis of type Auto, or `within` is none of the three.
            At the call, if the layer's recurrence is not linear.

    Example:
        >>> import jax, jax.numpy as jnp, recurrax
        >>> from jax.sharding import AxisType, NamedSharding, PartitionSpec
        >>> mesh = jax.make_mesh((jax.device_count(),), ("time",), axis_types=(AxisType.Auto,))
        >>> cell = recurrax.MinGRUCell(4)
        >>> params = cell.init(jax.random.key(0), input_size=3)
        >>> by_time = NamedSharding(mesh, PartitionSpec(None, "time"))
        >>> xs = jax.device_put(jnp.ones((2, 64, 3)), by_time)
        >>> sharded = recurrax.implementations.TimeSharded(mesh, "time")
        >>> state, ys = recurrax.scan(cell, params, xs, implementation=sharded)
        >>> ys.shape
        (2, 64, 4)

    References:
        Martin and Cundy, Parallelizing linear recurrent neural nets over sequence length
        (section 2.3), 2018, https://arxiv.org/abs/1709.04057
    """

    mesh: Mesh
    axis: str
    within: str = "blocked"

    takes_composites: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_fields(self)
        if not isinstance(self.mesh, (Mesh, AbstractMesh)):
            raise TypeError(f"`mesh` must be a jax.sharding.Mesh; got {self.mesh!r}.")
        names = self.mesh.axis_names
        if self.axis not in names:
            raise ValueError(f"`axis` must be one of the mesh axes {names}; got {self.axis!r}.")
        # The exchange between devices needs an axis that JAX places by itself.
        kind = dict(zip(names, self.mesh.axis_types, strict=True))[self.axis]
        if kind is not AxisType.Auto:
            raise ValueError(
                f"`mesh` must have {self.axis!r} as an axis of type Auto, since steps are shifted"
                f" along it; got {kind}."
                " Make it with jax.make_mesh(..., axis_types=(jax.sharding.AxisType.Auto,))."
            )
        if self.within not in linear.SOLVERS:
            solvers = ", ".join(f'"{name}"' for name in linear.SOLVERS)
            raise ValueError(f'`within` must be one of {solvers}; got "{self.within}".')

    def refuses(self, cell: Cell, *_: Any) -> str | None:
        """Why this implementation cannot run a cell, or None."""
        return linear.refuses(cell)

    def run(
        self, cell: LinearCell, params: Params, state: State, xs: Any, steps: Steps, **options: Any
    ) -> tuple[State, jax.Array]:
        """Takes all steps at once, like the other implementations of linear recurrences."""
        return linear.run(self._solve, cell, params, state, xs, steps, **options)

    def run_states(self, *args: Any, **options: Any) -> tuple[State, Any]:
        """Also returns the state after each step."""
        return self.run(*args, keeps_states=True, **options)

    def _solve(
        self, a: jax.Array, b: jax.Array, restart: jax.Array | None, reverse: bool
    ) -> jax.Array:
        steps, devices = b.shape[0], self.mesh.shape[self.axis]
        missing = -steps % devices

        def pad_steps(x: jax.Array) -> jax.Array:
            # Zeros follow the last step in the direction of the loop. Nothing reads them.
            ends = (missing, 0) if reverse else (0, missing)
            return jnp.pad(x, [ends] + [(0, 0)] * (x.ndim - 1))  # [T + missing, ...]

        solver = linear.SOLVERS[self.within]
        solve_share = functools.partial(_solve_share, solver, self.axis, reverse)
        spec = PartitionSpec(self.axis)
        on_devices: Callable = jax.shard_map(
            solve_share, mesh=self.mesh, in_specs=spec, out_specs=spec, axis_names={self.axis}
        )
        hs = on_devices(*jax.tree.map(pad_steps, (a, b, restart)))  # [T + missing, *B, H]
        return hs[missing:] if reverse else hs[:steps]  # [T, *B, H]


def _solve_share(
    solve: Callable,
    axis: str,
    reverse: bool,
    a: jax.Array,
    b: jax.Array,
    restart: jax.Array | None,
) -> jax.Array:
    """One device's share of the steps: S of the T steps, on one of N devices."""
    hs = solve(a, b, restart, reverse)  # [S, *B, H]
    products = lax.cumprod(a, axis=0, reverse=reverse)  # [S, *B, H]
    # Whether a restart lies between the beginning of this share and a step.
    # If it does, the state before this share does not reach the step.
    restarted = None
    if restart is not None:
        restarted = lax.cummax(restart.astype(jnp.int32), axis=0, reverse=reverse) > 0  # [S, *B]
    # Every device gets the ends of all shares and solves the short recurrence over them.
    end = 0 if reverse else -1
    share_end = jax.tree.map(lambda x: x[end], (products, hs, restarted))  # [*B, H], flags [*B]
    all_a, all_b, all_restarted = lax.all_gather(share_end, axis)  # [N, *B, H], flags [N, *B]
    states = linear.sequential(all_a, all_b, all_restarted, reverse)  # [N, *B, H]
    # The state before this share is the end of the share before it; the first share has none.
    before = lax.axis_index(axis) + (1 if reverse else -1)
    exists = (before >= 0) & (before < states.shape[0])
    neighbor = states[jnp.clip(before, 0, states.shape[0] - 1)]  # [*B, H]
    begin = jnp.where(exists, neighbor, jnp.zeros_like(states[0]))  # [*B, H]
    return linear.after(restarted, products, begin[None], hs)  # [S, *B, H]
