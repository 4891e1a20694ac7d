"""A model of ONNX's as it comes from outside: opened, looked into and believed only as far as it is checked."""

from __future__ import annotations

import collections
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from recurrax.interop import _files as files
from recurrax.interop._support import library

_LARGEST = (
    2**31 - 1
)  # A protobuf message is no larger, nor are all weights that are read from beside one.
_OLDEST = 7  # Of the opsets; before, the recurrent operators had other attributes.


class Graph:
    """The nodes of a model, and the arrays that are known before it runs.

    Args:
        model: a `ModelProto`, its bytes, or the path of a file.
        weights: arrays by the names of graph inputs.

    Raises:
        TypeError: if `model` is anything else.
        ValueError: if it is no model, or a damaged one.
        OSError: if there is no such file.
    """

    def __init__(self, model: Any, weights: Mapping[str, Any] | None) -> None:
        onnx = library("onnx", "recurrax[interop]")
        model, self._folder = _opened(model)
        self.opset = max(
            (entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")),
            default=0,
        )
        latest = onnx.defs.onnx_opset_version()
        if not _OLDEST <= self.opset <= latest:
            raise ValueError(
                f"`model` must be of an opset from {_OLDEST} to {latest}; got {self.opset or 'none'}."
            )
        if not 1 <= model.ir_version <= onnx.IR_VERSION:
            raise ValueError(
                f"`model` must be of an IR version from 1 to {onnx.IR_VERSION}; got {model.ir_version}."
            )
        self._context = onnx.checker.C.CheckerContext()
        self._context.ir_version = model.ir_version
        self._context.opset_imports = {"": self.opset}
        self.nodes = [node for node in model.graph.node if node.domain in ("", "ai.onnx")]
        self.producers = {name: node for node in self.nodes for name in node.output if name}
        self._arrays: dict[str, np.ndarray | None] = {}
        self._external_bytes = self._used_bytes = 0
        self._tensors = {tensor.name: tensor for tensor in model.graph.initializer}
        made = collections.Counter(
            [*self._tensors, *(name for node in model.graph.node for name in node.output if name)]
        )
        if twice := [name for name, count in made.items() if count > 1]:
            raise ValueError(f"`model` must name each value once; got {twice[0]!r} twice.")
        names = {value.name for value in model.graph.input} | self._tensors.keys()
        self._weights = {name: np.asarray(array) for name, array in (weights or {}).items()}
        if unknown := self._weights.keys() - names:
            known = ", ".join(map(repr, sorted(names))) or "none"
            raise ValueError(
                f"`weights` must go by names of graph inputs, {known}; got {', '.join(map(repr, sorted(unknown)))}."
            )

    def check(self, node: Any) -> None:
        """Checks a node against the schema of its operator.

        Raises:
            ValueError: if it has inputs, outputs or attributes that the operator does not take.
        """
        import onnx

        try:
            if any(attribute.ref_attr_name for attribute in node.attribute):
                raise onnx.checker.ValidationError(
                    "it refers to attributes of a function, and is in none."
                )
            onnx.checker.check_node(node, self._context)
        except (onnx.checker.ValidationError, UnicodeDecodeError) as error:
            raise ValueError(
                f"`model` must hold valid nodes; {named(node)} is none: {error}"
            ) from error

    def consumers(self, name: str) -> Iterator[Any]:
        """The nodes that read a value."""
        return (node for node in self.nodes if name in node.input)

    def use(self, arrays: Iterable[np.ndarray | None]) -> None:
        """Counts weights that a layer will hold, as any number of nodes may have the same ones.

        Raises:
            ValueError: if they are too many, together with those before.
        """
        self._used_bytes += sum(array.nbytes for array in arrays if array is not None)
        if self._used_bytes > _LARGEST:
            raise ValueError(
                f"`model` must have recurrent nodes of at most {_LARGEST} bytes of weights together."
            )

    def array(self, name: str) -> np.ndarray | None:
        """The value of that name, or None if it is known only when the model runs.

        Raises:
            ValueError: if it is damaged.
        """
        if name in self._weights:
            return self._weights[name]
        if name not in self._arrays:  # Several nodes may read one value.
            self._arrays[name] = self._known(name)
        return self._arrays[name]

    def _known(self, name: str) -> np.ndarray | None:
        tensor, producer = self._tensors.get(name), self.producers.get(name)
        if tensor is None and producer is not None and producer.op_type == "Constant":
            tensor = next(
                (a.t for a in producer.attribute if a.name == "value" and a.HasField("t")), None
            )
        return None if tensor is None else self._read(name, tensor)

    def _read(self, name: str, tensor: Any) -> np.ndarray:
        import onnx

        kinds = (onnx.TensorProto.STRING, onnx.TensorProto.UNDEFINED)
        if tensor.data_type in kinds or tensor.data_type not in onnx.TensorProto.DataType.values():
            raise ValueError(
                f"`model` must hold numbers in {name!r}; got data type {tensor.data_type}."
            )
        if any(size < 0 for size in tensor.dims):
            raise ValueError(
                f"`model` must hold tensors of real sizes; got {list(tensor.dims)} for {name!r}."
            )
        try:
            if tensor.data_location == onnx.TensorProto.EXTERNAL:
                return self._external(tensor)
            return onnx.numpy_helper.to_array(tensor)
        except (ValueError, TypeError, OverflowError, KeyError) as error:
            raise ValueError(
                f"`model` must hold {name!r} whole; it is damaged: {error}."
            ) from error

    def _external(self, tensor: Any) -> np.ndarray:
        """What lies in a file beside the model."""
        import onnx

        entries = {entry.key: entry.value for entry in tensor.external_data}
        if self._folder is None:
            raise ValueError(
                "it lies in another file; give the path of the model, not what is in it"
            )
        location = entries.get("location", "")
        try:
            folder = self._folder.resolve()
            path = (folder / location).resolve()
            beside = path.is_relative_to(folder) and path.is_file()
        except (OSError, RuntimeError):  # links in a circle, or a name that is too long
            beside = False
        if not beside:
            raise ValueError(
                f"it should lie in {location[:80]!r}, which is no file beside the model"
            )
        size = (
            math.prod(tensor.dims) * onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
        )
        offset = int(entries.get("offset", 0))
        if offset < 0 or offset + size > path.stat().st_size:
            raise ValueError(
                f"it should be {size} bytes from byte {offset} on, which {path.name} has not"
            )
        self._external_bytes += size
        if self._external_bytes > _LARGEST:
            raise ValueError(
                f"it and the other weights beside the model must be at most {_LARGEST} bytes together"
            )
        with path.open("rb") as file:
            file.seek(offset)
            inside = onnx.TensorProto(
                data_type=tensor.data_type, dims=tensor.dims, raw_data=file.read(size)
            )
        return onnx.numpy_helper.to_array(inside)


def named(node: Any) -> str:
    """How an error calls a node."""
    return f"{node.op_type} {node.name!r}"


def _opened(model: Any) -> tuple[Any, Path | None]:
    """The model, and the folder of its file if it came in one."""
    import onnx
    from google.protobuf.message import DecodeError

    folder = None
    if isinstance(model, (str, os.PathLike)):
        folder = Path(model).parent
        try:
            model = files.read(model, _LARGEST)
        except ValueError as error:
            raise ValueError(f"`model` must be a model of ONNX's: {error}") from error
    if isinstance(model, bytes):
        try:
            return onnx.ModelProto.FromString(model), folder
        except DecodeError as error:
            raise ValueError(
                f"`model` must be a model of ONNX's; got {len(model)} bytes that are none."
            ) from error
    if not isinstance(model, onnx.ModelProto):
        raise TypeError(
            f"`model` must be an onnx.ModelProto, its bytes or a path; got {type(model).__name__}."
        )
    return model, None
