"""Files of layers and their parameters: what comes back, and what is refused."""

import dataclasses
import json
import random
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save

import recurrax as rx
from recurrax import interop
from recurrax.interop import _description, safetensors
from recurrax.testing import assert_close, perturbed_params

WIRING = rx.NCPWiring(4, 3, 2, sensory_fanout=2, inter_fanout=2, recurrent_command_synapses=3, motor_fanin=2)
RICH = rx.Stack(
    (
        rx.Window(3, 2),
        rx.Bidirectional(rx.LSTMCell(4, proj_size=2, recurrent_bias=True), rx.GRUCell(2), merge="sum"),
        rx.Residual(rx.Zoneout(rx.ElmanCell(2, jax.nn.relu), 0.1)),
        rx.CfCCell(3, activation=jax.nn.silu, dtype=jnp.bfloat16),
        rx.MinGRUCell(4, kernel_init=jax.nn.initializers.normal(0.1)),
        rx.LTCCell(9, WIRING),
    ),
    dropout=0.1,
)


def test_what_is_saved_comes_back(tmp_path: Path) -> None:
    kinds = (value for value in vars(rx).values() if isinstance(value, type) and issubclass(value, rx.Cell))
    plain = [kind(4) for kind in kinds if kind in (rx.S5Cell, rx.LRUCell, rx.MLSTMCell, rx.SRUCell)]
    for layer in [RICH, rx.ConvLSTMCell(2, (5, 4), 3, padding=((1, 0), (0, 1))), *plain]:
        params = perturbed_params(layer, 3)
        interop.save(tmp_path / "file", layer, params)
        again, restored = interop.load(tmp_path / "file")
        without = dataclasses.replace(RICH.layers[4], kernel_init=rx.MinGRUCell.kernel_init)
        expected = RICH if layer is not RICH else rx.Stack((*RICH.layers[:4], without, RICH.layers[5]), dropout=0.1)
        assert again == (expected if layer is RICH else layer)
        assert_close(str(layer), restored, params, 0)
    assert "layers_1.forward.projection_kernel" not in load_file(tmp_path / "file")


def test_dtypes_are_kept(tmp_path: Path) -> None:
    params = perturbed_params(rx.LSTMCell(4), 3)._replace(bias=jnp.arange(16.0, dtype=jnp.bfloat16))
    interop.save(tmp_path / "file", rx.LSTMCell(4), params)
    _, restored = interop.load(tmp_path / "file")
    assert jax.tree.map(lambda a, b: a.dtype == b.dtype and bool((a == b).all()), params, restored)
    assert restored.bias.dtype == jnp.bfloat16
    with jax.enable_x64(True):
        interop.save(tmp_path / "file", rx.LSTMCell(4), jax.tree.map(lambda a: a.astype(jnp.float64), params))
        assert interop.load(tmp_path / "file")[1].kernel.dtype == jnp.float64
    with pytest.raises(ValueError, match=r"must be float32 or narrower; got float64. Set `jax_enable_x64`"):
        interop.load(tmp_path / "file")


@dataclasses.dataclass(frozen=True, repr=False)
class OwnCell(rx.ElmanCell):
    gain: float = 1.0


def twice(x: jax.Array) -> jax.Array:
    return 2 * x


