"""Cells of the reader's own, as Keras has them: a call with an input and a list of states."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from recurrax._layer import Cell as CoreCell
from recurrax._layer import Params
from recurrax.compat.keras._cell import AnyCell
from recurrax.compat.keras._layer import Shape


@dataclasses.dataclass(frozen=True, repr=False)
class _ModuleCell(CoreCell):
    """A module's call as the step of a cell, whose parameters are the module's variables and its state a tuple."""

    graph: Any = None
    structure: Any = None
    leaves: tuple[tuple[tuple[int, ...], Any], ...] = ()
    sizes: tuple[int, ...] = ()

    def init(self, key: jax.Array, input_size: int, dtype: DTypeLike = jnp.float32) -> Params:
        # The module drew its own; this says what they look like.
        return jax.tree.unflatten(self.structure, [jnp.zeros(*leaf) for leaf in self.leaves])

    def initial_state(self, batch_shape: tuple[int, ...] = (), dtype: DTypeLike = jnp.float32) -> tuple:
        return tuple(jnp.zeros((*batch_shape, size), dtype) for size in self.sizes)

    def step(self, params: Params, state: tuple, z: jax.Array) -> tuple[tuple, jax.Array]:
        output, states = nnx.merge(self.graph, params)(z, list(state))
        return tuple(jax.tree.leaves(states)), output


@dataclasses.dataclass(eq=False, repr=False)
class Custom(AnyCell):
    """A module with a `state_size` that is called with an input and a list of states."""

    module: Any = nnx.data()  # noqa: RUF009

    @property
    def sublayers(self) -> tuple:
        """The module."""
        return (self.module,)

    @property
    def sizes(self) -> tuple[int, ...]:
        """The number of features of each part of the state."""
        return tuple(jax.tree.leaves(self.module.state_size))

    @property
    def state_size(self) -> Any:
        """That of the module."""
        return self.module.state_size

    @property
    def output_size(self) -> int:
        """That of the module, or the size of the first part of its state."""
        return getattr(self.module, "output_size", self.sizes[0])

    @property
    def core(self) -> _ModuleCell:  # type: ignore[override]
        """The module as a cell of the core."""
        graph, params = nnx.split(self.module)
        leaves, structure = jax.tree.flatten(params)
        shapes = tuple((leaf.shape, leaf.dtype) for leaf in leaves)
        return _ModuleCell(self.output_size, graph=graph, structure=structure, leaves=shapes, sizes=self.sizes)

    def params(self) -> Params:
        """The module's variables."""
        return nnx.split(self.module)[1]

    def next_key(self) -> None:
        """No randomness."""
        return

    def output_of(self, state: Any) -> jax.Array:
        """The first part of the state, as Keras takes it to be."""
        return state[0]

    @property
    def built(self) -> bool:
        """Whether the module says so, if it is built at all."""
        return getattr(self.module, "built", not hasattr(self.module, "build"))

    def build(self, input_shape: Shape) -> None:
        """Builds the module for inputs of one step, `[B, I]`."""
        self.module.build(input_shape)


def cell_of(value: Any) -> Any:
    """A cell as it is, and a module that is like one as a cell; anything else as it is."""
    is_like_one = isinstance(value, nnx.Module) and hasattr(value, "state_size") and callable(value)
    return Custom(value) if is_like_one and not isinstance(value, AnyCell) else value
