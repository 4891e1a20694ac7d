"""Exported layers run for any batch and length, in a process that cannot import recurrax."""

import pickle
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import recurrax as rx
from recurrax import interop
from recurrax.testing import assert_close, noise, perturbed_params

LAYERS = {
    "deep": rx.Stack((rx.LSTMCell(4, proj_size=2), rx.Residual(rx.GRUCell(2)), rx.CausalConv(2), rx.ElmanCell(3))),
    "bidirectional": rx.Bidirectional(rx.LearnedInitialState(rx.LSTMCell(3)), rx.MinGRUCell(2)),
    "linear": rx.Stack((rx.LRUCell(4), rx.MLSTMCell(4, 2), rx.SLSTMCell(4))),
    "space": rx.ConvLSTMCell(2, (4, 3), 3),
}

ELSEWHERE = """
import pickle, sys
sys.modules["recurrax"] = None
import jax
import numpy as np
from jax import export
inputs = pickle.load(sys.stdin.buffer)
outputs = {}
for name, (data, calls) in inputs.items():
    exported = export.deserialize(data)
    assert exported.platforms == ("cpu", "cuda", "tpu")
    outputs[name] = [jax.tree.map(np.asarray, exported.call(*arguments)) for arguments in calls]
sys.stdout.buffer.write(pickle.dumps(outputs))
"""


def test_without_recurrax() -> None:
    params = {name: perturbed_params(layer, 3) for name, layer in LAYERS.items()}
    inputs, expected = {}, {}
    for name, layer in LAYERS.items():
        space = getattr(layer, "input_shape", ())
        calls, outcomes = [], []
        for B, T in ((2, 5), (3, 1)):
            xs = np.asarray(noise(jax.ShapeDtypeStruct((B, T, *space, 3), jnp.float32), B))
            lengths = np.array([T, 1, 0], np.int32)[:B]
            calls.append((xs, lengths))
            outcomes.append(rx.scan(layer, params[name], xs, lengths=lengths))
        inputs[name] = interop.export(layer, params[name], lengths=True).serialize(), calls
        expected[name] = [(ys, state) for state, ys in outcomes]
    run = subprocess.run([sys.executable, "-c", ELSEWHERE], input=pickle.dumps(inputs), capture_output=True, check=True)
    got = pickle.loads(run.stdout)
    for name in LAYERS:
        for (ys, state), (ours, final) in zip(got[name], expected[name], strict=True):
            assert_close(name, ys, ours, 1e-5)
            leaves = jax.tree.leaves(interop.exported._restored(LAYERS[name], state))
            assert_close(name, leaves, jax.tree.leaves(final), 1e-5)
    assert set(got["deep"][0][1]["layers_0"]) == {"h", "c"}


@pytest.mark.parametrize("name", ["deep", "linear", "space"])
def test_streaming(name: str) -> None:
    layer = LAYERS[name]
    params = perturbed_params(layer, 3)
    xs = noise(jax.ShapeDtypeStruct((2, 4, *getattr(layer, "input_shape", ()), 3), jnp.float32), 1)
    ys, final = interop.export(layer, params).call(xs)
    state = jax.tree.map(jnp.zeros_like, final)
    step, parts = interop.export(layer, params, step=True), interop.export(layer, params, state=True)
    first, middle = parts.call(xs[:, :3], state)
    assert_close("parts", parts.call(xs[:, 3:], middle), (ys[:, 3:], final), 1e-5)
    for t in range(4):
        y, state = step.call(xs[:, t], state)
        assert_close("steps", y, ys[:, t], 1e-5)
    assert_close("the last state", state, final, 1e-5)
    assert_close("the first part", first, ys[:, :3], 1e-5)


def test_what_is_refused() -> None:
    layer = rx.Bidirectional(rx.GRUCell(2))
    params = layer.init(jax.random.key(0), 3)
    with pytest.raises(ValueError, match="must not read the future"):
        interop.export(layer, params, step=True)
    with pytest.raises(ValueError, match="`lengths` must be False with `step`"):
        interop.export(layer, params, step=True, lengths=True)
    with pytest.raises(ValueError, match="`params` must be those of GRUCell"):
        interop.export(rx.GRUCell(2), params)


def test_a_file_of_an_export(tmp_path: Path) -> None:
    cell = rx.GRUCell(2)
    path = tmp_path / "gru.bin"
    path.write_bytes(interop.export(cell, cell.init(jax.random.key(0), 3), dtype=jnp.bfloat16).serialize())
    exported = jax.export.deserialize(bytearray(path.read_bytes()))
    assert exported.call(jnp.ones((1, 2, 3), jnp.bfloat16))[0].dtype == jnp.bfloat16
