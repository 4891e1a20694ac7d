"""The driver: check, put time first, dispatch, restore. The only thing that walks time, and the only validator."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp

from recurrax import kernels
from recurrax._dtype import default_state_dtype
from recurrax._layer import Cell, Layer, Params, State
from recurrax._mask import lengths_to_mask, resets_of_walk, where


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
    implementation: str | None = None,
    key: jax.Array | None = None,
) -> tuple[State, jax.Array]:
    """Takes a layer along a sequence.

    state_t, y_t = layer(state_{t-1}, x_t) for t = 1 ... T

    A masked step keeps the state, puts out zero, and what `xs` holds there has no influence, not even on gradients: it
    may be NaN. So the final state is that after the last real step, and with no real step it is the initial state.

    The state keeps the dtype that it came in; the outputs have that of the inputs; matrix products follow the layer's
    `dtype`, or the parameters and the inputs. Everything is differentiable, in both modes and to every order.

    Args:
        layer: a cell, or a composition of layers.
        params: its parameters, as `layer.init(key, input_size)` draws them.
        xs: the inputs, `[*B, T, I]`, with any number of batch axes; `[T, *B, I]` if `time_major`.
        state: the state before the first step, as `layer.initial_state(batch_shape)` makes it, or as an earlier call
            returned it; None for the initial state, in float32 (float64 where parameters or inputs have it).
        lengths: `int[*B]`, the number of real steps of right-padded sequences. Lengths over T count as T.
        mask: `bool[*B, T]`, laid out as `xs` without its last axis: True at the real steps, in any pattern.
        reset: `bool`, laid out as `mask`: True at the first step of a new segment; before that step the state is set
            back to the initial state. Going backwards it is set back between the same two steps. A flag on a masked
            step takes effect at the next real one.
        reverse: walks from the last step to the first; outputs stay aligned with inputs.
        time_major: whether time is the first axis of `xs`, `mask`, `reset` and the outputs.
        unroll: how many steps one iteration of the compiled loop takes.
        implementation: `"xla"`, or None for the best one that is exact for these arguments on this platform.
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
    xs = _check_inputs(layer, xs)
    batch_shape = xs.shape[1:-1] if time_major else xs.shape[:-2]
    check_tree("params", params, _expected_params(layer, xs.shape[-1]), layer, xs)
    if state is not None:
        check_tree("state", state, _expected_state(layer, batch_shape), layer, xs)
    if lengths is not None and mask is not None:
        raise ValueError("`lengths` and `mask` must not both be given; fold the lengths into the mask.")
    lengths = _check_flags("lengths", lengths, jnp.integer, batch_shape, xs, "one length per sequence of")
    mask = _check_flags("mask", mask, jnp.bool_, xs.shape[:-1], xs, "one flag per step of")
    reset = _check_flags("reset", reset, jnp.bool_, xs.shape[:-1], xs, "one flag per step of")
    if not isinstance(unroll, int) or unroll < 1:
        raise ValueError(f"`unroll` must be an int of at least 1; got {unroll!r}.")
    kind = getattr(key, "dtype", jnp.bool_)
    if key is not None and not (jnp.issubdtype(kind, jax.dtypes.prng_key) or kind == jnp.uint32):
        raise TypeError(f"`key` must be a PRNG key, such as jax.random.key(0); got {describe(key)}.")
    return _run(layer, params, xs, state, lengths, mask, reset, reverse, time_major, unroll, implementation, key)


