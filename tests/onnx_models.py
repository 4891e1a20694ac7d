"""Models of single ONNX nodes, drawn and put together for the tests."""

import random
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

import recurrax as rx
from recurrax import Reverse

T, B, I, H = 5, 3, 3, 4  # noqa: E741
GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}
FUNCTIONS = {"RNN": 1, "GRU": 2, "LSTM": 3}
# How many numbers each activation takes.
ACTIVATIONS = {
    **dict.fromkeys(("Tanh", "Sigmoid", "Relu", "Softsign", "Softplus"), 0),
    **dict.fromkeys(("LeakyRelu", "ThresholdedRelu", "Elu"), 1),
    **dict.fromkeys(("HardSigmoid", "Affine", "ScaledTanh"), 2),
}


STACK = rx.Stack(
    (rx.Bidirectional(rx.PeepholeLSTMCell(H)), rx.Bidirectional(rx.ElmanCell(5), merge="ave"), Reverse(rx.GRUCell(2)))
)
# What ONNX has and comes back as it was.


def model_of(nodes: list, feeds: dict, outputs: list[str], weights: dict, opset: int = 20) -> onnx.ModelProto:
    def described(name: str, array: np.ndarray | None) -> onnx.ValueInfoProto:
        kind = onnx.TensorProto.FLOAT if array is None else helper.np_dtype_to_tensor_dtype(array.dtype)
        return helper.make_tensor_value_info(name, kind, None if array is None else array.shape)

    inputs = [described(*feed) for feed in feeds.items()]
    constants = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    graph = helper.make_graph(nodes, "graph", inputs, [described(name, None) for name in outputs], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)


def random_node(seed: int, kind: str, **fixed: Any) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    """A model of one recurrent node with random attributes and optional inputs, and what to feed it."""
    rng = random.Random(f"{kind} {seed}")  # Small numbers alone would begin alike.
    numpy_rng = np.random.default_rng(seed)

    def draw(*shape: int) -> np.ndarray:
        return (0.4 * numpy_rng.standard_normal(shape)).astype(np.float32)

    direction = rng.choice(["forward", "reverse", "bidirectional"])
    D, G = 1 + (direction == "bidirectional"), GATES[kind]
    attributes: dict[str, Any] = {"hidden_size": H, "direction": direction}
    if rng.random() < 0.3:
        attributes["clip"] = rng.choice([0.25, 0.5, 2.0])
    if kind != "RNN" and rng.random() < 0.4:
        attributes["linear_before_reset" if kind == "GRU" else "input_forget"] = 1
    if rng.random() < 0.5:
        names, alpha, beta = [], [], []
        for place in range(D * FUNCTIONS[kind]):
            # A gate without bounds may make a state explode.
            gate = kind != "RNN" and place % FUNCTIONS[kind] == 0
            names.append(rng.choice(["Sigmoid", "HardSigmoid", "Softsign"] if gate else list(ACTIVATIONS)))
            alpha += [rng.uniform(0.1, 0.9)] * (ACTIVATIONS[names[-1]] > 0)
            beta += [rng.uniform(0.1, 0.9)] * (ACTIVATIONS[names[-1]] > 1)
        numbers = {"activation_alpha": alpha, "activation_beta": beta}
        attributes |= {"activations": names} | {name: value for name, value in numbers.items() if value}
    weights = {"W": draw(D, G * H, I), "R": draw(D, G * H, H)}
    weights |= {"B": draw(D, 2 * G * H)} if rng.random() < 0.7 else {}
    weights |= {"P": draw(D, 3 * H)} if kind == "LSTM" and rng.random() < 0.5 else {}
    feeds = {"X": draw(T, B, I)}
    feeds |= {"sequence_lens": numpy_rng.integers(1, T + 1, B).astype(np.int32)} if rng.random() < 0.6 else {}
    feeds |= {"initial_h": draw(D, B, H)} if rng.random() < 0.6 else {}
    feeds |= {"initial_c": draw(D, B, H)} if kind == "LSTM" and rng.random() < 0.6 else {}
    order = ["X", "W", "R", "B", "sequence_lens", "initial_h", *(["initial_c", "P"] if kind == "LSTM" else [])]
    inputs = [name if name in weights or name in feeds else "" for name in order]
    outputs = ["Y", "Y_h", *(["Y_c"] if kind == "LSTM" else [])]
    node = helper.make_node(kind, inputs, outputs, "node", **attributes | fixed)
    return model_of([node], feeds, outputs, weights), feeds
