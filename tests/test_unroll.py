"""`unroll` against Python loops of `step`, for every way to close the loop."""

import functools

import jax
import jax.numpy as jnp
import pytest

import recurrax as rx
from recurrax.cells import TimedInputs
from recurrax.decoding import beam_search, generate
from recurrax.testing import assert_close, perturbed_params

LAYER = rx.Stack((rx.GRUCell(4), rx.Dense(3)))
PARAMS = perturbed_params(LAYER, 3)
XS = jax.random.normal(jax.random.key(1), (2, 6, 3))
LENGTHS = jnp.array([6, 3])


def same(y, x, key):
    return y


def noisy(y, x, key):
    """Reads all that it may read."""
    return y + x / 2 + jax.random.normal(key, y.shape) / 10


def test_generation_is_a_python_loop_of_steps() -> None:
    key = jax.random.key(3)
    state, ys, used = rx.unroll(LAYER, PARAMS, noisy, XS, observed=2, lengths=LENGTHS, key=key)
    of_inputs = jax.random.fold_in(key, 2**31 + 14)
    expected, y = LAYER.initial_state((2,)), None
    for t in range(6):
        x, real = XS[:, t], t < LENGTHS
        if t >= 2:
            x = noisy(y, x, jax.random.fold_in(of_inputs, t))
        expected, now = rx.step(LAYER, PARAMS, x, expected, mask=real)
        # A masked step changes nothing, so the next step would read the output before it.
        y = now if y is None else jnp.where(real[:, None], now, y)
        assert_close(f"step {t}", (ys[:, t], used[:, t]), (now, jnp.where(real[:, None], x, 0.0)), 1e-6)
    assert_close("the state", state, expected, 1e-6)

    # Time-major, and with everything observed bit for bit `scan`, without a second program for a named function.
    swapped = rx.unroll(LAYER, PARAMS, same, jnp.swapaxes(XS, 0, 1), observed=9, lengths=LENGTHS, time_major=True)
    final, outputs = rx.scan(LAYER, PARAMS, XS, lengths=LENGTHS)
    assert_close("everything observed", (swapped[0], jnp.swapaxes(swapped[1], 0, 1)), (final, outputs), 0.0)


@pytest.mark.thorough
def test_parts_layouts_and_patterns_agree() -> None:
    pattern = jnp.array([[True, False, False, True, False, False], [True, True, False, False, False, True]])
    unroll = jax.jit(functools.partial(rx.unroll, LAYER, PARAMS, same))
    state, ys, used = unroll(XS, observed=pattern)
    middle, first, _ = unroll(XS[:, :4], observed=pattern[:, :4])
    parts = unroll(XS[:, 4:], middle, observed=pattern[:, 4:], last_y=first[:, -1])
    assert_close("parts", parts, (state, ys[:, 4:], used[:, 4:]), 1e-6)
    rows = jax.vmap(lambda x, seen: unroll(x, observed=seen))(XS, pattern)
    assert_close("rows without a batch axis", rows, (state, ys, used), 1e-6)
    square = unroll(XS[:, None], observed=pattern[:, None])
    assert_close("two batch axes", jax.tree.map(lambda a: a[:, 0], square), (state, ys, used), 1e-6)
    # A prefix by an int is the pattern of the same prefix.
    prefix = jnp.broadcast_to(jnp.arange(6) < 2, (2, 6))
    got = rx.unroll(LAYER, PARAMS, same, XS, observed=2)
    assert_close("a prefix", got, unroll(XS, observed=prefix), 1e-6)
    # Steps that are not observed may hold NaN, in values and in gradients.
    gap = jnp.where(prefix[..., None], XS, jnp.nan)
    loss = jax.jit(jax.grad(lambda params, xs: (rx.unroll(LAYER, params, same, xs, observed=prefix)[1] ** 2).sum()))
    assert_close("a gap of NaN", loss(PARAMS, gap), loss(PARAMS, XS), 1e-6)


