"""CTC's decoders and alignment against all alignments, and against a prefix beam of dictionaries."""

import functools
import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import recurrax as rx
from recurrax.losses import ctc

BLANK = 2
LABELS = 4


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def collapse(path: tuple[int, ...], blank: int = BLANK) -> tuple[int, ...]:
    return tuple(label for label, _ in itertools.groupby(path) if label != blank)


def log_softmax(logits: Any) -> np.ndarray:
    logits = np.asarray(logits, np.float64)
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def labelings(log_probs: np.ndarray) -> dict[tuple, dict[tuple, float]]:
    """All alignments of `[T, L]` with their log-probabilities, by their labels."""
    found: dict[tuple, dict[tuple, float]] = {}
    steps, size = log_probs.shape
    for path in itertools.product(range(size), repeat=steps):
        score = sum(log_probs[t, label] for t, label in enumerate(path))
        found.setdefault(collapse(path), {})[path] = score
    return found


def total(scores: Any) -> float:
    with np.errstate(divide="ignore"):
        return float(np.log(np.sum(np.exp(list(scores)))))


def padded_with_nan(logits: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    within = np.arange(logits.shape[-2]) < lengths[..., None]
    return np.where(within[..., None], logits, np.float32(np.nan))


def rows(decoded: rx.losses.Decoded, *row: int) -> dict[tuple[int, ...], float]:
    """The labels of one sequence with their scores; the padding must be blank."""
    labels, lengths, scores = (np.asarray(leaf[row]) for leaf in decoded)
    found = {}
    for some, length, score in zip(labels, lengths, scores, strict=True):
        assert (some[length:] == BLANK).all()
        if np.isneginf(score):
            assert length == 0
            continue
        found[tuple(some[:length].tolist())] = float(score)
    assert list(found.values()) == sorted(found.values(), reverse=True)
    return found


def test_greedy_collapses_the_best_label_of_each_step() -> None:
    logits = 2 * normal(0, 2, 3, 9, LABELS)
    lengths = np.array([[9, 5, 1], [0, 20, 8]])
    bad = np.moveaxis(padded_with_nan(logits, lengths), 2, 0)
    decode = jax.jit(functools.partial(ctc.greedy, blank=BLANK, time_major=True))
    decoded = decode(bad, lengths=lengths)
    repeats = 0
    for row in np.ndindex(2, 3):
        log_probs = log_softmax(logits[row])[: lengths[row]]
        path = tuple(log_probs.argmax(-1).tolist())
        want = collapse(path)
        repeats += len(path) - path.count(BLANK) - len(want)
        assert decoded.labels[row].tolist() == [*want, *[BLANK] * (9 - len(want))]
        assert int(decoded.lengths[row]) == len(want)
        np.testing.assert_allclose(decoded.scores[row], log_probs.max(-1, initial=-99).sum(), atol=1e-5)
    assert repeats, "some label must be repeated"


# A language model with a memory: the next label depends on all labels before it.
CELL = rx.GRUCell(LABELS)
PARAMS = rx.testing.perturbed_params(CELL, input_size=LABELS)


# It never has label 1 after label 0, and nothing after label 3.
FORBIDDEN = np.zeros((LABELS, LABELS), bool)
FORBIDDEN[0, 1] = FORBIDDEN[3] = True


def language_model(label: jax.Array, state: Any) -> tuple[jax.Array, Any]:
    state, y = rx.step(CELL, PARAMS, jax.nn.one_hot(label, LABELS), state)
    return jnp.where(jnp.asarray(FORBIDDEN)[label], -jnp.inf, 3 * y), state


@jax.jit
def next_logits(read: jax.Array) -> jax.Array:
    """The logits after each label of `int[N]`, by one scan."""
    return 3 * rx.scan(CELL, PARAMS, jax.nn.one_hot(read, LABELS))[1]


def model_score(labels: tuple[int, ...], most: int = 14) -> float:
    """What the model gives to labels: it reads the blank first."""
    read = [BLANK, *labels] + [0] * (most - len(labels))
    logits, score = np.asarray(next_logits(np.array(read))), 0.0
    for u, label in enumerate(labels):
        if FORBIDDEN[read[u], label]:
            return -np.inf
        allowed = np.where(FORBIDDEN[read[u]], -np.inf, logits[u])
        score += log_softmax(allowed)[label]
    return score


@functools.partial(jax.jit, static_argnums=(2, 3))
def search(logits: jax.Array, lengths: jax.Array, beam_size: int, model: bool) -> rx.losses.Decoded:
    options: dict = {"beam_size": beam_size, "lengths": lengths, "blank": BLANK}
    if model:
        state = CELL.initial_state(lengths.shape)
        options |= {"language_model": language_model, "model_state": state, "model_weight": 0.7, "length_bonus": 0.4}
    return ctc.prefix_beam(logits, **options)


@pytest.mark.parametrize(
    ("steps", "size", "model"), [(6, 3, False), pytest.param(4, 4, True, marks=pytest.mark.thorough)]
)
def test_a_beam_with_space_for_every_prefix_finds_every_labeling(steps: int, size: int, model: bool) -> None:
    logits, lengths = 2 * normal(3, 4, steps, size), np.array([steps, steps - 1, 1, 0])
    beam_size = sum((size - 1) ** number for number in range(steps + 1))
    decoded = search(padded_with_nan(logits, lengths), lengths, beam_size, model)
    for row, length in enumerate(lengths.tolist()):
        want = {k: total(v.values()) for k, v in labelings(log_softmax(logits[row, :length])).items()}
        if model:
            want = {k: v + 0.7 * model_score(k) + 0.4 * len(k) for k, v in want.items()}
            want = {k: v for k, v in want.items() if v > -np.inf}
        found = rows(decoded, row)
        assert found.keys() == want.keys()
        np.testing.assert_allclose(list(found.values()), [want[k] for k in found], atol=1e-5)
    with pytest.raises(ValueError, match=rf"at most {beam_size}, .* labels out of {size - 1}; got {beam_size + 1}"):
        ctc.prefix_beam(logits, beam_size=beam_size + 1)


def beam_of_dictionaries(
    log_probs: np.ndarray, beam_size: int, added: Callable[[tuple], float]
) -> list[tuple[tuple[int, ...], float]]:
    """Prefix beam search by its definition: a dictionary of prefixes merges the equal ones."""
    beam = {(): (0.0, -np.inf)}
    for scores in log_probs:
        new: dict[tuple, list[list[float]]] = {}
        for prefix, (blank, label) in beam.items():
            both = total([blank, label])
            new.setdefault(prefix, [[], []])[0].append(both + scores[BLANK])
            for c in set(range(len(scores))) - {BLANK}:
                longer = new.setdefault((*prefix, c), [[], []])[1]
                if prefix and c == prefix[-1]:
                    new[prefix][1].append(label + scores[c])
                    longer.append(blank + scores[c])
                else:
                    longer.append(both + scores[c])
        summed = {prefix: (total(a), total(b)) for prefix, (a, b) in new.items()}
        summed = {prefix: both for prefix, both in summed.items() if total(both) + added(prefix) > -np.inf}
        ranked = sorted(summed, key=lambda prefix: -total(summed[prefix]) - added(prefix))
        beam = {prefix: summed[prefix] for prefix in ranked[:beam_size]}
    return [(prefix, total(both) + added(prefix)) for prefix, both in beam.items()]


@pytest.mark.parametrize("model", [True, pytest.param(False, marks=pytest.mark.thorough)])
def test_a_small_beam_keeps_what_its_definition_keeps(model: bool) -> None:
    beam_size = 5
    # Blanks are likely, as after training, so that prefixes leave the beam and come back.
    logits = 1.5 * normal(4, 6, 14, LABELS)
    logits[..., BLANK] += 1
    lengths = np.array([14, 13, 14, 9, 14, 2])
    decoded = search(logits, lengths, beam_size, model)
    cache: dict[tuple, float] = {}

    def added(labels: tuple[int, ...]) -> float:
        if not model:
            return 0.0
        if labels not in cache:
            cache[labels] = 0.7 * model_score(labels) + 0.4 * len(labels)
        return cache[labels]

    for row, length in enumerate(lengths.tolist()):
        want = beam_of_dictionaries(log_softmax(logits[row, :length]), beam_size, added)
        found = rows(decoded, row)
        assert list(found) == [prefix for prefix, _ in want]
        np.testing.assert_allclose(list(found.values()), [score for _, score in want], atol=1e-4)


def test_align_finds_the_best_of_all_alignments() -> None:
    logits = 2 * normal(5, 5, 6, 3)
    labels = np.array([[0, 0, 1], [1, 0, 1], [1, 1, 9], [0, 7, 7], [-1, 5, 5]])
    lengths, label_lengths = np.array([6, 3, 6, 1, 4]), np.array([3, 3, 2, 1, 0])
    bad = padded_with_nan(logits, lengths)

    @jax.jit
    def align(logits: jax.Array) -> ctc.Alignment:
        return ctc.align(logits, labels, lengths=lengths, label_lengths=label_lengths, blank=BLANK, time_major=True)

    def score(logits: jax.Array) -> tuple:
        alignment = align(logits)
        return alignment.scores.sum(), alignment

    (_, alignment), gradient = jax.jit(jax.value_and_grad(score, has_aux=True))(np.swapaxes(bad, 0, 1))
    path, positions, log_probs, scores = jax.tree.map(lambda leaf: np.asarray(leaf).T, alignment)
    for row, length in enumerate(lengths.tolist()):
        want = tuple(labels[row, : label_lengths[row]].tolist())
        expected = log_softmax(logits[row, :length])
        paths = labelings(expected)[want]
        best = max(paths, key=paths.__getitem__)
        assert path[row].tolist() == [*best, *[BLANK] * (6 - length)]
        np.testing.assert_allclose(scores[row], paths[best], atol=1e-5)
        np.testing.assert_allclose(log_probs[row, :length], expected[range(length), best], atol=1e-5)
        assert not log_probs[row, length:].any()
        assert (positions[row, length:] == -1).all()
        named = [BLANK if place < 0 else want[place] for place in positions[row, :length]]
        assert tuple(named) == best
        assert sorted(set(positions[row].tolist()) - {-1}) == list(range(len(want)))
        # d score / d logits is one-hot minus softmax.
        np.testing.assert_allclose(gradient[:length, row], np.eye(3)[list(best)] - np.exp(expected), atol=1e-5)
        assert not gradient[length:, row].any()


def test_no_alignment() -> None:
    logits = np.zeros((2, 3, 3), np.float32)
    labels = np.array([[0, 1], [1, 1]])
    lengths = np.array([3, 2])
    with pytest.raises(ValueError, match=r"`labels\[1\]` .* 2 labels and 1 blanks .* need 3 steps; got 2"):
        ctc.align(logits, labels, lengths=lengths, blank=BLANK)
    alignment = jax.jit(lambda logits: ctc.align(logits, labels, lengths=lengths, blank=BLANK))(logits)
    assert np.isneginf(alignment.scores).tolist() == [False, True]
    assert (alignment.path[1] == BLANK).all()
    logits[0, :, 0] = -np.inf
    with pytest.raises(ValueError, match="probability of 0"):
        ctc.align(logits, labels, lengths=lengths, blank=BLANK)


@pytest.mark.thorough
def test_the_loss_of_optax_sums_these_alignments() -> None:
    optax = pytest.importorskip("optax")
    logits = 2 * normal(6, 2, 5, 3)
    labels, lengths, label_lengths = jnp.array([[1, 1], [2, 0]]), jnp.array([5, 4]), jnp.array([2, 1])
    paddings = [
        1 - rx.lengths_to_mask(some, most).astype(jnp.float32) for some, most in ((lengths, 5), (label_lengths, 2))
    ]
    loss = optax.ctc_loss(logits, paddings[0], labels, paddings[1])
    decoded = ctc.prefix_beam(logits, beam_size=63, lengths=lengths)
    for row in range(2):
        want = labels[row, : int(label_lengths[row])].tolist()
        scores = zip(decoded.labels[row].tolist(), decoded.lengths[row].tolist(), decoded.scores[row], strict=True)
        score = next(score for some, length, score in scores if some[:length] == want)
        np.testing.assert_allclose(score, -loss[row], atol=1e-4)


LOGITS = np.zeros((2, 5, 3), np.float32)
NAN = LOGITS.copy()
NAN[1, 3, 0] = np.nan


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: ctc.greedy(jnp.zeros((2, 5, 3), int)), TypeError, r"`logits` must be of a floating dtype; got int32"),
        (lambda: ctc.greedy(jnp.zeros(3)), ValueError, r"`logits` must be \[\*B, T, L\].* got float32\[3\]"),
        (lambda: ctc.greedy(LOGITS, blank=3), ValueError, "`blank` must be from 0 to 2 .*; got 3"),
        (lambda: ctc.greedy(LOGITS, blank=-1), ValueError, "For the last label write 2"),
        (lambda: ctc.greedy(LOGITS, blank=1.0), TypeError, "`blank` must be an int"),
        (lambda: ctc.greedy(LOGITS, lengths=jnp.ones(3, int)), ValueError, r"`lengths` must be int\[2\]"),
        (lambda: ctc.greedy(LOGITS, lengths=jnp.ones(2)), TypeError, r"`lengths` must be int\[2\]"),
        (lambda: ctc.greedy(NAN), ValueError, "NaN at step 3 of sequence 1"),
        (lambda: ctc.align(LOGITS, jnp.ones((3, 2), int)), ValueError, r"`labels` must be int\[2, U\]"),
        (lambda: ctc.align(LOGITS, jnp.ones((2, 2))), TypeError, r"`labels` must be int\[2, U\]"),
        (
            lambda: ctc.align(LOGITS, jnp.array([[1, 2], [1, 3]])),
            ValueError,
            r"from 0 to 2 and not 0, the blank; got `labels\[1, 1\]` = 3",
        ),
        (lambda: ctc.align(LOGITS, jnp.array([[1, 2], [1, 0]])), ValueError, "0 is `blank`. Is it padding"),
        (lambda: ctc.prefix_beam(LOGITS, beam_size=0), ValueError, "`beam_size` must be an int of at least 1"),
        (
            lambda: ctc.prefix_beam(LOGITS, language_model=lambda label, state: (jnp.zeros((1, 3)), state)),
            ValueError,
            r"`language_model` must return float\[2, 3\].* got float32\[1, 3\]",
        ),
        (
            lambda: ctc.prefix_beam(LOGITS, language_model=language_model, model_state=jnp.zeros(5)),
            ValueError,
            r"`model_state` must be \[2, ...\]",
        ),
    ],
)
def test_errors(call: Callable, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()
