"""Linear recurrences with the axis of time spread over devices."""

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
from recurrax.cells.linear import LinearCell
from recurrax.implementations import linear


@dataclasses.dataclass(frozen=True)
class TimeSharded:
    """An `implementation` of linear recurrences in which every device takes its own part of the sequence.

    A device solves its part from zero, h_t = a_t * h_{t-1} + b_t, with the products of its a up to each step. One
    exchange of what the parts end in tells each device the state it begins with, which those products carry along.

    Args:
        mesh: the devices.
        axis: the name of the mesh axis that the time axis lies on; other axes, of a batch say, stay as they are.
        within: how each device takes its part, "sequential", "associative" or "blocked".

    Raises:
        ValueError: if the mesh has no such axis of type Auto, or `within` is none of the three; at the call, if the
            layer's recurrence is not linear.

    Example:
        >>> import jax, jax.numpy as jnp, recurrax
        >>> from jax.sharding import NamedSharding, PartitionSpec
        >>> mesh = jax.make_mesh((jax.device_count(),), ("time",), axis_types=(jax.sharding.AxisType.Auto,))
        >>> cell = recurrax.MinGRUCell(4)
        >>> params = cell.init(jax.random.key(0), input_size=3)
        >>> xs = jax.device_put(jnp.ones((2, 64, 3)), NamedSharding(mesh, PartitionSpec(None, "time")))
        >>> state, ys = recurrax.scan(cell, params, xs, implementation=recurrax.implementations.TimeSharded(mesh, "time"))
        >>> ys.shape
        (2, 64, 4)

    References:
        Martin and Cundy, Parallelizing linear recurrent neural nets over sequence length (section 2.3), 2018,
        https://arxiv.org/abs/1709.04057
    """

    mesh: Mesh
    axis: str
    within: str = "blocked"

    takes_composites: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_fields(self)
        if not isinstance(self.mesh, (Mesh, AbstractMesh)):
            raise TypeError(f"`mesh` must be a jax.sharding.Mesh; got {self.mesh!r}.")
        if self.axis not in self.mesh.axis_names:
            raise ValueError(f"`axis` must be one of the mesh axes {self.mesh.axis_names}; got {self.axis!r}.")
        kind = dict(zip(self.mesh.axis_names, self.mesh.axis_types, strict=True))[self.axis]
        if kind is not AxisType.Auto:
            raise ValueError(
                f"`mesh` must have {self.axis!r} as an axis of type Auto, since steps are shifted along it; got {kind}."
                " Make it with jax.make_mesh(..., axis_types=(jax.sharding.AxisType.Auto,))."
            )
        if self.within not in linear.SOLVERS:
            names = ", ".join(f'"{name}"' for name in linear.SOLVERS)
            raise ValueError(f'`within` must be one of {names}; got "{self.within}".')

    def refuses(self, cell: Cell, *args: Any, **facts: Any) -> str | None:
        """Why a cell cannot be run so, or None."""
        return linear.refuses(cell, *args, **facts)

    def run(self, cell: LinearCell, params: Params, state: State, xs: Any, **walk: Any) -> tuple[State, jax.Array]:
        """All steps at once, as the other implementations of linear recurrences."""
        return linear.run(self._solve, cell, params, state, xs, **walk)

    def _solve(self, a: jax.Array, b: jax.Array, restart: jax.Array | None, reverse: bool) -> jax.Array:
        steps, devices = b.shape[0], self.mesh.shape[self.axis]
        missing = -steps % devices

        def padded(x: jax.Array) -> jax.Array:
            # Steps of zeros stand behind the last one in the direction of the walk, where nothing reads them.
            return jnp.pad(x, [(missing, 0) if reverse else (0, missing)] + [(0, 0)] * (x.ndim - 1))

        part = functools.partial(_part, linear.SOLVERS[self.within], self.axis, reverse)
        spec = PartitionSpec(self.axis)
        spread: Callable = jax.shard_map(part, mesh=self.mesh, in_specs=spec, out_specs=spec, axis_names={self.axis})
        hs = spread(*jax.tree.map(padded, (a, b, restart)))
        return hs[missing:] if reverse else hs[:steps]


def _part(
    solve: Callable, axis: str, reverse: bool, a: jax.Array, b: jax.Array, restart: jax.Array | None
) -> jax.Array:
    """One device's share of the steps."""
    hs, kept = solve(a, b, restart, reverse), lax.cumprod(a, axis=0, reverse=reverse)
    # Whether a restart stands between the beginning of this share and a step: then nothing from before reaches it.
    cut = None if restart is None else lax.cummax(restart.astype(jnp.int32), axis=0, reverse=reverse) > 0
    end = 0 if reverse else -1
    products, sums, cuts = lax.all_gather(jax.tree.map(lambda x: x[end], (kept, hs, cut)), axis)
    carried = linear.sequential(products, sums, cuts, reverse)
    before = lax.axis_index(axis) + (1 if reverse else -1)
    inside = (before >= 0) & (before < carried.shape[0])
    begin = jnp.where(inside, carried[jnp.clip(before, 0, carried.shape[0] - 1)], jnp.zeros_like(carried[0]))
    return linear.after(cut, kept, begin[None], hs)