@pytest.mark.thorough
def test_a_stochastic_layer_drops_what_scan_drops() -> None:
    layer = rx.Stack(
        (
            rx.Dropout(0.3),
            rx.Dropout(0.3, shared=True),
            rx.Zoneout(rx.RecurrentDropout(rx.GRUCell(4), 0.3), 0.3),
            rx.WeightDrop(rx.RecurrentNoise(rx.LSTMCell(3), 0.3), 0.3),
        )
    )
    params, key = perturbed_params(layer, 3), jax.random.key(7)
    pattern = jnp.array([[True, False, False, True, False, False], [True, True, False, False, False, True]])

    @jax.jit
    def both(key):
        state, ys, used = rx.unroll(layer, params, noisy, XS, observed=pattern, lengths=LENGTHS, key=key)
        prefix = rx.unroll(layer, params, noisy, XS, observed=2, key=key)
        replayed = rx.scan(layer, params, used, lengths=LENGTHS, key=key), rx.scan(layer, params, prefix[2], key=key)
        return ((state, ys), prefix[:2]), replayed

    assert_close("a replay with the same key", *both(key), 1e-6)
    assert not jnp.allclose(both(key)[0][0][1], both(jax.random.key(8))[0][0][1])


@pytest.mark.thorough
def test_every_derivative_flows_through_the_loop_and_can_be_stopped() -> None:
    params = PARAMS

    def by_hand(params, stop):
        state, y, ys = LAYER.initial_state((2,)), None, []
        for t in range(6):
            x = XS[:, t] if t < 2 else y
            if stop and t >= 2:
                x = jax.lax.stop_gradient(x)
            state, y = rx.step(LAYER, params, x, state)
            ys.append(y)
        return (jnp.stack(ys, axis=1) ** 3).sum()

    def closed(params, stop):
        return (rx.unroll(LAYER, params, same, XS, observed=2, stop_gradient=stop)[1] ** 3).sum()

    def derivatives(loss):
        gradient = jax.grad(loss)
        forward = jax.jvp(lambda p: loss(p, False), (params,), (params,))
        second = jax.jvp(lambda p: gradient(p, False), (params,), (params,))[1]
        return gradient(params, False), gradient(params, True), forward, second

    got, expected = (jax.jit(functools.partial(derivatives, loss))() for loss in (closed, by_hand))
    assert_close("derivatives", got, expected, 1e-5)
    assert not jnp.allclose(got[0][0].kernel, got[1][0].kernel, rtol=1e-2)


@pytest.mark.thorough
def test_inputs_with_times_and_a_function_in_the_place_of_a_layer() -> None:
    layer = rx.Stack((rx.CfCCell(4), rx.Dense(3)))
    params = perturbed_params(layer, 3)
    timed = TimedInputs(XS, jax.random.uniform(jax.random.key(2), (2, 6)))
    state, ys, used = rx.unroll(layer, params, same, timed, observed=2, lengths=LENGTHS)
    assert_close("a replay with times", (state, ys), rx.scan(layer, params, used, lengths=LENGTHS), 1e-6)

    # Token ids in, logits and more out; `next_input` picks what it needs.
    embedding = jax.random.normal(jax.random.key(4), (5, 3))

    def model(token, state):
        state, y = rx.step(LAYER, PARAMS, embedding[token], state)
        return {"logits": y @ embedding.T, "y": y}, state

    def likeliest(out, token, key):
        return out["logits"].argmax(-1)

    tokens, first = jnp.array([[1, 2, 0, 0, 0, 0], [3, 4, 0, 0, 0, 0]]), LAYER.initial_state((2,))
    state, out, used = rx.unroll(model, None, likeliest, tokens, first, observed=2, lengths=LENGTHS)
    pattern = jnp.broadcast_to(jnp.arange(6) < 2, (2, 6))
    again = rx.unroll(model, None, likeliest, tokens, first, observed=pattern, lengths=LENGTHS)
    assert_close("a pattern", again, (state, out, used), 1e-6)
    assert (used[:, :2] == tokens[:, :2]).all()
    made = jnp.where(jnp.arange(2, 6)[None] < LENGTHS[:, None], out["logits"][:, 1:-1].argmax(-1), 0)
    assert (used[:, 2:] == made).all()

    # The state in PyTorch's layout, whose first axis has the size of the batch by chance.
    def layers_first(token, state):
        out, after = model(token, jax.tree.map(lambda leaf: leaf[0], state))
        return out, jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), after)

    two = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), first)
    options = {"observed": 2, "lengths": LENGTHS, "batch_axis": 1}
    last, *others = rx.unroll(layers_first, None, likeliest, tokens, two, **options)
    last = jax.tree.map(lambda leaf: leaf[0], last)
    assert_close("layers first", (last, *others), (state, out, used), 1e-6)
    final, ys = rx.scan(LAYER, PARAMS, embedding[used], lengths=LENGTHS)
    assert_close("the layer below the function", (state, out["y"]), (final, ys), 1e-6)


