"""A model of ONNX from outside. It is opened, and every part is checked before use."""

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

# The largest protobuf message. All weights in files beside the model must stay below it too.
_LARGEST = 2**31 - 1
# The oldest opset: before, the recurrent operators had other attributes.
_OLDEST = 7


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
        self.opset = 0
        for entry in model.opset_import:
            # Custom domains have opsets of their own, which do not count.
            if _is_onnx(entry):
                self.opset = max(self.opset, entry.version)
        latest = onnx.defs.onnx_opset_version()
        if not _OLDEST <= self.opset <= latest:
            must = f"be of an opset from {_OLDEST} to {latest}"
            raise ValueError(f"`model` must {must}; got {self.opset or 'none'}.")
        if not 1 <= model.ir_version <= onnx.IR_VERSION:
            must = f"be of an IR version from 1 to {onnx.IR_VERSION}"
            raise ValueError(f"`model` must {must}; got {model.ir_version}.")
        # Nodes are checked one by one, and only if they are used.
        self._context = onnx.checker.C.CheckerContext()
        self._context.ir_version = model.ir_version
        self._context.opset_imports = {"": self.opset}
        self.nodes = list(filter(_is_onnx, model.graph.node))
        self.producers = {}
        for node in self.nodes:
            # An output that nobody reads may have the name "".
            self.producers.update(dict.fromkeys(filter(None, node.output), node))
        self._arrays: dict[str, np.ndarray | None] = {}
        self._external_bytes = self._used_bytes = 0
        self._tensors = {tensor.name: tensor for tensor in model.graph.initializer}

        # A name must have one value: else different readers of the file may disagree.
        made = collections.Counter(self._tensors.keys())
        for node in model.graph.node:
            made.update(filter(None, node.output))
        for name, count in made.items():
            if count > 1:
                raise ValueError(f"`model` must name each value once; got {name!r} twice.")
        names = {value.name for value in model.graph.input}
        names |= self._tensors.keys()
        self._weights = {}
        for name, array in (weights or {}).items():
            self._weights[name] = np.asarray(array)
        if unknown := self._weights.keys() - names:
            known = ", ".join(map(repr, sorted(names))) or "none"
            got = ", ".join(map(repr, sorted(unknown)))
            raise ValueError(f"`weights` must go by names of graph inputs, {known}; got {got}.")

    def check(self, node: Any) -> None:
        """Checks a node against the schema of its operator.

        Raises:
            ValueError: if it has inputs, outputs or attributes that the operator does not take.
        """
        import onnx

        try:
            for attribute in node.attribute:
                if attribute.ref_attr_name:
                    reason = "it refers to attributes of a function, and is in none."
                    raise onnx.checker.ValidationError(reason)
            onnx.checker.check_node(node, self._context)
        except (onnx.checker.ValidationError, UnicodeDecodeError) as error:
            must = "must hold valid nodes"
            raise ValueError(f"`model` {must}; {named(node)} is none: {error}") from error

    def consumers(self, name: str) -> Iterator[Any]:
        """The nodes that read a value."""
        for node in self.nodes:
            if name in node.input:
                yield node

    def use(self, arrays: Iterable[np.ndarray]) -> None:
        """Counts the bytes of weights that a layer will hold. Many nodes may share one tensor.

        Raises:
            ValueError: if they are too many, together with those before.
        """
        self._used_bytes += sum(array.nbytes for array in arrays)
        if self._used_bytes > _LARGEST:
            most = f"at most {_LARGEST} bytes of weights together"
            raise ValueError(f"`model` must have recurrent nodes of {most}.")

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
        # A constant is an initializer, or the output of a `Constant` with a tensor.
        if name in self._tensors:
            return self._read(name, self._tensors[name])
        producer = self.producers.get(name)
        if producer is None or producer.op_type != "Constant":
            return None
        for attribute in producer.attribute:
            if attribute.name == "value" and attribute.HasField("t"):
                return self._read(name, attribute.t)
        return None

    def _read(self, name: str, tensor: Any) -> np.ndarray:
        import onnx

        # A damaged file may have any number here.
        kinds = set(onnx.TensorProto.DataType.values())
        kinds -= {onnx.TensorProto.STRING, onnx.TensorProto.UNDEFINED}
        if tensor.data_type not in kinds:
            got = f"data type {tensor.data_type}"
            raise ValueError(f"`model` must hold numbers in {name!r}; got {got}.")
        sizes = list(tensor.dims)
        if min(sizes, default=0) < 0:
            must = "must hold tensors of sizes from 0 on"
            raise ValueError(f"`model` {must}; got {sizes} for {name!r}.")
        try:
            if tensor.data_location == onnx.TensorProto.EXTERNAL:
                return self._external(tensor)
            return onnx.numpy_helper.to_array(tensor)
        except (ValueError, TypeError, OverflowError, KeyError) as error:
            raise ValueError(f"`model` must hold all of {name!r}: {error}.") from error

    def _external(self, tensor: Any) -> np.ndarray:
        """The array of a tensor that lies in a file beside the model."""
        import onnx

        entries = {entry.key: entry.value for entry in tensor.external_data}
        if self._folder is None:
            hint = "give the path of the model, not what is in it"
            raise ValueError(f"it lies in another file; {hint}")
        # A model from outside must not read files from other folders.
        location = entries.get("location", "")
        try:
            folder = self._folder.resolve()
            path = (folder / location).resolve()
            beside = path.is_relative_to(folder) and path.is_file()
        except (OSError, RuntimeError):  # links in a circle, or a name that is too long
            beside = False
        if not beside:
            place = repr(location[:80])
            raise ValueError(f"it should lie in {place}, which is no file beside the model")

        # The sizes are checked before the file is read.
        dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
        sizes = list(tensor.dims)
        size = math.prod(sizes) * dtype.itemsize
        offset = int(entries.get("offset", 0))
        if offset < 0 or offset + size > path.stat().st_size:
            place = f"{size} bytes from byte {offset} on"
            raise ValueError(f"it should be {place}, which {path.name} has not")
        self._external_bytes += size
        if self._external_bytes > _LARGEST:
            most = f"at most {_LARGEST} bytes together"
            raise ValueError(f"it and the other weights beside the model must be {most}")
        with path.open("rb") as file:
            file.seek(offset)
            data = file.read(size)
        read = onnx.TensorProto(data_type=tensor.data_type, dims=sizes, raw_data=data)
        return onnx.numpy_helper.to_array(read)


def _is_onnx(entry: Any) -> bool:
    """Whether a node or an opset belongs to ONNX itself."""
    return entry.domain in ("", "ai.onnx")


def named(node: Any) -> str:
    """A node's name in an error."""
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
    # A file is bytes by now.
    if isinstance(model, bytes):
        try:
            return onnx.ModelProto.FromString(model), folder
        except DecodeError as error:
            got = f"{len(model)} bytes that are none"
            raise ValueError(f"`model` must be a model of ONNX's; got {got}.") from error
    if not isinstance(model, onnx.ModelProto):
        got = type(model).__name__
        raise TypeError(f"`model` must be an onnx.ModelProto, its bytes or a path; got {got}.")
    return model, None
