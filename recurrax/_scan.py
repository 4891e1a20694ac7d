"""The driver: check, put time first, choose an implementation, run, restore. Nothing else walks time."""

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
from recurrax._layer import Cell, Layer, Params, State, batch_shape_of, features, without_initializers
from recurrax._mask import fill_masked, lengths_to_mask, restarts, restarts_last, where
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
    """Takes a layer along a sequence.

    state_t, y_t = layer(state_{t-1}, x_t) for t = 1 ... T

    A masked step keeps the state, puts out zero, and what `xs` holds there has no influence, not even on gradients: it
    may be NaN. So the final state is that after the last real step, or the initial state without a real step.

    The state keeps the dtype that it came in; the outputs have that of the inputs; matrix products follow the layer's
    `dtype`, or the parameters and the inputs. Everything is differentiable, in both modes and to every order.

    Args:
        layer: a cell, or a composition of layers.
        params: its parameters, as `layer.init(key, input_size)` draws them.
        xs: the inputs, `[*B, T, I]`, with any number of batch axes; `[T, *B, I]` if `time_major`.
        state: the state before the first step, as `layer.initial_state(batch_shape)` makes it, or as an earlier call
            returned it; None for the initial state, `layer.first_state(params, batch_shape)`, in float32
            (float64 where parameters or inputs have it).
        lengths: `int[*B]`, the number of real steps of right-padded sequences. Lengths over T count as T.
        mask: `bool[*B, T]`, laid out as `xs` without its last axis: True at the real steps, in any pattern.
        reset: `bool`, laid out as `mask`: True at the first step of a new segment. Before that step the state returns
            to the initial state. Backwards it returns between the same two steps: after the flagged step, before the
            one to its left. A flag acts on a masked step too, so the state that is returned already counts it, and a
            sequence in parts gives what the sequence gives. NaN in one segment does not reach the next one.
        reverse: walks from the last step to the first; outputs stay aligned with inputs.
        time_major: whether time is the first axis of `xs`, `mask`, `reset` and the outputs.
        unroll: how many steps one iteration of the compiled loop takes.
        remat: for derivatives, keep what happens within a step only for this many steps at a time, and the state
            between such parts, from which the rest is worked out again on the way back. Around √T keeps the least.
        implementation: how the layer is run; None, the default, for the fastest way that is exact for these arguments
            on this platform and has every derivative. A name or an object is honored, or raises with the reason.

            - `"xla"`: the plain loop, for every cell.
            - `"hoisted"`: the loop for affine cells, with weight gradients formed after it.
            - `"sequential"`, `"associative"`, `"blocked"`: for linear cells, one step after another, all steps at once,
              or all steps of a block at once.
            - `"chunked"`, or `recurrax.implementations.Chunked(length)`: for `MLSTMCell`.
            - `recurrax.implementations.TimeSharded(mesh, "time")`: for linear cells, with time spread over devices.
            - `"cudnn"`: stacks of LSTMs on NVIDIA GPUs, reverse mode of the first order only.
            - `recurrax.experimental.Newton(...)`: any cell, all steps at once, by iterations.
            - A tuple of these takes for each cell the first that serves it: `("associative", None)`.
        key: the source of randomness, for layers that have any. No key means deterministic.

    Returns:
        The state after the last step, in the structure, shapes and dtypes of `state`, and the outputs `[*B, T, O]`,
        or `[T, *B, O]` if `time_major`.

    Raises:
        TypeError: if an argument has the wrong type or dtype.
        ValueError: if an argument has the wrong shape or structure, `lengths` and `mask` are both given, or
            `implementation` cannot serve the layer.

    Example:
        >>> import jax, jax.numpy as jnp, recurrax
        >>> cell = recurrax.LSTMCell(4)
        >>> params = cell.init(jax.random.key(0), input_size=3)
        >>> xs = jnp.ones((2, 7, 3))
        >>> state, ys = recurrax.scan(cell, params, xs, lengths=jnp.array([7, 5]))
        >>> ys.shape, bool(jnp.all(ys[1, 5:] == 0)), bool(jnp.all(ys[1, 4] == state.h[1]))
        ((2, 7, 4), True, True)

        A sequence in two parts, joined by the state, is the sequence:

        >>> state, first = recurrax.scan(cell, params, xs[:, :3])
        >>> state, second = recurrax.scan(cell, params, xs[:, 3:], state)
        >>> whole = recurrax.scan(cell, params, xs)[1]
        >>> bool(jnp.allclose(jnp.concatenate([first, second], axis=1), whole, atol=1e-6))
        True

    References:
        JAX, `jax.lax.scan`, 2024, https://docs.jax.dev/en/latest/_autosummary/jax.lax.scan.html
    """
    xs, lengths, mask, reset = check_sequence(
        layer, params, xs, state, lengths=lengths, mask=mask, reset=reset, time_major=time_major
    )
    _check_options(implementation, key)
    unroll = check_number("unroll", unroll)
    remat = None if remat is None else check_number("remat", remat)
    flags = (lengths, mask, reset, reverse, time_major)
    return _run(without_initializers(layer), params, xs, state, *flags, unroll, remat, implementation, key)


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
    """Takes one step: `scan` over a sequence of one, so that streaming cannot disagree with training.

    Args:
        layer: a layer that reads no future, so no `Bidirectional`.
        params: its parameters.
        x: the input of one step, `[*B, I]`.
        state: the state before the step; None for the initial state.
        mask: `bool[*B]`, whether the step is real, as in `scan`.
        reset: `bool[*B]`, whether a new segment begins, as in `scan`.
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
            f"`layer` must not read the future to be stepped; {layer} does. Use `scan` on whole sequences."
        )
    # Errors speak of the shapes that came, so the axis of time is added behind the checks.
    x = check_inputs(layer, x, "x")
    features_x = features(x)
    batch_shape = features_x.shape[: features_x.ndim - layer.feature_ndim]
    _check_trees("x", layer, params, x, state, batch_shape)
    _check_options(implementation, key)
    meaning = f"one flag per row of `x` {describe(features_x)}"
    mask = check_flags("mask", mask, jnp.bool_, batch_shape, meaning)
    reset = check_flags("reset", reset, jnp.bool_, batch_shape, meaning)
    xs, mask, reset = jax.tree.map(lambda leaf: leaf[None], (x, mask, reset))
    flags = (None, mask, reset, False, True)
    state, ys = _run(without_initializers(layer), params, xs, state, *flags, 1, None, implementation, key)
    return state, ys[0]


def check_sequence(
    layer: Layer, params: Params, xs: Any, state: State | None, *, lengths: Any, mask: Any, reset: Any, time_major: bool
) -> tuple[Any, Any, Any, Any]:
    """Checks what a layer is to be run over, as `scan` takes it; returns `xs`, `lengths`, `mask` and `reset` as arrays.

    Raises:
        TypeError: as `scan`.
        ValueError: as `scan`.
    """
    xs = check_inputs(layer, xs)
    x = features(xs)
    steps = x.shape[: x.ndim - layer.feature_ndim]
    batch_shape = steps[1:] if time_major else steps[:-1]
    _check_trees("xs", layer, params, xs, state, batch_shape)
    return xs, *check_steps("xs", x, steps, time_major, lengths, mask, reset)


def _check_trees(
    of: str, layer: Layer, params: Params, xs: Any, state: State | None, batch_shape: tuple[int, ...]
) -> None:
    """Checks inputs, an argument named `of`, and the parameters and the state that meet them."""
    check_time(layer, xs)
    x = features(xs)
    check_params(params, layer, x, of)
    if state is not None:
        check_tree("state", state, expected_state(layer, batch_shape), layer, x, of)
    if jnp.iscomplexobj(x):
        check_features(layer, x, params, expected_state(layer, batch_shape), of)


def _check_options(implementation: str | Implementation | tuple | None, key: jax.Array | None) -> None:
    for one in implementation if isinstance(implementation, tuple) else (implementation,):
        if one is not None:
            find(one)
    if key is not None:
        check_key("key", key)


# Jitted here, so that a call outside of any jit compiles once too, not at every call as a bare `lax.scan` would.
@functools.partial(jax.jit, static_argnames=("layer", "reverse", "time_major", "unroll", "remat", "implementation"))
def _run(layer, params, xs, state, lengths, mask, reset, reverse, time_major, unroll, remat, implementation, key):
    time = 0 if time_major else features(xs).ndim - layer.feature_ndim - 1
    xs, state, mask, reset = time_first(layer, params, xs, state, lengths, mask, reset, time)
    context = Context(lengths, mask, reset, reverse, unroll, remat, implementation, key)
    state, ys = context.scan(layer, params, state, xs)
    return state, jnp.moveaxis(ys, 0, time)


def time_first(
    layer: Layer, params: Params, xs: Any, state: State | None, lengths: Any, mask: Any, reset: Any, time: int
) -> tuple[Any, State, Any, Any]:
    """What a layer is run over, with the axis of time, `time`, put first: `xs`, `state`, `mask` and `reset`.

    `lengths` are told by the mask, and no state by the first one.
    """
    if lengths is not None:
        mask = jnp.moveaxis(lengths_to_mask(lengths, features(xs).shape[time]), -1, time)
    xs, mask, reset = jax.tree.map(lambda leaf: jnp.moveaxis(leaf, time, 0), (xs, mask, reset))
    if state is None:
        state = layer.first_state(params, batch_shape_of(layer, xs), default_state_dtype(params, xs))
    return xs, _placed_like(features(xs), layer.feature_ndim, state), mask, reset


def _placed_like(xs: jax.Array, feature_ndim: int, state: State) -> State:
    # A loop's state must have one type throughout, and under an Explicit mesh or inside shard_map the type says where
    # the batch lies. Adding zeros that are made of the inputs gives a replicated state the placement of the inputs.
    zeros = jnp.zeros_like(xs).sum(axis=(0, *range(-feature_ndim, 0)))
    return jax.tree.map(lambda s: s + jnp.expand_dims(zeros, tuple(range(zeros.ndim, s.ndim))).astype(s.dtype), state)


@dataclasses.dataclass(frozen=True)
class Context:
    """The `ScanContext` that `scan` hands to layers; `mask` and `reset` are `bool[T, *B]`."""

    lengths: jax.Array | None
    mask: jax.Array | None  # that of `lengths`, where they are given
    reset: jax.Array | None
    reverse: bool
    unroll: int
    remat: int | None
    implementation: str | Implementation | tuple | None
    key: jax.Array | None
    initial: State | None = None  # within a layer that says it for its cell

    def scan(
        self, layer: Layer, params: Params, state: State, xs: Any, initial: State | None = None
    ) -> tuple[State, jax.Array]:
        context = self if initial is None else dataclasses.replace(self, initial=initial)
        xs = xs if layer.reads_time else without_time(xs)
        if self.mask is None:
            return context._run(layer, params, state, xs)
        if layer.parts and not takes_composites(self.implementation):
            state, ys = context._run(layer, params, state, fill_masked(self.mask, xs))
        else:
            state, ys = context._run_masked(layer, params, state, fill_masked(self.mask, xs), self.mask)
        return state, where(self.mask, ys, jnp.zeros_like(ys))

    def _run_masked(
        self, layer: Layer, params: Params, state: State, xs: Any, mask: jax.Array
    ) -> tuple[State, jax.Array]:
        """Runs a layer where some steps are masked: a state that no real step sees has no influence."""
        initial = self._initial(layer, params, state, xs)
        unseen = ~mask.any(axis=0)  # [*B], rows without a real step
        finite = [jnp.isfinite(s).all(axis=tuple(range(unseen.ndim, s.ndim))) for s in jax.tree.leaves(state)]
        broken = unseen & ~functools.reduce(jnp.logical_and, finite, jnp.ones_like(unseen))
        # NaN in such a state would reach the gradients of the parameters as 0 times NaN.
        after, ys = self._run(layer, params, where(broken, initial, state), xs)
        if self.reset is not None:
            state = where(self.reset.any(axis=0), initial, state)
        return where(unseen, state, after), ys

    def _initial(self, layer: Layer, params: Params, state: State, xs: Any) -> State:
        """The state at a reset, in the dtypes and the place of `state`."""
        initial = self.initial
        if initial is None:
            initial = layer.first_state(params, batch_shape_of(layer, xs), default_state_dtype(params, xs))
        # Under an Explicit mesh the choice between both needs them to lie in the same place.
        return jax.tree.map(lambda i, s: i.astype(s.dtype) + jnp.zeros_like(s), initial, state)

    def _run(self, layer: Layer, params: Params, state: State, xs: Any) -> tuple[State, jax.Array]:
        """Runs a layer: one that is made of others by its `apply`, a cell by an implementation."""
        if not isinstance(layer, Cell) and not takes_composites(self.implementation):
            return layer.apply(self, params, state, xs)
        facts = {"lengths": self.lengths, "mask": self.mask, "reset": self.reset, "reverse": self.reverse}
        chosen = choose(self.implementation, layer, params, state, xs, **facts)
        initial = self._initial(layer, params, state, xs)
        restart = None if self.reset is None else restarts(self.reset, self.reverse)
        xs = in_reverse(xs, self.mask, self.reset) if self.reverse else xs

        def run(state: State, at: tuple) -> tuple[State, jax.Array]:
            xs, mask, restart = at
            flags = {"lengths": self.lengths, "mask": mask, "restart": restart, "reverse": self.reverse}
            return chosen.run(layer, params, state, xs, initial=initial, unroll=self.unroll, **flags)

        if self.remat is not None and chosen.takes_composites:
            raise ValueError(f"`remat` must be None with `implementation` {self.implementation!r}; got {self.remat}.")
        if self.remat is None:
            state, ys = run(state, (xs, self.mask, restart))
        else:
            state, ys = _in_parts(run, self.remat, state, (xs, self.mask, restart), self.reverse)
        last = restarts_last(self.reset, self.reverse)
        return state if last is None else where(last, initial, state), ys

    def reversed(self) -> Context:
        return dataclasses.replace(self, reverse=not self.reverse)

    def split(self, number: int) -> list[Context]:
        if self.key is None:
            return [self] * number
        return [dataclasses.replace(self, key=key) for key in jax.random.split(self.key, number)]


def _in_parts(run: Callable, length: int, state: State, at: tuple, reverse: bool) -> tuple[State, jax.Array]:
    """Runs over parts of `length` steps, of which only the first state is kept for the derivative."""
    run = jax.checkpoint(run, prevent_cse=False)
    steps = features(at).shape[0]
    number, rest = divmod(steps, length)

    def parts(state: State) -> tuple[State, jax.Array]:
        folded = jax.tree.map(lambda a: a[: steps - rest].reshape(number, length, *a.shape[1:]), at)
        state, ys = lax.scan(run, state, folded, reverse=reverse)
        return state, ys.reshape(number * length, *ys.shape[2:])

    def remainder(state: State) -> tuple[State, jax.Array]:
        return run(state, jax.tree.map(lambda a: a[steps - rest :], at))

    if not rest:
        return parts(state)
    if not number:
        return remainder(state)
    outputs: list[Any] = []
    for part in (remainder, parts) if reverse else (parts, remainder):
        state, ys = part(state)
        outputs.append(ys)
    return state, jnp.concatenate(outputs[::-1] if reverse else outputs)
