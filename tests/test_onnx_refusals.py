"""ONNX models that are damaged, foreign or beyond what can be said: refused, or complete."""

import os
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import onnx
import pytest
from onnx import helper

import recurrax as rx
from onnx_models import GATES, STACK, B, H, I, T, model_of, random_node
from recurrax import Reverse
from recurrax.interop import Clipped, from_onnx, to_onnx
from recurrax.interop.onnx import _chain, _graph
from recurrax.testing import perturbed_params


def edited(model: onnx.ModelProto, rng: random.Random) -> onnx.ModelProto:
    """The same model with one field set to what should not be there."""
    copy = onnx.ModelProto.FromString(model.SerializeToString())
    graph, tensor = copy.graph, rng.choice(copy.graph.initializer)
    node = rng.choice([node for node in graph.node if node.op_type in GATES])
    attribute = rng.choice(node.attribute)
    match rng.randrange(16):
        case 0:
            tensor.dims.append(rng.choice([-1, 0, 3, 2**40]))
        case 1:
            del tensor.dims[rng.randrange(len(tensor.dims) + 1) :]
            tensor.dims.append(rng.choice([-1, 0, 5, 2**62]))
        case 2:
            tensor.data_type = rng.randrange(-3, 40)
        case 3:
            tensor.data_location = onnx.TensorProto.EXTERNAL
            tensor.external_data.add(key="location", value=rng.choice(["/etc/passwd", "..", "", "\0"]))
        case 4:
            graph.initializer.remove(tensor)
        case 5:
            tensor.raw_data = tensor.raw_data[: rng.randrange(len(tensor.raw_data))]
        case 6:
            node.input[0] = node.output[0]
        case 7:
            node.op_type = rng.choice(["RNN", "GRU", "LSTM", "Relu"])
        case 8:
            node.attribute.add(name=rng.choice(["clip", "layout", "direction", "beam"]), type=rng.randrange(15), f=-1.0)
        case 9:
            attribute.i = rng.choice([-1, 0, 7, 2**62])
        case 10:
            attribute.s = rng.randbytes(4)
        case 11:
            attribute.ref_attr_name = "other"
        case 12:
            del node.input[rng.randrange(len(node.input)) :]
        case 13:
            node.input[rng.randrange(len(node.input))] = rng.choice([*(t.name for t in graph.initializer), "none"])
        case 14:
            copy.opset_import[0].version = rng.choice([-1, 0, 6, 99, 2**40])
        case 15:
            graph.node.add().CopyFrom(node)
    return copy


def damaged(data: bytes, rng: random.Random) -> bytes:
    """The same bytes, cut off, changed, fewer or more."""
    at, some = rng.randrange(len(data)), rng.randbytes(rng.randrange(1, 9))
    return rng.choice([data[:at], data[:at] + some + data[at + len(some) :], data[:at] + data[at + len(some) :],
                       data[:at] + some + data[at:]])  # fmt: skip


@pytest.mark.thorough
def test_damaged_models_are_refused_or_whole() -> None:
    models = [to_onnx(STACK, perturbed_params(STACK, I), state=True, lengths=True)]
    models += [random_node(seed, kind)[0] for seed, kind in ((0, "LSTM"), (1, "GRU"), (2, "RNN"))]
    refused = []
    for seed in range(600):
        rng = random.Random(seed)
        model = rng.choice(models)
        bad = edited(model, rng) if seed % 2 else damaged(model.SerializeToString(), rng)
        try:
            rx.infer_input_size(*from_onnx(bad))
        except (ValueError, TypeError) as error:
            refused.append(str(error))
    assert len(refused) > 400
    assert all(re.match(r"`\w+`", message) for message in refused), [m for m in refused if m[0] != "`"]


