"""A layer and its parameters in one safetensors file, with a checksum."""

from __future__ import annotations

import hashlib
import itertools
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
# The errors that arguments of wrong types and sizes cause.
_WRONG_ARGUMENTS = (
    ValueError,
    TypeError,
    ArithmeticError,
    AttributeError,
    LookupError,
    MemoryError,
)


def save(path: str | os.PathLike, layer: Layer, params: Params) -> None:
    """Writes a layer and its parameters to a safetensors file: all bytes, or none.

    The parameters go by their names, such as `layers_0.forward.kernel`, in their own dtypes. The
    metadata hold a description of the layer in JSON, and a checksum. Every reader of safetensors
    reads the file.

    The bytes go into a new file in the same folder. It takes the name when all bytes are on the
    disk. So many threads and processes may write and read one path at a time. A process that is
    killed may leave the new file there: a hidden file whose name ends in `.tmp`.

    Args:
        path: the file, by custom ending in `.safetensors`. An old file is replaced, and its
            permissions are kept. A link is replaced too, not followed.
        layer: any layer, a user's too. Initializers without a name are left out: the parameters are
            drawn already.
        params: its parameters.

    Raises:
        ImportError: if safetensors is not installed.
        ValueError: if `params` do not fit the layer or its kind of dtype. If an argument of the
            layer has no name, such as a lambda. If the layer is made of more than 512 layers. If
            `path` is a folder or a device.
        OSError: if the file cannot be written. Then the old file is still there.

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
    # This refuses parameters of another layer, or of another kind of dtype.
    infer_input_size(layer, params)
    check_count(layer)
    leaves = {}
    for name, leaf in by_name(params).items():
        leaves[".".join(name)] = np.asarray(leaf)
    metadata = {"format": _FORMAT, "version": _VERSION, "layer": describe(layer)}
    metadata["sha256"] = _checksum(metadata["layer"], leaves)
    files.write(path, safetensors.save(leaves, metadata))


def load(path: str | os.PathLike, *, known: Iterable[Any] = ()) -> tuple[Layer, Params]:
    """Reads the layer and the parameters that `save` wrote. It runs no code from the file.

    A stranger's file costs no more time and memory than its size tells. The description is counted
    and compared with the arrays before an object is made from it. The classes in `known` are called
    with the arguments in the file. The functions in `known` become arguments and are not called.

    Args:
        path: the file.
        known: the user's classes and functions in the layer: classes of layers, dataclasses among
            their arguments, and functions.

    Returns:
        The layer and its parameters.

    Raises:
        ImportError: if safetensors is not installed.
        TypeError: if `known` holds anything but classes of dataclasses and functions.
        ValueError: if the file is no safetensors file, is damaged, is not from recurrax, or is from
            a later version. If it names a layer that is neither recurrax's nor `known`. If its
            arrays do not fit the layer, in names, shapes or kinds of dtype. If `path` is a folder,
            a pipe or a device.
        OSError: if there is no such file, or it cannot be read.

    Example:
        >>> import jax, recurrax, tempfile
        >>> from recurrax import interop
        >>> layer = recurrax.GRUCell(4, activation=jax.nn.relu)
        >>> params = layer.init(jax.random.key(0), input_size=3)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     interop.save(f"{folder}/gru.safetensors", layer, params)
        ...     interop.load(f"{folder}/gru.safetensors")[0] == layer
        True

    References:
        Hugging Face, safetensors, 2022, https://huggingface.co/docs/safetensors
    """
    library("safetensors", "recurrax[interop]")
    check_known(known := tuple(known))
    metadata, leaves = _read(path)
    _check(path, metadata, leaves)
    # The arrays bound the size of the layer.
    shapes = [leaf.shape for leaf in leaves.values()]
    limits = Limits(
        arrays=len(shapes),
        axis=max(itertools.chain.from_iterable(shapes), default=0),
        elements=max(map(math.prod, shapes), default=0),
    )
    try:
        layer = understand(metadata["layer"], known, limits)
        drawn = sketch(layer)
        named = {tuple(name.split(".")): leaf for name, leaf in leaves.items()}
        params = from_names(drawn, named)
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
    # `deserialize` has checked the header. It leaves out the metadata, so they are read here.
    size = int.from_bytes(content[:8], "little")
    metadata = json.loads(content[8 : 8 + size]).get("__metadata__") or {}
    leaves = {}
    for name, tensor in tensors:
        kind = tensor["dtype"]
        if kind not in _DTYPES:
            raise ValueError(
                f"`path` must hold arrays of dtypes among {', '.join(_DTYPES)}; {path} has {kind}."
            )
        leaves[name] = np.frombuffer(tensor["data"], _DTYPES[kind]).reshape(tensor["shape"])
    return metadata, leaves


def _check(
    path: str | os.PathLike, metadata: Mapping[str, str], leaves: Mapping[str, np.ndarray]
) -> None:
    kind, version = metadata.get("format"), metadata.get("version")
    if kind != _FORMAT or "layer" not in metadata:
        raise ValueError(
            f"`path` must be a file that `recurrax.interop.save` wrote; {path} is of the format "
            f"{kind!r}. For PyTorch's weights, read it by `safetensors.numpy.load_file` and give "
            "that to `from_torch`."
        )
    if version != _VERSION:
        raise ValueError(f"`path` must be of version {_VERSION}; {path} is of version {version!r}.")
    if _checksum(metadata["layer"], leaves) != metadata.get("sha256"):
        raise ValueError(
            f"`path` must be as it was written; {path} is damaged: its checksum is another."
        )


def _checksum(layer: str, leaves: Mapping[str, np.ndarray]) -> str:
    digest = hashlib.sha256(layer.encode())
    for name, leaf in sorted(leaves.items()):
        # Names, dtypes and shapes count too: they are a part of the meaning.
        digest.update(f"\0{name}\0{leaf.dtype}\0{leaf.shape}\0".encode())
        digest.update(leaf.tobytes())
    return digest.hexdigest()