def test_ones_own(tmp_path: Path) -> None:
    layer = rx.Stack((OwnCell(4, twice, gain=2.0),))
    interop.save(tmp_path / "file", layer, layer.init(jax.random.key(0), 3))
    assert interop.load(tmp_path / "file", known=[OwnCell, twice])[0] == layer
    with pytest.raises(ValueError, match=r"what is given as `known`; got 'OwnCell'. Is it a cell or a function"):
        interop.load(tmp_path / "file", known=[twice])
    lambdas = rx.ElmanCell(4, lambda x: x)
    with pytest.raises(ValueError, match=r"`ElmanCell.activation` must have a name to be written down.*<function"):
        interop.save(tmp_path / "other", lambdas, lambdas.init(jax.random.key(0), 3))
    with pytest.raises(ValueError, match=r"`params` must be those of LSTMCell.*; got \.kernel \[3, 20\]"):
        interop.save(tmp_path / "other", rx.LSTMCell(4), rx.LSTMCell(5).init(jax.random.key(0), 3))
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_write_that_fails_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    params = perturbed_params(rx.GRUCell(4), 3)
    interop.save(tmp_path / "file", rx.GRUCell(4), params)

    def full(_: int) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(safetensors.os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        interop.save(tmp_path / "file", rx.GRUCell(5), perturbed_params(rx.GRUCell(5), 3))
    assert_close("the file before", interop.load(tmp_path / "file")[1], params, 0)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def damaged(content: bytes, random: random.Random) -> bytes:
    """The bytes with some cut off, added, changed, moved or doubled."""
    at, to = sorted(random.randrange(len(content)) for _ in range(2))
    return [
        lambda: content[:at],
        lambda: content[at:],
        lambda: content[:at] + content[to + 1 :],
        lambda: content[:to] + random.randbytes(random.randrange(1, 50)) + content[to:],
        lambda: content + random.randbytes(random.randrange(1, 50)),
        lambda: bytes(random.randrange(256) if i == at else byte for i, byte in enumerate(content)),
        lambda: content[:at] + random.randbytes(8) + content[at + 8 :],
        lambda: content[: random.randrange(8)] + random.randbytes(4) + content[12:],  # the length of the header
        lambda: content[to:] + content[:to],
        lambda: b"",
    ][random.randrange(10)]()


def test_hundreds_of_damaged_files_are_refused(tmp_path: Path) -> None:
    layer, rng, path = rx.Bidirectional(rx.LSTMCell(2)), random.Random(0), tmp_path / "file"
    interop.save(path, layer, perturbed_params(layer, 3))
    content, refused = path.read_bytes(), 0
    for _ in range(600):
        path.write_bytes(bad := damaged(content, rng))
        if bad != content:
            with pytest.raises(ValueError, match="`path` must"):
                interop.load(path)
            refused += 1
    assert refused > 590


def forged(path: Path, layer: Any, leaves: dict[str, np.ndarray]) -> Path:
    """A file whose checksum is right."""
    text = layer if isinstance(layer, str) else json.dumps(layer)
    metadata = {"format": "recurrax", "version": "1", "layer": text, "sha256": safetensors._checksum(text, leaves)}
    path.write_bytes(save(leaves, metadata))
    return path


DEEP: Any = {"GRUCell": {"hidden_size": 2}}
for _ in range(80):
    DEEP = {"Residual": {"layer": DEEP}}


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        ("{", "must be JSON"),
        ("[" * 100_000, "must be JSON"),
        (3, "must be that of a layer; got 3"),
        ([{"GRUCell": {"hidden_size": 2}}], "must be that of a layer"),
        ({"GRUCell": {"hidden_size": 2}, "LSTMCell": {}}, "one name at each level; got GRUCell, LSTMCell"),
        ({"Popen": {"args": "ls"}}, "must name what recurrax has, .* got 'Popen'"),
        ({"GRUCell": 2}, "must hold its arguments; got 2"),
        ({"GRUCell": {"hidden_size": -2}}, "`hidden_size` of GRUCell must be at least 1; got -2"),
        ({"GRUCell": {"hidden_size": "2"}}, "arguments that it takes; `hidden_size` of GRUCell must be an int"),
        ({"GRUCell": {"hidden_size": 10**30}}, "must hold a layer and its parameters"),
        ({"GRUCell": {"hidden_size": 10**9}}, "parameters must be those of GRUCell"),
        ({"GRUCell": {"hidden_size": 3}}, r"parameters must be those of GRUCell.*; got .*kernel \[3, 6\]"),
        ({"GRUCell": {"hidden_size": 2, "colour": 1}}, "arguments that it takes; .*colour"),
        ({"GRUCell": {"hidden_size": 2, "bias_init": 3}}, "`bias_init` of GRUCell must be a function"),
        ({"GRUCell": {"hidden_size": 2, "dtype": {"dtype": "float33"}}}, "must name a dtype; got 'float33'"),
        ({"GRUCell": {"hidden_size": 2, "activation": {"function": "os.system"}}}, "got 'os.system'"),
        ({"Stack": {"layers": [{"GRUCell": {"hidden_size": 2}}, 3]}}, "`layers` must be a recurrax.Layer"),
        (DEEP, "at most 64 levels deep"),
    ],
    ids=str,
)  # fmt: skip
def test_forged_files_are_refused(tmp_path: Path, layer: Any, message: str) -> None:
    leaves = {name: np.asarray(leaf) for name, leaf in rx.GRUCell(2).init(jax.random.key(0), 3)._asdict().items()}
    with pytest.raises(ValueError, match=message):
        interop.load(forged(tmp_path / "file", layer, leaves))


def test_foreign_and_later_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(save({"weight_ih_l0": np.ones((4, 3), np.float32)}, {"format": "pt"}))
    with pytest.raises(ValueError, match=r"must be a file that `recurrax.interop.save` wrote; .* 'pt'.*from_torch"):
        interop.load(path)
    path.write_bytes(save({}, {"format": "recurrax", "version": "2", "layer": "{}"}))
    with pytest.raises(ValueError, match=r"must be of version 1; .* is of version '2'"):
        interop.load(path)
    with pytest.raises(FileNotFoundError):
        interop.load(tmp_path / "nothing")
    assert _description.understand(_description.describe(RICH)).dropout == RICH.dropout
