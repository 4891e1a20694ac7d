"""PyTorch's layers and cells: gates in this package's order, transposed kernels, two biases or none."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from recurrax import _torch_layout as torch_layout
from recurrax._layer import Layer, Params
from recurrax.cells.elman import ElmanCell
from recurrax.cells.gru import GRUCell
from recurrax.cells.lstm import LSTMCell
from recurrax.interop._gates import has_bias, two_biases
from recurrax.interop._support import library, require, to_jax, unsupported
from recurrax.layers.compose import Bidirectional, Directions, Stack

# Where each of our parameters is; in the state dict of a stack, with `_l0`, `_l0_reverse`, `_l1`
# and so on behind it.
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


def from_torch(
    source: Any, *, prefix: str = "", nonlinearity: str = "tanh", dropout: float = 0.0
) -> tuple[Layer, Params]:
    """A recurrent layer or cell of PyTorch, or the weights of one, as a layer of this package.

    kernel = weight_ihᵀ,  recurrent_kernel = weight_hhᵀ,  bias = bias_ih,  recurrent_bias = bias_hh,
    projection_kernel = weight_hrᵀ

    PyTorch itself is not needed where its weights come as NumPy arrays, as from
    `safetensors.numpy.load_file`.

    Args:
        source: a `torch.nn.RNN`, `LSTM`, `GRU`, `RNNCell`, `LSTMCell` or `GRUCell`, a model that
            has one, or a mapping from the names in a state dict to tensors or arrays. Sizes,
            layers, directions and biases are inferred.
        prefix: which layer of a model that has several, such as `"encoder.lstm."`.
        nonlinearity: that of an `RNN` in a mapping, `"tanh"` or `"relu"`, which its weights do not
            tell.
        dropout: the rate between the layers, which the weights do not tell either. A module knows
            both itself.

    Returns:
        The layer and its parameters, in the dtype of the weights: a `Stack` as `recurrax.nnx.LSTM`
            and its like have
        it, or for a `*Cell` the cell.

    Raises:
        TypeError: if `source` is neither a module nor a mapping, or its weights are no arrays, not
            of one floating dtype, or of one that JAX would round.
        ValueError: if no recurrent layer, or more than one, is found under `prefix`, or weights are
            missing, left over or of shapes that do not fit together.

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
        module = source.get_submodule(path.rstrip("."))
        nonlinearity, dropout = (
            getattr(module, "nonlinearity", nonlinearity),
            getattr(module, "dropout", dropout),
        )
    else:
        raise unsupported(
            "source", source, ("a torch.nn.Module", "a mapping from the names of weights to arrays")
        )
    ends = ("", "_reverse") if "_l0_reverse" in found else ("",)
    places = [[f"_l{depth}{end}" for end in ends] for depth in range(len(found) // len(ends))]
    is_cell = set(found) == {""}
    if not is_cell and set(found) != {*itertools.chain(*places)}:
        raise ValueError(
            f"`source` must hold weights for every layer and direction; got {', '.join(map(repr, found))}."
        )
    first = found["" if is_cell else "_l0"]
    cell_type, size = _cell_type(first)
    _check_weights(found, size, len(ends))

    options: dict[str, Any] = {}
    if cell_type is ElmanCell:
        options["activation"] = torch_layout.activation_of(nonlinearity)
    if "weight_hr" in first:
        options["proj_size"] = first["weight_hr"].shape[0]

    def params_of(weights: dict[str, Any]) -> Params:
        arrays = {
            ours: _array(weights[theirs]).T for ours, theirs in _NAMES.items() if theirs in weights
        }
        return cell_type.params_type(**arrays)

    bias = "bias_ih" in first
    if is_cell:
        return cell_type(size, bias=bias, recurrent_bias=bias, **options), params_of(first)
    ways = [[params_of(found[place]) for place in layer] for layer in places]
    params = tuple(Directions(*way) if len(ends) > 1 else way[0] for way in ways)
    return torch_layout.stack(
        cell_type, size, len(places), bias, dropout, len(ends) > 1, **options
    ), params


def _cell_type(weights: Mapping[str, Any]) -> tuple[Any, int]:
    """Which cell has weights of these names and shapes, and the number of features H of its state.

    Raises:
        ValueError: if none has.
    """
    names, biases = {*weights}, {"bias_ih", "bias_hh"}
    if not {"weight_ih", "weight_hh"} <= names or len(names & biases) == 1:
        raise ValueError(
            "`source` must hold weight_ih and weight_hh, and bias_ih and bias_hh or neither; "
            f"got {', '.join(sorted(names))}."
        )
    # The last axis of the projection is H; without one, that of the recurrent weights is.
    last = weights.get("weight_hr", weights["weight_hh"])
    rows, size = (
        shape[0] if shape else 0 for shape in (weights["weight_hh"].shape, last.shape[-1:])
    )
    gates = rows // size if size else 0
    if gates not in _CELLS or rows != gates * size:
        shown = _shown("weight_hh", weights)
        raise ValueError(f"`source` must have 1, 3 or 4 gates of {size} features; got {shown}.")
    if "weight_hr" in names and gates != 4:
        raise ValueError(
            f"`source` must have 4 gates where it has a projection; got {_shown('weight_hh', weights)}."
        )
    return _CELLS[gates], size


def _check_weights(found: Mapping[str, Mapping[str, Any]], size: int, directions: int) -> None:
    """Checks all weights against what those of the first layer say.

    Raises:
        TypeError: if they are not of one floating dtype.
        ValueError: if one is missing, left over or of another shape.
    """
    first = found["_l0"] if "_l0" in found else found[""]
    rows, dtype = first["weight_hh"].shape[0], first["weight_hh"].dtype
    outputs = first["weight_hr"].shape[0] if "weight_hr" in first else size
    if not 0 < outputs <= size or (outputs == size and "weight_hr" in first):
        raise ValueError(
            f"`source` must project to fewer than {size} features; got {_shown('weight_hr', first)}."
        )
    if str(dtype).removeprefix("torch.") not in ("float16", "bfloat16", "float32", "float64"):
        raise TypeError(
            f"`source` must hold weights of a floating dtype of 16 to 64 bits; got {dtype}."
        )
    for place, weights in found.items():
        inputs: int | None = directions * outputs
        if place in ("", "_l0", "_l0_reverse"):
            inputs = first["weight_ih"].shape[-1] if first["weight_ih"].shape else None
        shapes = {
            "weight_ih": (rows, inputs),
            "weight_hh": (rows, outputs),
            "bias_ih": (rows,),
            "bias_hh": (rows,),
            "weight_hr": (outputs, size),
        }
        if weights.keys() != first.keys():
            got = ", ".join(f"{name}{place}" for name in sorted(weights)) or "none"
            raise ValueError(
                f"`source` must hold the same weights for every layer and direction, {', '.join(sorted(first))}; "
                f"got {got}."
            )
        for name, weight in weights.items():
            if tuple(weight.shape) != shapes[name] or 0 in weight.shape:
                raise ValueError(
                    f"`source` must hold {name}{place} of shape {list(shapes[name])}; got {_shown(name, weights)}."
                )
            if weight.dtype != dtype:
                raise TypeError(
                    f"`source` must hold weights of one dtype; got {dtype} and {weight.dtype}."
                )


def _shown(name: str, weights: Mapping[str, Any]) -> str:
    return f"{name} {list(weights[name].shape)}"


def _find(source: Mapping[str, Any], prefix: str) -> tuple[str, dict[str, dict[str, Any]]]:
    """The path of the one recurrent layer under `prefix`, and its weights by what stands behind their names."""
    layers: dict[str, dict[str, dict[str, Any]]] = {}
    for name, weight in source.items():
        if isinstance(name, str) and (match := _WEIGHT.fullmatch(name)):
            path, part, place = match.groups()
            if not hasattr(weight, "shape") or not hasattr(weight, "dtype"):
                raise TypeError(
                    f"`source` must hold tensors or arrays; got {weight!r} for {name!r}."
                )
            layers.setdefault(path, {}).setdefault(place, {})[part] = weight
    matching = (
        [prefix] if prefix in layers else [path for path in layers if path.startswith(prefix)]
    )
    if len(matching) != 1:
        choice = ", ".join(map(repr, layers)) or "none"
        raise ValueError(
            f"`prefix` must pick one recurrent layer; {prefix!r} picks {len(matching)}. There are: {choice}."
        )
    return matching[0], layers[matching[0]]


def _array(weight: Any) -> jax.Array:
    if hasattr(weight, "detach"):
        weight = weight.detach().cpu()
        if str(weight.dtype) == "torch.bfloat16":  # which NumPy does not know
            return jnp.asarray(weight.float().numpy(), jnp.bfloat16)
    return to_jax(weight)


def to_torch(layer: Layer, params: Params, *, batch_first: bool = False) -> Any:
    """A layer of this package as one of PyTorch, with its weights.

    Where one of the two biases is missing, PyTorch gets zeros for it.

    Args:
        layer: an `ElmanCell`, `LSTMCell` or `GRUCell`, which becomes a `torch.nn.RNNCell`,
            `LSTMCell` or `GRUCell`; or a `Stack` of equal ones, a `Bidirectional` with one in both
            directions, or a `Stack` of equal such, which becomes a `torch.nn.RNN`, `LSTM` or `GRU`.
        params: its parameters.
        batch_first: that of PyTorch's layers; a cell has none.

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
    dropout, own = 0.0, (params,)
    if isinstance(layer, Stack):
        layers, dropout, own = layer.layers, layer.dropout, params
    cells = list(_cells(layers, own))
    kinds = {_kind(cell) for _, cell, _ in cells}
    both = {isinstance(part, Bidirectional) for part in layers}
    if len(kinds) > 1 or len(both) > 1:
        raise ValueError(
            f"`layer` must have equal cells in all layers and directions for PyTorch; got {layer}."
        )

    if type(layer) is LSTMCell:
        require(layer, "torch.nn.LSTMCell", proj_size=0)
    torch = library("torch", "torch")
    (name, size, *options), bias = kinds.pop(), any(has_bias(weights) for *_, weights in cells)
    dtype = cells[0][2].kernel.dtype
    made: dict[str, Any] = {"bias": bias, "dtype": getattr(torch, str(dtype)), **dict(options)}
    if isinstance(layer, (Stack, Bidirectional)):
        made |= {
            "num_layers": len(layers),
            "dropout": dropout,
            "bidirectional": both.pop(),
            "batch_first": batch_first,
        }
    else:
        name, cells = f"{name}Cell", [("", layer, params)]
        made.pop("proj_size", None)

    weights: dict[str, Any] = {}
    for place, _, weight in cells:
        arrays = {
            key: leaf
            for key, leaf in weight._asdict().items()
            if leaf is not None and "bias" not in key
        }
        if bias:
            arrays |= zip(("bias", "recurrent_bias"), two_biases(weight), strict=True)
        weights |= {f"{_NAMES[key]}{place}": _tensor(leaf.T) for key, leaf in arrays.items()}
    # On no device first: to initialise it would draw from PyTorch's global generator.
    module = getattr(torch.nn, name)(cells[0][2].kernel.shape[0], size, device="meta", **made)
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
    """The name of PyTorch's layer, its size, and what else must agree between all cells of one."""
    if type(cell) is ElmanCell:
        names = {activation: name for name, activation in torch_layout.NONLINEARITIES.items()}
        if cell.activation not in names:
            raise ValueError(
                f"`activation` of `layer` must be tanh or relu for torch.nn.RNN; got {cell}."
            )
        return "RNN", cell.hidden_size, ("nonlinearity", names[cell.activation])
    if type(cell) is LSTMCell:
        require(cell, "torch.nn.LSTM", activation=jnp.tanh, gate_activation=jax.nn.sigmoid)
        return "LSTM", cell.hidden_size, ("proj_size", cell.proj_size)
    if type(cell) is GRUCell:
        require(
            cell,
            "torch.nn.GRU",
            reset_after=True,
            activation=jnp.tanh,
            gate_activation=jax.nn.sigmoid,
        )
        return "GRU", cell.hidden_size
    supported = ("ElmanCell", "LSTMCell", "GRUCell", "a Stack or a Bidirectional of these")
    raise unsupported("layer", cell, supported)


def _tensor(array: jax.Array) -> Any:
    import torch

    exact = (
        array.astype(jnp.float32) if array.dtype == jnp.bfloat16 else array
    )  # NumPy's bfloat16 is not PyTorch's.
    return torch.tensor(np.asarray(exact)).to(getattr(torch, str(array.dtype)))
