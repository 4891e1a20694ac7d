"""A layer and its parameters as one compiled function that needs JAX alone to run."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict
from jax import export as jax_export
from jax.typing import DTypeLike

from recurrax import _scan
from recurrax._check import expected_state
from recurrax._flax import by_name
from recurrax._layer import Layer, Params, State
from recurrax._params import infer_input_size
from recurrax.cells.timed import TimedInputs
from recurrax.interop import _files as files
from recurrax.interop._support import input_shape, library


def export(
    layer: Layer,
    params: Params,
    *,
    step: bool = False,
    state: bool = False,
    lengths: bool = False,
    mask: bool = False,
    reset: bool = False,
    timed: bool = False,
    dtype: DTypeLike = jnp.float32,
    platforms: Sequence[str] = ("cpu", "cuda", "tpu"),
) -> jax_export.Exported:
    """Compiles `scan`, or `step`, with its parameters to StableHLO, for any batch and any length.

    The result has `call`, and its `serialize()` returns bytes. The bytes need no recurrax:
    `jax.export.deserialize(data).call` runs where JAX runs. `save_export` writes them to a file,
    with a checksum.

        ys, state = call(xs)                          xs [B, T, I], ys [B, T, O]
        y, state = call(x, state)                     with `step`: x [B, I], y [B, O]
        ys, state = call(xs, dt, lengths, mask, reset, state)

    The last line has all arguments in their order. A call has only the arguments that you ask for.
    Features in space have the axes of space too: `xs [B, T, *input_shape, I]`.

    States are dictionaries with the names of the core's states:
    `{"layers_0": {"h": ..., "c": ...}}`. The initial state is zero, unless it is learned.

    Args:
        layer: any layer; with `step`, one that reads no future.
        params: its parameters.
        step: whether to export one step, with the state before it as an argument.
        state: whether the state before the first step is an argument, so that sequences can come in
            parts.
        lengths: whether `lengths`, `int32[B]`, are an argument.
        mask: whether `mask`, `bool[B, T]`, or `bool[B]` with `step`, is an argument.
        reset: whether `reset`, `bool[B, T]`, or `bool[B]` with `step`, is an argument.
        timed: whether `dt`, the time that passes with each step, `[B, T]`, or `[B]` with `step`, is
            an argument, as in `TimedInputs`.
        dtype: the dtype of the inputs and the outputs.
        platforms: the platforms to compile for, in one artifact.

    Returns:
        The `jax.export.Exported`.

    Raises:
        ValueError: if `params` do not fit the layer, or `lengths` are asked for together with
            `step` or `mask`; as `recurrax.step`, if the layer reads the future.

    Example:
        >>> import jax, jax.numpy as jnp, recurrax
        >>> from recurrax import interop
        >>> layer = recurrax.Stack((recurrax.LSTMCell(4), recurrax.GRUCell(3)))
        >>> params = layer.init(jax.random.key(0), input_size=2)
        >>> data = interop.export(layer, params, lengths=True).serialize()
        >>> call = jax.export.deserialize(data).call
        >>> ys, state = call(jnp.ones((5, 7, 2)), jnp.array([7, 0, 3, 1, 2], jnp.int32))
        >>> ys.shape, state["layers_0"]["c"].shape
        ((5, 7, 3), (5, 4))

    References:
        JAX, exporting and serializing staged-out computations, 2024,
        https://docs.jax.dev/en/latest/export/export.html
    """
    if step and lengths:
        raise ValueError("`lengths` must be False with `step`: one step has no length.")
    if lengths and mask:
        raise ValueError(
            "`lengths` and `mask` must not both be True; fold the lengths into the mask."
        )
    batch: Any
    batch, time = jax_export.symbolic_shape("batch, time")
    steps = (batch,) if step else (batch, time)
    # Every argument that the exported function takes, by its name and in the order of the call.
    arguments = {
        "xs": jax.ShapeDtypeStruct(
            (*steps, *input_shape(layer), infer_input_size(layer, params)), dtype
        )
    }
    if timed:
        arguments["dt"] = jax.ShapeDtypeStruct(steps, dtype)
    if lengths:
        arguments["lengths"] = jax.ShapeDtypeStruct((batch,), jnp.int32)
    if mask:
        arguments["mask"] = jax.ShapeDtypeStruct(steps, jnp.bool_)
    if reset:
        arguments["reset"] = jax.ShapeDtypeStruct(steps, jnp.bool_)
    if state or step:
        arguments["state"] = _named(jax.eval_shape(lambda: layer.initial_state((batch,))))

    def run(*values: Any) -> tuple[jax.Array, Any]:
        options = dict(zip(arguments, values, strict=True))
        xs, before = options.pop("xs"), None
        if timed:
            xs = TimedInputs(xs, options.pop("dt"))
        if "state" in options:
            before = _restored(layer, options.pop("state"))
        # What is left are `lengths`, `mask` and `reset`.
        if step:
            after, ys = _scan.step(layer, params, xs, before, **options)
        else:
            after, ys = _scan.scan(layer, params, xs, before, **options)
        return ys, _named(after)

    return jax_export.export(jax.jit(run), platforms=tuple(platforms))(*arguments.values())


def save_export(path: str | os.PathLike, exported: jax_export.Exported) -> None:
    """Writes an exported layer to a file, and its checksum to another one beside it.

    The file holds what `exported.serialize()` makes, so that JAX alone reads it. The checksum, in
    `path` with `.sha256` behind it, is in the form of the program `sha256sum`, and `sha256sum -c`
    checks it. A file without its checksum, or with another one, was damaged, or its writing was
    stopped halfway: only one process at a time may write to a path.

    Args:
        path: the file; one that is there is replaced.
        exported: what `export` made, or `jax.export` itself.

    Raises:
        ImportError: if flatbuffers, which JAX needs for this, is not installed.
        OSError: if a file cannot be written.

    Example:
        >>> import jax, jax.numpy as jnp, recurrax, tempfile
        >>> from recurrax import interop
        >>> cell = recurrax.GRUCell(4)
        >>> exported = interop.export(cell, cell.init(jax.random.key(0), input_size=3))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     interop.save_export(f"{folder}/gru.bin", exported)
        ...     ys, state = interop.load_export(f"{folder}/gru.bin").call(jnp.ones((2, 7, 3)))
        >>> ys.shape
        (2, 7, 4)

    References:
        JAX, exporting and serializing staged-out computations, 2024,
        https://docs.jax.dev/en/latest/export/export.html
    """
    library("flatbuffers", "recurrax[interop]")
    data, path = bytes(exported.serialize()), Path(path)
    files.write(path, data)
    files.write(_beside(path), f"{hashlib.sha256(data).hexdigest()}  {path.name}\n".encode())


def load_export(path: str | os.PathLike) -> jax_export.Exported:
    """Reads the file of `save_export`, and checks its checksum.

    A checksum tells damage, not malice: who can change the file can change its checksum. A call
    runs the file as a program, so read no file from a stranger. JAX warns of its exports too.

    Args:
        path: the file.

    Returns:
        The `jax.export.Exported`.

    Raises:
        ImportError: if flatbuffers, which JAX needs for this, is not installed.
        ValueError: if the file has another checksum than the one beside it says, or is no file.
        OSError: if the file or its checksum is not there, or cannot be read.

    Example:
        >>> import jax, recurrax, tempfile
        >>> from recurrax import interop
        >>> cell = recurrax.GRUCell(4)
        >>> exported = interop.export(cell, cell.init(jax.random.key(0), input_size=3))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     interop.save_export(f"{folder}/gru.bin", exported)
        ...     interop.load_export(f"{folder}/gru.bin").platforms
        ('cpu', 'cuda', 'tpu')

    References:
        JAX, exporting and serializing staged-out computations, 2024,
        https://docs.jax.dev/en/latest/export/export.html
    """
    library("flatbuffers", "recurrax[interop]")
    path = Path(path)
    data, beside = files.read(path), files.read(_beside(path), largest=4096)
    expected = beside.split(maxsplit=1)[:1]
    if [hashlib.sha256(data).hexdigest().encode()] != expected:
        raise ValueError(
            f"`path` must be as it was written; {path} is damaged: "
            f"its checksum is another than {_beside(path)} says."
        )
    return jax_export.deserialize(bytearray(data))


def _beside(path: Path) -> Path:
    # The file of the checksum.
    return path.with_name(f"{path.name}.sha256")


def _named(state: State) -> Any:
    """The state as plain dictionaries: they need no recurrax to be read."""
    return unflatten_dict(by_name(state))


def _restored(layer: Layer, state: Any) -> State:
    # The inverse of `_named`.
    leaves, expected = flatten_dict(state), expected_state(layer, ())
    ordered = [leaves[name] for name in by_name(expected)]
    return jax.tree.unflatten(jax.tree.structure(expected), ordered)
