"""Zoneout, dropout over time and on weights: expectations, which steps share a mask, and rest without a key."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import recurrax as rx
from recurrax import linen
from recurrax import nnx as rnn
from recurrax.layers._wrapper import AffineStandIn, StandIn
from recurrax.testing import assert_close, check_contract, normal_like, perturbed_params, values_and_gradients

XS = normal_like(jax.ShapeDtypeStruct((2, 6, 3), jnp.float32), 1)
KEY = jax.random.key(3)
RICH = rx.Stack(
    (
        rx.Dropout(0.3, shared=True),
        rx.Bidirectional(
            rx.LearnedInitialState(rx.UpdateDropout(rx.LSTMCell(2), 0.3)), rx.RecurrentDropout(rx.ElmanCell(2), 0.3)
        ),
        rx.Residual(rx.LearnedInitialState(rx.Zoneout(rx.ElmanCell(4), 0.3))),
        rx.WeightDrop(rx.LearnedInitialState(rx.Residual(rx.ElmanCell(4))), 0.3),
    ),
    dropout=0.1,
)


@pytest.mark.parametrize(
    "layer",
    [
        rx.Zoneout(rx.GradientClip(rx.RecurrentDropout(rx.UpdateDropout(rx.GRUCell(3), 0.3), 0.3), 100.0), 0.3),
        RICH,
    ],
    ids=str,
)
def test_contract(layer: rx.Layer, promises: tuple[str, ...] | None) -> None:
    check_contract(layer, promises=promises)


def test_zoneout_keeps_or_takes_and_rests_at_its_expectation() -> None:
    cell = rx.LSTMCell(4)
    layer, params = rx.Zoneout(cell, (0.25, 0.75)), perturbed_params(cell, 3)
    state = normal_like(jax.eval_shape(lambda: cell.initial_state((2,))), 2)
    draws = jax.jit(jax.vmap(lambda key: rx.step(layer, params, XS[:, 0], state, key=key)))
    drawn, ys = draws(jax.random.split(KEY, 4000))
    taken, _ = rx.step(cell, params, XS[:, 0], state)
    for got, old, new, rate in zip(drawn, state, taken, (0.25, 0.75), strict=True):
        kept = np.asarray(got) == np.asarray(old)
        np.testing.assert_allclose(got, np.where(kept, old, np.broadcast_to(new, got.shape)), atol=1e-6)
        np.testing.assert_allclose(kept.mean(axis=0), rate, atol=0.04)
    np.testing.assert_array_equal(ys, drawn.h)
    rest, y = rx.step(layer, params, XS[:, 0], state)
    expected = [rate * old + (1 - rate) * new for old, new, rate in zip(state, taken, (0.25, 0.75), strict=True)]
    assert_close("without a key", (rest.h, rest.c, y), (*expected, expected[0]), 1e-6)
    none, certain = rx.Zoneout(cell, 0.0), rx.scan(cell, params, XS)
    assert_close("rate 0", rx.scan(none, params, XS, key=KEY), certain, 1e-6)


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


AFFINE = [
    rx.ElmanCell(3),
    rx.LayerNormElmanCell(3),
    rx.LSTMCell(3, proj_size=2),
    rx.PeepholeLSTMCell(3),
    rx.CIFGCell(3),
    rx.LayerNormLSTMCell(3),
    rx.SLSTMCell(3),
    rx.GRUCell(3),
    rx.GRUCell(3, reset_after=False),
    rx.LayerNormGRUCell(3),
    rx.MGUCell(3),
    rx.MGUCell(3, reset_after=False),
    rx.UGRNNCell(3),
    rx.ConvLSTMCell(3, (2, 2), 2, proj_size=2),
]


@pytest.mark.parametrize("cell", AFFINE, ids=str)
def test_update_dropout_masks_the_candidate_of_every_affine_cell(cell: rx.AffineCell) -> None:
    """From an empty state a step keeps a part of the candidate: none where that is dropped, elsewhere twice as much."""
    params = perturbed_params(cell, 3)
    x = normal_like(jax.ShapeDtypeStruct((2, *getattr(cell, "input_shape", ()), 3), jnp.float32), 4)
    masked, certain = (
        getattr(state, "c", state.h)
        for state, _ in (rx.step(rx.UpdateDropout(cell, 0.5), params, x, key=KEY), rx.step(cell, params, x))
    )
    dropped = ~jax.random.bernoulli(KEY, 0.5, certain.shape)
    assert dropped.any()
    np.testing.assert_allclose(masked, jnp.where(dropped, 0, 2 * certain), rtol=1e-5, atol=1e-6)


def test_update_dropout_loses_no_memory_and_masks_the_same_features_at_every_step() -> None:
    cell = rx.LSTMCell(4)
    layer, params = rx.UpdateDropout(cell, 0.5), perturbed_params(cell, 3)
    mask = 2 * jax.random.bernoulli(KEY, 0.5, (2, 4)).astype(jnp.float32)
    flags = {"mask": np.arange(6) != np.array([[2], [5]]), "reset": np.arange(6) == np.array([[3], [2]])}

    def by_hand(params: rx.cells.LSTMParams, xs: jax.Array) -> tuple[rx.cells.LSTMState, jax.Array]:
        h, c, ys = jnp.zeros((2, 4)), jnp.zeros((2, 4)), []
        for t in range(6):
            valid, restart = flags["mask"][:, t, None], flags["reset"][:, t, None]
            old_h, old_c = jnp.where(restart, 0, h), jnp.where(restart, 0, c)
            i, f, g, o = jnp.split(xs[:, t] @ params.kernel + old_h @ params.recurrent_kernel + params.bias[None], 4, 1)
            new_c = jax.nn.sigmoid(f) * old_c + jax.nn.sigmoid(i) * mask * jnp.tanh(g)
            new_h = jax.nn.sigmoid(o) * jnp.tanh(new_c)
            h, c = jnp.where(valid, new_h, h), jnp.where(valid, new_c, c)
            ys.append(jnp.where(valid, new_h, 0))
        return rx.cells.LSTMState(h, c), jnp.stack(ys, axis=1)

    expected = values_and_gradients(by_hand, params, XS)
    for implementation in ("hoisted", "xla"):
        options = {"key": KEY, "implementation": implementation, **flags}
        got = values_and_gradients(lambda params, xs: rx.scan(layer, params, xs, **options), params, XS)  # noqa: B023
        assert_close(implementation, got, expected, 1e-5)


@pytest.mark.parametrize("wrap", [rx.RecurrentDropout, rx.UpdateDropout, rx.WeightDrop], ids=lambda wrap: wrap.__name__)
def test_dropout_keeps_the_expectation(wrap) -> None:
    """Of a step that is linear in what is dropped."""
    cell = rx.ElmanCell(4, jnp.positive)
    params = perturbed_params(cell, 3)
    state = normal_like(jax.eval_shape(lambda: cell.initial_state((2,))), 2)
    step = jax.jit(lambda key: rx.step(wrap(cell, 0.25), params, XS[:, 0], state, key=key)[1])
    drawn = jax.vmap(step)(jax.random.split(KEY, 20_000))
    _, certain = rx.step(cell, params, XS[:, 0], state)
    off = np.abs(drawn.mean(axis=0) - certain)
    assert (off < 5 * drawn.std(axis=0) / np.sqrt(20_000)).all()
    assert drawn.std() > 0.1


def test_embedding_dropout_drops_whole_words_and_keeps_the_expectation() -> None:
    embedding = normal_like(jax.ShapeDtypeStruct((10_000, 3), jnp.float32), 1)
    dropped = rx.layers.embedding_dropout(KEY, embedding, 0.25)
    kept = np.asarray((dropped != 0).all(axis=1))
    np.testing.assert_allclose(dropped, jnp.where(kept[:, None], embedding / 0.75, 0), rtol=1e-6)
    np.testing.assert_allclose(kept.mean(), 0.75, atol=0.02)
    np.testing.assert_array_equal(rx.layers.embedding_dropout(None, embedding, 0.25), embedding)


def test_modules_draw_in_training_and_rest_in_evaluation() -> None:
    model = rnn.Recurrent(RICH, 3, rngs=nnx.Rngs(params=0, dropout=1))
    module = linen.Recurrent(RICH)
    variables = module.init({"params": KEY, "dropout": KEY}, XS, deterministic=True)
    ours = [model(XS, deterministic=rest)[0] for rest in (False, False, True, True)]
    theirs = [
        module.apply(variables, XS, deterministic=rest, rngs=None if rest else {"dropout": jax.random.key(seed)})[0]
        for seed, rest in enumerate((False, False, True, True))
    ]
    for one, other, rest, again in (ours, theirs):
        assert not jnp.allclose(one, other)
        assert not jnp.allclose(one, rest)
        np.testing.assert_array_equal(rest, again)


def test_shared_dropout_is_the_same_at_every_step_and_keeps_the_expectation() -> None:
    _, ys = rx.scan(rx.Dropout(0.25, shared=True), (), jnp.ones((500, 6, 8)), key=KEY)
    np.testing.assert_array_equal(ys, np.broadcast_to(ys[:, :1], ys.shape))
    np.testing.assert_allclose(ys.mean(), 1, atol=0.05)
    _, ys = rx.scan(rx.Dropout(0.25), (), jnp.ones((500, 6, 8)), key=KEY)
    assert not jnp.array_equal(ys[:, 0], ys[:, 1])
    np.testing.assert_allclose(ys.mean(axis=(0, 2)), 1, atol=0.05)


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


def test_weight_drop_takes_a_single_name() -> None:
    one, other = rx.WeightDrop(rx.GRUCell(3), 0.5, "kernel"), rx.WeightDrop(rx.GRUCell(3), 0.5, ("kernel",))
    assert one == other
    assert hash(one) == hash(other)


def test_two_update_dropouts_multiply_their_masks() -> None:
    """From an empty state a step of Elman's cell puts out its candidate."""
    cell = rx.ElmanCell(64)
    params, layer = perturbed_params(cell, 3), rx.UpdateDropout(rx.UpdateDropout(cell, 0.5), 0.2)
    outer, within = jax.random.split(KEY)
    kept = jax.random.bernoulli(outer, 0.8, (2, 64)) & jax.random.bernoulli(within, 0.5, (2, 64))
    _, certain = rx.step(cell, params, XS[:, 0])
    for implementation in ("xla", "hoisted"):
        _, y = rx.step(layer, params, XS[:, 0], key=KEY, implementation=implementation)
        assert_close(implementation, y, jnp.where(kept, certain / 0.4, 0), 1e-6)


