"""ONNX's RNN, LSTM and GRU in one direction, and the cells that they are: which gate goes where, and with what sign.

W `[G*H, I]`, R `[G*H, H]`, B `[2*G*H]` and P `[3*H]` have the gates of an LSTM in the order i, o,
f, c (P: i, o, f), those of a GRU in the order z, r, h. A coupled LSTM has its gate by the input, f
= 1 - i, where `CIFGCell` has i = 1 - f: with a logistic gate the same cell, the sign of the gate's
weights apart.
"""

from __future__ import annotations

import dataclasses
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
        functions: f, and g and h where there are such.
        clip: the bound on what f and g see, or None.
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
    """The cell that an operator is; one of the core wherever one is exactly that."""
    order, ours = _ORDERS[operator.kind]
    W, R, B, P, size = operator.W, operator.R, operator.B, operator.P, operator.hidden_size
    bias, recurrent_bias = (None, None) if B is None else np.split(B, 2)
    if recurrent_bias is not None and not operator.reset_after and not recurrent_bias.any():
        recurrent_bias = None  # It is only ever added to the other one.
    maps = [
        None if part is None else reorder(part, order, ours)
        for part in (W.T, R.T, bias, recurrent_bias)
    ]
    bounded = [
        f if operator.clip is None else Clipped(f, operator.clip) for f in operator.functions
    ]
    options: dict[str, Any] = {"bias": B is not None, "recurrent_bias": recurrent_bias is not None}

    if operator.kind == "RNN":
        return ElmanCell(size, *bounded, **options), _params(ElmanParams, maps)
    if operator.kind == "GRU":
        options |= {"gate_activation": bounded[0], "activation": bounded[1]}
        if options["recurrent_bias"] == (options["bias"] and operator.reset_after):
            options["recurrent_bias"] = None  # as is the default
        return GRUCell(size, operator.reset_after, **options), _params(GRUParams, maps)

    # onnxruntime does not bound what h sees, c, though it is the input of an activation.
    options |= {"gate_activation": bounded[0], "activation": bounded[1]}
    output, peephole = (
        operator.functions[2],
        None if P is None else P.reshape(3, size)[np.array([0, 2, 1])],
    )
    plain = bounded[1] == output
    if not operator.coupled:
        if plain and P is None:
            return LSTMCell(size, **options), _params(LSTMParams, maps)
        if plain:
            return PeepholeLSTMCell(size, **options), _params(PeepholeLSTMParams, maps, peephole)
        cell = OnnxLSTMCell(size, peepholes=P is not None, output_activation=output, **options)
        return cell, _params(OnnxLSTMParams, maps, peephole)
    maps = [None if part is None else _without_forget(part) for part in maps]
    peephole = None if peephole is None else peephole[np.array([0, 2])]
    if plain and bounded[0] is jax.nn.sigmoid:
        maps = [None if part is None else _negated(part, size) for part in maps]
        if peephole is not None:
            peephole = np.stack([-peephole[0], peephole[1]])
        return CIFGCell(size, peepholes=P is not None, **options), _params(
            CIFGParams, maps, peephole
        )
    cell = OnnxLSTMCell(size, True, P is not None, output_activation=output, **options)
    return cell, _params(OnnxLSTMParams, maps, peephole)


def _params(kind: Any, maps: list[np.ndarray | None], peephole: np.ndarray | None = None) -> Params:
    named = dict(zip(("kernel", "recurrent_kernel", "bias", "recurrent_bias"), maps, strict=True))
    named |= {} if peephole is None else {"peephole": peephole}
    return kind(**{name: None if part is None else to_jax(part) for name, part in named.items()})


def _without_forget(gates: np.ndarray) -> np.ndarray:
    """The gates i, c, o of i, f, c, o."""
    i, _, c, o = np.split(gates, 4, axis=-1)
    return np.concatenate([i, c, o], axis=-1)


def _with_forget(gates: np.ndarray) -> np.ndarray:
    """The gates i, f, c, o, of which nothing reads f."""
    i, c, o = np.split(gates, 3, axis=-1)
    return np.concatenate([i, np.zeros_like(i), c, o], axis=-1)


def _negated(gates: np.ndarray, size: int) -> np.ndarray:
    """The same with the first gate's sign turned."""
    return np.concatenate([-gates[..., :size], gates[..., size:]], axis=-1)


CELLS = (ElmanCell, LSTMCell, GRUCell, PeepholeLSTMCell, CIFGCell, OnnxLSTMCell)


def operator_of(cell: Any, params: Any) -> Operator:
    """The operator that a cell, of one of the types in `CELLS`, is: the inverse of `cell_of`.

    Raises:
        ValueError: if the cell has an option that ONNX has not.
    """
    maps = [
        params.kernel,
        params.recurrent_kernel,
        *(two_biases(params) if has_bias(params) else ()),
    ]
    maps = [np.asarray(part) for part in maps]
    peephole = getattr(params, "peephole", None)
    peephole = None if peephole is None else np.asarray(peephole)
    coupled = isinstance(cell, CIFGCell) or getattr(cell, "input_forget", False)
    if type(cell) is ElmanCell:
        kind, functions = "RNN", [cell.activation]
    elif type(cell) is GRUCell:
        kind, functions = "GRU", [cell.gate_activation, cell.activation]
    else:
        _require_plain(cell)
        kind, functions = "LSTM", [cell.gate_activation, cell.activation]
        functions.append(getattr(cell, "output_activation", cell.activation))
    if isinstance(cell, CIFGCell):
        maps = [_negated(part, cell.hidden_size) for part in maps]
        peephole = None if peephole is None else np.stack([-peephole[0], peephole[1]])
    if coupled:
        maps = [_with_forget(part) for part in maps]
        peephole = (
            None
            if peephole is None
            else np.stack([peephole[0], np.zeros_like(peephole[0]), peephole[1]])
        )

    theirs, ours = _ORDERS[kind]
    W, R, *biases = (reorder(part, ours, theirs) for part in maps)
    functions, clip = _unclipped(cell, functions)
    return Operator(
        *(kind, functions, clip, coupled, getattr(cell, "reset_after", False), W.T, R.T),
        B=np.concatenate(biases) if biases else None,
        P=None if peephole is None else peephole[np.array([0, 2, 1])].ravel(),
    )


def _require_plain(cell: Any) -> None:
    """Checks what ONNX's LSTM has not."""
    if hasattr(cell, "proj_size"):
        require(cell, "ONNX's LSTM", proj_size=0)
    if hasattr(cell, "cell_clip"):
        require(cell, "ONNX's LSTM", cell_clip=None)
    if isinstance(cell, CIFGCell):
        require(cell, "ONNX's LSTM, whose gate is the other one", gate_activation=jax.nn.sigmoid)


def _unclipped(cell: Layer, functions: list[Any]) -> tuple[list[Function], float | None]:
    """The functions without their bound, and the bound."""
    bounds = [f.bound if isinstance(f, Clipped) else None for f in functions]
    if len(set(bounds[:2])) > 1 or bounds[2:] not in ([], [None]):
        raise ValueError(
            "the activations of `layer` must be Clipped to one bound for ONNX, all but an LSTM's output activation, "
            f"which must not be; got {cell}."
        )
    return [f.function if isinstance(f, Clipped) else f for f in functions], bounds[0]
