"""Stores the linear part of a step: the arrays that its derivative needs later."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax


def _index_of(leaf: Any, pool: list) -> int:
    """The position of this very object in the pool, or the length of the pool."""
    for position, other in enumerate(pool):
        if other is leaf:
            return position
    return len(pool)


class Packing:
    """Splits a linear function into arrays, to store for each step, and builds it again.

    An array that the function holds twice is stored once. An array that is known is not stored.
    """

    def pack(self, tangent_map: Callable, known: Any) -> list[jax.Array]:
        """The arrays of the function that are not among the known arrays."""
        leaves, self.tree = jax.tree.flatten(tangent_map)
        pool = jax.tree.leaves(known)
        known_count = len(pool)
        # `places` says where in the pool each leaf of the function lies.
        self.places = []
        for leaf in leaves:
            place = _index_of(leaf, pool)
            if place == len(pool):
                pool.append(leaf)
            self.places.append(place)
        return pool[known_count:]

    def unpack(self, stored: Sequence[jax.Array], known: Any) -> Callable:
        """The function again, from its stored arrays and the known arrays."""
        pool = [*jax.tree.leaves(known), *stored]
        return jax.tree.unflatten(self.tree, [pool[place] for place in self.places])