class Deaf(rx.ElmanCell):
    def pointwise(self, params, a, state):
        h = jnp.tanh(a[0])
        return rx.cells.ElmanState(h), h


class Careless(rx.ElmanCell):
    def pointwise(self, params, a, state, update=None):
        h = jnp.tanh(a[0])
        return rx.cells.ElmanState(h), h


class Silent(rx.Cell):
    """A cell that does not say what its output is."""

    def init(self, key, input_size, dtype=jnp.float32):
        return jnp.ones((input_size, self.hidden_size), dtype)

    def initial_state(self, batch_shape=(), dtype=jnp.float32):
        return rx.cells.ElmanState(jnp.zeros((*batch_shape, self.hidden_size), dtype))

    def project_inputs(self, params, xs):
        return xs @ params

    def step(self, params, state, z):
        h = jnp.tanh(state.h + z)
        return rx.cells.ElmanState(h), 2 * h


def run(layer: rx.Layer) -> None:
    rx.scan(layer, layer.init(KEY, 3), XS, key=KEY)


@pytest.mark.parametrize(
    ("make", "kind", "message"),
    [
        (lambda: rx.Zoneout(rx.LSTMCell(3), (0.1,)), ValueError, "`rate` of Zoneout must be one number or 2"),
        (lambda: rx.Zoneout(rx.LSTMCell(3), 1.0), ValueError, "`rate` must be at least 0 and below 1; got 1.0"),
        (lambda: rx.Zoneout(rx.Dropout(0.1)), TypeError, "`layer` of Zoneout must be a cell"),
        (lambda: rx.RecurrentDropout(rx.GRUCell(3, reset_after=False)), TypeError, "must be an affine cell"),
        (lambda: rx.UpdateDropout(rx.CfCCell(3)), TypeError, "`layer` of UpdateDropout must be an AffineCell"),
        (lambda: rx.UpdateDropout(Deaf(3)), TypeError, "must pass its candidate through `update`; Deaf"),
        (lambda: run(rx.UpdateDropout(Careless(3))), TypeError, "must pass its candidate through `update`; Careless"),
        (lambda: rx.WeightDrop(rx.GRUCell(3), 0.1, ("kernal",)).init(KEY, 3), ValueError, "`names` must be among kern"),
        (lambda: rx.WeightDrop(rx.GRUCell(3), 0.1, (1,)), TypeError, "`names` of WeightDrop must be the name of a"),
        (lambda: rx.WeightDrop(rx.GRUCell(3), 0.1, ()), ValueError, "must hold at least 1 name"),
        (lambda: rx.Zoneout(rx.SLSTMCell(3), (0.1,) * 4), ValueError, "must be one number or 2"),
        (lambda: run(rx.Zoneout(Silent(3), 0.1)), TypeError, "must say how its output follows from its state; Silent"),
        (lambda: rx.layers.embedding_dropout(KEY, jnp.ones((3, 2)), 1.0), ValueError, "`rate` must be at least 0"),
    ],
)
def test_errors_teach(make, kind, message) -> None:
    with pytest.raises(kind, match=message):
        make()


