"""The closed loop: a sequence whose inputs are partly known and partly made from outputs."""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from recurrax._arguments import as_int, describe, named_leaves, short
from recurrax._check import check_flags, kind
from recurrax._layer import Layer, Params, State, features, without_initializers
from recurrax._mask import Marks, fill_masked, lengths_to_mask, where
from recurrax._scan import (
    Context,
    check_options,
    check_sequence,
    flags_placed_like,
    placed_like,
    time_first,
)
from recurrax.cells.timed import TimedInputs
from recurrax.decoding._model_step import check_state, where_rows
from recurrax.implementations._registry import Implementation
from recurrax.layers._random import Draws


def unroll(
    layer: Layer | Callable,
    params: Params,
    next_input: Callable,
    xs: Any,
    state: State | None = None,
    *,
    observed: int | jax.Array,
    last_y: Any = None,
    lengths: jax.Array | None = None,
    mask: jax.Array | None = None,
    reset: jax.Array | None = None,
    time_major: bool = False,
    stop_gradient: bool = False,
    batch_axis: int = 0,
    implementation: str | Implementation | tuple | None = None,
    key: jax.Array | None = None,
) -> tuple[State, Any, Any]:
    """Runs a layer over a sequence whose inputs are partly known and partly made from its outputs.

    x_t = xs_t                              where step t is observed
    x_t = next_input(y_{t-1}, xs_t, key_t)  elsewhere
    state_t, y_t = layer(state_{t-1}, x_t)

    The pattern of `observed` says what the loop does:

    - All True is teacher forcing, the same as `scan`.
    - A prefix, such as the int 10, reads 10 steps and generates the rest.
    - Any pattern fills the gaps in a sensor's record.
    - A random pattern is scheduled sampling.

    y_{t-1} is the output of the last unmasked step. The first unmasked step of a sequence or of a
    segment has no such output. It reads `xs_t`, observed or not. `last_y` is the output before the
    first step, if the sequence continues.

    `scan(layer, params, xs_used, state)` gives `ys` again, with the same lengths, mask, resets and
    key. At observed steps `next_input` has no influence, not even on gradients. At the
    other steps `xs` has none, unless `next_input` reads it.

    Args:
        layer: a layer that does not read the future. Or a function `(x, state) -> (y, state)` for
            one step of a whole model, such as an embedding, layers and a head.
        params: the parameters of the layer; None for a function.
        next_input: a function `(y, x, key) -> x` that makes the input of the next step. `y` is the
            last output, `[*B, O]`. `x` is what `xs` holds at that step, such as known covariates
            beside the values to forecast. `key` is the key of that step, or None. For `TimedInputs`
            it may return the features alone.
        xs: the inputs, `[*B, T, I]`, or `[T, *B, I]` if `time_major`. Their T is the number of
            steps. At steps that are not observed they may hold anything, even NaN. For a function
            `xs` is any pytree of `[*B, T, ...]`, such as token ids `[B, T]`.
        state: the state before the first step; None for the initial state. A function needs it.
        observed: `bool[*B, T]`, True where a step reads `xs`. Or an int N: the first N steps do.
            They are run by `scan`, so an int is the fast way to read a prefix.
        last_y: the output before the first step, `[*B, O]`. With it and `state`, runs over parts of
            a sequence equal one run. None if there is no output before.
        lengths: `int[*B]`, as in `scan`.
        mask: `bool[*B, T]`, as in `scan`.
        reset: `bool[*B, T]`, as in `scan`. A function has no initial state, so it takes no `reset`.
        time_major: whether time is the first axis of `xs`, `observed`, `mask`, `reset` and the
            results. For a function and an int as `observed`, time is the second axis if not.
        stop_gradient: whether the gradient stops at each output that is fed back. Then no gradient
            flows through `y` of `next_input`. What `next_input` holds still gets its gradient.
        batch_axis: the first batch axis of the leaves of a function's state, which matters to
            `lengths` and `mask`. It is 1 for PyTorch's layout, as of `recurrax.nnx.LSTM`.
        implementation: as in `scan`.
        key: the source of randomness, of the layer and of `next_input`. The layer drops what `scan`
            drops with this key. A layer of your own that draws numbers itself, from
            `context.key`, gets the same key at each step of the loop.

    Returns:
        The state after the last step, the outputs `ys` `[*B, T, O]`, and `xs_used`, the inputs that
        were read, like `xs`. At masked steps `ys` and `xs_used` are zero.

    Raises:
        TypeError: as `scan`; if `next_input` is no function or returns another kind of numbers.
        ValueError: as `scan`; if the layer reads the future, `next_input` returns another shape, or
            `observed` is 0 without `last_y`.

    Example:
        A forecast: the layer reads 5 values, then its own outputs.

        >>> import jax, jax.numpy as jnp, recurrax
        >>> layer = recurrax.Stack((recurrax.GRUCell(8), recurrax.Dense(1)))
        >>> params = layer.init(jax.random.key(0), input_size=1)
        >>> xs = jnp.zeros((2, 9, 1)).at[:, :5].set(1.0)
        >>> def same(y, x, key):
        ...     return y
        >>> _, ys, xs_used = recurrax.unroll(layer, params, same, xs, observed=5)
        >>> bool((xs_used[:, 5:] == ys[:, 4:-1]).all())
        True
        >>> _, replayed = recurrax.scan(layer, params, xs_used)
        >>> bool(jnp.allclose(ys, replayed, atol=1e-6))
        True

        A function in the place of the layer, with token ids:

        >>> embedding = jax.random.normal(jax.random.key(1), (4, 1))
        >>> def model(token, state):
        ...     state, y = recurrax.step(layer, params, embedding[token], state)
        ...     return y @ embedding.T, state
        >>> def likeliest(logits, token, key):
        ...     return logits.argmax(-1)
        >>> tokens = jnp.zeros((2, 9), int)
        >>> state = layer.initial_state((2,))
        >>> _, _, tokens = recurrax.unroll(model, None, likeliest, tokens, state, observed=1)
        >>> tokens.shape
        (2, 9)

    References:
        Williams and Zipser, A learning algorithm for continually running fully recurrent neural
        networks (teacher forcing), 1989, https://doi.org/10.1162/neco.1989.1.2.270

        Bengio et al., Scheduled sampling for sequence prediction with recurrent neural networks,
        2015, https://arxiv.org/abs/1506.03099
    """
    if not callable(next_input):
        raise TypeError(
            "`next_input` must be a function `(y, x, key) -> x` that makes an input from an "
            f"output; got {short(next_input)}."
        )
    flags = {"observed": observed, "lengths": lengths, "mask": mask, "reset": reset}
    options = (time_major, bool(stop_gradient))
    if isinstance(layer, Layer) and batch_axis:
        raise ValueError(
            f"`batch_axis` must be 0 with a layer, whose state begins with the batch axes; got "
            f"{short(batch_axis)}."
        )
    if isinstance(layer, Layer):
        run = _run_layer
        # Such a function is the same at each call, so the loop compiles once.
        if _is_constant(next_input):
            run = _run_layer_compiled
        xs, flags = _check_layer_call(layer, params, xs, state, last_y, flags, time_major)
        check_options(implementation, key)
        number, flags = _prefix(flags, last_y)
        return run(
            without_initializers(layer),
            params,
            next_input,
            xs,
            state,
            last_y,
            flags,
            number,
            implementation,
            key,
            options,
        )
    if not callable(layer) or isinstance(layer, type):
        raise TypeError(
            "`layer` must be a recurrax.Layer, such as LSTMCell(128), or a function "
            f"`(x, state) -> (y, state)`; got {short(layer)}."
        )
    check_options(implementation, key)
    return _run_function(
        layer,
        params,
        next_input,
        xs,
        state,
        last_y,
        flags,
        batch_axis,
        implementation,
        key,
        options,
    )


