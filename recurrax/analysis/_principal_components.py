"""Principal components of states, to look at trajectories in two or three dimensions."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from recurrax._arguments import as_int, describe
from recurrax._check import check_flags


class PrincipalComponents(NamedTuple):
    """The directions in which vectors differ most.

    Attributes:
        mean: `[S]`, the mean of the vectors.
        directions: `[K, S]`, orthonormal, the largest variance first.
        variances: `[K]`, the variance in each direction.
        shares: `[K]`, the share of each direction in the total variance.
    """

    mean: jax.Array
    directions: jax.Array
    variances: jax.Array
    shares: jax.Array

    def project(self, vectors: Any) -> jax.Array:
        """Returns the coordinates `[..., K]` of vectors `[..., S]`."""
        vectors = jnp.asarray(vectors)
        centered = vectors - jnp.broadcast_to(self.mean, vectors.shape)
        return centered @ self.directions.T


def principal_components(
    vectors: jax.Array, number: int = 2, *, mask: jax.Array | None = None
) -> PrincipalComponents:
    """Computes the principal components of vectors, such as the states of many steps.

    Args:
        vectors: `[..., S]`, such as `flatten_state(layer, states)`, `[*B, T, S]`.
        number: the number K of components.
        mask: `bool[...]`, True for the vectors that count, such as unmasked steps.

    Returns:
        A `PrincipalComponents`. The largest entry of each direction is positive, so that the sign
        does not depend on the machine.

    Raises:
        ValueError: if `number` or the shape of an argument is wrong.
        TypeError: if the mask is not of bools.

    Example:
        >>> import jax.numpy as jnp
        >>> from recurrax.analysis import principal_components
        >>> line = jnp.array([[0.0, 0.0, 5.0], [3.0, 4.0, 5.0], [6.0, 8.0, 5.0]])
        >>> components = principal_components(line, 1)
        >>> components.project(line)[:, 0].round(3)
        Array([-5.,  0.,  5.], dtype=float32)
        >>> float(components.shares[0].round(3))
        1.0

    References:
        Pearson, On lines and planes of closest fit to systems of points in space, 1901,
        https://doi.org/10.1080/14786440109462720
    """
    vectors = jnp.asarray(vectors)
    if vectors.ndim < 2:
        raise ValueError(f"`vectors` must be [..., S], at least 2 axes; got {describe(vectors)}.")
    size = vectors.shape[-1]
    if as_int(number) is None or not 1 <= number <= size:
        raise ValueError(
            f"`number` must be an int from 1 to {size}, the size of a vector; got {number}."
        )
    meaning = f"one flag per vector of {describe(vectors)}"
    mask = check_flags("mask", mask, jnp.bool_, vectors.shape[:-1], meaning)
    if mask is None:
        mask = jnp.ones(vectors.shape[:-1], bool)
    return _principal_components(vectors, number, mask)


@functools.partial(jax.jit, static_argnames="number")
def _principal_components(vectors: jax.Array, number: int, mask: jax.Array) -> PrincipalComponents:
    rows = vectors.reshape(-1, vectors.shape[-1])  # [N, S]
    counts = mask.reshape(-1, 1)  # [N, 1]
    count = jnp.maximum(counts.sum(), 1).astype(rows.dtype)

    # NaN at a masked step must not reach a sum.
    mean = jnp.where(counts, rows, 0).sum(axis=0) / count  # [S]
    centered = jnp.where(counts, rows - mean[None], 0)  # [N, S]
    product = jnp.matmul(centered.T, centered, precision=jax.lax.Precision.HIGHEST)
    # The eigenvalues come in ascending order, one eigenvector a column.
    variances, columns = jnp.linalg.eigh(product / count)
    variances = jnp.maximum(jnp.flip(variances), 0)  # [S]
    directions = jnp.flip(columns.T, axis=0)[:number]  # [K, S]

    # An eigenvector has no sign of its own.
    largest = jnp.abs(directions).argmax(axis=1, keepdims=True)
    directions *= jnp.sign(jnp.take_along_axis(directions, largest, axis=1))
    # The total of vectors that are all equal is 0.
    total = jnp.maximum(variances.sum(), jnp.finfo(rows.dtype).tiny)
    variances = variances[:number]
    return PrincipalComponents(mean, directions, variances, variances / total)