@pytest.mark.thorough
def test_an_explicit_mesh_changes_nothing() -> None:
    devices = jax.local_device_count()
    if devices == 1:
        pytest.skip("one device")
    xs = jax.random.normal(jax.random.key(1), (2 * devices, 6, 3))
    mask = jax.random.bernoulli(jax.random.key(2), 0.7, xs.shape[:2])
    tokens = jnp.arange(2 * devices) % 3

    def model_step(token, state):
        state, y = rx.step(LAYER, PARAMS, jax.nn.one_hot(token, 3), state)
        return y, state

    @jax.jit
    def all_loops(xs, mask, tokens):
        rest = ~mask
        state = jax.tree.map(lambda leaf: leaf + 0 * xs[:, 0, :1], LAYER.initial_state(xs.shape[:1]))
        return (
            rx.unroll(LAYER, PARAMS, same, xs, observed=2),
            rx.unroll(LAYER, PARAMS, same, xs, observed=mask, mask=mask | rest, reset=rest),
            generate(model_step, state, tokens[:, None], length=3, stop=0),
            beam_search(model_step, state, tokens, beam_size=2, length=3, stop=0),
        )

    expected = all_loops(xs, mask, tokens)
    mesh = jax.make_mesh((devices,), ("batch",), axis_types=(jax.sharding.AxisType.Explicit,))
    with jax.set_mesh(mesh):
        placed = jax.device_put((xs, mask, tokens), jax.NamedSharding(mesh, jax.P("batch")))
        got = all_loops(*placed)
    assert_close("a mesh", jax.device_get(got), expected, 1e-5)


def test_wrong_calls_are_told() -> None:
    unroll = functools.partial(rx.unroll, LAYER, PARAMS, same, XS)
    wide = rx.GRUCell(4), rx.GRUCell(4).init(jax.random.key(0), 3)
    both = rx.Bidirectional(rx.GRUCell(4))
    state = LAYER.initial_state((2,))
    for call, error, message in [
        (lambda: unroll(observed=0), ValueError, "`observed` must be at least 1.*give `last_y`"),
        (lambda: unroll(observed=jnp.ones((6, 2), bool)), ValueError, r"`observed` must be bool\[2, 6\].*time-major"),
        (lambda: unroll(observed=jnp.ones((2, 6))), TypeError, r"`observed` must be bool\[2, 6\]"),
        (lambda: unroll(observed=1, last_y=jnp.ones(3)), ValueError, r"`last_y` must be \[2, O\]"),
        (lambda: rx.unroll(*wide, same, XS, observed=1), ValueError, r"float32\[2, 3\]; got float32\[2, 4\].*a head"),
        (
            lambda: rx.unroll(LAYER, PARAMS, lambda y, x, k: y.argmax(-1), XS, observed=1),
            ValueError,
            r"`next_input` must return.*got int32\[2\]",
        ),
        (lambda: rx.unroll(LAYER, PARAMS, None, XS, observed=1), TypeError, r"`next_input` must be a function"),
        (
            lambda: rx.unroll(both, both.init(jax.random.key(0), 3), same, XS, observed=1),
            ValueError,
            "must not read the future",
        ),
        (lambda: unroll(observed=1, batch_axis=1), ValueError, "`batch_axis` must be 0 with a layer"),
        (lambda: rx.unroll(rx.GRUCell, None, same, XS, observed=1), TypeError, "`layer` must be a recurrax.Layer"),
        (lambda: rx.unroll(same, PARAMS, same, XS, state, observed=1), ValueError, "`params` must be None"),
        (lambda: rx.unroll(same, None, same, XS, observed=1), ValueError, "`state` must be given"),
        (
            lambda: rx.unroll(same, None, same, XS, state, observed=1, reset=jnp.ones((2, 6), bool)),
            ValueError,
            "`reset` must be None with a function",
        ),
    ]:
        with pytest.raises(error, match=message):
            call()
