"""Decoding and alignment for CTC, connectionist temporal classification.

The loss itself is `optax.ctc_loss`, and optax maintains it. Its paddings are 1 where `scan` has a
mask of False: `1 - recurrax.lengths_to_mask(lengths, T)`.

A network gives log-probabilities of L labels at each of T steps. One label is the blank. An
alignment chooses a label for each step. Equal neighbors become one label, then blanks are left out:
`a a _ a b b` becomes `a a b`. The probability of a labeling is the sum over its alignments.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from recurrax._arguments import describe
from recurrax._mask import lengths_to_mask, where
from recurrax.losses._labels import (
    IMPOSSIBLE,
    Decoded,
    check_beam_size,
    check_blank,
    check_frames,
    check_labels,
    check_nan,
    check_returned_scores,
    check_scores,
    check_states,
    check_step,
    known,
    log_probs_of,
    over_batch,
    possible,
    to_inf,
    zeros_like,
)
from recurrax.losses._prefixes import (
    Prefixes,
    choose,
    empty_prefixes,
    follow,
    last_labels,
    merge,
)


class Alignment(NamedTuple):
    """The best alignment of labels with steps.

    Attributes:
        path: `int32[*B, T]`, the label or the blank of each step; `blank` in the padding.
        positions: `int32[*B, T]`, the position of that label in `labels`; -1 at blanks and in the
            padding.
        log_probs: `float[*B, T]`, the log-probability of that label or blank; 0 in the padding.
        scores: `float[*B]`, the log-probability of the alignment; -inf if there is none.
    """

    path: jax.Array
    positions: jax.Array
    log_probs: jax.Array
    scores: jax.Array


def greedy(
    logits: jax.Array,
    *,
    lengths: jax.Array | None = None,
    blank: int = 0,
    time_major: bool = False,
) -> Decoded:
    """Decodes the best alignment: the best label of each step.

    labels = collapse(argmax_l logits_{t, l}), score = Σ_t max_l log p_{t, l}

    The labeling of the best alignment need not be the best labeling. `prefix_beam` sums over
    alignments.

    Args:
        logits: `[*B, T, L]`, or `[T, *B, L]` if `time_major`; logits or log-probabilities.
        lengths: `int[*B]`, the numbers of steps, as in `scan`. Logits in the padding have no
            influence.
        blank: the index of the blank.
        time_major: whether time is the first axis of `logits`.

    Returns:
        Labels `int32[*B, T]`, lengths `int32[*B]`, and the log-probabilities of the alignments,
        `[*B]`.

    Raises:
        TypeError: if an argument has the wrong dtype.
        ValueError: if an argument has the wrong shape, `blank` is out of range, or a logit is NaN.

    Example:
        >>> import jax.numpy as jnp, recurrax
        >>> probabilities = jnp.array([[0.1, 0.9], [0.8, 0.2], [0.4, 0.6]])
        >>> decoded = recurrax.losses.ctc.greedy(jnp.log(probabilities))
        >>> decoded.labels.tolist(), int(decoded.lengths), round(float(jnp.exp(decoded.scores)), 3)
        ([1, 1, 0], 2, 0.432)

    References:
        Graves et al., Connectionist temporal classification, 2006,
        https://dl.acm.org/doi/10.1145/1143844.1143891
    """
    logits, lengths, blank = _check(logits, lengths, blank, time_major)
    check_nan("logits", logits, lengths)
    return _greedy(logits, lengths, blank)


@functools.partial(jax.jit, static_argnames="blank")
def _greedy(logits: jax.Array, lengths: jax.Array, blank: int) -> Decoded:
    log_probs = log_probs_of(_fill_padding(logits, lengths))
    one = functools.partial(_greedy_one, blank=blank)
    return over_batch(one, lengths.ndim)(log_probs, lengths)


def _greedy_one(log_probs: jax.Array, length: jax.Array, *, blank: int) -> Decoded:
    steps = len(log_probs)
    within = jnp.arange(steps, dtype=jnp.int32) < length  # [T]
    best = jnp.argmax(log_probs, axis=-1).astype(jnp.int32)  # [T]
    before = jnp.concatenate([jnp.full(1, blank, jnp.int32), best])[:-1]
    # A label begins where it differs from the step before.
    begins = within & (best != blank) & (best != before)
    # The other steps have a place outside of the labels, which is not written.
    place = jnp.where(begins, jnp.cumsum(begins, dtype=jnp.int32) - 1, steps)
    labels = jnp.full(steps, blank, jnp.int32).at[place].set(best, mode="drop")
    scores = jnp.where(within, log_probs.max(axis=-1), 0).sum()
    return Decoded(labels, begins.sum(dtype=jnp.int32), to_inf(scores))


def prefix_beam(
    logits: jax.Array,
    *,
    beam_size: int = 16,
    lengths: jax.Array | None = None,
    blank: int = 0,
    language_model: Callable[[jax.Array, Any], tuple[jax.Array, Any]] | None = None,
    model_state: Any = (),
    model_weight: float | jax.Array = 1.0,
    length_bonus: float | jax.Array = 0.0,
    time_major: bool = False,
) -> Decoded:
    """Finds the labelings with the highest probability, by prefix beam search.

    score(labels) = log Σ_{alignments} p + model_weight · log p_model(labels) + length_bonus · U

    After each step the beam holds the K prefixes with the highest scores. A prefix has two
    log-probabilities: over the alignments that end with a blank, and over those that end with its
    last label. Equal prefixes are merged exactly. If the beam holds every prefix, then the scores
    are exact.

    The functions of a language model often hold parameters. So the search is compiled by itself
    only without a language model. With one, put the call into `jax.jit`.

    Args:
        logits: `[*B, T, L]`, or `[T, *B, L]` if `time_major`; logits or log-probabilities.
        beam_size: the number K of prefixes.
        lengths: `int[*B]`, the numbers of steps, as in `scan`. Logits in the padding have no
            influence.
        blank: the index of the blank.
        language_model: `(label, state) -> (logits, state)`. It reads one label of each sequence,
            `int32[*B]`, and returns logits or log-probabilities of the next labels, `[*B, L]`. The
            first label that it reads is `blank`, which stands for the start. The probability of
            `blank` is not used. It runs under `jax.vmap` over the beam.
        model_state: the first state of the language model, a pytree with leaves `[*B, ...]`.
        model_weight: the factor of its log-probabilities.
        length_bonus: a number that each label adds to the score.
        time_major: whether time is the first axis of `logits`.

    Returns:
        Labels `int32[*B, K, T]`, lengths `int32[*B, K]` and scores `[*B, K]`, the best first. A
        short sequence may have fewer than K labelings. The other places have score -inf.

    Raises:
        TypeError: if an argument has the wrong dtype.
        ValueError: if an argument has the wrong shape, `blank` is out of range, a logit is NaN, or
            fewer than `beam_size` labelings exist.

    Example:
        The best alignment is `_ _`, but `1` is the best labeling: its alignments are `1 1`, `1 _`
        and `_ 1`.

        >>> import jax, jax.numpy as jnp, recurrax
        >>> log_probs = jnp.log(jnp.array([[0.6, 0.4], [0.6, 0.4]]))
        >>> decoded = recurrax.losses.ctc.prefix_beam(log_probs, beam_size=2)
        >>> decoded.labels.tolist(), decoded.lengths.tolist()
        ([[1, 0], [0, 0]], [1, 0])
        >>> bool(jnp.allclose(jnp.exp(decoded.scores), jnp.array([0.64, 0.36])))
        True

        With a recurrent language model:

        >>> layer = recurrax.Stack((recurrax.MinGRUCell(8), recurrax.Dense(5)))
        >>> params = layer.init(jax.random.key(0), input_size=5)
        >>> def language_model(label, state):
        ...     state, y = recurrax.step(layer, params, jax.nn.one_hot(label, 5), state)
        ...     return y, state
        >>> @jax.jit
        ... def search(logits, lengths):
        ...     return recurrax.losses.ctc.prefix_beam(
        ...         logits,
        ...         beam_size=4,
        ...         lengths=lengths,
        ...         language_model=language_model,
        ...         model_state=layer.initial_state((2,)),
        ...         model_weight=0.5,
        ...     )
        >>> decoded = search(jnp.ones((2, 7, 5)), jnp.array([7, 4]))
        >>> decoded.labels.shape, decoded.scores.shape
        ((2, 4, 7), (2, 4))

    References:
        Hannun et al., First-pass large vocabulary continuous speech recognition using
        bi-directional recurrent DNNs, 2014, https://arxiv.org/abs/1408.2873

        Graves, Supervised sequence labeling with recurrent neural networks, 2012, section 7.5,
        https://doi.org/10.1007/978-3-642-24797-2
    """
    logits, lengths, blank = _check(logits, lengths, blank, time_major)
    check_nan("logits", logits, lengths)
    steps, size = logits.shape[-2:]
    beam_size = check_beam_size(beam_size, size - 1, steps)
    what = f"`logits` {describe(logits)}"
    model_state = check_states("model_state", model_state, lengths.shape, what)
    arguments = (logits, lengths, model_state, model_weight, length_bonus)
    if language_model is None:
        return _compiled_search(*arguments, beam_size, blank, None)
    found = _search(*arguments, beam_size, blank, language_model)
    return check_scores("language_model", found)


def _search(
    logits: jax.Array,
    lengths: jax.Array,
    model_state: Any,
    model_weight: Any,
    length_bonus: Any,
    beam_size: int,
    blank: int,
    language_model: Callable | None,
) -> Decoded:
    log_probs = log_probs_of(_fill_padding(logits, lengths))  # [*B, T, L]
    steps, size = log_probs.shape[-2:]
    axes, dtype = lengths.ndim, log_probs.dtype

    # What the language model and the bonus add for each next label, [*B, L].
    def following(label: jax.Array, state: Any) -> tuple[jax.Array, Any]:
        bonus = zeros_like(label).astype(dtype) + jnp.asarray(length_bonus, dtype)  # [*B]
        added = jnp.broadcast_to(bonus[..., None], (*label.shape, size))
        if language_model is None:
            return added, state
        returned = language_model(label, state)
        check_step("language_model", returned, state)
        scores, state = returned
        check_returned_scores("language_model", scores, lengths.shape, size)
        weighted = jnp.asarray(model_weight, dtype) * log_probs_of(scores).astype(dtype)
        return weighted + added, state

    first, model_state = following(zeros_like(lengths) + blank, model_state)
    start = functools.partial(_first_beam, beam_size=beam_size, most=max(steps, 1), blank=blank)
    beam = over_batch(start, axes)(lengths, first, model_state)

    def step(beam: _Beam, frame: tuple) -> tuple[_Beam, None]:
        t, scores = frame  # scores [*B, L]
        grow = functools.partial(_grow, blank=blank)
        new, label, extended = over_batch(grow, axes)(beam, scores)
        # The language model reads the labels of the prefixes that grow. It is mapped over the beam.
        read = jax.vmap(following, in_axes=axes, out_axes=axes)(label, new.state)
        added, state = where(extended, read, (new.following, new.state))
        new = new._replace(following=added, state=state)
        return where(t < lengths, new, beam), None

    frames = jnp.moveaxis(log_probs, -2, 0)  # [T, *B, L]
    beam, _ = lax.scan(step, beam, (jnp.arange(steps, dtype=jnp.int32), frames))
    alive = possible(beam.scores())  # [*B, K]
    labels = jnp.where(alive[..., None], beam.prefixes.labels[..., :steps], blank)
    return Decoded(labels, jnp.where(alive, beam.prefixes.lengths, 0), to_inf(beam.scores()))


_compiled_search = jax.jit(_search, static_argnames=("beam_size", "blank", "language_model"))


class _Beam(NamedTuple):
    """K prefixes of one sequence with their scores."""

    prefixes: Prefixes
    blank: jax.Array  # [K], the log-probability of the alignments that end with a blank
    label: jax.Array  # [K], the log-probability of the alignments that end with the last label
    added: jax.Array  # [K], what the language model and the bonus have added
    following: jax.Array  # [K, L], what they add for the next label
    state: Any  # the states of the language model, leaves [K, ...]

    def scores(self) -> jax.Array:
        return jnp.logaddexp(self.blank, self.label) + self.added


def _first_beam(
    length: jax.Array,
    following: jax.Array,
    state: Any,
    *,
    beam_size: int,
    most: int,
    blank: int,
) -> _Beam:
    """Returns the beam before the first step: one empty prefix."""
    zero = zeros_like(length)
    zeros = jnp.zeros(beam_size, following.dtype) + zero.astype(following.dtype)  # [K]
    nothing = zeros + IMPOSSIBLE
    return _Beam(
        prefixes=empty_prefixes(beam_size, most, blank, zero),
        # With nothing read, the empty prefix counts as a prefix that ends with a blank.
        blank=nothing.at[0].set(0),
        label=nothing,
        added=zeros,
        following=zeros[:, None] + following[None, :],
        state=jax.tree.map(lambda s: jnp.broadcast_to(s, (beam_size, *s.shape)), state),
    )


def _grow(beam: _Beam, scores: jax.Array, *, blank: int) -> tuple[_Beam, jax.Array, jax.Array]:
    """Reads the log-probabilities of one step, `[L]`.

    Returns:
        The new beam with the old states of the language model, the labels that the model must read,
        `int32[K]`, and whether it must, `bool[K]`.
    """
    labels = jnp.arange(len(scores), dtype=jnp.int32)[None, :]  # [1, L]
    last = last_labels(beam.prefixes)  # [K]
    total = jnp.logaddexp(beam.blank, beam.label)  # [K]
    # A prefix stays the same with a blank, or with its last label once more.
    stay_blank = total + scores[blank]
    stay_label = jnp.where(last >= 0, beam.label + scores[last], IMPOSSIBLE)
    # Another label makes it longer. The last label does so only after a blank.
    again = labels == last[:, None]  # [K, L]
    extend = jnp.where(again, beam.blank[:, None], total[:, None]) + scores[None, :]
    extend = jnp.where(labels == blank, IMPOSSIBLE, extend)
    # A longer prefix may be in the beam already.
    joined, extend = merge(beam.prefixes, possible(beam.scores()), extend)
    stay_label = jnp.logaddexp(stay_label, joined)

    added = beam.added[:, None] + beam.following  # [K, L]
    choice = choose(jnp.logaddexp(stay_blank, stay_label) + beam.added, extend + added)
    source, label, extended = choice
    new = _Beam(
        prefixes=follow(beam.prefixes, choice),
        blank=jnp.where(extended, IMPOSSIBLE, stay_blank[source]),
        label=jnp.where(extended, extend[source, label], stay_label[source]),
        added=jnp.where(extended, added[source, label], beam.added[source]),
        following=beam.following[source],
        state=jax.tree.map(lambda leaf: leaf[source], beam.state),
    )
    return new, jnp.where(extended, label, blank), extended


def align(
    logits: jax.Array,
    labels: jax.Array,
    *,
    lengths: jax.Array | None = None,
    label_lengths: jax.Array | None = None,
    blank: int = 0,
    time_major: bool = False,
) -> Alignment:
    """Aligns known labels with steps: the alignment with the highest probability (Viterbi).

    path = argmax_{alignments of labels} Σ_t log p_{t, path_t}

    Args:
        logits: `[*B, T, L]`, or `[T, *B, L]` if `time_major`; logits or log-probabilities.
        labels: `int[*B, U]`, without blanks.
        lengths: `int[*B]`, the numbers of steps, as in `scan`. Logits in the padding have no
            influence.
        label_lengths: `int[*B]`, the numbers of labels; None for all U.
        blank: the index of the blank.
        time_major: whether time is the first axis of `logits` and of the results with a time.

    Returns:
        The label or the blank of each step, its position in `labels`, its log-probability, and the
        log-probability of the alignment. The log-probabilities have gradients.

    Raises:
        TypeError: if an argument has the wrong dtype.
        ValueError: if a shape is wrong, a label or `blank` is out of range, a logit is NaN, or a
            sequence has no alignment. Labels need a step each, and equal neighbors one
            more between them. Inside of `jit` values are unknown: a sequence without an alignment
            then has blanks and a score of -inf.

    Example:
        >>> import jax.numpy as jnp, recurrax
        >>> probabilities = jnp.array([[0.3, 0.6, 0.1], [0.5, 0.1, 0.4], [0.2, 0.1, 0.7]])
        >>> alignment = recurrax.losses.ctc.align(jnp.log(probabilities), jnp.array([1, 2]))
        >>> alignment.path.tolist(), alignment.positions.tolist()
        ([1, 0, 2], [0, -1, 1])
        >>> round(float(jnp.exp(alignment.scores)), 3)  # 0.6 · 0.5 · 0.7
        0.21

    References:
        Graves et al., Connectionist temporal classification, 2006,
        https://dl.acm.org/doi/10.1145/1143844.1143891
    """
    logits, lengths, blank = _check(logits, lengths, blank, time_major)
    what = f"`logits` {describe(logits)}"
    labels, label_lengths = check_labels(
        labels, label_lengths, lengths.shape, blank, logits.shape[-1], what
    )
    check_nan("logits", logits, lengths)
    alignment = _align(logits, labels, lengths, label_lengths, blank)
    if known(alignment.scores):
        _check_aligned(alignment.scores, labels, lengths, label_lengths)
    if not time_major:
        return alignment
    return alignment._replace(
        path=jnp.moveaxis(alignment.path, -1, 0),
        positions=jnp.moveaxis(alignment.positions, -1, 0),
        log_probs=jnp.moveaxis(alignment.log_probs, -1, 0),
    )


@functools.partial(jax.jit, static_argnames="blank")
def _align(
    logits: jax.Array, labels: jax.Array, lengths: jax.Array, label_lengths: jax.Array, blank: int
) -> Alignment:
    log_probs = log_probs_of(_fill_padding(logits, lengths))
    one = functools.partial(_align_one, blank=blank)
    return over_batch(one, lengths.ndim)(log_probs, labels, lengths, label_lengths)


def _align_one(
    log_probs: jax.Array,
    labels: jax.Array,
    length: jax.Array,
    label_length: jax.Array,
    *,
    blank: int,
) -> Alignment:
    steps = len(log_probs)
    # The places: blank, label 0, blank, label 1, ..., blank; S = 2*U + 1 in all.
    places = jnp.full(2 * len(labels) + 1, blank, jnp.int32).at[1::2].set(labels)
    index = jnp.arange(len(places), dtype=jnp.int32)
    # The blank between two labels may be left out if they differ. A blank never is.
    skips = (index % 2 == 1) & (places != jnp.roll(places, 2))
    emitted = log_probs[:, places]  # [T, S]

    def forward(scores: jax.Array, frame: tuple) -> tuple[jax.Array, jax.Array]:
        t, emitted = frame
        padded = jnp.concatenate([jnp.full(2, IMPOSSIBLE, scores.dtype), scores])
        # The place at the step before is the same, the one before it, or two before it.
        two = jnp.where(skips, padded[:-2], IMPOSSIBLE)
        options = jnp.stack([scores, padded[1:-1], two])  # [3, S]
        back = jnp.where(t < length, jnp.argmax(options, axis=0), 0)
        scores = jnp.where(t < length, options.max(axis=0) + emitted, scores)
        return scores, back.astype(jnp.int8)

    # Before the first step an alignment is at the first blank, with nothing read.
    start = jnp.where(index == zeros_like(length), 0.0, IMPOSSIBLE).astype(log_probs.dtype)
    frames = (jnp.arange(steps, dtype=jnp.int32), emitted)
    scores, back = lax.scan(forward, start, frames)  # [S], [T, S]

    # The last place is the last label or the blank after it.
    end = 2 * label_length
    before = jnp.maximum(end - 1, 0)
    end = jnp.where(scores[before] > scores[end], before, end)

    def backward(place: jax.Array, back: jax.Array) -> tuple[jax.Array, jax.Array]:
        return place - back[place].astype(place.dtype), place

    _, found = lax.scan(backward, end, back, reverse=True)  # [T]
    # Within the padding, and where no alignment exists, there are blanks.
    within = jnp.arange(steps, dtype=jnp.int32) < length
    exists = possible(scores[end])
    path = jnp.where(within & exists, places[found], blank)
    positions = jnp.where(within & exists & (found % 2 == 1), found // 2, -1)
    chosen = jnp.take_along_axis(log_probs, path[:, None], axis=-1)[:, 0]
    chosen = jnp.where(within, jnp.where(exists, chosen, -jnp.inf), 0)
    # The sum over the path has the same value as the score of the search, and a simple gradient.
    score = jnp.where(exists, jnp.where(exists, chosen, 0).sum(), -jnp.inf)
    return Alignment(path, positions, chosen, score)


def _check_aligned(
    scores: jax.Array, labels: jax.Array, lengths: jax.Array, label_lengths: jax.Array
) -> None:
    """Raises for the first sequence without an alignment."""
    missing = np.isneginf(np.asarray(scores))
    if not missing.any():
        return
    row = tuple(int(index) for index in np.argwhere(missing)[0])
    # The blank between equal neighbors needs a step too.
    number, steps = int(label_lengths[row]), int(lengths[row])
    kept = np.asarray(labels[row])[:number]
    repeats = int((kept[1:] == kept[:-1]).sum())
    name = f"`labels[{', '.join(map(str, row))}]`" if row else "`labels`"
    if number + repeats > steps:
        raise ValueError(
            f"{name} must fit into the steps: {number} labels and {repeats} blanks between equal "
            f"neighbors need {number + repeats} steps; got {steps}. Does the network reduce the "
            "number of steps too much?"
        )
    raise ValueError(
        f"{name} must have an alignment; got a probability of 0 for each. Are some logits -inf?"
    )


def _check(logits: Any, lengths: Any, blank: Any, time_major: bool) -> tuple:
    """Checks the arguments of every function here; returns the logits with time before L."""
    of = f"`logits` {describe(jnp.asarray(logits))}"
    logits, lengths = check_frames("logits", logits, "T, L", lengths, time_major)
    return logits, lengths, check_blank(blank, logits.shape[-1], of)


def _fill_padding(logits: jax.Array, lengths: jax.Array) -> jax.Array:
    """Writes zeros into the padding, where NaN would reach the gradients."""
    within = lengths_to_mask(lengths, logits.shape[-2])  # [*B, T]
    return where(within, logits, jnp.zeros_like(logits))