def test_chains_are_searched_once() -> None:
    """Many nodes at the end of one long way: a step for each node, not for each pair of them."""
    number = 300
    way = [helper.make_node("Identity", [f"x{i}"], [f"x{i + 1}"]) for i in range(number)]
    last = [helper.make_node("GRU", [f"x{number}", "W", "R"], [f"y{i}"], hidden_size=H) for i in range(number)]
    weights = {"W": np.ones((1, 3 * H, I), np.float32), "R": np.ones((1, 3 * H, H), np.float32)}
    graph = _graph.Graph(model_of([*way, *last], {"x0": np.zeros((T, B, I), np.float32)}, ["y0"], weights), None)

    class Counted(dict):
        steps = 0

        def get(self, *arguments: Any) -> Any:
            self.steps += 1
            return super().get(*arguments)

    graph.producers = Counted(graph.producers)
    with pytest.raises(ValueError, match="must name one recurrent node where they are no stack"):
        _chain.find(graph, None)
    assert graph.producers.steps <= 3 * number
    # A way that goes in a circle ends too.
    circle = [helper.make_node("Identity", [x], [y]) for x, y in ("ab", "ba")]
    circle += [helper.make_node("GRU", [x, "W", "R"], [y], hidden_size=H) for x, y in ("ay", "yz", "bu")]
    with pytest.raises(ValueError, match="must name one recurrent node where they are no stack"):
        from_onnx(model_of(circle, {}, ["y"], weights))


def test_files_beside_a_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, _ = random_node(0, "GRU")
    tensor = model.graph.initializer[0]
    content, name = tensor.raw_data, tensor.name
    (tmp_path / "weights").write_bytes(content)
    (tmp_path / "one").symlink_to("two")
    (tmp_path / "two").symlink_to("one")
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    path = tmp_path / "model.onnx"

    def placed(location: str) -> Path:
        del tensor.external_data[:]
        tensor.external_data.add(key="location", value=location)
        path.write_bytes(model.SerializeToString())
        return path

    assert isinstance(from_onnx(placed("weights"))[0], rx.Layer)
    for location in ("one", "a" * 5000, "a/" * 3000, "../weights", "none"):
        with pytest.raises(ValueError, match=rf"`model` must hold all of '{name}': .* is no file beside the model"):
            from_onnx(placed(location))
    # Any number of tensors may lie in one file, and any number of nodes may have the same weights.
    graph, other = (_graph.Graph(placed("weights"), None) for _ in range(2))
    (node,) = _chain.find(other, None)
    monkeypatch.setattr(_graph, "_LARGEST", len(content) - 1)
    with pytest.raises(ValueError, match="the other weights beside the model must be at most 287 bytes together"):
        graph.array(name)
    monkeypatch.setattr(_graph, "_LARGEST", len(content))
    with pytest.raises(ValueError, match="must have recurrent nodes of at most 288 bytes of weights together"):
        node.operators()
    # Numbers that a checker of ONNX's cannot take.
    for version in (0, -1, 2**40):
        bad = random_node(0, "GRU")[0]
        bad.ir_version = version
        with pytest.raises(ValueError, match=f"must be of an IR version from 1 to .*; got {version}"):
            from_onnx(bad)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match=r"`model` must be a model of ONNX's: .*pipe is a pipe or a device"):
        from_onnx(tmp_path / "pipe")


