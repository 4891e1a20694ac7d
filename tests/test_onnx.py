"""ONNX's recurrent operators: its own cases, onnxruntime beside us both ways, and what is refused."""

import io
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import onnx
import pytest
from onnx import helper
from onnx.reference import ReferenceEvaluator

import recurrax as rx
from onnx_models import GATES, STACK, B, H, I, T, model_of, random_node
from onnx_recurrence import OnnxRecurrence
from recurrax import Reverse
from recurrax.interop import Clipped, OnnxActivation, OnnxLSTMCell, from_onnx, to_onnx
from recurrax.testing import assert_close, check_contract, normal_like, perturbed_params


def onnxruntime_of(model: onnx.ModelProto) -> Callable[..., list[np.ndarray]]:
    runtime = pytest.importorskip("onnxruntime")
    session = runtime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return lambda feeds: session.run(None, {name: np.asarray(value) for name, value in feeds.items()})


def assert_same(got: tuple[rx.Layer, Any], expected: tuple[rx.Layer, Any]) -> None:
    assert got[0] == expected[0]
    assert jax.tree.structure(got[1]) == jax.tree.structure(expected[1])
    for ours, theirs in zip(jax.tree.leaves(got[1]), jax.tree.leaves(expected[1]), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.thorough
def test_published_cases_of_nodes() -> None:
    # `collect_testcases` would import, and so compute, the cases of all operators.
    from onnx.backend.test.case import node
    from onnx.backend.test.case.node import gru, lstm, rnn  # noqa: F401

    cases = [case for case in node._NodeTestCases if case.model.graph.node[0].op_type in GATES]
    assert len(cases) >= 18
    for case in cases:
        for inputs, outputs in case.data_sets:
            X, *weights = zip([value.name for value in case.model.graph.input], inputs, strict=True)
            read = OnnxRecurrence.read(case.model, weights=dict(weights))
            with jax.disable_jit():
                got = dict(zip(("Y", "Y_h", "Y_c"), read(X[1]), strict=False))
            for value, expected in zip(case.model.graph.output, outputs, strict=True):
                np.testing.assert_allclose(got[value.name], expected, case.rtol, case.atol, err_msg=case.name)


@pytest.mark.parametrize("kind", GATES)
def test_every_attribute_is_that_of_onnxruntime(kind: str) -> None:
    seen = set()
    for seed in range(30):
        model, feeds = random_node(seed, kind)
        node = OnnxRecurrence.read(model)
        X, *others = feeds.items()
        with jax.disable_jit():
            assert_close(f"seed {seed}", node(X[1], **dict(others)), tuple(onnxruntime_of(model)(feeds)), 1e-5)
        assert_same(from_onnx(to_onnx(node.layer, node.params)), (node.layer, node.params))
        seen |= {type(part).__name__ for part in (*node.layer.parts, node.layer)}
    cells = {
        "RNN": {"ElmanCell"},
        "GRU": {"GRUCell"},
        "LSTM": {"LSTMCell", "PeepholeLSTMCell", "CIFGCell", "OnnxLSTMCell"},
    }
    assert seen == cells[kind] | {"Bidirectional", "Reverse"}


def test_layout_and_what_a_node_fixes() -> None:
    rng = np.random.default_rng(0)
    shapes = {"W": (2, 4 * H, I), "R": (2, 4 * H, H), "B": (2, 8 * H), "initial_h": (2, B, H), "initial_c": (2, B, H)}
    arrays = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    arrays["sequence_lens"] = np.array([T, 2, 0], np.int32)
    X = rng.standard_normal((T, B, I)).astype(np.float32)
    inputs = ["X", "W", "R", "B", "sequence_lens", "initial_h", "initial_c"]

    def read(layout: int, arrays: dict) -> OnnxRecurrence:
        options = {"hidden_size": H, "direction": "bidirectional", "layout": layout}
        node = helper.make_node("LSTM", inputs, ["Y", "Y_h", "Y_c"], **options)
        with pytest.raises(ValueError, match=r"`sequence_lens` of LSTM '' must be left to `scan`.*as `lengths`"):
            from_onnx(model_of([node], {"X": X}, ["Y"], arrays))
        return OnnxRecurrence.read(model_of([node], {"X": X}, ["Y"], arrays))

    Y, Y_h, Y_c = read(0, arrays)(X)
    swapped = arrays | {name: np.moveaxis(arrays[name], 1, 0) for name in ("initial_h", "initial_c")}
    batchwise = (jnp.transpose(Y, (2, 0, 1, 3)), jnp.moveaxis(Y_h, 1, 0), jnp.moveaxis(Y_c, 1, 0))
    assert_close("layout 1", read(1, swapped)(np.moveaxis(X, 1, 0)), batchwise, 1e-6)
    np.testing.assert_array_equal(Y_c[:, 2], arrays["initial_c"][:, 2])  # Every step is masked.
    assert (Y[2:, :, 1] == 0).all()
    at_once = read(0, arrays)(X, sequence_lens=np.array([T] * B), initial_h=np.zeros((2, B, H), np.float32))
    assert (at_once[0][-1] != 0).all()
    with pytest.raises(ValueError, match=re.escape("`initial_h` must be [2, 3, 4]; got float32[1, 3, 4].")):
        read(0, arrays)(X, initial_h=np.zeros((1, B, H), np.float32))


LAYERS = [
    rx.ElmanCell(H, jax.nn.relu),
    rx.LSTMCell(H),
    rx.GRUCell(H, bias=False),
    rx.GRUCell(H, False, activation=jax.nn.softplus),
    rx.CIFGCell(H, peepholes=True, recurrent_bias=True),
    OnnxLSTMCell(H, True, True, activation=Clipped(jnp.tanh, 0.5), gate_activation=Clipped(jax.nn.sigmoid, 0.5)),
    rx.Bidirectional(rx.LSTMCell(H), merge="sum"),
    rx.Bidirectional(rx.GRUCell(H), merge="mul"),
    STACK,
]
# What ONNX has in more nodes than one.
PROGRAMS = [
    rx.Bidirectional(rx.LSTMCell(H), rx.GRUCell(5)),
    Reverse(rx.Bidirectional(rx.ElmanCell(H, jax.nn.elu), merge="concat")),
    rx.Bidirectional(rx.Stack((rx.LSTMCell(H), rx.GRUCell(H))), merge="ave"),
    rx.Bidirectional(rx.Residual(rx.ElmanCell(I, bias=False)), rx.ElmanCell(I, jax.nn.leaky_relu), merge="mul"),
    rx.Stack(
        (
            rx.Dense(6, jax.nn.gelu),
            rx.LayerNorm(),
            rx.Residual(rx.RecurrentDropout(rx.LSTMCell(6), 0.5)),
            rx.Gated(rx.GRUCell(5), rx.Dense(5, jax.nn.silu)),
            rx.Activation(OnnxActivation("ThresholdedRelu", 0.1)),
            rx.Dense(2, bias=False),
        ),
        dropout=0.5,
    ),
    rx.Stack(
        (
            rx.Dense(3),
            *map(rx.Activation, (jax.nn.elu, jax.nn.hard_sigmoid, jax.nn.mish, jax.nn.hard_silu, jax.nn.selu, jnp.exp)),
            *map(rx.Activation, (jax.nn.softmax, jax.nn.identity, jax.nn.log_softmax)),
        )
    ),
]


def fed(model: onnx.ModelProto, xs: jax.Array, state: Any, lengths: Any = None) -> dict[str, Any]:
    """The inputs of a model by their names, the states in their order."""
    names = [value.name for value in model.graph.input]
    states = [name for name in names if name not in ("xs", "ids", "lengths")]
    feeds = {names[0]: xs} | ({} if lengths is None else {"lengths": lengths})
    return feeds | dict(zip(states, jax.tree.leaves(state), strict=True))


@pytest.mark.parametrize("layer", LAYERS + PROGRAMS, ids=str)
def test_onnxruntime_runs_what_is_written(layer: rx.Layer) -> None:
    params = perturbed_params(layer, I, scale=0.4)
    model = to_onnx(layer, params, state=True, lengths=True)
    run = onnxruntime_of(model)
    for batch, time in ((1, 3), (3, 4)):
        xs = normal_like(jax.ShapeDtypeStruct((batch, time, I), jnp.float32), batch)
        state = normal_like(jax.eval_shape(lambda batch=batch: layer.initial_state((batch,))), 1)
        lengths = jnp.array([time, 2, 0][:batch], jnp.int32)
        # What lies behind the end of a sequence has no say.
        xs = jnp.where(rx.lengths_to_mask(lengths, time)[..., None], xs, jnp.nan)
        with jax.disable_jit():
            final, ys = rx.scan(layer, params, xs, state, lengths=lengths)
        assert_close(f"{batch} x {time}", run(fed(model, xs, state, lengths)), [ys, *jax.tree.leaves(final)], 1e-5)
    if layer in LAYERS:
        assert_same(from_onnx(model), (layer, params))


def test_a_model_of_one_step_streams() -> None:
    layer = rx.Stack((rx.LSTMCell(H), rx.GRUCell(5), rx.Dense(2)))
    params, table = (
        perturbed_params(layer, I),
        jnp.asarray(np.random.default_rng(0).standard_normal((9, I)), jnp.float32),
    )
    ids = np.random.default_rng(1).integers(0, 9, (B, T)).astype(np.int32)
    at_once = onnxruntime_of(to_onnx(layer, params, embedding=table))({"ids": ids})
    assert_close("at_once", at_once[0], np.asarray(rx.scan(layer, params, table[ids])[1]), 1e-5)
    time_major = onnxruntime_of(to_onnx(layer, params, embedding=table, time_major=True))({"ids": ids.T})
    np.testing.assert_array_equal(time_major[0], at_once[0].swapaxes(0, 1))

    model = to_onnx(layer, params, step=True, embedding=table)
    assert [value.name for value in model.graph.input] == ["ids", "h_0", "c_0", "h_1"]
    assert [value.name for value in model.graph.output] == ["ys", "h_0_next", "c_0_next", "h_1_next"]
    run, states, ys = onnxruntime_of(model), jax.tree.leaves(layer.initial_state((B,))), []
    for t in range(T):
        y, *states = run(fed(model, ids[:, t], states))
        ys.append(y)
    assert_close("joined", [np.stack(ys, axis=1), *states], at_once, 1e-6)


def test_peepholes_equal_those_of_the_reference() -> None:
    layer = rx.PeepholeLSTMCell(H, recurrent_bias=True)
    params, xs = perturbed_params(layer, I, scale=0.5), normal_like(jax.ShapeDtypeStruct((B, T, I), jnp.float32), 1)
    state = normal_like(layer.initial_state((B,)), 2)
    model = to_onnx(layer, params, state=True)
    feeds = {name: np.asarray(value) for name, value in fed(model, xs, state).items()}
    final, ys = rx.scan(layer, params, xs, state)
    assert_close("ONNX", ReferenceEvaluator(model).run(None, feeds), [ys, *final], 1e-5)


@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU"])
def test_stacks_as_torch_exports_them(kind: str) -> None:
    torch = pytest.importorskip("torch")
    for bidirectional, batch_first in ((False, True), (True, False), (True, True)):
        options = {"num_layers": 2, "bidirectional": bidirectional, "batch_first": batch_first}
        module, xs, file = getattr(torch.nn, kind)(I, H, **options).eval(), torch.randn(1, T, I), io.BytesIO()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # This exporter is deprecated; the other one needs onnxscript.
            torch.onnx.export(module, (xs,), file, dynamo=False, opset_version=17)
        layer, params = from_onnx(file.getvalue())
        with jax.disable_jit():
            _, ys = rx.scan(layer, params, xs.numpy(), time_major=not batch_first)
        assert_close(kind, np.asarray(ys), module(xs)[0].detach().numpy(), 1e-5)


@pytest.mark.parametrize(
    "layer",
    [
        OnnxLSTMCell(4, peepholes=True, recurrent_bias=True, output_activation=OnnxActivation("ScaledTanh", 1.2, 0.7)),
        OnnxLSTMCell(4, True, True, gate_activation=Clipped(jax.nn.sigmoid, 2.0)),
        Reverse(rx.ElmanCell(3)),
    ],
    ids=str,
)
def test_contract(layer: rx.Layer, promises: tuple[str, ...] | None) -> None:
    check_contract(layer, implementation="hoisted" if isinstance(layer, OnnxLSTMCell) else None, promises=promises)


def test_weights_in_files_beside_the_model(tmp_path: Path) -> None:
    params = perturbed_params(STACK, I)
    model, path = to_onnx(STACK, params), tmp_path / "model.onnx"
    onnx.save(model, path, save_as_external_data=True, location="weights", size_threshold=0)
    assert_same(from_onnx(path), (STACK, params))
    with pytest.raises(ValueError, match="it lies in another file; give the path"):
        from_onnx(path.read_bytes())
    (tmp_path / "weights").write_bytes((tmp_path / "weights").read_bytes()[:200])
    with pytest.raises(ValueError, match=r"bytes from byte \d+ on, which weights has not"):
        from_onnx(path)
    outside = tmp_path / "folder" / "model.onnx"
    outside.parent.mkdir()
    for location in ("../weights", str(tmp_path / "weights")):
        model = onnx.load(path, load_external_data=False)
        for tensor in model.graph.initializer:
            tensor.external_data[0].value = location
        outside.write_bytes(model.SerializeToString())
        with pytest.raises(ValueError, match=f"lie in '{location}', which is no file beside the model"):
            from_onnx(outside)
    with pytest.raises(FileNotFoundError):
        from_onnx(tmp_path / "nothing")


def test_what_stands_around_stays_behind() -> None:
    weights = {"W": np.ones((2, H, I), np.float32), "R": np.ones((2, H, H), np.float32), "axis": np.array([0])}
    weights |= {"W2": np.ones((1, H, 2 * H + 1), np.float32), "R2": np.ones((1, H, H), np.float32)}
    rnn = helper.make_node("RNN", ["X", "W", "R"], ["Y"], "rnn", direction="bidirectional")
    pooled = helper.make_node("ReduceMean", ["Y", "axis"], ["out"], keepdims=0)
    X = {"X": np.zeros((T, B, I), np.float32)}
    assert from_onnx(model_of([rnn, pooled], X, ["out"], weights))[0] == rx.Bidirectional(rx.ElmanCell(H, bias=False))

    def stacked(*way: onnx.NodeProto) -> onnx.ModelProto:
        above = helper.make_node("RNN", [way[-1].output[0], "W2", "R2"], ["out"], "above")
        shape = {"shape": np.array([0, 0, -1])}
        return model_of([rnn, *way, above], X, ["out"], weights | shape)

    swap = helper.make_node("Transpose", ["Y"], ["swapped"], perm=[0, 2, 1, 3])
    join = helper.make_node("Reshape", ["swapped", "shape"], ["joined"])
    with pytest.raises(
        ValueError, match="`W` of RNN 'above' must be for the 8 features that the node before puts out; got 9"
    ):
        from_onnx(stacked(swap, join))
    with pytest.raises(ValueError, match="`model` must lead the outputs of RNN 'rnn' to RNN 'above' as they are"):
        from_onnx(stacked(swap))
    with pytest.raises(ValueError, match="`axes` of Squeeze '' must be that of directions"):
        from_onnx(stacked(helper.make_node("Squeeze", ["Y", "axis"], ["swapped"])))
