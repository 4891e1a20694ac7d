"""Samplers: pure functions from logits to logits. A token that must not be drawn gets -inf."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from recurrax._arguments import as_int, describe, is_number, short


def scale_temperature(logits: jax.Array, temperature: float | jax.Array) -> jax.Array:
    """Divides logits by a temperature.

    logits' = logits / temperature

    Args:
        logits: `[*B, V]`.
        temperature: a positive number. Below 1 the likely tokens become likelier.

    Returns:
        `[*B, V]`.

    Raises:
        ValueError: if the temperature is not positive.

    Example:
        >>> import jax.numpy as jnp
        >>> from recurrax.decoding import scale_temperature
        >>> scale_temperature(jnp.array([1.0, 2.0]), 0.5).tolist()
        [2.0, 4.0]

    References:
        Ackley et al., A learning algorithm for Boltzmann machines, 1985,
        https://doi.org/10.1207/s15516709cog0901_7
    """
    _check_range(
        "temperature", temperature, lambda t: t > 0, "above 0. For greedy decoding, give no `key`"
    )
    return logits / jnp.asarray(temperature, logits.dtype)


def keep_top_k(logits: jax.Array, k: int) -> jax.Array:
    """Keeps the k likeliest tokens. The others get -inf. Tokens equal to the last one stay.

    Args:
        logits: `[*B, V]`.
        k: how many tokens to keep, from 1 to V.

    Returns:
        `[*B, V]`.

    Raises:
        ValueError: if `k` is outside of 1 to V.

    Example:
        >>> import jax.numpy as jnp
        >>> from recurrax.decoding import keep_top_k
        >>> keep_top_k(jnp.array([1.0, 3.0, 2.0]), 2).tolist()
        [-inf, 3.0, 2.0]

    References:
        Fan et al., Hierarchical neural story generation, 2018, https://arxiv.org/abs/1805.04833
    """
    number, size = as_int(k), logits.shape[-1]
    if number is None or not 1 <= number <= size:
        raise ValueError(
            f"`top_k` must be an int from 1 to {size}, the size of the vocabulary, known at "
            f"compilation; got {short(k)}."
        )
    least = lax.top_k(logits, number)[0][..., -1:]  # [*B, 1]
    return _keep(logits >= least, logits)


def keep_top_p(logits: jax.Array, p: float | jax.Array) -> jax.Array:
    """Keeps the fewest likeliest tokens with a total probability of at least p (nucleus).

    The likeliest token always stays. Of tokens with equal logits, the first ones stay.

    Args:
        logits: `[*B, V]`.
        p: a probability, above 0 and at most 1.

    Returns:
        `[*B, V]`.

    Raises:
        ValueError: if `p` is outside of its range.

    Example:
        >>> import jax.numpy as jnp
        >>> from recurrax.decoding import keep_top_p
        >>> probabilities = jnp.array([0.2, 0.5, 0.3])
        >>> (keep_top_p(jnp.log(probabilities), 0.6) > -jnp.inf).tolist()
        [False, True, True]

    References:
        Holtzman et al., The curious case of neural text degeneration, 2020,
        https://arxiv.org/abs/1904.09751
    """
    _check_range("top_p", p, lambda p: 0 < p <= 1, "above 0 and at most 1")
    order = jnp.argsort(-logits, axis=-1)  # [*B, V], the likeliest first
    probabilities = jax.nn.softmax(jnp.take_along_axis(logits, order, axis=-1), axis=-1)
    # The probability of all likelier tokens. A token stays if it does not reach p.
    before = jnp.cumsum(probabilities, axis=-1) - probabilities
    kept = before < jnp.asarray(p, logits.dtype)
    rank = jnp.argsort(order, axis=-1)  # the place of each token in the order
    kept = jnp.take_along_axis(kept, rank, axis=-1)
    # The sum of rounded numbers may exceed p too early or too late, but never for the first token.
    return _keep(kept | (rank == 0), logits)


def keep_min_p(logits: jax.Array, p: float | jax.Array) -> jax.Array:
    """Keeps the tokens with at least p times the probability of the likeliest token.

    Args:
        logits: `[*B, V]`.
        p: a share, from 0 to 1.

    Returns:
        `[*B, V]`.

    Raises:
        ValueError: if `p` is outside of its range.

    Example:
        >>> import jax.numpy as jnp
        >>> from recurrax.decoding import keep_min_p
        >>> probabilities = jnp.array([0.1, 0.6, 0.3])
        >>> (keep_min_p(jnp.log(probabilities), 0.4) > -jnp.inf).tolist()
        [False, True, True]

    References:
        Nguyen et al., Turning up the heat: min-p sampling for creative and coherent LLM outputs,
        2024, https://arxiv.org/abs/2407.01082
    """
    _check_range("min_p", p, lambda p: 0 <= p <= 1, "from 0 to 1")
    # The softmax divides all tokens by one number, so logits tell the ratios.
    least = logits.max(axis=-1, keepdims=True) + jnp.log(jnp.asarray(p, logits.dtype))
    return _keep(logits >= least, logits)


def penalize_repetition(
    logits: jax.Array, seen: jax.Array, penalty: float | jax.Array
) -> jax.Array:
    """Makes tokens that stand in the text already less likely.

    logits' = logits / penalty where logits > 0, else logits * penalty; for seen tokens alone

    Args:
        logits: `[*B, V]`.
        seen: `bool[*B, V]`, True at the tokens of the text so far.
        penalty: a positive number. Above 1 repeated tokens become less likely.

    Returns:
        `[*B, V]`.

    Raises:
        ValueError: if the penalty is not positive.

    Example:
        >>> import jax.numpy as jnp
        >>> from recurrax.decoding import penalize_repetition
        >>> seen = jnp.array([True, True, False])
        >>> penalize_repetition(jnp.array([2.0, -2.0, 2.0]), seen, 2.0).tolist()
        [1.0, -4.0, 2.0]

    References:
        Keskar et al., CTRL: a conditional transformer language model for controllable generation,
        2019, https://arxiv.org/abs/1909.05858
    """
    _check_range("repetition_penalty", penalty, lambda penalty: penalty > 0, "above 0")
    if jnp.shape(seen) != logits.shape or seen.dtype != jnp.bool_:
        axes = ", ".join(map(str, logits.shape))
        raise ValueError(f"`seen` must be bool[{axes}], as the logits; got {describe(seen)}.")
    penalty = jnp.asarray(penalty, logits.dtype)
    penalized = jnp.where(logits > 0, logits / penalty, logits * penalty)
    return jnp.where(seen, penalized, logits)


def _keep(kept: jax.Array, logits: jax.Array) -> jax.Array:
    return jnp.where(kept, logits, jnp.full_like(logits, -jnp.inf))


def _check_range(name: str, value: Any, within: Any, expected: str) -> None:
    """Checks a number. The value of a traced array is not known yet."""
    if isinstance(value, jax.core.Tracer):
        return
    must = f"`{name}` must be a number {expected}"
    if not is_number(value) and jnp.shape(value) != ():
        raise ValueError(f"{must}; got {describe(value)}.")
    if not within(float(value)):
        raise ValueError(f"{must}; got {value}.")
