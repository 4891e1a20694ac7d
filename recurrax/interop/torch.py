"""PyTorch's layers and cells: our gate order, transposed kernels, two biases or none."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from recurrax._layer import Layer, Params
from recurrax.cells.elman import ElmanCell
from recurrax.cells.gru import GRUCell
from recurrax.cells.lstm import LSTMCell
from recurrax.interop._gates import has_bias, two_biases
from recurrax.interop._support import library, require, to_jax, unsupported
from recurrax.layers import _torch_layout as torch_layout
from recurrax.layers.compose import Bidirectional, Directions, Stack

# PyTorch's names of our parameters. A stack adds `_l0`, `_l0_reverse`, `_l1` and so on.
_NAMES = {
    "kernel": "weight_ih",
    "recurrent_kernel": "weight_hh",
    "bias": "bias_ih",
    "recurrent_bias": "bias_hh",
    "projection_kernel": "weight_hr",
}
_WEIGHT = re.compile(
    r"(.*?)(weight_ih|weight_hh|bias_ih|bias_hh|weight_hr)((?:_l[0-9]+(?:_reverse)?)?)"
)
_CELLS: dict[int, Any] = {1: ElmanCell, 3: GRUCell, 4: LSTMCell}
_FLOATS = ("float16", "bfloat16", "float32", "float64")


def from_torch(
    source: Any, *, prefix: str = "", nonlinearity: str = "tanh", dropout: float = 0.0
) -> tuple[Layer, Params]:
    """A recurrent layer or cell of PyTorch, or its weights alone, as a layer of this package.

    kernel = weight_ihᵀ,  recurrent_kernel = weight_hhᵀ,  projection_kernel = weight_hrᵀ,
    bias = bias_ih,  recurrent_bias = bias_hh

    PyTorch itself is not needed where its weights come as NumPy arrays, as from
    `safetensors.numpy.load_file`.

    Args:
        source: a `torch.nn.RNN`, `LSTM`, `GRU`, `RNNCell`, `LSTMCell` or `GRUCell`, a model that
            has one, or a mapping from the names in a state dict to tensors or arrays. Sizes,
            layers, directions and biases are inferred.
        prefix: which layer of a model that has several, such as `"encoder.lstm."`.
        nonlinearity: the function of an `RNN` in a mapping, `"tanh"` or `"relu"`, which its weights
            do not tell.
        dropout: the rate between the layers, for a mapping. A module knows both.

    Returns:
        The layer and its parameters, in the dtype of the weights. A `Stack`, as in
        `recurrax.nnx.LSTM`, or the cell for a `*Cell`.

    Raises:
        TypeError: if `source` is neither a module nor a mapping. If its weights are no arrays, have
            several dtypes, or a dtype that JAX would round.
        ValueError: if `prefix` picks no recurrent layer, or more than one. If weights are missing,
            left over or of shapes that do not fit together.

    Example:
        >>> import jax, numpy as np, recurrax
        >>> shapes = {"lstm.weight_ih_l0": (16, 3), "lstm.weight_hh_l0": (16, 4)}
        >>> weights = {name: np.ones(shape, np.float32) for name, shape in shapes.items()}
        >>> layer, params = recurrax.interop.from_torch(weights)
        >>> layer
        Stack(layers=(LSTMCell(hidden_size=4, bias=False),))
        >>> state, ys = recurrax.scan(layer, params, jax.numpy.ones((2, 7, 3)))

    References:
        PyTorch, 2025, https://docs.pytorch.org/docs/stable/nn.html#recurrent-layers
    """
    if isinstance(source, Mapping):
        _, found = _find(source, prefix)
    elif hasattr(source, "state_dict"):
        path, found = _find(source.state_dict(), prefix)
        # The module knows two options that its weights do not tell.
        module = source.get_submodule(path.rstrip("."))
        nonlinearity = getattr(module, "nonlinearity", nonlinearity)
        dropout = getattr(module, "dropout", dropout)
    else:
        supported = ("a torch.nn.Module", "a mapping from the names of weights to arrays")
        raise unsupported("source", source, supported)

    # A cell's weights have no place in their names.
    if set(found) == {""}:
        weights = found[""]
        cell_type, size, options = _cell_type(weights, nonlinearity)
        _check_weights(found, size, 1)
        bias = "bias_ih" in weights
        cell = cell_type(size, bias=bias, recurrent_bias=bias, **options)
        return cell, _params(cell_type, weights)

    directions = 1
    if "_l0_reverse" in found:
        directions = 2
    num_layers = len(found) // directions
    expected = set()
    for depth in range(num_layers):
        expected.add(f"_l{depth}")
        if directions == 2:
            expected.add(f"_l{depth}_reverse")
    if set(found) != expected:
        got = ", ".join(map(repr, found))
        raise ValueError(f"`source` must hold weights for every layer and direction; got {got}.")
    first = found["_l0"]
    cell_type, size, options = _cell_type(first, nonlinearity)
    _check_weights(found, size, directions)
    params: list[Any] = []
    for depth in range(num_layers):
        own = _params(cell_type, found[f"_l{depth}"])
        if directions == 2:
            back = _params(cell_type, found[f"_l{depth}_reverse"])
            own = Directions(own, back)
        params.append(own)
    stack = torch_layout.stack(
        cell_type,
        size,
        num_layers,
        bias="bias_ih" in first,
        dropout=dropout,
        bidirectional=directions == 2,
        **options,
    )
    return stack, tuple(params)


def _params(cell_type: Any, weights: Mapping[str, Any]) -> Params:
    arrays = {}
    for ours, theirs in _NAMES.items():
        if theirs in weights:
            arrays[ours] = _array(weights[theirs]).T
    return cell_type.params_type(**arrays)


def _cell_type(weights: Mapping[str, Any], nonlinearity: str) -> tuple[Any, int, dict[str, Any]]:
    """The cell that has weights of these names and shapes, its hidden size, and its options.

    Raises:
        ValueError: if there is none.
    """
    names = set(weights)
    one_bias = len(names & {"bias_ih", "bias_hh"}) == 1
    if not {"weight_ih", "weight_hh"} <= names or one_bias:
        must = "weight_ih and weight_hh, and bias_ih and bias_hh or neither"
        raise ValueError(f"`source` must hold {must}; got {', '.join(sorted(names))}.")
    # weight_hh is [G*H, P], and weight_hr is [P, H]. Without a projection P is H.
    last = weights.get("weight_hr", weights["weight_hh"])
    # A damaged weight may have no axes, or axes of size 0.
    rows = max(weights["weight_hh"].shape[:1], default=0)
    size = max(last.shape[-1:], default=0)
    gates = rows // max(size, 1)
    shown = _shown("weight_hh", weights)
    if gates not in _CELLS or rows != gates * size:
        raise ValueError(f"`source` must have 1, 3 or 4 gates of {size} features; got {shown}.")
    if "weight_hr" in names and gates != 4:
        raise ValueError(f"`source` must have 4 gates where it has a projection; got {shown}.")

    options: dict[str, Any] = {}
    if gates == 1:
        options["activation"] = torch_layout.activation_of(nonlinearity)
    if "weight_hr" in names:
        options["proj_size"] = weights["weight_hr"].shape[0]
    return _CELLS[gates], size, options


def _check_weights(found: Mapping[str, Mapping[str, Any]], size: int, directions: int) -> None:
    """Checks the weights of all layers and directions against the first layer.

    Raises:
        TypeError: if they are not of one floating dtype.
        ValueError: if a weight is missing, left over or of another shape.
    """
    # A layer has places, and a cell has none.
    first = found.get("_l0") or found[""]
    rows = first["weight_hh"].shape[0]
    dtype = first["weight_hh"].dtype
    outputs = size
    if "weight_hr" in first:
        outputs = first["weight_hr"].shape[0]
    if not 0 < outputs <= size or (outputs == size and "weight_hr" in first):
        shown = _shown("weight_hr", first)
        raise ValueError(f"`source` must project to fewer than {size} features; got {shown}.")
    if str(dtype).removeprefix("torch.") not in _FLOATS:
        must = "must hold weights of a floating dtype of 16 to 64 bits"
        raise TypeError(f"`source` {must}; got {dtype}.")
    for place, weights in found.items():
        # Only the first layer reads the inputs. A weight without axes fits no shape.
        inputs: int | None = directions * outputs
        if place in ("", "_l0", "_l0_reverse"):
            inputs = next(iter(first["weight_ih"].shape[-1:]), None)
        shapes = {
            "weight_ih": (rows, inputs),
            "weight_hh": (rows, outputs),
            "bias_ih": (rows,),
            "bias_hh": (rows,),
            "weight_hr": (outputs, size),
        }
        if weights.keys() != first.keys():
            must = "must hold the same weights for every layer and direction"
            wanted = ", ".join(sorted(first))
            got = ", ".join(f"{name}{place}" for name in sorted(weights)) or "none"
            raise ValueError(f"`source` {must}, {wanted}; got {got}.")
        for name, weight in weights.items():
            if tuple(weight.shape) != shapes[name] or 0 in weight.shape:
                must = f"must hold {name}{place} of shape {list(shapes[name])}"
                raise ValueError(f"`source` {must}; got {_shown(name, weights)}.")
            if weight.dtype != dtype:
                got = f"{dtype} and {weight.dtype}"
                raise TypeError(f"`source` must hold weights of one dtype; got {got}.")


def _shown(name: str, weights: Mapping[str, Any]) -> str:
    return f"{name} {list(weights[name].shape)}"


def _find(source: Mapping[str, Any], prefix: str) -> tuple[str, dict[str, dict[str, Any]]]:
    """The path of the recurrent layer under `prefix`, and its weights by place and name."""
    # A name is a path, a part and a place: "encoder.lstm." + "weight_ih" + "_l0".
    layers: dict[str, dict[str, dict[str, Any]]] = {}
    for name, weight in source.items():
        match = _WEIGHT.fullmatch(str(name))
        if match is None:
            continue
        path, part, place = match.groups()
        if not hasattr(weight, "shape") or not hasattr(weight, "dtype"):
            got = f"{weight!r} for {name!r}"
            raise TypeError(f"`source` must hold tensors or arrays; got {got}.")
        places = layers.setdefault(path, {})
        places.setdefault(place, {})[part] = weight
    # A full path wins over longer paths that begin with it.
    matching = [path for path in layers if path.startswith(prefix)]
    if prefix in layers:
        matching = [prefix]
    if len(matching) != 1:
        choice = ", ".join(map(repr, layers)) or "none"
        raise ValueError(
            f"`prefix` must pick one recurrent layer; {prefix!r} picks {len(matching)}. "
            f"There are: {choice}."
        )
    [path] = matching
    return path, layers[path]


def _array(weight: Any) -> jax.Array:
    if hasattr(weight, "detach"):
        weight = weight.detach().cpu()
        # NumPy has no bfloat16. Float32 holds it exactly.
        if str(weight.dtype) == "torch.bfloat16":
            return jnp.asarray(weight.float().numpy(), jnp.bfloat16)
    return to_jax(weight)


def to_torch(layer: Layer, params: Params, *, batch_first: bool = False) -> Any:
    """A layer of this package as a layer of PyTorch, with its weights.

    PyTorch gets zeros for a missing bias.

    Args:
        layer: an `ElmanCell`, `LSTMCell` or `GRUCell`, which becomes a `torch.nn.RNNCell`,
            `LSTMCell` or `GRUCell`; or a `Stack` of equal ones, a `Bidirectional` with one in both
            directions, or a `Stack` of equal such, which becomes a `torch.nn.RNN`, `LSTM` or `GRU`.
        params: its parameters.
        batch_first: the option of PyTorch's layers; a cell has none.

    Returns:
        The module.

    Raises:
        TypeError: if PyTorch has no such layer.
        ValueError: if PyTorch's layer lacks an option that the cell has, or its layers differ.

    Example:
        >>> import jax, recurrax
        >>> layer = recurrax.Stack((recurrax.Bidirectional(recurrax.LSTMCell(4)),) * 2)
        >>> params = layer.init(jax.random.key(0), input_size=3)
        >>> recurrax.interop.to_torch(layer, params, batch_first=True)
        LSTM(3, 4, num_layers=2, batch_first=True, bidirectional=True)

    References:
        PyTorch, 2025, https://docs.pytorch.org/docs/stable/nn.html#recurrent-layers
    """
    layers: tuple[Layer, ...] = (layer,)
    params_of_layers = (params,)
    dropout = 0.0
    if isinstance(layer, Stack):
        layers, dropout = layer.layers, layer.dropout
        params_of_layers = params
    cells = list(_cells(layers, params_of_layers))
    # One module of PyTorch has the same options in all layers and directions.
    kinds = {_kind(cell) for _, cell, _ in cells}
    both = {isinstance(part, Bidirectional) for part in layers}
    if len(kinds) > 1 or len(both) > 1:
        must = "must have equal cells in all layers and directions for PyTorch"
        raise ValueError(f"`layer` {must}; got {layer}.")
    if type(layer) is LSTMCell:
        require(layer, "torch.nn.LSTMCell", proj_size=0)

    torch = library("torch", "torch")
    name, size, *options = kinds.pop()
    bias = any(has_bias(weights) for *_, weights in cells)
    *_, first = cells[0]
    made: dict[str, Any] = {
        "bias": bias,
        "dtype": getattr(torch, str(first.kernel.dtype)),
        **dict(options),
    }
    if isinstance(layer, (Stack, Bidirectional)):
        made["num_layers"] = len(layers)
        made["dropout"] = dropout
        made["bidirectional"] = both.pop()
        made["batch_first"] = batch_first
    else:
        name = f"{name}Cell"
        cells = [("", layer, params)]
        made.pop("proj_size", None)

    weights: dict[str, Any] = {}
    for place, _, own in cells:
        arrays = own._asdict()
        if bias:
            arrays["bias"], arrays["recurrent_bias"] = two_biases(own)
        for key, array in arrays.items():
            if array is not None:
                weights[f"{_NAMES[key]}{place}"] = _tensor(array.T)
    # The module begins on the device "meta": its initializers would draw from PyTorch's global
    # generator.
    make = getattr(torch.nn, name)
    module = make(first.kernel.shape[0], size, device="meta", **made)
    module.load_state_dict(weights, assign=True)
    return module


def _cells(
    layers: tuple[Layer, ...], params: tuple[Params, ...]
) -> Iterator[tuple[str, Layer, Params]]:
    for depth, (layer, own) in enumerate(zip(layers, params, strict=True)):
        if isinstance(layer, Bidirectional):
            require(layer, "PyTorch", merge="concat")
            yield f"_l{depth}", layer.forward, own.forward
            yield f"_l{depth}_reverse", layer.backward, own.backward
        else:
            yield f"_l{depth}", layer, own


def _kind(cell: Layer) -> tuple:
    """The name of PyTorch's layer, its size, and the options that all cells of it share."""
    if type(cell) is ElmanCell:
        for name, function in torch_layout.NONLINEARITIES.items():
            if cell.activation is function:
                return "RNN", cell.hidden_size, ("nonlinearity", name)
        must = "must be tanh or relu for torch.nn.RNN"
        raise ValueError(f"`activation` of `layer` {must}; got {cell}.")
    if type(cell) is LSTMCell:
        require(cell, "torch.nn.LSTM", activation=jnp.tanh, gate_activation=jax.nn.sigmoid)
        return "LSTM", cell.hidden_size, ("proj_size", cell.proj_size)
    if type(cell) is GRUCell:
        # PyTorch has these activations alone.
        require(cell, "torch.nn.GRU", reset_after=True)
        require(cell, "torch.nn.GRU", activation=jnp.tanh, gate_activation=jax.nn.sigmoid)
        return "GRU", cell.hidden_size
    supported = ("ElmanCell", "LSTMCell", "GRUCell", "a Stack or a Bidirectional of these")
    raise unsupported("layer", cell, supported)


def _tensor(array: jax.Array) -> Any:
    import torch

    dtype = getattr(torch, str(array.dtype))
    # PyTorch cannot read the bfloat16 that JAX adds to NumPy. Float32 holds it exactly.
    if array.dtype == jnp.bfloat16:
        array = array.astype(jnp.float32)
    return torch.tensor(np.asarray(array)).to(dtype)
