"""Haiku's cores: one product for input and state of an LSTM, other gate orders, a negated GRU gate.

Haiku's LSTMs add 1 to the forget gate at every step. Here `recurrent_bias` holds that 1, so that no
number is rounded.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from recurrax._layer import Cell, Layer, Params
from recurrax.cells.convolutional import ConvLSTMCell
from recurrax.cells.elman import ElmanCell, ElmanParams
from recurrax.cells.gru import GRUCell, GRUParams
from recurrax.cells.lstm import LSTMCell, LSTMParams
from recurrax.interop._gates import (
    one_bias,
    reordered,
    two_biases,
    with_forget_one,
    without_forget_one,
)
from recurrax.interop._support import require, require_plain_conv_lstm, to_jax, unsupported
from recurrax.layers.compose import Stack

Modules = dict[str, Mapping[str, Any]]
# Haiku has no other functions.
_FUNCTIONS: dict[str, Any] = {"activation": jnp.tanh, "gate_activation": jax.nn.sigmoid}


def from_haiku(
    params: Mapping[str, Mapping[str, Any]],
    *,
    prefix: str | Sequence[str] | None = None,
    input_shape: tuple[int, ...] | None = None,
) -> tuple[Layer, Params]:
    """The parameters of a recurrent core of Haiku, as a layer of this package.

    Haiku itself is not needed: names and shapes tell the core. A GRU's update gate z is negated,
    since Haiku has h' = (1 - z) * h + z * n. Its reset gate acts before the product.

    Args:
        params: the parameters of a transformed function, module by module. They may be traced.
        prefix: the path of the core's module, such as `"policy/~/lstm"`; where there is one core
            alone it need not be given. Several, the core that reads the inputs first, make a
            `Stack`, as `haiku.DeepRNN` does.
        input_shape: the spatial shape of the inputs of a convolutional LSTM, which its parameters
            do not tell.

    Returns:
        The layer and its parameters: an `ElmanCell` with `relu` for a `VanillaRNN`, an `LSTMCell`,
        a `GRUCell` with `reset_after=False`, or a `ConvLSTMCell`. Haiku's LSTMs add 1 to the forget
        gate. That 1 is in `recurrent_bias`. A convolutional LSTM has such a bias already, and the
        sum is rounded.

    Raises:
        ValueError: if there is no core at `prefix`, or more than one without it.

    Example:
        >>> import jax.numpy as jnp, recurrax
        >>> theirs = {"lstm/linear": {"w": jnp.ones((3 + 4, 16)), "b": jnp.zeros(16)}}
        >>> layer, params = recurrax.interop.from_haiku(theirs)
        >>> layer, params.recurrent_kernel.shape
        (LSTMCell(hidden_size=4, recurrent_bias=True), (4, 16))

    References:
        Haiku, 2025, https://dm-haiku.readthedocs.io/en/latest/api.html#recurrent
    """
    # Several paths are the layers of a stack.
    if prefix is not None and not isinstance(prefix, str):
        layers = []
        weights = []
        for path in prefix:
            layer, own = from_haiku(params, prefix=path, input_shape=input_shape)
            layers.append(layer)
            weights.append(own)
        return Stack(tuple(layers)), tuple(weights)
    cores = _cores(params)
    if prefix not in cores and (prefix is not None or len(cores) != 1):
        must = "pick one core of several"
        if prefix:
            must = "be the path of a core"
        choice = ", ".join(map(repr, cores)) or "none"
        raise ValueError(f"`prefix` must {must}; got {prefix!r}. There are: {choice}.")
    if prefix is None:
        [modules] = cores.values()
    else:
        modules = cores[prefix]
    for name, module in modules.items():
        modules[name] = jax.tree.map(to_jax, dict(module))
    if "hidden_to_hidden" in modules:
        return _from_conv(modules, input_shape)
    return _FROM[frozenset(modules)](modules)


def _cores(params: Mapping[str, Mapping[str, Any]]) -> dict[str, Modules]:
    """The modules of each core, by the path of the core and their own names.

    A GRU has its parameters in the module of the core itself, whose name here is empty.
    """
    found: dict[str, Modules] = {}
    for path, module in params.items():
        parent, _, name = path.rpartition("/")
        if "w_h" in module:
            found[path] = {"": module}
        elif parent:
            found.setdefault(parent, {})[name] = module
    # Other modules of a model may have parts with such names too.
    cores = {}
    for path, modules in found.items():
        if frozenset(modules) in _FROM and _fits(modules):
            cores[path] = modules
    return cores


def _fits(modules: Modules) -> bool:
    """Whether the shapes of the `Linear` modules are possible in a core."""
    # An LSTM has one: [I + H, 4 * H].
    if set(modules) == {"linear"}:
        rows, columns = modules["linear"]["w"].shape
        return columns % 4 == 0 and rows > columns // 4
    # A VanillaRNN has two: [I, H] and [H, H].
    if "linear_1" in modules:
        rows, columns = modules["linear_1"]["w"].shape
        return rows == columns == modules["linear"]["w"].shape[1]
    return True


def _from_vanilla(modules: Modules) -> tuple[Cell, Params]:
    inputs, state = modules["linear"], modules["linear_1"]
    params = ElmanParams(inputs["w"], state["w"], inputs["b"], state.get("b"))
    size = state["w"].shape[0]
    cell = ElmanCell(size, jax.nn.relu, recurrent_bias="b" in state)
    return cell, params


def _from_lstm(modules: Modules) -> tuple[Cell, Params]:
    w, b = modules["linear"]["w"], modules["linear"]["b"]
    size = b.shape[0] // 4
    # The last H rows belong to the state.
    params = LSTMParams(w[:-size], w[-size:], b)
    return LSTMCell(size, recurrent_bias=True), with_forget_one(params)


def _from_gru(modules: Modules) -> tuple[Cell, Params]:
    module = modules[""]
    params = GRUParams(module["w_i"], module["w_h"], module["b"])
    cell = GRUCell(params.recurrent_kernel.shape[0], reset_after=False)
    return cell, reordered(_turned(params), "zrn", "rzn")


def _turned(params: GRUParams) -> GRUParams:
    """Gates z, r, n with z negated: σ(-a) = 1 - σ(a)."""
    size = params.recurrent_kernel.shape[0]
    return jax.tree.map(lambda leaf: leaf.at[..., :size].multiply(-1), params)


def _from_conv(modules: Modules, input_shape: tuple[int, ...] | None) -> tuple[Cell, Params]:
    if input_shape is None:
        must = "must be the spatial shape of the inputs of a convolutional LSTM"
        raise ValueError(f"`input_shape` {must}; got None.")
    inputs = modules["input_to_hidden"]
    state = modules["hidden_to_hidden"]
    params = LSTMParams(inputs["w"], state["w"], inputs["b"], state["b"])
    size = inputs["b"].shape[0] // 4
    window = inputs["w"].shape[:-2]
    cell = ConvLSTMCell(size, input_shape, window, recurrent_bias=True)
    return cell, with_forget_one(params)


_FROM: dict[frozenset, Callable] = {
    frozenset({"linear", "linear_1"}): _from_vanilla,
    frozenset({"linear"}): _from_lstm,
    frozenset({""}): _from_gru,
    frozenset({"input_to_hidden", "hidden_to_hidden"}): _from_conv,
}


def to_haiku(
    layer: Layer, params: Params, *, prefix: str | Sequence[str] | None = None
) -> dict[str, dict[str, Any]]:
    """A layer of this package as the parameters of a core of Haiku.

    Two biases that the cell only adds become their sum, minus the 1 that Haiku's LSTMs add to the
    forget gate.

    Args:
        layer: an `ElmanCell` with `relu`, an `LSTMCell`, a `GRUCell` with `reset_after=False`, a
            `ConvLSTMCell`, or a `Stack` of these, for `haiku.DeepRNN`. An `ElmanCell` without
            `recurrent_bias` is for `VanillaRNN(double_bias=False)`.
        params: its parameters. They may be traced.
        prefix: the path of the core's module, or the paths of all cores of a stack. By default
            Haiku's own names outside of any module: `"lstm"`, `"lstm_1"`, and so on.

    Returns:
        The parameters, module by module, as `haiku.transform` has them.

    Raises:
        TypeError: if Haiku has no such layer; it has no bidirectional one.
        ValueError: if Haiku's core lacks an option that the cell has.

    Example:
        >>> import jax, recurrax
        >>> layer = recurrax.Stack((recurrax.LSTMCell(4), recurrax.LSTMCell(5)))
        >>> theirs = recurrax.interop.to_haiku(layer, layer.init(jax.random.key(0), 3))
        >>> {path: module["w"].shape for path, module in theirs.items()}
        {'lstm/linear': (7, 16), 'lstm_1/linear': (9, 20)}

    References:
        Haiku, 2025, https://dm-haiku.readthedocs.io/en/latest/api.html#recurrent
    """
    layers: tuple[Layer, ...] = (layer,)
    own = (params,)
    if isinstance(layer, Stack):
        require(layer, "Haiku", dropout=0.0)
        layers, own = layer.layers, params
    for part in layers:
        if type(part) not in _TO:
            names = [cell.__name__ for cell in _TO]
            raise unsupported("layer", part, [*names, "a Stack of these"])
    paths = prefix
    if paths is None:
        paths = _default_paths(layers)
    if isinstance(paths, str):
        paths = [paths]
    modules: dict[str, dict[str, Any]] = {}
    for path, part, weights in zip(paths, layers, own, strict=True):
        convert = _TO[type(part)]
        for name, module in convert(part, weights).items():
            # A GRU's parameters have no module of their own within the core.
            modules[f"{path}/{name}".rstrip("/")] = module
    return modules


def _default_paths(layers: Sequence[Any]) -> list[str]:
    names: dict[Any, str] = {
        ElmanCell: "vanilla_rnn",
        LSTMCell: "lstm",
        GRUCell: "gru",
    }
    paths = []
    seen = Counter[str]()
    for layer in layers:
        name = names.get(type(layer))
        if name is None:
            name = f"conv{len(layer.input_shape)}_dlstm"
        path = name
        # Haiku numbers the modules of one name from the second on.
        if seen[name]:
            path = f"{name}_{seen[name]}"
        paths.append(path)
        seen[name] += 1
    return paths


def _to_vanilla(layer: ElmanCell, params: ElmanParams) -> dict[str, dict[str, Any]]:
    require(layer, "haiku.VanillaRNN", activation=jax.nn.relu)
    inputs = {"w": params.kernel, "b": two_biases(params)[0]}
    state = {"w": params.recurrent_kernel}
    # With `double_bias=False` Haiku has one bias.
    if params.recurrent_bias is not None:
        state["b"] = params.recurrent_bias
    return {"linear": inputs, "linear_1": state}


def _to_lstm(layer: LSTMCell, params: LSTMParams) -> dict[str, dict[str, Any]]:
    require(layer, "haiku.LSTM", proj_size=0, **_FUNCTIONS)
    params = without_forget_one(params)
    kernels = jnp.concatenate([params.kernel, params.recurrent_kernel])
    return {"linear": {"w": kernels, "b": one_bias(params)}}


def _to_gru(layer: GRUCell, params: GRUParams) -> dict[str, dict[str, Any]]:
    require(layer, "haiku.GRU", reset_after=False, **_FUNCTIONS)
    params = params._replace(bias=one_bias(params), recurrent_bias=None)
    params = _turned(reordered(params, "rzn", "zrn"))
    module = {"w_i": params.kernel, "w_h": params.recurrent_kernel, "b": params.bias}
    return {"": module}


def _to_conv(layer: ConvLSTMCell, params: LSTMParams) -> dict[str, dict[str, Any]]:
    require_plain_conv_lstm(layer, "haiku.ConvNDLSTM")
    params = without_forget_one(params)
    inputs = {"w": params.kernel, "b": params.bias}
    state = {"w": params.recurrent_kernel, "b": params.recurrent_bias}
    return {"input_to_hidden": inputs, "hidden_to_hidden": state}


_TO: dict[type, Callable] = {
    ElmanCell: _to_vanilla,
    LSTMCell: _to_lstm,
    GRUCell: _to_gru,
    ConvLSTMCell: _to_conv,
}
