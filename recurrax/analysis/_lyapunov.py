"""Lyapunov exponents: how fast close states part, or meet, per step."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from recurrax._arguments import as_int, check_number
from recurrax._dtype import default_state_dtype
from recurrax._layer import Layer, Params, State, features, without_initializers
from recurrax._mask import Marks
from recurrax._scan import check_sequence
from recurrax.analysis._vector import flatten_state, next_vector, vector_size


def lyapunov_spectrum(
    layer: Layer,
    params: Params,
    xs: Any,
    state: State | None = None,
    *,
    number: int | None = None,
    warmup: int = 0,
    interval: int = 1,
    time_major: bool = False,
) -> jax.Array:
    """Computes the Lyapunov exponents of a layer that is driven by inputs.

    Q_t R_t = J_t Q_{t-1},  exponent_k = mean of log |R_t[k, k]| over the steps after the warm-up

    J_t is the Jacobian of step t, and Q R is the QR decomposition. A positive exponent means chaos:
    close states part by a factor of e^exponent per step. If all are negative, the layer forgets
    its state.

    Args:
        layer: any layer that `step` takes.
        params: its parameters.
        xs: the inputs, `[*B, T, I]`, or `[T, *B, I]` if `time_major`.
        state: the state before the first step; None for the initial state.
        number: the number K of exponents, the largest ones; None for all S.
        warmup: the number of first steps that do not count. In them the state arrives at its
            attractor, and the directions in `Q` turn to their own ones.
        interval: the number of steps between two QR decompositions. A larger one is faster. Too
            large an interval loses the small exponents to rounding.
        time_major: whether time is the first axis of `xs`.

    Returns:
        `[*B, K]`, in nats per step, the largest first. They have the dtype of the state.

    Raises:
        TypeError: as `scan`.
        ValueError: as `scan`, and if no step remains after the warm-up, or `number` exceeds the
            size of the state.

    Example:
        A linear unit multiplies its state by 0.5 in every step:

        >>> import jax.numpy as jnp, recurrax
        >>> from recurrax.analysis import lyapunov_spectrum
        >>> cell = recurrax.ElmanCell(1, jnp.positive, bias=False)
        >>> params = recurrax.cells.ElmanParams(jnp.ones((1, 1)), 0.5 * jnp.ones((1, 1)))
        >>> exponents = lyapunov_spectrum(cell, params, jnp.ones((20, 1)))
        >>> print(f"{exponents[0]:.4f}")  # log 0.5
        -0.6931

    References:
        Benettin et al., Lyapunov characteristic exponents for smooth dynamical systems, 1980,
        https://doi.org/10.1007/BF02128236

        Engelken et al., Lyapunov spectra of chaotic recurrent neural networks, 2023,
        https://doi.org/10.1103/PhysRevResearch.5.043044
    """
    xs, _ = check_sequence(layer, params, xs, state, Marks(None, None, None), time_major)
    interval = check_number("interval", interval)
    x = features(xs)
    steps = x.shape[x.ndim - layer.feature_ndim - 1]
    if time_major:
        steps = x.shape[0]
    if as_int(warmup) is None or not 0 <= warmup < steps:
        raise ValueError(
            f"`warmup` must be an int from 0 to {steps - 1}, since `xs` has {steps} steps; "
            f"got {warmup}."
        )
    size = vector_size(layer)
    if number is None:
        number = size
    if as_int(number) is None or not 1 <= number <= size:
        raise ValueError(
            f"`number` must be an int from 1 to {size}, the size of the state; got {number}."
        )
    options = (number, warmup, interval, time_major)
    return _lyapunov_spectrum(without_initializers(layer), params, xs, state, *options)


@functools.partial(jax.jit, static_argnames=("layer", "number", "warmup", "interval", "time_major"))
def _lyapunov_spectrum(layer, params, xs, state, number, warmup, interval, time_major):
    x = features(xs)
    batch_ndim = x.ndim - layer.feature_ndim - 1
    # Batch first, so that `vmap` leaves time as the first axis.
    if time_major:
        xs = jax.tree.map(lambda leaf: jnp.moveaxis(leaf, 0, batch_ndim), xs)
    if state is None:
        batch_shape = features(xs).shape[:batch_ndim]
        state = layer.first_state(params, batch_shape, default_state_dtype(params, xs))
    vectors = flatten_state(layer, state)  # [*B, S]
    # Directions at random. Those of the axes may never turn, where a Jacobian is diagonal.
    drawn = jax.random.normal(jax.random.key(0), (vectors.shape[-1], number), vectors.dtype)
    basis, _ = jnp.linalg.qr(drawn)  # [S, K]

    def stretch(pair: tuple, xs: Any) -> tuple[tuple, jax.Array]:
        """Runs some steps; returns the logarithms of how much each direction has grown, `[K]`."""

        def one(pair: tuple, x: Any) -> tuple[tuple, None]:
            vector, basis = pair
            # The Jacobian times each direction, without the Jacobian itself.
            after, times_jacobian = jax.linearize(
                functools.partial(next_vector, layer, params, x), vector
            )
            return (after, jax.vmap(times_jacobian, 1, 1)(basis)), None

        (vector, basis), _ = lax.scan(one, pair, xs)
        basis, r = jnp.linalg.qr(basis)
        return (vector, basis), jnp.log(jnp.abs(jnp.diagonal(r)))

    def run(pair: tuple, xs: Any) -> tuple[tuple, jax.Array]:
        """Runs over a sequence `[T, ...]` in stretches of `interval` steps, and sums their logs."""
        blocks, rest = divmod(features(xs).shape[0], interval)
        even = blocks * interval

        def fold(leaf: jax.Array) -> jax.Array:
            return leaf[:even].reshape(blocks, interval, *leaf.shape[1:])

        pair, logs = lax.scan(stretch, pair, jax.tree.map(fold, xs))  # [blocks, K]
        total = logs.sum(axis=0)
        # The last steps, fewer than `interval`.
        if rest:
            pair, log = stretch(pair, jax.tree.map(lambda leaf: leaf[even:], xs))
            total += log
        return pair, total

    def exponents(vector: jax.Array, xs: Any) -> jax.Array:
        # Adding zeros gives the directions the placement of the state.
        pair = (vector, basis + jnp.zeros_like(vector)[:, None])
        if warmup:
            pair, _ = run(pair, jax.tree.map(lambda leaf: leaf[:warmup], xs))
        xs = jax.tree.map(lambda leaf: leaf[warmup:], xs)
        _, total = run(pair, xs)
        # Exponents that are nearly equal may come in another order.
        return jnp.flip(jnp.sort(total)) / features(xs).shape[0]  # [K]

    for _ in range(batch_ndim):
        exponents = jax.vmap(exponents)
    return exponents(vectors, xs)
