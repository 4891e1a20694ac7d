"""The contract of every layer as one check, for this package's cells and for your cells."""

from __future__ import annotations

import copy
import functools
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from recurrax._dtype import cast, cast_params, compute_dtype
from recurrax._layer import Cell, Layer, Params, State
from recurrax._mask import where
from recurrax._scan import scan, step
from recurrax.decoding._unroll import unroll
from recurrax.implementations._registry import Implementation
from recurrax.testing._compare import (
    assert_close,
    normal_like,
    perturbed_params,
    run_segments_apart,
    values_and_gradients,
)

# The state after a sequence or a step, and the outputs.
Result = tuple[State, Array]

_STEPS, _BATCH = 6, 4
_ROWS = (
    ("000000", "010000"),  # no unmasked step
    ("110000", "000100"),  # right padding
    ("110010", "000101"),  # a flag on a masked step between two segments, and one in the padding
    ("010111", "100111"),  # many segments
)
_MASK = np.array([list(mask) for mask, _ in _ROWS]) == "1"
_RESET = np.array([list(reset) for _, reset in _ROWS]) == "1"


def check_contract(
    layer: Layer,
    input_size: int = 3,
    *,
    implementation: str | Implementation | None = None,
    promises: Sequence[str] | None = None,
    tol: float = 2e-5,
) -> None:
    """Checks that a layer keeps every promise of `scan`, in values and in gradients.

    The parameters are perturbed.

    - "steps": steps one by one equal the sequence at once, with masks and resets. A cell's
      `output` of the state after a step equals the step's output.
    - "parts": two parts, joined by the state, equal the sequence at once.
    - "unroll": `unroll` with masks and resets reads what `next_input` makes of its outputs. `scan`
      over these inputs, by the same implementation, equals it within 1e-6. `unroll` with
      everything observed equals `scan`.
    - "rows": ragged rows, with NaN in the padding and lengths 0 and T, equal the trimmed rows.
      Packed rows equal their segments, run alone. Both hold in both directions.
    - "resets": NaN and inf stay in their segment.
    - "mesh": an Explicit mesh of all devices, with the batch spread over it, changes nothing.
      Stochastic layers get a key there.
    - "layouts": layouts, batch axes and `vmap` agree.
    - "dtypes": dtypes are kept.
    - "derivatives": forward mode, reverse mode, second order and `jax.checkpoint` agree.
    - "identity": two equal layers compile once. Without a key nothing is random.

    Args:
        layer: the layer to check.
        input_size: the number of features of its inputs. If the layer has an `input_shape`, the
            inputs have this shape too.
        implementation: the `implementation` argument of `scan`.
        promises: the names of the promises to check, all of them by default. With a single device
            there is no mesh to check.
        tol: the tolerance, absolute and relative, in float32.

    Raises:
        AssertionError: if a promise is broken. It says which promise, and by how much.

    Example:
        >>> import recurrax
        >>> from recurrax.testing import check_contract
        >>> check_contract(recurrax.GRUCell(4), promises=["steps", "resets"])

    References:
        Google DeepMind, `sequence-layers` (the idea of one check for every layer), 2024,
            https://github.com/google/sequence-layers
    """

    def run(params: Params, xs: Array, state: State, **options: Any) -> Result:
        return scan(layer, params, xs, state, implementation=implementation, **options)

    shape = (_BATCH, _STEPS, *_space(layer), input_size)
    shapes = jax.ShapeDtypeStruct(shape, jnp.float32)
    state_shapes = jax.eval_shape(lambda: layer.initial_state((_BATCH,)))
    params = perturbed_params(layer, input_size)
    xs = normal_like(shapes, seed=1)
    state = normal_like(state_shapes, seed=2)
    case = _Case(layer, run, (params, xs, state), tol)
    if promises is None:
        promises = tuple(_CHECKS)
    for promise in promises:
        # A layer that reads later steps cannot run step by step.
        if layer.causal or promise not in ("steps", "parts", "unroll"):
            _CHECKS[promise](case)


class _Case(NamedTuple):
    """What every check gets."""

    layer: Layer
    run: Callable  # `scan` of the layer
    args: tuple[Params, Array, State]
    tol: float