def test_a_cell_without_update_takes_the_other_wrappers() -> None:
    cell = Deaf(3)
    layer, params = rx.GradientClip(rx.RecurrentDropout(cell, 0.0), 100.0), perturbed_params(cell, 3)
    assert_close("values", rx.scan(layer, params, XS, key=KEY), rx.scan(rx.ElmanCell(3), params, XS), 1e-6)


@pytest.mark.parametrize("implementation", ["xla", "hoisted"])
def test_gradient_clip_bounds_what_flows_back_at_every_step(implementation: str) -> None:
    cell, bound = rx.ElmanCell(4), 0.05
    layer, params = rx.GradientClip(cell, bound), perturbed_params(cell, 3)

    def loss(params: rx.cells.ElmanParams, xs: jax.Array) -> jax.Array:
        return jnp.sum(rx.scan(layer, params, xs, implementation=implementation)[1] ** 2)

    values, (grads, dxs) = jax.jit(jax.value_and_grad(loss, (0, 1)))(params, XS)
    ys = np.asarray(rx.scan(cell, params, XS)[1], np.float64)
    before = np.concatenate([np.zeros_like(ys[:, :1]), ys[:, :-1]], axis=1)
    kernel, recurrent = np.asarray(params.kernel, np.float64), np.asarray(params.recurrent_kernel, np.float64)
    da, flows = np.zeros_like(ys), np.zeros_like(ys[:, 0])
    for t in reversed(range(ys.shape[1])):
        da[:, t] = np.clip((2 * ys[:, t] + flows) * (1 - ys[:, t] ** 2), -bound, bound)
        flows = da[:, t] @ recurrent.T
    assert (abs(da) == bound).any() and (abs(da) < bound).any()  # noqa: PT018
    assert_close("values", values, jnp.asarray((ys**2).sum()), 1e-5)
    assert_close("inputs", dxs, da @ kernel.T, 1e-5)
    assert_close("recurrent kernel", grads.recurrent_kernel, np.einsum("bti,bto->io", before, da), 1e-5)
    free = lambda params, xs: jnp.sum(rx.scan(cell, params, xs)[1] ** 2)  # noqa: E731
    forward = [jax.jvp(run, (params, XS), (params, XS))[1] for run in (loss, free)]
    assert_close("forward mode", *forward, 1e-5)


