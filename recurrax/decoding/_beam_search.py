"""Beam search: the likeliest texts of a model, found with K texts at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from recurrax._arguments import check_number, is_number, short
from recurrax.decoding._model_step import (
    ModelStep,
    beside_rows,
    check_model_step,
    check_range,
    check_state,
    check_tokens,
    log_probabilities,
    raise_if_nan,
    stop_tokens,
    wide_dtype,
)


class Beams(NamedTuple):
    """The texts that `beam_search` found, the best first.

    Attributes:
        tokens: `int[*B, K, length]`. A text includes its stop token. The rest of its row holds the
            first stop token, or 0.
        scores: `[*B, K]`, the log-probability of each text divided by its length penalty. It is
            -inf where the model allows fewer texts, and NaN in a row whose logits had NaN.
        lengths: `int[*B, K]`, the number of tokens, with the stop token.
    """

    tokens: jax.Array
    scores: jax.Array
    lengths: jax.Array


class _Loop(NamedTuple):
    """What one step of the search changes. An alive text has no stop token yet."""

    step: jax.Array  # int[], the number of tokens so far
    tokens: jax.Array  # int[*B, K, length], the alive texts
    last: jax.Array  # int[*B, K], their last tokens
    log_probs: jax.Array  # [*B, K]; -inf for an empty place
    state: Any  # leaves [K, *B, ...], before the last token is read
    ended: Beams  # the best texts that have ended
    done: jax.Array  # bool[*B], rows that no longer change
    bad: jax.Array  # bool[*B], rows whose logits had NaN


def beam_search(
    model_step: ModelStep,
    state: Any,
    tokens: jax.Array,
    *,
    beam_size: int,
    length: int,
    stop: int | Sequence[int] | None = None,
    length_penalty: float = 0.0,
    early_stopping: bool = False,
    batch_axis: int = 0,
) -> Beams:
    """Searches for the texts with the highest scores.

    score(y) = log p(y) / ((5 + length(y)) / 6)^length_penalty

    At each step the K best alive texts get one more token each, in all ways. The best of these that
    have no stop token are the next alive texts. A text with a stop token ends, if it is among the
    K best. The K best ended texts are kept. Texts of `length` tokens end without a stop token.

    The search draws no random numbers. It is one `lax.while_loop`. Call it inside of `jax.jit` if
    you call it more than once. If K is at least the number of all texts, the search is exhaustive.

    Args:
        model_step: a function `(token, state) -> (logits, state)` that reads one token of each row.
            `token` is `int[*B]`, and the logits are `[*B, V]`. It runs under `jax.vmap` over the K
            texts. So it need not know about beams. It may hold arrays that all texts share, such as
            the outputs of an encoder.
        state: the state before `tokens` are read, any pytree. Its leaves have the batch axes.
        tokens: `int[*B]`, the first token of each row: a start token, or the last token of a
            prompt. It is not in the results.
        beam_size: K, the number of texts. At most the number of different texts of `length` tokens.
        length: the largest number of tokens.
        stop: the token that ends a text, or a tuple of such tokens; None if all texts have `length`
            tokens.
        length_penalty: the exponent. 0 compares log-probabilities, which prefers short texts. A
            larger number prefers longer texts; Wu et al. use 0.6 to 0.7.
        early_stopping: False searches until no alive text can become one of the K best. True stops
            at the first K ended texts, as a faster guess.
        batch_axis: the first batch axis of the leaves of `state`. It is 0 for the layers, and 1 for
            PyTorch's layout, as of `recurrax.nnx.LSTM`.

    Returns:
        `Beams` with tokens `int[*B, K, length]`, scores `[*B, K]` and lengths `int[*B, K]`, the
        best text first.

    Raises:
        TypeError: if an argument has the wrong type or dtype.
        ValueError: if an argument has the wrong shape or range, if there are fewer than `beam_size`
            texts, or, outside of `jax.jit`, if logits are NaN.

    Example:
        A model of three tokens, whose logits depend on the last token alone:

        >>> import jax.numpy as jnp
        >>> from recurrax.decoding import beam_search
        >>> probabilities = jnp.array([[0.1, 0.6, 0.3], [0.2, 0.2, 0.6], [0.3, 0.3, 0.4]])
        >>> def model_step(token, state):
        ...     return jnp.log(probabilities[token]), state
        >>> beams = beam_search(model_step, (), jnp.array([1]), beam_size=2, length=3, stop=0)
        >>> beams.tokens[0].tolist(), jnp.exp(beams.scores[0]).round(3).tolist()
        ([[0, 0, 0], [2, 0, 0]], [0.20000000298023224, 0.18000000715255737])

    References:
        Graves, Sequence transduction with recurrent neural networks (section 2.5), 2012,
        https://arxiv.org/abs/1211.3711

        Wu et al., Google's neural machine translation system (section 7, the length penalty), 2016,
        https://arxiv.org/abs/1609.08144
    """
    tokens = check_tokens("tokens", tokens, "*B")
    state = check_state(state, tokens.shape, batch_axis)
    logits = check_model_step(model_step, tokens, state)
    size, dtype = logits.shape[-1], wide_dtype(logits)
    check_range("tokens", tokens, size)
    stops = stop_tokens(stop, size)
    width, length = check_number("beam_size", beam_size), check_number("length", length)
    _check_enough(width, length, size, stops)
    if not is_number(length_penalty):
        raise TypeError(f"`length_penalty` must be a number; got {short(length_penalty)}.")

    def penalty(length: Any) -> jax.Array:
        return ((5 + jnp.asarray(length, dtype)) / 6) ** float(length_penalty)

    def advance(loop: _Loop) -> _Loop:
        """Gives each alive text one more token."""
        # [K, *B] and [K, *B, V]: the axis of beams is first, as `jax.vmap` puts it.
        logits, after = jax.vmap(model_step)(jnp.moveaxis(loop.last, -1, 0), loop.state)
        step_log_probs = jnp.moveaxis(log_probabilities(logits), 0, -2)  # [*B, K, V]
        alive = loop.log_probs > -jnp.inf  # [*B, K]
        nan = jnp.isnan(step_log_probs).any(axis=-1) & alive
        bad = loop.bad | (nan.any(axis=-1) & ~loop.done)
        step_log_probs = jnp.where(jnp.isnan(step_log_probs), -jnp.inf, step_log_probs)
        totals = loop.log_probs[..., None] + step_log_probs  # [*B, K, V]

        number = loop.step + 1
        ended = loop.ended
        if stops:
            least = lax.top_k(_flat(totals), width)[0][..., -1]  # [*B], the K-th best of all
            accepted = (totals >= least[..., None, None]) & ~loop.done[..., None, None]
            for token in stops:
                scores = totals[..., token] / penalty(number)  # [*B, K]
                scores = jnp.where(accepted[..., token], scores, -jnp.inf)
                texts = loop.tokens.at[..., loop.step].set(token)
                new = Beams(texts, scores, jnp.full_like(loop.ended.lengths, number))
                ended = _best(ended, new)
            totals = totals.at[..., jnp.array(stops)].set(-jnp.inf)

        log_probs, index = lax.top_k(_flat(totals), width)  # [*B, K]
        parent, token = index // size, (index % size).astype(loop.last.dtype)
        texts = jnp.take_along_axis(loop.tokens, parent[..., None], axis=-2)
        texts = texts.at[..., loop.step].set(token)
        state = _take_beams(after, parent, batch_axis)

        # A log-probability only falls. So this is the best score that an alive text can reach.
        reachable = log_probs[..., 0] / jnp.maximum(penalty(number + 1), penalty(length))
        worst = ended.scores[..., -1]
        done = worst >= reachable
        if early_stopping:
            done = worst > -jnp.inf
        done = loop.done | (done & (number < length)) | bad
        return _Loop(number, texts, token, log_probs, state, ended, done, bad)

    def unfinished(loop: _Loop) -> jax.Array:
        return (loop.step < length) & ~loop.done.all()

    first = _first(tokens, state, width, length, stops, dtype)
    loop = lax.while_loop(unfinished, advance, first)
    # The alive texts of the other rows have `length` tokens.
    scores = loop.log_probs / penalty(length)
    scores = jnp.where(loop.done[..., None], -jnp.inf, scores)
    beams = _best(loop.ended, Beams(loop.tokens, scores, jnp.full_like(loop.ended.lengths, length)))
    raise_if_nan(loop.bad, "since no score can be compared with NaN")
    return beams._replace(scores=jnp.where(loop.bad[..., None], jnp.nan, beams.scores))


def _check_enough(width: int, length: int, size: int, stops: tuple[int, ...]) -> None:
    """Checks that there are as many different texts as beams."""
    number, stopped = len(set(stops)), 0
    longer = 1  # the texts of n tokens without a stop token
    for _ in range(length):
        stopped += longer * number
        longer *= size - number
        if stopped + longer >= width:
            return
    raise ValueError(
        f"`beam_size` must be at most {stopped + longer}, the number of different texts with a "
        f"vocabulary of {size}, {number} stop tokens and `length` {length}; got {width}."
    )


def _first(
    tokens: jax.Array,
    state: Any,
    width: int,
    length: int,
    stops: tuple[int, ...],
    dtype: jnp.dtype,
) -> _Loop:
    """Returns one alive text of no tokens for each row. The other places are empty."""
    # Zeros made of the tokens have their placement on a mesh.
    zeros = jnp.zeros_like(tokens)[..., None]  # [*B, 1]
    zeros = jnp.broadcast_to(zeros, (*tokens.shape, width))  # [*B, K]
    nothing = jnp.full_like(zeros, -jnp.inf, dtype=dtype)
    log_probs = nothing.at[..., 0].set(0.0)
    filling = jnp.full_like(zeros, (*stops, 0)[0])
    texts = jnp.broadcast_to(filling[..., None], (*filling.shape, length))  # [*B, K, length]
    ended = Beams(texts, nothing, jnp.zeros_like(zeros, dtype=jnp.int32))
    flags = jnp.zeros_like(tokens, dtype=bool)
    copies = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (width, *leaf.shape)), state)
    step = jnp.zeros((), jnp.int32)
    last = jnp.broadcast_to(tokens[..., None], zeros.shape)
    return _Loop(step, texts, last, log_probs, copies, ended, flags, flags)


def _best(first: Beams, second: Beams) -> Beams:
    """Returns the K best texts of both, the best first. Of equal scores, `first` comes first."""
    width = first.scores.shape[-1]
    scores = jnp.concatenate([first.scores, second.scores], axis=-1)  # [*B, 2K]
    scores, index = lax.top_k(scores, width)
    tokens = jnp.concatenate([first.tokens, second.tokens], axis=-2)  # [*B, 2K, length]
    tokens = jnp.take_along_axis(tokens, index[..., None], axis=-2)
    lengths = jnp.concatenate([first.lengths, second.lengths], axis=-1)
    return Beams(tokens, scores, jnp.take_along_axis(lengths, index, axis=-1))


def _take_beams(state: Any, parent: jax.Array, batch_axis: int) -> Any:
    """Takes the states of the beams `parent` `[*B, K]`. The leaves have K before all axes."""
    parent = jnp.moveaxis(parent, -1, 0)  # [K, *B]

    def take(leaf: jax.Array) -> jax.Array:
        index = jax.vmap(lambda row, part: beside_rows(row, part, batch_axis))(parent, leaf)
        return jnp.take_along_axis(leaf, index, axis=0)

    return jax.tree.map(take, state)


def _flat(totals: jax.Array) -> jax.Array:
    """`[*B, K, V]` to `[*B, K*V]`."""
    return totals.reshape(*totals.shape[:-2], -1)
