"""What Linen and NNX have in common: their cells by ours, how two directions are merged, what neither can express."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp

from recurrax._layer import Cell, Layer
from recurrax.cells.affine import AffineCell
from recurrax.cells.elman import ElmanCell
from recurrax.cells.gru import GRUCell
from recurrax.cells.lstm import LSTMCell
from recurrax.cells.mgu import MGUCell, UGRNNCell
from recurrax.interop._support import unsupported
from recurrax.layers.compose import MERGES, Bidirectional


class Kind(NamedTuple):
    """How Flax keeps a cell of ours."""

    name: str  # of the cell
    gates: Sequence[str]  # what the Denses of the gates are called by, in our order
    biased: str  # which Denses have the bias, those of the inputs or those of the state: "i" or "h"
    requires: dict[str, Any]  # hyper-parameters of which it knows one value alone

    @property
    def resets(self) -> bool:
        """Whether a gate comes between the two terms of the candidate, so that its recurrent bias counts."""
        return "reset_after" in self.requires


KINDS: dict[type[AffineCell], Kind] = {
    ElmanCell: Kind("SimpleCell", ("",), "i", {}),
    LSTMCell: Kind("OptimizedLSTMCell", "ifgo", "h", {"proj_size": 0}),
    GRUCell: Kind("GRUCell", "rzn", "i", {"reset_after": True}),
    MGUCell: Kind("MGUCell", "fn", "i", {"reset_after": True}),
    UGRNNCell: Kind("MGUCell", "fn", "i", {}),
}


def merge_of(module: Any) -> Any:
    """The name of a `Bidirectional` module's `merge_fn`."""
    named = {type(module).merge_fn: "concat"} | {
        function: name for name, function in MERGES.items()
    }
    if module.merge_fn not in named:
        raise ValueError(
            "`merge_fn` must be the default, jax.numpy.add or jax.numpy.multiply, to be `concat`, `sum` or `mul`; "
            f"got {module.merge_fn!r}."
        )
    return named[module.merge_fn]


def merge_fn(layer: Bidirectional) -> dict[str, Any]:
    """The argument that makes Flax merge two directions as `layer` does."""
    return {} if layer.merge == "concat" else {"merge_fn": MERGES[layer.merge]}


def check_forwards(module: Any, cell: str) -> None:
    """Checks that an `RNN` walks forwards.

    Raises:
        ValueError: if it does not: the direction belongs to `scan`.
    """
    if module.reverse:
        raise ValueError(
            f"`reverse` of RNN must be False; got True. Convert {cell} and pass `reverse=True` to `scan`, whose "
            "outputs are those of `keep_order=True`."
        )


def check_directions(module: Any) -> None:
    """Checks that a `Bidirectional` module is of two `RNN`s, whose own direction it overrules.

    Raises:
        TypeError: if it is not.
    """
    for way in ("forward_rnn", "backward_rnn"):
        if not hasattr(getattr(module, way), "cell"):
            raise unsupported(
                way,
                getattr(module, way),
                ("an RNN",),
                "Flax' Bidirectional can only turn RNNs round.",
            )


def check_cells(layer: Bidirectional) -> tuple[Layer, ...]:
    """The layers of both directions, checked to be cells.

    Raises:
        TypeError: if one is not.
    """
    for part in layer.parts:
        if not isinstance(part, Cell):
            raise unsupported(
                "layer",
                layer,
                ("a Bidirectional of cells",),
                "Flax' Bidirectional can only turn RNNs round.",
            )
    return layer.parts


def check_plain(cell: Any) -> None:
    """Checks that a `SimpleCell` has no residual connection.

    Raises:
        ValueError: if it has.
    """
    if cell.residual:
        raise ValueError(
            "`residual` of SimpleCell must be False; got True, which adds h inside the activation. Add the identity to "
            "the kernel of the recurrent Dense and set it to False."
        )


def activations(cell: Any) -> dict[str, Any]:
    """A cell's nonlinearities and its dtype by our names."""
    names = {"activation_fn": "activation", "gate_fn": "gate_activation", "dtype": "dtype"}
    return {ours: getattr(cell, theirs) for theirs, ours in names.items() if hasattr(cell, theirs)}


def options(layer: Any, params: Any) -> dict[str, Any]:
    """The arguments of Flax' cell that make it like `layer`."""
    names = {"activation": "activation_fn", "gate_activation": "gate_fn", "dtype": "dtype"}
    given = {theirs: getattr(layer, ours) for ours, theirs in names.items() if hasattr(layer, ours)}
    return given | {"param_dtype": jnp.dtype(params.kernel.dtype)}