def _space(layer: Layer) -> tuple[int, ...]:
    """The spatial shape of the inputs, from the first part that knows it."""
    shape = getattr(layer, "input_shape", None)
    if shape:
        return shape
    return next(filter(None, map(_space, layer.parts)), ())


def _check_steps(case: _Case) -> None:
    layer, run, args, tol = case

    def output(params: Params, state: State, x: Array, y: Array) -> Array:
        """The output that a cell declares for the state after a step, or y."""
        if not isinstance(layer, Cell):
            return y
        # `output` sees what `step` sees: parameters and z in the dtype of the products.
        compute = compute_dtype(layer, params, x)
        params = cast_params(layer, params, compute)
        z = layer.project_inputs(params, cast(x, compute))
        declared = layer.output(params, state, z)
        if declared is None:
            return y
        return declared.astype(y.dtype)

    def one_by_one(params: Params, xs: Array, state: State) -> Result:
        def advance(state: State, at: tuple) -> Result:
            x, mask, reset = at
            # "xla" calls the `step` of every cell, whatever the cell states about it.
            flags = {"mask": mask, "reset": reset}
            state, y = step(layer, params, x, state, **flags, implementation="xla")
            declared = output(params, state, x, y)
            return state, where(mask, declared, jnp.zeros_like(y))

        batch_major = xs, jnp.asarray(_MASK), jnp.asarray(_RESET)
        sequences = jax.tree.map(lambda a: jnp.swapaxes(a, 0, 1), batch_major)
        state, ys = jax.lax.scan(advance, state, sequences)
        return state, jnp.swapaxes(ys, 0, 1)

    def at_once(params: Params, xs: Array, state: State) -> Result:
        return run(params, xs, state, mask=_MASK, reset=_RESET)

    got = values_and_gradients(one_by_one, *args)
    expected = values_and_gradients(at_once, *args)
    assert_close("steps one by one", got, expected, tol)


def _check_parts(case: _Case) -> None:
    _, run, args, tol = case

    # Two parts, each with flags on masked steps at both of its ends, joined by the state.
    def in_parts(params: Params, xs: Array, state: State, reverse: bool) -> Result:
        outputs = {}
        parts = [slice(0, 4), slice(4, None)]
        if reverse:
            parts.reverse()
        for part in parts:
            flags = {"mask": _MASK[:, part], "reset": _RESET[:, part]}
            state, ys = run(params, xs[:, part], state, **flags, reverse=reverse)
            outputs[part.start] = ys
        return state, jnp.concatenate([outputs[0], outputs[4]], axis=1)

    def at_once(params: Params, xs: Array, state: State, reverse: bool) -> Result:
        return run(params, xs, state, mask=_MASK, reset=_RESET, reverse=reverse)

    for reverse in (False, True):
        run_parts = functools.partial(in_parts, reverse=reverse)
        run_sequence = functools.partial(at_once, reverse=reverse)
        joined = values_and_gradients(run_parts, *args)
        expected = values_and_gradients(run_sequence, *args)
        what = f"parts joined by the state, reverse={reverse}"
        assert_close(what, joined, expected, tol)


