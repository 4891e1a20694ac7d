"""An oracle for the tests: one recurrent node of ONNX, called as ONNX calls it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from recurrax._check import describe
from recurrax._layer import Layer, Params
from recurrax._scan import scan
from recurrax.interop.onnx import _chain as chain
from recurrax.interop.onnx._graph import Graph
from recurrax.layers.compose import Directions


@dataclasses.dataclass(frozen=True, eq=False)
class OnnxRecurrence:
    """One recurrent node of ONNX's as a function in ONNX's own layout, with all that the node fixes.

    Args:
        layer: the layer that the node is.
        params: its parameters.
        layout: 0 for time before batch, 1 for batch before time and directions.
        sequence_lens: the lengths where a call gives none, `int[B]`; None for full sequences.
        initial_h: the initial h where a call gives none, `[D, B, H]`, or `[B, D, H]` with layout 1; None for zeros.
        initial_c: the same of c, for an LSTM.

    Example:
        >>> import jax, numpy as np, recurrax
        >>> from recurrax import interop
        >>> from onnx_recurrence import OnnxRecurrence
        >>> layer = recurrax.Bidirectional(recurrax.LSTMCell(4))
        >>> model = interop.to_onnx(layer, layer.init(jax.random.key(0), input_size=3))
        >>> lstm = OnnxRecurrence.read(model)
        >>> Y, Y_h, Y_c = lstm(np.ones((7, 2, 3), np.float32), sequence_lens=np.array([7, 5]))
        >>> Y.shape, Y_h.shape
        ((7, 2, 2, 4), (2, 2, 4))

    References:
        ONNX, `LSTM`, 2025, https://onnx.ai/onnx/operators/onnx__LSTM.html
    """

    layer: Layer
    params: Params
    layout: int = 0
    sequence_lens: Any = None
    initial_h: Any = None
    initial_c: Any = None

    @classmethod
    def read(cls, model: Any, *, node: str | None = None, weights: Mapping[str, Any] | None = None) -> OnnxRecurrence:
        """The one recurrent node of a model, or that of a name.

        Args:
            model: as in `from_onnx`.
            node: the name of the node, where there are several.
            weights: as in `from_onnx`; `sequence_lens`, `initial_h` and `initial_c` may be among them.

        Returns:
            The node.

        Raises:
            TypeError: as `from_onnx`.
            ValueError: as `from_onnx`, and if there are several nodes and no `node`.
            OSError: as `from_onnx`.
        """
        graph = Graph(model, weights)
        found, *others = chain.find(graph, node)
        if others:
            raise ValueError(
                f"`node` must name one node; there are {1 + len(others)}. `from_onnx` reads a complete stack."
            )
        return cls(*found.layer(), found.layout, **found.fixed())

    def __call__(
        self, X: Any, sequence_lens: Any = None, initial_h: Any = None, initial_c: Any = None
    ) -> tuple[jax.Array, ...]:
        """What the node computes.

        Args:
            X: `[T, B, I]`, or `[B, T, I]` with layout 1.
            sequence_lens: `int[B]`; by default what the node fixes, or full sequences.
            initial_h: `[D, B, H]`, or `[B, D, H]` with layout 1; by default what the node fixes, or zeros.
            initial_c: the same of c, for an LSTM.

        Returns:
            Y `[T, D, B, H]`, or `[B, T, D, H]` with layout 1, zero where steps are masked; Y_h, and for an LSTM Y_c,
            in the layout of `initial_h`: the states after the last unmasked step, the initial ones if there is none.

        Raises:
            TypeError: as `recurrax.scan`.
            ValueError: as `recurrax.scan`.
        """
        X = jnp.asarray(X)
        lengths = self.sequence_lens if sequence_lens is None else sequence_lens
        zeros = self.layer.initial_state((X.shape[1 - self.layout],), X.dtype)
        states = list(zeros) if isinstance(zeros, Directions) else [zeros]
        given = {
            "h": self.initial_h if initial_h is None else initial_h,
            "c": self.initial_c if initial_c is None else initial_c,
        }
        for field, array in given.items():
            if array is not None:
                states = self._begun(states, field, jnp.asarray(array))
        final, ys = scan(
            *(self.layer, self.params, X, Directions(*states) if len(states) == 2 else states[0]),
            lengths=None if lengths is None else jnp.asarray(lengths),
            time_major=not self.layout,
        )
        Y = ys.reshape(*ys.shape[:2], len(states), -1)
        finals = zip(*(final if len(states) == 2 else [final]), strict=True)
        # The axis of directions in a state has the number of the layout.
        Y_h_and_c = (jnp.stack(directions, axis=self.layout) for directions in finals)
        return (Y if self.layout else jnp.moveaxis(Y, 2, 1), *Y_h_and_c)

    def _begun(self, states: list[Any], field: str, array: jax.Array) -> list[Any]:
        """The states of each direction with the one that is given."""
        if field not in states[0]._fields:
            raise ValueError(f"`initial_{field}` must be None for {self.layer}; got {describe(array)}.")
        like = getattr(states[0], field)
        shape = (len(like), len(states), like.shape[-1]) if self.layout else (len(states), *like.shape)
        if array.shape != shape:
            raise ValueError(f"`initial_{field}` must be {list(shape)}; got {describe(array)}.")
        rows = jnp.moveaxis(array, self.layout, 0)
        return [state._replace(**{field: row}) for state, row in zip(states, rows, strict=True)]
