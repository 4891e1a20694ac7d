"""Attention decoders: against loops from their papers, other libraries and brute force, and the contract."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import recurrax as rx
from equations import assert_obeys
from recurrax import linen
from recurrax import nnx as rnn
from recurrax.layers import AttentionParams, AttentionState, Memory, with_memory
from recurrax.layers._wrapper import Wrapper
from recurrax.testing import assert_close, check_contract, normal_like, perturbed_params, values_and_gradients

S, M, I, H = 5, 6, 3, 4  # positions and features of the memory, inputs, units  # noqa: E741


def normal(*shape: int, seed: int = 1) -> jax.Array:
    return normal_like(jax.ShapeDtypeStruct(shape, jnp.float32), seed)


@dataclasses.dataclass(frozen=True, repr=False)
class Remembering(Wrapper):
    """An attention layer with a memory, of which masked positions are NaN: `(params, memory)` are its parameters."""

    rows: tuple[int, ...] = ()
    mask: tuple[int, ...] = (1,) * S

    def init(self, key: jax.Array, input_size: int, dtype: Any = jnp.float32) -> tuple:
        memory = normal(*self.rows, S, self.layer.memory_size, seed=5)
        return self.layer.init(key, input_size, dtype), memory.astype(dtype)

    def first_state(self, params: tuple, batch_shape: tuple[int, ...] = (), dtype: Any = jnp.float32) -> Any:
        return self.layer.first_state(params[0], batch_shape, dtype)

    def apply(self, context: Any, params: tuple, state: Any, xs: Any) -> tuple:
        params, memory = params
        mask = jnp.broadcast_to(jnp.array(self.mask, bool), memory.shape[:-1])
        memory = jnp.where(mask[..., None], memory, jnp.full_like(memory, jnp.nan))
        return context.scan(self.layer, with_memory(params, memory, mask=mask), state, xs)


LAYERS = [
    rx.BahdanauAttention(rx.GRUCell(H), M, 5),
    rx.LuongAttention(rx.LSTMCell(5, proj_size=H), M),
    rx.LuongAttention(rx.Zoneout(rx.ElmanCell(H), 0.2), H, "dot", input_feeding=False),
    rx.LuongAttention(rx.RecurrentDropout(rx.GRUCell(H), 0.2), M, "concat", 3),
    rx.BahdanauAttention(rx.QRNNCell(H), M),
]


@pytest.mark.parametrize("layer", LAYERS, ids=str)
def test_contract(layer: rx.Layer, promises: tuple[str, ...] | None) -> None:
    if layer == LAYERS[0]:
        promises = None  # the whole contract
    check_contract(Remembering(layer, mask=(1, 0, 1, 1, 0)), promises=promises)


def softmax(scores: np.ndarray) -> np.ndarray:
    parts = np.exp(scores - scores.max())
    return parts / parts.sum()


def elman(p: Any, x: np.ndarray, h: np.ndarray) -> np.ndarray:
    return np.tanh(x @ p.kernel + p.bias + h @ p.recurrent_kernel)


def bahdanau(p: Any, x: np.ndarray, state: Any, s: np.ndarray) -> tuple:
    p, memory = p
    ys = []
    for row in range(len(x)):
        e = [p.score_vector @ np.tanh(s[row] @ p.query_kernel + m @ p.memory_kernel) for m in memory[row]]
        c = sum(a * m for a, m in zip(softmax(np.array(e)), memory[row], strict=True))
        h = elman(p.layer, np.concatenate([x[row], c]), state.h[row])
        ys.append(np.concatenate([h, c]))
    ys = np.stack(ys)
    return (type(state)(ys[:, :H]), ys[:, :H]), ys


def luong(p: Any, x: np.ndarray, state: Any, fed: np.ndarray, score: str) -> tuple:
    p, memory = p
    hs, ys = [], []
    for row in range(len(x)):
        h = elman(p.layer, x[row] if score == "dot" else np.concatenate([x[row], fed[row]]), state.h[row])
        scores = {
            "dot": lambda m, h=h: h @ m,
            "general": lambda m, h=h: h @ p.memory_kernel.T @ m,
            "concat": lambda m, h=h: (
                p.score_vector @ np.tanh(np.concatenate([p.query_kernel, p.memory_kernel]).T @ np.concatenate([h, m]))
            ),
        }
        a = softmax(np.array([scores[score](m) for m in memory[row]]))
        hs.append(h)
        ys.append(np.tanh(np.concatenate([a @ memory[row], h]) @ p.output_kernel))
    return (type(state)(np.stack(hs)), np.stack(ys)), np.stack(ys)


THOROUGH = pytest.mark.thorough
SCORES = ["bahdanau", *(pytest.param(score, marks=THOROUGH) for score in ("general", "dot", "concat"))]


@pytest.mark.parametrize("score", SCORES)
def test_the_equations_of_the_papers(score: str) -> None:
    if score == "bahdanau":
        layer, equations = rx.BahdanauAttention(rx.ElmanCell(H), M, 7), bahdanau
    else:
        size = H if score == "dot" else M
        layer = rx.LuongAttention(rx.ElmanCell(H), size, score, input_feeding=score != "dot")
        equations = lambda *args: luong(*args, score)  # noqa: E731
    assert_obeys(Remembering(layer, rows=(3,)), equations, I, ("xla",), steps=3)


@THOROUGH
def test_weights_equal_those_of_other_libraries(keras) -> None:
    query, memory, x = normal(2, H), normal(2, S, H, seed=2), normal(2, I, seed=3)
    mask = np.arange(S) < np.array([[S], [2]])
    reads = [query[:, None], memory]

    # Bahdanau's reads with the state before the step.
    layer = rx.BahdanauAttention(rx.GRUCell(H), H, H)
    params = perturbed_params(layer, I)
    scorer = keras.layers.AdditiveAttention()
    scorer.build([(2, 1, H), (2, S, H)])
    scorer.scale.assign(params.score_vector)
    projected = [reads[0] @ params.query_kernel, memory, memory @ params.memory_kernel]
    _, expected = scorer(projected, mask=[None, mask], return_attention_scores=True)
    state = layer.state_after(rx.cells.GRUState(query))
    _, weights = rx.step(layer.weights, with_memory(params, memory, mask=mask), x, state)
    np.testing.assert_allclose(weights, expected[:, 0], atol=1e-6)

    # Luong's reads with the output of the step.
    layer = rx.LuongAttention(rx.GRUCell(H), H, "dot")
    params = with_memory(perturbed_params(layer, I), memory, mask=mask)
    state = layer.state_after(rx.cells.GRUState(query))
    after, y = rx.step(layer, params, x, state)
    _, weights = rx.step(layer.weights, params, x, state)
    read = jax.nn.dot_product_attention(
        after.layer.h[:, None, None], memory[:, :, None], memory[:, :, None], mask=mask[:, None, None], scale=1.0
    )[:, 0, 0]
    np.testing.assert_allclose(jnp.einsum("bs,bsm->bm", weights, memory), read, atol=1e-6)
    expected = jnp.tanh(jnp.concatenate([read, after.layer.h], -1) @ params.output_kernel)
    np.testing.assert_allclose(y, expected, atol=1e-6)


@pytest.mark.thorough
def test_padding_of_the_memory_has_no_influence() -> None:
    layer = rx.BahdanauAttention(rx.ElmanCell(H), M)
    params, xs = perturbed_params(layer, I), normal(3, 4, I)
    memory = normal(3, S, M, seed=2)
    padded = memory.at[0, 2:].set(jnp.nan).at[1].set(jnp.inf)

    def run(params: AttentionParams, memory: jax.Array, xs: jax.Array, lengths: jax.Array) -> tuple:
        bound = with_memory(params, memory, lengths=lengths)
        state, ys = rx.scan(layer, bound, xs)
        return state, ys, rx.scan(layer.weights, bound, xs)[1]

    lengths = jnp.array([2, 0, S])
    (_, ys, weights), (by_params, by_memory, _) = values_and_gradients(lambda *a: run(*a, lengths), params, padded, xs)
    # The first row alone, trimmed.
    expected = run(params, memory[:1, :2], xs[:1], lengths[:1])
    assert_close("trimmed", (ys[:1], weights[:1, :, :2]), expected[1:], 1e-6)
    # A row without any position reads zeros: the cell runs with the inputs alone.
    alone = params.layer._replace(kernel=params.layer.kernel[:I])
    np.testing.assert_allclose(ys[1, :, :H], rx.scan(rx.ElmanCell(H), alone, xs[1])[1], atol=1e-6)
    assert not ys[1, :, H:].any()
    np.testing.assert_allclose(weights.sum(-1), [[1] * 4, [0] * 4, [1] * 4], atol=1e-6)
    assert not by_memory[0, 2:].any()
    assert not by_memory[1].any()
    assert by_memory[0, :2].all()
    assert all(jnp.isfinite(leaf).all() and leaf.any() for leaf in jax.tree.leaves(by_params))


def test_any_batch_axes_and_axes_that_rows_share() -> None:
    layer = rx.LuongAttention(rx.ElmanCell(H), M, "concat", 3)
    params, xs, memory = perturbed_params(layer, I), normal(2, 3, 4, I), normal(2, 3, S, M, seed=2)

    @jax.jit
    def run(memory: jax.Array, xs: jax.Array) -> jax.Array:
        return rx.scan(layer, with_memory(params, memory), xs)[1]

    expected = run(memory.reshape(6, S, M), xs.reshape(6, 4, I)).reshape(2, 3, 4, H)
    assert_close("two axes", run(memory, xs), expected, 1e-6)
    assert_close("vmap", jax.vmap(jax.vmap(run))(memory, xs), expected, 1e-6)
    shared = run(memory[:, :1], xs)
    assert_close("an axis of 1", shared, run(jnp.broadcast_to(memory[:, :1], memory.shape), xs), 1e-6)
    assert_close("no axes", run(memory[1, 0], xs)[1], shared[1], 1e-6)


def test_modules_read_a_memory() -> None:
    layer = rx.Stack((rx.BahdanauAttention(rx.ElmanCell(H), M), rx.Dense(2)))
    x, memory = normal(2, 4, I), Memory(normal(2, S, M, seed=2), rx.lengths_to_mask(jnp.array([S, 2]), S))
    model = rnn.Recurrent(layer, I, rngs=nnx.Rngs(0))
    output, _ = model(x, memory=memory)
    params = with_memory(rnn.params_of(model), memory.values, mask=memory.mask)
    np.testing.assert_array_equal(output, rx.scan(layer, params, x)[1])
    y, _ = model.step(x[:, 0], memory=memory)
    np.testing.assert_allclose(y, output[:, 0], atol=1e-6)
    twin = linen.Recurrent(layer)
    variables = linen.variables(rnn.params_of(model))
    np.testing.assert_array_equal(twin.apply(variables, x, memory=memory)[0], output)
    shapes = jax.eval_shape(lambda: twin.init(jax.random.key(0), x, memory=memory))
    assert jax.tree.map(jnp.shape, shapes) == jax.tree.map(jnp.shape, variables)
    got, _ = twin.apply(variables, x[:, 0], memory=memory, method=twin.step)
    np.testing.assert_allclose(got, y, atol=1e-6)


def test_errors_teach() -> None:
    layer = rx.LuongAttention(rx.GRUCell(H), M)
    params, xs = layer.init(jax.random.key(0), I), normal(2, 3, I)
    memory = normal(2, S, M)
    cases = [
        (lambda: rx.scan(layer, params, xs), "recurrax.layers.with_memory"),
        (
            lambda: rx.scan(layer, with_memory(params, memory[:1].repeat(3, 0)), xs),
            r"\[2, S, 6\].*float32\[3, 5, 6\]",
        ),
        (lambda: with_memory(params, memory[..., :4]), r"6 features.*float32\[2, 5, 4\]"),
        (lambda: with_memory(params, memory[0, 0]), r"\[\*B, S, M\].*float32\[6\]"),
        (lambda: with_memory(params, memory[:, :0]), "at least one position"),
        (lambda: with_memory(params, memory > 0), "floating"),
        (lambda: with_memory(params, memory, mask=jnp.ones((S, 2), bool)), r"bool\[2, 5\].*time-major"),
        (lambda: with_memory(params, memory, lengths=jnp.ones(2)), r"int\[2\]"),
        (lambda: with_memory(params, memory, lengths=[1, 2], mask=[True]), "both"),
        (lambda: with_memory(params.layer, memory), "LuongAttention, or of an EALSTMCell; got a GRUParams"),
        (lambda: rx.LuongAttention(rx.GRUCell(H), M, "dot"), '4 features.*"dot"; got 6.*"general"'),
        (lambda: rx.LuongAttention(rx.GRUCell(H), M, "cosine"), "dot, general, concat; got 'cosine'"),
        (lambda: rx.LuongAttention(rx.GRUCell(H), M, attention_size=3), "must be None"),
        (lambda: rx.BahdanauAttention(rx.GRUCell(H), 0), "`memory_size` of BahdanauAttention must be at least 1"),
        (lambda: rx.BahdanauAttention(rx.Stack((rx.GRUCell(H),)), M), "must be a cell that reads vectors"),
        (lambda: rx.Stack((layer.weights, rx.GRUCell(H))).init(jax.random.key(0), I), "no layer may stand behind"),
    ]
    for call, message in cases:
        with pytest.raises((TypeError, ValueError), match=message):
            call()


def test_the_first_step_reads_with_the_state_of_the_encoder() -> None:
    encoded = rx.cells.LSTMState(normal(2, H), normal(2, H, seed=2))
    bahdanau, luong = rx.BahdanauAttention(rx.LSTMCell(H), M), rx.LuongAttention(rx.LSTMCell(H), M)
    assert bahdanau.state_after(encoded) == AttentionState(encoded, encoded.h)
    assert luong.state_after(encoded).layer is encoded
    np.testing.assert_array_equal(luong.state_after(encoded).y, np.zeros((2, H)))
    # A QRNN has no part that is its output.
    state = rx.BahdanauAttention(rx.QRNNCell(H), M).initial_state((2, 3))
    np.testing.assert_array_equal(state.y, np.zeros((2, 3, H)))


@THOROUGH
def test_unroll_and_beam_search() -> None:
    layer = rx.Stack((rx.LuongAttention(rx.GRUCell(H), M), rx.Dense(I)))
    params = with_memory(perturbed_params(layer, I, scale=1.0), normal(2, S, M), lengths=jnp.array([S, 2]))

    # The outputs are the next inputs. A scan over the inputs that were read gives the outputs again.
    def same(y: jax.Array, x: jax.Array, key: None) -> jax.Array:
        return y

    state, ys, used = rx.unroll(layer, params, same, normal(2, 6, I, seed=2), observed=2)
    assert_close("replay", rx.scan(layer, params, used), (state, ys), 1e-6)

    def model_step(token: jax.Array, state: Any) -> tuple:
        state, y = rx.step(layer, params, jax.nn.one_hot(token, I), state)
        return 3 * y, state

    # One beam is the greedy text; as many beams as texts find the likeliest of all.
    tokens, state = jnp.array([0, 1]), layer.initial_state((2,))
    _, logits, _ = rx.unroll(
        model_step, None, lambda y, x, key: y.argmax(-1), jnp.stack([tokens] * 3, 1), state, observed=1
    )
    beams = rx.decoding.beam_search(model_step, state, tokens, beam_size=1, length=3)
    np.testing.assert_array_equal(beams.tokens[:, 0], logits.argmax(-1))
    all_texts = np.stack(np.meshgrid(*[range(I)] * 3, indexing="ij"), -1).reshape(-1, 3)
    scores = []
    for text in all_texts:
        read = jnp.concatenate([tokens[:, None], jnp.stack([jnp.array(text[:2])] * 2)], 1)
        _, ys = rx.scan(layer, params, jax.nn.one_hot(read, I))
        scores.append(jax.nn.log_softmax(3 * ys)[:, np.arange(3), text].sum(-1))
    beams = rx.decoding.beam_search(model_step, state, tokens, beam_size=I**3, length=3)
    best = np.argsort(-np.stack(scores, 1), axis=1)
    np.testing.assert_array_equal(beams.tokens, all_texts[best])
    np.testing.assert_allclose(beams.scores, np.sort(np.stack(scores, 1))[:, ::-1], atol=1e-5)
