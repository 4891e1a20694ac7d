"""Windows, convolutions and what else stands beside a recurrence: in loops, under masks, composed, and in Flax."""

import re
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import recurrax as rx
from recurrax import nnx as rnn
from recurrax.testing import assert_close, check_contract, normal_like, perturbed_params, values_and_gradients


def normal(*shape: int, seed: int = 1) -> jax.Array:
    return normal_like(jax.ShapeDtypeStruct(shape, jnp.float32), seed)


def windows(xs: np.ndarray, state: np.ndarray, mask: np.ndarray, reset: np.ndarray, reverse: bool) -> tuple:
    """The last inputs of each unmasked step, row by row, as a stream would see them."""
    ys, finals = np.zeros((*xs.shape[:2], state.shape[1] + 1, xs.shape[2])), []
    for row, past in enumerate(map(list, state)):
        nothing = [np.zeros(xs.shape[2])] * len(past)
        steps = range(xs.shape[1])
        for t in reversed(steps) if reverse else steps:
            # Forwards a segment ends before its first step; backwards it ends after that step.
            past = nothing if reset[row, t] and not reverse else past
            if mask[row, t]:
                ys[row, t] = [*past, xs[row, t]]
                past = [*past, xs[row, t]][1:]
            past = nothing if reset[row, t] and reverse else past
        finals.append(np.reshape(past, state.shape[1:]))
    return np.stack(finals), ys


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize(("steps", "width"), [(0, 3), (1, 4), (2, 4), (11, 1), (11, 3)])
def test_windows_hold_the_last_real_steps_of_a_segment(steps: int, width: int, reverse: bool) -> None:
    rng = np.random.default_rng(0)
    xs, state = rng.standard_normal((5, steps, 2)), rng.standard_normal((5, width - 1, 2))
    every, none = np.ones((5, steps), bool), np.zeros((5, steps), bool)
    mask, reset = rng.random((5, steps)) < 0.7, rng.random((5, steps)) < 0.3
    layer = rx.Window(2, width)
    with jax.enable_x64(True):
        for options in ({}, {"mask": mask}, {"reset": reset}, {"mask": mask, "reset": reset}):
            valid, restart = options.get("mask", every), options.get("reset", none)
            expected = windows(xs, state, valid, restart, reverse)
            held = np.where(valid[..., None], xs, np.nan)
            final, ys = rx.scan(layer, (), held, rx.layers.WindowState(state), reverse=reverse, **options)
            assert_close(f"{list(options)}", (final.xs, ys.reshape(expected[1].shape)), expected, 0.0)


def test_a_convolution_is_a_product_with_the_window() -> None:
    layer, xs = rx.CausalConv(3, 4), normal(2, 9, 3)
    params = perturbed_params(layer, 3)
    _, ys = rx.scan(layer, params, xs)
    expected = np.stack([np.convolve(xs[0, :, k], params.kernel[::-1, k])[:9] + params.bias[k] for k in range(3)], -1)
    assert_close("numpy.convolve", ys[0], expected, 1e-6)
    mask = np.array([[1, 1, 0, 1, 0, 0, 1, 1, 1], [0, 1, 1, 1, 1, 1, 1, 0, 0]], bool)
    _, ys = rx.scan(layer, params, xs, mask=mask)
    _, seen = rx.scan(rx.Window(3, 4), (), xs, mask=mask)
    expected = jnp.einsum("btwh,wh->bth", seen.reshape(2, 9, 4, 3), params.kernel) + params.bias[None, None]
    assert_close("the window", ys, jnp.where(mask[..., None], expected, 0), 1e-6)


