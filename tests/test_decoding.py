"""Beam search and sampling, against brute force."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import recurrax as rx
from recurrax.decoding import beam_search
from recurrax.testing import perturbed_params


def language_model(vocabulary: int, seed: int = 0):
    """A model whose next token depends on all tokens before: `model_step`, and its state for a batch shape."""
    layer = rx.Stack((rx.GRUCell(4), rx.Dense(vocabulary)))
    params = perturbed_params(layer, 3, seed=seed, scale=2.0)
    embedding = jax.random.normal(jax.random.key(seed), (vocabulary, 3))

    def model_step(token, state):
        state, logits = rx.step(layer, params, embedding[token], state)
        return logits, state

    return model_step, layer.initial_state


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
    [(3, 4, 0, 0.0), (3, 4, 2, 0.8), pytest.param(5, 3, None, 0.0, marks=pytest.mark.thorough), (4, 3, 1, -0.5)],
)
def test_a_beam_as_wide_as_all_texts_finds_them_in_order(vocabulary, length, stop, penalty) -> None:
    model_step, initial_state = language_model(vocabulary)
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
        assert got == best
        np.testing.assert_allclose(beams.scores[row], [scores[text] for text in best], atol=1e-5)
