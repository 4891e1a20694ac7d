"""The sequences of labels in a beam, and the exact merging of equal sequences.

A search extends a prefix by one label, or lets it stay. So an extended prefix can equal only a
prefix that stays. Comparing all labels of all pairs at each step would be slow. The search keeps
instead, for each pair, the number of labels that both begin with. One comparison per pair and step
updates that number, because a step adds at most one label. Nothing is hashed.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from recurrax.losses._labels import IMPOSSIBLE


class Prefixes(NamedTuple):
    """K sequences of labels. Those with a score that is possible differ from each other."""

    labels: jax.Array  # int32[K, U], `blank` after the last label
    lengths: jax.Array  # int32[K]
    common: jax.Array  # int32[K, K], the number of labels that two prefixes both begin with


class Choice(NamedTuple):
    """How each of K new prefixes comes from the old prefixes."""

    source: jax.Array  # int32[K], the old prefix
    label: jax.Array  # int32[K], the label that it is extended by
    extended: jax.Array  # bool[K], False where the old prefix stays


def empty_prefixes(number: int, most: int, blank: int, zero: jax.Array) -> Prefixes:
    """Returns empty prefixes, with space for `most` labels. `zero` brings its placement."""
    return Prefixes(
        labels=jnp.full((number, most), blank, jnp.int32) + zero,
        lengths=jnp.zeros(number, jnp.int32) + zero,
        common=jnp.zeros((number, number), jnp.int32) + zero,
    )


def last_labels(prefixes: Prefixes) -> jax.Array:
    """Returns the last label of each prefix, `int32[K]`; -1 for an empty prefix."""
    last = jnp.maximum(prefixes.lengths - 1, 0)
    labels = jnp.take_along_axis(prefixes.labels, last[:, None], axis=1)[:, 0]
    return jnp.where(prefixes.lengths > 0, labels, -1)


def merge(prefixes: Prefixes, alive: jax.Array, extend: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Takes out the extensions that equal a prefix of the beam.

    Args:
        prefixes: K prefixes.
        alive: `bool[K]`, False for the empty places of the beam.
        extend: `[K, L]`, the log-probability of each prefix extended by each label.

    Returns:
        `[K]`, for each prefix the log-probability of the extension that equals it, and `extend`
        with IMPOSSIBLE in the places of these extensions.
    """
    number = len(alive)
    lengths = prefixes.lengths
    # [j, k]: prefix k is prefix j and one more label.
    longer = lengths[None, :] == lengths[:, None] + 1
    longer &= prefixes.common == lengths[:, None]
    longer &= alive[:, None] & alive[None, :]
    found = longer.any(axis=0)  # [K]
    # There is at most one such j for each k, because the prefixes differ.
    parent = jnp.argmax(longer, axis=0)  # [K]
    last = last_labels(prefixes)  # [K]
    joined = jnp.where(found, extend[parent, last], IMPOSSIBLE)
    # A row outside of the table is not written.
    row = jnp.where(found, parent, number)
    extend = extend.at[row, last].set(IMPOSSIBLE, mode="drop")
    return joined, extend


def choose(stay: jax.Array, extend: jax.Array) -> Choice:
    """Chooses the K best of the prefixes that stay, `[K]`, and of the extensions, `[K, L]`."""
    number, size = extend.shape
    scores = jnp.concatenate([stay, extend.reshape(-1)])  # [K + K*L]
    _, best = lax.top_k(scores, number)
    extended = best >= number
    # The index in the table of extensions.
    index = jnp.maximum(best - number, 0)
    source = jnp.where(extended, index // size, best)
    return Choice(source, index % size, extended)


def follow(prefixes: Prefixes, choice: Choice) -> Prefixes:
    """Returns the chosen prefixes."""
    number, most = prefixes.labels.shape
    rows = jnp.arange(number, dtype=jnp.int32)
    source, label, extended = choice
    labels, lengths = prefixes.labels[source], prefixes.lengths[source]
    # Two prefixes from one source have all its labels in common.
    same = source[:, None] == source[None, :]
    common = prefixes.common[source[:, None], source[None, :]]  # [K, K]
    common = jnp.where(same, lengths[:, None], common)
    # A prefix that stays writes outside of the table: nothing.
    place = jnp.where(extended, lengths, most)
    labels = labels.at[rows, place].set(label, mode="drop")
    lengths = lengths + extended.astype(jnp.int32)
    # The common part grows by one label at most, since each prefix does.
    shorter = jnp.minimum(lengths[:, None], lengths[None, :])
    following = labels[rows[:, None], jnp.minimum(common, most - 1)]  # [K, K]
    grows = (common < shorter) & (following == following.T)
    return Prefixes(labels, lengths, common + grows.astype(jnp.int32))
