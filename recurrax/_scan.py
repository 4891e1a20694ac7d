"""The driver: check, put time first, choose an implementation, run, restore.

Nothing else runs over time.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from recurrax._arguments import check_key, check_number, describe
from recurrax._check import (
    check_features,
    check_flags,
    check_inputs,
    check_steps,
    check_tree,
    expected_state,
)
from recurrax._dtype import default_state_dtype
from recurrax._layer import (
    Cell,
    Layer,
    Params,
    State,
    batch_shape_of,
    features,
    without_initializers,
)
from recurrax._mask import Marks, Steps, fill_masked, lengths_to_mask, restarts_last, where
from recurrax._params import check_params
from recurrax.cells.timed import check_time, in_reverse, without_time
from recurrax.implementations._choose import choose
from recurrax.implementations._registry import Implementation, find, takes_composites


def scan(
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
) -> tuple[State, jax.Array]:
    """Runs a layer over a sequence.

    state_t, y_t = layer(state_{t-1}, x_t) for t = 1 ... T

    A masked step keeps the state and outputs zero. Its inputs have no influence, not even on
    gradients: they may be NaN. So the final state is the state after the last unmasked step.
    Without an unmasked step it is the initial state.

    The state keeps its dtype. The outputs have the dtype of the inputs. Matrix products follow the
    layer's `dtype`, or else the parameters and the inputs. Everything is differentiable, in both
    modes and to every order.

    Args:
        layer: a cell, or a layer made of layers.
        params: the parameters of the layer, from `layer.init(key, input_size)`.
        xs: the inputs, `[*B, T, I]`, with any number of batch axes; `[T, *B, I]` if `time_major`.
        state: the state before the first step, from `layer.initial_state(batch_shape)` or from an
            earlier call. None means the initial state, `layer.first_state(params, batch_shape)`. It
            is in float32, or in float64 if parameters or inputs are.
        lengths: `int[*B]`, the numbers of steps of right-padded sequences. Lengths above T count as
            T.
        mask: `bool[*B, T]`, the axes of `xs` without the last: True at the unmasked steps, in any
            pattern.
        reset: `bool[*B, T]`, with the axes of `mask`: True at the first step of a new segment.
            Before that step the state returns to the initial state. In reverse it returns between
            the same two steps: after the flagged step, before the step to its left. A flag acts at
            a masked step too. So the returned state already includes it, and runs over parts of a
            sequence equal one run. NaN in one segment does not reach the next segment.
        reverse: whether to run from the last step to the first. Outputs stay aligned with inputs.
        time_major: whether time is the first axis of `xs`, `mask`, `reset` and the outputs.
        unroll: the number of steps in one iteration of the compiled loop.
        remat: the number of steps in a part, to save memory in derivatives. Only the states between
            parts are kept. The backward pass computes the rest again, one part at a time. About √T
            steps need the least memory. None keeps everything.
        implementation: the way to run the layer. None, the default, picks the fastest way on this
            platform that is exact for these arguments and has every derivative. A name or an object
            is honored, or raises with the reason.

            - `"xla"`: the plain loop, for every cell.
            - `"hoisted"`: the loop for affine cells, with one product for the weight gradients
              after the loop.
            - `"native"`: a loop in C++ for LSTMs, GRUs and Elman's networks on a CPU, in float32.
            - `"sequential"`, `"associative"`, `"blocked"`: for linear cells: one step after
              another, all steps at once, or all steps of a block at once.
            - `"chunked"`, or `recurrax.implementations.Chunked(length)`: for `MLSTMCell`.
            - `recurrax.implementations.TimeSharded(mesh, "time")`: for linear cells, with time
              spread over devices.
            - `"cudnn"`: stacks of LSTMs on NVIDIA GPUs, reverse mode of the first order only.
            - `recurrax.experimental.Newton(...)`: any cell, all steps at once, by iterations.
            - A tuple of these: each cell takes the first that serves it, as in `("associative",
              None)`.
        key: the source of randomness, for layers that use it. Without a key everything is
            deterministic.

    Returns:
        The state after the last step, in the structure, shapes and dtypes of `state`, and the
        outputs `[*B, T, O]`, or `[T, *B, O]` if `time_major`.

    Raises:
        TypeError: if an argument has the wrong type or dtype.
        ValueError: if an argument has the wrong shape or structure, `lengths` and `mask` are both
            given, or `implementation` cannot serve the layer.

    Example:
        >>> import jax, jax.numpy as jnp, recurrax
        >>> cell = recurrax.LSTMCell(4)
        >>> params = cell.init(jax.random.key(0), input_size=3)
        >>> xs = jnp.ones((2, 7, 3))
        >>> state, ys = recurrax.scan(cell, params, xs, lengths=jnp.array([7, 5]))
        >>> ys.shape, bool(jnp.all(ys[1, 5:] == 0)), bool(jnp.all(ys[1, 4] == state.h[1]))
        ((2, 7, 4), True, True)

        Two parts of a sequence, joined by the state, give the outputs of one run:

        >>> state, first = recurrax.scan(cell, params, xs[:, :3])
        >>> state, second = recurrax.scan(cell, params, xs[:, 3:], state)
        >>> _, ys = recurrax.scan(cell, params, xs)
        >>> bool(jnp.allclose(jnp.concatenate([first, second], axis=1), ys, atol=1e-6))
        True

    References:
        JAX, `jax.lax.scan`, 2024, https://docs.jax.dev/en/latest/_autosummary/jax.lax.scan.html
    """
    marks = Marks(lengths, mask, reset)
    xs, marks = check_sequence(layer, params, xs, state, marks, time_major)
    check_options(implementation, key)
    unroll = check_number("unroll", unroll)
    if remat is not None:
        remat = check_number("remat", remat)
    options = (reverse, time_major, unroll, remat, implementation, key)
    return run(without_initializers(layer), params, xs, state, marks, *options)


def step(
    layer: Layer,
    params: Params,
    x: jax.Array,
    state: State | None = None,
    *,
    mask: jax.Array | None = None,
    reset: jax.Array | None = None,
    implementation: str | Implementation | tuple | None = None,
    key: jax.Array | None = None,
) -> tuple[State, jax.Array]:
    """Computes one step: `scan` over a sequence of one step.

    So streaming cannot differ from training.

    Args:
        layer: a layer that does not read the future, so no `Bidirectional`.
        params: the parameters of the layer.
        x: the input of one step, `[*B, I]`.
        state: the state before the step; None for the initial state.
        mask: `bool[*B]`, True for rows whose step is unmasked, as in `scan`.
        reset: `bool[*B]`, True for rows where a new segment begins, as in `scan`.
        implementation: as in `scan`.
        key: as in `scan`.

    Returns:
        The new state and the output `[*B, O]`.

    Raises:
        TypeError: as `scan`.
        ValueError: as `scan`, and if the layer reads the future.

    Example:
        >>> import jax, jax.numpy as jnp, recurrax
        >>> cell = recurrax.GRUCell(4)
        >>> params = cell.init(jax.random.key(0), input_size=3)
        >>> state, y = recurrax.step(cell, params, jnp.ones(3))
        >>> state, y = recurrax.step(cell, params, jnp.ones(3), state)
        >>> y.shape
        (4,)

    References:
        JAX, `jax.lax.scan`, 2024, https://docs.jax.dev/en/latest/_autosummary/jax.lax.scan.html
    """
    if isinstance(layer, Layer) and not layer.causal:
        raise ValueError(
            f"`layer` must not read the future to be stepped; {layer} does. Use `scan` on whole "
            "sequences."
        )
    # Errors name the shapes that the user gave. So the axis of time is added after the checks.
    x = check_inputs(layer, x, "x")
    features_x = features(x)
    batch_shape = features_x.shape[: features_x.ndim - layer.feature_ndim]
    _check_trees("x", layer, params, x, state, batch_shape)
    check_options(implementation, key)
    # A description takes time, so it is made only for flags.
    if mask is not None or reset is not None:
        meaning = f"one flag per row of `x` {describe(features_x)}"
        mask = check_flags("mask", mask, jnp.bool_, batch_shape, meaning)
        reset = check_flags("reset", reset, jnp.bool_, batch_shape, meaning)
    marks = Marks(None, mask, reset)
    return _run_step(without_initializers(layer), params, x, state, marks, implementation, key)


def check_sequence(
    layer: Layer,
    params: Params,
    xs: Any,
    state: State | None,
    marks: Marks,
    time_major: bool,
) -> tuple[Any, Marks]:
    """Checks the arguments of `scan`; returns `xs` and the marks as arrays.

    Raises:
        TypeError: as `scan`.
        ValueError: as `scan`.
    """
    xs = check_inputs(layer, xs)
    x = features(xs)
    steps = x.shape[: x.ndim - layer.feature_ndim]
    batch_shape = steps[1:] if time_major else steps[:-1]
    _check_trees("xs", layer, params, xs, state, batch_shape)
    return xs, Marks(*check_steps("xs", x, steps, time_major, *marks))


def _check_trees(
    of: str,
    layer: Layer,
    params: Params,
    xs: Any,
    state: State | None,
    batch_shape: tuple[int, ...],
) -> None:
    """Checks the inputs, an argument named `of`, with the parameters and the state."""
    check_time(layer, xs)
    x = features(xs)
    check_params(params, layer, x, of)
    if state is not None:
        check_tree("state", state, expected_state(layer, batch_shape), layer, x, of)
    if jnp.iscomplexobj(x):
        check_features(layer, x, params, expected_state(layer, batch_shape), of)


def check_options(
    implementation: str | Implementation | tuple | None, key: jax.Array | None
) -> None:
    names = implementation if isinstance(implementation, tuple) else (implementation,)
    for name in names:
        # An unknown name raises.
        if name is not None:
            find(name)
    if key is not None:
        check_key("key", key)


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=["state", "record"], meta_fields=[]
)
@dataclasses.dataclass(frozen=True)
class Recorded:
    """The final state of a cell, with the record of its steps.

    It stands in the place of this state. So the path of a record is the path of the state.
    """

    state: State
    record: Any


def is_recorded(node: Any) -> bool:
    return isinstance(node, Recorded)


def without_records(state: State) -> State:
    """Returns the states alone."""

    def bare(node: Any) -> Any:
        return node.state if is_recorded(node) else node

    return jax.tree.map(bare, state, is_leaf=is_recorded)


# `jax.jit` is here so that a call outside of any jit compiles once. A bare `lax.scan` would compile
# at every call.
@functools.partial(
    jax.jit,
    static_argnames=(
        *("layer", "reverse", "time_major", "unroll", "remat", "implementation", "record"),
    ),
)
def run(
    layer,
    params,
    xs,
    state,
    marks,
    reverse,
    time_major,
    unroll,
    remat,
    implementation,
    key,
    record=None,
):
    time = 0 if time_major else features(xs).ndim - layer.feature_ndim - 1
    xs, state, marks = time_first(layer, params, xs, state, marks, time)
    context = Context(marks, reverse, unroll, remat, implementation, key, batch_major=time > 0)
    context = dataclasses.replace(context, record=record)
    state, ys = context.scan(layer, params, state, xs)
    return state, jnp.moveaxis(ys, 0, time)


# Outside of `jax.jit`, the axis of time alone would cost more than the dispatch of the step.
@functools.partial(jax.jit, static_argnames=("layer", "implementation"))
def _run_step(layer, params, x, state, marks, implementation, key):
    xs, marks = jax.tree.map(lambda leaf: leaf[None], (x, marks))
    # Neither reversed nor in parts; time comes first.
    options = (False, True, 1, None, implementation, key)
    state, ys = run(layer, params, xs, state, marks, *options)
    return state, ys[0]


def time_first(
    layer: Layer,
    params: Params,
    xs: Any,
    state: State | None,
    marks: Marks,
    time: int,
) -> tuple[Any, State, Marks]:
    """Puts the axis of time, `time`, first; returns `xs`, `state` and the marks.

    `lengths` become a mask, and a missing state becomes the first state.
    """
    lengths, mask, reset = marks
    if lengths is not None:
        mask = jnp.moveaxis(lengths_to_mask(lengths, features(xs).shape[time]), -1, time)
    xs, mask, reset = jax.tree.map(lambda leaf: jnp.moveaxis(leaf, time, 0), (xs, mask, reset))
    mask, reset = flags_placed_like(features(xs), (mask, reset))
    if state is None:
        state = layer.first_state(
            params, batch_shape_of(layer, xs), default_state_dtype(params, xs)
        )
    state = placed_like(features(xs), layer.feature_ndim, state)
    return xs, state, Marks(lengths, mask, reset)


def placed_like(xs: jax.Array, feature_ndim: int, state: State) -> State:
    """Gives the state the placement of the inputs on a mesh."""
    # The state of a loop must have one type at all steps. Under an Explicit mesh or inside
    # `shard_map` the type includes the placement of the batch. Zeros made of the inputs bring their
    # placement to a replicated state.
    zeros = jnp.zeros_like(xs).sum(axis=(0, *range(-feature_ndim, 0)))  # [*B]

    def placed(part: jax.Array) -> jax.Array:
        expanded = jnp.expand_dims(zeros, tuple(range(zeros.ndim, part.ndim)))
        return part + expanded.astype(part.dtype)

    return jax.tree.map(placed, state)


def flags_placed_like(x: jax.Array, flags: Any) -> Any:
    """Gives flags `bool[T, *B]` the placement of `x`, `[T, *B, ...]`, on a mesh."""

    # `where` needs flags and values in one placement. It spreads flags of fewer features by itself.
    # For one feature there is nothing to spread.
    def placed(flag: jax.Array) -> jax.Array:
        # `zeros_like` would lose the placement if no mesh is set.
        false = ((x != x) & False).any(axis=tuple(range(flag.ndim, x.ndim)))  # [T, *B]
        return flag | false

    return jax.tree.map(placed, flags)


@dataclasses.dataclass(frozen=True)
class Context:
    """The `ScanContext` that `scan` gives to layers; its marks have time first."""

    marks: Marks
    reverse: bool
    unroll: int
    remat: int | None
    implementation: str | Implementation | tuple | None
    key: jax.Array | None
    initial: State | None = None  # set by a layer that defines it for its cell
    batch_major: bool = False  # how the caller's sequences lie in memory
    # What `trace` makes of the steps of each cell; it comes back in a `Recorded`.
    record: Callable | None = None

    @property
    def mask(self) -> jax.Array | None:
        return self.marks.mask

    @property
    def reset(self) -> jax.Array | None:
        return self.marks.reset

    def scan(
        self, layer: Layer, params: Params, state: State, xs: Any, initial: State | None = None
    ) -> tuple[State, jax.Array]:
        context = self
        if initial is not None:
            context = dataclasses.replace(self, initial=initial)
        if not layer.reads_time:
            xs = without_time(xs)
        # A layer may hand the final state of one part to another part.
        if self.record is not None:
            state = without_records(state)
        if self.mask is None:
            return context._run(layer, params, state, xs)
        xs = fill_masked(self.mask, xs)
        # A layer made of layers comes back here for each of its parts.
        if layer.parts and not takes_composites(self.implementation):
            state, ys = context._run(layer, params, state, xs)
        else:
            state, ys = context._run_masked(layer, params, state, xs, self.mask)
        return state, where(self.mask, ys, jnp.zeros_like(ys))

    def _run_masked(
        self, layer: Layer, params: Params, state: State, xs: Any, mask: jax.Array
    ) -> tuple[State, jax.Array]:
        """Runs a layer with a mask. A state that no unmasked step reads has no influence."""
        initial = self._initial(layer, params, state, xs)
        unread = ~mask.any(axis=0)  # [*B], rows without an unmasked step
        finite = jnp.ones_like(unread)
        for part in jax.tree.leaves(state):
            finite &= jnp.isfinite(part).all(axis=tuple(range(unread.ndim, part.ndim)))
        # NaN in an unread state would reach the gradients of the parameters as 0 times NaN.
        safe = where(unread & ~finite, initial, state)
        final, ys = self._run(layer, params, safe, xs)
        # Without an unmasked step only a reset changes the state.
        if self.reset is not None:
            state = where(self.reset.any(axis=0), initial, state)
        kept = where(unread, state, without_records(final))
        if is_recorded(final):
            kept = dataclasses.replace(final, state=kept)
        return kept, ys

    def _initial(self, layer: Layer, params: Params, state: State, xs: Any) -> State:
        """Returns the state at a reset, in the dtypes and the placement of `state`."""
        initial = self.initial
        if initial is None:
            batch_shape = batch_shape_of(layer, xs)
            initial = layer.first_state(params, batch_shape, default_state_dtype(params, xs))
        # Under an Explicit mesh `where` needs both states in one placement.
        return jax.tree.map(lambda i, s: i.astype(s.dtype) + jnp.zeros_like(s), initial, state)

    def _run(self, layer: Layer, params: Params, state: State, xs: Any) -> tuple[State, jax.Array]:
        """Runs a layer made of layers by its `apply`, and a cell by an implementation."""
        if not isinstance(layer, Cell) and not takes_composites(self.implementation):
            return layer.apply(self, params, state, xs)
        steps = self.marks.steps(self.reverse)
        steps = dataclasses.replace(steps, batch_major=self.batch_major)
        records = self.record is not None
        chosen = choose(self.implementation, layer, params, state, xs, steps, records)
        initial = self._initial(layer, params, state, xs)
        # In reverse the elapsed times belong to other steps.
        if self.reverse:
            xs = in_reverse(xs, self.mask, self.reset)

        run_steps = chosen.run
        if records:
            run_steps = chosen.run_states  # type: ignore[attr-defined]

        # Runs over the full sequence, or over one part of it. `outs` are the outputs; with a
        # record also the states after each step, and the pre-activations, the gates or None.
        def run(state: State, part: tuple) -> tuple[State, Any]:
            xs, steps = part
            return run_steps(layer, params, state, xs, steps, initial=initial, unroll=self.unroll)

        # An implementation of several layers has no state of one cell between its parts.
        if self.remat is not None and chosen.takes_composites:
            raise ValueError(
                f"`remat` must be None with `implementation` {self.implementation!r}; got "
                f"{self.remat}."
            )
        if self.remat is None:
            final, outs = run(state, (xs, steps))
        else:
            final, outs = _in_parts(run, self.remat, state, (xs, steps), self.reverse)
        last = restarts_last(self.reset, self.reverse)
        if last is not None:
            final = where(last, initial, final)
        if self.record is None:
            return final, outs
        ys, states, a = outs
        if self.mask is None:
            states = _with_outputs(layer, states, ys)
        befores = _states_before(state, states, initial, steps)
        arrays = (befores, xs, states, a, self.mask)

        # Puts time where the caller has it.
        def move(tree: Any) -> Any:
            if not self.batch_major:
                return tree
            time = features(xs).ndim - layer.feature_ndim - 1
            return jax.tree.map(lambda leaf: jnp.moveaxis(leaf, 0, time), tree)

        return Recorded(final, self.record(layer, params, *arrays, move)), ys

    def reversed(self) -> Context:
        return dataclasses.replace(self, reverse=not self.reverse)

    def split(self, number: int) -> list[Context]:
        if self.key is None:
            return [self] * number
        keys = jax.random.split(self.key, number)
        return [dataclasses.replace(self, key=key) for key in keys]


def _with_outputs(layer: Layer, states: State, ys: jax.Array) -> State:
    """Takes the outputs for the part of the states that they equal, so that both are kept once."""
    part = getattr(layer, "output_part", None)
    if not isinstance(part, str) or not hasattr(states, part):
        return states
    if getattr(states, part).dtype != ys.dtype:
        return states
    return states._replace(**{part: ys})


def _states_before(entering: State, states: State, initial: State, steps: Steps) -> State:
    """Returns the state before each step, `[T, *B, ...]`, from the state after each step."""

    def before(entering: jax.Array, after: jax.Array) -> jax.Array:
        if steps.reverse:
            return jnp.concatenate([after, entering[None]])[1:]
        return jnp.concatenate([entering[None], after])[:-1]

    befores = jax.tree.map(before, entering, states)
    return steps.restarted(befores, jax.tree.map(lambda i: i[None], initial))


def _in_parts(
    run: Callable, length: int, state: State, sequence: tuple, reverse: bool
) -> tuple[State, Any]:
    """Runs over parts of `length` steps and keeps only their first states for the derivative."""
    # Inside a loop no other computation can be shared, so `prevent_cse` is not needed.
    run = jax.checkpoint(run, prevent_cse=False)
    steps = features(sequence).shape[0]
    number, rest = divmod(steps, length)

    def parts(state: State) -> tuple[State, Any]:
        def fold(a: jax.Array) -> jax.Array:
            return a[: steps - rest].reshape(number, length, *a.shape[1:])

        def unfold(a: jax.Array) -> jax.Array:
            return a.reshape(number * length, *a.shape[2:])

        state, outs = lax.scan(run, state, jax.tree.map(fold, sequence), reverse=reverse)
        return state, jax.tree.map(unfold, outs)  # leaves [number * length, *B, ...]

    def remainder(state: State) -> tuple[State, Any]:
        return run(state, jax.tree.map(lambda a: a[steps - rest :], sequence))

    if not rest:
        return parts(state)
    if not number:
        return remainder(state)
    # The remainder is at the end of the sequence, so in reverse it comes first.
    if reverse:
        state, last = remainder(state)
        state, first = parts(state)
    else:
        state, first = parts(state)
        state, last = remainder(state)
    return state, jax.tree.map(lambda *both: jnp.concatenate(both), first, last)
