"""What a step keeps for its derivative."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax


class Packing:
    """Takes the linear part of a step apart, to be kept for each step, and puts it together again.

    What it holds twice, or shares with arrays that are known anyway, is kept once.
    """

    def pack(self, push: Callable, known: Any) -> list[jax.Array]:
        leaves, self.tree = jax.tree.flatten(push)
        pool = jax.tree.leaves(known)
        first_kept = len(pool)
        self.places = []
        for leaf in leaves:
            place = next((i for i, other in enumerate(pool) if other is leaf), len(pool))
            if place == len(pool):
                pool.append(leaf)
            self.places.append(place)
        return pool[first_kept:]

    def unpack(self, kept: Sequence[jax.Array], known: Any) -> Callable:
        pool = [*jax.tree.leaves(known), *kept]
        return jax.tree.unflatten(self.tree, [pool[place] for place in self.places])
