"""Convolutional cells against Keras and loops in NumPy; every promise of `scan` where features lie in space."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import recurrax as rx
from recurrax import interop, linen
from recurrax import nnx as rnn
from recurrax.cells.convolutional import ConvElmanCell, ConvGRUCell, ConvLSTMCell
from recurrax.implementations import _platform
from recurrax.testing import assert_close, check_contract, normal_like, perturbed_params, values_and_gradients

STRIDED = ConvLSTMCell(3, (5, 4), (3, 2), 2, strides=(2, 1), recurrent_bias=True)
DILATED = ConvGRUCell(2, 5, 3, padding=((1, 2),), dilation=2)


def inputs(cell: Any, channels: int = 3, batch: int = 2, steps: int = 4) -> jax.Array:
    return normal_like(jax.ShapeDtypeStruct((batch, steps, *cell.input_shape, channels), jnp.float32), 1)


@pytest.mark.parametrize(
    "layer",
    [
        STRIDED,
        DILATED,
        ConvElmanCell(2, (2, 2, 3), 2),
        rx.Stack((ConvGRUCell(2, (4,), 2, False, strides=2), rx.Bidirectional(ConvElmanCell(2, (2,), 3)))),
    ],
    ids=str,
)
def test_contract(layer: rx.Layer, promises: tuple[str, ...] | None) -> None:
    check_contract(layer, implementation="hoisted" if isinstance(layer, rx.Cell) else None, promises=promises)


@pytest.mark.thorough
@pytest.mark.parametrize("cell", [DILATED, STRIDED], ids=str)
def test_the_rule_equals_plain_autodiff(cell: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where all inputs are convolved at once, as off a CPU; with two batch axes, and with recurrent dropout."""
    monkeypatch.setattr(_platform.jax, "default_backend", lambda: "tpu")
    params, xs = perturbed_params(cell, 3), jnp.reshape(inputs(cell, batch=6), (2, 3, 4, *cell.input_shape, 3))
    state = normal_like(jax.eval_shape(lambda: cell.initial_state((2, 3))), 2)
    layer, lengths = rx.RecurrentDropout(cell, 0.5), jnp.array([[4, 0, 1], [2, 9, 3]])

    def run(implementation: str) -> Any:
        def call(*args: Any) -> Any:
            options = {"lengths": lengths, "reverse": True, "key": jax.random.key(0)}
            return rx.scan(layer, *args, implementation=implementation, **options)

        pushed = jax.jit(lambda: jax.jvp(call, (params, xs, state), normal_like((params, xs, state), 5)))()
        return *values_and_gradients(call, params, xs, state), pushed

    jax.clear_caches()
    assert_close("hoisted", run("hoisted"), run("xla"), 1e-5)
    jax.clear_caches()


@pytest.mark.parametrize(
    ("shape", "size", "options"),
    [
        ((7,), 3, {"padding": "valid", "strides": 2}),
        ((6, 7), 3, {"padding": "valid", "dilation": 2}),
        ((5, 6), (3, 2), {"padding": "same", "strides": (2, 1)}),
        ((4, 3, 3), 2, {"padding": "same", "dilation": (2, 1, 1)}),
        ((4, 3, 5), 3, {"padding": "valid", "strides": (1, 1, 2)}),
    ],
)
def test_lstm_is_that_of_keras(shape: Any, size: Any, options: Any, keras: Any) -> None:
    cell = ConvLSTMCell(2, shape, size, **options)
    params, xs = perturbed_params(cell, 3), inputs(cell)
    layer = interop.to_keras(cell, params)

    def theirs(params: Any, xs: jax.Array) -> Any:
        others = [variable.value for variable in layer.non_trainable_variables]
        (ys, h, c), _ = layer.stateless_call(jax.tree.leaves(params), others, xs)
        return rx.cells.LSTMState(h, c), ys

    expected = values_and_gradients(theirs, params, xs)
    assert_close("keras", values_and_gradients(lambda *args: rx.scan(cell, *args), params, xs), expected, 1e-5)