def step(
    layer: Layer,
    params: Params,
    state: State | None,
    x: jax.Array,
    *,
    mask: jax.Array | None = None,
    reset: jax.Array | None = None,
    implementation: str | None = None,
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
    if jnp.ndim(x) < 1:
        raise ValueError(f"`x` must be [*B, I], the input of one step; got {describe(x)}.")
    state, ys = scan(
        layer,
        params,
        jnp.asarray(x)[None],
        state,
        mask=None if mask is None else jnp.asarray(mask)[None],
        reset=None if reset is None else jnp.asarray(reset)[None],
        time_major=True,
        implementation=implementation,
        key=key,
    )
    return state, ys[0]


# Jitted here, so that a call outside of any jit compiles once too, not at every call as a bare `lax.scan` would.
@functools.partial(jax.jit, static_argnames=("layer", "reverse", "time_major", "unroll", "implementation"))
def _run(layer, params, xs, state, lengths, mask, reset, reverse, time_major, unroll, implementation, key):
    if lengths is not None:
        mask = lengths_to_mask(lengths, xs.shape[0 if time_major else -2])
        mask = jnp.moveaxis(mask, -1, 0) if time_major else mask
    if not time_major:
        xs = jnp.moveaxis(xs, -2, 0)
        mask, reset = (None if flags is None else jnp.moveaxis(flags, -1, 0) for flags in (mask, reset))
    if mask is not None:
        xs = where(mask, xs, jnp.zeros_like(xs))
    if state is None:
        state = layer.initial_state(xs.shape[1:-1], default_state_dtype(params, xs))
    state = _placed_like(xs, state)
    state, ys = _Walk(mask, reset, reverse, unroll, implementation, key)(layer, params, state, xs)
    return state, ys if time_major else jnp.moveaxis(ys, 0, -2)


@dataclasses.dataclass(frozen=True)
class _Walk:
    """What a walk along the sequence needs to know beside the layer; `mask` and `reset` are `bool[T, *B]`."""

    mask: jax.Array | None
    reset: jax.Array | None
    reverse: bool
    unroll: int
    implementation: str | None
    key: jax.Array | None

    def __call__(self, layer: Layer, params: Params, state: State, xs: jax.Array) -> tuple[State, jax.Array]:
        if not isinstance(layer, Cell):
            state, ys = layer.apply(self, params, state, xs)
            return state, ys if self.mask is None else where(self.mask, ys, jnp.zeros_like(ys))
        kernel = kernels.choose(self.implementation, layer)
        reset = None if self.reset is None else resets_of_walk(self.reset, self.mask, self.reverse)
        return kernel.run(
            layer, params, state, xs, mask=self.mask, reset=reset, reverse=self.reverse, unroll=self.unroll
        )

    def reversed(self) -> _Walk:
        return dataclasses.replace(self, reverse=not self.reverse)

    def split(self, number: int) -> list[_Walk]:
        if self.key is None:
            return [self] * number
        return [dataclasses.replace(self, key=key) for key in jax.random.split(self.key, number)]


def _placed_like(xs: jax.Array, state: State) -> State:
    # A loop's state must have one type throughout, and under an Explicit mesh or inside shard_map the type says where
    # the batch lies. Adding zeros that are made of the inputs gives a replicated state the placement of the inputs.
    zeros = jnp.zeros_like(xs).sum(axis=(0, -1))
    return jax.tree.map(lambda s: s + jnp.expand_dims(zeros, tuple(range(zeros.ndim, s.ndim))).astype(s.dtype), state)


def describe(x: Any) -> str:
    """What an argument is, for an error: `float32[3, 7, 5]`, the names in a pytree, or the value itself."""
    if hasattr(x, "shape") and hasattr(x, "dtype"):
        return f"{x.dtype}[{', '.join(map(str, x.shape))}]"
    if isinstance(x, (tuple, list, dict)):
        return f"a {type(x).__name__} with {', '.join(_leaves(x)) or 'nothing in it'}"
    return f"{x!r} of type {type(x).__name__}"


_HINTS = {
    "params": "Were the parameters drawn for another `input_size` or another layer?",
    "state": "Is it the state of another batch, or is one of them time-major (`time_major`, `batch_first`)?",
}


def check_tree(name: str, tree: Any, expected: Any, layer: Any, xs: jax.Array) -> None:
    """Checks a pytree of arrays against the structure and the shapes that `layer` needs for `xs`.

    Raises:
        ValueError: that names the first leaf that is missing, left over or of another shape.
    """
    wanted, got = _leaves(expected), _leaves(tree)
    for path, leaf in wanted.items():
        must = f"`{name}{path}` must be [{', '.join(map(str, leaf.shape))}]"
        if path not in got:
            raise ValueError(f"{must} for `xs` {describe(xs)} and {layer}; got none in {describe(tree)}.")
        if jnp.shape(got[path]) != leaf.shape:
            came = f"got {describe(got[path])}. {_HINTS[name]}"
            raise ValueError(f"{must} for `xs` {describe(xs)} and {layer}; {came}")
    if left := got.keys() - wanted.keys():
        raise ValueError(
            f"`{name}` must hold only {', '.join(wanted)} for {layer}; got also {', '.join(sorted(left))}."
        )


def _leaves(tree: Any) -> dict[str, Any]:
    return {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


# Layers are hashable, so what they expect is worked out once for each layer and size, not at every call.
@functools.lru_cache(maxsize=4096)
def _expected_params(layer: Layer, input_size: int) -> Any:
    return jax.eval_shape(lambda: layer.init(jax.random.key(0), input_size))


@functools.lru_cache(maxsize=4096)
def _expected_state(layer: Layer, batch_shape: tuple[int, ...]) -> Any:
    return jax.eval_shape(lambda: layer.initial_state(batch_shape))


def _check_inputs(layer: Layer, xs: Any) -> jax.Array:
    if not isinstance(layer, Layer):
        kind, hint = type(layer), "Call a Flax module itself, or pass its `layer`."
        if isinstance(layer, type):
            kind, hint = layer, "Construct it first."
        raise TypeError(f"`layer` must be a recurrax.Layer, such as LSTMCell(128); got {kind}. {hint}")
    xs = jnp.asarray(xs)
    if not jnp.issubdtype(xs.dtype, jnp.inexact):
        raise TypeError(f"`xs` must be of a floating dtype; got {describe(xs)}. Embed or one-hot encode ids first.")
    if xs.ndim < 2:
        raise ValueError(f"`xs` must be [*B, T, I], at least 2 axes; got {describe(xs)}. For one step use `step`.")
    return xs


def _check_flags(name: str, flags: Any, dtype: Any, shape: tuple[int, ...], xs: jax.Array, meaning: str) -> Any:
    if flags is None:
        return None
    flags, kind = jnp.asarray(flags), "bool" if dtype is jnp.bool_ else "int"
    must = (
        f"`{name}` must be {kind}[{', '.join(map(str, shape))}], {meaning} `xs` {describe(xs)}; got {describe(flags)}."
    )
    if flags.shape != shape:
        swapped = flags.ndim > 1 and shape in (flags.shape[-1:] + flags.shape[:-1], flags.shape[1:] + flags.shape[:1])
        raise ValueError(must + (" Is one of them time-major and the other not?" if swapped else ""))
    if not jnp.issubdtype(flags.dtype, dtype):
        raise TypeError(must + (" Compare or `.astype(bool)` first." if kind == "bool" else ""))
    return flags
