"""Layers that hold one other layer, and layers that change the steps of a cell."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar, Self

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from recurrax._layer import Cell, Gate, Layer, Params, ScanContext, State
from recurrax.cells.affine import AffineCell, Gates, Update, unchanged


@dataclasses.dataclass(frozen=True, repr=False)
class Wrapper(Layer):
    """A layer that holds another layer and has its parameters and its state."""

    layer: Layer

    @property
    def parts(self) -> tuple[Layer, ...]:
        """Returns the layer."""
        return (self.layer,)

    def init(self, key: jax.Array, input_size: int, dtype: DTypeLike = jnp.float32) -> Params:
        """Draws the parameters of the layer."""
        return self.layer.init(key, input_size, dtype)

    def initial_state(
        self, batch_shape: tuple[int, ...] = (), dtype: DTypeLike = jnp.float32
    ) -> State:
        """Returns the initial state of the layer."""
        return self.layer.initial_state(batch_shape, dtype)

    def first_state(
        self, params: Params, batch_shape: tuple[int, ...] = (), dtype: DTypeLike = jnp.float32
    ) -> State:
        """Returns the first state of the layer."""
        return self.layer.first_state(params, batch_shape, dtype)

    def output_size(self, input_size: int) -> int:
        """Returns the output size of the layer."""
        return self.layer.output_size(input_size)


@dataclasses.dataclass(frozen=True, repr=False)
class CellWrapper(Wrapper):
    """A layer that changes the steps of a cell. It may hold another layer of this kind.

    The layer replaces the cell by another cell. `scan` then runs the replacement with any
    implementation that serves it.
    """

    # Whether the replacement of an affine cell is an affine cell.
    keeps_affine: ClassVar[bool] = True

    @property
    def cell(self) -> Layer:
        """Returns the cell below all layers of this kind."""
        if isinstance(self.layer, CellWrapper):
            return self.layer.cell
        return self.layer

    @property
    def affine_cell(self) -> AffineCell | None:
        """Returns the cell, if its replacement is still an affine cell."""
        # A layer that does not keep the cell affine ends the search.
        layer: Layer = self.layer
        while isinstance(layer, CellWrapper) and layer.keeps_affine:
            layer = layer.layer
        if isinstance(layer, AffineCell):
            return layer
        return None

    @abc.abstractmethod
    def replacement(
        self, cell: Any, key: jax.Array | None, params: Params, state: State, xs: Any
    ) -> tuple:
        """Returns the cell that runs in the place of `cell`, its parameters and its inputs."""

    def wrapped_cell(
        self, key: jax.Array | None, params: Params, state: State, xs: Any
    ) -> tuple[Cell, Params, Any]:
        """Returns the cell with the changes of all layers, its parameters and its inputs."""
        cell: Any = self.layer
        if isinstance(cell, CellWrapper):
            # The layers below change the cell first. They get their own part of the randomness.
            below = None
            if key is not None:
                key, below = jax.random.split(key)
            cell, params, xs = cell.wrapped_cell(below, params, state, xs)
        return self.replacement(cell, key, params, state, xs)

    def apply(
        self, context: ScanContext, params: Params, state: State, xs: Any
    ) -> tuple[State, jax.Array]:
        """Runs the cell with the changes of all layers."""
        cell, params, xs = self.wrapped_cell(context.key, params, state, xs)
        return context.scan(cell, params, state, xs)


@dataclasses.dataclass(frozen=True, repr=False)
class StandIn(Cell):
    """A cell that replaces another cell.

    Every question of an implementation goes on to the replaced cell, except the step. All these
    answers are here.
    """

    # The statements are about the replaced cell. So they hold, whatever methods are here.
    rests_on: ClassVar[dict[str, tuple[str, ...]]] = {}

    # A dataclass needs a default behind the fields of `Cell`; `of` always gives a cell.
    cell: Cell = dataclasses.field(default=None, kw_only=True)  # type: ignore[assignment]

    @classmethod
    def of(cls, cell: Cell, **options: Any) -> Self:
        """Makes a replacement for this cell."""
        return cls(cell.hidden_size, cell=cell, dtype=cell.dtype, **options)

    def cell_params(self, params: Params) -> Params:
        """Returns the parameters of the replaced cell; a subclass may add arrays to its own."""
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

    def param_shapes(self, input_size: int) -> Params:
        return self.cell.param_shapes(input_size)

    def initial_state(
        self, batch_shape: tuple[int, ...] = (), dtype: DTypeLike = jnp.float32
    ) -> State:
        return self.cell.initial_state(batch_shape, dtype)

    def first_state(
        self, params: Params, batch_shape: tuple[int, ...] = (), dtype: DTypeLike = jnp.float32
    ) -> State:
        return self.cell.first_state(self.cell_params(params), batch_shape, dtype)

    @property
    def reads_time(self) -> bool:
        return self.cell.reads_time

    def output_size(self, input_size: int) -> int:
        return self.cell.output_size(input_size)

    def project_inputs(self, params: Params, xs: Any) -> Any:
        return self.cell.project_inputs(self.cell_params(params), xs)

    def output(self, params: Params, state: State, z: Any) -> jax.Array | None:
        return self.cell.output(self.cell_params(params), state, z)

    def gate_values(self, params: Params, state: State, xs: Any) -> dict[str, Gate]:
        if not self.cell.tells_gates:
            return {}
        return self.cell.gate_values(self.cell_params(params), state, xs)

    def state_parts(self, state: State) -> tuple[jax.Array, ...]:
        return self.cell.state_parts(state)

    def mix_states(self, keep: Sequence[Any], old: State, new: State) -> State:
        return self.cell.mix_states(keep, old, new)


@dataclasses.dataclass(frozen=True, repr=False)
class AffineStandIn(StandIn, AffineCell):
    """An affine cell that replaces another affine cell, for the same implementations.

    By itself it changes nothing. A subclass changes single methods.
    """

    cell: AffineCell = dataclasses.field(default=None, kw_only=True)  # type: ignore[assignment]

    @property
    def gates(self) -> int:  # type: ignore[override]
        return self.cell.gates

    @property
    def is_affine(self) -> bool:  # type: ignore[override]
        return self.cell.is_affine

    # A subclass may have other parameters than the cell, so no other code may read them.
    plain_inputs: ClassVar[bool] = False
    plain_state: ClassVar[bool] = False

    @property
    def adds_gates(self) -> bool:  # type: ignore[override]
        return self.cell.adds_gates

    def project_state(self, params: Params, h: jax.Array) -> jax.Array:
        return self.cell.project_state(self.cell_params(params), h)

    def preactivations(self, z: Gates, u: Gates) -> Gates:
        return self.cell.preactivations(z, u)

    def pointwise(
        self, params: Params, a: Gates, state: State, update: Update = unchanged
    ) -> tuple[State, jax.Array]:
        # A user's cell may have no argument `update`.
        if update is unchanged:
            return self.cell.pointwise(params, a, state)
        return self.cell.pointwise(params, a, state, update)

    def other_params(self, params: Params) -> Params:
        return self.cell.other_params(self.cell_params(params))

    def pointwise_gates(
        self, params: Params, a: Gates, state: State, update: Update = unchanged
    ) -> dict[str, Gate]:
        if not self.cell.tells_gates:
            return {}
        # A user's cell may have no argument `update`.
        if update is unchanged:
            return self.cell.pointwise_gates(params, a, state)
        return self.cell.pointwise_gates(params, a, state, update)

    def gate_values(self, params: Params, state: State, xs: Any) -> dict[str, Gate]:
        # The products are here, and the gates there. Other cells answer by themselves.
        if self.is_affine:
            return AffineCell.gate_values(self, params, state, xs)
        return super().gate_values(params, state, xs)