# The call with a layer ---------------------------------------------------------------------------


def _check_layer_call(
    layer: Layer,
    params: Params,
    xs: Any,
    state: State | None,
    last_y: Any,
    flags: dict,
    time_major: bool,
) -> tuple[Any, dict]:
    """Checks the arguments; returns `xs` and the flags as arrays."""
    if not layer.causal:
        raise ValueError(
            f"`layer` must not read the future, since later inputs are made of outputs; {layer} "
            "does. Use `scan` on whole sequences."
        )
    marks = Marks(flags["lengths"], flags["mask"], flags["reset"])
    xs, marks = check_sequence(layer, params, xs, state, marks, time_major)
    x = features(xs)
    steps = x.shape[: x.ndim - layer.feature_ndim]
    observed = flags["observed"]
    # An int has no shape to check.
    if as_int(observed) is None:
        meaning = f"one flag per step of `xs` {describe(x)}, or an int known at compilation"
        observed = check_flags("observed", observed, jnp.bool_, steps, meaning)
    if last_y is not None:
        batch_shape = steps[1:] if time_major else steps[:-1]
        # Outputs may have other features than inputs, but the same axes of space.
        expected = (*batch_shape, *x.shape[len(steps) : -1])
        if jnp.shape(last_y)[:-1] != expected:
            axes = ", ".join(map(str, (*expected, "O")))
            raise ValueError(
                f"`last_y` must be [{axes}], the last output, for `xs` {describe(x)}; got "
                f"{describe(last_y)}."
            )
    return xs, {**marks._asdict(), "observed": observed}


