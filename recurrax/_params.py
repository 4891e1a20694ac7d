"""Parameters: how many a layer has, which of them go by a name, and for inputs of what size they are."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import jax

from recurrax._arguments import describe
from recurrax._check import check_kinds, check_tree, expected_params
from recurrax._layer import Layer, Params

Shapes = Mapping[Any, tuple[int, ...]]

# How many input sizes are tried: where the shapes tell which ones, and where they do not.
_MOST_LIKELY, _MOST_SIZES = 8, 64


def num_params(layer: Layer, input_size: int) -> int:
    """The number of parameters of a layer, without drawing them.

    Args:
        layer: any layer.
        input_size: the number of features I of one input.

    Returns:
        The number of scalars in `layer.init(key, input_size)`. One gate of a classic cell has (I + H)·H + H, and
        H more where it has two biases, as in PyTorch.

    Example:
        >>> import recurrax
        >>> recurrax.num_params(recurrax.LSTMCell(256), 100)  # 4 * ((100 + 256) * 256 + 256)
        365568
        >>> recurrax.num_params(recurrax.LSTMCell(256, recurrent_bias=True), 100)  # PyTorch's form
        366592
    """
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(expected_params(layer, input_size)))


def param_mask(params: Any, *names: str) -> Any:
    """Which parameters go by one of these names: a mask for `optax.masked`, `add_decayed_weights` and the like.

    Args:
        params: a pytree of parameters: those of a layer, of a Linen or NNX module, or of a model with such in it.
        names: the names, such as `"recurrent_kernel"`; that of a branch, such as `"backward"`, stands for all in it.

    Returns:
        A bool for each leaf of `params`, in its structure: whether one of the names stands on the way to it.

    Raises:
        ValueError: if a name stands nowhere in `params`.

    Example:
        >>> import jax, recurrax
        >>> params = recurrax.LSTMCell(4).init(jax.random.key(0), input_size=3)
        >>> recurrax.param_mask(params, "kernel", "bias")
        LSTMParams(kernel=True, recurrent_kernel=False, bias=True, recurrent_bias=None, projection_kernel=None)
    """
    ways = [
        [getattr(key, "name", getattr(key, "key", None)) for key in path]
        for path, _ in jax.tree_util.tree_leaves_with_path(params)
    ]
    known = dict.fromkeys(name for way in ways for name in way if isinstance(name, str))
    if unknown := [name for name in names if name not in known]:
        raise ValueError(f"`names` must be among {', '.join(known)}; got {', '.join(map(repr, unknown))}.")
    return jax.tree.unflatten(jax.tree.structure(params), [any(name in way for name in names) for way in ways])


def infer_input_size(layer: Layer, params: Params) -> int:
    """The number of features of the inputs that a layer with these parameters takes.

    Args:
        layer: any layer.
        params: its parameters.

    Returns:
        The `input_size` with which `layer.init` draws parameters of this structure and these shapes; the least one
        where the shapes do not tell, as those of `Dropout` do not.

    Raises:
        ValueError: if there is none: the parameters are those of another layer.
        TypeError: if they are of another kind of dtype.

    Example:
        >>> import jax, recurrax
        >>> layer = recurrax.Stack((recurrax.LSTMCell(8), recurrax.GRUCell(4)))
        >>> recurrax.infer_input_size(layer, layer.init(jax.random.key(0), input_size=3))
        3
    """
    came = [(path, jax.numpy.shape(leaf)) for path, leaf in jax.tree_util.tree_leaves_with_path(params)]
    found = fitting(layer, dict(came), jax.tree_util.tree_leaves_with_path)
    if found is not None:
        check_kinds("params", params, found[1], layer)
        return found[0]
    held = ", ".join(f"{jax.tree_util.keystr(path)} [{', '.join(map(str, shape))}]" for path, shape in came)
    raise ValueError(f"`params` must be those of {layer}; got {held or describe(params)}.")


def check_params(params: Any, layer: Layer, xs: Any, of: str) -> None:
    """Checks the parameters of a layer against its inputs, whose number of features may be the fault.

    Raises:
        ValueError: if either does not fit the other.
        TypeError: as `check_tree`.
    """
    try:
        check_tree("params", params, expected_params(layer, xs.shape[-1]), layer, xs, of)
    except ValueError:
        leaves = jax.tree_util.tree_leaves_with_path
        found = fitting(layer, {path: jax.numpy.shape(leaf) for path, leaf in leaves(params)}, leaves)
        size = None if found is None else found[0]
        if size in (None, xs.shape[-1]):
            raise
        raise ValueError(
            f"`{of}` must have {size} features, for which the parameters of {layer} were drawn; "
            f"got {describe(xs)}, which has {xs.shape[-1]}."
        ) from None


def fitting(
    layer: Layer, shapes: Shapes, leaves: Callable[[Params], Iterable[tuple[Any, Any]]]
) -> tuple[int, Params] | None:
    """The least input size for which a layer has parameters of these shapes, and these parameters as shapes.

    Axes grow with the input size along straight lines, nearly all, so two sizes tell which one is meant. Only where a
    layer does not take inputs of every size, the sizes of its axes are tried, a few of them.

    Args:
        layer: the layer.
        shapes: the shapes by the names of the leaves.
        leaves: the leaves of parameters, each with its name, as in `shapes`.
    """
    known: list[tuple[int, Shapes]] = []

    def tried(size: int) -> Params | None:
        """The parameters for inputs of this size if they fit; else what is to learn from them is kept."""
        try:
            params = expected_params(layer, size)
        except ValueError:
            return None  # Not every layer takes inputs of every size.
        known.append((size, {name: leaf.shape for name, leaf in leaves(params)}))
        return params if known[-1][1] == shapes else None

    axes = dict.fromkeys([*_declared(layer), *(axis for shape in shapes.values() for axis in shape)])
    for size in (1, 2):
        if (params := tried(size)) is not None:
            return size, params
    if len(known) == 2:
        axes = dict.fromkeys(_between(known[0], known[1], shapes))
    attempts = (size for size in axes if size > 2 and _takes(layer, size))
    for size in itertools.islice(attempts, _MOST_SIZES):
        if (params := tried(size)) is not None:
            return size, params
        if known and known[-1][1].keys() != shapes.keys():
            return None  # Names are the same for every input size.
    return None


def _between(first: tuple[int, Shapes], second: tuple[int, Shapes], shapes: Shapes) -> list[int]:
    """The input sizes that `shapes` may be for, the likeliest first, given the shapes for two other input sizes."""
    (low, before), (high, after) = first, second
    if not _alike(before, shapes) or not _alike(after, shapes):
        # Other axes stand where the input size is that of the output, as in an LRU: then the size is one of them.
        axes = dict.fromkeys(axis for shape in shapes.values() for axis in shape)
        return list(axes)[:_MOST_LIKELY] if before.keys() == shapes.keys() else []
    likely, possible = [], []
    for name, shape in shapes.items():
        for at_low, at_high, axis in zip(before[name], after[name], shape, strict=True):
            if at_low != at_high:
                size, rest = divmod((axis - at_low) * (high - low), at_high - at_low)
                likely += [] if rest else [low + size]
                possible.append(axis)
    return list(dict.fromkeys([*likely, *possible]))[:_MOST_LIKELY]


def _alike(expected: Shapes, shapes: Shapes) -> bool:
    """Whether names and numbers of axes agree."""
    return expected.keys() == shapes.keys() and all(len(expected[name]) == len(shapes[name]) for name in shapes)


def _declared(layer: Layer) -> Iterator[int]:
    """The input sizes that layers say themselves, as `Window` does."""
    if isinstance(size := getattr(layer, "input_size", None), int):
        yield size
    for part in layer.parts:
        yield from _declared(part)


def _takes(layer: Layer, size: int) -> bool:
    """Whether a layer takes inputs of this size, as far as its sizes alone tell."""
    try:
        layer.output_size(size)
    except ValueError:
        return False
    return True
