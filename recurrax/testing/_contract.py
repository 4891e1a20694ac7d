"""What every layer must satisfy, as one function: for the cells of this package and for your own."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from recurrax._dtype import cast, cast_params, compute_dtype
from recurrax._layer import Cell, Layer, Params, State
from recurrax._mask import where
from recurrax._scan import scan, step
from recurrax.implementations._registry import Implementation
from recurrax.testing._compare import (
    assert_close,
    normal_like,
    perturbed_params,
    run_segments_apart,
    values_and_gradients,
)

_STEPS, _BATCH = 6, 4
# Rows: no real step; right padding; a flag on a masked step between two segments and one in the padding; many segments.
_MASK = np.array([[0, 0, 0, 0, 0, 0], [1, 1, 0, 0, 0, 0], [1, 1, 0, 0, 1, 0], [0, 1, 0, 1, 1, 1]], bool)
_RESET = np.array([[0, 1, 0, 0, 0, 0], [0, 0, 0, 1, 0, 0], [0, 0, 0, 1, 0, 1], [1, 0, 0, 1, 1, 1]], bool)


def check_contract(
    layer: Layer,
    input_size: int = 3,
    *,
    implementation: str | Implementation | None = None,
    promises: Sequence[str] | None = None,
    tol: float = 2e-5,
) -> None:
    """Checks that a layer keeps every promise of `scan`, on perturbed parameters, in values and in gradients.

    - Steps one by one, and parts joined by the state, equal the sequence at once, with masks and resets. The outputs of
      a cell are what its `output` says of the state after a step.
    - Ragged rows, with NaN in the padding and lengths 0 and T among them, equal the trimmed rows. Packed rows equal
      their segments run apart. Both hold in both directions.
    - NaN and inf stay in their segment.
    - An Explicit mesh of all devices, with the batch spread over it, changes nothing. Layers that draw get a key there.
    - Layouts and batch axes agree, and so does `vmap`. Dtypes are kept. Two equal layers compile once.
    - Forward and reverse mode, second order and `jax.checkpoint` agree.
    - Without a key nothing is random.

    Args:
        layer: the layer to check.
        input_size: the number of features of its inputs; these lie on the `input_shape` of a layer that has one.
        implementation: that of `scan`.
        promises: those to check, of "steps", "parts", "rows", "resets", "mesh", "layouts", "dtypes", "derivatives" and
            "identity"; all of them by default. With a single device there is no mesh to check.
        tol: the tolerance, absolute and relative, in float32.

    Raises:
        AssertionError: that says which promise is broken, and by how much.

    Example:
        >>> import recurrax
        >>> from recurrax.testing import check_contract
        >>> check_contract(recurrax.GRUCell(4))

    References:
        Google DeepMind, `sequence-layers` (the idea of one check for every layer), 2024,
            https://github.com/google/sequence-layers
    """

    def run(params: Params, xs: jax.Array, state: State, **options: Any) -> tuple[State, jax.Array]:
        return scan(layer, params, xs, state, implementation=implementation, **options)

    params = perturbed_params(layer, input_size)
    xs = normal_like(jax.ShapeDtypeStruct((_BATCH, _STEPS, *_space(layer), input_size), jnp.float32), seed=1)
    state = normal_like(jax.eval_shape(lambda: layer.initial_state((_BATCH,))), seed=2)
    for promise in _CHECKS if promises is None else promises:
        if layer.causal or promise not in ("steps", "parts"):
            _CHECKS[promise](layer, run, (params, xs, state), tol)


def _space(layer: Layer) -> tuple[int, ...]:
    """The spatial shape of the inputs, from the first part that knows it."""
    return getattr(layer, "input_shape", None) or next(filter(None, map(_space, layer.parts)), ())


def _check_steps(layer: Layer, run: Callable, args: tuple, tol: float) -> None:
    def output(params: Params, state: State, x: jax.Array, y: jax.Array) -> jax.Array:
        """What a cell says of its output, given the state after a step."""
        if not isinstance(layer, Cell):
            return y
        compute = compute_dtype(layer, params, x)
        params = cast_params(layer, params, compute)
        said = layer.output(params, state, layer.project_inputs(params, cast(x, compute)))
        return y if said is None else said.astype(y.dtype)

    def one_by_one(params: Params, xs: jax.Array, state: State) -> tuple[State, jax.Array]:
        def advance(state: State, at: tuple) -> tuple[State, jax.Array]:
            x, mask, reset = at
            state, y = step(layer, params, x, state, mask=mask, reset=reset)
            return state, where(mask, output(params, state, x, y), jnp.zeros_like(y))

        time_major = jax.tree.map(lambda a: jnp.swapaxes(a, 0, 1), (xs, jnp.asarray(_MASK), jnp.asarray(_RESET)))
        state, ys = jax.lax.scan(advance, state, time_major)
        return state, jnp.swapaxes(ys, 0, 1)

    def at_once(params: Params, xs: jax.Array, state: State) -> tuple[State, jax.Array]:
        return run(params, xs, state, mask=_MASK, reset=_RESET)

    assert_close("steps one by one", values_and_gradients(one_by_one, *args), values_and_gradients(at_once, *args), tol)


def _check_parts(layer: Layer, run: Callable, args: tuple, tol: float) -> None:
    del layer

    # Two parts, each with flags on masked steps at both of its ends, joined by the state.
    def parts(params: Params, xs: jax.Array, state: State, reverse: bool) -> tuple[State, jax.Array]:
        outputs = {}
        cuts = (slice(0, 4), slice(4, None))
        for cut in reversed(cuts) if reverse else cuts:
            mask, reset = _MASK[:, cut], _RESET[:, cut]
            state, outputs[cut.start] = run(params, xs[:, cut], state, mask=mask, reset=reset, reverse=reverse)
        return state, jnp.concatenate([outputs[0], outputs[4]], axis=1)

    for reverse in (False, True):

        def at_once(params: Params, xs: jax.Array, state: State, reverse: bool = reverse) -> tuple[State, jax.Array]:
            return run(params, xs, state, mask=_MASK, reset=_RESET, reverse=reverse)

        joined = values_and_gradients(functools.partial(parts, reverse=reverse), *args)
        assert_close(f"parts joined by the state, reverse={reverse}", joined, values_and_gradients(at_once, *args), tol)


def _check_rows(layer: Layer, run: Callable, args: tuple, tol: float) -> None:
    mask, reset = _MASK, _RESET
    params, xs, state = args
    nan = jnp.full_like(xs, jnp.nan)
    holed = where(jnp.asarray(mask), xs, nan)
    for reverse in (False, True):

        def packed(params: Params, xs: jax.Array, state: State, reverse: bool = reverse) -> Any:
            return run(params, xs, state, mask=mask, reset=reset, reverse=reverse)

        def apart(params: Params, xs: jax.Array, state: State, reverse: bool = reverse) -> Any:
            return run_segments_apart(run, layer.first_state(params), params, xs, state, mask, reset, reverse)

        if layer.causal:
            got, expected = (
                values_and_gradients(packed, params, holed, state),
                values_and_gradients(apart, params, xs, state),
            )
        else:  # Each direction meets another segment first and last, so only the outputs can be compared.
            at_rest = lambda params: layer.first_state(params, (_BATCH,))  # noqa: E731
            got = values_and_gradients(lambda params, xs: packed(params, xs, at_rest(params))[1], params, holed)  # noqa: B023
            expected = values_and_gradients(lambda params, xs: apart(params, xs, at_rest(params))[1], params, xs)  # noqa: B023
        assert_close(f"masked and packed rows, reverse={reverse}", got, expected, tol)


def _check_resets(layer: Layer, run: Callable, args: tuple, tol: float) -> None:
    params, xs, state = args
    reset = np.zeros((_BATCH, _STEPS), bool)
    reset[:, 2] = reset[:, 4] = True
    for reverse in (False, True):
        for number in (jnp.nan, jnp.inf):
            spoiled = xs.at[0, 3].set(number).at[1, :2].set(number).at[2, 4:].set(number)
            _, expected = run(params, xs, state, reset=reset, reverse=reverse)
            final, ys = run(params, spoiled, state, reset=reset, reverse=reverse)
            apart = np.repeat(np.array([[0, 1, 0], [1, 0, 0], [0, 0, 1], [0, 0, 0]], bool), 2, axis=1)
            same = where(jnp.asarray(apart), expected, ys)
            assert_close(f"segments beside one with {number} in it, reverse={reverse}", same, expected, tol)
            rows = [0, 3] if layer.causal else [3]  # whose last segment is clean
            clean = run(params, xs, state, reset=reset, reverse=reverse)[0]
            pick = lambda tree: jax.tree.map(lambda leaf: leaf[jnp.array(rows)], tree)  # noqa: B023, E731
            assert_close("the state after a clean segment", pick(final), pick(clean), tol)


def _check_mesh(layer: Layer, run: Callable, args: tuple, tol: float) -> None:
    devices = jax.local_device_count()
    if devices == 1:
        return
    params, xs, state = args
    wide = lambda tree: jax.tree.map(lambda leaf: jnp.concatenate([leaf] * devices)[: 2 * devices], tree)  # noqa: E731
    xs, state, mask, reset = wide((xs, state, jnp.asarray(_MASK), jnp.asarray(_RESET)))
    key = jax.random.key(0) if layer.stochastic else None

    def trained(params: Params, xs: jax.Array, state: State, mask: Any, reset: Any, key: Any) -> Any:
        def outcome(params: Params, xs: jax.Array, state: State) -> Any:
            given = run(params, xs, state, mask=mask, reset=reset, key=key)
            return given, run(params, xs, None, reverse=True, key=key)

        out, vjp = jax.vjp(outcome, params, xs, state)
        return out, vjp(jax.tree.map(jnp.ones_like, out))

    expected = jax.jit(trained)(params, xs, state, mask, reset, key)
    mesh = jax.make_mesh((devices,), ("batch",), axis_types=(jax.sharding.AxisType.Explicit,))
    with jax.set_mesh(mesh):
        spread = jax.NamedSharding(mesh, jax.P("batch"))
        placed = jax.device_put((xs, state, mask, reset), spread)
        got = jax.jit(trained)(jax.device_put(params, jax.NamedSharding(mesh, jax.P())), *placed, key)
    assert_close(f"an Explicit mesh of {devices} devices", jax.device_get(got), expected, 10 * tol)


def _check_layouts(layer: Layer, run: Callable, args: tuple, tol: float) -> None:
    params, xs, state = args
    lengths = jnp.array([0, 2, _STEPS, _STEPS + 5])
    real = jnp.arange(_STEPS)[None] < lengths[:, None]
    final, ys = run(params, xs, state, mask=real)
    holed = jnp.swapaxes(where(real, xs, jnp.full_like(xs, jnp.nan)), 0, 1)
    last, swapped = run(params, holed, state, lengths=lengths, time_major=True)
    assert_close("lengths, time-major", (last, jnp.swapaxes(swapped, 0, 1)), (final, ys), tol)

    rows = jax.vmap(lambda x, s, n: run(params, x, s, lengths=n))(xs, state, lengths)
    assert_close("vmap over rows without a batch axis", rows, (final, ys), tol)

    square = lambda leaf: leaf.reshape(2, 2, *leaf.shape[1:])  # noqa: E731
    got = run(params, square(xs), jax.tree.map(square, state), lengths=square(lengths))
    assert_close("two batch axes", got, (jax.tree.map(square, final), square(ys)), tol)

    nothing = run(params, xs[:, :0], state), run(params, xs[:, :0], None)
    expected = (state, ys[:, :0]), (layer.first_state(params, (_BATCH,)), ys[:, :0])
    assert_close("no steps, from a state and from none", nothing, expected, tol)


def _check_dtypes(layer: Layer, run: Callable, args: tuple, tol: float) -> None:
    del tol
    half = functools.partial(cast, dtype=jnp.dtype(jnp.bfloat16))
    params, xs, state = args
    expected = run(params, xs, state)
    for name, inputs in {
        "bfloat16 inputs": (params, half(xs), state),
        "bfloat16 throughout": (half(params), half(xs), half(state)),
    }.items():
        final, ys = run(*inputs)
        kept = jax.tree.map(lambda new, old: new.dtype == old.dtype, final, inputs[2])
        assert jax.tree.all(kept), f"{name}: the state became {final}, from {inputs[2]}"
        assert ys.dtype == jnp.bfloat16, f"{name}: the outputs are {ys.dtype}"
        assert_close(name, (final, ys), expected, 0.1)
    final, ys = jax.eval_shape(run, half(params), half(xs), None)
    kinds = {leaf.dtype for leaf in jax.tree.leaves(final)}
    assert kinds <= {jnp.dtype(jnp.float32), jnp.dtype(jnp.complex64)}, f"the default state is of {kinds}"


def _check_derivatives(layer: Layer, run: Callable, args: tuple, tol: float) -> None:
    directions = normal_like(args, seed=4)

    def loss(*args: Any) -> jax.Array:
        leaves = jax.tree.leaves(run(*args))
        return sum((jnp.sum(jnp.sin(leaf.real) + jnp.sin(leaf.imag)) for leaf in leaves), jnp.zeros(()))

    def dot(a: Any, b: Any) -> jax.Array:
        # Not conjugated: a gradient by z is conjugated already, so that this is how far the loss moves.
        pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
        return sum((jnp.sum(x * y).real for x, y in pairs), jnp.zeros(()))

    def gradient(*args: Any) -> Any:
        return jax.grad(loss, (0, 1, 2))(*args)

    @jax.jit
    def all_of_them() -> Any:
        grads = gradient(*args)
        _, forward = jax.jvp(loss, args, directions)
        _, forward_over_reverse = jax.jvp(gradient, args, directions)
        reverse_over_reverse = jax.grad(lambda *args: dot(gradient(*args), directions), (0, 1, 2))(*args)
        rematerialised = jax.grad(jax.checkpoint(loss), (0, 1, 2))(*args)
        return grads, rematerialised, dot(grads, directions), forward, reverse_over_reverse, forward_over_reverse

    grads, rematerialised, reverse, forward, reverse_twice, mixed = all_of_them()
    assert_close("jax.checkpoint", rematerialised, grads, tol)
    assert_close("forward mode against reverse mode", forward, reverse, 10 * tol)
    assert_close("second order, forward over reverse against reverse twice", mixed, reverse_twice, 10 * tol)


def _check_identity(layer: Layer, run: Callable, args: tuple, tol: float) -> None:
    params, xs, state = args
    twin = copy.copy(layer)
    assert twin == layer, f"{layer} and its copy must be equal"
    assert hash(twin) == hash(layer), f"{layer} and its copy must hash as equal"

    traces = []

    @functools.partial(jax.jit, static_argnums=0)
    def compiled(layer: Layer, lengths: jax.Array) -> Any:
        traces.append(layer)
        return scan(layer, params, xs, state, lengths=lengths)

    compiled.trace(layer, jnp.full(_BATCH, 2))
    compiled.trace(twin, jnp.full(_BATCH, 3))
    assert len(traces) == 1, f"{layer} and its copy must compile once; they compiled {len(traces)} times"
    if layer.stochastic:
        assert_close("without a key", run(params, xs, state), run(params, xs, state), 0.0)
        drawn = [run(params, xs, state, key=jax.random.key(seed))[1] for seed in (0, 0, 1)]
        assert_close("the same key twice", drawn[0], drawn[1], 0.0)
        assert not jnp.array_equal(drawn[0], drawn[2]), f"{layer} is stochastic, but two keys gave the same outputs"


_CHECKS = {
    "steps": _check_steps,
    "parts": _check_parts,
    "rows": _check_rows,
    "resets": _check_resets,
    "mesh": _check_mesh,
    "layouts": _check_layouts,
    "dtypes": _check_dtypes,
    "derivatives": _check_derivatives,
    "identity": _check_identity,
}
