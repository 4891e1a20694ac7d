"""One recurrent node of ONNX, with its attributes and inputs."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from recurrax._check import describe
from recurrax._layer import Layer, Params
from recurrax.interop.onnx._activations import decimal, read
from recurrax.interop.onnx._graph import Graph, named
from recurrax.interop.onnx._operator import DEFAULTS, GATES, Operator, cell_of
from recurrax.layers.compose import Bidirectional, Directions, Reverse

_DIRECTIONS = {"forward": 1, "reverse": 1, "bidirectional": 2}
_INPUTS = ("X", "W", "R", "B", "sequence_lens", "initial_h", "initial_c", "P")
_FLOATS = {"float32", "float16", "float64", "bfloat16"}


class Node:
    """A recurrent node: its attributes and its inputs by their names in ONNX's specification.

    Args:
        graph: the graph that it is in.
        proto: the node itself.

    Raises:
        ValueError: if an attribute has a value that it must not have.
    """

    def __init__(self, graph: Graph, proto: Any) -> None:
        from onnx import helper

        graph.check(proto)
        self.graph, self.proto, self.kind = graph, proto, proto.op_type
        self.attributes: dict[str, Any] = {}
        for attribute in proto.attribute:
            value = helper.get_attribute_value(attribute)
            self.attributes[attribute.name] = value
        # An input that is missing has the name "".
        inputs = dict(zip(_INPUTS, proto.input, strict=False))
        self.inputs = {name: value for name, value in inputs.items() if value}
        direction = self.attributes.get("direction", b"forward")
        self.direction = direction.decode(errors="replace")
        if self.direction not in _DIRECTIONS:
            must = f"one of {', '.join(_DIRECTIONS)}"
            raise self.wrong("direction", must, repr(self.direction))
        self.directions = _DIRECTIONS[self.direction]
        for name in ("layout", "input_forget", "linear_before_reset"):
            if self.attributes.get(name, 0) not in (0, 1):
                raise self.wrong(name, "0 or 1", self.attributes[name])
        self.layout = self.attributes.get("layout", 0)  # 0 is [T, B, I], 1 is [B, T, I]
        clip = self.attributes.get("clip")
        if clip is not None and not clip > 0:
            raise self.wrong("clip", "above 0", clip)
        # The attribute is a float32. Its decimal is the number in the exporter's code.
        self.clip = None
        if clip is not None:
            self.clip = decimal(clip)

    def wrong(self, name: str, expected: str, got: Any) -> ValueError:
        """The error for a part of the node."""
        return ValueError(f"`{name}` of {named(self.proto)} must be {expected}; got {got}.")

    def array(self, name: str, *shape: int | None) -> np.ndarray | None:
        """An input that is known before the model runs. In its shape, None is any size above 0."""
        if name not in self.inputs:
            return None
        array = self.graph.array(self.inputs[name])
        if array is None:
            return None
        # Where the shape is free, any size above 0 fits.
        wanted = []
        for size, must in zip(array.shape, shape, strict=False):
            wanted.append(must or max(size, 1))
        if array.ndim != len(shape) or list(array.shape) != wanted:
            sizes = ", ".join(map(str, shape)).replace("None", "any")
            raise self.wrong(name, f"[{sizes}]", describe(array))
        return array

    def weight(self, name: str, *shape: int | None) -> np.ndarray:
        """A weight that the node must have."""
        array = self.array(name, *shape)
        if array is None:
            must = "must be known before the model runs"
            got = "none."
            if name in self.inputs:
                got = f"the value {self.inputs[name]!r}. "
                got += "If that is a graph input, give its array in `weights`."
            raise ValueError(f"`{name}` of {named(self.proto)} {must}; got {got}")
        return array

    @functools.cached_property
    def hidden_size(self) -> int:
        """The number of features H that `R` is for."""
        return self.weight("R", self.directions, None, None).shape[-1]

    @functools.cached_property
    def input_size(self) -> int:
        """The number of features I that `W` is for."""
        return self.weight("W", self.directions, None, None).shape[-1]

    def functions(self) -> list[list]:
        """The functions f, g and h of each direction."""
        defaults = DEFAULTS[self.kind]
        written = self.attributes.get("activations", ())
        names = [name.decode(errors="replace") for name in written]
        count = len(defaults) * self.directions
        # The schema of an RNN has two functions by default, whatever the direction.
        if self.kind == "RNN" and len(names) == 2:
            names = names[:count]
        if len(names) not in (0, count):
            raise self.wrong("activations", f"{count} names", len(names))
        functions = defaults * self.directions
        if names:
            alpha = self.attributes.get("activation_alpha", ())
            beta = self.attributes.get("activation_beta", ())
            functions = read(names, alpha, beta)
        # The functions of the second direction follow those of the first.
        own = len(defaults)
        if self.directions == 1:
            return [functions]
        return [functions[:own], functions[own:]]

    def operators(self) -> list[Operator]:
        """The operator of each direction.

        Raises:
            ValueError: if a weight is missing, or of another shape or dtype than the rest ask for.
        """
        D, G, H = self.directions, GATES[self.kind], self.hidden_size
        said = self.attributes.get("hidden_size", H)
        if said != H:
            raise self.wrong("hidden_size", f"{H}, the size that `R` is for", said)
        W = self.weight("W", D, G * H, None)
        R = self.weight("R", D, G * H, H)
        weights = [W, R]
        # Biases and peepholes are optional, but must be known if the node has them.
        B: Any = [None] * D
        P: Any = [None] * D
        if "B" in self.inputs:
            B = self.weight("B", D, 2 * G * H)
            weights.append(B)
        if "P" in self.inputs:
            P = self.weight("P", D, 3 * H)
            weights.append(P)
        dtypes = {str(array.dtype) for array in weights}
        if len(dtypes) > 1 or not dtypes <= _FLOATS:
            must = "of one floating dtype with the other weights"
            raise self.wrong("W", must, ", ".join(sorted(dtypes)))
        self.graph.use(weights)
        coupled = bool(self.attributes.get("input_forget", 0))
        reset_after = bool(self.attributes.get("linear_before_reset", 0))
        operators = []
        for d, functions in enumerate(self.functions()):
            operator = Operator(
                self.kind,
                functions,
                self.clip,
                coupled,
                reset_after,
                W[d],
                R[d],
                B[d],
                P[d],
            )
            operators.append(operator)
        return operators

    def layer(self, merge: Any = "concat") -> tuple[Layer, Params]:
        """The layer of the node, and its parameters."""
        cells, params = zip(*map(cell_of, self.operators()), strict=True)
        if self.direction == "bidirectional":
            return Bidirectional(cells[0], cells[1], merge), Directions(*params)
        if self.direction == "reverse":
            return Reverse(cells[0]), params[0]
        return cells[0], params[0]

    def fixed(self) -> dict[str, Any]:
        """The lengths and the initial states that the model fixes, in the node's layout.

        Raises:
            ValueError: if one is of another shape or dtype than there must be.
        """
        # [D, B, H], or [B, D, H] if the batch comes first.
        batch = [self.directions, None]
        if self.layout:
            batch.reverse()
        arrays = {
            "sequence_lens": self.array("sequence_lens", None),
            "initial_h": self.array("initial_h", *batch, self.hidden_size),
            "initial_c": self.array("initial_c", *batch, self.hidden_size),
        }
        lengths = arrays["sequence_lens"]
        if lengths is not None and not np.issubdtype(lengths.dtype, np.integer):
            raise self.wrong("sequence_lens", "of an integer dtype", describe(lengths))
        # An input that only the model's user gives is None.
        return {name: array for name, array in arrays.items() if array is not None}
