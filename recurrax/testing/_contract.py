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
from recurrax.kernels import Implementation
from recurrax.testing._compare import assert_close, noise, perturbed_params, pull, run_apart

_STEPS, _BATCH = 6, 4


def check_contract(
    layer: Layer,
    input_size: int = 3,
    *,
    implementation: str | Implementation | None = None,
    promises: Sequence[str] | None = None,
    tol: float = 2e-5,
) -> None:
    """Checks that a layer keeps every promise of `scan`, on perturbed parameters, in values and in gradients.

    Steps one by one equal the whole, and a cell's outputs are what its `output` says of the state after a step; parts
    joined by the state equal the whole; ragged rows, with NaN in the padding and lengths 0 and T among them, equal the
    trimmed rows, and packed rows equal their segments run apart, in both directions; layouts and batch axes agree, and
    so does `vmap`; dtypes are kept; two equal layers compile once; forward and reverse mode, second order and
    `jax.checkpoint` agree; without a key nothing is random.

    Args:
        layer: the layer to check.
        input_size: the number of features of its inputs; these lie on the `input_shape` of a layer that has one.
        implementation: that of `scan`.
        promises: those to check, of "steps", "parts", "rows", "layouts", "dtypes", "derivatives" and "identity"; all of
            them by default.
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
    xs = noise(jax.ShapeDtypeStruct((_BATCH, _STEPS, *_space(layer), input_size), jnp.float32), seed=1)
    state = noise(jax.eval_shape(lambda: layer.initial_state((_BATCH,))), seed=2)
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
        def advance(state: State, x: jax.Array) -> tuple[State, jax.Array]:
            state, y = step(layer, params, state, x)
            return state, output(params, state, x, y)

        state, ys = jax.lax.scan(advance, state, jnp.moveaxis(xs, 1, 0))
        return state, jnp.moveaxis(ys, 0, 1)

    assert_close("steps one by one, and what `output` says of each", pull(one_by_one, *args), pull(run, *args), tol)


def _check_parts(layer: Layer, run: Callable, args: tuple, tol: float) -> None:
    del layer

    def backwards(params: Params, xs: jax.Array, state: State) -> tuple[State, jax.Array]:
        halfway, second = run(params, xs[:, 4:], state, reverse=True)
        final, first = run(params, xs[:, :4], halfway, reverse=True)
        return final, jnp.concatenate([first, second], axis=1)

    whole = pull(lambda *args: run(*args, reverse=True), *args)
    assert_close("parts joined by the state, backwards", pull(backwards, *args), whole, tol)


def _check_rows(layer: Layer, run: Callable, args: tuple, tol: float) -> None:
    # No real step; right padding; a flag on a masked step between two segments and one in the padding; many segments.
    mask = np.array([[0, 0, 0, 0, 0, 0], [1, 1, 0, 0, 0, 0], [1, 1, 0, 0, 1, 0], [0, 1, 0, 1, 1, 1]], bool)
    reset = np.array([[0, 1, 0, 0, 0, 0], [0, 0, 0, 1, 0, 0], [0, 0, 0, 1, 0, 1], [1, 0, 0, 1, 0, 1]], bool)
    params, xs, state = args
    nan = jnp.full_like(xs, jnp.nan)
    holed = where(jnp.asarray(mask), xs, nan)
    for reverse in (False, True):

        def packed(params: Params, xs: jax.Array, state: State, reverse: bool = reverse) -> Any:
            return run(params, xs, state, mask=mask, reset=reset, reverse=reverse)

        def apart(params: Params, xs: jax.Array, state: State, reverse: bool = reverse) -> Any:
            return run_apart(run, layer.first_state(params), params, xs, state, mask, reset, reverse)

        if layer.causal:
            got, expected = pull(packed, params, holed, state), pull(apart, params, xs, state)
        else:  # Each direction meets another segment first and last, so only the outputs can be compared.
            at_rest = lambda params: layer.first_state(params, (_BATCH,))  # noqa: E731
            got = pull(lambda params, xs: packed(params, xs, at_rest(params))[1], params, holed)  # noqa: B023
            expected = pull(lambda params, xs: apart(params, xs, at_rest(params))[1], params, xs)  # noqa: B023
        assert_close(f"masked and packed rows, reverse={reverse}", got, expected, tol)


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
    directions = noise(args, seed=4)

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
    "layouts": _check_layouts,
    "dtypes": _check_dtypes,
    "derivatives": _check_derivatives,
    "identity": _check_identity,
}