def test_what_is_refused() -> None:
    lstm, params = rx.LSTMCell(H), perturbed_params(rx.LSTMCell(H), I)

    def refuses(error: type[Exception], message: str, run: Callable, *args: Any, **options: Any) -> None:
        with pytest.raises(error, match=message):
            run(*args, **options)

    # On the way in.
    two = model_of(
        [helper.make_node("LSTM", ["X", "W", "R"], [name], name, hidden_size=H) for name in ("one", "two")],
        {"X": np.zeros((T, B, I), np.float32)},
        ["one", "two"],
        {"W": np.ones((1, 4 * H, I), np.float32), "R": np.ones((1, 4 * H, H), np.float32)},
    )
    assert from_onnx(two, node="two")[0] == rx.LSTMCell(H, bias=False)
    refuses(
        ValueError, "`node` must name one recurrent node where they are no stack; .* 'one', LSTM 'two'", from_onnx, two
    )
    refuses(ValueError, "'three' names 0. There are: LSTM 'one', LSTM 'two'", from_onnx, two, node="three")
    refuses(
        ValueError,
        "`weights` must go by names of graph inputs, 'R', 'W', 'X'; got 'V'",
        from_onnx,
        two,
        weights={"V": 0},
    )
    short = {"W": np.ones((1, 3 * H, I), np.float32)}
    refuses(ValueError, re.escape("`W` of LSTM 'one' must be [1, 16, any]; got float32[1, 12, 3]"), from_onnx, two,
            node="one", weights=short)  # fmt: skip
    integers = {"W": np.ones((1, 4 * H, I), np.int32)}
    refuses(ValueError, "`W` of LSTM 'one' must be of one floating dtype", from_onnx, two, node="one", weights=integers)
    refuses(TypeError, "`model` must be an onnx.ModelProto, its bytes or a path; got int", from_onnx, 3)
    for name, value, message in (
        ("clip", 0.0, "above 0; got 0.0"),
        ("layout", 2, "0 or 1; got 2"),
        ("hidden_size", 5, "4, the size that `R` is for; got 5"),
        ("direction", "up", "one of forward, reverse, bidirectional; got 'up'"),
        ("activations", ["Tanh"], "[36] names; got 1"),
    ):
        message = f"`{name}` of LSTM 'node' must be {message}"
        refuses(ValueError, message, from_onnx, random_node(0, "LSTM", **{name: value})[0])
    for names, numbers, message in (
        (["Sine"], {}, "`activations` must be among Tanh, .*, ScaledTanh; got 'Sine'"),
        (["Affine"], {}, "Affine must be given `alpha` and `beta`; got alpha None"),
        (
            ["Elu"],
            {"activation_alpha": [0.1, 0.2]},
            "`activation_alpha` .* for each of Elu that takes one; got 2 and 0",
        ),
    ):
        node = helper.make_node("RNN", ["X", "W", "R"], ["Y"], activations=names, **numbers)
        weights = {"W": np.ones((1, H, I), np.float32), "R": np.ones((1, H, H), np.float32)}
        refuses(ValueError, message, from_onnx, model_of([node], {}, ["Y"], weights))

    # On the way out.
    def draw(layer: rx.Layer) -> tuple[rx.Layer, Any]:
        return layer, perturbed_params(layer, I)

    refuses(ValueError, "`lengths` must be False with `step`", to_onnx, lstm, params, step=True, lengths=True)
    refuses(ValueError, "`layer` must not read the future", to_onnx, *draw(Reverse(lstm)), step=True)
    refuses(ValueError, "`params` must be those of", to_onnx, rx.GRUCell(H), params)
    refuses(
        ValueError, re.escape("`embedding` must be float32[V, 3]"), to_onnx, lstm, params, embedding=np.ones((9, 2))
    )
    half = jax.tree.map(lambda p: p.astype(jnp.bfloat16), params)
    refuses(
        ValueError, "`params` must be of one of float32, float16, float64 for ONNX; got bfloat16", to_onnx, lstm, half
    )
    refuses(ValueError, "`proj_size` of `layer` must be 0 for ONNX's LSTM; got 2", to_onnx, *draw(rx.LSTMCell(H, 2)))
    clipped = rx.PeepholeLSTMCell(H, cell_clip=1.0)
    refuses(ValueError, "`cell_clip` of `layer` must be None for ONNX's LSTM; got 1.0", to_onnx, *draw(clipped))
    coupled = rx.CIFGCell(H, gate_activation=jax.nn.relu)
    refuses(ValueError, "`gate_activation` of `layer` must be sigmoid", to_onnx, *draw(coupled))
    refuses(
        ValueError, "must be Clipped to one bound", to_onnx, *draw(rx.LSTMCell(H, activation=Clipped(jnp.tanh, 1.0)))
    )
    refuses(ValueError, "an activation must be one of tanh, .* for ONNX; got", to_onnx, *draw(rx.ElmanCell(H, jnp.sin)))
    for layer in (rx.MGUCell(H), rx.Stack((lstm, rx.Zoneout(lstm))), rx.Residual(rx.RMSNorm())):
        refuses(
            TypeError, "`layer` must be one of ElmanCell, .*, Dropout; got .* no operator for it", to_onnx, *draw(layer)
        )
