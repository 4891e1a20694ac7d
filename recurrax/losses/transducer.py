"""The transducer (RNN-T): its loss, and decoders with a recurrent predictor.

An encoder reads T frames. A predictor reads the labels before. A joint function makes logits from
both. An alignment is a path in a lattice of T frames and U labels. A blank goes to the next frame,
and a label stays at its frame. The last blank leaves the last frame.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from recurrax._arguments import check_number, describe
from recurrax._check import kind
from recurrax._dtype import widened
from recurrax._mask import lengths_to_mask, where
from recurrax.losses._labels import (
    IMPOSSIBLE,
    Decoded,
    check_beam_size,
    check_blank,
    check_frames,
    check_labels,
    check_lengths,
    check_nan,
    check_returned_scores,
    check_scores,
    check_states,
    check_step,
    log_probs_of,
    over_batch,
    possible,
    to_inf,
    zeros_like,
)
from recurrax.losses._prefixes import Prefixes, choose, empty_prefixes, follow, merge


def transducer_loss(
    logits: jax.Array,
    labels: jax.Array,
    *,
    logit_lengths: jax.Array | None = None,
    label_lengths: jax.Array | None = None,
    blank: int = 0,
) -> jax.Array:
    """Computes the loss of the transducer, the negative log-probability of the labels.

    α(t, u) = log(exp(α(t-1, u) + log p_blank(t-1, u)) + exp(α(t, u-1) + log p_label(t, u-1)))

    loss = -(α(T-1, U) + log p_blank(T-1, U))

    All nodes of an anti-diagonal t + u are computed at once, so a loop of T + U steps suffices.
    The loop and its derivative need O(B · (T + U) · U) memory. The logits are read, but no second
    array of their size is made, except for their gradient. On CPUs, XLA also makes a copy of logits
    that are narrower than float32.

    Args:
        logits: `[*B, T, U+1, V]`, the output of the joint function; logits or log-probabilities.
        labels: `int[*B, U]`, without blanks.
        logit_lengths: `int[*B]`, the numbers of frames; None for all T. Logits in the padding of
            frames and of labels have no influence.
        label_lengths: `int[*B]`, the numbers of labels; None for all U.
        blank: the index of the blank.

    Returns:
        One loss per sequence, `[*B]`, in float32 or wider; inf where no alignment exists, as for
        labels without a frame.

    Raises:
        TypeError: if an argument has the wrong dtype.
        ValueError: if an argument has the wrong shape, or a label or `blank` is out of range.

    Example:
        >>> import jax.numpy as jnp, recurrax
        >>> logits = jnp.zeros((2, 3, 2, 4))  # B=2, T=3, U=1, V=4
        >>> loss = recurrax.losses.transducer.transducer_loss(
        ...     logits, jnp.array([[1], [2]]), logit_lengths=jnp.array([3, 2])
        ... )
        >>> bool(jnp.allclose(jnp.exp(-loss), jnp.array([3 / 4**4, 2 / 4**3])))  # paths / V^moves
        True

    References:
        Graves, Sequence transduction with recurrent neural networks, 2012,
        https://arxiv.org/abs/1211.3711

        Bagby et al., Efficient implementation of recurrent neural network transducer in TensorFlow,
        2018, https://doi.org/10.1109/SLT.2018.8639690
    """
    logits = jnp.asarray(logits)
    if kind(logits) != "floating":
        raise TypeError(f"`logits` must be of a floating dtype; got {describe(logits)}.")
    must = "`logits` must be [*B, T, U+1, V]"
    if logits.ndim < 3:
        raise ValueError(f"{must}, at least 3 axes; got {describe(logits)}.")
    of = f"`logits` {describe(logits)}"
    *batch_shape, frames, nodes, size = logits.shape
    blank = check_blank(blank, size, of)
    labels, label_lengths = check_labels(labels, label_lengths, tuple(batch_shape), blank, size, of)
    if nodes != labels.shape[-1] + 1:
        raise ValueError(
            f"{must} with U = {labels.shape[-1]} labels, [..., {frames}, {labels.shape[-1] + 1}, "
            f"{size}]; got {describe(logits)}. The predictor has an output before the first label."
        )
    lengths = check_lengths("logit_lengths", logit_lengths, logits, 3, frames, of)
    return _loss(logits, labels, lengths, label_lengths, blank)


@functools.partial(jax.jit, static_argnames="blank")
def _loss(
    logits: jax.Array, labels: jax.Array, lengths: jax.Array, label_lengths: jax.Array, blank: int
) -> jax.Array:
    one = functools.partial(_loss_of_one, blank=blank)
    return over_batch(one, lengths.ndim)(logits, labels, lengths, label_lengths)


def _loss_of_one(
    logits: jax.Array,
    labels: jax.Array,
    length: jax.Array,
    label_length: jax.Array,
    *,
    blank: int,
) -> jax.Array:
    _, nodes, _ = logits.shape
    blanks, emits = _moves(logits, labels, length, label_length, blank)  # [T, U+1] each
    blanks, emits = _diagonals(blanks), _diagonals(emits)  # [T+U, U+1] each

    # Entry [d, u] is the move from frame t = d - u.
    u = lax.broadcasted_iota(jnp.int32, blanks.shape, 1)
    t = lax.broadcasted_iota(jnp.int32, blanks.shape, 0) - u
    inside = (t >= 0) & (t < length)
    # After its last blank an alignment waits, at no cost, until all diagonals are done.
    waits = (t >= length) & (u == label_length)
    blanks = jnp.where(inside, blanks, jnp.where(waits, 0, IMPOSSIBLE))
    emits = jnp.where(inside & (u < label_length), emits, IMPOSSIBLE)

    def diagonal(scores: jax.Array, moves: tuple) -> tuple[jax.Array, None]:
        blanks, emits = moves  # [U+1] each
        # A blank keeps u. A label goes from u - 1 to u.
        first = jnp.full(1, IMPOSSIBLE, scores.dtype)
        emitted = jnp.concatenate([first, (scores + emits)[:-1]])
        return jnp.logaddexp(scores + blanks, emitted), None

    start = jnp.where(jnp.arange(nodes, dtype=jnp.int32) == 0, 0.0, IMPOSSIBLE).astype(blanks.dtype)
    scores, _ = lax.scan(diagonal, start, (blanks, emits))
    return -to_inf(scores[label_length])


def _moves(
    logits: jax.Array, labels: jax.Array, length: jax.Array, label_length: jax.Array, blank: int
) -> tuple[jax.Array, jax.Array]:
    """Returns the log-probabilities of the blank and of the next label at each node, `[T, U+1]`."""
    frames, nodes, _ = logits.shape
    t = jnp.arange(frames, dtype=jnp.int32)[:, None]
    u = jnp.arange(nodes, dtype=jnp.int32)[None, :]
    inside = (t < length) & (u <= label_length)  # [T, U+1]
    normalizers = _normalizers(logits, inside)
    # After the last label there is no next label: any index will do.
    following = jnp.concatenate([labels, jnp.full(1, blank, labels.dtype)])  # [U+1]
    following = jnp.broadcast_to(following, inside.shape)
    blanks = _entries(logits, jnp.full_like(following, blank), inside) - normalizers
    emits = _entries(logits, following, inside) - normalizers
    return jnp.maximum(blanks, IMPOSSIBLE), jnp.maximum(emits, IMPOSSIBLE)


# The next two functions read the logits and return one number per node. Their
# derivatives are written by hand: JAX would keep arrays of the size of the logits.


@jax.custom_jvp
def _entries(logits: jax.Array, index: jax.Array, inside: jax.Array) -> jax.Array:
    """Takes one entry of the logits `[T, U+1, V]` at each node; 0 outside of the lattice."""
    entries = jnp.take_along_axis(logits, index[..., None], axis=-1)[..., 0]  # [T, U+1]
    return widened(jnp.where(inside, entries, 0))


@_entries.defjvp
def _entries_jvp(primals: tuple, tangents: tuple) -> tuple[jax.Array, jax.Array]:
    logits, index, inside = primals
    # The transpose of a gather writes an array by itself. The transpose of this sum is elementwise,
    # so it is computed in the loop that writes the gradient.
    labels = lax.broadcasted_iota(index.dtype, logits.shape, logits.ndim - 1)
    chosen = (labels == index[..., None]) & inside[..., None]  # [T, U+1, V]
    tangent = jnp.where(chosen, widened(tangents[0]), 0).sum(axis=-1)
    return _entries(*primals), tangent


@jax.custom_jvp
def _normalizers(logits: jax.Array, inside: jax.Array) -> jax.Array:
    """Returns log Σ_v exp(logits_v) at each node, `[T, U+1]`; 0 outside of the lattice."""
    # XLA for CPUs writes the exponentials of a sum into memory. Other compilers do not.
    if jax.default_backend() == "cpu" and logits.size:
        normalizers = _in_blocks(logits)
    else:
        normalizers = jax.nn.logsumexp(widened(logits), axis=-1)
    # Where all logits are -inf, the difference to them must be -inf, not NaN.
    return jnp.where(inside, jnp.maximum(normalizers, IMPOSSIBLE), 0)


@_normalizers.defjvp
def _normalizers_jvp(primals: tuple, tangents: tuple) -> tuple[jax.Array, jax.Array]:
    logits, inside = primals
    normalizers = _normalizers(logits, inside)

    # The way back computes the probabilities again. Else they would be kept until then.
    @functools.partial(jax.checkpoint, prevent_cse=False)
    def weigh(logits: jax.Array, normalizers: jax.Array, tangent: jax.Array) -> jax.Array:
        # Logits outside of the lattice may be NaN.
        shifted = widened(logits) - normalizers[..., None]
        probabilities = jnp.exp(jnp.where(inside[..., None], shifted, -jnp.inf))
        return (probabilities * widened(tangent)).sum(axis=-1)

    return normalizers, weigh(logits, normalizers, tangents[0])


def _in_blocks(logits: jax.Array) -> jax.Array:
    """Returns log Σ_v exp(logits_v), some nodes at a time.

    The memory of a block is the memory of one number per node.
    """
    *shape, size = logits.shape
    nodes = logits.reshape(-1, size)  # [N, V]
    number = len(nodes)
    rows = max(number // size, 1)
    # The last block begins earlier where it would be too long: some nodes are computed twice.
    starts = jnp.minimum(jnp.arange(0, number, rows, dtype=jnp.int32), number - rows)

    def block(results: jax.Array, start: jax.Array) -> tuple[jax.Array, None]:
        part = widened(lax.dynamic_slice_in_dim(nodes, start, rows))  # [rows, V]
        found = jax.nn.logsumexp(part, axis=-1)
        return lax.dynamic_update_slice_in_dim(results, found, start, axis=0), None

    results, _ = lax.scan(block, widened(jnp.zeros_like(nodes[:, 0])), starts)
    return results.reshape(shape)


def _diagonals(moves: jax.Array) -> jax.Array:
    """Shifts `[T, U+1]` so that entry [d, u] of `[T+U, U+1]` is entry [d - u, u].

    Entries from outside are zeros.
    """
    frames, nodes = moves.shape
    number = frames + nodes - 1  # T + U
    # Rows of number + 1 entries, read as rows of `number` entries, shift by one entry a row.
    padded = jnp.pad(moves.T, ((0, 0), (0, nodes)))  # [U+1, T+U+1]
    shifted = padded.reshape(-1)[: nodes * number].reshape(nodes, number)
    return shifted.T


# Decoders ----------------------------------------------------------------------------------------


def greedy(
    joint: Callable[[jax.Array, Any], jax.Array],
    predictor_step: Callable[[jax.Array, Any], tuple[Any, Any]],
    encoded: jax.Array,
    state: Any,
    *,
    lengths: jax.Array | None = None,
    blank: int = 0,
    max_symbols: int = 4,
    max_labels: int | None = None,
    time_major: bool = False,
) -> Decoded:
    """Decodes with the best choice at each node of the lattice.

    A blank goes to the next frame. A label is read by the predictor, at the same frame. After
    `max_symbols` labels a blank must follow.

    The functions often hold parameters, so nothing is compiled here: put the call into `jax.jit`.

    Args:
        joint: `(frame, output) -> logits`. It joins a frame of each sequence, `[*B, E]`, with an
            output of the predictor, and returns `[*B, V]`.
        predictor_step: `(label, state) -> (output, state)`. It reads a label of each sequence,
            `int32[*B]`. The first label that it reads is `blank`, which stands for the start.
        encoded: the outputs of the encoder, `[*B, T, E]`, or `[T, *B, E]` if `time_major`.
        state: the first state of the predictor, a pytree with leaves `[*B, ...]`.
        lengths: `int[*B]`, the numbers of frames, as in `scan`. Frames in the padding have no
            influence.
        blank: the index of the blank.
        max_symbols: the most labels of one frame.
        max_labels: the most labels in all; None for `max_symbols * T`.
        time_major: whether time is the first axis of `encoded`.

    Returns:
        Labels `int32[*B, max_labels]`, lengths `int32[*B]`, and the log-probabilities of the
        alignments, `[*B]`.

    Raises:
        TypeError: if an argument has the wrong dtype.
        ValueError: if an argument has the wrong shape, `blank` is out of range, or `encoded` has
            NaN.

    Example:
        A predictor with an LSTM, trained in one call and used one step at a time:

        >>> import jax, jax.numpy as jnp, recurrax
        >>> cell, head = recurrax.LSTMCell(8), recurrax.Dense(5)
        >>> keys = jax.random.split(jax.random.key(0))
        >>> params = cell.init(keys[0], input_size=5), head.init(keys[1], input_size=8)
        >>> encoded = jnp.ones((2, 7, 8))  # [B, T, E], from any encoder
        >>> lengths = jnp.array([7, 5])

        >>> def joint(frame, output):
        ...     return recurrax.step(head, params[1], jnp.tanh(frame + output))[1]
        >>> def predictor_step(label, state):
        ...     state, y = recurrax.step(cell, params[0], jax.nn.one_hot(label, 5), state)
        ...     return y, state

        The loss. The predictor reads a blank first, then the labels:

        >>> labels = jnp.array([[1, 2, 2], [4, 3, 0]])
        >>> read = jnp.array([[0, 1, 2, 2], [0, 4, 3, 0]])  # [B, U+1]
        >>> _, outputs = recurrax.scan(cell, params[0], jax.nn.one_hot(read, 5))
        >>> logits = joint(encoded[:, :, None], outputs[:, None])  # [B, T, U+1, V]
        >>> loss = recurrax.losses.transducer.transducer_loss(
        ...     logits, labels, logit_lengths=lengths, label_lengths=jnp.array([3, 2])
        ... )
        >>> loss.shape
        (2,)

        The best labels:

        >>> @jax.jit
        ... def decode(encoded, lengths):
        ...     state = cell.initial_state((2,))
        ...     return recurrax.losses.transducer.greedy(
        ...         joint, predictor_step, encoded, state, lengths=lengths
        ...     )
        >>> decoded = decode(encoded, lengths)
        >>> decoded.labels.shape, decoded.scores.shape
        ((2, 28), (2,))

    References:
        Graves, Sequence transduction with recurrent neural networks, 2012,
        https://arxiv.org/abs/1211.3711
    """
    encoded, lengths, state = _check(encoded, lengths, state, time_major)
    max_symbols = check_number("max_symbols", max_symbols)
    if max_labels is None:
        max_labels = max_symbols * max(encoded.shape[-2], 1)
    max_labels = check_number("max_labels", max_labels)
    axes = lengths.ndim

    output, state = _read(predictor_step, zeros_like(lengths) + blank, state)
    first = functools.partial(_first_node, max_labels=max_labels, blank=blank)
    frames = over_batch(_frame, axes)
    logits = _join(joint, frames(encoded, zeros_like(lengths)), output, blank)
    node = over_batch(first, axes)(lengths, log_probs_of(logits), output, state)

    def unfinished(node: _Node) -> jax.Array:
        return (node.frame < lengths).any()

    def move(node: _Node) -> _Node:
        logits = _join(joint, frames(encoded, node.frame), node.output, blank)
        choose_one = functools.partial(
            _move, blank=blank, max_symbols=max_symbols, max_labels=max_labels
        )
        new, label, emits = over_batch(choose_one, axes)(node, log_probs_of(logits))
        read = _read(predictor_step, label, node.state)
        output, state = where(emits, read, (node.output, node.state))
        new = new._replace(output=output, state=state)
        # Sequences that have ended wait for the others.
        return where(node.frame < lengths, new, node)

    node = lax.while_loop(unfinished, move, node)
    found = Decoded(node.labels, node.length, to_inf(node.score))
    return check_scores("joint", found)


class _Node(NamedTuple):
    """A node of the lattice of one sequence, and how the search came to it."""

    frame: jax.Array  # int32[]
    symbols: jax.Array  # int32[], the number of labels at this frame
    labels: jax.Array  # int32[U]
    length: jax.Array  # int32[], the number of labels
    score: jax.Array  # float[]
    output: Any  # the output of the predictor
    state: Any  # the state of the predictor


def _first_node(
    length: jax.Array, scores: jax.Array, output: Any, state: Any, *, max_labels: int, blank: int
) -> _Node:
    zero = zeros_like(length)
    labels = jnp.full(max_labels, blank, jnp.int32) + zero
    return _Node(zero, zero, labels, zero, zero.astype(scores.dtype), output, state)


def _move(
    node: _Node, scores: jax.Array, *, blank: int, max_symbols: int, max_labels: int
) -> tuple[_Node, jax.Array, jax.Array]:
    """Makes the move with the best score of `[V]`; returns its label, and whether it emits one."""
    # Where no more labels may come, only the blank is left.
    full = (node.symbols >= max_symbols) | (node.length >= max_labels)
    others = jnp.arange(len(scores), dtype=jnp.int32) != blank
    label = jnp.argmax(jnp.where(full & others, -jnp.inf, scores)).astype(jnp.int32)
    emits = label != blank
    # A blank writes outside of the labels: nothing.
    place = jnp.where(emits, node.length, max_labels)
    new = node._replace(
        frame=jnp.where(emits, node.frame, node.frame + 1),
        symbols=jnp.where(emits, node.symbols + 1, 0),
        labels=node.labels.at[place].set(label, mode="drop"),
        length=node.length + emits.astype(jnp.int32),
        score=node.score + scores[label],
    )
    return new, label, emits


def beam(
    joint: Callable[[jax.Array, Any], jax.Array],
    predictor_step: Callable[[jax.Array, Any], tuple[Any, Any]],
    encoded: jax.Array,
    state: Any,
    *,
    beam_size: int = 8,
    lengths: jax.Array | None = None,
    blank: int = 0,
    max_labels: int | None = None,
    time_major: bool = False,
) -> Decoded:
    """Finds the labelings with the highest probability, by alignment-length synchronous search.

    score(labels) = log Σ_{alignments} p = -transducer_loss, if the beam loses no alignment

    After i moves all hypotheses are on one anti-diagonal of the lattice, t + u = i. The K
    hypotheses with the highest scores stay. Alignments of equal labels are summed, exactly.
    A hypothesis is complete when a blank leaves its last frame. The search ends early when the
    incomplete hypotheses together cannot enter the K best complete ones.

    The functions often hold parameters, so nothing is compiled here: put the call into `jax.jit`.

    Args:
        joint: as in `greedy`. It runs under `jax.vmap` over the beam.
        predictor_step: as in `greedy`. It runs under `jax.vmap` over the beam.
        encoded: as in `greedy`.
        state: as in `greedy`.
        beam_size: the number K of hypotheses.
        lengths: as in `greedy`.
        blank: as in `greedy`.
        max_labels: the most labels of a sequence; None for the number T of frames. Longer sequences
            are not searched.
        time_major: as in `greedy`.

    Returns:
        Labels `int32[*B, K, max_labels]`, lengths `int32[*B, K]` and scores `[*B, K]`, the best
        first. Places without a labeling have score -inf.

    Raises:
        TypeError: if an argument has the wrong dtype.
        ValueError: if an argument has the wrong shape, `blank` is out of range, `encoded` has NaN,
            or fewer than `beam_size` labelings exist.

    Example:
        >>> import jax, jax.numpy as jnp, recurrax
        >>> def joint(frame, output):
        ...     return frame + output
        >>> def predictor_step(label, state):  # a predictor without a memory
        ...     return jax.nn.one_hot(label, 3), state
        >>> @jax.jit
        ... def decode(encoded, lengths):
        ...     return recurrax.losses.transducer.beam(
        ...         joint, predictor_step, encoded, (), beam_size=4, lengths=lengths
        ...     )
        >>> decoded = decode(jnp.ones((2, 5, 3)), jnp.array([5, 3]))  # [B, T, V]
        >>> decoded.labels.shape, decoded.scores.shape
        ((2, 4, 5), (2, 4))

    References:
        Saon et al., Alignment-length synchronous decoding for RNN transducer, 2020,
        https://doi.org/10.1109/ICASSP40776.2020.9053040
    """
    encoded, lengths, state = _check(encoded, lengths, state, time_major)
    if max_labels is None:
        max_labels = max(encoded.shape[-2], 1)
    max_labels = check_number("max_labels", max_labels)
    beam_size = check_number("beam_size", beam_size)
    axes = lengths.ndim

    output, state = _read(predictor_step, zeros_like(lengths) + blank, state)
    frames = over_batch(_frame, axes)
    logits = _join(joint, frames(encoded, zeros_like(lengths)), output, blank)
    check_beam_size(beam_size, logits.shape[-1] - 1, max_labels)
    first = functools.partial(_first_beam, beam_size=beam_size, max_labels=max_labels, blank=blank)
    beam = over_batch(first, axes)(lengths, log_probs_of(logits), output, state)

    # The functions of the user get `[*B, ...]`, so they are mapped over the beam only.
    join_all = jax.vmap(functools.partial(_join, joint, blank=blank), axes, axes)
    read_all = jax.vmap(functools.partial(_read, predictor_step), axes, axes)

    def unfinished(beam: _Beam) -> jax.Array:
        return over_batch(_can_improve, axes)(beam).any()

    def move(beam: _Beam) -> _Beam:
        # All hypotheses have made as many moves, so the number of labels tells the frame.
        t = beam.moves[..., None] - beam.prefixes.lengths  # [*B, K]
        logits = join_all(frames(encoded, t), beam.output)  # [*B, K, V]
        grow = over_batch(functools.partial(_grow, blank=blank), axes)
        new, label, extended = grow(beam, log_probs_of(logits), t, lengths)
        # Only the predictors of the longer prefixes read a label.
        read = read_all(label, new.state)
        output, state = where(extended, read, (new.output, new.state))
        new = new._replace(output=output, state=state)
        # Sequences that have ended wait for the others.
        return where(over_batch(_can_improve, axes)(beam), new, beam)

    beam = lax.while_loop(unfinished, move, beam)
    complete = beam.complete
    alive = possible(complete.scores)  # [*B, K]
    labels = jnp.where(alive[..., None], complete.labels, blank)
    # NaN ends the search of a sequence. No score of the sequence is right then.
    nan = jnp.isnan(beam.scores).any(axis=-1, keepdims=True)  # [*B, 1]
    scores = jnp.where(nan, jnp.nan, to_inf(complete.scores))
    found = Decoded(labels, jnp.where(alive, complete.lengths, 0), scores)
    return check_scores("joint", found)


class _Beam(NamedTuple):
    """K hypotheses of one sequence on one anti-diagonal, and the K best that are complete."""

    moves: jax.Array  # int32[], t + u of every hypothesis
    prefixes: Prefixes
    scores: jax.Array  # [K]
    output: Any  # the outputs of the predictor, leaves [K, ...]
    state: Any  # the states of the predictor, leaves [K, ...]
    complete: Decoded


def _first_beam(
    length: jax.Array,
    scores: jax.Array,
    output: Any,
    state: Any,
    *,
    beam_size: int,
    max_labels: int,
    blank: int,
) -> _Beam:
    """Returns the beam before the first move: one empty hypothesis."""
    zero = zeros_like(length)
    nothing = jnp.full(beam_size, IMPOSSIBLE, scores.dtype) + zero.astype(scores.dtype)  # [K]
    empty = empty_prefixes(beam_size, max_labels, blank, zero)
    start = nothing.at[0].set(0)
    # Without a frame the empty sequence is complete.
    no_frame = length == 0
    output, state = jax.tree.map(
        lambda leaf: jnp.broadcast_to(leaf, (beam_size, *leaf.shape)), (output, state)
    )
    return _Beam(
        moves=zero,
        prefixes=empty,
        scores=jnp.where(no_frame, nothing, start),
        output=output,
        state=state,
        complete=Decoded(empty.labels, empty.lengths, jnp.where(no_frame, start, nothing)),
    )


def _can_improve(beam: _Beam) -> jax.Array:
    """Whether the hypotheses of a sequence can still enter its K best complete ones."""
    # No sequence of labels can get more than all that the hypotheses have together.
    most = jax.nn.logsumexp(beam.scores)
    return possible(beam.scores).any() & (most > beam.complete.scores[-1])


def _grow(
    beam: _Beam, scores: jax.Array, t: jax.Array, length: jax.Array, *, blank: int
) -> tuple[_Beam, jax.Array, jax.Array]:
    """Moves all hypotheses to the next anti-diagonal, with log-probabilities `[K, V]`.

    Returns:
        The new beam with the old states of the predictor, the labels that the predictor must read,
        `int32[K]`, and whether it must, `bool[K]`.
    """
    prefixes = beam.prefixes
    number, most = prefixes.labels.shape
    alive = possible(beam.scores)  # [K]
    # An empty place of the beam has read any frame, and may have NaN.
    scores = jnp.where(alive[:, None], scores, IMPOSSIBLE)
    stay = beam.scores + scores[:, blank]
    extend = beam.scores[:, None] + scores
    no_label = jnp.arange(scores.shape[-1], dtype=jnp.int32)[None, :] == blank
    full = prefixes.lengths[:, None] == most
    extend = jnp.where(no_label | full, IMPOSSIBLE, extend)
    # Two alignments of the same labels come to the same frame.
    joined, extend = merge(prefixes, alive, extend)
    stay = jnp.logaddexp(stay, joined)

    # A blank at the last frame completes a hypothesis.
    ends = t + 1 >= length
    ended = jnp.where(ends, stay, IMPOSSIBLE)
    candidates = Decoded(prefixes.labels, prefixes.lengths, ended)
    both = jax.tree.map(lambda *parts: jnp.concatenate(parts), beam.complete, candidates)
    _, best = lax.top_k(both.scores, number)
    complete = jax.tree.map(lambda leaf: leaf[best], both)

    stay = jnp.where(ends, IMPOSSIBLE, stay)
    choice = choose(stay, extend)
    source, label, extended = choice
    output, state = jax.tree.map(lambda leaf: leaf[source], (beam.output, beam.state))
    new = _Beam(
        moves=beam.moves + 1,
        prefixes=follow(prefixes, choice),
        scores=jnp.where(extended, extend[source, label], stay[source]),
        output=output,
        state=state,
        complete=complete,
    )
    return new, jnp.where(extended, label, blank), extended


def _check(encoded: Any, lengths: Any, state: Any, time_major: bool) -> tuple:
    """Checks the arrays of a decoder; returns the frames with time before E."""
    what = f"`encoded` {describe(jnp.asarray(encoded))}"
    encoded, lengths = check_frames("encoded", encoded, "T, E", lengths, time_major)
    check_nan("encoded", encoded, lengths)
    # Functions of the user may be run on the padding, but their results are not used.
    within = lengths_to_mask(lengths, encoded.shape[-2])
    encoded = where(within, encoded, jnp.zeros_like(encoded))
    # Without a frame nothing is read, but the loop is traced with one.
    if not encoded.shape[-2]:
        encoded = jnp.zeros((*lengths.shape, 1, encoded.shape[-1]), encoded.dtype)
    return encoded, lengths, check_states("state", state, lengths.shape, what)


def _frame(encoded: jax.Array, t: jax.Array) -> jax.Array:
    return encoded[t]


def _join(joint: Callable, frame: jax.Array, output: Any, blank: int) -> jax.Array:
    """Returns the logits of one node of each sequence, checked."""
    logits = joint(frame, output)
    check_returned_scores("joint", logits, frame.shape[:-1])
    check_blank(blank, logits.shape[-1], f"the logits of `joint`, {describe(logits)}")
    return logits


def _read(predictor_step: Callable, label: jax.Array, state: Any) -> tuple[Any, Any]:
    """Lets the predictor read one label of each sequence, with a check of the results."""
    returned = predictor_step(label, state)
    check_step("predictor_step", returned, state)
    output, new = returned
    return output, new
