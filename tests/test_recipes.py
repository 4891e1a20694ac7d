"""The recipes of docs/regularization.md against Keras, and the penalties on outputs by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import recurrax as rx
from recurrax import linen
from recurrax import nnx as rnn
from recurrax.testing import assert_close, normal_like, perturbed_params

XS = normal_like(jax.ShapeDtypeStruct((2, 6, 3), jnp.float32), 1)
KEY = jax.random.key(3)


def test_penalties_and_projections_are_those_of_keras(keras, run_page) -> None:
    page = run_page("docs/regularization.md")
    params = perturbed_params(rx.Bidirectional(rx.LSTMCell(4)), 3, scale=2.0)
    kernels = [params.forward.recurrent_kernel, params.backward.recurrent_kernel]
    keras_of = keras.regularizers
    for ours, theirs in {
        page["l1"](0.1): keras_of.L1(0.1),
        page["l2"](0.1): keras_of.L2(0.1),
        page["orthogonal"](0.1): keras_of.OrthogonalRegularizer(0.1),
    }.items():
        got, grads = jax.value_and_grad(page["penalty"])(params, ["recurrent_kernel"], ours)
        expected = [jax.value_and_grad(theirs)(kernel) for kernel in kernels]
        np.testing.assert_allclose(got, sum(value for value, _ in expected), rtol=1e-5)
        own = [grads.forward.recurrent_kernel, grads.backward.recurrent_kernel]
        assert_close(str(theirs), own, [grad for _, grad in expected], 1e-5)
        assert not grads.forward.kernel.any()

    constraints = keras.constraints
    for name, theirs in {
        "non_negative": constraints.NonNeg(),
        "max_norm": constraints.MaxNorm(2.0),
        "unit_norm": constraints.UnitNorm(),
        "min_max_norm": constraints.MinMaxNorm(0.5, 1.0, rate=0.9),
    }.items():
        got = page["projected"](params, ["recurrent_kernel"], page[name])
        assert_close(name, got.backward.recurrent_kernel, theirs(kernels[1]), 1e-5)
        np.testing.assert_array_equal(got.backward.kernel, params.backward.kernel)

    decay = optax.add_decayed_weights(2 * 0.1, mask=page["decayed"])
    zeros = jax.tree.map(jnp.zeros_like, params)
    updates, _ = decay.update(zeros, decay.init(params), params)
    expected = jax.grad(page["penalty"])(params, ["kernel", "recurrent_kernel"], keras_of.L2(0.1))
    assert_close("weight decay", updates, expected, 1e-5)


def test_gal_masks_are_those_of_keras(keras) -> None:
    cell = rx.LSTMCell(4)
    params = perturbed_params(cell, 3)
    theirs = keras.layers.LSTMCell(4, recurrent_dropout=0.5, recurrent_activation="sigmoid")
    theirs.build((2, 3))
    for weight, value in zip(theirs.weights, jax.tree.leaves(params), strict=False):
        weight.assign(value)
    mask = 2 * jax.random.bernoulli(KEY, 0.5, (2, 4)).astype(jnp.float32)
    theirs._recurrent_dropout_mask = [mask] * 4  # Keras draws one for each gate.
    state, ys = [jnp.zeros((2, 4))] * 2, []
    for t in range(6):
        y, state = theirs(XS[:, t], state, training=True)
        ys.append(y)
    _, got = rx.scan(rx.RecurrentDropout(cell, 0.5), params, XS, key=KEY)
    assert_close("keras", got, jnp.stack(ys, axis=1), 1e-5)


def test_named_reaches_into_cells_and_modules() -> None:
    layer = rx.Stack((rx.LearnedInitialState(rx.LSTMCell(4)), rx.Bidirectional(rx.GRUCell(2))))
    params = layer.init(KEY, 3)
    meant = rx.param_mask(params, "backward", "state", "bias")
    assert meant[0].state == rx.cells.LSTMState(True, True)
    assert meant[0].layer == rx.cells.LSTMParams(False, False, True)
    assert meant[1].forward == rx.cells.GRUParams(False, False, True, False)
    assert all(meant[1].backward)
    variables = linen.Recurrent(layer).init(KEY, XS)
    assert rx.param_mask(variables, "kernel")["params"]["layers_1"]["forward"]["kernel"]
    model = rnn.Recurrent(layer, 3, rngs=nnx.Rngs(0))
    for tree in (model.params, nnx.state(model), nnx.to_pure_dict(nnx.state(model))):
        assert sum(jax.tree.leaves(rx.param_mask(tree, "recurrent_kernel"))) == 3
    with pytest.raises(ValueError, match=r"`names` must be among layer, kernel, .*; got 'kernal'"):
        rx.param_mask(params, "kernel", "kernal")


@pytest.mark.thorough
def test_penalties_on_outputs_see_real_steps_of_one_segment_alone() -> None:
    ys = normal_like(jax.ShapeDtypeStruct((3, 5, 2), jnp.float32), 4)
    mask = np.array([[1, 1, 1, 0, 0], [0, 1, 1, 0, 1], [0, 0, 0, 0, 0]], bool)
    reset = np.array([[0, 0, 1, 0, 0], [1, 0, 0, 1, 0], [1, 0, 0, 0, 0]], bool)
    spoilt = jnp.where(jnp.broadcast_to(mask[..., None], ys.shape), ys, jnp.nan)
    squares = [ys[b, t] ** 2 for b, t in np.argwhere(mask)]
    changes = [(ys[b, t] - ys[b, t - 1]) ** 2 for b, t in [(0, 1), (1, 2)]]
    ar, ar_grads = jax.value_and_grad(rx.penalties.activation_penalty)(spoilt, mask=mask)
    tar, tar_grads = jax.value_and_grad(rx.penalties.temporal_activation_penalty)(spoilt, mask=mask, reset=reset)
    np.testing.assert_allclose([ar, tar], [np.mean(squares), np.mean(changes)], rtol=1e-5)
    assert not ar_grads[~mask].any()
    assert not tar_grads[~mask].any()

    unmasked = [rx.penalties.activation_penalty(ys), rx.penalties.temporal_activation_penalty(ys)]
    np.testing.assert_allclose(unmasked, [jnp.mean(ys**2), jnp.mean((ys[:, 1:] - ys[:, :-1]) ** 2)], rtol=1e-5)
    lengths = jnp.array([3, 5, 0])
    in_space = jnp.stack([ys, ys], axis=-2)  # [B, T, 2, O]
    swapped = jnp.swapaxes(in_space, 0, 1)
    for of in (rx.penalties.activation_penalty, rx.penalties.temporal_activation_penalty):
        expected = of(ys, mask=rx.lengths_to_mask(lengths, 5))
        for got in (
            of(ys, lengths=lengths),
            of(in_space, lengths=lengths, feature_ndim=2),
            of(swapped, lengths=lengths, feature_ndim=2, time_major=True),
        ):
            np.testing.assert_allclose(got, expected, rtol=1e-5)
        half = of(ys.astype(jnp.bfloat16), lengths=lengths)
        assert half.dtype == jnp.float32
        np.testing.assert_allclose(half, expected, rtol=2e-2)
        assert of(ys, lengths=jnp.zeros(3, int)) == of(ys[:, :0]) == 0
        with pytest.raises(
            ValueError, match=r"`lengths` must be int\[3\], .* of `ys` float32\[3, 5, 2\]; got int32\[2"
        ):
            of(ys, lengths=jnp.array([1, 2]))
        with pytest.raises(ValueError, match=r"`ys` must be \[\*B, T, O\]"):
            of(ys[0, 0])
