"""Both frontends as their users meet them: inside larger models, under the transformations, with dropout and meshes."""

import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from flax import nnx
from jax.sharding import AxisType, PartitionSpec

import recurrax as rx
from recurrax import linen
from recurrax import nnx as rnn
from recurrax.testing import assert_close, normal_like, perturbed_params

LAYER = rx.Stack((rx.Bidirectional(rx.LSTMCell(3), rx.GRUCell(3)), rx.Residual(rx.ElmanCell(6))), dropout=0.5)


def normal(*shape: int, seed: int = 1) -> jax.Array:
    return normal_like(jax.ShapeDtypeStruct(shape, jnp.float32), seed)


class Tagger(nnx.Module):
    def __init__(self, rngs: nnx.Rngs) -> None:
        self.embed = nnx.Embed(11, 5, rngs=rngs)
        self.rnn = rnn.LSTM(5, 4, 2, batch_first=True, dropout=0.3, bidirectional=True, rngs=rngs)
        self.pool = rnn.Recurrent(rx.GRUCell(6), 8, rngs=rngs)
        self.head = nnx.Linear(6, 3, rngs=rngs)

    def __call__(self, ids: jax.Array, lengths: jax.Array) -> jax.Array:
        output, _ = self.rnn(self.embed(ids), lengths=lengths)
        _, state = self.pool(output, lengths=lengths)
        return self.head(state.h)


class LinenTagger(nn.Module):
    @nn.compact
    def __call__(self, ids: jax.Array, lengths: jax.Array, deterministic: bool) -> jax.Array:
        x = nn.Embed(11, 5)(ids)
        output, _ = linen.LSTM(4, num_layers=2, batch_first=True, dropout=0.3, bidirectional=True)(
            x, lengths=lengths, deterministic=deterministic
        )
        _, state = linen.Recurrent(rx.GRUCell(6))(output, lengths=lengths)
        return nn.Dense(3)(state.h)


IDS = jnp.asarray(np.random.default_rng(0).integers(0, 11, (16, 7)))
LENGTHS = jnp.asarray(np.random.default_rng(1).integers(1, 8, 16))
LABELS = jnp.take_along_axis(IDS, (LENGTHS - 1)[:, None], axis=1)[:, 0] % 3


def cross_entropy(logits: jax.Array) -> jax.Array:
    return optax.softmax_cross_entropy_with_integer_labels(logits, LABELS).mean()


@pytest.mark.thorough
@pytest.mark.usefixtures("standard_promotion")
def test_nnx_inside_a_larger_model_trains_saves_and_restores(tmp_path) -> None:
    model = Tagger(nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, optax.adam(3e-2), wrt=nnx.Param)

    @nnx.jit
    def train_step(model, optimizer):
        loss, grads = nnx.value_and_grad(lambda m: cross_entropy(m(IDS, LENGTHS)))(model)
        optimizer.update(model, grads)
        return loss

    losses = [float(train_step(model, optimizer)) for _ in range(60)]
    assert losses[-1] < 0.3 * losses[0]

    model.eval()
    logits = model(IDS, LENGTHS)
    snapshot = lambda: nnx.to_pure_dict(nnx.state(model, nnx.Any(nnx.Param, nnx.RngCount)))  # noqa: E731
    before = jax.tree.map(np.asarray, snapshot())
    np.testing.assert_array_equal(model(IDS, LENGTHS), logits)
    assert_close("a forward pass mutates nothing", snapshot(), before, 0.0)

    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "model", nnx.state(model, nnx.Param))
        checkpointer.wait_until_finished()
        other = Tagger(nnx.Rngs(1))
        nnx.update(other, checkpointer.restore(tmp_path / "model", nnx.state(other, nnx.Param)))
    other.eval()
    np.testing.assert_array_equal(other(IDS, LENGTHS), logits)

    graphdef, state = nnx.split(model)
    np.testing.assert_allclose(jax.jit(lambda s: nnx.merge(graphdef, s)(IDS, LENGTHS))(state), logits, atol=1e-6)