class Watching(rx.ElmanCell):
    """Remembers the dtype that its products are to be formed in."""

    seen = None

    def project_inputs(self, params, xs):
        type(self).seen = params.kernel.dtype
        return super().project_inputs(params, xs)


CLIPPED = rx.GradientClip(rx.ElmanCell(3), 0.05)


@pytest.mark.parametrize("layer", [CLIPPED, rx.Zoneout(rx.RecurrentDropout(CLIPPED, 0.1), 0.1)], ids=str)
@pytest.mark.parametrize(
    "implementation", ["newton", rx.experimental.Newton(fallback=True), "associative", "chunked", "cudnn"]
)
def test_what_takes_no_step_by_itself_refuses_to_clip(layer: rx.Layer, implementation: str) -> None:
    with pytest.raises(ValueError, match="cannot serve"):
        rx.scan(layer, layer.init(KEY, 3), XS, implementation=implementation)


@pytest.mark.parametrize("kind", [StandIn, AffineStandIn])
def test_a_cell_in_the_place_of_another_passes_on_all_that_may_be_asked_of_it(kind: type[StandIn]) -> None:
    asked = {name for name in dir(rx.Cell) if not name.startswith("_")}
    own = {"hidden_size", "dtype", "step", "apply", "parts", "causal", "stochastic"}
    if kind is AffineStandIn:
        asked |= {name for name in dir(rx.AffineCell) if not name.startswith("_")}
        # What the step consists of is the same for all affine cells; the rest are fields for `init`, and what it calls.
        own |= {field.name for field in dataclasses.fields(rx.AffineCell)}
        own |= {"step_preactivations", "split", "shifted", "gate_params", "recurrent_shape", "has_recurrent_bias"}
    passed_on = {name for base in kind.__mro__ if issubclass(base, StandIn) for name in vars(base)}
    assert asked - own <= passed_on


