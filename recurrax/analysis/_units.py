"""Units that follow a feature of the data, found by correlation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from recurrax._arguments import as_int, describe


class UnitCorrelations(NamedTuple):
    """The units that follow a feature most closely, the closest first.

    Attributes:
        units: `int[N]`, the numbers of the units.
        correlations: `[N]`, their correlations with the feature, from -1 to 1.
    """

    units: np.ndarray
    correlations: np.ndarray


def find_units(
    values: Any, features: Mapping[str, Any], number: int = 3
) -> dict[str, UnitCorrelations]:
    """Finds the units whose values follow a feature, such as the depth of brackets.

    correlation = covariance(unit, feature) / (deviation of the unit * deviation of the feature)

    Args:
        values: `[*B, T, H]`: states, gates or outputs at every step.
        features: each feature by its name, `[*B, T]`, such as `text_features(text)`.
        number: the number N of units for each feature.

    Returns:
        For each feature a `UnitCorrelations`, ordered by the size of the correlation. It is 0 if
        the unit or the feature never changes.

    Raises:
        ValueError: if a feature does not have one number per step, or `number` exceeds H.

    Example:
        >>> import numpy as np
        >>> from recurrax.analysis import find_units
        >>> depth = np.array([0, 1, 1, 2, 1, 0])
        >>> values = np.stack([np.ones(6), 3 - depth, depth % 2], axis=-1)  # [T, H]
        >>> found = find_units(values, {"depth": depth}, 1)
        >>> int(found["depth"].units[0]), float(found["depth"].correlations[0].round(3))
        (1, -1.0)

    References:
        Karpathy et al., Visualizing and understanding recurrent networks, 2015,
        https://arxiv.org/abs/1506.02078
    """
    values = np.asarray(values, np.float64)
    if values.ndim < 2:
        raise ValueError(f"`values` must be [*B, T, H], at least 2 axes; got {describe(values)}.")
    steps, size = values.shape[:-1], values.shape[-1]
    if as_int(number) is None or not 1 <= number <= size:
        raise ValueError(f"`number` must be an int from 1 to {size}, the units; got {number}.")
    # The product of two standardized columns is their correlation.
    units = _standardized(values.reshape(-1, size))  # [N, H]
    found = {}
    for name, feature in features.items():
        feature = np.asarray(feature, np.float64)
        if feature.shape != steps:
            sizes = ", ".join(map(str, steps))
            raise ValueError(
                f"`features[{name!r}]` must be [{sizes}], one number per step of `values` "
                f"{describe(values)}; got {describe(feature)}."
            )
        correlations = _standardized(feature.reshape(-1, 1))[:, 0] @ units  # [H]
        best = np.argsort(-np.abs(correlations), kind="stable")[:number]
        found[name] = UnitCorrelations(best, correlations[best])
    return found


def _standardized(columns: np.ndarray) -> np.ndarray:
    """Returns columns `[N, H]` with mean 0 and length 1; a constant column becomes 0."""
    centered = columns - columns.mean(axis=0)
    length = np.linalg.norm(centered, axis=0)
    # The rounding of a mean leaves a tiny rest of a constant column.
    least = 1e-12 * np.linalg.norm(columns, axis=0)
    return np.where(length > least, centered / np.where(length > 0, length, 1), 0)