@pytest.mark.parametrize("layer", [rx.Window(3, 3), rx.CausalConv(3)], ids=str)
def test_no_loop_over_steps(layer: rx.Layer) -> None:
    params, flags = layer.init(jax.random.key(0), 3), jnp.ones((2, 50), bool)
    for options in ({}, {"mask": flags, "reset": flags, "reverse": True}):
        loss = lambda xs, options=options: rx.scan(layer, params, xs, **options)[1].sum()  # noqa: E731
        jaxpr = str(jax.make_jaxpr(jax.grad(loss))(jnp.ones((2, 50, 3))))
        assert not re.search(r"\b(scan|while)\[", jaxpr)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (rx.Dense(5), nn.Dense(5)),
        (rx.Dense(5, bias=False), nn.Dense(5, use_bias=False)),
        (rx.RMSNorm(), nn.RMSNorm()),
        (rx.LayerNorm(1e-3), nn.LayerNorm(1e-3)),
    ],
    ids=str,
)
def test_what_takes_each_step_by_itself_equals_flax(ours: rx.Layer, theirs: nn.Module) -> None:
    params, xs = perturbed_params(ours, 4, scale=0.5), normal(2, 7, 4)
    tree = {name: leaf for name, leaf in params._asdict().items() if leaf is not None}
    flax = values_and_gradients(lambda tree, xs: theirs.apply({"params": tree}, xs), tree, xs)
    got = values_and_gradients(lambda tree, xs: rx.scan(ours, type(params)(**tree), xs)[1], tree, xs)
    assert_close("Flax", got, flax, 1e-5)


def griffin(recurrent: rx.Layer) -> rx.Layer:
    branch = rx.Stack((rx.Dense(4), rx.CausalConv(4, 3), recurrent))
    return rx.Residual(rx.Stack((rx.RMSNorm(), rx.Gated(branch, rx.Dense(4, jax.nn.gelu)), rx.Dense(4))))


QRNN = rx.Stack((rx.LayerNorm(), rx.Activation(jnp.tanh), rx.Window(4, 2), rx.QRNNCell(3, "f")))
GRIFFIN = griffin(rx.RGLRUCell(4, num_heads=2))


@pytest.mark.parametrize(
    ("layer", "implementation"), [(QRNN, "associative"), (GRIFFIN, "blocked")], ids=["qrnn", "griffin"]
)
def test_contract(layer: rx.Layer, implementation: str, promises: tuple[str, ...] | None) -> None:
    check_contract(layer, 4, implementation=implementation, promises=promises)


@pytest.mark.thorough
def test_a_block_under_every_implementation_and_in_both_directions() -> None:
    layer = rx.Stack((rx.Bidirectional(GRIFFIN, merge="sum"), griffin(rx.LRUCell(4, 3))))
    params, xs = perturbed_params(layer, 4), normal(2, 7, 4)

    def run(implementation: str | None) -> Any:
        return rx.scan(layer, params, xs, lengths=np.array([7, 4]), implementation=implementation)

    expected = run(None)
    for name in ("sequential", "associative", "blocked"):
        assert_close(name, run(name), expected, 1e-5)


@pytest.mark.thorough
def test_a_block_in_nnx() -> None:
    layer, xs = GRIFFIN, normal(2, 7, 4)
    model = rnn.Recurrent(layer, 4, rngs=nnx.Rngs(0))
    output, state = model(xs, lengths=jnp.array([7, 5]), implementation="associative")
    params = jax.tree.map(lambda p: p[...], model.params, is_leaf=lambda p: isinstance(p, nnx.Variable))
    expected = rx.scan(layer, params, xs, lengths=jnp.array([7, 5]))
    assert_close("the core", (state, output), expected, 1e-5)
    grads = nnx.grad(lambda model: model(xs, implementation="associative")[0].sum())(model)
    assert all(jnp.any(leaf != 0) for leaf in jax.tree.leaves(grads))


def test_what_a_block_cannot_be() -> None:
    for make, message in {
        lambda: rx.Window(3, 0): "`width` must be an int of at least 1; got 0.",
        lambda: rx.Dense(0): "`features` must be an int of at least 1; got 0.",
        lambda: rx.CausalConv(4).init(jax.random.key(0), 3): "of CausalConv(hidden_size=4) must be 4; got 3.",
        lambda: rx.Gated(rx.Dense(3), rx.Dense(4)).init(jax.random.key(0), 2): "as many features as `layer`, 3; got 4",
    }.items():
        with pytest.raises(ValueError, match=re.escape(message)):
            make()
    with pytest.raises(TypeError, match=re.escape("`gate` must be a recurrax.Layer")):
        rx.Gated(rx.Dense(3), jax.nn.gelu)
