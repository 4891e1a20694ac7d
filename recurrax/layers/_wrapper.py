"""What every layer around another has of that one, and how layers change the steps of a cell within them."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar, Self

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from recurrax._layer import Cell, Layer, Params, ScanContext, State
from recurrax.cells.affine import AffineCell, Gates


@dataclasses.dataclass(frozen=True, repr=False)
class Wrapper(Layer):
    """A layer around another, with the parameters and the state of that one."""

    layer: Layer

    @property
    def parts(self) -> tuple[Layer, ...]:
        """The layer."""
        return (self.layer,)

    def init(self, key: jax.Array, input_size: int, dtype: DTypeLike = jnp.float32) -> Params:
        """Draws the parameters of the layer."""
        return self.layer.init(key, input_size, dtype)

    def initial_state(self, batch_shape: tuple[int, ...] = (), dtype: DTypeLike = jnp.float32) -> State:
        """The initial state of the layer."""
        return self.layer.initial_state(batch_shape, dtype)

    def first_state(self, params: Params, batch_shape: tuple[int, ...] = (), dtype: DTypeLike = jnp.float32) -> State:
        """The first state of the layer."""
        return self.layer.first_state(params, batch_shape, dtype)

    def output_size(self, input_size: int) -> int:
        """That of the layer."""
        return self.layer.output_size(input_size)


@dataclasses.dataclass(frozen=True, repr=False)
class CellWrapper(Wrapper):
    """A layer that changes how a cell takes its steps; one may stand around another.

    It puts a cell of its own in the place of the cell, which then walks with the kernels that serve it.
    """

    keeps_affine: ClassVar[bool] = True  # whether what it makes of an affine cell is one

    @property
    def cell(self) -> Layer:
        """The cell within all layers of this kind."""
        return self.layer.cell if isinstance(self.layer, CellWrapper) else self.layer

    @property
    def affine_cell(self) -> AffineCell | None:
        """The cell, if what stands in its place is still an affine one."""
        layer: Layer = self.layer
        while isinstance(layer, CellWrapper) and layer.keeps_affine:
            layer = layer.layer
        return layer if isinstance(layer, AffineCell) else None

    @abc.abstractmethod
    def around(self, cell: Any, key: jax.Array | None, params: Params, state: State, xs: Any) -> tuple:
        """What walks in the place of a cell: another cell, its parameters and its inputs."""

    def dressed(self, key: jax.Array | None, params: Params, state: State, xs: Any) -> tuple[Cell, Params, Any]:
        """The cell in all that stands around it, with its parameters and its inputs."""
        cell: Any = self.layer
        if isinstance(cell, CellWrapper):
            key, within = (None, None) if key is None else jax.random.split(key)
            cell, params, xs = cell.dressed(within, params, state, xs)
        return self.around(cell, key, params, state, xs)

    def apply(self, context: ScanContext, params: Params, state: State, xs: Any) -> tuple[State, jax.Array]:
        """Runs the cell in all that stands around it."""
        cell, params, xs = self.dressed(context.key, params, state, xs)
        return context.scan(cell, params, state, xs)


@dataclasses.dataclass(frozen=True, repr=False)
class StandIn(Cell):
    """A cell in the place of another.

    Whatever an implementation asks of a cell is passed on here, and only here, but for the step itself.
    """

    cell: Cell = dataclasses.field(default=None, kw_only=True)  # type: ignore[assignment]

    @classmethod
    def of(cls, cell: Cell, **options: Any) -> Self:
        """One for this cell."""
        return cls(cell.hidden_size, cell=cell, dtype=cell.dtype, **options)

    def inner(self, params: Params) -> Params:
        """The parameters of the cell."""
        return params

    @property
    def feature_ndim(self) -> int:
        return self.cell.feature_ndim

    @property
    def independent_units(self) -> bool:  # type: ignore[override]
        return self.cell.independent_units

    @property
    def exact(self) -> tuple[str, ...]:  # type: ignore[override]
        return self.cell.exact

    @property
    def output_part(self) -> str | None:  # type: ignore[override]
        return self.cell.output_part

    @property
    def alters_gradient(self) -> bool:  # type: ignore[override]
        return self.cell.alters_gradient

    def init(self, key: jax.Array, input_size: int, dtype: DTypeLike = jnp.float32) -> Params:
        return self.cell.init(key, input_size, dtype)

    def initial_state(self, batch_shape: tuple[int, ...] = (), dtype: DTypeLike = jnp.float32) -> State:
        return self.cell.initial_state(batch_shape, dtype)

    def first_state(self, params: Params, batch_shape: tuple[int, ...] = (), dtype: DTypeLike = jnp.float32) -> State:
        return self.cell.first_state(self.inner(params), batch_shape, dtype)

    @property
    def reads_time(self) -> bool:
        return self.cell.reads_time

    def output_size(self, input_size: int) -> int:
        return self.cell.output_size(input_size)

    def project_inputs(self, params: Params, xs: Any) -> Any:
        return self.cell.project_inputs(self.inner(params), xs)

    def output(self, params: Params, state: State, z: Any) -> jax.Array | None:
        return self.cell.output(self.inner(params), state, z)

    def state_parts(self, state: State) -> tuple[jax.Array, ...]:
        return self.cell.state_parts(state)

    def mix_states(self, keep: Sequence[Any], old: State, new: State) -> State:
        return self.cell.mix_states(keep, old, new)


@dataclasses.dataclass(frozen=True, repr=False)
class AroundAffineCell(StandIn, AffineCell):
    """An affine cell in the place of another, so that the same kernels serve it; by itself it changes nothing."""

    cell: AffineCell = dataclasses.field(default=None, kw_only=True)  # type: ignore[assignment]

    @property
    def gates(self) -> int:  # type: ignore[override]
        return self.cell.gates

    @property
    def is_affine(self) -> bool:
        return self.cell.is_affine

    def project_state(self, params: Params, h: jax.Array) -> jax.Array:
        return self.cell.project_state(self.inner(params), h)

    def preactivations(self, z: Gates, u: Gates) -> Gates:
        return self.cell.preactivations(z, u)

    def pointwise(self, params: Params, a: Gates, state: State) -> tuple[State, jax.Array]:
        return self.cell.pointwise(params, a, state)

    def other_params(self, params: Params) -> Params:
        return self.cell.other_params(self.inner(params))
