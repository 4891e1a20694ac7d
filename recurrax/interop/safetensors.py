"""A layer and its parameters in one safetensors file, which says what it holds and whether it is whole."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from recurrax._flax import by_name, from_names
from recurrax._layer import Layer, Params
from recurrax._params import infer_input_size
from recurrax.interop import _files as files
from recurrax.interop._description import (
    Limits,
    check_count,
    check_known,
    describe,
    sketch,
    understand,
)
from recurrax.interop._support import library, to_jax

_FORMAT, _VERSION = "recurrax", "1"
# The dtypes of parameters, by the names that they have in a file.
_DTYPES: dict[str, Any] = {
    **{
        "F16": np.float16,
        "BF16": jnp.bfloat16,
        "F32": np.float32,
        "F64": np.float64,
        "C64": np.complex64,
    },
    **{"BOOL": np.bool_, "I8": np.int8, "I16": np.int16, "I32": np.int32, "I64": np.int64},
    **{"U8": np.uint8, "U16": np.uint16, "U32": np.uint32, "U64": np.uint64},
}
_KINDS = (jnp.floating, jnp.complexfloating, jnp.integer, jnp.bool_)
# What arguments of wrong types and sizes bring about.
_WRONG_ARGUMENTS = (
    ValueError,
    TypeError,
    ArithmeticError,
    AttributeError,
    LookupError,
    MemoryError,
)


def save(path: str | os.PathLike, layer: Layer, params: Params) -> None:
    """Writes a layer and its parameters to a safetensors file: all of it, or nothing.

    The parameters go by their names, such as `layers_0.forward.kernel`, in their own dtypes. The
    metadata hold a description of the layer in JSON and a checksum. Whatever reads safetensors
    reads the file.

    The bytes go into a new file in the same folder, which takes the name when all of them are on
    the disk. So any number of threads and processes may write and read one path at a time. A
    process that is killed may leave that other file there: a hidden one whose name ends in `.tmp`.

    Args:
        path: the file, by custom ending in `.safetensors`. A file that is there is replaced and its
            permissions are kept; a link is replaced too, not followed.
        layer: any layer, of one's own too. Initialisers that have no name are left out: they have
            done their work.
        params: its parameters.

    Raises:
        ImportError: if safetensors is not installed.
        ValueError: if `params` are not those of the layer or not of its kind of dtype, an argument
            of the layer has no name, such as a lambda, the layer is made of more than 512 layers,
            or `path` is a folder or a device.
        OSError: if the file cannot be written; then what was there before is still there.

    Example:
        >>> import jax, recurrax, tempfile
        >>> from recurrax import interop
        >>> layer = recurrax.Bidirectional(recurrax.LSTMCell(4))
        >>> params = layer.init(jax.random.key(0), input_size=3)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     interop.save(f"{folder}/tagger.safetensors", layer, params)
        ...     layer, params = interop.load(f"{folder}/tagger.safetensors")
        >>> layer.forward, params.backward.kernel.shape
        (LSTMCell(hidden_size=4), (3, 16))

    References:
        Hugging Face, safetensors, 2022, https://huggingface.co/docs/safetensors
    """
    safetensors = library("safetensors.numpy", "recurrax[interop]")
    infer_input_size(
        layer, params
    )  # Refuses parameters of another layer, or of another kind of dtype.
    check_count(layer)
    leaves = {".".join(name): np.asarray(leaf) for name, leaf in by_name(params).items()}
    metadata = {"format": _FORMAT, "version": _VERSION, "layer": describe(layer)}
    metadata["sha256"] = _checksum(metadata["layer"], leaves)
    files.write(path, safetensors.save(leaves, metadata))


def load(path: str | os.PathLike, *, known: Iterable[Any] = ()) -> tuple[Layer, Params]:
    """Reads the layer and the parameters that `save` wrote. No code in the file is run: there is none.

    A file from a stranger costs no more time and memory than its size tells: the description is
        counted and measured
    against the arrays before anything is made of it. Of `known`, classes are made with the
    arguments in the file; functions become arguments and are not called.

    Args:
        path: the file.
        known: the classes of layers, and of dataclasses in them, and the functions of one's own, of
            which the layer is made.

    Returns:
        The layer and its parameters.

    Raises:
        ImportError: if safetensors is not installed.
        TypeError: if `known` holds anything but classes of dataclasses and functions.
        ValueError: if the file is no safetensors file, damaged, not one of recurrax, of a later
            version of it, names a layer that is neither recurrax's nor `known`, or does not hold
            the parameters of that layer, in dtypes of their kind; or if `path` is a folder, a pipe
            or a device.
        OSError: if there is no such file, or it cannot be read.

    Example:
        >>> import jax, recurrax, tempfile
        >>> from recurrax import interop
        >>> layer = recurrax.GRUCell(4, activation=jax.nn.relu)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     interop.save(f"{folder}/gru.safetensors", layer, layer.init(jax.random.key(0), input_size=3))
        ...     interop.load(f"{folder}/gru.safetensors")[0] == layer
        True

    References:
        Hugging Face, safetensors, 2022, https://huggingface.co/docs/safetensors
    """
    library("safetensors", "recurrax[interop]")
    check_known(known := tuple(known))
    metadata, leaves = _read(path)
    _check(path, metadata, leaves)
    shapes = [leaf.shape for leaf in leaves.values()]
    limits = Limits(
        arrays=len(shapes),
        axis=max((axis for shape in shapes for axis in shape), default=0),
        elements=max(map(math.prod, shapes), default=0),
    )
    try:
        layer = understand(metadata["layer"], known, limits)
        drawn = sketch(layer)
        params = from_names(drawn, {tuple(name.split(".")): leaf for name, leaf in leaves.items()})
        params = jax.tree.map(to_jax, params)
    except _WRONG_ARGUMENTS as error:
        raise ValueError(
            f"`path` must hold a layer and its parameters; in {path} {error}"
        ) from error
    return layer, params


def _read(path: str | os.PathLike) -> tuple[dict[str, str], dict[str, np.ndarray]]:
    """The metadata and the arrays of a file."""
    from safetensors import SafetensorError, deserialize

    content = files.read(path)
    try:
        tensors = deserialize(content)
    except SafetensorError as error:
        raise ValueError(
            f"`path` must be a safetensors file; {path} is none, or is damaged: {error}."
        ) from error
    # What is in the header stands checked by now, but for the metadata, which `deserialize` leaves
    # out.
    size = int.from_bytes(content[:8], "little")
    metadata = json.loads(content[8 : 8 + size]).get("__metadata__") or {}
    if wrong := {tensor["dtype"] for _, tensor in tensors} - _DTYPES.keys():
        raise ValueError(
            f"`path` must hold arrays of dtypes among {', '.join(_DTYPES)}; {path} has {', '.join(sorted(wrong))}."
        )
    leaves = {}
    for name, tensor in tensors:
        leaves[name] = np.frombuffer(tensor["data"], _DTYPES[tensor["dtype"]]).reshape(
            tensor["shape"]
        )
    return metadata, leaves


def _check(
    path: str | os.PathLike, metadata: Mapping[str, str], leaves: Mapping[str, np.ndarray]
) -> None:
    if metadata.get("format") != _FORMAT or "layer" not in metadata:
        raise ValueError(
            f"`path` must be a file that `recurrax.interop.save` wrote; {path} is of the format "
            f"{metadata.get('format')!r}. For PyTorch's weights, read it by `safetensors.numpy.load_file` and give "
            "that to `from_torch`."
        )
    if metadata.get("version") != _VERSION:
        raise ValueError(
            f"`path` must be of version {_VERSION}; {path} is of version {metadata.get('version')!r}."
        )
    if _checksum(metadata["layer"], leaves) != metadata.get("sha256"):
        raise ValueError(
            f"`path` must be as it was written; {path} is damaged: its checksum is another."
        )


def _checksum(layer: str, leaves: Mapping[str, np.ndarray]) -> str:
    digest = hashlib.sha256(layer.encode())
    for name, leaf in sorted(leaves.items()):
        digest.update(f"\0{name}\0{leaf.dtype}\0{leaf.shape}\0".encode())
        digest.update(leaf.tobytes())
    return digest.hexdigest()
