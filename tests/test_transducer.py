"""The transducer against all paths of its lattice, and its decoders against a search with dictionaries."""

import functools
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
from recurrax.losses import ctc, transducer
from recurrax.losses.transducer import transducer_loss

BLANK = 1


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


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


LOGITS = 2 * normal(0, 2, 4, 5, 4, 5)  # *B, T, U+1, V
LABELS = np.array([[[0, 2, 2], [3, 0, 9], [4, -7, 9], [1, 1, 1]], [[2, 2, 2], [4, 3, 3], [0, 0, 0], [3, 9, 9]]])
FRAMES = np.array([[5, 4, 9, 2], [1, 0, 3, 0]])
NUMBERS = np.array([[3, 2, 1, 0], [3, 2, 3, 0]])
INSIDE = (np.arange(5)[:, None] < FRAMES[..., None, None]) & (np.arange(4) <= NUMBERS[..., None, None])


def loss_of(logits: jax.Array, labels: Any = LABELS, frames: Any = FRAMES, numbers: Any = NUMBERS) -> jax.Array:
    return transducer_loss(logits, labels, logit_lengths=frames, label_lengths=numbers, blank=BLANK)


@jax.jit
def loss_and_gradient(logits: jax.Array, *others: Any) -> tuple[jax.Array, jax.Array]:
    loss, pull = jax.vjp(lambda logits: loss_of(logits, *others), logits)
    return loss, *pull(jnp.ones_like(loss))


def test_loss_and_gradient_equal_all_paths() -> None:
    loss, gradient = loss_and_gradient(np.where(INSIDE[..., None], LOGITS, np.float32(np.nan)))
    assert not np.asarray(gradient)[~INSIDE].any()
    for row in np.ndindex(2, 4):
        labels = LABELS[row][: NUMBERS[row]].tolist()
        want, slope = by_enumeration(LOGITS[row], labels, min(FRAMES[row], 5))
        np.testing.assert_allclose(loss[row], want, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(gradient[row], slope, atol=1e-5)
    # NaN within the lattice stays visible, in its sequence alone. A node where nothing is possible is avoided.
    bad = LOGITS.copy()
    bad[0, 0, 1, 0] = np.nan
    bad[0, 1, 0, 1] = -np.inf
    again, gradient = loss_and_gradient(bad)
    assert np.isnan(again).tolist() == [[True, False, False, False], [False] * 4]
    assert np.isfinite(np.asarray(gradient)[0, 1:]).all()
    log_probs = np.full((5, 4, 5), -1e9)
    log_probs[:4, :3] = log_softmax(LOGITS[0, 1, :4, :3])
    log_probs[0, 1] = -1e9
    scores = [sum(log_probs[t, u, LABELS[0, 1, u] if e else BLANK] for t, u, e in path) for path in paths(4, 2)]
    np.testing.assert_allclose(again[0, 1], -np.logaddexp.reduce(scores), rtol=1e-5)
    # Labels without a frame have no path; no labels without a frame have one, of no move.
    assert np.isinf(loss[1, 1])
    assert loss[1, 3] == 0


@pytest.mark.thorough
def test_derivatives_of_every_order() -> None:
    logits = normal(1, 2, 3, 3, 4).astype(np.float64)
    # An impossible label must not make a derivative NaN.
    logits[0, 2, 1, 0] = -np.inf
    tangent = normal(2, *logits.shape).astype(np.float64)
    others = np.array([[0, 2], [3, 3]]), np.array([3, 2]), np.array([2, 1])

    @jax.jit
    def derivatives(logits: jax.Array) -> tuple:
        def slope_and_forward(logits: jax.Array) -> tuple:
            _, forward = jax.jvp(lambda logits: loss_of(logits, *others).sum(), (logits,), (tangent,))
            return loss_and_gradient(logits, *others)[1], forward

        return jax.jvp(slope_and_forward, (logits,), (tangent,))

    step = 1e-4
    with jax.enable_x64(True):
        (slope, forward), (curvature, second) = jax.device_get(derivatives(logits))
        (above, _), _ = jax.device_get(derivatives(logits + step * tangent))
        (below, _), _ = jax.device_get(derivatives(logits - step * tangent))
    assert np.isfinite(slope).all()
    np.testing.assert_allclose(forward, np.vdot(slope, tangent), rtol=1e-9)
    np.testing.assert_allclose(second, np.vdot(curvature, tangent), rtol=1e-9)
    np.testing.assert_allclose(curvature, (above - below) / (2 * step), atol=1e-6)


def test_memory_is_a_few_numbers_per_node() -> None:
    batch, frames, number, size = 2, 64, 15, 256
    logits = jax.ShapeDtypeStruct((batch, frames, number + 1, size), jnp.float32)
    labels = jax.ShapeDtypeStruct((batch, number), jnp.int32)
    gradient = jax.grad(lambda logits, labels: transducer_loss(logits, labels).sum())
    memory = jax.jit(gradient).lower(logits, labels).compile().memory_analysis()
    nodes = batch * (frames + number) * (number + 1)
    # The gradient is an output. An array of the size of the logits would be 200 numbers per node.
    assert memory.temp_size_in_bytes < 16 * 4 * nodes


@pytest.mark.thorough
def test_normalizers_at_once_as_on_other_platforms(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    logits, labels = normal(5, 1, 3, 3, 7), [4, 4]
    loss, gradient = loss_and_gradient(logits, np.array([labels]), np.array([3]), np.array([2]))
    want, slope = by_enumeration(logits[0], labels, 3)
    np.testing.assert_allclose(loss[0], want, rtol=1e-5)
    np.testing.assert_allclose(gradient[0], slope, atol=1e-5)


@pytest.mark.thorough
def test_a_long_lattice_equals_a_loop_over_its_nodes() -> None:
    frames, number = 120, 40
    logits = 3 * normal(3, frames, number + 1, 6)
    labels = np.random.default_rng(4).integers(2, 6, number)
    log_probs = log_softmax(logits)
    alpha = np.full((frames + 1, number + 1), -np.inf)
    alpha[0, 0] = 0
    for t, u in np.ndindex(frames, number + 1):
        if u:
            alpha[t, u] = np.logaddexp(alpha[t, u], alpha[t, u - 1] + log_probs[t, u - 1, labels[u - 1]])
        alpha[t + 1, u] = alpha[t, u] + log_probs[t, u, BLANK]
    np.testing.assert_allclose(transducer_loss(logits, labels, blank=BLANK), -alpha[frames, number], rtol=1e-6)


@pytest.mark.thorough
def test_bfloat16_and_meshes() -> None:
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Explicit,))
    logits = jnp.asarray(np.concatenate([LOGITS[0]] * 2), jnp.bfloat16)
    labels = jnp.asarray(np.concatenate([LABELS[1]] * 2))

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
SIZE = 4


