"""A layer and its parameters in one safetensors file, which says what it holds and whether it is whole."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from recurrax._flax import by_name, from_names
from recurrax._layer import Layer, Params
from recurrax._params import input_size
from recurrax.interop._description import describe, understand
from recurrax.interop._support import to_jax

_FORMAT, _VERSION = "recurrax", "1"


def save(path: str | os.PathLike, layer: Layer, params: Params) -> None:
    """Writes a layer and its parameters to a safetensors file; whenever it is stopped, the file is whole or not there.

    The parameters go by their names, such as `layers_0.forward.kernel`, in their own dtypes. The metadata hold a
    description of the layer in JSON and a checksum. Whatever reads safetensors reads the file.

    Args:
        path: the file, by custom ending in `.safetensors`; one that is there is replaced.
        layer: any layer, of one's own too. Initialisers that have no name are left out: they have done their work.
        params: its parameters.

    Raises:
        ValueError: if `params` are not those of the layer, or an argument of the layer has no name, such as a lambda.

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
    from safetensors import numpy as safetensors

    input_size(layer, params)
    leaves = {".".join(name): np.asarray(leaf) for name, leaf in by_name(params).items()}
    metadata = {"format": _FORMAT, "version": _VERSION, "layer": describe(layer)}
    metadata["sha256"] = _checksum(metadata["layer"], leaves)
    _write(Path(path), safetensors.save(leaves, metadata))


def load(path: str | os.PathLike, *, known: Iterable[Any] = ()) -> tuple[Layer, Params]:
    """Reads the layer and the parameters that `save` wrote. No code in the file is run: there is none.

    Args:
        path: the file.
        known: the classes and functions of one's own that the layer is made of.

    Returns:
        The layer and its parameters.

    Raises:
        ValueError: if the file is no safetensors file, damaged, not one of recurrax, of a later version of it, names
            a layer that is neither recurrax's nor `known`, or does not hold the parameters of that layer.
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
    from safetensors import SafetensorError, safe_open

    path = Path(path)
    path.open("rb").close()  # What is wrong with a path, the system says best.
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            leaves = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (it is no mapping)
    except SafetensorError as error:
        raise ValueError(f"`path` must be a safetensors file; {path} is none, or is damaged: {error}.") from error
    _check(path, metadata, leaves)
    try:
        layer = understand(metadata["layer"], known)
        params = from_names(layer, {tuple(name.split(".")): to_jax(leaf) for name, leaf in leaves.items()})
    except (ValueError, TypeError, ArithmeticError, AttributeError) as error:  # as arguments of wrong types bring about
        raise ValueError(f"`path` must hold a layer and its parameters; in {path} {error}") from error
    return layer, params


def _check(path: Path, metadata: Mapping[str, str], leaves: Mapping[str, np.ndarray]) -> None:
    if metadata.get("format") != _FORMAT or "layer" not in metadata:
        raise ValueError(
            f"`path` must be a file that `recurrax.interop.save` wrote; {path} is of the format "
            f"{metadata.get('format')!r}. For PyTorch's weights, read it by `safetensors.numpy.load_file` and give "
            "that to `from_torch`."
        )
    if metadata.get("version") != _VERSION:
        raise ValueError(f"`path` must be of version {_VERSION}; {path} is of version {metadata.get('version')!r}.")
    if _checksum(metadata["layer"], leaves) != metadata.get("sha256"):
        raise ValueError(f"`path` must be as it was written; {path} is damaged: its checksum is another.")


def _checksum(layer: str, leaves: Mapping[str, np.ndarray]) -> str:
    digest = hashlib.sha256(layer.encode())
    for name, leaf in sorted(leaves.items()):
        digest.update(f"\0{name}\0{leaf.dtype}\0{leaf.shape}\0".encode())
        digest.update(leaf.tobytes())
    return digest.hexdigest()


def _write(path: Path, content: bytes) -> None:
    """Beside the file first, then in its place."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with beside.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