def convolve(x: Any, kernel: Any, bias: Any, strides: int = 1, dilation: int = 1, same: bool = True) -> Any:
    """Channels last, as a sum over the taps; SAME is (n/stride rounded up) windows, the odd zero at the end."""
    pads, sizes = [], []
    for n, k in zip(x.shape[1:-1], kernel.shape, strict=False):
        extent = (k - 1) * dilation + 1
        sizes.append(-(-n // strides) if same else (n - extent) // strides + 1)
        zeros = max((sizes[-1] - 1) * strides + extent - n, 0)
        pads.append((zeros // 2, zeros - zeros // 2) if same else (0, 0))
    x = np.pad(x, [(0, 0), *pads, (0, 0)])
    y = np.zeros((x.shape[0], *sizes, kernel.shape[-1])) + (0 if bias is None else bias)
    for tap in np.ndindex(*kernel.shape[:-2]):
        first = [at * dilation for at in tap]
        window = [slice(f, f + (s - 1) * strides + 1, strides) for f, s in zip(first, sizes, strict=True)]
        y += x[(slice(None), *window)] @ kernel[tap]
    return y


def by_hand(cell: Any, params: Any, xs: Any, state: Any) -> Any:
    """The equations, step by step, in NumPy."""
    sigmoid, size = lambda a: 1 / (1 + np.exp(-a)), cell.hidden_size
    kernel, recurrent_kernel, bias, recurrent_bias = params[:4]
    h, c, ys = state[0], state[-1], []
    for t in range(xs.shape[1]):
        z = convolve(xs[:, t], kernel, bias, cell.strides, cell.dilation, cell.padding == "SAME")
        u = convolve(h, recurrent_kernel, recurrent_bias)
        if isinstance(cell, ConvElmanCell):
            h = np.tanh(z + u)
        elif isinstance(cell, ConvGRUCell):
            z_r, z_z, z_n = np.split(z, 3, axis=-1)
            u_r, u_z, u_n = np.split(u, 3, axis=-1)
            r = sigmoid(z_r + u_r)
            if not cell.reset_after:
                u_n = convolve(r * h, recurrent_kernel[..., 2 * size :], recurrent_bias[2 * size :])
            gate = sigmoid(z_z + u_z)
            h = (1 - gate) * np.tanh(z_n + (r if cell.reset_after else 1) * u_n) + gate * h
        else:
            i, f, g, o = np.split(z + u, 4, axis=-1)
            c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
            h = sigmoid(o) * np.tanh(c) @ params.projection_kernel
        ys.append(h)
    return (h, c)[: len(state)], np.stack(ys, axis=1)


@pytest.mark.parametrize(
    "cell",
    [
        ConvElmanCell(3, (4, 5), (2, 3), strides=2, recurrent_bias=True),
        ConvGRUCell(3, (6, 5), (2, 3), padding="VALID", dilation=2),
        ConvGRUCell(3, (4, 5), (3, 2), False, recurrent_bias=True),
        ConvLSTMCell(3, (5,), 4, 2, strides=3),
    ],
    ids=str,
)
def test_values_and_derivatives_are_those_of_the_equations(cell: Any) -> None:
    with jax.enable_x64(True):
        state = jax.eval_shape(lambda: cell.initial_state((2,)))
        args = (perturbed_params(cell, 3), inputs(cell), normal_like(state, 2))
        args = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), args)
        out, grads = values_and_gradients(lambda *args: rx.scan(cell, *args), *args)
        cotangent = jax.tree.map(np.asarray, normal_like(out, seed=3))
        args, out, grads = jax.tree.map(np.asarray, (args, out, grads))
    assert_close("values", jax.tree.leaves(out), jax.tree.leaves(by_hand(cell, *args)), 1e-10)

    def dot(a: Any, b: Any) -> float:
        return sum(np.vdot(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))

    for seed in range(3):
        rng = np.random.default_rng(seed)
        directions = jax.tree.map(lambda leaf: rng.standard_normal(leaf.shape), args)  # noqa: B023
        losses = []
        for small in (1e-5, -1e-5):
            moved = jax.tree.map(lambda leaf, d: leaf + small * d, args, directions)  # noqa: B023
            losses.append(dot(by_hand(cell, *moved), cotangent))
        np.testing.assert_allclose(dot(grads, directions), (losses[0] - losses[1]) / 2e-5, rtol=1e-6, atol=1e-6)


def test_flax_modules_take_channels_for_the_input_size() -> None:
    layer = rx.Stack((rx.Bidirectional(STRIDED), rx.Zoneout(ConvGRUCell(2, STRIDED.output_shape, 3))))
    xs, lengths = inputs(STRIDED), jnp.array([2, 4])
    module = rnn.Recurrent(layer, 3, deterministic=True, rngs=nnx.Rngs(0))
    params = jax.tree.map(lambda p: p[...], module.params, is_leaf=lambda p: isinstance(p, nnx.Variable))
    state, ys = rx.scan(layer, params, xs, lengths=lengths)
    assert_close("nnx", module(xs, lengths=lengths), (ys, state), 1e-6)

    module, cell = linen.Recurrent(STRIDED), STRIDED
    variables = module.init(jax.random.key(0), xs)
    params = cell.params_type(**variables["params"])
    state, ys = rx.scan(cell, params, xs)
    assert_close("linen", module.apply(variables, xs), (ys, state), 1e-6)
    y, stepped = module.apply(variables, xs[:, 0], method="step")
    assert_close("linen, one step", (stepped, y), rx.step(cell, params, xs[:, 0]), 1e-6)


def test_initialisers_see_one_gate_with_its_taps() -> None:
    params = ConvLSTMCell(8, (6, 6), (3, 5)).init(jax.random.key(0), 4)
    assert params.kernel.shape == (3, 5, 4, 32)
    assert params.recurrent_kernel.shape == (3, 5, 8, 32)
    bound = np.sqrt(6 / (15 * (4 + 8)))
    assert 0.9 * bound < np.abs(params.kernel).max() <= bound
    for filters in jnp.split(params.recurrent_kernel.reshape(-1, 32), 4, axis=-1):
        np.testing.assert_allclose(filters.T @ filters, np.eye(8), atol=1e-5)
    np.testing.assert_array_equal(params.bias.reshape(4, 8).sum(axis=1), [0, 8, 0, 0])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ConvLSTMCell(2, (), 3), r"`input_shape` must be the size of each spatial axis, .*got \(\)"),
        (lambda: ConvLSTMCell(2, (4, 0), 3), r"`input_shape` must be the size .*got \(4, 0\)"),
        (lambda: ConvGRUCell(2, (4, 4), (3,)), r"`kernel_size` must be a positive int, or one for each of the 2 spa"),
        (lambda: ConvGRUCell(2, 4, 3, strides=0), r"`strides` must be a positive int, .* \(4,\); got 0"),
        (lambda: ConvElmanCell(2, 4, 3, padding="full"), r"`padding` must be \"SAME\", \"VALID\", .*got 'full'"),
        (lambda: ConvElmanCell(2, (4, 4), 3, padding=1), r"`padding` .*each of the 2 spatial axes.*got 1"),
        (lambda: ConvElmanCell(2, 4, 3, padding="VALID", dilation=2), r"`kernel_size` must fit .*over \(5,\)"),
        (
            lambda: rx.scan(STRIDED, perturbed_params(STRIDED, 3), jnp.ones((2, 7, 4, 5, 3))),
            r"`input_shape` must be the spatial shape of the inputs, \(4, 5\); got ConvLSTMCell\(.*\(5, 4\)",
        ),
        (
            lambda: rx.scan(STRIDED, perturbed_params(STRIDED, 3), jnp.ones((5, 4, 3))),
            r"`xs` must be \[\*B, T, space, space, I\], at least 4 axes; got float32\[5, 4, 3\]",
        ),
    ],
)
def test_errors_teach(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