@pytest.mark.thorough
@pytest.mark.usefixtures("standard_promotion")
def test_linen_inside_a_larger_model_trains_saves_and_restores(tmp_path) -> None:
    model, optimizer = LinenTagger(), optax.adam(3e-2)
    variables = model.init(jax.random.key(0), IDS, LENGTHS, deterministic=True)
    assert variables.keys() == {"params"}
    params, opt_state = variables["params"], optimizer.init(variables["params"])

    @jax.jit
    def train_step(params, opt_state, key):
        def loss_of(params):
            logits = model.apply({"params": params}, IDS, LENGTHS, deterministic=False, rngs={"dropout": key})
            return cross_entropy(logits)

        loss, grads = jax.value_and_grad(loss_of)(params)
        updates, opt_state = optimizer.update(grads, opt_state)
        return optax.apply_updates(params, updates), opt_state, loss

    losses = []
    for key in jax.random.split(jax.random.key(1), 60):
        params, opt_state, loss = train_step(params, opt_state, key)
        losses.append(float(loss))
    assert losses[-1] < 0.3 * losses[0]

    logits = model.apply({"params": params}, IDS, LENGTHS, deterministic=True)
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "params", params)
        checkpointer.wait_until_finished()
        restored = checkpointer.restore(tmp_path / "params")  # no template: plain dictionaries come back
    got = model.apply({"params": restored}, IDS, LENGTHS, deterministic=True)
    np.testing.assert_array_equal(got, logits)


def test_both_frontends_equal_the_core() -> None:
    xs, lengths = normal(2, 5, 4), jnp.array([5, 3])
    params = perturbed_params(LAYER, 4)
    state = normal_like(jax.eval_shape(lambda: LAYER.initial_state((2,))), 2)
    expected = rx.scan(LAYER, params, xs, state, lengths=lengths, reverse=True)[::-1]

    model = rnn.Recurrent(LAYER, 4, deterministic=True, rngs=nnx.Rngs(0))
    nnx.update(model, {"weights": jax.tree.map(lambda p: p, _pure(params))})
    assert_close("nnx", model(xs, state, lengths=lengths, reverse=True), expected, 1e-6)

    module = linen.Recurrent(LAYER, deterministic=True)
    named = {
        "layers_0": {side: _fields(getattr(params[0], side)) for side in ("forward", "backward")},
        "layers_1": _fields(params[1]),
    }
    drawn = module.init(jax.random.key(0), xs)["params"]
    assert jax.tree.structure(drawn) == jax.tree.structure(named)
    got = module.apply({"params": named}, xs, state, lengths=lengths, reverse=True)
    assert_close("linen", got, expected, 1e-6)


def _fields(params) -> dict:
    return {name: value for name, value in params._asdict().items() if value is not None}


def _pure(params) -> dict:
    sides = {side: _fields(getattr(params[0], side)) for side in ("forward", "backward")}
    return {0: sides, 1: _fields(params[1])}


@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU"])
def test_streaming_equals_the_whole(kind: str) -> None:
    xs = normal(6, 2, 3)
    model = getattr(rnn, kind)(3, 4, 2, rngs=nnx.Rngs(0))
    module = getattr(linen, kind)(4, num_layers=2)
    variables = module.init(jax.random.key(0), xs)
    for call, one_step, zeros in (
        (model, nnx.jit(lambda x, s: model.step(x, s)), model.initial_state((2,))),
        (
            lambda xs: module.apply(variables, xs),
            jax.jit(lambda x, s: module.apply(variables, x, s, method="step")),
            module.initial_state((2,)),
        ),
    ):
        output, final = call(xs)
        state, ys = zeros, []
        for x in xs:
            y, state = one_step(x, state)
            ys.append(y)
        assert_close(kind, (jnp.stack(ys), state), (output, final), 1e-6)


def test_dropout_follows_each_frameworks_habit() -> None:
    xs = normal(5, 2, 3)
    model = rnn.GRU(3, 8, 2, dropout=0.5, rngs=nnx.Rngs(0, dropout=1))
    first, second = model(xs)[0], model(xs)[0]
    assert not jnp.array_equal(first, second)
    np.testing.assert_array_equal(model(xs, rngs=nnx.Rngs(dropout=3))[0], model(xs, rngs=nnx.Rngs(dropout=3))[0])
    off = model(xs, deterministic=True)[0]
    model.eval()
    np.testing.assert_array_equal(model(xs)[0], off)
    model.train()
    assert not jnp.array_equal(model(xs)[0], off)

    module = linen.GRU(8, num_layers=2, dropout=0.5)
    variables = module.init({"params": jax.random.key(0)}, xs, deterministic=True)
    drop = lambda key: module.apply(variables, xs, deterministic=False, rngs={"dropout": key})[0]  # noqa: E731
    np.testing.assert_array_equal(drop(jax.random.key(1)), drop(jax.random.key(1)))
    assert not jnp.array_equal(drop(jax.random.key(1)), drop(jax.random.key(2)))
    off = module.apply(variables, xs, deterministic=True)[0]
    np.testing.assert_array_equal(module.clone(deterministic=True).apply(variables, xs)[0], off)
    with pytest.raises(ValueError, match="deterministic"):
        module.apply(variables, xs)


