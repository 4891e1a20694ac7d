"""The transducer against all paths of its lattice, and its decoders against a search with dictionaries."""

import itertools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import recurrax as rx
from recurrax.losses import transducer
from recurrax.losses.transducer import transducer_loss

KEYS = jax.random.split(jax.random.key(0), 8)
BLANK = 1


def log_softmax(logits: Any) -> np.ndarray:
    logits = np.asarray(logits, np.float64)
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def paths(frames: int, number: int) -> list[list[tuple[int, int, bool]]]:
    """All paths of a lattice: the node (t, u) of each move, and whether the move emits a label."""
    found = []
    if not frames:
        return found if number else [[]]
    # The last move is a blank.
    for emitting in itertools.combinations(range(frames + number - 1), number):
        t, u, path = 0, 0, []
        for move in range(frames + number):
            emits = move in emitting
            path.append((t, u, emits))
            t, u = (t, u + 1) if emits else (t + 1, u)
        found.append(path)
    return found


def by_enumeration(logits: Any, labels: list[int], frames: int) -> tuple[float, np.ndarray]:
    """The loss of one sequence and its gradient, from every path."""
    log_probs = log_softmax(logits)
    scores, counts = [], []
    for path in paths(frames, len(labels)):
        count = np.zeros_like(log_probs)
        for t, u, emits in path:
            count[t, u, labels[u] if emits else BLANK] += 1
        scores.append((count * log_probs).sum())
        counts.append(count)
    if not scores:
        return math.inf, np.zeros_like(log_probs)
    total = np.logaddexp.reduce(scores)
    expected = sum(np.exp(score - total) * count for score, count in zip(scores, counts, strict=True))
    # Each visit to a node chooses one entry of its softmax.
    return -total, expected.sum(-1, keepdims=True) * np.exp(log_probs) - expected


SHAPE = (2, 4, 5, 4, 5)  # *B, T, U+1, V
LOGITS = 2 * jax.random.normal(KEYS[0], SHAPE)
LABELS = jnp.array([[[0, 2, 2], [3, 0, 9], [4, -7, 9], [1, 1, 1]], [[2, 2, 2], [4, 3, 3], [0, 0, 0], [3, 9, 9]]])
FRAMES = jnp.array([[5, 4, 9, 2], [1, 0, 3, 0]])
NUMBERS = jnp.array([[3, 2, 1, 0], [3, 2, 3, 0]])
INSIDE = rx.lengths_to_mask(FRAMES, 5)[..., None] & rx.lengths_to_mask(NUMBERS + 1, 4)[..., None, :]


def loss_of(logits: jax.Array) -> jax.Array:
    return transducer_loss(logits, LABELS, logit_lengths=FRAMES, label_lengths=NUMBERS, blank=BLANK)


