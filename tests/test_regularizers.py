"""Zoneout, dropout over time and on weights: expectations, which steps share a mask, and rest without a key."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import recurrax as rx
from recurrax.testing import assert_close, check_contract, noise, perturbed_params

XS = noise(jax.ShapeDtypeStruct((2, 6, 3), jnp.float32), 1)
KEY = jax.random.key(3)


@pytest.mark.parametrize(
    "layer",
    [
        rx.Zoneout(rx.LSTMCell(3), (0.1, 0.5)),
        rx.Zoneout(rx.GRUCell(3, reset_after=False), 0.3),
        rx.Stack((rx.Dropout(0.3, shared=True), rx.RecurrentDropout(rx.GRUCell(3), 0.3))),
        rx.WeightDrop(rx.Bidirectional(rx.LSTMCell(3, proj_size=2)), 0.4),
    ],
    ids=str,
)
def test_contract(layer: rx.Layer) -> None:
    check_contract(layer)


def test_zoneout_keeps_or_takes_and_rests_at_its_expectation() -> None:
    cell = rx.LSTMCell(4)
    layer, params = rx.Zoneout(cell, (0.25, 0.75)), perturbed_params(cell, 3)
    state = noise(jax.eval_shape(lambda: cell.initial_state((2,))), 2)
    draws = jax.jit(jax.vmap(lambda key: rx.step(layer, params, state, XS[:, 0], key=key)))
    drawn, ys = draws(jax.random.split(KEY, 4000))
    taken, _ = rx.step(cell, params, state, XS[:, 0])
    for got, old, new, rate in zip(drawn, state, taken, (0.25, 0.75), strict=True):
        kept = np.asarray(got == old)
        np.testing.assert_allclose(np.where(kept, old, got), np.where(kept, old, np.broadcast_to(new, got.shape)), 1e-6)
        np.testing.assert_allclose(kept.mean(axis=0), rate, atol=0.04)
    np.testing.assert_array_equal(ys, drawn.h)
    rest, y = rx.step(layer, params, state, XS[:, 0])
    expected = [rate * old + (1 - rate) * new for old, new, rate in zip(state, taken, (0.25, 0.75), strict=True)]
    assert_close("without a key", (rest.h, rest.c, y), (*expected, expected[0]), 1e-6)
    none, certain = rx.Zoneout(cell, 0.0), rx.scan(cell, params, XS)
    assert_close("rate 0", rx.scan(none, params, XS, key=KEY), certain, 0.0)


def test_recurrent_dropout_masks_the_same_features_at_every_step() -> None:
    cell = rx.GRUCell(4)
    layer, params = rx.RecurrentDropout(cell, 0.5), perturbed_params(cell, 3)

    def by_hand(mask: jax.Array) -> jax.Array:
        """The mask stands in front of the recurrent product alone: h itself goes on unmasked."""
        h, ys = jnp.zeros((2, 4)), []
        for t in range(6):
            u = (h * mask) @ params.recurrent_kernel + params.recurrent_bias[None]
            z = XS[:, t] @ params.kernel + params.bias[None]
            (u_r, u_z, u_n), (z_r, z_z, z_n) = jnp.split(u, 3, axis=1), jnp.split(z, 3, axis=1)
            r, gate = jax.nn.sigmoid(z_r + u_r), jax.nn.sigmoid(z_z + u_z)
            h = (1 - gate) * jnp.tanh(z_n + r * u_n) + gate * h
            ys.append(h)
        return jnp.stack(ys, axis=1)

    for implementation in ("hoisted", "xla"):
        _, ys = rx.scan(layer, params, XS, key=KEY, implementation=implementation)
        (own,) = [KEY]
        mask = 2 * jax.random.bernoulli(own, 0.5, (2, 4)).astype(jnp.float32)
        assert_close(implementation, ys, by_hand(mask), 1e-5)
    gradients = [
        jax.grad(lambda p, i=i: rx.scan(layer, p, XS, key=KEY, implementation=i)[1].sum())(params)
        for i in ("hoisted", "xla")
    ]
    assert_close("gradients", *gradients, 1e-5)


def test_shared_dropout_is_the_same_at_every_step_and_keeps_the_expectation() -> None:
    _, ys = rx.scan(rx.Dropout(0.25, shared=True), (), jnp.ones((500, 6, 8)), key=KEY)
    np.testing.assert_array_equal(ys, np.broadcast_to(ys[:, :1], ys.shape))
    np.testing.assert_allclose(ys.mean(), 1, atol=0.05)


def test_weight_drop_drops_the_named_weights_alone() -> None:
    cell = rx.LSTMCell(4)
    params = perturbed_params(cell, 3)
    seen = {}
    names = ("kernel", "recurrent_kernel", "bias")
    for name in names:
        layer = rx.WeightDrop(cell, 0.5, (name,))
        gradient = jax.grad(lambda p, layer=layer: rx.scan(layer, p, XS, key=KEY)[1].sum())(params)
        seen[name] = {other: float(jnp.mean(getattr(gradient, other) == 0)) for other in names}
    for name in names:
        assert 0.25 < seen[name][name] < 0.75  # A dropped weight has no gradient,
        assert all(seen[name][other] == 0 for other in names if other != name)  # and all others have one.


@pytest.mark.parametrize(
    ("make", "kind", "message"),
    [
        (lambda: rx.Zoneout(rx.LSTMCell(3), (0.1,)), ValueError, "`rate` of Zoneout must be one number or 2"),
        (lambda: rx.Zoneout(rx.LSTMCell(3), 1.0), ValueError, "`rate` must be at least 0 and below 1; got 1.0"),
        (lambda: rx.Zoneout(rx.Dropout(0.1)), TypeError, "`layer` of Zoneout must be a cell"),
        (lambda: rx.RecurrentDropout(rx.GRUCell(3, reset_after=False)), TypeError, "must be an affine cell"),
    ],
)
def test_errors_teach(make, kind, message) -> None:
    with pytest.raises(kind, match=message):
        make()