@pytest.mark.thorough
@pytest.mark.parametrize("axis_type", [AxisType.Explicit, AxisType.Auto], ids=str)
def test_parameters_carry_the_sharding_that_the_user_gives(axis_type: AxisType) -> None:
    xs, sharding = normal(8, 5, 4), {"kernel": (None, "model"), "recurrent_kernel": (None, "model")}
    layer = rx.Stack((rx.LSTMCell(4), rx.GRUCell(4)))
    expected = rnn.Recurrent(layer, 4, rngs=nnx.Rngs(0))(xs)

    module = linen.Recurrent(layer, sharding=sharding)
    variables = module.init(jax.random.key(0), xs)
    specs = nn.get_partition_spec(variables)["params"]["layers_1"]
    assert specs["kernel"] == PartitionSpec(None, "model")
    assert specs["bias"] == PartitionSpec()
    assert_close("boxed", module.apply(variables, xs), module.apply(nn.unbox(variables), xs), 0.0)

    if axis_type == AxisType.Explicit:  # Under Explicit axes only the batch may be sharded: that is what is checked.
        sharding = {}
    mesh = jax.make_mesh((4, 2), ("data", "model"), axis_types=(axis_type,) * 2)
    with jax.set_mesh(mesh):
        model = rnn.Recurrent(layer, 4, sharding=sharding, rngs=nnx.Rngs(0))
        if sharding:
            kernel = model.params[0].kernel
            assert kernel[...].sharding.spec == PartitionSpec(None, "model")
            assert kernel[...].addressable_shards[0].data.shape == (4, 8)
        placed = jax.device_put(xs, jax.NamedSharding(mesh, PartitionSpec("data")))
        got = nnx.jit(lambda model, xs: model(xs))(model, placed)
    assert_close("sharded", jax.device_get(got), jax.device_get(expected), 1e-5)


def test_view_and_eval_turn_dropout_off() -> None:
    x = normal(5, 2, 3)
    lstm = rnn.LSTM(3, 4, num_layers=2, dropout=0.5, rngs=nnx.Rngs(0))
    model = nnx.Sequential(rnn.Recurrent(rx.Dropout(0.5), 3, return_state=False, rngs=nnx.Rngs(0)), lstm)
    for module in (model, lstm):
        viewed = nnx.view(module, deterministic=True)
        np.testing.assert_array_equal(viewed(x)[0], viewed(x)[0])
        assert not jnp.array_equal(module(x)[0], module(x)[0])
    assert not nnx.view(nnx.view(lstm, deterministic=True), deterministic=False).deterministic
    lstm.set_attributes(deterministic=True)
    assert lstm.deterministic
    assert rnn.GRU(3, 4, rngs=nnx.Rngs(0)).set_view() is None


