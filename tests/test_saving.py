"""Files of layers and their parameters: what comes back, and what is refused."""

import concurrent.futures
import contextlib
import dataclasses
import functools
import json
import os
import random
import re
import stat
import subprocess
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save

import recurrax as rx
from recurrax import _flax, interop
from recurrax._check import expected_params
from recurrax.interop import _description, safetensors
from recurrax.testing import assert_close, perturbed_params

WIRING = rx.cells.NCPWiring(4, 3, 2, sensory_fanout=2, inter_fanout=2, recurrent_command_synapses=3, motor_fanin=2)
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


@pytest.mark.thorough
def test_what_is_saved_comes_back(tmp_path: Path) -> None:
    kinds = (value for value in vars(rx).values() if isinstance(value, type) and issubclass(value, rx.Cell))
    plain = [kind(4) for kind in kinds if kind in (rx.S5Cell, rx.LRUCell, rx.MLSTMCell, rx.SRUCell)]
    # Inputs of 3 features, of which no axis of the parameters tells.
    plain.append(rx.Stack((rx.Window(3, 2), rx.GRUCell(4))))
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

    monkeypatch.setattr(os, "fsync", full)
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


def zeros(layer: rx.Layer, input_size: int) -> dict[str, np.ndarray]:
    """Parameters by their names in a file, without drawing them."""
    shapes = _flax.by_name(expected_params(layer, input_size))
    return {".".join(name): np.zeros(leaf.shape, leaf.dtype) for name, leaf in shapes.items()}


def doubled(depth: int) -> Any:
    """A layer of 2^depth cells."""
    layer: Any = {"GRUCell": {"hidden_size": 2}}
    for _ in range(depth):
        layer = {"Bidirectional": {"forward": layer}}
    return layer


def wired(**large: int) -> Any:
    wiring = {name: getattr(WIRING, name) for name in ("inter_neurons", "command_neurons", "motor_neurons")}
    wiring |= {"sensory_fanout": 2, "inter_fanout": 2, "recurrent_command_synapses": 3, "motor_fanin": 2}
    return {"LTCCell": {"hidden_size": 4, "wiring": {"NCPWiring": wiring | large}}}


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
        ({"GRUCell": {"hidden_size": "2"}}, "arguments that it takes; `hidden_size` must be int; got '2'"),
        ({"GRUCell": {"hidden_size": 10**30}}, "allow a `hidden_size` of at most 6; got 10"),
        ({"S5Cell": {"hidden_size": 100_000}}, "allow a `hidden_size` of at most 6; got 100000"),
        ({"S5Cell": {"hidden_size": 2, "state_size": 10**6}}, "allow a `state_size` of at most 6"),
        ({"CfCCell": {"hidden_size": 2, "backbone_layers": 10**9}}, "allow a `backbone_layers` of at most 4"),
        (wired(inter_neurons=10**6), "allow a `inter_neurons` of at most 4"),
        (wired(recurrent_command_synapses=10**12), "allow a `recurrent_command_synapses` of at most 18"),
        (doubled(40), "at most 32 layers for a file of 4 arrays"),
        ({"Stack": {"layers": [{"GRUCell": {"hidden_size": 2}}] * 3000}}, "at most 32 layers for a file of 4 arrays"),
        ({"GRUCell": {"hidden_size": 3}}, r"parameters must be those of GRUCell.*; got .*kernel \[3, 6\]"),
        ({"GRUCell": {"hidden_size": 2, "color": 1}}, "arguments that it takes; .*color"),
        ({"GRUCell": {"hidden_size": 2, "bias_init": 3}}, "`bias_init` must be a function; got 3"),
        ({"GRUCell": {"hidden_size": 2, "activation": "relu"}}, "`activation` must be a function; got 'relu'"),
        ({"GRUCell": {"hidden_size": 2, "bias": "False"}}, "`bias` must be bool; got 'False'"),
        ({"GRUCell": {"hidden_size": True}}, "`hidden_size` must be int; got True"),
        ({"GRUCell": {"hidden_size": 2, "dtype": "float16"}}, "`dtype` must be .*dtype.*; got 'float16'"),
        ({"LSTMCell": {"hidden_size": 2, "forget_bias": [1]}}, r"`forget_bias` must be float; got \(1,\)"),
        ({"GRUCell": {"hidden_size": 2, "dtype": {"dtype": "float33"}}}, "must name a dtype; got 'float33'"),
        ({"GRUCell": {"hidden_size": 2, "activation": {"function": "os.system"}}}, "got 'os.system'"),
        ({"Stack": {"layers": [{"GRUCell": {"hidden_size": 2}}, 3]}}, "`layers` must be tuple.*Layer"),
        (DEEP, "at most 64 levels deep"),
    ],
    ids=lambda value: str(value)[:60],
)  # fmt: skip
def test_forged_files_are_refused(tmp_path: Path, layer: Any, message: str) -> None:
    leaves = zeros(rx.GRUCell(2), 3)
    with pytest.raises(ValueError, match=message):
        interop.load(forged(tmp_path / "file", layer, leaves))


