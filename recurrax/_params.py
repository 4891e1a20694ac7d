"""Parameters: their number, a mask by name, and the input size that they belong to."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import jax

from recurrax._arguments import describe
from recurrax._check import check_kinds, check_tree, expected_params
from recurrax._layer import Layer, Params

Shapes = Mapping[Any, tuple[int, ...]]


class Memory(NamedTuple):
    """What an attention layer reads. `recurrax.layers.with_memory` adds it to the parameters.

    Attributes:
        values: `[*B, S, M]`, such as the outputs of an encoder for S positions.
        mask: `bool[*B, S]`, True at the positions that may be read; None for all.
        keys: `[*B, S, A]`, what the layer compares its query with; None until they are formed.
    """

    values: jax.Array
    mask: jax.Array | None = None
    keys: jax.Array | None = None


def without_memory(params: Params) -> Params:
    """Returns the parameters as `init` draws them: with None for each memory."""

    def drawn(node: Any) -> Any:
        return None if isinstance(node, Memory) else node

    return jax.tree.map(drawn, params, is_leaf=lambda node: isinstance(node, Memory))


# The numbers of input sizes to try: if the shapes suggest some, and if they do not.
_MOST_LIKELY, _MOST_SIZES = 8, 64


def num_params(layer: Layer, input_size: int) -> int:
    """Counts the parameters of a layer without drawing them.

    Args:
        layer: any layer.
        input_size: the number I of features of one input.

    Returns:
        The number of scalars in `layer.init(key, input_size)`. One gate of an LSTM or a GRU has (I
        + H)·H + H. A second bias, as in PyTorch, adds H.

    Example:
        >>> import recurrax
        >>> recurrax.num_params(recurrax.LSTMCell(256), 100)  # 4 * ((100 + 256) * 256 + 256)
        365568
        >>> recurrax.num_params(recurrax.LSTMCell(256, recurrent_bias=True), 100)  # PyTorch's form
        366592
    """
    leaves = jax.tree.leaves(expected_params(layer, input_size))
    return sum(math.prod(leaf.shape) for leaf in leaves)


def param_mask(params: Any, *names: str) -> Any:
    """Makes a mask of the parameters with these names, for `optax.masked` and the like.

    Args:
        params: a pytree of parameters of a layer, of a Linen or NNX module, or of a model that has
            them.
        names: the names, such as `"recurrent_kernel"`. The name of a branch, such as `"backward"`,
            means all parameters in it.

    Returns:
        A bool for each leaf, in the structure of `params`: True if the path to the leaf has one of
        the names.

    Raises:
        ValueError: if a name is not in `params`.

    Example:
        >>> import jax, recurrax
        >>> params = recurrax.LSTMCell(4).init(jax.random.key(0), input_size=3)
        >>> mask = recurrax.param_mask(params, "kernel", "bias")
        >>> mask.kernel, mask.recurrent_kernel, mask.bias
        (True, False, True)
    """
    # The names on the path to each leaf; an index has no name.
    paths = []
    for path, _ in jax.tree_util.tree_leaves_with_path(params):
        paths.append([getattr(key, "name", getattr(key, "key", None)) for key in path])
    known = dict.fromkeys(name for name in itertools.chain(*paths) if isinstance(name, str))
    if unknown := [name for name in names if name not in known]:
        raise ValueError(
            f"`names` must be among {', '.join(known)}; got {', '.join(map(repr, unknown))}."
        )
    flags = [not set(names).isdisjoint(path) for path in paths]
    return jax.tree.unflatten(jax.tree.structure(params), flags)


def infer_input_size(layer: Layer, params: Params) -> int:
    """Finds the number of input features of a layer with these parameters.

    Args:
        layer: any layer.
        params: its parameters.

    Returns:
        The `input_size` for which `layer.init` draws parameters of this structure and these shapes.
        If several sizes fit, as for `Dropout`, it is the least.

    Raises:
        ValueError: if no size fits: the parameters belong to another layer.
        TypeError: if they are of another kind of dtype.

    Example:
        >>> import jax, recurrax
        >>> layer = recurrax.Stack((recurrax.LSTMCell(8), recurrax.GRUCell(4)))
        >>> recurrax.infer_input_size(layer, layer.init(jax.random.key(0), input_size=3))
        3
    """
    params = without_memory(params)
    came = _shapes(params)
    found = fitting(layer, came, jax.tree_util.tree_leaves_with_path)
    if found is not None:
        check_kinds("params", params, found[1], layer)
        return found[0]
    held = []
    for path, shape in came.items():
        held.append(f"{jax.tree_util.keystr(path)} [{', '.join(map(str, shape))}]")
    raise ValueError(
        f"`params` must be those of {layer}; got {', '.join(held) or describe(params)}."
    )


def _shapes(params: Params) -> dict[Any, tuple[int, ...]]:
    """Returns the shape of each leaf by its path."""
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return {path: jax.numpy.shape(leaf) for path, leaf in leaves}


def check_params(params: Any, layer: Layer, xs: Any, of: str) -> None:
    """Checks the parameters of a layer against its inputs. Either may be at fault.

    Raises:
        ValueError: if the parameters and the inputs do not fit.
        TypeError: as `check_tree`.
    """
    # The sizes of a memory belong to the data.
    params = without_memory(params)
    try:
        check_tree("params", params, expected_params(layer, xs.shape[-1]), layer, xs, of)
    except ValueError:
        # The parameters fit another input size: then the inputs are at fault.
        found = fitting(layer, _shapes(params), jax.tree_util.tree_leaves_with_path)
        if found is None or found[0] == xs.shape[-1]:
            raise
        size = found[0]
        raise ValueError(
            f"`{of}` must have {size} features, for which the parameters of {layer} were drawn; "
            f"got {describe(xs)}, which has {xs.shape[-1]}."
        ) from None


def fitting(
    layer: Layer, shapes: Shapes, leaves: Callable[[Params], Iterable[tuple[Any, Any]]]
) -> tuple[int, Params] | None:
    """Finds the least input size for which a layer has parameters of these shapes.

    Nearly every axis is a linear function of the input size. So the shapes for two sizes tell which
    size is meant. If a layer does not take inputs of every size, the sizes of its axes are tried,
    at most a few.

    Args:
        layer: the layer.
        shapes: the shape of each leaf, by the name of the leaf.
        leaves: a function that returns the leaves of parameters with their names, as in `shapes`.

    Returns:
        The input size and the parameters as shapes, or None if no size fits.
    """
    known: list[tuple[int, Shapes]] = []

    def attempt(size: int) -> Params | None:
        """Returns the parameters for inputs of this size if they fit, and keeps their shapes."""
        try:
            params = expected_params(layer, size)
        except ValueError:
            return None  # Not every layer takes inputs of every size.
        known.append((size, {name: leaf.shape for name, leaf in leaves(params)}))
        if known[-1][1] == shapes:
            return params
        return None

    # A layer with several mass inputs takes no fewer features than these.
    taken = (size for size in range(1, _MOST_SIZES) if _takes(layer, size))
    for size in itertools.islice(taken, 2):
        if (params := attempt(size)) is not None:
            return size, params
    if len(known) == 2:
        sizes = _likely_sizes(known[0], known[1], shapes)
    else:
        sizes = [*_declared(layer), *itertools.chain(*shapes.values())]
    # Each size once, in the order of likelihood.
    candidates = (size for size in dict.fromkeys(sizes) if size > 2 and _takes(layer, size))
    for size in itertools.islice(candidates, _MOST_SIZES):
        if (params := attempt(size)) is not None:
            return size, params
        if known and known[-1][1].keys() != shapes.keys():
            return None  # The names are the same for every input size, so no size fits.
    return None


def _likely_sizes(
    first: tuple[int, Shapes], second: tuple[int, Shapes], shapes: Shapes
) -> list[int]:
    """Returns input sizes that `shapes` may belong to, the likeliest first.

    `first` and `second` are two other input sizes with their shapes.
    """
    (low, before), (high, after) = first, second
    if not _alike(before, shapes) or not _alike(after, shapes):
        # The number of axes changes if the input size equals the output size, as in an LRU. Then
        # the size is an axis.
        if before.keys() != shapes.keys():
            return []
        axes = dict.fromkeys(itertools.chain(*shapes.values()))
        return list(axes)[:_MOST_LIKELY]
    likely, possible = [], []
    for name, shape in shapes.items():
        for at_low, at_high, axis in zip(before[name], after[name], shape, strict=True):
            if at_low == at_high:
                continue
            # The straight line through both known points, solved for the input size.
            size, rest = divmod((axis - at_low) * (high - low), at_high - at_low)
            if not rest:
                likely.append(low + size)
            possible.append(axis)
    return list(dict.fromkeys([*likely, *possible]))[:_MOST_LIKELY]


def _alike(expected: Shapes, shapes: Shapes) -> bool:
    """Whether names and numbers of axes agree."""
    if expected.keys() != shapes.keys():
        return False
    return all(len(expected[name]) == len(shapes[name]) for name in shapes)


def _declared(layer: Layer) -> Iterator[int]:
    """Yields the input sizes that layers declare, as `Window` does."""
    if isinstance(size := getattr(layer, "input_size", None), int):
        yield size
    for part in layer.parts:
        yield from _declared(part)


def _takes(layer: Layer, size: int) -> bool:
    """Whether a layer takes inputs of this size, judged by `output_size`."""
    try:
        layer.output_size(size)
    except ValueError:
        return False
    return True
