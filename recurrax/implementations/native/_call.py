"""The facts of a call, its arrays, and its meaning in JAX: the loop of `hoisted`.

A call has these arrays, with T steps, B rows, I features, H units and G gates:

- `xs` `[T, B, I]`, `kernel` `[I, G*H]`, `recurrent_kernel` `[H, G*H]` and `bias` `[blocks*H]`;
- the parts of the state before the first step, `[B, H]` each: h, and c of an LSTM;
- with restarts, the parts of the state at a restart, `[B, H]` each;
- `mask` and `restart`, `bool[T, B]`, if there are any.

Its results are `ys` `[T, B, H]` and the parts of the final state. Where a derivative will follow,
it also keeps c after each step, `[T, B, H]`, and the gates, `[T, B, blocks*H]`. For a trace, the
pre-activations of the gates stand in their place, `[T, B, G*H]`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from recurrax._layer import Gate
from recurrax._mask import Steps
from recurrax.cells.affine import AffineCell, gate_of
from recurrax.cells.elman import ElmanCell, ElmanParams, ElmanState
from recurrax.cells.gru import GRUCell, GRUParams, GRUState
from recurrax.cells.lstm import LSTMCell, LSTMParams, LSTMState
from recurrax.implementations import hoisted

Arrays = Sequence[Any]


class Kind(NamedTuple):
    """One of the cells that the library knows.

    Attributes:
        number: the number by which the library knows the cell.
        gates: the number G of gates.
        blocks: the number of pre-activations of a unit. The candidate of a GRU has two.
        parts: the number of parts of the state.
    """

    number: int
    gates: int
    blocks: int
    parts: int

    def keeps(self, xs: Any, units: int) -> list[tuple[int, ...]]:
        """The shapes of the arrays that the forward pass keeps for the backward pass."""
        steps, rows, _ = xs.shape
        shapes: list[tuple[int, ...]] = []
        if self.parts == 2:
            shapes.append((steps, rows, units))
        if self.blocks > 1:
            shapes.append((steps, rows, self.blocks * units))
        return shapes

    def shows(self, xs: Any, units: int) -> list[tuple[int, ...]]:
        """The shapes of the arrays that a trace shows, in place of those that it keeps."""
        shapes = self.keeps(xs, units)
        if self.blocks > 1:
            shapes[-1] = (*shapes[-1][:2], self.gates * units)
        return shapes


KINDS = {
    "lstm": Kind(number=0, gates=4, blocks=4, parts=2),
    "gru": Kind(number=1, gates=3, blocks=4, parts=1),
    "tanh": Kind(number=2, gates=1, blocks=1, parts=1),
    "relu": Kind(number=3, gates=1, blocks=1, parts=1),
}


# The names of the gates with tanh. All others have a sigmoid.
CANDIDATES = ("cell", "new")

# The names of the gates in the order of a trace, the order in which JAX keeps a dict.
GATES = {"lstm": ("cell", "forget", "input", "output"), "gru": ("new", "reset", "update")}


@dataclasses.dataclass(frozen=True)
class Call:
    """The static facts of a call.

    Args:
        kind: a key of `KINDS`.
        reverse: whether the last step comes first.
        batch_major: whether `xs`, `ys` and their gradients lie in memory as `[B, T, ...]`.
        masked: whether there is a mask.
        restarts: whether there are restarts.
        keeps: whether the call keeps what a derivative needs.
        moves: for each floating array, whether a derivative by it is wanted.
    """

    kind: str
    reverse: bool
    batch_major: bool
    masked: bool
    restarts: bool
    keeps: bool = False
    moves: tuple[bool, ...] = ()

    @property
    def facts(self) -> Kind:
        """What the library knows of the cell."""
        return KINDS[self.kind]

    @property
    def floating(self) -> int:
        """The number of floating arrays; flags follow."""
        # Four of inputs and weights, then one or two states.
        states = 1 + self.restarts
        return 4 + states * self.facts.parts

    @property
    def arrays(self) -> int:
        """The number of all arrays of the call."""
        return self.floating + self.masked + self.restarts

    @property
    def kept(self) -> int:
        """The number of arrays that the backward pass reads, with `ys`."""
        return 1 + (self.facts.parts == 2) + (self.facts.blocks > 1)

    def states(self, arrays: Arrays) -> tuple[Arrays, Arrays]:
        """The parts of the state before the first step, and of the state at a restart."""
        parts = self.facts.parts
        return arrays[4 : 4 + parts], arrays[4 + parts : self.floating]

    def flags(self, arrays: Arrays) -> tuple[Any, Any]:
        """`mask` and `restart`, each `bool[T, B]` or None."""
        flags = list(arrays[self.floating : self.arrays])
        mask = restart = None
        # The restarts come last.
        if self.restarts:
            restart = flags.pop()
        if self.masked:
            mask = flags.pop()
        return mask, restart


def bias_of(kind: str, params: Any) -> jax.Array:
    """The biases of all blocks, `[blocks*H]`, from both biases of a cell."""
    # A bias that a cell does not have is zero.
    bias = recurrent = jnp.zeros_like(params.recurrent_kernel[0])  # [G*H]
    if params.bias is not None:
        bias = params.bias
    if params.recurrent_bias is not None:
        recurrent = params.recurrent_bias
    if kind != "gru":
        return bias + recurrent
    # The blocks of a GRU are n, r, z and the candidate's share of the state.
    r, z, n = jnp.split(bias, 3)
    u_r, u_z, u_n = jnp.split(recurrent, 3)
    return jnp.concatenate([n, r + u_r, z + u_z, u_n])


def _cell_and_params(kind: str, arrays: Arrays) -> tuple[AffineCell, Any]:
    """The cell of a call, and its parameters."""
    _, kernel, recurrent_kernel, bias = arrays[:4]
    units = recurrent_kernel.shape[0]
    if kind == "lstm":
        return LSTMCell(units), LSTMParams(kernel, recurrent_kernel, bias)
    if kind == "gru":
        n, r, z, u_n = jnp.split(bias, 4)
        zeros = jnp.zeros_like(n)
        first, second = jnp.concatenate([r, z, n]), jnp.concatenate([zeros, zeros, u_n])
        return GRUCell(units), GRUParams(kernel, recurrent_kernel, first, second)
    activation = {"tanh": jnp.tanh, "relu": jax.nn.relu}[kind]
    return ElmanCell(units, activation), ElmanParams(kernel, recurrent_kernel, bias)


_STATES = {"lstm": LSTMState, "gru": GRUState, "tanh": ElmanState, "relu": ElmanState}


def plain(call: Call, *arrays: Any) -> list[jax.Array]:
    """What a call means: `ys` and the parts of the final state, by the loop of `hoisted`."""
    final, (ys, _, _) = _loop(call, arrays)
    return [ys, *final]  # ys [T, B, H]; parts [B, H]


def plain_states(call: Call, *arrays: Any) -> list[jax.Array]:
    """`plain`, then every c of an LSTM, then the pre-activations of a cell with gates.

    At masked steps these arrays have no meaning.
    """
    final, (ys, states, a) = _loop(call, arrays, keeps_states=True)
    results = [ys, *final, *states[1:]]  # c [T, B, H]
    cell, params = _cell_and_params(call.kind, arrays)
    gates = gates_of(cell, params, a, states)
    if gates:
        shown = [gates[name].preactivation for name in GATES[call.kind]]
        results.append(jnp.concatenate(shown, axis=-1))  # [T, B, G*H]
    return results


def gates_of(cell: AffineCell, params: Any, a: jax.Array, states: Any) -> dict[str, Gate]:
    """The gates from the pre-activations of the loop. No cell of the library reads the states."""
    return cell.pointwise_gates(cell.other_params(params), cell.split(a), states)


def gates_shown(call: Call, shown: jax.Array) -> dict[str, Gate]:
    """The gates from the array of a trace, `[T, B, G*H]`."""
    names = GATES[call.kind]

    # Gates are computed as they lie in memory, so that XLA makes no copy.
    def exchanged(array: jax.Array) -> jax.Array:
        if call.batch_major:
            return jnp.swapaxes(array, 0, 1)
        return array

    gates = {}
    parts = jnp.split(exchanged(shown), len(names), axis=-1)
    for name, a in zip(names, parts, strict=True):
        activation: Callable = jax.nn.sigmoid
        if name in CANDIDATES:
            activation = jnp.tanh
        gates[name] = gate_of(activation, a)
    return jax.tree.map(exchanged, gates)


def _loop(call: Call, arrays: Arrays, keeps_states: bool = False) -> tuple[Any, Any]:
    """The final state; then `ys`, and with `keeps_states` the states and the pre-activations."""
    cell, params = _cell_and_params(call.kind, arrays)
    state, initial = call.states(arrays)
    state_type = _STATES[call.kind]
    mask, restart = call.flags(arrays)
    before = at_restart = state_type(*state)
    # Without restarts nothing reads this state.
    if call.restarts:
        at_restart = state_type(*initial)
    final, outs = hoisted.run(
        cell,
        params,
        before,
        arrays[0],
        Steps(mask, restart, call.reverse),
        initial=at_restart,
        unroll=1,
        keeps_states=keeps_states,
    )
    if keeps_states:
        return final, outs
    return final, (outs, None, None)


def plain_of_moving(call: Call, arrays: Arrays) -> tuple[Any, list[Any]]:
    """`plain` as a function of the arrays that move, and these arrays."""
    moving = [array for array, moves in zip(arrays, call.moves, strict=False) if moves]

    def function(*moving: Any) -> list[jax.Array]:
        given = iter(moving)
        merged = list(arrays)
        for position, moves in enumerate(call.moves):
            if moves:
                merged[position] = next(given)
        return plain(call, *merged)

    return function, moving