def _check_unroll(case: _Case) -> None:
    layer, _, (params, xs, state), tol = case
    # Steps 0 to 5: a start, a gap that goes on behind a masked step, and an observed step in it.
    pattern = np.array([True, False, False, False, True, False])
    rows = [pattern, np.roll(pattern, 1), ~pattern, np.zeros(_STEPS, bool)]
    observed = jnp.asarray(np.stack(rows))
    # Two implementations may round in two ways, so all runs here take the same one.
    options = {"mask": _MASK, "reset": _RESET, "implementation": "xla"}
    outputs = jax.eval_shape(lambda: scan(layer, params, xs, state)[1])
    # Outputs may have another space and other features than inputs.
    sizes = (math.prod(outputs.shape[2:]), math.prod(xs.shape[2:]))
    matrix = normal_like(jax.ShapeDtypeStruct(sizes, xs.dtype), seed=5)

    def next_input(y: jax.Array, x: jax.Array, key: Any) -> jax.Array:
        made = jnp.tanh(y.reshape(len(y), -1) @ matrix)  # [B, numbers of one input]
        return made.reshape(x.shape) + x / 2

    @jax.jit
    def outcomes() -> tuple:
        closed = unroll(layer, params, next_input, xs, state, observed=observed, **options)
        replayed = scan(layer, params, closed[2], state, **options)
        everything = unroll(layer, params, next_input, xs, state, observed=_STEPS, **options)
        return closed, replayed, everything, scan(layer, params, xs, state, **options)

    (final, ys, used), replayed, (seen, seen_ys, _), expected = outcomes()
    assert_close("a replay of the inputs of `unroll`", (final, ys), replayed, min(tol, 1e-6))
    assert_close("`unroll` with everything observed", (seen, seen_ys), expected, min(tol, 1e-6))
    # What each step must read, one after another.
    read = np.zeros_like(xs)
    for row in range(_BATCH):
        last = None
        for step_number in range(_STEPS):
            if _RESET[row, step_number]:
                last = None
            if not _MASK[row, step_number]:
                continue
            read[row, step_number] = xs[row, step_number]
            if last is not None and not observed[row, step_number]:
                made = next_input(ys[row : row + 1, last], xs[row : row + 1, step_number], None)
                read[row, step_number] = made[0]
            last = step_number
    assert_close("the inputs that `unroll` reads", used, read, 1e-5)


def _check_rows(case: _Case) -> None:
    layer, run, args, tol = case
    params, xs, state = args
    nan_padded = where(jnp.asarray(_MASK), xs, jnp.full_like(xs, jnp.nan))

    def packed(params: Params, xs: Array, state: State, reverse: bool) -> Any:
        return run(params, xs, state, mask=_MASK, reset=_RESET, reverse=reverse)

    def apart(params: Params, xs: Array, state: State, reverse: bool) -> Any:
        initial = layer.first_state(params)
        return run_segments_apart(run, initial, params, xs, state, _MASK, _RESET, reverse)

    # The outputs alone, from the initial state.
    def outputs(run_rows: Callable, params: Params, xs: Array) -> Array:
        return run_rows(params, xs, layer.first_state(params, (_BATCH,)))[1]

    for reverse in (False, True):
        run_packed = functools.partial(packed, reverse=reverse)
        run_apart = functools.partial(apart, reverse=reverse)
        if layer.causal:
            got = values_and_gradients(run_packed, params, nan_padded, state)
            expected = values_and_gradients(run_apart, params, xs, state)
        else:
            # Each direction meets another segment first and last. So only outputs are compared.
            packed_outputs = functools.partial(outputs, run_packed)
            apart_outputs = functools.partial(outputs, run_apart)
            got = values_and_gradients(packed_outputs, params, nan_padded)
            expected = values_and_gradients(apart_outputs, params, xs)
        what = f"masked and packed rows, reverse={reverse}"
        assert_close(what, got, expected, tol)


def _check_resets(case: _Case) -> None:
    layer, run, args, tol = case
    params, xs, state = args
    # Three segments of two steps in each row; one segment of each of the first rows is spoiled.
    reset = np.zeros((_BATCH, _STEPS), bool)
    reset[:, 2] = reset[:, 4] = True
    segments = np.array([[0, 1, 0], [1, 0, 0], [0, 0, 1], [0, 0, 0]], bool)
    spoiled_steps = jnp.asarray(np.repeat(segments, 2, axis=1))
    # The rows whose state comes from a clean segment. A layer that is not causal reads both ends.
    clean_rows = jnp.array([3])
    if layer.causal:
        clean_rows = jnp.array([0, 3])

    def final_of(tree: Any) -> Any:
        return jax.tree.map(lambda leaf: leaf[clean_rows], tree)

    for reverse, number in itertools.product((False, True), (jnp.nan, jnp.inf)):
        spoiled = xs.at[0, 3].set(number)
        spoiled = spoiled.at[1, :2].set(number)
        spoiled = spoiled.at[2, 4:].set(number)
        clean_state, expected = run(params, xs, state, reset=reset, reverse=reverse)
        spoiled_state, ys = run(params, spoiled, state, reset=reset, reverse=reverse)
        # Outputs of spoiled segments are not compared.
        same = where(spoiled_steps, expected, ys)
        what = f"segments beside one with {number} in it, reverse={reverse}"
        assert_close(what, same, expected, tol)
        got = final_of(spoiled_state)
        assert_close("the state after a clean segment", got, final_of(clean_state), tol)