def test_loss_and_gradient_equal_all_paths() -> None:
    bad = jnp.where(INSIDE[..., None], LOGITS, jnp.nan)
    loss, pull = jax.vjp(loss_of, bad)
    (gradient,) = pull(jnp.ones_like(loss))
    assert not gradient[~INSIDE].any()
    for row in np.ndindex(2, 4):
        labels = LABELS[row][: int(NUMBERS[row])].tolist()
        want, slope = by_enumeration(LOGITS[row], labels, min(int(FRAMES[row]), 5))
        np.testing.assert_allclose(loss[row], want, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(gradient[row], slope, atol=1e-5)
    # Labels without a frame have no path; no labels without a frame have one, of no move.
    assert np.isinf(loss[1, 1])
    assert loss[1, 3] == 0


def test_derivatives_of_every_order() -> None:
    with jax.enable_x64(True):
        logits = jax.random.normal(KEYS[1], (2, 3, 3, 4), jnp.float64)
        labels, frames = jnp.array([[0, 2], [3, 3]]), jnp.array([3, 2])

        def loss(logits: jax.Array) -> jax.Array:
            return transducer_loss(logits, labels, logit_lengths=frames, blank=BLANK).sum()

        # An impossible label has a gradient too.
        logits = logits.at[0, 2, 1, 0].set(-jnp.inf)
        tangent = jax.random.normal(KEYS[2], logits.shape, jnp.float64)
        step = 1e-4

        @jax.jit
        def derivatives(logits: jax.Array) -> tuple:
            slope, curvature = jax.jvp(jax.grad(loss), (logits,), (tangent,))
            return slope, curvature, jax.jvp(loss, (logits,), (tangent,))[1]

        slope, curvature, forward = derivatives(logits)
        above, below = derivatives(logits + step * tangent), derivatives(logits - step * tangent)
        assert np.isfinite(slope).all()
        np.testing.assert_allclose(forward, jnp.vdot(slope, tangent), rtol=1e-9)
        np.testing.assert_allclose(curvature, (above[0] - below[0]) / (2 * step), atol=1e-6)


def test_a_long_lattice_equals_a_loop_over_its_nodes() -> None:
    frames, number = 120, 40
    logits = 3 * jax.random.normal(KEYS[3], (frames, number + 1, 6))
    labels = jax.random.randint(KEYS[4], (number,), 2, 6)
    log_probs = log_softmax(logits)
    alpha = np.full((frames + 1, number + 1), -np.inf)
    alpha[0, 0] = 0
    for t, u in np.ndindex(frames, number + 1):
        if u:
            alpha[t, u] = np.logaddexp(alpha[t, u], alpha[t, u - 1] + log_probs[t, u - 1, int(labels[u - 1])])
        alpha[t + 1, u] = alpha[t, u] + log_probs[t, u, BLANK]
    np.testing.assert_allclose(transducer_loss(logits, labels, blank=BLANK), -alpha[frames, number], rtol=1e-6)


def test_memory_is_a_few_numbers_per_node() -> None:
    batch, frames, number, size = 2, 64, 15, 256
    logits = jax.ShapeDtypeStruct((batch, frames, number + 1, size), jnp.float32)
    labels = jax.ShapeDtypeStruct((batch, number), jnp.int32)
    gradient = jax.grad(lambda logits, labels: transducer_loss(logits, labels).sum())
    memory = jax.jit(gradient).lower(logits, labels).compile().memory_analysis()
    nodes = batch * (frames + number) * (number + 1)
    # The gradient is an output. An array of the size of the logits would be 200 numbers per node.
    assert memory.temp_size_in_bytes < 16 * 4 * nodes


def test_bfloat16_and_meshes() -> None:
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Explicit,))
    logits = jnp.concatenate([LOGITS[0]] * 2).astype(jnp.bfloat16)
    labels = jnp.concatenate([LABELS[1]] * 2)

    @jax.jit
    def train(logits: jax.Array, labels: jax.Array) -> tuple:
        loss, pull = jax.vjp(lambda logits: transducer_loss(logits, jnp.clip(labels, 2, 4), blank=BLANK), logits)
        return loss, *pull(jnp.ones_like(loss))

    want = train(logits, labels)
    assert want[0].dtype == jnp.float32
    assert want[1].dtype == jnp.bfloat16
    wide = train(logits.astype(jnp.float32), labels)
    np.testing.assert_allclose(want[0], wide[0], rtol=1e-6)
    np.testing.assert_allclose(want[1].astype(jnp.float32), wide[1], atol=0.02)
    with jax.set_mesh(mesh):
        placed = jax.device_put((logits, labels), NamedSharding(mesh, PartitionSpec("data")))
        got = jax.device_get(train(*placed))
    np.testing.assert_allclose(got[0], want[0], rtol=1e-6)
    np.testing.assert_allclose(got[1].astype(np.float32), want[1].astype(np.float32), atol=0.01)


# A predictor with an LSTM: its output depends on all labels before.
CELL = rx.LSTMCell(6)
PARAMS = rx.testing.perturbed_params(CELL, input_size=3)


