"""Sampling: a model writes by reading the tokens that it wrote."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from recurrax._arguments import check_number, describe, short
from recurrax._check import check_flags
from recurrax._mask import lengths_to_mask
from recurrax.decoding._model_step import (
    ModelStep,
    check_model_step,
    check_range,
    check_state,
    check_tokens,
    raise_if_nan,
    stop_tokens,
    where_rows,
    wide_dtype,
)
from recurrax.decoding._samplers import (
    keep_min_p,
    keep_top_k,
    keep_top_p,
    penalize_repetition,
    scale_temperature,
)


class Generated(NamedTuple):
    """The texts that `generate` wrote.

    Attributes:
        tokens: `int[*B, length]`, without the prompt. A text includes its stop token. The rest of
            its row holds the first stop token, or 0.
        log_probs: `[*B, length]`, the log-probabilities of these tokens under the model itself:
            before the temperature and every other option. Zero behind the end.
        lengths: `int[*B]`, the numbers of tokens, with the stop token.
        state: the state before the last token is read. With the last token as the prompt, another
            call continues the text. Rows that have ended keep no useful state.
    """

    tokens: jax.Array
    log_probs: jax.Array
    lengths: jax.Array
    state: Any


class _Loop(NamedTuple):
    """What one step changes. Tokens have time first."""

    step: jax.Array  # int[]
    last: jax.Array  # int[*B], the token to read
    state: Any
    seen: jax.Array | None  # bool[*B, V], the tokens of the text so far
    tokens: jax.Array  # int[length, *B]
    log_probs: jax.Array  # [length, *B]
    lengths: jax.Array  # int[*B]
    done: jax.Array  # bool[*B]
    bad: jax.Array  # bool[*B], rows whose logits had NaN


def generate(
    model_step: ModelStep,
    state: Any,
    prompts: jax.Array,
    *,
    length: int,
    prompt_lengths: jax.Array | None = None,
    stop: int | Sequence[int] | None = None,
    key: jax.Array | None = None,
    temperature: float | jax.Array | None = None,
    top_k: int | None = None,
    top_p: float | jax.Array | None = None,
    min_p: float | jax.Array | None = None,
    repetition_penalty: float | jax.Array | None = None,
    written: int | jax.Array = 0,
    read_prompt: Callable | None = None,
    batch_axis: int = 0,
) -> Generated:
    """Continues prompts: a model reads each token that it wrote, and the next one is drawn.

    logits_t, state_t = model_step(token_{t-1}, state_{t-1})
    token_t ~ softmax(options(logits_t)), or the argmax without a key

    The options act in this order: repetition penalty, temperature, top-k, top-p, min-p. Each is a
    function of this package, such as `keep_top_k`.

    The loop is one `lax.while_loop`. Call `generate` inside of `jax.jit` if you call it more than
    once. Each row has its own key, so its text does not depend on the other rows.

    Args:
        model_step: a function `(token, state) -> (logits, state)` that reads one token of each row.
            `token` is `int[*B]`, and the logits are `[*B, V]`.
        state: the state before the prompts, any pytree.
        prompts: `int[*B, P]`, at least one token in each row, such as a start token.
        length: the largest number of tokens to write.
        prompt_lengths: `int[*B]`, the numbers of tokens of right-padded prompts; at least 1.
        stop: the token that ends a text, or a tuple of such tokens.
        key: one key, from which each row gets its own; or the keys of the rows, `[*B]`. Without a
            key the likeliest token is taken.
        written: the number of tokens that earlier calls have written. Calls that continue a text
            by the same key then write what one call writes.
        temperature: see `scale_temperature`.
        top_k: see `keep_top_k`.
        top_p: see `keep_top_p`.
        min_p: see `keep_min_p`.
        repetition_penalty: see `penalize_repetition`. The prompts count as text.
        read_prompt: a function `(tokens, state, lengths) -> state` that reads the prompts without
            their last tokens, `int[*B, P-1]`, at once. `lengths` `int[*B]` are their lengths, as
            `scan` takes them. By default `model_step` reads one token after another, in a loop.
        batch_axis: the first batch axis of the leaves of `state`. It is 0 for the layers, and 1 for
            PyTorch's layout, as of `recurrax.nnx.LSTM`. It matters only to ragged prompts without
            `read_prompt`.

    Returns:
        `Generated` with tokens `int[*B, length]`, their log-probabilities, their lengths and the
        state.

    Raises:
        TypeError: if an argument has the wrong type or dtype.
        ValueError: if an argument has the wrong shape or range, or, outside of `jax.jit`, if logits
            are NaN.

    Example:
        A recurrent language model. `scan` reads the prompts.

        >>> import jax, jax.numpy as jnp, recurrax
        >>> from recurrax.decoding import generate
        >>> layer = recurrax.Stack((recurrax.GRUCell(8), recurrax.Dense(5)))
        >>> params = layer.init(jax.random.key(0), input_size=3)
        >>> embedding = jax.random.normal(jax.random.key(1), (5, 3))
        >>> def model_step(token, state):
        ...     state, logits = recurrax.step(layer, params, embedding[token], state)
        ...     return logits, state
        >>> def read_prompt(tokens, state, lengths):
        ...     return recurrax.scan(layer, params, embedding[tokens], state, lengths=lengths)[0]
        >>> @jax.jit
        ... def write(prompts, lengths, key):
        ...     state = layer.initial_state((2,))
        ...     return generate(
        ...         model_step, state, prompts, length=6, prompt_lengths=lengths, stop=0, key=key,
        ...         temperature=0.8, top_p=0.9, read_prompt=read_prompt,
        ...     )
        >>> prompts = jnp.array([[1, 2, 3], [4, 0, 0]])
        >>> texts = write(prompts, jnp.array([3, 1]), jax.random.key(2))
        >>> texts.tokens.shape, texts.log_probs.shape, texts.lengths.shape
        ((2, 6), (2, 6), (2,))

    References:
        Graves, Generating sequences with recurrent neural networks, 2013,
        https://arxiv.org/abs/1308.0850
    """
    prompts = check_tokens("prompts", prompts, "*B, P")
    if not prompts.ndim or not prompts.shape[-1]:
        raise ValueError(
            "`prompts` must be int[*B, P] with at least one token, such as a start token; got "
            f"{describe(prompts)}."
        )
    batch_shape = prompts.shape[:-1]
    state = jax.tree.map(jnp.asarray, state)
    token = jax.ShapeDtypeStruct(batch_shape, prompts.dtype)
    logits = check_model_step(model_step, token, state)
    size, dtype = logits.shape[-1], wide_dtype(logits)
    lengths = _check_lengths(prompts, prompt_lengths)
    # The state of a row in the padding of its prompt must stay as it is.
    if lengths is not None and read_prompt is None:
        check_state(state, batch_shape, batch_axis)
    check_range("prompts", _known_tokens(prompts, lengths), size)
    stops, length = stop_tokens(stop, size), check_number("length", length)
    uniforms = _uniforms(_row_keys(key, batch_shape), written, length, dtype)
    options = (temperature, top_k, top_p, min_p)
    if key is None and any(option is not None for option in options):
        raise ValueError(
            "`key` must be given with `temperature`, `top_k`, `top_p` or `min_p`: without a key "
            "the likeliest token is taken, and these options would change nothing."
        )
    if read_prompt is not None and not callable(read_prompt):
        raise TypeError(
            "`read_prompt` must be a function `(tokens, state, lengths) -> state`; got "
            f"{short(read_prompt)}."
        )

    def warp(logits: jax.Array, seen: Any) -> jax.Array:
        """Applies the options, in float32 at least."""
        logits = logits.astype(dtype)
        if repetition_penalty is not None:
            logits = penalize_repetition(logits, seen, repetition_penalty)
        if temperature is not None:
            logits = scale_temperature(logits, temperature)
        if top_k is not None:
            logits = keep_top_k(logits, top_k)
        if top_p is not None:
            logits = keep_top_p(logits, top_p)
        if min_p is not None:
            logits = keep_min_p(logits, min_p)
        return logits

    def advance(loop: _Loop) -> _Loop:
        """Reads a token of each row and draws the next one."""
        logits, state = model_step(loop.last, loop.state)
        log_probs = jax.nn.log_softmax(logits.astype(dtype), axis=-1)  # [*B, V]
        uniform = None
        if uniforms is not None:
            uniform = uniforms[loop.step]
        token = _draw(uniform, warp(logits, loop.seen)).astype(loop.last.dtype)
        log_prob = jnp.take_along_axis(log_probs, token[..., None], axis=-1)[..., 0]
        # All log-probabilities are NaN if one logit is NaN or +inf, or if all are -inf.
        unusable = jnp.isnan(log_prob)
        bad = loop.bad | (unusable & ~loop.done)

        # A row that is done writes nothing. It still reads its last token, to no effect.
        last = jnp.where(loop.done, loop.last, token)
        filling = loop.tokens[loop.step]
        token = jnp.where(loop.done | unusable, filling, token)
        log_prob = jnp.where(loop.done, jnp.zeros_like(log_prob), log_prob)
        lengths = loop.lengths + (~loop.done & ~unusable).astype(jnp.int32)
        seen = loop.seen
        if seen is not None:
            seen = seen | (jax.nn.one_hot(last, size) > 0)
        done = loop.done | bad
        for stop_token in stops:
            done = done | (last == stop_token)
        return _Loop(
            loop.step + 1,
            last,
            state,
            seen,
            loop.tokens.at[loop.step].set(token),
            loop.log_probs.at[loop.step].set(log_prob),
            lengths,
            done,
            bad,
        )

    def unfinished(loop: _Loop) -> jax.Array:
        return (loop.step < length) & ~loop.done.all()

    state = _read(model_step, state, prompts, lengths, read_prompt, batch_axis)
    last = _last_tokens(prompts, lengths)
    seen = None
    if repetition_penalty is not None:
        seen = _seen(prompts, lengths, size)
    none = jnp.zeros_like(last, dtype=bool)
    zeros = jnp.broadcast_to(jnp.zeros_like(last), (length, *last.shape))
    loop = _Loop(
        jnp.zeros((), jnp.int32),
        last,
        state,
        seen,
        jnp.full_like(zeros, (*stops, 0)[0]),
        jnp.zeros_like(zeros, dtype=dtype),
        jnp.zeros_like(last, dtype=jnp.int32),
        none,
        none,
    )
    loop = lax.while_loop(unfinished, advance, loop)
    raise_if_nan(loop.bad, "and at least one that is not -inf")
    tokens = jnp.moveaxis(loop.tokens, 0, -1)  # [*B, length]
    log_probs = jnp.moveaxis(loop.log_probs, 0, -1)
    return Generated(tokens, log_probs, loop.lengths, loop.state)


def _draw(uniform: jax.Array | None, logits: jax.Array) -> jax.Array:
    """Draws a token of each row, `int[*B]`, from one uniform number of each row.

    The token is the first one whose cumulative probability exceeds the number.
    """
    if uniform is None:
        return logits.argmax(axis=-1)
    probabilities = jax.nn.softmax(logits, axis=-1)
    # Rounding may lift the sum at a token of probability 0. So such tokens are left out.
    possible = probabilities > 0
    sums = jnp.where(possible, jnp.cumsum(probabilities, axis=-1), jnp.zeros_like(probabilities))
    # The numbers are below 1 by more than rounding, so at least one sum exceeds the product.
    least = uniform[..., None] * sums.max(axis=-1, keepdims=True)
    tokens = lax.broadcasted_iota(jnp.int32, sums.shape, sums.ndim - 1)
    # NaN exceeds nothing: then the last token stands for none.
    return jnp.where(sums > least, tokens, sums.shape[-1] - 1).min(axis=-1)


def _uniforms(key: jax.Array | None, written: Any, length: int, dtype: jnp.dtype) -> Any:
    """Returns one number in [0, 1) for each token, `[length, *B]`; None without a key.

    All numbers are drawn at once, since a draw in a loop costs as much as a small model.
    """
    if key is None:
        return None

    def draw(key: jax.Array, token: jax.Array) -> jax.Array:
        return jax.random.uniform(jax.random.fold_in(key, token), dtype=dtype)

    for _ in range(key.ndim):
        draw = jax.vmap(draw, in_axes=(0, None))
    tokens = jnp.asarray(written) + jnp.arange(length)
    return jax.vmap(draw, in_axes=(None, 0))(key, tokens)


def _row_keys(key: Any, batch_shape: tuple[int, ...]) -> jax.Array | None:
    """Returns one key for each row, `[*B]`, from one key or from the keys of the rows."""
    if key is None:
        return None
    axes = ", ".join(map(str, batch_shape))
    must = f"`key` must be one PRNG key, such as jax.random.key(0), or keys [{axes}] of the rows"
    dtype = getattr(key, "dtype", None)
    if dtype == jnp.uint32 and key.shape[-1:] == (2,):
        key = jax.random.wrap_key_data(key)
    elif dtype is None or not jnp.issubdtype(dtype, jax.dtypes.prng_key):
        raise TypeError(f"{must}; got {describe(key)}.")
    if key.shape == batch_shape:
        return key
    if key.shape:
        raise ValueError(f"{must}; got {describe(key)}.")
    # Row i has the same key in a batch of any size.
    number = 1
    for axis in batch_shape:
        number *= axis
    keys = jax.vmap(lambda row: jax.random.fold_in(key, row))(jnp.arange(number))
    return keys.reshape(batch_shape)


def _check_lengths(prompts: jax.Array, lengths: Any) -> jax.Array | None:
    batch_shape, longest = prompts.shape[:-1], prompts.shape[-1]
    meaning = f"one length per row of `prompts` {describe(prompts)}"
    lengths = check_flags("prompt_lengths", lengths, jnp.integer, batch_shape, meaning)
    if lengths is None or isinstance(lengths, jax.core.Tracer):
        return lengths
    known = np.asarray(lengths)
    wrong = known[(known < 1) | (known > longest)]
    if wrong.size:
        raise ValueError(
            f"`prompt_lengths` must be from 1 to {longest}, since a text needs a token to begin "
            f"with; got {wrong[0]}."
        )
    return lengths


def _known_tokens(prompts: jax.Array, lengths: jax.Array | None) -> jax.Array:
    """The prompts with 0 in their padding, which may hold anything."""
    if lengths is None:
        return prompts
    return jnp.where(lengths_to_mask(lengths, prompts.shape[-1]), prompts, 0)


def _last_tokens(prompts: jax.Array, lengths: jax.Array | None) -> jax.Array:
    if lengths is None:
        return prompts[..., -1]
    return jnp.take_along_axis(prompts, lengths[..., None] - 1, axis=-1)[..., 0]


def _seen(prompts: jax.Array, lengths: jax.Array | None, size: int) -> jax.Array:
    """The tokens in each prompt, `bool[*B, V]`."""
    found = jax.nn.one_hot(prompts, size) > 0  # [*B, P, V]
    if lengths is not None:
        found = found & lengths_to_mask(lengths, prompts.shape[-1])[..., None]
    return found.any(axis=-2)


def _read(
    model_step: ModelStep,
    state: Any,
    prompts: jax.Array,
    lengths: jax.Array | None,
    read_prompt: Callable | None,
    batch_axis: int,
) -> Any:
    """Reads the prompts without their last tokens, which the loop reads."""
    tokens = prompts[..., :-1]
    if not tokens.shape[-1]:
        return state
    if read_prompt is not None:
        before = state
        if lengths is None:
            lengths = jnp.full_like(prompts[..., 0], prompts.shape[-1])
        state = read_prompt(tokens, state, lengths - 1)
        structure: Any = jax.tree.structure(before)
        if structure != jax.tree.structure(state):
            raise ValueError(
                f"`read_prompt` must return a state like `state`, {describe(before)}; got "
                f"{describe(state)}."
            )
        return state

    mask = None
    if lengths is not None:
        mask = lengths_to_mask(lengths - 1, tokens.shape[-1])
        # The padding may hold ids that are outside of the vocabulary.
        tokens = jnp.where(mask, tokens, jnp.zeros_like(tokens))

    def body(state: Any, at: tuple) -> tuple[Any, None]:
        token, unmasked = at  # each [*B]; `unmasked` may be None
        _, after = model_step(token, state)
        if unmasked is None:
            return after, None
        return where_rows(unmasked, after, state, batch_axis), None

    time_first = jax.tree.map(lambda leaf: jnp.moveaxis(leaf, -1, 0), (tokens, mask))
    return lax.scan(body, state, time_first)[0]
