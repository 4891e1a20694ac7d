"""Parameters: how many a layer has, for inputs of what size they are, and which of them go by a name."""

from __future__ import annotations

import math
from typing import Any

import jax

from recurrax._arguments import describe, named_leaves
from recurrax._check import check_kinds, expected_params, fitting_size
from recurrax._layer import Layer, Params


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


def input_size(layer: Layer, params: Params) -> int:
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
        >>> recurrax.input_size(layer, layer.init(jax.random.key(0), input_size=3))
        3
    """
    if (size := fitting_size(layer, params)) is not None:
        check_kinds("params", params, expected_params(layer, size), layer)
        return size
    shapes = {path: jax.numpy.shape(leaf) for path, leaf in named_leaves(params).items()}
    held = ", ".join(f"{path} [{', '.join(map(str, shape))}]" for path, shape in shapes.items())
    raise ValueError(f"`params` must be those of {layer}; got {held or describe(params)}.")


def named(params: Any, *names: str) -> Any:
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
        >>> recurrax.named(params, "kernel", "bias")
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