def networks(size: int, sharp: float = 4.0) -> tuple[Callable, Callable, Callable]:
    """The joint function and the predictor for a number of labels, and all logits for given labels."""
    embedding = jax.random.normal(KEYS[5], (size, 3))
    head = sharp * jax.random.normal(KEYS[6], (6, size))

    def joint(frame: jax.Array, output: jax.Array) -> jax.Array:
        return jnp.tanh(frame + output) @ head

    def predictor_step(label: jax.Array, state: Any) -> tuple[Any, Any]:
        state, y = rx.step(CELL, PARAMS, embedding[label], state)
        return y, state

    @jax.jit
    def logits_of(encoded: jax.Array, read: jax.Array) -> jax.Array:
        """Logits `[T, U+1, V]` for labels with the blank before them, `int[U+1]`, by one scan."""
        _, outputs = rx.scan(CELL, PARAMS, embedding[read])
        return joint(encoded[:, None], outputs[None])

    return joint, predictor_step, logits_of


def encoder(*shape: int) -> jax.Array:
    return jax.random.normal(KEYS[7], (*shape, 6))


def with_nan(encoded: jax.Array, lengths: jax.Array) -> jax.Array:
    return jnp.where(rx.lengths_to_mask(lengths, encoded.shape[-2])[..., None], encoded, jnp.nan)


class Reference:
    """The log-probabilities after each sequence of labels, for one encoder output `[T, E]`."""

    def __init__(self, logits_of: Callable, encoded: jax.Array, most: int):
        self.logits_of, self.encoded, self.most = logits_of, encoded, most
        self.known: dict[tuple, np.ndarray] = {}

    def __call__(self, labels: tuple[int, ...]) -> np.ndarray:
        """`[T, V]`"""
        if labels not in self.known:
            read = jnp.array([BLANK, *labels] + [0] * (self.most - len(labels)))
            self.known[labels] = log_softmax(self.logits_of(self.encoded, read)[:, len(labels)])
        return self.known[labels]


@pytest.mark.parametrize("max_symbols", [2])
def test_greedy_equals_a_loop(max_symbols: int) -> None:
    size, most = 4, 7
    joint, predictor_step, logits_of = networks(size)
    encoded, lengths = encoder(3, 5), jnp.array([5, 3, 0])
    decode = jax.jit(
        lambda encoded, lengths: transducer.greedy(
            joint,
            predictor_step,
            encoded,
            CELL.initial_state((3,)),
            lengths=lengths,
            blank=BLANK,
            max_symbols=max_symbols,
            max_labels=most,
        )
    )
    decoded = decode(with_nan(encoded, lengths), lengths)
    assert decoded.labels.shape == (3, most)
    forced = 0
    for row, length in enumerate(lengths.tolist()):
        reference = Reference(logits_of, encoded[row], 10)
        labels: tuple[int, ...] = ()
        score, t, symbols = 0.0, 0, 0
        while t < length:
            scores = reference(labels)[t]
            best = int(scores.argmax())
            if symbols == max_symbols or len(labels) == most:
                forced += best != BLANK
                best = BLANK
            score += scores[best]
            if best == BLANK:
                t, symbols = t + 1, 0
            else:
                labels, symbols = (*labels, best), symbols + 1
        assert decoded.labels[row].tolist() == [*labels, *[BLANK] * (most - len(labels))]
        assert int(decoded.lengths[row]) == len(labels)
        np.testing.assert_allclose(decoded.scores[row], score, atol=1e-4)
    assert forced, "some frame must reach `max_symbols`"


def found_in(decoded: rx.losses.Decoded, row: int) -> dict[tuple[int, ...], float]:
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


def search(
    size: int, encoded: jax.Array, lengths: jax.Array, beam_size: int, most: int
) -> tuple[rx.losses.Decoded, Callable]:
    joint, predictor_step, logits_of = networks(size)
    state = CELL.initial_state(lengths.shape)

    @jax.jit
    def decode(encoded: jax.Array, lengths: jax.Array) -> rx.losses.Decoded:
        return transducer.beam(
            joint, predictor_step, encoded, state, beam_size=beam_size, lengths=lengths, blank=BLANK, max_labels=most
        )

    return decode(with_nan(encoded, lengths), lengths), logits_of


