"""Beam search and sampling, against brute force."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import recurrax as rx
from recurrax.decoding import (
    beam_search,
    generate,
    keep_min_p,
    keep_top_k,
    keep_top_p,
    penalize_repetition,
    scale_temperature,
)
from recurrax.testing import perturbed_params


def language_model(vocabulary: int, seed: int = 0):
    """A model whose next token depends on all tokens before.

    Returns `model_step`, its state for a batch shape, and `read_prompt`.
    """
    layer = rx.Stack((rx.GRUCell(4), rx.Dense(vocabulary)))
    params = perturbed_params(layer, 3, seed=seed, scale=2.0)
    embedding = jax.random.normal(jax.random.key(seed), (vocabulary, 3))

    def model_step(token, state):
        state, logits = rx.step(layer, params, embedding[token], state)
        return logits, state

    def read_prompt(tokens, state, lengths):
        return rx.scan(layer, params, embedding[tokens], state, lengths=lengths)[0]

    return model_step, layer.initial_state, read_prompt


def every_text(model_step, state, token, vocabulary: int, length: int, stop: int | None) -> dict:
    """The log-probability of every text, by brute force."""
    step = jax.jit(model_step)
    texts, alive = {}, {(): (0.0, state, token)}
    for _ in range(length):
        longer = {}
        for text, (log_prob, state, last) in alive.items():
            logits, after = step(jnp.asarray(last), state)
            log_probs = np.asarray(jax.nn.log_softmax(logits), np.float64)
            for token in range(vocabulary):
                entry = log_prob + log_probs[token], after, token
                (texts if token == stop else longer)[*text, token] = entry
        alive = longer
    return {text: entry[0] for text, entry in (texts | alive).items()}


@pytest.mark.parametrize(
    ("vocabulary", "length", "stop", "penalty"),
    [
        (4, 3, 1, 0.8),
        pytest.param(3, 6, 0, 0.0, marks=pytest.mark.thorough),
        pytest.param(3, 4, 2, -0.5, marks=pytest.mark.thorough),
        pytest.param(5, 3, None, 0.0, marks=pytest.mark.thorough),
        pytest.param(5, 6, 2, 0.6, marks=pytest.mark.thorough),
    ],
)
def test_a_beam_as_wide_as_all_texts_finds_them_in_order(vocabulary, length, stop, penalty) -> None:
    model_step, initial_state, _ = language_model(vocabulary)
    first = jnp.array([0, 1])
    texts = [every_text(model_step, initial_state(), token, vocabulary, length, stop) for token in first.tolist()]
    beams = jax.jit(
        lambda: beam_search(
            model_step,
            initial_state((2,)),
            first,
            beam_size=len(texts[0]),
            length=length,
            stop=stop,
            length_penalty=penalty,
        )
    )()
    for row, expected in enumerate(texts):
        scores = {text: log_prob / ((5 + len(text)) / 6) ** penalty for text, log_prob in expected.items()}
        best = sorted(scores, key=scores.get, reverse=True)
        lengths = np.asarray(beams.lengths[row])
        got = [tuple(text[:n]) for text, n in zip(beams.tokens[row].tolist(), lengths, strict=True)]
        assert set(got) == set(best)
        np.testing.assert_allclose(beams.scores[row], [scores[text] for text in got], atol=1e-5)
        # Two texts of equal scores, up to rounding, may change places.
        np.testing.assert_allclose(beams.scores[row], [scores[text] for text in best], atol=1e-5)


@pytest.mark.thorough
def test_a_narrow_beam_is_the_beam_of_a_python_loop_and_its_rows_are_alone() -> None:
    model_step, initial_state, _ = language_model(6)
    step = jax.jit(model_step)

    def by_hand(first: int, width: int, length: int, stop: int, penalty: float) -> list:
        """The K best texts, each step by sorting all candidates."""
        alive, ended = [((), 0.0, initial_state(), first)], []
        for number in range(1, length + 1):
            candidates = []
            for text, log_prob, state, last in alive:
                logits, after = step(jnp.asarray(last), state)
                log_probs = np.asarray(jax.nn.log_softmax(logits), np.float64)
                candidates += [((*text, k), log_prob + log_probs[k], after, k) for k in range(6)]
            candidates.sort(key=lambda entry: -entry[1])
            best = [entry for entry in candidates[:width] if entry[3] == stop]
            ended += [(text, log_prob / ((5 + number) / 6) ** penalty) for text, log_prob, _, _ in best]
            alive = [entry for entry in candidates if entry[3] != stop][:width]
        ended += [(text, log_prob / ((5 + length) / 6) ** penalty) for text, log_prob, _, _ in alive]
        return sorted(ended, key=lambda entry: -entry[1])[:width]

    first, options = jnp.array([[1, 2], [3, 4]]), {"beam_size": 3, "length": 5, "stop": 0, "length_penalty": 0.6}
    beams = jax.jit(lambda: beam_search(model_step, initial_state((2, 2)), first, **options))()
    for row in np.ndindex(2, 2):
        expected = by_hand(int(first[row]), 3, 5, 0, 0.6)
        got = [tuple(text[:n]) for text, n in zip(beams.tokens[row].tolist(), beams.lengths[row], strict=True)]
        assert got == [text for text, _ in expected]
        np.testing.assert_allclose(beams.scores[row], [score for _, score in expected], atol=1e-5)
    # A text that has ended is followed by stop tokens.
    assert (np.asarray(beams.tokens) == 0)[np.arange(5) >= np.asarray(beams.lengths)[..., None]].all()


@pytest.mark.thorough
def test_a_beam_of_states_with_layers_first_that_stops_early() -> None:
    model_step, initial_state, _ = language_model(6)

    def layers_first(token, state):
        logits, after = model_step(token, jax.tree.map(lambda leaf: leaf[0], state))
        return logits, jax.tree.map(lambda leaf: leaf[None], after)

    first, options = jnp.array([1, 2]), {"beam_size": 3, "length": 5, "stop": 0, "length_penalty": 0.6}
    exact = beam_search(model_step, initial_state((2,)), first, **options)
    state = jax.tree.map(lambda leaf: leaf[None], initial_state((2,)))
    same = beam_search(layers_first, state, first, **options, batch_axis=1)
    quick = beam_search(layers_first, state, first, **options, batch_axis=1, early_stopping=True)
    assert (same.tokens == exact.tokens).all()
    assert (np.asarray(quick.scores[:, 0]) <= np.asarray(exact.scores[:, 0]) + 1e-6).all()
    assert np.isfinite(quick.scores).all()


def test_samplers_keep_what_their_definitions_keep() -> None:
    logits = np.asarray(jax.random.normal(jax.random.key(0), (20, 7)) * 2, np.float64)
    probabilities = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    seen = np.asarray(jax.random.bernoulli(jax.random.key(1), 0.5, logits.shape))
    given = jnp.asarray(logits, jnp.float32)
    k, p = keep_top_k(given, 3), keep_top_p(given, 0.7)
    least, scaled = keep_min_p(given, 0.2), scale_temperature(given, 0.5)
    penalized = penalize_repetition(given, jnp.asarray(seen), 1.3)
    for row, (of, share) in enumerate(zip(logits, probabilities, strict=True)):
        order = sorted(range(7), key=lambda token: -of[token])
        # The fewest tokens that have the probability together, found by counting up.
        number = next(n for n in range(1, 8) if share[order[:n]].sum() >= 0.7)
        for got, kept in ((k, order[:3]), (p, order[:number]), (least, np.flatnonzero(share >= 0.2 * share.max()))):
            expected = np.full(7, -np.inf)
            expected[kept] = of[kept]
            np.testing.assert_allclose(got[row], expected, rtol=1e-6)
        expected = [x if not s else x / 1.3 if x > 0 else x * 1.3 for x, s in zip(of, seen[row], strict=True)]
        np.testing.assert_allclose(penalized[row], expected, rtol=1e-6)
    np.testing.assert_allclose(scaled, logits * 2, rtol=1e-6)
    assert keep_top_p(given, 1e-6).argmax(-1).tolist() == logits.argmax(-1).tolist()


@pytest.fixture(scope="module")
def written():
    """Four ragged prompts, continued by every option at once, and how to continue others."""
    model_step, initial_state, read_prompt = language_model(9)
    options = {"temperature": 1.5, "top_k": 6, "top_p": 0.95, "min_p": 0.01, "repetition_penalty": 1.2}
    prompts = jnp.array([[1, 2, 3], [4, 99, 99], [5, 6, 99], [7, 8, 1]])  # the padding is no token
    lengths, keys = jnp.array([3, 1, 2, 3]), jax.random.split(jax.random.key(1), 4)

    @functools.partial(jax.jit, static_argnames="reads")
    def write(prompts, lengths, keys, reads=None):
        state = initial_state((len(prompts),))
        given = {"prompt_lengths": lengths, "key": keys, "read_prompt": reads, "stop": (0, 3), "length": 8}
        return generate(model_step, state, prompts, **given, **options)

    return model_step, initial_state, read_prompt, write, (prompts, lengths, keys)


def test_generate_writes_what_a_python_loop_writes(written) -> None:
    model_step, initial_state, _, write, (prompts, lengths, keys) = written
    got, step = write(prompts, lengths, keys), jax.jit(model_step)
    for row in range(4):
        state, text = initial_state(), prompts[row, : lengths[row]].tolist()
        for token in text[:-1]:
            _, state = step(jnp.asarray(token), state)
        new, log_probs = [], []
        while len(new) < 8 and not set(new) & {0, 3}:
            logits, state = step(jnp.asarray(text[-1]), state)
            seen = jnp.zeros(9, bool).at[jnp.array(text)].set(True)
            warped = keep_top_k(scale_temperature(penalize_repetition(logits, seen, 1.2), 1.5), 6)
            warped = np.asarray(keep_min_p(keep_top_p(warped, 0.95), 0.01), np.float64)
            # The inverse of the cumulative distribution, at the uniform number of this row and token.
            sums = np.cumsum(np.exp(warped)) / np.exp(warped).sum()
            uniform = float(jax.random.uniform(jax.random.fold_in(keys[row], len(new))))
            token = int(np.flatnonzero(sums > uniform)[0])
            log_probs.append(float(jax.nn.log_softmax(logits)[token]))
            new.append(token)
            text.append(token)
        assert got.tokens[row, : got.lengths[row]].tolist() == new
        assert not got.tokens[row, got.lengths[row] :].any()
        np.testing.assert_allclose(got.log_probs[row], np.pad(log_probs, (0, 8 - len(new))), atol=1e-5)
    assert len(set(got.lengths.tolist())) > 1


def test_a_row_writes_alone_what_it_writes_in_a_batch(written) -> None:
    _, _, _, write, (prompts, lengths, keys) = written
    together = write(prompts, lengths, keys)
    alone = write(prompts[2:3, :2], lengths[2:3], keys[2:3])
    assert alone.tokens[0].tolist() == together.tokens[2].tolist()
    np.testing.assert_allclose(alone.log_probs[0], together.log_probs[2], atol=1e-6)


@pytest.mark.thorough
def test_other_ways_to_write_the_same_text(written) -> None:
    model_step, initial_state, read_prompt, write, (prompts, lengths, keys) = written
    together, at_once = write(prompts, lengths, keys), write(prompts, lengths, keys, reads=read_prompt)
    assert (together.tokens == at_once.tokens).all()
    # Parts of a text equal one call, and a row's key follows from its number alone.
    key = jax.random.key(5)
    write_some = jax.jit(functools.partial(generate, model_step), static_argnames="length")
    whole = write_some(initial_state((2,)), prompts[:2, :1], length=6, key=key)
    state, last, parts = initial_state((1,)), prompts[:1, :1], []
    for count in (0, 3):
        part = write_some(state, last, length=3, key=key, written=count)
        state, last = part.state, part.tokens[:, -1:]
        parts += part.tokens[0].tolist()
    assert parts == whole.tokens[0].tolist()
    # Without a key each token is the likeliest.
    greedy = write_some(initial_state((1,)), prompts[:1, :1], length=6)
    assert (
        greedy.tokens == write_some(initial_state((1,)), prompts[:1, :1], length=6, key=key, min_p=1.0).tokens
    ).all()


def test_draws_follow_the_probabilities_and_no_impossible_token_is_drawn() -> None:
    probabilities = jnp.array([0.0, 0.5, 0.0, 0.3, 0.2, 0.0])

    def model_step(token, state):
        return jnp.broadcast_to(jnp.log(probabilities), (*token.shape, 6)), state

    tokens = generate(model_step, (), jnp.ones((500, 1), int), length=40, key=jax.random.key(0)).tokens
    shares = np.bincount(np.asarray(tokens).ravel(), minlength=6) / tokens.size
    np.testing.assert_allclose(shares, probabilities, atol=0.015)
    assert not shares[[0, 2, 5]].any()


def test_wrong_calls_are_told() -> None:
    def model_step(token, state):
        return jnp.zeros((*token.shape, 5)), state

    def diverged(token, state):
        return jnp.where(jnp.expand_dims(token, -1) == 2, jnp.nan, jnp.zeros((*token.shape, 5))), state

    prompts, first = jnp.array([[1, 2], [3, 4]]), jnp.array([1, 2])
    search = functools.partial(beam_search, model_step, (), first, beam_size=2, length=3)
    write = functools.partial(generate, model_step, (), prompts, length=3)
    key = jax.random.key(0)
    for call, error, message in [
        (
            lambda: search(beam_size=126),
            ValueError,
            "at most 125, the number of different texts",
        ),
        (lambda: search(stop=5), ValueError, "`stop` must be token ids from 0 to 4.*got 5"),
        (lambda: search(stop=1.0), TypeError, "`stop` must be an int, a tuple of ints or None"),
        (lambda: search(beam_size=0), ValueError, "`beam_size` must be an int of at least 1"),
        (lambda: beam_search(diverged, (), first, beam_size=2, length=3), ValueError, r"NaN.*in row \[1\]"),
        (
            lambda: beam_search(model_step, jnp.zeros((3, 2)), first, beam_size=2, length=3),
            ValueError,
            r"`state` must be \[2, ...\].*Is it in PyTorch's layout\? Set `batch_axis=1`",
        ),
        (
            lambda: beam_search(lambda t, s: (jnp.zeros((2, 5)), (s,)), first, first, beam_size=2, length=3),
            ValueError,
            "must return a state like `state`",
        ),
        (
            lambda: beam_search(lambda t, s: (s, jnp.zeros((2, 5))), (), first, beam_size=2, length=3),
            ValueError,
            r"Is the order \(logits, state\)\?",
        ),
        (lambda: write(temperature=0.5), ValueError, "`key` must be given with `temperature`"),
        (lambda: write(key=key, temperature=0.0), ValueError, "`temperature` must be a number above 0.*got 0.0"),
        (lambda: write(key=key, top_k=6), ValueError, "`top_k` must be an int from 1 to 5.*got 6"),
        (lambda: write(key=key, top_p=1.5), ValueError, "`top_p` must be a number above 0 and at most 1"),
        (lambda: write(key=jax.random.split(key, 3)), ValueError, r"keys \[2\] of the rows"),
        (lambda: write(prompt_lengths=jnp.array([0, 2])), ValueError, "`prompt_lengths` must be from 1 to 2.*got 0"),
        (lambda: generate(model_step, (), prompts + 3, length=3), ValueError, "`prompts` must be token ids.*got 5"),
        (lambda: generate(model_step, (), prompts[:, :0], length=3), ValueError, "at least one token"),
        (lambda: generate(model_step, (), prompts.astype(float), length=3), TypeError, r"int\[\*B, P\], token ids"),
        (lambda: generate(diverged, (), prompts, length=3), ValueError, r"NaN.*in row \[0\], one of 1"),
    ]:
        with pytest.raises(error, match=message):
            call()
    # Inside of `jax.jit` nothing can be raised. Such a row is marked, and the others are as ever.
    beams = jax.jit(lambda: beam_search(diverged, (), first, beam_size=2, length=1))()
    assert np.isnan(beams.scores).all(axis=-1).tolist() == [False, True]
    texts = jax.jit(lambda: generate(diverged, (), prompts, length=3))()
    assert texts.lengths.tolist() == [0, 3]
    assert np.isnan(texts.log_probs).any(axis=-1).tolist() == [True, False]