def _prefix(flags: dict, last_y: Any) -> tuple[int, dict]:
    """Returns the number of steps before the loop, and the flags without an int."""
    number = as_int(flags["observed"])
    if number is None:
        return 0, flags
    # Step 0 of a pattern reads `xs` in any case. An int of 0 asks for what cannot be.
    if number < int(last_y is None):
        raise ValueError(
            f"`observed` must be at least 1, since the first step has no output before it; got "
            f"{number}. Put the first input into `xs`, or give `last_y`, the output before."
        )
    return number, {**flags, "observed": None}


def _run_layer(
    layer, params, next_input, xs, state, last_y, flags, number, implementation, key, options
):
    time_major, stop_gradient = options
    marks = Marks(flags["lengths"], flags["mask"], flags["reset"])
    time = 0 if time_major else features(xs).ndim - layer.feature_ndim - 1
    observed = flags["observed"]
    if observed is not None:
        observed = jnp.moveaxis(observed, time, 0)
    xs, state, marks = time_first(layer, params, xs, state, marks, time)
    observed = flags_placed_like(features(xs), observed)

    model = _LayerModel(layer, params, implementation, key).drawn_for(state, xs)
    sequence = _Sequence(xs, observed, marks.mask, marks.reset)
    if last_y is None:
        # The loop needs an array in the place of the output. A mesh wants it placed as the inputs.
        first = _Sequence(jax.tree.map(lambda leaf: leaf[:1], xs), None, None, None)
        shape = jax.eval_shape(lambda: model.read(state, first)[1])
        y = jnp.zeros(shape.shape[1:], shape.dtype)
        before = _Memory(placed_like(features(xs), layer.feature_ndim, y), jnp.array(False))
    else:
        before = _Memory(jnp.asarray(last_y, features(xs).dtype), jnp.array(True))
    state, ys, used = _drive(model, next_input, sequence, state, before, number, key, stop_gradient)
    return state, jnp.moveaxis(ys, 0, time), _move(used, 0, time)


_STATIC = ("layer", "next_input", "number", "implementation", "options")
_run_layer_compiled = jax.jit(_run_layer, static_argnames=_STATIC)


def _is_constant(function: Callable) -> bool:
    """Whether a function holds no arrays, so that a compiled program may keep it.

    A closure or a default may hold an array, or a tracer of one transformation.
    """
    if not inspect.isfunction(function):
        return False
    held = (function.__closure__, function.__defaults__, function.__kwdefaults__)
    return held == (None, None, None)