def test_a_beam_with_space_for_every_prefix_finds_every_labelling() -> None:
    frames, most, size = 3, 3, 3
    encoded, lengths = encoder(4, frames), jnp.array([3, 2, 1, 0])
    decoded, logits_of = search(size, encoded, lengths, 15, most)
    every = [labels for u in range(most + 1) for labels in itertools.product((0, 2), repeat=u)]
    reads = jnp.array([[BLANK, *labels] + [0] * (most - len(labels)) for labels in every])
    numbers = jnp.array([len(labels) for labels in every])
    for row, length in enumerate(lengths.tolist()):
        logits = jax.vmap(logits_of, (None, 0))(encoded[row], reads)
        want = {}
        for labels, some in zip(every, logits, strict=True):
            loss, _ = by_enumeration(some[:, : len(labels) + 1], list(labels), length)
            if loss < math.inf:
                want[labels] = -loss
        found = found_in(decoded, row)
        assert found.keys() == want.keys()
        np.testing.assert_allclose(list(found.values()), [want[k] for k in found], atol=1e-5)
    # The loss agrees.
    loss = transducer_loss(
        jax.vmap(logits_of, (None, 0))(encoded[0], reads),
        jnp.where(rx.lengths_to_mask(numbers, most), reads[:, 1:], 0),
        label_lengths=numbers,
        blank=BLANK,
    )
    scores = found_in(decoded, 0)
    np.testing.assert_allclose(loss, [-scores[labels] for labels in every], atol=1e-5)


def beam_of_dictionaries(reference: Reference, length: int, beam_size: int, most: int) -> list[tuple[tuple, float]]:
    """Alignment-length synchronous search by its definition, to the last diagonal."""
    beam, complete = {(): 0.0}, {}
    for moves in range(length + most):
        new: dict[tuple, list[float]] = {}
        for labels, score in beam.items():
            t = moves - len(labels)
            scores = reference(labels)[t]
            if t == length - 1:
                complete[labels] = score + scores[BLANK]
            else:
                new.setdefault(labels, []).append(score + scores[BLANK])
            for c in set(range(len(scores))) - {BLANK}:
                if len(labels) < most:
                    new.setdefault((*labels, c), []).append(score + scores[c])
        summed = {labels: float(np.logaddexp.reduce(scores)) for labels, scores in new.items()}
        beam = dict(sorted(summed.items(), key=lambda item: -item[1])[:beam_size])
    return sorted(complete.items(), key=lambda item: -item[1])[:beam_size]


def test_a_small_beam_keeps_what_its_definition_keeps() -> None:
    beam_size, most, size = 4, 6, 4
    encoded, lengths = encoder(4, 8), jnp.array([8, 7, 8, 1])
    decoded, logits_of = search(size, encoded, lengths, beam_size, most)
    for row, length in enumerate(lengths.tolist()):
        reference = Reference(logits_of, encoded[row], most)
        want = beam_of_dictionaries(reference, length, beam_size, most)
        found = found_in(decoded, row)
        assert list(found) == [labels for labels, _ in want]
        np.testing.assert_allclose(list(found.values()), [score for _, score in want], atol=1e-4)


def test_no_frames() -> None:
    joint, predictor_step, _ = networks(3)
    encoded, state = jnp.zeros((0, 6)), CELL.initial_state()
    for decode in (transducer.greedy, transducer.beam):
        decoded = decode(
            joint,
            predictor_step,
            encoded,
            state,
            blank=BLANK,
            **({"beam_size": 2} if decode is transducer.beam else {}),
        )
        assert np.ravel(decoded.scores)[0] == 0
        assert not decoded.lengths.any()
    loss = transducer_loss(jnp.zeros((2, 0, 3, 4)), jnp.array([[2, 3], [2, 3]]), label_lengths=jnp.array([0, 1]))
    assert loss.tolist() == [0, math.inf]
    loss = transducer_loss(jnp.zeros((2, 3, 1, 4)), jnp.zeros((2, 0), int))
    np.testing.assert_allclose(loss, 3 * np.log(4), rtol=1e-6)


ZEROS = jnp.zeros((2, 3, 3, 4))
ONES = jnp.ones((2, 2), int)
FRAME = jnp.zeros((2, 3, 6))
STATE = CELL.initial_state((2,))