def test_what_a_file_names_is_not_called(tmp_path: Path) -> None:
    called = []

    def harmful(*arguments: Any, **options: Any) -> Any:
        called.append((arguments, options))
        return jnp.zeros(3)

    leaves = zeros(rx.GRUCell(2), 3)
    for layer in ({"harmful": {"x": 3}}, {"GRUCell": {"hidden_size": 2, "kernel_init": {"harmful": {"x": 3}}}}):
        with pytest.raises(ValueError, match="must name what recurrax has, or what is given as `known`; got 'harmful'"):
            interop.load(forged(tmp_path / "file", layer, leaves), known=[harmful])
    functions = {"kernel_init": {"function": "harmful"}, "activation": {"function": "harmful"}}
    path = forged(tmp_path / "file", {"GRUCell": {"hidden_size": 2, **functions}}, leaves)
    assert interop.load(path, known=[harmful])[0] == rx.GRUCell(2, activation=harmful, kernel_init=harmful)
    assert not called
    forged(path, {"GRUCell": {"hidden_size": 2, "activation": {"function": "OwnCell"}}}, leaves)
    with pytest.raises(ValueError, match="got 'OwnCell'"):
        interop.load(path, known=[OwnCell])
    for wrong in (subprocess.Popen, 3, functools.partial(twice)):
        with pytest.raises(TypeError, match="`known` must hold classes of layers, and functions that have a name; got"):
            interop.load(path, known=[wrong])


def test_time_and_memory_follow_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    traced = []
    init = rx.GRUCell.init
    monkeypatch.setattr(rx.GRUCell, "init", lambda *arguments: traced.append(1) or init(*arguments))
    # A deep stack: equal layers are traced once for each input size, of which there are three for the first.
    deep = rx.Stack((rx.GRUCell(3),) * 160)
    path = forged(tmp_path / "deep", _description.describe(deep), zeros(deep, 4))
    traced.clear()
    assert interop.load(path)[0] == deep
    assert len(traced) <= 5
    # Arrays of very many sizes that are none of the layer's.
    sizes = {f"a{size}": np.zeros((size,), np.int8) for size in range(1, 300)}
    traced.clear()
    with pytest.raises(ValueError, match="parameters must be those of GRUCell"):
        interop.load(forged(path, {"GRUCell": {"hidden_size": 7}}, sizes))
    assert len(traced) <= 10
    # A block of 10^5 states would be decomposed in 75 GB; and whatever runs out of memory is a fault of the file's.
    cell = rx.S5Cell(2, 100_000)
    leaves = {"log_decay": (50_000,), "frequency": (50_000,), "log_step": (50_000,), "kernel": (1, 100_000)}
    leaves |= {"output_kernel": (100_000, 2), "skip": (1, 2)}
    leaves = {name: np.zeros(shape, np.float32) for name, shape in leaves.items()}
    assert interop.load(forged(path, {"S5Cell": {"hidden_size": 2, "state_size": 100_000}}, leaves))[0] == cell

    def exhausted(*_: Any) -> Any:
        raise MemoryError("Unable to allocate 75 GiB")

    monkeypatch.setattr(OwnCell, "init", exhausted)
    with pytest.raises(ValueError, match=r"must hold a layer and its parameters; .* Unable to allocate"):
        interop.load(forged(path, {"OwnCell": {"hidden_size": 2}}, leaves), known=[OwnCell])


def test_mutated_descriptions_are_refused_or_whole(tmp_path: Path) -> None:
    """The checksum is right each time, and no other error than a ValueError comes out."""
    layer = rx.Stack((rx.Bidirectional(rx.LSTMCell(2)), rx.Residual(rx.GRUCell(4)), rx.LTCCell(9, WIRING)))
    rng, leaves, text = random.Random(0), zeros(layer, 3), _description.describe(layer)
    values = ["0", "-1", "1e999", "99999999", "null", "true", '"x"', "[]", "{}", "[[1]]", '{"dtype": "int4"}', "NaN"]
    names = ["LSTMCell", "S5Cell", "LTCCell", "Dropout", "Cell", "MLSTMCell", "RGLRUCell", "SLSTMCell", "Zoneout"]
    tokens = re.split(r'("\w+"|\d+)', text)
    intact = 0
    for _ in range(250):
        mutated = list(tokens)
        for _ in range(rng.randrange(1, 4)):
            at = rng.randrange(1, len(tokens), 2)
            named = tokens[at].startswith('"')
            mutated[at] = rng.choice([f'"{rng.choice(names)}"', tokens[rng.randrange(1, len(tokens), 2)]] if named
                                     else [*values, tokens[rng.randrange(1, len(tokens), 2)]])  # fmt: skip
        with contextlib.suppress(ValueError):
            interop.load(forged(tmp_path / "file", "".join(mutated), leaves))
            intact += 1
    assert intact < 20