@pytest.mark.parametrize("cell", [rx.SLSTMCell(3), rx.SLSTMCell(3, forget_gate="exp"), rx.MLSTMCell(4, 2)], ids=str)
@pytest.mark.parametrize("key", [None, KEY], ids=["rest", "drawn"])
def test_zoneout_of_a_memory_in_log_space_does_not_depend_on_its_stabilizer(cell: rx.Cell, key) -> None:
    layer, params = rx.Zoneout(cell, (0.3, 0.4)), perturbed_params(cell, 3)
    state, _ = rx.scan(cell, params, XS)
    axes = tuple(range(state.m.ndim, state.c.ndim)), tuple(range(state.m.ndim, state.n.ndim))

    def shifted(state, by):
        scales = [jnp.expand_dims(jnp.exp(-by), a) for a in axes]
        return state._replace(c=state.c * scales[0], n=state.n * scales[1], m=state.m + by)

    by = -jnp.abs(normal_like(state.m, 5)) - 1
    final, ys = rx.scan(layer, params, XS, state, key=key)
    moved, others = rx.scan(layer, params, XS, shifted(state, by), key=key)
    assert_close("outputs", ys, others, 1e-5)
    assert_close("memories", shifted(final, -final.m)[1:3], shifted(moved, -moved.m)[1:3], 1e-4)