@dataclasses.dataclass(frozen=True)
class _LayerModel:
    """The steps of a layer, as `scan` runs them."""

    layer: Layer
    params: Params
    implementation: Any
    key: jax.Array | None = None
    draws: Draws | None = None  # the random flags of all steps

    def drawn_for(self, state: State, xs: Any) -> _LayerModel:
        """Returns this model with the random flags that `scan` draws for these steps."""
        if self.key is None or not self.layer.stochastic:
            return dataclasses.replace(self, key=None)
        # Neither a mask nor a reset changes what is drawn. All but the flags is dead code.
        context = Context(Marks(), False, 1, None, self.implementation, self.key)
        draws = Draws(lambda: context.scan(self.layer, self.params, state, xs))
        return dataclasses.replace(self, draws=draws)

    def read(self, state: State, part: _Sequence, first: Any = 0) -> tuple[State, Any]:
        """Runs over steps from number `first` on; returns the state and `ys` `[T, *B, O]`."""
        marks = Marks(None, part.mask, part.reset)
        context = Context(marks, False, 1, None, self.implementation, self.key)
        drawing: Any = contextlib.nullcontext()
        if self.draws is not None:
            drawing = self.draws.at(first, features(part.xs).shape[0])
        with drawing:
            return context.scan(self.layer, self.params, state, part.xs)

    def step(self, state: State, at: _Sequence, number: jax.Array) -> tuple[State, Any]:
        """Runs over step `number`: the leaves of `at` have no axis of time."""
        part = jax.tree.map(lambda leaf: leaf[None], at)
        state, ys = self.read(state, part, number)
        return state, ys[0]


# The call with a function ------------------------------------------------------------------------


def _run_function(
    function, params, next_input, xs, state, last_y, flags, batch_axis, implementation, key, options
):
    time_major, stop_gradient = options
    if params is not None:
        raise ValueError(
            "`params` must be None with a function, which holds its parameters; got "
            f"{describe(params)}."
        )
    if state is None:
        raise ValueError("`state` must be given with a function: it does not say where it begins.")
    for name, value in (("reset", flags["reset"]), ("implementation", implementation)):
        if value is not None:
            raise ValueError(
                f"`{name}` must be None with a function; got {short(value)}. Give a layer and its "
                "parameters."
            )
    number, flags = _prefix(flags, last_y)
    # From here on, time is the first axis.
    xs = jax.tree.map(jnp.asarray, xs)
    time, observed, mask = _check_function_flags(xs, flags, time_major)
    xs = _move(xs, time, 0)
    observed, mask = flags_placed_like(features(xs), (observed, mask))
    # A masked step is computed too. NaN in it would reach the gradients.
    if mask is not None:
        state = check_state(state, mask.shape[1:], batch_axis)
        xs = fill_masked(mask, xs)

    model = _FunctionModel(function, batch_axis)
    if last_y is None:
        # The loop needs arrays in the place of the output.
        x = jax.tree.map(lambda leaf: jnp.zeros_like(leaf, shape=leaf.shape[1:]), xs)
        shapes = jax.eval_shape(lambda: function(x, state)[0])
        y = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
        before = _Memory(y, jnp.array(False))
    else:
        before = _Memory(jax.tree.map(jnp.asarray, last_y), jnp.array(True))
    sequence = _Sequence(xs, observed, mask, None)
    state, ys, used = _drive(model, next_input, sequence, state, before, number, key, stop_gradient)
    return state, _move(ys, 0, time), _move(used, 0, time)


