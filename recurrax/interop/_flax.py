"""The facts that Linen and NNX share: their cells, how they merge directions, what both lack."""

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
    gates: Sequence[str]  # the letters of the gates in the names of their Denses, in our order
    biased: str  # which Denses have the bias: "i" for the inputs, "h" for the state
    requires: dict[str, Any]  # the options for which Flax knows only one value

    @property
    def resets(self) -> bool:
        """Whether a reset gate scales the recurrent term of the candidate, with its bias."""
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
    named = {function: name for name, function in MERGES.items()}
    # The default of Flax is a function of its own.
    named[type(module).merge_fn] = "concat"
    if module.merge_fn not in named:
        raise ValueError(
            "`merge_fn` must be the default, jax.numpy.add or jax.numpy.multiply, to be `concat`, "
            f"`sum` or `mul`; got {module.merge_fn!r}."
        )
    return named[module.merge_fn]


def merge_fn(layer: Bidirectional) -> dict[str, Any]:
    """The argument that makes Flax merge two directions as `layer` does."""
    if layer.merge == "concat":
        return {}  # Flax' default
    return {"merge_fn": MERGES[layer.merge]}


def check_forwards(module: Any, cell: str) -> None:
    """Checks that an `RNN` runs forwards.

    Raises:
        ValueError: if it runs backwards. The direction belongs to `scan`.
    """
    if module.reverse:
        raise ValueError(
            f"`reverse` of RNN must be False; got True. Convert {cell} and pass `reverse=True` to "
            "`scan`, whose outputs are those of `keep_order=True`."
        )


def check_directions(module: Any) -> None:
    """Checks that a `Bidirectional` module holds two `RNN`s. It sets their direction itself.

    Raises:
        TypeError: if a part is no `RNN`.
    """
    for way in ("forward_rnn", "backward_rnn"):
        if not hasattr(getattr(module, way), "cell"):
            hint = "Flax' Bidirectional can only run RNNs backwards."
            raise unsupported(way, getattr(module, way), ("an RNN",), hint)


def check_cells(layer: Bidirectional) -> tuple[Layer, ...]:
    """The layers of both directions, which must be cells.

    Raises:
        TypeError: if one is no cell.
    """
    for part in layer.parts:
        if not isinstance(part, Cell):
            hint = "Flax' Bidirectional can only run RNNs backwards."
            raise unsupported("layer", layer, ("a Bidirectional of cells",), hint)
    return layer.parts


def check_plain(cell: Any) -> None:
    """Checks that a `SimpleCell` has no residual connection.

    Raises:
        ValueError: if it has.
    """
    if cell.residual:
        raise ValueError(
            "`residual` of SimpleCell must be False; got True, which adds h inside the activation. "
            "Add the identity to the kernel of the recurrent Dense and set it to False."
        )


# Our names of options, and Flax' names.
_OPTIONS = {"activation": "activation_fn", "gate_activation": "gate_fn", "dtype": "dtype"}


def activations(cell: Any) -> dict[str, Any]:
    """A cell's nonlinearities and its dtype by our names."""
    found = {}
    for ours, theirs in _OPTIONS.items():
        # Not every cell has gates.
        if hasattr(cell, theirs):
            found[ours] = getattr(cell, theirs)
    return found


def options(layer: Any, params: Any) -> dict[str, Any]:
    """The arguments of Flax' cell that make it like `layer`."""
    made: dict[str, Any] = {"param_dtype": jnp.dtype(params.kernel.dtype)}
    for ours, theirs in _OPTIONS.items():
        if hasattr(layer, ours):
            made[theirs] = getattr(layer, ours)
    return made