@pytest.mark.parametrize("cell", [rx.SLSTMCell(3), rx.MLSTMCell(4, 2)], ids=str)
def test_zoneout_mixes_memories_and_not_their_parts(cell: rx.Cell) -> None:
    params = perturbed_params(cell, 3)
    state, _ = rx.scan(cell, params, XS)
    new, _ = rx.step(cell, params, XS[:, 0], state)
    drawn, _ = rx.step(rx.Zoneout(cell, (0.0, 0.5)), params, XS[:, 0], state, key=KEY)
    rest, _ = rx.step(rx.Zoneout(cell, (0.25, 0.75)), params, XS[:, 0], state)
    beside = lambda x, like: jnp.expand_dims(x, tuple(range(x.ndim, like.ndim)))  # noqa: E731
    kept = drawn.m == state.m
    assert kept.any()
    assert not kept.all()
    for name in ("c", "n"):
        old_part, new_part, got, at_rest = (getattr(s, name) for s in (state, new, drawn, rest))
        np.testing.assert_array_equal(got, jnp.where(beside(kept, got), old_part, new_part))
        logs = (jnp.exp(s.m - rest.m) for s in (state, new))
        old_part, new_part = (beside(w, part) * part for w, part in zip(logs, (old_part, new_part), strict=True))
        np.testing.assert_allclose(at_rest, 0.75 * old_part + 0.25 * new_part, rtol=1e-5, atol=1e-6)
    assert_close("h", rest.h, 0.25 * state.h + 0.75 * new.h, 1e-6)


def test_zoneout_rounds_no_decay() -> None:
    cell = rx.LRUCell(3, dtype=jnp.bfloat16, min_radius=0.999, max_radius=0.9999)
    params, xs = cell.init(KEY, 3), normal_like(jax.ShapeDtypeStruct((1, 500, 3), jnp.float32), 1)
    expected = rx.scan(cell, params, xs)[1]
    _, ys = rx.scan(rx.Zoneout(rx.Zoneout(cell, 1e-7), 1e-7), params, xs)
    np.testing.assert_allclose(ys, expected, atol=5e-3 * abs(expected).max())


def test_every_cell_says_what_its_output_is() -> None:
    """That it is what `step` returns is in the contract."""
    cells = [value for value in vars(rx).values() if isinstance(value, type) and issubclass(value, rx.Cell)]
    silent = {cell.__name__ for cell in cells if cell.output_part is None and cell.output is rx.Cell.output}
    # The output of this one is the mass that has left the state.
    assert silent == {"Cell", "AffineCell", "MCLSTMCell"}


def test_a_mask_has_no_say_in_the_dtype_of_the_products() -> None:
    half = lambda tree: jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), tree)  # noqa: E731
    cell, seen = Watching(3), []
    params = half(perturbed_params(cell, 3))
    for layer in (cell, rx.RecurrentDropout(cell, 0.3), rx.UpdateDropout(cell, 0.3)):
        jax.eval_shape(lambda p, x, layer=layer: rx.scan(layer, p, x, key=KEY), params, half(XS))
        seen.append(Watching.seen)
    assert seen == [jnp.bfloat16] * 3


@pytest.mark.parametrize("key", [None, KEY], ids=["rest", "drawn"])
@pytest.mark.parametrize("cell", [rx.QRNNCell(4), rx.SRUCell(4), rx.LTCCell(4), rx.LSTMCell(4, 2)], ids=str)
def test_zoneout_puts_out_what_is_read_from_the_state_after_it(cell: rx.Cell, key) -> None:
    layer, params = rx.Zoneout(cell, 0.5), perturbed_params(cell, 3)
    state = normal_like(jax.eval_shape(lambda: cell.initial_state((2,))), 2)
    new, y = rx.step(layer, params, XS[:, 0], state, key=key)
    assert_close("output", y, cell.output(params, new, cell.project_inputs(params, XS[:, 0])), 1e-6)