def _check_function_flags(xs: Any, flags: dict, time_major: bool) -> tuple[int, Any, Any]:
    """Returns the axis of time, and `observed` and the mask with time first.

    The flags alone say how many batch axes the inputs of a function have.
    """
    observed, lengths, mask = flags["observed"], flags["lengths"], flags["mask"]
    if lengths is not None and mask is not None:
        raise ValueError(
            "`lengths` and `mask` must not both be given; fold the lengths into the mask."
        )
    # The number of axes of batch and time, from each array that has them.
    ndims = [jnp.ndim(a) for a in (observed, mask) if a is not None]
    if lengths is not None:
        ndims.append(jnp.ndim(lengths) + 1)
    x = features(xs)
    time = 0
    if not time_major:
        time = max(ndims, default=2) - 1
    # `xs` must have these axes, and may have more behind them.
    leading = max([time + 1, *ndims])
    if x.ndim < leading:
        raise ValueError(
            f"`xs` must have at least {leading} axes, those of the batch and of time; got "
            f"{describe(x)}. Without a batch, set `time_major=True`."
        )
    steps = x.shape[:leading]
    for path, leaf in named_leaves(xs).items():
        if leaf.shape[:leading] != steps:
            axes = ", ".join(map(str, steps))
            raise ValueError(f"`xs{path}` must begin with [{axes}]; got {describe(leaf)}.")
    meaning = f"one flag per step of `xs` {describe(x)}"
    observed = check_flags("observed", observed, jnp.bool_, steps, meaning)
    mask = check_flags("mask", mask, jnp.bool_, steps, meaning)
    if lengths is not None:
        batch_shape = steps[:time] + steps[time + 1 :]
        lengths = check_flags(
            "lengths", lengths, jnp.integer, batch_shape, f"one length per row of {describe(x)}"
        )
        mask = jnp.moveaxis(lengths_to_mask(lengths, x.shape[time]), -1, time)
    observed, mask = _move((observed, mask), time, 0)
    return time, observed, mask


@dataclasses.dataclass(frozen=True)
class _FunctionModel:
    """The steps of a function `(x, state) -> (y, state)`."""

    function: Callable
    batch_axis: int

    def read(self, state: State, part: _Sequence) -> tuple[State, Any]:
        """Runs over some steps: the leaves of `part` are `[T, *B, ...]`."""
        return lax.scan(lambda state, at: self.step(state, at, None), state, part)

    def step(self, state: State, at: _Sequence, number: Any) -> tuple[State, Any]:
        """Runs one step. A masked step keeps the state and outputs zeros."""
        y, new = self.function(at.xs, state)
        if at.mask is not None:
            new = where_rows(at.mask, new, state, self.batch_axis)
            y = where(at.mask, y, _zeros(y))
        return new, y


# The loop ----------------------------------------------------------------------------------------


class _Sequence(NamedTuple):
    """What each step gets, with time first; the flags may be None."""

    xs: Any
    observed: Any
    mask: Any
    reset: Any


class _Memory(NamedTuple):
    """The last output of each row, and whether the row has one in its segment."""

    y: Any  # [*B, O]
    valid: jax.Array  # bool[*B], or bool[] for all rows

    def after_reset(self, reset: jax.Array | None) -> _Memory:
        """The memory before a step. An output of another segment is no output of this one."""
        if reset is None:
            return self
        return self._replace(valid=self.valid & ~reset)

    def after_step(self, y: Any, mask: jax.Array | None) -> _Memory:
        """The memory after a step with output `y`. A masked step changes nothing."""
        if mask is None:
            return _Memory(y, jnp.ones_like(self.valid))
        return _Memory(where(mask, y, self.y), self.valid | mask)


# The part of the randomness for `next_input`. A layer gets the key itself, as in `scan`.
_INPUTS = 2**31 + 14


def _drive(
    model: _LayerModel | _FunctionModel,
    next_input: Callable,
    sequence: _Sequence,
    state: State,
    memory: _Memory,
    number: int,
    key: jax.Array | None,
    stop_gradient: bool,
) -> tuple[State, Any, Any]:
    """Reads the first `number` steps, then closes the loop; all arrays have time first."""
    steps = features(sequence.xs).shape[0]
    number = min(number, steps)
    # With flags, each row has its own memory. The flags bring their placement on a mesh.
    for flags in (sequence.mask, sequence.reset):
        if flags is not None and steps:
            memory = memory._replace(valid=memory.valid | jnp.zeros_like(flags[0]))

    parts = []
    # A sequence without steps goes this way too, so that its results have the right shapes.
    if number or not steps:
        head = jax.tree.map(lambda leaf: leaf[:number], sequence)
        state, ys = model.read(state, head)
        memory = _memory_after(memory, ys, head)
        parts.append((ys, _unmasked(head.mask, head.xs)))

    def body(before: tuple, at: tuple) -> tuple[tuple, tuple]:
        state, memory = before
        step, t = at
        x, observed, mask, reset = step
        memory = memory.after_reset(reset)
        made_here = memory.valid
        if observed is not None:
            made_here = made_here & ~observed
        # Elsewhere `next_input` gets ordinary numbers: its result and its gradient are not used.
        y = where(made_here, memory.y, _filling(memory.y, made_here.ndim))
        if stop_gradient:
            y = lax.stop_gradient(y)
        step_key = None
        if key is not None:
            step_key = jax.random.fold_in(jax.random.fold_in(key, _INPUTS), t)
        made = _checked(next_input(y, x, step_key), x)
        x = where(made_here, made, x)
        state, y = model.step(state, step._replace(xs=x, observed=None), t)
        return (state, memory.after_step(y, mask)), (y, _unmasked(mask, x))

    if number < steps:
        tail = jax.tree.map(lambda leaf: leaf[number:], sequence)
        times = jnp.arange(number, steps)
        (state, _), part = lax.scan(body, (state, memory), (tail, times))
        parts.append(part)
    if len(parts) == 1:
        return state, *parts[0]
    ys, used = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *parts)
    return state, ys, used