@functools.cache
def networks(size: int = SIZE) -> tuple[Callable, Callable, Callable]:
    """The joint function and the predictor for a number of labels, and all logits for given labels."""
    params = rx.testing.perturbed_params(CELL, input_size=size)
    head = 4 * normal(6, 6, size)

    def joint(frame: jax.Array, output: jax.Array) -> jax.Array:
        return jnp.tanh(frame + output) @ head

    def predictor_step(label: jax.Array, state: Any) -> tuple[Any, Any]:
        state, y = rx.step(CELL, params, jax.nn.one_hot(label, size), state)
        return y, state

    @jax.jit
    def logits_of(encoded: jax.Array, read: jax.Array) -> jax.Array:
        """Logits `[N, T, U+1, V]` for N sequences of labels with the blank before them, `int[N, U+1]`."""
        _, outputs = rx.scan(CELL, params, jax.nn.one_hot(read, size))
        return joint(encoded[None, :, None], outputs[:, None])

    return joint, predictor_step, logits_of


def with_nan(encoded: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    within = np.arange(encoded.shape[-2]) < lengths[..., None]
    return np.where(within[..., None], encoded, np.float32(np.nan))


def read_by_predictor(labels: tuple[int, ...], most: int) -> list[int]:
    return [BLANK, *labels] + [0] * (most - len(labels))


class Reference:
    """The log-probabilities after each sequence of labels, for one encoder output `[T, E]`."""

    def __init__(self, encoded: np.ndarray, most: int):
        self.encoded, self.most = encoded, most
        self.known: dict[tuple, np.ndarray] = {}

    def __call__(self, labels: tuple[int, ...]) -> np.ndarray:
        """`[T, V]`"""
        if labels not in self.known:
            logits = networks()[2](self.encoded, np.array([read_by_predictor(labels, self.most)]))
            self.known[labels] = log_softmax(logits)[0, :, len(labels)]
        return self.known[labels]


def test_greedy_equals_a_loop() -> None:
    joint, predictor_step, _ = networks()
    most, max_symbols = 7, 2
    encoded, lengths = normal(7, 3, 5, 6), np.array([5, 3, 0])

    @jax.jit
    def decode(encoded: jax.Array, lengths: jax.Array) -> rx.losses.Decoded:
        options: dict = {"blank": BLANK, "max_symbols": max_symbols, "max_labels": most, "time_major": True}
        state = CELL.initial_state((3,))
        return transducer.greedy(joint, predictor_step, encoded, state, lengths=lengths, **options)

    decoded = decode(np.swapaxes(with_nan(encoded, lengths), 0, 1), lengths)
    assert decoded.labels.shape == (3, most)
    forced = 0
    for row, length in enumerate(lengths.tolist()):
        reference = Reference(encoded[row], most)
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


def search(size: int, encoded: np.ndarray, lengths: np.ndarray, beam_size: int, most: int) -> rx.losses.Decoded:
    joint, predictor_step, _ = networks(size)

    @jax.jit
    def decode(encoded: jax.Array, lengths: jax.Array) -> rx.losses.Decoded:
        options: dict = {"beam_size": beam_size, "blank": BLANK, "max_labels": most}
        state = CELL.initial_state(lengths.shape)
        return transducer.beam(joint, predictor_step, encoded, state, lengths=lengths, **options)

    return decode(with_nan(encoded, lengths), lengths)


def test_a_beam_with_space_for_every_prefix_finds_every_labeling() -> None:
    frames, most, size = 3, 3, 3
    encoded, lengths = normal(8, 4, frames, 6), np.array([3, 2, 1, 0])
    decoded = search(size, encoded, lengths, 15, most)
    every = [labels for u in range(most + 1) for labels in itertools.product((0, 2), repeat=u)]
    reads = np.array([read_by_predictor(labels, most) for labels in every])
    for row, length in enumerate(lengths.tolist()):
        logits = np.asarray(networks(size)[2](encoded[row], reads))
        want = {}
        for labels, some in zip(every, logits, strict=True):
            loss, _ = by_enumeration(some[:, : len(labels) + 1], list(labels), length)
            if loss < math.inf:
                want[labels] = -loss
        found = found_in(decoded, row)
        assert found.keys() == want.keys()
        np.testing.assert_allclose(list(found.values()), [want[k] for k in found], atol=1e-5)


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


@pytest.mark.thorough
def test_a_small_beam_keeps_what_its_definition_keeps() -> None:
    beam_size, most = 4, 6
    encoded, lengths = normal(9, 4, 8, 6), np.array([8, 7, 8, 1])
    decoded = search(SIZE, encoded, lengths, beam_size, most)
    for row, length in enumerate(lengths.tolist()):
        want = beam_of_dictionaries(Reference(encoded[row], most), length, beam_size, most)
        found = found_in(decoded, row)
        assert list(found) == [labels for labels, _ in want]
        np.testing.assert_allclose(list(found.values()), [score for _, score in want], atol=1e-4)


@pytest.mark.thorough
def test_no_frames_and_no_labels() -> None:
    joint, predictor_step, _ = networks()
    encoded, state = jnp.zeros((0, 6)), CELL.initial_state()
    decoded = jax.jit(lambda: transducer.greedy(joint, predictor_step, encoded, state, blank=BLANK))()
    assert (int(decoded.lengths), float(decoded.scores)) == (0, 0)
    decoded = jax.jit(lambda: transducer.beam(joint, predictor_step, encoded, state, blank=BLANK, beam_size=2))()
    assert decoded.lengths.tolist() == [0, 0]
    assert decoded.scores.tolist() == [0, -math.inf]
    for decoded in (ctc.greedy(encoded), jax.tree.map(lambda leaf: leaf[0], ctc.prefix_beam(encoded, beam_size=1))):
        assert decoded.labels.shape == (0,)
        assert (int(decoded.lengths), float(decoded.scores)) == (0, 0)
    loss = transducer_loss(jnp.zeros((2, 0, 3, 4)), jnp.array([[2, 3], [2, 3]]), label_lengths=jnp.array([0, 1]))
    assert loss.tolist() == [0, math.inf]
    loss = transducer_loss(jnp.zeros((2, 3, 1, 4)), [[], []])
    np.testing.assert_allclose(loss, 3 * np.log(4), rtol=1e-6)


@pytest.mark.thorough
def test_decoders_under_an_explicit_mesh() -> None:
    inputs, state, labels = normal(10, 8, 5, 4), normal(11, 8, 4), np.tile(np.array([[1, 2]], np.int32), (8, 1))

    def joint(frame: jax.Array, output: jax.Array) -> jax.Array:
        return frame + output

    def predictor_step(label: jax.Array, state: jax.Array) -> tuple[jax.Array, jax.Array]:
        return jax.nn.one_hot(label, 4) + state, state

    @jax.jit
    def decode(inputs: jax.Array, state: jax.Array, labels: jax.Array) -> list:
        return [
            transducer.greedy(joint, predictor_step, inputs, state),
            transducer.beam(joint, predictor_step, inputs, state, beam_size=3),
            ctc.greedy(inputs),
            ctc.prefix_beam(inputs, beam_size=3),
            ctc.prefix_beam(inputs, beam_size=3, language_model=predictor_step, model_state=state),
            ctc.align(inputs, labels),
        ]

    want = jax.device_get(decode(inputs, state, labels))
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Explicit,))
    with jax.set_mesh(mesh):
        placed = jax.device_put((inputs, state, labels), NamedSharding(mesh, PartitionSpec("data")))
        got = jax.device_get(decode(*placed))
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-5), got, want)


