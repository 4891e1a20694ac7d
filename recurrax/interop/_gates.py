"""The order of gates along the last axis of a kernel or a bias."""

from __future__ import annotations

from typing import Any

import numpy as np


def reorder(array: Any, order: str, to: str) -> np.ndarray:
    """The gates of `[..., G*H]`, one letter each in `order`, in the order `to`.

    >>> reorder(np.arange(8), "iofg", "ifgo")
    array([0, 1, 4, 5, 6, 7, 2, 3])
    """
    gates = np.split(np.asarray(array), len(order), axis=-1)
    return np.concatenate([gates[order.index(gate)] for gate in to], axis=-1)