def _memory_after(memory: _Memory, ys: Any, head: _Sequence) -> _Memory:
    """The memory after the steps of `scan`."""
    if not jax.tree.leaves(ys)[0].shape[0]:
        return memory
    if head.mask is None and head.reset is None:
        return memory.after_step(jax.tree.map(lambda leaf: leaf[-1], ys), None)

    def body(memory: _Memory, at: tuple) -> tuple[_Memory, None]:
        y, mask, reset = at
        return memory.after_reset(reset).after_step(y, mask), None

    return lax.scan(body, memory, (ys, head.mask, head.reset))[0]


def _checked(made: Any, x: Any) -> Any:
    """Checks what `next_input` made against the input at its step, and gives it the same dtype."""
    # The features are made; the time spans are known.
    if isinstance(x, TimedInputs) and not isinstance(made, TimedInputs):
        made = x._replace(x=made)
    must = f"`next_input` must return the input of one step, {_shapes(x)}; got {_shapes(made)}."
    structure: Any = jax.tree.structure(x)
    if structure != jax.tree.structure(made):
        raise ValueError(f"{must} Has `xs` another structure?")
    leaves = zip(jax.tree.leaves(made), jax.tree.leaves(x), strict=True)
    for got, wanted in leaves:
        if jnp.shape(got) != wanted.shape:
            hint = "Does the layer need a head, such as Dense, whose outputs are its inputs?"
            raise ValueError(f"{must} {hint}")
        # A cast would make token 0 of every logit below 1.
        if kind(got) != kind(wanted):
            raise TypeError(f"{must} Token ids come from logits by `argmax` or a draw.")
    return jax.tree.map(lambda got, wanted: jnp.asarray(got, wanted.dtype), made, x)


def _shapes(tree: Any) -> str:
    """Describes the leaves of a pytree, such as `float32[3, 5]`."""
    return " and ".join(describe(leaf) for leaf in jax.tree.leaves(tree))


def _filling(y: Any, batch_ndim: int) -> Any:
    """Distinct positive numbers like `y`: at zero some functions have no derivative."""

    def fill(leaf: jax.Array) -> jax.Array:
        if not jnp.issubdtype(leaf.dtype, jnp.inexact):
            return jnp.zeros_like(leaf)
        shape = leaf.shape[batch_ndim:]
        ramp = jnp.linspace(1, 2, math.prod(shape), dtype=leaf.dtype).reshape(shape)
        ramp = jnp.expand_dims(ramp, tuple(range(batch_ndim)))
        return jnp.zeros_like(leaf) + ramp

    return jax.tree.map(fill, y)


def _unmasked(mask: jax.Array | None, xs: Any) -> Any:
    """The inputs with zeros at masked steps, where nothing is read."""
    if mask is None:
        return xs
    return where(mask, xs, _zeros(xs))


def _zeros(tree: Any) -> Any:
    return jax.tree.map(jnp.zeros_like, tree)


def _move(tree: Any, axis: int, to: int) -> Any:
    return jax.tree.map(lambda leaf: jnp.moveaxis(leaf, axis, to), tree)
