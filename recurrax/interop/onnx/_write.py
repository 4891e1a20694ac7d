"""Layers as nodes of ONNX. A layer adds nodes that compute its outputs and its final state."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from recurrax._layer import Layer
from recurrax.interop._support import library, unsupported
from recurrax.interop.onnx import _activations as activations
from recurrax.interop.onnx._operator import CELLS, DEFAULTS, Operator, operator_of
from recurrax.layers.compose import Bidirectional, Directions, Residual, Reverse, Stack
from recurrax.layers.dense import Activation, Dense
from recurrax.layers.dropout import Dropout
from recurrax.layers.gated import Branches, Gated
from recurrax.layers.gradient_clip import GradientClip
from recurrax.layers.norm import LayerNorm
from recurrax.layers.recurrent_dropout import RecurrentDropout, UpdateDropout
from recurrax.layers.recurrent_noise import RecurrentNoise
from recurrax.layers.weight_drop import WeightDrop

_OPSET, _IR_VERSION = 20, 9  # The first opset that has Gelu; older ones have all else.
Described = tuple[Any, tuple[int | str, ...]]

_TRAINING_ONLY = (WeightDrop, RecurrentDropout, UpdateDropout, RecurrentNoise, GradientClip)
_COMPOSED = (Stack, Bidirectional, Reverse, Residual, Gated, Dense, Activation, LayerNorm, Dropout)
# Functions that are operators in ONNX, beside the activations of its recurrent operators.
_FUNCTIONS: dict[Any, tuple[str, dict[str, Any]]] = {
    jax.nn.gelu: ("Gelu", {"approximate": "tanh"}),
    jax.nn.hard_silu: ("HardSwish", {}),
    jax.nn.log_softmax: ("LogSoftmax", {"axis": -1}),
    jax.nn.mish: ("Mish", {}),
    jax.nn.selu: ("Selu", {}),
    jax.nn.softmax: ("Softmax", {"axis": -1}),
    jnp.exp: ("Exp", {}),
}


class Writer:
    """The nodes and the constants of a graph, in the order in which they come.

    Args:
        lengths: the name of the lengths, or "" for none.
    """

    def __init__(self, lengths: str = "") -> None:
        library("onnx", "recurrax[interop]")
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self.lengths = lengths

    def add(self, kind: str, *inputs: str, output: str = "", **attributes: Any) -> str:
        """Adds a node with one output; returns the name of the output."""
        name = output or f"{kind}_{len(self.nodes)}"
        self._node(kind, inputs, [name], attributes)
        return name

    def constant(self, value: Any, dtype: Any = np.int64) -> str:
        """Adds a constant; returns its name."""
        from onnx import numpy_helper

        name = f"constant_{len(self.constants)}"
        array = np.asarray(value, dtype)
        self.constants.append(numpy_helper.from_array(array, name))
        return name

    def _weights(self, array: Any) -> str:
        return self.constant(array, array.dtype)

    def model(self, name: str, inputs: dict[str, Described], outputs: dict[str, Described]) -> Any:
        """The `ModelProto` of all nodes, checked.

        `inputs` and `outputs` have a dtype and a shape for each name.
        """
        from onnx import checker, helper

        def infos(values: dict[str, Described]) -> list[Any]:
            made = []
            for name, (dtype, shape) in values.items():
                kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
                made.append(helper.make_tensor_value_info(name, kind, shape))
            return made

        graph = helper.make_graph(self.nodes, name, infos(inputs), infos(outputs), self.constants)
        model = helper.make_model(
            graph,
            producer_name="recurrax",
            opset_imports=[helper.make_opsetid("", _OPSET)],
            # Without this onnx writes its own newest version, which older readers refuse.
            ir_version=_IR_VERSION,
        )
        checker.check_model(model, full_check=True)
        return model

    def _node(
        self, kind: str, inputs: Any, outputs: list[str], attributes: dict[str, Any]
    ) -> list[str]:
        from onnx import helper

        name = f"{kind}_{len(self.nodes)}"
        node = helper.make_node(kind, list(inputs), outputs, name, **attributes)
        self.nodes.append(node)
        return outputs

    def layer(
        self, layer: Any, params: Any, state: Any, xs: str, reverse: bool = False
    ) -> tuple[Any, str]:
        """Adds a layer over `xs` `[T, B, I]`.

        Args:
            layer: the layer.
            params: its parameters.
            state: the names of its initial state, in the structure of the state; "" for zeros.
            xs: the name of its inputs.
            reverse: whether it runs from the last step to the first.

        Returns:
            The names of its final state and of its outputs `[T, B, O]`.

        Raises:
            TypeError: if ONNX cannot hold the layer.
            ValueError: if ONNX cannot hold an option of the layer.
        """
        # These do nothing without a key.
        while isinstance(layer, _TRAINING_ONLY):
            layer = layer.layer
        if type(layer) in CELLS:
            direction = "forward"
            if reverse:
                direction = "reverse"
            operator = operator_of(layer, params)
            [final], ys = self._recurrence([operator], direction, [state], xs)
            return final, self.add("Squeeze", ys, self.constant([1]))
        if type(layer) is Bidirectional:
            return self._bidirectional(layer, params, state, xs, reverse)
        # The parts of all other layers add nodes one after another.
        if type(layer) is Stack:
            states = []
            for part, own, before in zip(layer.layers, params, state, strict=True):
                after, xs = self.layer(part, own, before, xs, reverse)
                states.append(after)
            return tuple(states), xs
        if type(layer) is Reverse:
            return self.layer(layer.layer, params, state, xs, not reverse)
        if type(layer) is Residual:
            after, ys = self.layer(layer.layer, params, state, xs, reverse)
            return after, self.add("Add", xs, ys)
        if type(layer) is Gated:
            main, gate = layer.layer, layer.gate
            after, ys = self.layer(main, params.layer, state.layer, xs, reverse)
            after_gate, zs = self.layer(gate, params.gate, state.gate, xs, reverse)
            return Branches(after, after_gate), self.add("Mul", ys, zs)
        return state, self._stateless(layer, params, xs)

    def _stateless(self, layer: Layer, params: Any, xs: str) -> str:
        # Without a key dropout does nothing.
        if type(layer) is Dropout:
            return xs
        if type(layer) is Activation:
            return self._function(layer.function, xs)
        if type(layer) is Dense:
            ys = self.add("MatMul", xs, self._weights(params.kernel))
            if params.bias is not None:
                ys = self.add("Add", ys, self._weights(params.bias))
            if layer.activation is not None:
                ys = self._function(layer.activation, ys)
            return ys
        if type(layer) is LayerNorm:
            options: dict[str, Any] = {"axis": -1, "epsilon": layer.epsilon}
            scale = self._weights(params.scale)
            bias = self._weights(params.bias)
            return self.add("LayerNormalization", xs, scale, bias, **options)
        supported = [kind.__name__ for kind in (*CELLS, *_COMPOSED)]
        raise unsupported("layer", layer, supported, "ONNX has no operator for it.")

    def _function(self, function: Any, xs: str) -> str:
        if function is jax.nn.identity:
            return xs
        if function is jax.nn.silu:
            return self.add("Mul", xs, self.add("Sigmoid", xs))
        if function in _FUNCTIONS:
            kind, options = _FUNCTIONS[function]
            return self.add(kind, xs, **options)
        # The recurrent operators know two functions that are no operators.
        kind, numbers = activations.named(function)
        if kind in ("Affine", "ScaledTanh"):
            must = "must stand within a recurrent layer for ONNX"
            raise ValueError(f"{kind} {must}; it is no operator of its own.")
        pairs = zip(("alpha", "beta"), numbers, strict=False)
        attributes: dict[str, Any] = dict(pairs)
        return self.add(kind, xs, **attributes)

    def _bidirectional(
        self, layer: Bidirectional, params: Any, state: Any, xs: str, reverse: bool
    ) -> tuple[Directions, str]:
        # One node runs both directions if they share all attributes.
        forward, backward = layer.parts
        if not reverse and type(forward) in CELLS and type(backward) in CELLS:
            ahead = operator_of(forward, params.forward)
            back = operator_of(backward, params.backward)
            if _shared(ahead) == _shared(back):
                return self._both([ahead, back], layer.merge, state, xs)
        # Else each direction is a layer.
        end, ys = self.layer(forward, params.forward, state.forward, xs, reverse)
        start, zs = self.layer(backward, params.backward, state.backward, xs, not reverse)
        final = Directions(end, start)
        if layer.merge == "concat":
            return final, self.add("Concat", ys, zs, axis=-1)
        kind = {"sum": "Add", "mul": "Mul", "ave": "Mean"}[layer.merge]
        return final, self.add(kind, ys, zs)

    def _both(
        self, both: list[Operator], merge: str, state: Any, xs: str
    ) -> tuple[Directions, str]:
        after, ys = self._recurrence(both, "bidirectional", list(state), xs)
        final = Directions(*after)
        if merge == "concat":
            # [T, D, B, H] to [T, B, D*H]; 0 keeps an axis.
            ys = self.add("Transpose", ys, perm=[0, 2, 1, 3])
            shape = self.constant([0, 0, 2 * both[0].hidden_size])
            return final, self.add("Reshape", ys, shape)
        kind = {"sum": "ReduceSum", "mul": "ReduceProd", "ave": "ReduceMean"}[merge]
        return final, self.add(kind, ys, self.constant([1]), keepdims=0)

    def _recurrence(
        self, both: list[Operator], direction: str, states: list[Any], xs: str
    ) -> tuple[list[Any], str]:
        """Adds the operator itself, in one direction or two; its outputs are `[T, D, B, H]`."""
        first = both[0]
        W = self._stacked(both, "W")  # [D, G*H, I]
        R = self._stacked(both, "R")  # [D, G*H, H]
        B = self._stacked(both, "B")  # [D, 2*G*H]
        P = self._stacked(both, "P")  # [D, 3*H]
        initial = map(self._joined, zip(*states, strict=True))
        inputs = [xs, W, R, B, self.lengths, *initial]
        if first.kind == "LSTM":
            inputs.append(P)
        # "" stands for a missing input, but not at the end.
        while not inputs[-1]:
            inputs.pop()

        # Defaults are left out, so that the node is short.
        functions: list[Any] = []
        for operator in both:
            functions += operator.functions
        attributes: dict[str, Any] = {
            "hidden_size": first.hidden_size,
            "direction": direction,
        }
        if functions != DEFAULTS[first.kind] * len(both):
            attributes |= activations.write(functions)
        if first.clip is not None:
            attributes["clip"] = first.clip
        if first.coupled:
            attributes["input_forget"] = 1
        if first.kind == "GRU":
            attributes["linear_before_reset"] = int(first.reset_after)
        name = f"{first.kind}_{len(self.nodes)}"
        names = [f"{name}_{field}" for field in states[0]._fields]
        ys, *finals = self._node(first.kind, inputs, [name, *names], attributes)

        after = []
        for d, before in enumerate(states):
            # The parts of one direction's state.
            parts = []
            for final, own in zip(finals, before, strict=True):
                parts.append(self._final(final, d, own))
            after.append(type(before)(*parts))
        return after, ys

    def _stacked(self, both: list[Operator], name: str) -> str:
        """A weight of all directions as one constant; "" if no direction has it."""
        arrays = [getattr(operator, name) for operator in both]
        present = [array for array in arrays if array is not None]
        if not present:
            return ""
        # Zeros stand for the weight of a direction without it.
        zeros = np.zeros_like(present[0])
        for d, array in enumerate(arrays):
            if array is None:
                arrays[d] = zeros
        return self.constant(np.stack(arrays), both[0].W.dtype)

    def _joined(self, names: tuple[str, ...]) -> str:
        """The states `[B, H]` of all directions as one array `[D, B, H]`."""
        if not names[0]:
            return ""
        rows = []
        for name in names:
            row = self.add("Unsqueeze", name, self.constant([0]))
            rows.append(row)
        if len(rows) == 1:
            return rows[0]
        return self.add("Concat", *rows, axis=0)

    def _final(self, final: str, direction: int, before: str) -> str:
        """The final state `[B, H]` of one direction.

        ONNX does not define the final state of length 0. Here it is the state before.
        """
        state = self.add("Gather", final, self.constant(direction), axis=0)
        if not self.lengths or not before:
            return state
        return self.add("Where", self._any_step, state, before)

    @functools.cached_property
    def _any_step(self) -> str:
        """`bool[B, 1]`, whether the length is above 0."""
        positive = self.add("Greater", self.lengths, self.constant(0, np.int32))
        return self.add("Unsqueeze", positive, self.constant([1]))

    def masked(self, ys: str, dtype: Any) -> str:
        """`ys` `[T, B, O]` with zeros at masked steps."""
        from onnx import TensorProto

        time = self.add("Shape", ys, start=0, end=1)  # [1]
        time = self.add("Squeeze", time, self.constant([0]))
        steps = self.add("Range", self.constant(0), time, self.constant(1))  # [T]
        steps = self.add("Unsqueeze", steps, self.constant([1]))  # [T, 1]
        lengths = self.add("Cast", self.lengths, to=TensorProto.INT64)  # [B]
        mask = self.add("Less", steps, lengths)  # [T, B]
        mask = self.add("Unsqueeze", mask, self.constant([2]))  # [T, B, 1]
        return self.add("Where", mask, ys, self.constant(0, dtype))


def _shared(operator: Operator) -> tuple:
    """The options and shapes that both directions of a node share."""
    return (
        operator.kind,
        operator.clip,
        operator.coupled,
        operator.reset_after,
        operator.W.shape,
        operator.R.shape,
    )
