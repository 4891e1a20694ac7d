"""The states and the gates of every step. The loop gives the states; the gates follow from them."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from recurrax._arguments import check_number
from recurrax._dtype import cast, cast_params, compute_dtype, promote
from recurrax._layer import Gate, Layer, Params, State, without_initializers
from recurrax._mask import Marks, where
from recurrax._scan import check_options, check_sequence, is_recorded, run, without_records
from recurrax.implementations._registry import Implementation


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["states", "gates", "joined"],
    meta_fields=["sizes"],
)
@dataclasses.dataclass(frozen=True)
class CellTrace:
    """What one cell did at every step. Its arrays have the axes of batch and time of the outputs.

    Attributes:
        states: the state after each step. A masked step keeps the state.
        gates: the gates by name, such as `gates["forget"]`, zero at masked steps. A cell without
            gates, or one that does not declare them, has none.
        joined: all pre-activations side by side on the last axis, or None: `preactivations` has
            them by name.
        sizes: the name of each gate and its number of features, in the order of `joined`.
    """

    states: State
    gates: dict[str, jax.Array]
    joined: jax.Array | None
    sizes: tuple[tuple[str, int], ...]

    # One array leaves the compiled program faster than one for each gate.
    @property
    def preactivations(self) -> dict[str, jax.Array]:
        """The argument of the activation of each gate by name, zero at masked steps."""
        parts, start = {}, 0
        for name, size in self.sizes:
            assert self.joined is not None
            parts[name] = self.joined[..., start : start + size]
            start += size
        return parts


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["ys", "state", "cells"],
    meta_fields=["paths", "structure"],
)
@dataclasses.dataclass(frozen=True)
class Trace:
    """What a layer did at every step, from `recurrax.trace`.

    `trace["0.forward"]` is the trace of one cell. The path of a cell is its path in the state:
    `"0.forward"` for `state[0].forward`, and `""` for a layer that is one cell.

    Attributes:
        ys: the outputs, as from `scan`.
        state: the final state, as from `scan`.
        cells: the trace of each cell by its path.
        paths: the path of each cell, and None for each other part of the state, in the order of
            the state.
        structure: the structure of the state, with a leaf for each of these.
    """

    ys: jax.Array
    state: State
    cells: dict[str, CellTrace]
    paths: tuple[str | None, ...]
    structure: jax.tree_util.PyTreeDef

    def __getitem__(self, path: str) -> CellTrace:
        """Returns the trace of the cell at this path."""
        if path not in self.cells:
            raise KeyError(f"`path` must be one of {list(self.cells)}; got {path!r}.")
        return self.cells[path]

    # Each array is a result of the compiled program once, so the tree is made of the cells.
    @property
    def states(self) -> State:
        """The state after each step, in the structure of `state`.

        It has None for a state that does not belong to a cell, such as the inputs of a `Window`.
        """
        parts: list[State | None] = []
        for path in self.paths:
            parts.append(None if path is None else self.cells[path].states)
        return jax.tree.unflatten(self.structure, parts)

    @property
    def gates(self) -> dict[str, jax.Array]:
        """The gates of the only cell.

        Raises:
            ValueError: if there is not one cell.
        """
        return self._only_cell.gates

    @property
    def preactivations(self) -> dict[str, jax.Array]:
        """The pre-activations of the only cell.

        Raises:
            ValueError: if there is not one cell.
        """
        return self._only_cell.preactivations

    @property
    def _only_cell(self) -> CellTrace:
        if len(self.cells) != 1:
            raise ValueError(
                f"the layer must have one cell; it has {len(self.cells)}: {list(self.cells)}. "
                "Name the cell, as in `trace[path].gates`."
            )
        (cell,) = self.cells.values()
        return cell


def trace(
    layer: Layer,
    params: Params,
    xs: jax.Array,
    state: State | None = None,
    *,
    lengths: jax.Array | None = None,
    mask: jax.Array | None = None,
    reset: jax.Array | None = None,
    reverse: bool = False,
    time_major: bool = False,
    unroll: int = 1,
    remat: int | None = None,
    implementation: str | Implementation | tuple | None = None,
    key: jax.Array | None = None,
) -> Trace:
    """Runs a layer over a sequence, as `scan` does, and returns the states and gates of each step.

    state_t, y_t = layer(state_{t-1}, x_t) for t = 1 ... T
    gates_t = gates of each cell, from state_{t-1} and x_t

    The loop of `scan` returns the states, and the pre-activations of an affine cell. The gates of
    all steps are computed from them at once, after the loop. All results are differentiable, so a
    loss may have a penalty on them. In a program of your own under `jax.jit`, a gate that is not
    used costs nothing.

    States and gates are aligned with the inputs, as outputs are, in both directions. A masked step
    keeps the state, and its gates are zero. After a masked step with a reset the state is the
    initial state. With a `key`, states and gates are those of the run with this randomness. The
    candidate of a cell is shown before `UpdateDropout`, and the state after `Zoneout`.

    A cell of your own has its states, and also its gates if it defines `gate_values`. A layer of
    your own must return the final states of its parts as it got them.

    Args:
        layer: a cell, or a layer made of layers.
        params: the parameters of the layer.
        xs: the inputs, `[*B, T, I]`; `[T, *B, I]` if `time_major`.
        state: the state before the first step; None for the initial state.
        lengths: `int[*B]`, as in `scan`. So are all arguments below.
        mask: `bool[*B, T]`.
        reset: `bool[*B, T]`.
        reverse: whether to run from the last step to the first.
        time_major: whether time is the first axis of sequences, in the results too.
        unroll: the number of steps in one iteration of the compiled loop.
        remat: the number of steps in a part, to save memory in derivatives.
        implementation: the way to run the layer. It must return the state after every step. These
            do: "xla", "hoisted", "native", "sequential", "associative", "blocked", `TimeSharded`
            and `Newton`. None picks the fastest of them.
        key: the source of randomness, for layers that use it.

    Returns:
        A `Trace`: the outputs, the final state, the state after every step, and the gates of each
        cell. States are `[*B, T, ...]`, and gates are `[*B, T, H]`.

    Raises:
        TypeError: as `scan`.
        ValueError: as `scan`, and if `implementation` does not return the state after every step.

    Example:
        >>> import jax, jax.numpy as jnp, recurrax
        >>> layer = recurrax.Stack((recurrax.Bidirectional(recurrax.LSTMCell(4)),
        ...                         recurrax.GRUCell(4)))
        >>> params = layer.init(jax.random.key(0), input_size=3)
        >>> trace = recurrax.trace(layer, params, jnp.ones((2, 7, 3)), lengths=jnp.array([7, 5]))
        >>> list(trace.cells)
        ['0.backward', '0.forward', '1']
        >>> trace["0.forward"].gates["forget"].shape, trace["1"].states.h.shape
        ((2, 7, 4), (2, 7, 4))

        A penalty on open gates:

        >>> def loss(params):
        ...     trace = recurrax.trace(layer, params, jnp.ones((2, 7, 3)))
        ...     return jnp.mean(trace.ys**2) + 0.1 * jnp.mean(trace["1"].gates["update"])
        >>> jax.grad(loss)(params)[1].kernel.shape
        (8, 12)

    References:
        Karpathy et al., Visualizing and understanding recurrent networks, 2015,
        https://arxiv.org/abs/1506.02078
    """
    marks = Marks(lengths, mask, reset)
    xs, marks = check_sequence(layer, params, xs, state, marks, time_major)
    check_options(implementation, key)
    unroll = check_number("unroll", unroll)
    if remat is not None:
        remat = check_number("remat", remat)
    options = (reverse, time_major, unroll, remat, implementation, key)
    return _trace(without_initializers(layer), params, xs, state, marks, *options)


@functools.partial(
    jax.jit, static_argnames=("layer", "reverse", "time_major", "unroll", "remat", "implementation")
)
def _trace(
    layer, params, xs, state, marks, reverse, time_major, unroll, remat, implementation, key
):
    options = (reverse, time_major, unroll, remat, implementation, key)
    state, ys = run(layer, params, xs, state, marks, *options, _record)

    # The record of each cell stands at the place of its state.
    cells: dict[str, CellTrace] = {}
    paths: list[str | None] = []
    leaves, structure = jax.tree_util.tree_flatten_with_path(state, is_leaf=is_recorded)
    for keys, node in leaves:
        if not is_recorded(node):
            paths.append(None)
            continue
        path = jax.tree_util.keystr(keys, simple=True, separator=".")
        paths.append(path)
        cells[path] = node.record

    return Trace(ys, without_records(state), cells, tuple(paths), structure)


def _record(
    cell: Any,
    params: Params,
    befores: State,
    xs: Any,
    states: State,
    a: jax.Array | dict[str, Gate] | None,
    mask: jax.Array | None,
    move: Callable,
) -> CellTrace:
    """Computes the gates of all steps of a cell.

    Args:
        cell: the cell that ran.
        params: its parameters.
        befores: the state before each step, `[T, *B, ...]`.
        xs: its inputs, `[T, *B, I]`.
        states: the state after each step.
        a: the pre-activations of an affine cell, `[T, *B, G*H]`, or the gates, if the loop has kept
            them.
        mask: `bool[T, *B]`, or None.
        move: puts time where the caller has it.
    """
    if not cell.tells_gates:
        return CellTrace(move(states), {}, None, ())
    # The dtypes of the step: products follow the layer, and the state may be wider.
    compute = compute_dtype(cell, params, xs)
    params = cast_params(cell, params, compute)
    befores = jax.tree.map(lambda s: s.astype(promote(compute, s.dtype)), befores)
    if isinstance(a, dict):
        gates = a
    elif a is not None:
        gates = cell.pointwise_gates(cell.other_params(params), cell.split(a), befores)
    else:
        gates = cell.gate_values(params, befores, cast(xs, compute))
    # JAX would sort the names.
    names = list(gates)
    # Some layers keep arrays with the axes of the batch in `params`, so gates are moved after this.
    states, gates, mask = move((states, gates, mask))
    if mask is not None:
        gates = where(mask, gates, jax.tree.map(jnp.zeros_like, gates))
    values, parts, sizes = {}, [], []
    for name in names:
        gate = gates[name]
        values[name] = gate.value
        parts.append(gate.preactivation)
        sizes.append((name, gate.preactivation.shape[-1]))
    joined = None
    if parts:
        dtype = promote(*(part.dtype for part in parts))
        joined = jnp.concatenate([part.astype(dtype) for part in parts], axis=-1)  # [*B, T, G*H]
    return CellTrace(states, values, joined, tuple(sizes))