ZEROS = np.zeros((2, 3, 3, 4), np.float32)
ONES = np.ones((2, 2), int)
FRAME = np.zeros((2, 3, 6), np.float32)
NAN = FRAME.copy()
NAN[1, 2, 0] = np.nan
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
        (lambda: decode(encoded=NAN), ValueError, "NaN at step 2 of sequence 1"),
        (lambda: decode(encoded=FRAME[0, 0]), ValueError, r"`encoded` must be \[\*B, T, E\]"),
        (lambda: decode(state=CELL.initial_state((3,))), ValueError, r"`state.h` must be \[2, ...\]"),
        (
            lambda: decode(joint=lambda frame, output: jnp.zeros((1, 3))),
            ValueError,
            r"`joint` must return float\[2, V\]",
        ),
        (
            lambda: decode(step=lambda label, state: (state, jnp.zeros(6))),
            ValueError,
            "`predictor_step` must return a state like the state that it gets",
        ),
        (
            lambda: decode(step=lambda label, state: state.h),
            ValueError,
            "`predictor_step` must return two results",
        ),
    ],
)
def test_errors(call: Callable, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()


@pytest.mark.thorough
def test_decoders_in_float64() -> None:
    embedding, head, inputs = normal(12, 3, 6), normal(13, 3, 6), normal(14, 2, 4, 6)

    def decode(dtype: Any) -> list:
        encoded = jnp.asarray(inputs, dtype)

        def joint(frame: jax.Array, output: jax.Array) -> jax.Array:
            return jnp.tanh(frame + output) @ jnp.asarray(head.T, dtype)

        def predictor_step(label: jax.Array, state: jax.Array) -> tuple[jax.Array, jax.Array]:
            state = (state + jnp.asarray(embedding, dtype)[label]) / 2
            return state, state

        @jax.jit
        def decode_all(encoded: jax.Array, state: jax.Array) -> list:
            return [
                transducer.greedy(joint, predictor_step, encoded, state),
                transducer.beam(joint, predictor_step, encoded, state, beam_size=4),
                ctc.greedy(encoded),
                ctc.prefix_beam(encoded, beam_size=4),
                ctc.align(encoded, np.array([[1, 2], [3, 3]], np.int32)),
            ]

        found = decode_all(encoded, jnp.zeros((2, 6), dtype))
        assert all(leaf.dtype in (dtype, jnp.int32) for leaf in jax.tree.leaves(found))
        return jax.device_get(found)

    narrow = decode(jnp.float32)
    with jax.enable_x64(True):
        wide = decode(jnp.float64)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), narrow, wide)
