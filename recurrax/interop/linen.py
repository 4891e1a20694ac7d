"""Flax Linen's cells: a Dense for each gate and product, or a convolution for each product."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from recurrax._layer import Layer, Params
from recurrax.cells.convolutional import ConvLSTMCell
from recurrax.cells.elman import ElmanCell
from recurrax.cells.gru import GRUCell
from recurrax.cells.lstm import LSTMCell, LSTMParams
from recurrax.cells.mgu import MGUCell, UGRNNCell
from recurrax.interop._flax import (
    KINDS,
    activations,
    check_cells,
    check_directions,
    check_forwards,
    check_plain,
    merge_fn,
    merge_of,
    options,
)
from recurrax.interop._gates import (
    bias_and_candidates,
    last_of,
    one_bias,
    with_forget_one,
    without_forget_one,
)
from recurrax.interop._support import require, require_plain_conv_lstm, unsupported
from recurrax.layers.compose import Bidirectional, Directions, Stack

_OURS: dict[str, Any] = {
    "SimpleCell": ElmanCell,
    "LSTMCell": LSTMCell,
    "OptimizedLSTMCell": LSTMCell,
    "GRUCell": GRUCell,
    "MGUCell": MGUCell,
    "ConvLSTMCell": ConvLSTMCell,
}


def from_linen(
    module: Any, params: Mapping[str, Any], *, input_shape: tuple[int, ...] | None = None
) -> tuple[Layer, Params]:
    """A recurrent module of Flax Linen as a layer of this package.

    The Dense kernels `i*` of the gates become kernel, and `h*` become recurrent_kernel. The initial
    state is zero here: give another state to `scan`. `ConvLSTMCell` adds 1 to its forget gate. That
    1 goes into recurrent_bias. It is exact, but the sum of 1 and an old bias is rounded.

    Args:
        module: a `flax.linen.SimpleCell`, `LSTMCell`, `OptimizedLSTMCell`, `GRUCell`, `MGUCell` or
            `ConvLSTMCell`, an `RNN` of one, a `Bidirectional` of two such, or a `Sequential` of
            these.
        params: its parameters, `variables["params"]`. They may be traced.
        input_shape: the spatial shape of the inputs of a `ConvLSTMCell`, which neither of the two
            tells.

    Returns:
        The layer and its parameters.

    Raises:
        TypeError: if `module` is anything else.
        ValueError: if it has an option that this package has not, or `params` are not its own.

    Example:
        >>> import flax.linen as nn, jax, recurrax
        >>> module = nn.RNN(nn.GRUCell(4))
        >>> variables = module.init(jax.random.key(0), jax.numpy.ones((2, 7, 3)))
        >>> layer, params = recurrax.interop.from_linen(module, variables["params"])
        >>> layer, params.kernel.shape
        (GRUCell(hidden_size=4), (3, 12))

    References:
        Flax, 2025, https://flax.readthedocs.io/en/latest/api_reference/flax.linen/layers.html
    """
    import flax.linen as nn

    def part_of(part: Any, *names: str) -> tuple[Layer, Params]:
        weights = functools.reduce(_get, names, params)
        return from_linen(part, weights, input_shape=input_shape)

    if type(module) is nn.RNN:
        check_forwards(module, 'its `cell` with `params["cell"]`')
        return part_of(module.cell, "cell")
    if type(module) is nn.Bidirectional:
        check_directions(module)
        ahead: Any = module.forward_rnn
        back: Any = module.backward_rnn
        forward, forward_params = part_of(ahead.cell, "forward_rnn", "cell")
        backward, backward_params = part_of(back.cell, "backward_rnn", "cell")
        both = Bidirectional(forward, backward, merge_of(module))
        return both, Directions(forward_params, backward_params)
    if type(module) is nn.Sequential:
        layers = []
        own = []
        for n, part in enumerate(module.layers):
            layer, weights = part_of(part, f"layers_{n}")
            layers.append(layer)
            own.append(weights)
        return Stack(tuple(layers)), tuple(own)

    # All else must be a cell. A subclass may compute anything, so the type itself counts.
    name = type(module).__name__
    if name not in _OURS or type(module) is not getattr(nn, name):
        names = (*_OURS, "RNN", "Bidirectional", "Sequential of these")
        raise unsupported("module", module, map("flax.linen.{}".format, names))
    if type(module) is nn.ConvLSTMCell:
        return _from_conv(module, params, input_shape)
    if type(module) is nn.SimpleCell:
        check_plain(module)
    # An MGU without its reset gate is a UGRNN.
    if not getattr(module, "reset_gate", True):
        return _from_dense(UGRNNCell, module, params)
    return _from_dense(_OURS[name], module, params)


def _from_dense(ours: Any, cell: Any, params: Mapping[str, Any]) -> tuple[Layer, Params]:
    kind = KINDS[ours]

    def joined(side: str, part: str, gates: Sequence[str] = kind.gates) -> jax.Array:
        arrays = [_get(_get(params, side + gate), part) for gate in gates]
        return jnp.concatenate(arrays, axis=-1)

    maps = {
        "kernel": joined("i", "kernel"),
        "recurrent_kernel": joined("h", "kernel"),
        "bias": joined(kind.biased, "bias"),
    }
    if kind.resets:
        # The candidate is the last gate. Flax gives it a recurrent bias, and no other gate.
        candidate = joined("h", "bias", kind.gates[-1:])
        maps["recurrent_bias"] = last_of(len(kind.gates), candidate)
    return ours(cell.features, **activations(cell)), ours.params_type(**maps)


def _from_conv(
    cell: Any, params: Mapping[str, Any], input_shape: tuple[int, ...] | None
) -> tuple[Layer, Params]:
    # Flax takes None for strides of 1.
    ones = (1,) * len(cell.kernel_size)
    if tuple(cell.strides or ones) != ones or cell.padding != "SAME":
        raise ValueError(
            '`strides` and `padding` of ConvLSTMCell must be 1 and "SAME", since Flax applies them '
            f"to the state too; got {cell.strides} and {cell.padding!r}."
        )
    if input_shape is None:
        must = "must be the spatial shape of the inputs of ConvLSTMCell"
        raise ValueError(f"`input_shape` {must}; got None.")
    inputs, state = _get(params, "ih"), _get(params, "hh")
    own = LSTMParams(inputs["kernel"], state["kernel"], inputs.get("bias"), state.get("bias"))
    layer = ConvLSTMCell(
        cell.features,
        input_shape,
        tuple(cell.kernel_size),
        dtype=cell.dtype,
        bias=cell.use_bias,
        # It holds the 1 of the forget gate.
        recurrent_bias=True,
    )
    return layer, with_forget_one(own)


def _get(params: Mapping[str, Any], name: str) -> Any:
    if name not in params:
        hint = ""
        if "params" in params:
            hint = ' Pass `variables["params"]`.'
        got = ", ".join(map(repr, params))
        raise ValueError(f"`params` must hold {name!r} for `module`; got {got}.{hint}")
    return params[name]


def to_linen(layer: Layer, params: Params) -> tuple[Any, dict[str, Any]]:
    """A layer of this package as a recurrent module of Flax Linen.

    Two biases that the cell only adds become their sum. A missing bias becomes zeros.

    Args:
        layer: an `ElmanCell`, `LSTMCell`, `GRUCell`, `MGUCell`, `UGRNNCell` or `ConvLSTMCell`,
            which becomes a cell; a `Bidirectional` of two, or a `Stack` of these, which become
            modules with a `flax.linen.RNN` each.
        params: its parameters. They may be traced.

    Returns:
        The module, and its parameters: `module.apply({"params": params}, ...)`.

    Raises:
        TypeError: if Linen has no such layer.
        ValueError: if Linen's module lacks an option that the layer has.

    Example:
        >>> import jax, recurrax
        >>> layer = recurrax.Bidirectional(recurrax.LSTMCell(4))
        >>> module, params = recurrax.interop.to_linen(layer, layer.init(jax.random.key(0), 3))
        >>> module.apply({"params": params}, jax.numpy.ones((2, 7, 3))).shape
        (2, 7, 8)

    References:
        Flax, 2025, https://flax.readthedocs.io/en/latest/api_reference/flax.linen/layers.html
    """
    import flax.linen as nn

    if isinstance(layer, Stack):
        require(layer, "Flax", dropout=0.0)
        # Linen names the modules of a Sequential by their numbers.
        modules = []
        own = {}
        for n, (part, weights) in enumerate(zip(layer.layers, params, strict=True)):
            module, own[f"layers_{n}"] = _runnable(part, weights)
            modules.append(module)
        return nn.Sequential(modules), own
    if isinstance(layer, Bidirectional):
        check_cells(layer)
        forward, ahead = _runnable(layer.forward, params.forward)
        backward, back = _runnable(layer.backward, params.backward)
        module = nn.Bidirectional(forward, backward, **merge_fn(layer))
        return module, {"forward_rnn": ahead, "backward_rnn": back}
    if type(layer) is ConvLSTMCell:
        return _to_conv(layer, params)
    if type(layer) not in KINDS:
        names = [cell.__name__ for cell in KINDS]
        supported = (*names, "ConvLSTMCell", "a Bidirectional or a Stack of these")
        raise unsupported("layer", layer, supported)
    return _to_dense(layer, params)


def _runnable(layer: Layer, params: Params) -> tuple[Any, dict[str, Any]]:
    """A module that runs over a sequence. Flax needs an RNN with a cell in it."""
    import flax.linen as nn

    module, own = to_linen(layer, params)
    if isinstance(layer, (Stack, Bidirectional)):
        return module, own
    return nn.RNN(module), {"cell": own}


def _to_dense(layer: Any, params: Any) -> tuple[Any, dict[str, Any]]:
    import flax.linen as nn

    kind = KINDS[type(layer)]
    require(layer, f"flax.linen.{kind.name}", **kind.requires)
    bias, candidate = one_bias(params), None
    if kind.resets:
        bias, candidate = bias_and_candidates(params, len(kind.gates))
    # Every gate has a Dense for the inputs, such as "in", and a Dense for the state, such as "hn".
    denses: dict[str, Any] = {}
    for gate in kind.gates:
        denses[f"i{gate}"] = {}
        denses[f"h{gate}"] = {}
    for side, part, array in (
        ("i", "kernel", params.kernel),
        ("h", "kernel", params.recurrent_kernel),
        (kind.biased, "bias", bias),
    ):
        gates = jnp.split(array, len(kind.gates), axis=-1)
        for gate, own in zip(kind.gates, gates, strict=True):
            denses[side + gate][part] = own
    if kind.resets:
        denses["hn"]["bias"] = candidate
    arguments = options(layer, params)
    if isinstance(layer, UGRNNCell):
        arguments["reset_gate"] = False
    make = getattr(nn, kind.name)
    return make(layer.hidden_size, **arguments), denses


def _to_conv(layer: ConvLSTMCell, params: LSTMParams) -> tuple[Any, dict[str, Any]]:
    import flax.linen as nn

    require_plain_conv_lstm(layer, "flax.linen.ConvLSTMCell")
    params = without_forget_one(params)
    module = nn.ConvLSTMCell(
        layer.hidden_size,
        params.kernel.shape[:-2],
        dtype=layer.dtype,
        param_dtype=jnp.dtype(params.kernel.dtype),
    )
    inputs = {"kernel": params.kernel, "bias": params.bias}
    state = {"kernel": params.recurrent_kernel, "bias": params.recurrent_bias}
    return module, {"ih": inputs, "hh": state}