def _check_mesh(case: _Case) -> None:
    layer, run, args, tol = case
    devices = jax.local_device_count()
    if devices == 1:
        return
    params, xs, state = args

    # Two rows for each device.
    def widen(leaf: Array) -> Array:
        return jnp.concatenate([leaf] * devices)[: 2 * devices]

    rows = (xs, state, jnp.asarray(_MASK), jnp.asarray(_RESET))
    rows = jax.tree.map(widen, rows)
    key = None
    if layer.stochastic:
        key = jax.random.key(0)

    @jax.jit
    def train(params: Params, rows: tuple, key: Any) -> Any:
        xs, state, mask, reset = rows

        def outcome(params: Params, xs: Array, state: State) -> Any:
            forward = run(params, xs, state, mask=mask, reset=reset, key=key)
            return forward, run(params, xs, None, reverse=True, key=key)

        out, vjp = jax.vjp(outcome, params, xs, state)
        return out, vjp(jax.tree.map(jnp.ones_like, out))

    expected = train(params, rows, key)
    explicit = (jax.sharding.AxisType.Explicit,)
    mesh = jax.make_mesh((devices,), ("batch",), axis_types=explicit)
    with jax.set_mesh(mesh):
        by_batch = jax.NamedSharding(mesh, jax.P("batch"))
        everywhere = jax.NamedSharding(mesh, jax.P())
        placed_rows = jax.device_put(rows, by_batch)
        placed_params = jax.device_put(params, everywhere)
        got = train(placed_params, placed_rows, key)
    what = f"an Explicit mesh of {devices} devices"
    assert_close(what, jax.device_get(got), expected, 10 * tol)


def _check_layouts(case: _Case) -> None:
    layer, run, args, tol = case
    params, xs, state = args
    lengths = jnp.array([0, 2, _STEPS, _STEPS + 5])
    mask = jnp.arange(_STEPS)[None] < lengths[:, None]
    final, ys = run(params, xs, state, mask=mask)
    # Lengths against the same mask, and time-major against batch-major.
    nan_padded = where(mask, xs, jnp.full_like(xs, jnp.nan))
    time_major = jnp.swapaxes(nan_padded, 0, 1)
    last, swapped = run(params, time_major, state, lengths=lengths, time_major=True)
    got: Any = last, jnp.swapaxes(swapped, 0, 1)
    assert_close("lengths, time-major", got, (final, ys), tol)

    def run_row(x: Array, s: State, length: Array) -> Result:
        return run(params, x, s, lengths=length)

    rows = jax.vmap(run_row)(xs, state, lengths)
    assert_close("vmap over rows without a batch axis", rows, (final, ys), tol)

    def square(leaf: Array) -> Array:
        return leaf.reshape(2, 2, *leaf.shape[1:])

    squares = jax.tree.map(square, (xs, state, lengths))
    got = run(params, squares[0], squares[1], lengths=squares[2])
    expected = jax.tree.map(square, (final, ys))
    assert_close("two batch axes", got, expected, tol)

    # A sequence without steps returns the state, or the initial state.
    no_steps = xs[:, :0]
    from_state = run(params, no_steps, state)
    assert_close("no steps, from a state", from_state, (state, ys[:, :0]), tol)
    from_none = run(params, no_steps, None)
    first = layer.first_state(params, (_BATCH,))
    assert_close("no steps, from no state", from_none, (first, ys[:, :0]), tol)