class Several(nnx.Module):
    """States of every kind, read and handed on."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.lstm = rnn.LSTM(3, 4, num_layers=2, dropout=0.5, bidirectional=True, rngs=rngs)
        self.stack = rnn.Recurrent(rx.Stack((rx.LSTMCell(8), rx.Bidirectional(rx.GRUCell(3)))), 8, rngs=rngs)
        self.decoder = rnn.Recurrent(rx.LSTMCell(4), 3, rngs=rngs)

    def __call__(self, x: jax.Array):
        y, state = self.lstm(x)
        h, c = state
        y, (_, directions) = self.stack(y)
        state = self.decoder.initial_state(x.shape[1:2])
        for _ in range(2):
            _, state = self.decoder.step(x[0], state)
        return y.sum() + h.sum() + c.sum() + directions.backward.h.sum(), state


def test_modules_are_tabulated_and_shown() -> None:
    model, x = Several(nnx.Rngs(0)), normal(2, 2, 3)
    table = nnx.tabulate(model, x, console_kwargs={"force_terminal": False, "width": 160})
    assert "backward:" in table
    assert "c: float32[4,2,4]" in table
    assert type(model(x)[1]) is rx.cells.LSTMState  # Only in a table is it anything else.
    assert "LSTM" in repr(model)
    assert "layers_1" in linen.GRU(4, num_layers=2).tabulate(jax.random.key(0), x)


def test_bridges_carry_modules_to_the_other_flax() -> None:
    x = normal(5, 2, 3)
    module = nnx.bridge.ToLinen(rnn.LSTM, args=(3, 4), kwargs={"num_layers": 2, "deterministic": True})
    variables = module.init(jax.random.key(0), x)
    assert variables["params"]["weights"][1]["kernel"].shape == (4, 16)
    layer = rnn.LSTM(3, 4, num_layers=2, rngs=nnx.Rngs(0)).layer
    params = [rx.LSTMCell.params_type(**own) for own in variables["params"]["weights"].values()]
    expected = rx.scan(layer, tuple(params), x, time_major=True)[1]
    np.testing.assert_allclose(module.apply(variables, x)[0], expected, atol=1e-6)

    bridged = nnx.bridge.ToNNX(linen.GRU(4), rngs=nnx.Rngs(0)).lazy_init(x)
    assert bridged(x)[0].shape == (5, 2, 4)


def test_sequential_holds_modules_that_return_outputs_alone() -> None:
    x = normal(5, 2, 3)
    rngs = nnx.Rngs(0)
    parts = [rnn.GRU(3, 4, rngs=rngs), rnn.Recurrent(rx.LSTMCell(6), 4, rngs=rngs)]
    expected = parts[1](parts[0](x)[0])[0]
    for part in parts:
        part.return_state = False
    np.testing.assert_array_equal(nnx.Sequential(*parts)(x), expected)
    assert len(parts[0].step(x[0])) == 2

    model = nn.Sequential([linen.GRU(4, return_state=False), linen.Recurrent(rx.LSTMCell(6), return_state=False)])
    assert jax.eval_shape(model.init_with_output, jax.random.key(0), x)[0].shape == (5, 2, 6)


def test_parameters_come_back_out() -> None:
    x = normal(5, 2, 3)
    model = rnn.LSTM(3, 4, num_layers=2, rngs=nnx.Rngs(0))
    params = rnn.params_of(model)
    assert jax.tree.map(type, params) == jax.tree.map(lambda _: type(x), params)
    again = rnn.LSTM(3, 4, num_layers=2, params=params)  # Nothing is drawn, so there are no `rngs`.
    np.testing.assert_array_equal(again(x)[0], model(x)[0])
    module = linen.LSTM(4, num_layers=2)
    assert module.layer == model.layer
    assert_close("linen", linen.params_of(module.layer, linen.variables(params)), params, 0)


def test_a_gru_takes_h_bare_or_as_its_state() -> None:
    x, h = normal(5, 2, 3), normal(1, 2, 4)
    model, module = rnn.GRU(3, 4, rngs=nnx.Rngs(0)), linen.GRU(4)
    variables = linen.variables(rnn.params_of(model))
    for state in (h, rx.cells.GRUState(h)):
        assert_close("nnx and linen", model(x, state), module.apply(variables, x, state), 0)


def test_sharding_by_path_and_by_function() -> None:
    layer = rx.Stack((rx.LSTMCell(4), rx.IndRNNCell(4)))
    by_path = {
        "kernel": (None, "model"),
        "layers_0/recurrent_kernel": (None, "model"),
        "layers_1/kernel": ("model", None),
    }
    by_function = lambda path, shape: by_path.get(path, (None, "model") if path == "layers_0/kernel" else None)  # noqa: E731
    for sharding in (by_path, by_function):
        shapes = jax.eval_shape(linen.Recurrent(layer, sharding=sharding).init, jax.random.key(0), normal(2, 5, 4))
        specs = nn.get_partition_spec(shapes)["params"]
        assert specs["layers_0"]["kernel"] == specs["layers_0"]["recurrent_kernel"] == PartitionSpec(None, "model")
        assert specs["layers_1"]["kernel"] == PartitionSpec("model", None)
        assert specs["layers_1"]["recurrent_kernel"] == PartitionSpec()
    with pytest.raises(ValueError, match="name them by path, as 'layers_1/recurrent_kernel'"):
        rnn.Recurrent(layer, 4, sharding={"recurrent_kernel": (None, "model")}, rngs=nnx.Rngs(0))


def test_dropout_with_one_layer_warns_and_draws_nothing() -> None:
    x = normal(5, 2, 3)
    with pytest.warns(UserWarning, match="`num_layers=1`") as caught:
        model = rnn.GRU(3, 4, dropout=0.5, rngs=nnx.Rngs(params=0))
    assert caught[0].filename == __file__
    assert model(x)[0].shape == (5, 2, 4)
    with pytest.warns(UserWarning, match="`num_layers=1`") as caught:
        output = linen.GRU(4, dropout=0.5).init_with_output(jax.random.key(0), x)[0][0]
    assert output.shape == (5, 2, 4)
    assert caught[0].filename == __file__


def test_an_implementation_serves_where_it_can() -> None:
    layer, x = rx.Stack((rx.MinGRUCell(4), rx.LSTMCell(4))), normal(2, 5, 3)
    model = rnn.Recurrent(layer, 3, rngs=nnx.Rngs(0))
    expected = model(x)[0]
    np.testing.assert_allclose(model(x, implementation=("associative", None))[0], expected, atol=1e-6)
    np.testing.assert_allclose(model(x, implementation=("associative", "xla"))[0], expected, atol=1e-6)
    with pytest.raises(ValueError, match="must hold one that can serve LSTMCell"):
        model(x, implementation=("associative",))


def test_an_activation_may_read_a_traced_value() -> None:
    x, params = normal(5, 3), rx.ElmanCell(4).init(jax.random.key(0), 3)

    def loss(slope: jax.Array, implementation: str | None) -> jax.Array:
        cell = rx.ElmanCell(4, lambda a: jnp.tanh(slope * a))
        return rx.scan(cell, params, x, implementation=implementation)[1].sum()

    assert jax.grad(loss)(2.0, None) == jax.grad(loss)(2.0, "xla")
    with pytest.raises(ValueError, match="reads a traced value from outside"):
        jax.grad(loss)(2.0, "hoisted")


RNGS = nnx.Rngs(0)


def applied(module: nn.Module, input_size: int, *args, **options):
    variables = jax.eval_shape(module.init, jax.random.key(0), jnp.ones((1, input_size)))
    return module.apply(jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), variables), *args, **options)


ERRORS = [
    (lambda: rnn.RNN(3, 4, nonlinearity="sigmoid", rngs=nnx.Rngs(0)), ValueError, '`nonlinearity` must be "tanh", "re'),
    (lambda: rnn.GRU(3, 4, num_layers=0, rngs=nnx.Rngs(0)), ValueError, "`num_layers` must be an int of at least 1"),
    (lambda: rnn.LSTM(3, 4, dropout=1.5, rngs=nnx.Rngs(0)), ValueError, "`dropout` must be at least 0 and below 1"),
    (
        lambda: rnn.GRU(3, 4, sharding={"kern": ()}, rngs=nnx.Rngs(0)),
        ValueError,
        "kernel, recurrent_kernel, bias, recu",
    ),
    (lambda: rnn.GRU(3, 4, sharding={"bias": (None, "x")}, rngs=nnx.Rngs(0)), ValueError, "must give 1 mesh axes, one"),
    (lambda: rnn.LSTM(3, 4, hidden=2, rngs=nnx.Rngs(0)), TypeError, "LSTM has no argument `hidden`. Is `hidden_size`"),
    (
        lambda: rnn.LSTM(3, 4, 2, rngs=nnx.Rngs(0))(jnp.ones((2, 7, 3)), (jnp.ones((2, 2, 4)), jnp.ones((2, 2, 4)))),
        ValueError,
        "`state.h` must be [2, 7, 4] for `xs` float32[2, 7, 3]",
    ),
    (
        lambda: rnn.LSTM(3, 4, rngs=nnx.Rngs(0))(jnp.ones((7, 3)), jnp.ones((1, 4))),
        ValueError,
        "a pair (h, c) of [1, 4] and",
    ),
    (lambda: rnn.LSTM(3, 4, rngs=0), TypeError, "`rngs` must be an nnx.Rngs, such as nnx.Rngs(0), to draw"),
    (lambda: rnn.GRU(3, 4), TypeError, "to draw parameters; got None"),
    (
        lambda: rnn.Recurrent(3, 4, rngs=RNGS),
        TypeError,
        "`layer` must be a recurrax.Layer, such as LSTMCell(128); got 3",
    ),
    (lambda: linen.Recurrent(3), TypeError, "such as LSTMCell(128); got 3."),
    (lambda: rnn.LSTM(16, 32, rngs=RNGS)(jnp.ones((7, 2, 8))), ValueError, "`x` must have 16 features, got 8"),
    (lambda: rnn.GRU(16, 32, rngs=RNGS).step(jnp.ones(8)), ValueError, "`x` must have 16 features, got 8: it"),
    (lambda: applied(linen.GRU(4), 16, jnp.ones((7, 2, 8))), ValueError, "must have 16 features, got 8"),
    (
        lambda: rnn.GRU(3, 4, rngs=RNGS)(jnp.ones((2, 7, 3)), lengths=jnp.array([7, 5])),
        ValueError,
        "`lengths` must be int[7], one length per sequence of `x` float32[2, 7, 3], which is [T, *B, I] here; got "
        "int32[2]. If `x` is [*B, T, I], construct with `batch_first=True`.",
    ),
    (
        lambda: applied(linen.GRU(4, batch_first=True), 3, jnp.ones((7, 2, 3)), lengths=jnp.array([7, 5])),
        ValueError,
        "If `x` is [T, *B, I], construct without `batch_first=True`.",
    ),
    (
        lambda: rnn.GRU(3, 4, bidirectionl=True, rngs=RNGS),
        TypeError,
        "GRU has no argument `bidirectionl`. Is `bidirectional`",
    ),
    (lambda: linen.GRU(4, bidirectionl=True), TypeError, "no argument `bidirectionl`. Is `bidirectional` meant?"),
    (lambda: rnn.LSTM(3, 4, device="cuda", rngs=RNGS), TypeError, "LSTM has no argument `device`. JAX places arrays"),
    (lambda: linen.RNN(4, device="cuda"), TypeError, "RNN has no argument `device`."),
    (
        lambda: rnn.RNN(3, 4, bias="False", rngs=RNGS),
        TypeError,
        "`bias` must be True or False; got 'False' of type str",
    ),
    (lambda: rnn.RNN(3, 4, batch_first="False", rngs=RNGS), TypeError, "`batch_first` must be True or False"),
    (lambda: linen.RNN(4, bidirectional="no"), TypeError, "`bidirectional` must be True or False; got 'no'"),
    (lambda: linen.RNN(4, batch_first=1), TypeError, "`batch_first` must be True or False; got 1"),
    (
        lambda: linen.LSTM(16, 32),
        TypeError,
        "In Linen the input size is inferred: LSTM(hidden_size=32, num_layers=...)",
    ),
    (lambda: linen.GRU(16, num_layers=0), ValueError, "must be an int of at least 1; got 0"),
    (lambda: rx.LSTM, AttributeError, "it is recurrax.nnx.LSTM or recurrax.linen.LSTM, as a cell recurrax.LSTMCell"),
    (lambda: rx.RNN, AttributeError, "recurrax.ElmanCell"),
    (
        lambda: rnn.GRU(3, 4, 2, dropout=0.5, params=rnn.params_of(rnn.GRU(3, 4, 2, rngs=RNGS)))(jnp.ones((7, 3))),
        ValueError,
        "`rngs` must be given, here or at construction, for dropout",
    ),
    (lambda: rx.scan(rnn.GRU(3, 4, rngs=nnx.Rngs(0)), (), jnp.ones((7, 3))), TypeError, "Call a Flax module itself"),
    (lambda: linen.GRU(4).init(jax.random.key(0), jnp.ones((7, 2), int)), TypeError, "`xs` must be of a floating"),
    (
        lambda: linen.GRU(4, bidirectional=True).init(jax.random.key(0), jnp.ones((2, 3)), method="step"),
        ValueError,
        "must not read the future to be stepped",
    ),
]


@pytest.mark.parametrize(("call", "kind", "message"), ERRORS, ids=[message for *_, message in ERRORS])
def test_errors_teach(call, kind, message) -> None:
    with pytest.raises(kind, match=re.escape(message)):
        call()
