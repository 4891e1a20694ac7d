"""ONNX's RNN, LSTM and GRU in one direction, and their cells: the order and the sign of gates.

W is `[G*H, I]`, R `[G*H, H]`, B `[2*G*H]` and P `[3*H]`. The gates of an LSTM have the order
i, o, f, c, and in P the order i, o, f. The gates of a GRU have the order z, r, h. A coupled LSTM
has f = 1 - i, but `CIFGCell` has i = 1 - f. With a logistic gate, negated weights make them equal.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from recurrax._layer import Layer, Params
from recurrax.cells.elman import ElmanCell, ElmanParams
from recurrax.cells.gru import GRUCell, GRUParams
from recurrax.cells.lstm import LSTMCell, LSTMParams
from recurrax.cells.peephole import CIFGCell, CIFGParams, PeepholeLSTMCell, PeepholeLSTMParams
from recurrax.interop._gates import has_bias, reorder, two_biases
from recurrax.interop._support import require, to_jax
from recurrax.interop.onnx._activations import Clipped, Function
from recurrax.interop.onnx._cells import OnnxLSTMCell, OnnxLSTMParams

# ONNX's order of the gates and ours.
_ORDERS = {"RNN": ("h", "h"), "GRU": ("zrh", "rzh"), "LSTM": ("iofc", "ifco")}
DEFAULTS: dict[str, list[Function]] = {
    "RNN": [jnp.tanh],
    "GRU": [jax.nn.sigmoid, jnp.tanh],
    "LSTM": [jax.nn.sigmoid, jnp.tanh, jnp.tanh],
}
GATES = {kind: len(order) for kind, (order, _) in _ORDERS.items()}


@dataclasses.dataclass(frozen=True, eq=False)
class Operator:
    """One direction of an operator.

    Attributes:
        kind: `RNN`, `LSTM` or `GRU`.
        functions: f, then g for a GRU, then g and h for an LSTM.
        clip: the bound on the inputs of f and g, or None.
        coupled: `input_forget` of an LSTM.
        reset_after: `linear_before_reset` of a GRU.
        W: `[G*H, I]`.
        R: `[G*H, H]`.
        B: `[2*G*H]`, or None.
        P: `[3*H]`, or None.
    """

    kind: str
    functions: list[Function]
    clip: float | None
    coupled: bool
    reset_after: bool
    W: np.ndarray
    R: np.ndarray
    B: np.ndarray | None = None
    P: np.ndarray | None = None

    @property
    def hidden_size(self) -> int:
        """The number of features H of the state."""
        return self.R.shape[-1]


def cell_of(operator: Operator) -> tuple[Layer, Params]:
    """The cell that computes an operator. A cell of the core, if one is exactly the same."""
    order, ours = _ORDERS[operator.kind]
    size = operator.hidden_size
    bias = recurrent_bias = None
    if operator.B is not None:
        bias, recurrent_bias = np.split(operator.B, 2)
        # Only a GRU with `reset_after` keeps the two apart. Else zeros add nothing.
        if not operator.reset_after and not recurrent_bias.any():
            recurrent_bias = None
    parts = (operator.W.T, operator.R.T, bias, recurrent_bias)
    maps = _each(lambda part: reorder(part, order, ours), parts)
    bounded = operator.functions
    if operator.clip is not None:
        bounded = [Clipped(function, operator.clip) for function in bounded]
    options: dict[str, Any] = {
        "bias": bias is not None,
        "recurrent_bias": recurrent_bias is not None,
    }

    if operator.kind == "RNN":
        elman = ElmanCell(size, *bounded, **options)
        return elman, _params(ElmanParams, maps)
    options |= {"gate_activation": bounded[0], "activation": bounded[1]}
    if operator.kind == "GRU":
        # None is the default, which the cell shows shorter.
        default = options["bias"] and operator.reset_after
        if options["recurrent_bias"] == default:
            options["recurrent_bias"] = None
        gru = GRUCell(size, operator.reset_after, **options)
        return gru, _params(GRUParams, maps)
    return _lstm_of(operator, maps, options)


def _lstm_of(
    operator: Operator, maps: list[np.ndarray | None], options: dict[str, Any]
) -> tuple[Layer, Params]:
    size = operator.hidden_size
    peepholes = operator.P is not None
    peephole = None
    if operator.P is not None:
        peephole = operator.P.reshape(3, size)[np.array([0, 2, 1])]  # i, o, f to i, f, o
    # onnxruntime does not clip c before h, the output activation.
    output = operator.functions[2]
    plain = options["activation"] == output
    if not operator.coupled:
        if plain and not peepholes:
            return LSTMCell(size, **options), _params(LSTMParams, maps)
        if plain:
            params = _params(PeepholeLSTMParams, maps, peephole)
            return PeepholeLSTMCell(size, **options), params
        options["output_activation"] = output
        cell = OnnxLSTMCell(size, peepholes=peepholes, **options)
        return cell, _params(OnnxLSTMParams, maps, peephole)

    # A coupled LSTM does not read its forget gate.
    maps = _each(_without_forget, maps)
    if peephole is not None:
        peephole = peephole[np.array([0, 2])]
    if plain and options["gate_activation"] is jax.nn.sigmoid:
        # σ(-a) = 1 - σ(a): the negated input gate is the forget gate.
        maps = _each(lambda part: _negated(part, size), maps)
        if peephole is not None:
            peephole = np.stack([-peephole[0], peephole[1]])
        cifg = CIFGCell(size, peepholes=peepholes, **options)
        return cifg, _params(CIFGParams, maps, peephole)
    options["output_activation"] = output
    cell = OnnxLSTMCell(size, True, peepholes, **options)
    return cell, _params(OnnxLSTMParams, maps, peephole)


def _each(change: Any, parts: Iterable[Any]) -> list[Any]:
    """Changes every array, and keeps None."""
    return [None if part is None else change(part) for part in parts]


def _params(kind: Any, maps: list[np.ndarray | None], peephole: np.ndarray | None = None) -> Params:
    names = ["kernel", "recurrent_kernel", "bias", "recurrent_bias"]
    arrays = _each(to_jax, maps)
    params = dict(zip(names, arrays, strict=True))
    if peephole is not None:
        params["peephole"] = to_jax(peephole)
    return kind(**params)


def _without_forget(gates: np.ndarray) -> np.ndarray:
    """The gates i, c, o of i, f, c, o."""
    i, _, c, o = np.split(gates, 4, axis=-1)
    return np.concatenate([i, c, o], axis=-1)


def _with_forget(gates: np.ndarray) -> np.ndarray:
    """The gates i, f, c, o, of which nothing reads f."""
    i, c, o = np.split(gates, 3, axis=-1)
    return np.concatenate([i, np.zeros_like(i), c, o], axis=-1)


def _negated(gates: np.ndarray, size: int) -> np.ndarray:
    """The gates with the first gate negated."""
    return np.concatenate([-gates[..., :size], gates[..., size:]], axis=-1)


CELLS = (ElmanCell, LSTMCell, GRUCell, PeepholeLSTMCell, CIFGCell, OnnxLSTMCell)


def operator_of(cell: Any, params: Any) -> Operator:
    """The operator of a cell with a type in `CELLS`: the inverse of `cell_of`.

    Raises:
        ValueError: if the cell has an option that ONNX has not.
    """
    maps = [np.asarray(params.kernel), np.asarray(params.recurrent_kernel)]
    if has_bias(params):
        maps += map(np.asarray, two_biases(params))
    peephole = getattr(params, "peephole", None)
    if peephole is not None:
        peephole = np.asarray(peephole)
    if type(cell) is ElmanCell:
        kind, functions = "RNN", [cell.activation]
    elif type(cell) is GRUCell:
        kind, functions = "GRU", [cell.gate_activation, cell.activation]
    else:
        _require_plain(cell)
        kind, functions = "LSTM", [cell.gate_activation, cell.activation]
        functions.append(getattr(cell, "output_activation", cell.activation))

    # σ(-a) = 1 - σ(a): the negated forget gate is the input gate.
    if isinstance(cell, CIFGCell):
        maps = [_negated(part, cell.hidden_size) for part in maps]
        if peephole is not None:
            peephole = np.stack([-peephole[0], peephole[1]])
    # ONNX has a place for the forget gate, though a coupled LSTM does not read it.
    coupled = isinstance(cell, CIFGCell) or getattr(cell, "input_forget", False)
    if coupled:
        maps = [_with_forget(part) for part in maps]
        if peephole is not None:
            unread = np.zeros_like(peephole[0])
            peephole = np.stack([peephole[0], unread, peephole[1]])
    if peephole is not None:
        peephole = peephole[np.array([0, 2, 1])].ravel()  # i, f, o to i, o, f

    theirs, ours = _ORDERS[kind]
    W, R, *biases = [reorder(part, ours, theirs) for part in maps]
    B = None
    if biases:
        B = np.concatenate(biases)
    functions, clip = _unclipped(cell, functions)
    reset_after = getattr(cell, "reset_after", False)
    return Operator(
        kind,
        functions,
        clip,
        coupled,
        reset_after,
        W.T,
        R.T,
        B,
        peephole,
    )


def _require_plain(cell: Any) -> None:
    """Checks the options that ONNX's LSTM lacks."""
    target = "ONNX's LSTM"
    if hasattr(cell, "proj_size"):
        require(cell, target, proj_size=0)
    if hasattr(cell, "cell_clip"):
        require(cell, target, cell_clip=None)
    if isinstance(cell, CIFGCell):
        target = f"{target}, whose gate is the other one"
        require(cell, target, gate_activation=jax.nn.sigmoid)


def _unclipped(cell: Layer, functions: list[Any]) -> tuple[list[Function], float | None]:
    """The functions without their bound, and the bound."""
    bounds: list[float | None] = []
    plain = []
    for function in functions:
        if isinstance(function, Clipped):
            bounds.append(function.bound)
            plain.append(function.function)
        else:
            bounds.append(None)
            plain.append(function)
    # The third function of an LSTM is the output activation.
    if len(set(bounds[:2])) > 1 or bounds[2:] not in ([], [None]):
        raise ValueError(
            "the activations of `layer` must be Clipped to one bound for ONNX, all but an LSTM's "
            f"output activation, which must not be; got {cell}."
        )
    return plain, bounds[0]