def _check_dtypes(case: _Case) -> None:
    _, run, args, _ = case
    half = functools.partial(cast, dtype=jnp.dtype(jnp.bfloat16))
    params, xs, state = args
    expected = run(params, xs, state)
    cases = {
        "bfloat16 inputs": (params, half(xs), state),
        "bfloat16 throughout": (half(params), half(xs), half(state)),
    }
    for name, inputs in cases.items():
        final, ys = run(*inputs)
        # The state keeps its dtype, and the outputs have the dtype of the inputs.
        given = inputs[2]
        kept = jax.tree.map(lambda new, old: new.dtype == old.dtype, final, given)
        assert jax.tree.all(kept), f"{name}: the state became {final}, from {given}"
        assert ys.dtype == jnp.bfloat16, f"{name}: the outputs are {ys.dtype}"
        assert_close(name, (final, ys), expected, 0.1)
    # Without a state, the default has at least float32.
    final, ys = jax.eval_shape(run, half(params), half(xs), None)
    kinds = {leaf.dtype for leaf in jax.tree.leaves(final)}
    allowed = {jnp.dtype(jnp.float32), jnp.dtype(jnp.complex64)}
    assert kinds <= allowed, f"the default state is of {kinds}"


def _check_derivatives(case: _Case) -> None:
    _, run, args, tol = case
    directions = normal_like(args, seed=4)

    # A nonlinear function of every number in the state and the outputs.
    def loss(*args: Any) -> Array:
        total = jnp.zeros(())
        for leaf in jax.tree.leaves(run(*args)):
            waves = jnp.sin(leaf.real) + jnp.sin(leaf.imag)
            total = total + jnp.sum(waves)
        return total

    def dot(a: Any, b: Any) -> Array:
        # Without a conjugate: JAX's gradient by a complex number is conjugated already.
        # So this is the change of the loss.
        total = jnp.zeros(())
        for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
            total = total + jnp.sum(x * y).real
        return total

    gradient = jax.grad(loss, (0, 1, 2))

    def slope(*args: Any) -> Array:
        return dot(gradient(*args), directions)

    @jax.jit
    def all_derivatives() -> Any:
        grads = gradient(*args)
        _, forward = jax.jvp(loss, args, directions)
        _, forward_over_reverse = jax.jvp(gradient, args, directions)
        reverse_over_reverse = jax.grad(slope, (0, 1, 2))(*args)
        rematerialized = jax.grad(jax.checkpoint(loss), (0, 1, 2))(*args)
        first_order = (grads, rematerialized, dot(grads, directions), forward)
        return first_order, (reverse_over_reverse, forward_over_reverse)

    first_order, (reverse_twice, mixed) = all_derivatives()
    grads, rematerialized, reverse, forward = first_order
    assert_close("jax.checkpoint", rematerialized, grads, tol)
    assert_close("forward mode against reverse mode", forward, reverse, 10 * tol)
    what = "second order, forward over reverse against reverse twice"
    assert_close(what, mixed, reverse_twice, 10 * tol)


def _check_identity(case: _Case) -> None:
    layer, run, args, _ = case
    params, xs, state = args
    twin = copy.copy(layer)
    assert twin == layer, f"{layer} and its copy must be equal"
    assert hash(twin) == hash(layer), f"{layer} and its copy must hash as equal"

    # Every trace of the function appends to this list.
    traces = []

    @functools.partial(jax.jit, static_argnums=0)
    def compiled(layer: Layer, lengths: Array) -> Any:
        traces.append(layer)
        return scan(layer, params, xs, state, lengths=lengths)

    compiled.trace(layer, jnp.full(_BATCH, 2))
    compiled.trace(twin, jnp.full(_BATCH, 3))
    count = len(traces)
    assert count == 1, f"{layer} and its copy must compile once; they compiled {count} times"
    # Randomness comes from the key alone.
    if layer.stochastic:
        first, second = run(params, xs, state), run(params, xs, state)
        assert_close("without a key", first, second, 0.0)

        def outputs(seed: int) -> Array:
            return run(params, xs, state, key=jax.random.key(seed))[1]

        drawn = outputs(0)
        assert_close("the same key twice", outputs(0), drawn, 0.0)
        differ = not jnp.array_equal(outputs(1), drawn)
        assert differ, f"{layer} is stochastic, but two keys gave the same outputs"


_CHECKS = {
    "steps": _check_steps,
    "parts": _check_parts,
    "unroll": _check_unroll,
    "rows": _check_rows,
    "resets": _check_resets,
    "mesh": _check_mesh,
    "layouts": _check_layouts,
    "dtypes": _check_dtypes,
    "derivatives": _check_derivatives,
    "identity": _check_identity,
}
