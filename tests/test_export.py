"""Exported layers run for any batch and length, in a process that cannot import recurrax."""

import hashlib
import pickle
import random
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import recurrax as rx
from quick import quick_first
from recurrax import interop
from recurrax.testing import assert_close, normal_like, perturbed_params

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


@pytest.mark.thorough
def test_without_recurrax() -> None:
    params = {name: perturbed_params(layer, 3) for name, layer in LAYERS.items()}
    inputs, expected = {}, {}
    for name, layer in LAYERS.items():
        space = getattr(layer, "input_shape", ())
        calls, outcomes = [], []
        for B, T in ((2, 5), (3, 1)):
            xs = np.asarray(normal_like(jax.ShapeDtypeStruct((B, T, *space, 3), jnp.float32), B))
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


@pytest.mark.parametrize("name", quick_first(["deep", "linear", "space"]))
def test_streaming(name: str) -> None:
    layer = LAYERS[name]
    params = perturbed_params(layer, 3)
    xs = normal_like(jax.ShapeDtypeStruct((2, 4, *getattr(layer, "input_shape", ()), 3), jnp.float32), 1)
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


def test_compositions_in_space() -> None:
    both = rx.Bidirectional(rx.ConvGRUCell(2, (5, 3), 3, strides=(2, 1)))
    layer = rx.Stack((rx.Dropout(0.1), both, rx.Residual(rx.ConvElmanCell(4, (3, 3), 1))))
    params = layer.init(jax.random.key(0), 3)
    exported = interop.export(layer, params, state=True, platforms=["cpu"])
    # The leaves of the states go by their names: `layers_1.backward`, `layers_1.forward`, `layers_2`.
    assert [aval.shape[1:] for aval in exported.in_avals[1:]] == [(3, 3, 2), (3, 3, 2), (3, 3, 4)]
    assert exported.in_avals[0].shape[2:] == (5, 3, 3)
    assert exported.out_avals[0].shape[2:] == (3, 3, 4)


FLAGS = {
    "mask": np.array([[1, 0, 1, 1], [0, 0, 1, 0]], bool),
    "reset": np.array([[0, 0, 1, 0], [0, 0, 1, 0]], bool),
    "lengths": np.array([4, 2], np.int32),
}


@pytest.mark.thorough
def test_masks_resets_and_irregular_times() -> None:
    cell = rx.Stack((rx.CfCCell(3),))
    params = perturbed_params(cell, 3)
    x, dt = normal_like((jax.ShapeDtypeStruct((2, 4, 3), jnp.float32), jax.ShapeDtypeStruct((2, 4), jnp.float32)), 1)
    dt, (mask, reset, lengths) = jnp.abs(dt), FLAGS.values()
    xs = rx.cells.TimedInputs(x, dt)
    state, expected = rx.scan(cell, params, xs, mask=mask, reset=reset)
    exported = interop.export(cell, params, timed=True, mask=True, reset=True, platforms=["cpu"])
    assert_close("mask and reset", exported.call(x, dt, mask, reset)[0], expected, 1e-5)
    # One step at a time, with the same flags.
    step = interop.export(cell, params, step=True, timed=True, mask=True, reset=True, platforms=["cpu"])
    after = jax.tree.map(jnp.zeros_like, interop.exported._named(state))
    for t in range(4):
        y, after = step.call(x[:, t], dt[:, t], mask[:, t], reset[:, t], after)
        assert_close("steps", y, expected[:, t], 1e-5)
    both = interop.export(cell, params, lengths=True, reset=True, platforms=["cpu"]).call(x, lengths, reset)[0]
    assert_close("lengths and reset", both, rx.scan(cell, params, x, lengths=lengths, reset=reset)[1], 1e-5)


def test_what_is_refused() -> None:
    layer = rx.Bidirectional(rx.GRUCell(2))
    params = layer.init(jax.random.key(0), 3)
    with pytest.raises(ValueError, match="must not read the future"):
        interop.export(layer, params, step=True)
    with pytest.raises(ValueError, match="`lengths` must be False with `step`"):
        interop.export(layer, params, step=True, lengths=True)
    with pytest.raises(ValueError, match="`lengths` and `mask` must not both be True"):
        interop.export(layer, params, mask=True, lengths=True)
    with pytest.raises(ValueError, match="`params` must be those of GRUCell"):
        interop.export(rx.GRUCell(2), params)


def test_a_file_of_an_export(tmp_path: Path) -> None:
    cell = rx.GRUCell(2)
    path = tmp_path / "gru.bin"
    path.write_bytes(interop.export(cell, cell.init(jax.random.key(0), 3), dtype=jnp.bfloat16).serialize())
    exported = jax.export.deserialize(bytearray(path.read_bytes()))
    assert exported.call(jnp.ones((1, 2, 3), jnp.bfloat16))[0].dtype == jnp.bfloat16


def test_a_checksum_lies_beside_an_export(tmp_path: Path) -> None:
    cell, path, beside = rx.ElmanCell(2), tmp_path / "elman.bin", tmp_path / "elman.bin.sha256"
    params = perturbed_params(cell, 3)
    interop.save_export(path, interop.export(cell, params, platforms=["cpu"]))
    xs = jnp.ones((1, 2, 3))
    assert_close("read", interop.load_export(path).call(xs)[0], rx.scan(cell, params, xs)[1], 1e-6)
    content, told = path.read_bytes(), beside.read_text()
    assert told == f"{hashlib.sha256(content).hexdigest()}  elman.bin\n"
    jax.export.deserialize(bytearray(content))  # JAX alone reads it.
    rng = random.Random(0)
    for _ in range(200):
        bad = bytearray(content)
        bad[rng.randrange(len(bad))] ^= 1 << rng.randrange(8)
        path.write_bytes(bad)
        with pytest.raises(ValueError, match=r"must be as it was written; .* is damaged: its checksum is another"):
            interop.load_export(path)
    path.write_bytes(content)
    for wrong in ("", "\n", told[1:]):
        beside.write_text(wrong)
        with pytest.raises(ValueError, match="its checksum is another"):
            interop.load_export(path)
    beside.unlink()
    with pytest.raises(FileNotFoundError):
        interop.load_export(path)
