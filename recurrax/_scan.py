"""The driver: check, put time first, dispatch, restore. The only thing that walks time, and the only validator."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from recurrax._check import (
    check_inputs,
    check_number,
    check_steps,
    check_tree,
    describe,
    expected_params,
    expected_state,
)
from recurrax._dtype import default_state_dtype
from recurrax._layer import Layer, Params, State, batch_shape_of, features
from recurrax._mask import lengths_to_mask
from recurrax._timed import check_time
from recurrax._walk import ScanWalk
from recurrax.kernels import Implementation, verify


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
    implementation: str | Implementation | None = None,
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
        implementation: `"hoisted"` (the loop for cells that meet their state through one product, its derivative free
            of products with weights), `"xla"` (the plain loop, for every cell), `"sequential"`, `"associative"` and
            `"chunked"` (for linear cells: all inputs before the loop, all steps at once, all steps of a chunk at once;
            the last for `MLSTMCell` too), `"newton"` (any cell, all steps at once, by iterations), `"cudnn"` (stacks of
            LSTMs on NVIDIA GPUs, first-order reverse mode only), or an object that says more, such as `Newton(...)` or
            `TimeSharded(mesh, "time")`; None for the best one that is exact for these arguments on this platform and
            has every derivative. What is asked for is honoured or refused.
        key: the source of randomness, for layers that have any. No key means deterministic.

    Returns:
        The state after the last step, in the structure, shapes and dtypes of `state`, and the outputs `[*B, T, O]`,
        or `[T, *B, O]` if `time_major`.

    Raises:
        TypeError: if an argument has the wrong type or dtype.
        ValueError: if an argument has the wrong shape or structure, `lengths` and `mask` are both given,
            `implementation` cannot serve the layer, or a `Newton` did not converge.

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
    xs = check_inputs(layer, xs)
    check_time(layer, xs)
    x = features(xs)
    steps = x.shape[: x.ndim - layer.feature_ndim]
    batch_shape = steps[1:] if time_major else steps[:-1]
    check_tree("params", params, expected_params(layer, x.shape[-1]), layer, x)
    if state is not None:
        check_tree("state", state, expected_state(layer, batch_shape), layer, x)
    lengths, mask, reset = check_steps("xs", x, steps, time_major, lengths, mask, reset)
    check_number("unroll", unroll)
    if remat is not None:
        check_number("remat", remat)
    kind = getattr(key, "dtype", jnp.bool_)
    if key is not None and not (jnp.issubdtype(kind, jax.dtypes.prng_key) or kind == jnp.uint32):
        raise TypeError(f"`key` must be a PRNG key, such as jax.random.key(0); got {describe(key)}.")

    def run(implementation: str | Implementation | None) -> tuple[State, jax.Array]:
        flags = (lengths, mask, reset, reverse, time_major)
        return _run(layer, params, xs, state, *flags, unroll, remat, implementation, key)

    outcome = run(implementation)
    verify(implementation, layer, outcome, run)
    return outcome


def step(
    layer: Layer,
    params: Params,
    state: State | None,
    x: jax.Array,
    *,
    mask: jax.Array | None = None,
    reset: jax.Array | None = None,
    implementation: str | Implementation | None = None,
    key: jax.Array | None = None,
) -> tuple[State, jax.Array]:
    """Takes one step: `scan` over a sequence of one, so that streaming cannot disagree with training.

    Args:
        layer: a layer that reads no future, so no `Bidirectional`.
        params: its parameters.
        state: the state before the step; None for the initial state.
        x: the input of one step, `[*B, I]`.
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
        >>> state, y = recurrax.step(cell, params, None, jnp.ones(3))
        >>> state, y = recurrax.step(cell, params, state, jnp.ones(3))
        >>> y.shape
        (4,)

    References:
        JAX, `jax.lax.scan`, 2024, https://docs.jax.dev/en/latest/_autosummary/jax.lax.scan.html
    """
    if isinstance(layer, Layer) and not layer.causal:
        raise ValueError(
            f"`layer` must not read the future to be stepped; {layer} does. Use `scan` on whole sequences."
        )
    if jnp.ndim(features(x)) < 1:
        raise ValueError(f"`x` must be [*B, I], the input of one step; got {describe(x)}.")
    state, ys = scan(
        layer,
        params,
        jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], x),
        state,
        mask=None if mask is None else jnp.asarray(mask)[None],
        reset=None if reset is None else jnp.asarray(reset)[None],
        time_major=True,
        implementation=implementation,
        key=key,
    )
    return state, ys[0]


# Jitted here, so that a call outside of any jit compiles once too, not at every call as a bare `lax.scan` would.
@functools.partial(jax.jit, static_argnames=("layer", "reverse", "time_major", "unroll", "remat", "implementation"))
def _run(layer, params, xs, state, lengths, mask, reset, reverse, time_major, unroll, remat, implementation, key):
    time = 0 if time_major else features(xs).ndim - layer.feature_ndim - 1
    if lengths is not None:
        mask = jnp.moveaxis(lengths_to_mask(lengths, features(xs).shape[time]), -1, time)
    xs, mask, reset = jax.tree.map(lambda leaf: jnp.moveaxis(leaf, time, 0), (xs, mask, reset))
    if state is None:
        state = layer.first_state(params, batch_shape_of(layer, xs), default_state_dtype(params, xs))
    state = _placed_like(features(xs), layer.feature_ndim, state)
    walk = ScanWalk(lengths, mask, reset, reverse, unroll, remat, implementation, key)
    state, ys = walk(layer, params, state, xs)
    return state, jnp.moveaxis(ys, 0, time)


def _placed_like(xs: jax.Array, feature_ndim: int, state: State) -> State:
    # A loop's state must have one type throughout, and under an Explicit mesh or inside shard_map the type says where
    # the batch lies. Adding zeros that are made of the inputs gives a replicated state the placement of the inputs.
    zeros = jnp.zeros_like(xs).sum(axis=(0, *range(-feature_ndim, 0)))
    return jax.tree.map(lambda s: s + jnp.expand_dims(zeros, tuple(range(zeros.ndim, s.ndim))).astype(s.dtype), state)