def decode(joint: Any = None, step: Any = None, encoded: Any = FRAME, state: Any = STATE, **options: Any) -> Any:
    given = networks(3)
    return transducer.beam(joint or given[0], step or given[1], encoded, state, **options)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: transducer_loss(ZEROS.astype(int), ONES), TypeError, "`logits` must be of a floating dtype"),
        (lambda: transducer_loss(ZEROS[0, 0], ONES), ValueError, r"`logits` must be \[\*B, T, U\+1, V\]"),
        (lambda: transducer_loss(ZEROS, ONES[:1]), ValueError, r"`labels` must be int\[2, U\]"),
        (
            lambda: transducer_loss(ZEROS, jnp.ones((2, 3), int)),
            ValueError,
            r"with U = 3 labels, \[..., 3, 4, 4\]; got float32\[2, 3, 3, 4\]. The predictor has an output before",
        ),
        (
            lambda: transducer_loss(ZEROS, 4 * ONES),
            ValueError,
            r"from 0 to 3 and not 0, the blank; got `labels\[0, 0\]` = 4",
        ),
        (lambda: transducer_loss(ZEROS, ONES, blank=1), ValueError, "1 is `blank`"),
        (lambda: transducer_loss(ZEROS, ONES, blank=4), ValueError, "`blank` must be from 0 to 3"),
        (
            lambda: transducer_loss(ZEROS, ONES, logit_lengths=jnp.ones(3, int)),
            ValueError,
            r"`logit_lengths` must be int\[2\]",
        ),
        (
            lambda: transducer_loss(ZEROS, ONES, label_lengths=jnp.ones(2)),
            TypeError,
            r"`label_lengths` must be int\[2\]",
        ),
        (lambda: decode(blank=3), ValueError, "`blank` must be from 0 to 2 for the logits of `joint`"),
        (lambda: decode(beam_size=16), ValueError, "at most 15, .* up to 3 labels out of 2; got 16"),
        (lambda: decode(beam_size=0), ValueError, "`beam_size` must be an int of at least 1"),
        (lambda: decode(max_labels=0), ValueError, "`max_labels` must be an int of at least 1"),
        (lambda: decode(encoded=FRAME.at[1, 2, 0].set(jnp.nan)), ValueError, "NaN at step 2 of sequence 1"),
        (lambda: decode(encoded=FRAME[0, 0]), ValueError, r"`encoded` must be \[\*B, T, E\]"),
        (lambda: decode(state=CELL.initial_state((3,))), ValueError, r"`state.h` must be \[2, ...\]"),
        (lambda: decode(joint=lambda frame, output: jnp.zeros((1, 3))), ValueError, r"`joint` must return float\[V\]"),
        (
            lambda: decode(step=lambda label, state: (state, jnp.zeros(6))),
            ValueError,
            "`predictor_step` must return a state like the state that it gets",
        ),
        (
            lambda: decode(step=lambda label, state: state.h),
            ValueError,
            r"`predictor_step` must return \(output, state\)",
        ),
    ],
)
def test_errors(call: Callable, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()


@pytest.mark.thorough
def test_decoders_in_float64() -> None:
    embedding, head = (np.asarray(jax.random.normal(key, (3, 6))) for key in KEYS[:2])
    inputs = np.asarray(encoder(2, 4))

    def decode(dtype: Any) -> list:
        encoded = jnp.asarray(inputs, dtype)

        def joint(frame: jax.Array, output: jax.Array) -> jax.Array:
            return jnp.tanh(frame + output) @ jnp.asarray(head.T, dtype)

        def predictor_step(label: jax.Array, state: jax.Array) -> tuple[jax.Array, jax.Array]:
            state = (state + jnp.asarray(embedding, dtype)[label]) / 2
            return state, state

        state = jnp.zeros((2, 6), dtype)
        found = [
            transducer.greedy(joint, predictor_step, encoded, state),
            transducer.beam(joint, predictor_step, encoded, state, beam_size=4),
            rx.losses.ctc.greedy(encoded),
            rx.losses.ctc.prefix_beam(encoded, beam_size=4),
            rx.losses.ctc.align(encoded, jnp.array([[1, 2], [3, 3]])),
        ]
        assert all(leaf.dtype in (dtype, jnp.int32) for leaf in jax.tree.leaves(found))
        return jax.device_get(found)

    narrow = decode(jnp.float32)
    with jax.enable_x64(True):
        wide = decode(jnp.float64)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), narrow, wide)