@pytest.mark.parametrize("dtype", ["F8_E4M3", "F8_E5M2", "F8_E8M0", "F6_E2M3", "F4", "I32", "BOOL", "C64"])
def test_other_dtypes_than_floats_are_refused(tmp_path: Path, dtype: str) -> None:
    leaves = zeros(rx.GRUCell(2), 3)
    if dtype in safetensors._DTYPES:
        leaves["kernel"] = leaves["kernel"].astype(safetensors._DTYPES[dtype])
        with pytest.raises(ValueError, match=r"`params\.kernel` must be of a floating dtype"):
            interop.load(forged(tmp_path / "file", {"GRUCell": {"hidden_size": 2}}, leaves))
        with pytest.raises(TypeError, match=r"`params\.kernel` must be of a floating dtype"):
            interop.save(tmp_path / "other", rx.GRUCell(2), rx.cells.GRUParams(**leaves))
        return
    size = 4 if "8" in dtype else 3
    header = {"__metadata__": {"format": "recurrax"}, "a": {"dtype": dtype, "shape": [4], "data_offsets": [0, size]}}
    header["a"]["data_offsets"] = [0, 2] if dtype == "F4" else header["a"]["data_offsets"]
    text = json.dumps(header).encode()
    (tmp_path / "file").write_bytes(len(text).to_bytes(8, "little") + text + bytes(header["a"]["data_offsets"][1]))
    with pytest.raises(ValueError, match=f"must hold arrays of dtypes among .*; .* has {dtype}"):
        interop.load(tmp_path / "file")
    params = rx.cells.GRUParams(**leaves)._replace(bias=jnp.zeros(6, jnp.float8_e4m3fn))
    with pytest.raises(TypeError, match=r"`params\.bias` must .* Floats of 8 bits are for storage"):
        interop.save(tmp_path / "other", rx.GRUCell(2), params)


def test_two_writers_and_a_reader(tmp_path: Path) -> None:
    path, cells = tmp_path / "file", {size: rx.GRUCell(size) for size in (2, 3)}
    params = {size: perturbed_params(cell, 3) for size, cell in cells.items()}
    interop.save(path, cells[2], params[2])
    for size in cells:  # Nothing is left to compile for the threads.
        interop.save(tmp_path / f"{size}", cells[size], params[size])
        (tmp_path / f"{size}").unlink()

    def write(size: int) -> None:
        for _ in range(30):
            interop.save(path, cells[size], params[size])

    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        writers = [pool.submit(write, size) for size in cells]
        while not all(writer.done() for writer in writers):
            cell, read = interop.load(path)
            assert_close("one of both", read, params[cell.hidden_size], 0)
    assert [writer.exception() for writer in writers] == [None, None]
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


@pytest.mark.skipif(os.name != "posix", reason="the permissions and the files of other systems")
def test_what_lies_at_the_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cell, path, other = rx.GRUCell(2), tmp_path / "file", tmp_path / "other"
    params = perturbed_params(cell, 3)
    before = os.umask(0o027)
    try:
        interop.save(path, cell, params)
        assert stat.S_IMODE(path.stat().st_mode) == 0o640
        for mode in (0o600, 0o666):
            path.chmod(mode)
            interop.save(path, cell, params)
            assert stat.S_IMODE(path.stat().st_mode) == mode
    finally:
        os.umask(before)

    # Links: neither that at the path nor one with the name that process ids foretold is followed.
    other.write_text("mine")
    (tmp_path / "link").symlink_to(other)
    (tmp_path / f".link.{os.getpid()}").symlink_to(other)
    interop.save(tmp_path / "link", cell, params)
    assert not (tmp_path / "link").is_symlink()
    assert other.read_text() == "mine"

    # What is no file is neither read, waited for nor replaced.
    os.mkfifo(tmp_path / "pipe")
    for place in (tmp_path / "pipe", tmp_path, Path("/dev/null")):
        with pytest.raises(ValueError, match=r"`path` must be a file; .* is a (folder|pipe or a device)"):
            interop.load(place)
        with pytest.raises(ValueError, match=r"`path` must be the name of a file; .* is a folder, a pipe or a device"):
            interop.save(place, cell, params)

    # Bytes are read, so that a file that is cut meanwhile does no harm, as it would to a mapping.
    monkeypatch.setattr("safetensors.safe_open", None)
    assert interop.load(path)[0] == cell

    # Whatever stops it, nothing is left behind.
    def stopped(*_: Any) -> None:
        raise KeyboardInterrupt

    names = sorted(entry.name for entry in tmp_path.iterdir())
    monkeypatch.setattr(os, "replace", stopped)
    with pytest.raises(KeyboardInterrupt):
        interop.save(path, cell, params)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == names
    assert interop.load(path)[0] == cell


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
