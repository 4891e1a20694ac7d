"""Single labelings of a chain: the best one, the k best, and draws."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax

from recurrax._mask import where
from recurrax.losses._crf_chain import Chain, expanded, finite, forward, one_hot, score_of


def best(chain: Chain) -> tuple[jax.Array, jax.Array]:
    """The best labeling `int[T, *B]` and its score `[*B]`: the Viterbi algorithm."""
    fixed = lax.stop_gradient(chain)
    zero = jnp.zeros_like(fixed.emissions).sum(axis=0)  # [*B, L]
    transitions = expanded(fixed.transitions, zero.ndim + 1)  # [..., L, L]
    start = zero + expanded(fixed.start, zero.ndim)  # [*B, L]

    def advance(top: jax.Array, at: tuple) -> tuple[jax.Array, jax.Array]:
        emissions, mask, first = at
        candidates = top[..., :, None] + transitions  # [*B, L, L]
        sources = lax.argmax(candidates, candidates.ndim - 2, jnp.int32)  # [*B, L]
        reached = where(first, start, candidates.max(axis=-2)) + emissions  # [*B, L]
        # Small numbers are exact over many steps.
        reached -= finite(reached.max(axis=-1, keepdims=True))
        return where(mask, reached, top), sources

    sequence = (fixed.emissions, fixed.mask, fixed.first)
    top, sources = lax.scan(advance, zero, sequence)
    top += expanded(fixed.end, top.ndim)
    label = lax.argmax(top, top.ndim - 1, jnp.int32)  # [*B]

    def retreat(label: jax.Array, at: tuple) -> tuple[jax.Array, jax.Array]:
        sources, mask, first = at  # [*B, L], [*B], [*B]
        read = jnp.where(one_hot(label, sources.shape[-1]), sources, 0)  # [*B, L]
        before = where(mask & ~first, read.sum(axis=-1, dtype=jnp.int32), label)
        return before, where(mask, label, jnp.zeros_like(label))

    sequence = (sources, fixed.mask, fixed.first)
    labels = lax.scan(retreat, label, sequence, reverse=True)[1]  # [T, *B]
    # The derivative of the best score is the derivative of this labeling's score.
    return labels, score_of(chain, labels)


def k_best(chain: Chain, k: int) -> tuple[jax.Array, jax.Array]:
    """The k best labelings `int[T, *B, K]`, the best first, and their scores `[*B, K]`."""
    fixed = lax.stop_gradient(chain)
    size = fixed.start.shape[0]
    zero = jnp.zeros_like(fixed.emissions).sum(axis=0)  # [*B, L]
    transitions = expanded(fixed.transitions, zero.ndim + 1)[..., None, :]  # [..., L, 1, L]
    # Before the first step there is one labeling, without a label.
    none = zero[..., None] + expanded(_only_first(k, zero.dtype), zero.ndim + 1)  # [*B, L, K]
    start = none + expanded(fixed.start, zero.ndim)[..., None]  # [*B, L, K]

    def advance(top: jax.Array, at: tuple) -> tuple[jax.Array, jax.Array]:
        emissions, mask, first = at
        candidates = top[..., None] + transitions  # [*B, L, K, L]
        candidates = candidates.reshape(*zero.shape[:-1], size * k, size)  # [*B, L*K, L]
        reached, sources = lax.top_k(jnp.swapaxes(candidates, -1, -2), k)  # [*B, L, K]
        reached = where(first, start, reached) + emissions[..., None]  # [*B, L, K]
        reached -= finite(reached.max(axis=(-2, -1), keepdims=True))
        return where(mask, reached, top), sources

    top, sources = lax.scan(advance, none, (fixed.emissions, fixed.mask, fixed.first))
    # A row without a step has one labeling. Every label stands for it, so one of them counts.
    empty = none + expanded(_only_first(size, zero.dtype)[:, None], zero.ndim + 1)
    ended = top + expanded(fixed.end, zero.ndim)[..., None]  # [*B, L, K]
    top = where(fixed.mask.any(axis=0), ended, empty)
    top, node = lax.top_k(top.reshape(*zero.shape[:-1], size * k), k)  # [*B, K]

    def retreat(node: jax.Array, at: tuple) -> tuple[jax.Array, jax.Array]:
        sources, mask, first = at  # [*B, L, K], [*B], [*B]
        flat = sources.reshape(*zero.shape[:-1], size * k)  # [*B, L*K]
        is_node = one_hot(node, size * k)  # [*B, K, L*K]
        read = jnp.where(is_node, flat[..., None, :], 0)  # [*B, K, L*K]
        before = where(mask & ~first, read.sum(axis=-1, dtype=jnp.int32), node)
        label = node // k  # [*B, K]
        return before, where(mask, label, jnp.zeros_like(label))

    sequence = (sources, fixed.mask, fixed.first)
    labels = lax.scan(retreat, node, sequence, reverse=True)[1]  # [T, *B, K]
    exists = top > -jnp.inf  # [*B, K]
    labels = jnp.where(exists[None], labels, 0)
    # The chain once more for each of the k labelings.
    shape = (*labels.shape, size)
    copies = chain._replace(
        emissions=jnp.broadcast_to(chain.emissions[..., None, :], shape),
        mask=jnp.broadcast_to(chain.mask[..., None], labels.shape),
        first=jnp.broadcast_to(chain.first[..., None], labels.shape),
    )
    scores = score_of(copies, labels)  # [*B, K]
    return labels, jnp.where(exists, scores, jnp.full_like(scores, -jnp.inf))


def _only_first(size: int, dtype: jnp.dtype) -> jax.Array:
    """The scores of a choice that only number 0 is open to: 0, then -inf."""
    return jnp.where(jnp.arange(size) == 0, 0.0, -jnp.inf).astype(dtype)


def draw(solver: str, chain: Chain, key: jax.Array) -> jax.Array:
    """A labeling `int[T, *B]` for each row, drawn from the last step to the first."""
    alphas = forward(solver, chain).every  # [T, *B, L]
    # The greatest of scores plus this noise is a draw from their softmax.
    noise = jax.random.gumbel(key, alphas.shape, alphas.dtype)  # [T, *B, L]
    end = jnp.zeros_like(alphas).sum(axis=0)  # [*B, L]
    end += expanded(chain.end, end.ndim)
    transitions = jnp.zeros_like(end)[..., None] + expanded(chain.transitions, end.ndim + 1)

    def retreat(ahead: jax.Array, at: tuple) -> tuple[jax.Array, jax.Array]:
        alpha, noise, mask = at  # [*B, L], [*B, L], [*B]
        label = lax.argmax(alpha + ahead + noise, alpha.ndim - 1, jnp.int32)  # [*B]
        # The scores of the transitions into this label.
        is_label = one_hot(label, alpha.shape[-1])[..., None, :]  # [*B, 1, L]
        column = jnp.where(is_label, transitions, jnp.zeros_like(transitions)).sum(axis=-1)
        return where(mask, column, ahead), where(mask, label, jnp.zeros_like(label))

    return lax.scan(retreat, end, (alphas, noise, chain.mask), reverse=True)[1]
