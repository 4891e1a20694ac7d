"""Fixed and slow points of a layer under a constant input."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from recurrax._arguments import check_number
from recurrax._dtype import promote
from recurrax._layer import Layer, Params, State, without_initializers
from recurrax.analysis._jacobian import step_jacobian
from recurrax.analysis._vector import (
    check_one_input,
    flatten_state,
    next_vector,
    state_batch_shape,
    unflatten_state,
)

# How often a Newton step is halved at most.
_HALVINGS = 8


class FixedPoints(NamedTuple):
    """The fixed and slow points that a search has found, the most stable one first.

    All arrays are NumPy arrays, so `points.vectors[points.fixed & points.stable]` works.

    Attributes:
        states: the points as states, with leaves `[N, ...]`.
        vectors: `[N, S]`, the points as vectors, in the order of `flatten_state`.
        speed: `[N]`, `abs(f(s) - s)`, the length of the move in one step.
        fixed: `bool[N]`, whether the speed is at most `tol`. The other points are slow points.
        jacobians: `[N, S, S]`, the Jacobian of a step at each point.
        eigenvalues: complex `[N, S]`, the eigenvalues of each Jacobian, the largest modulus first.
        stable: `bool[N]`, whether all eigenvalues are inside of the unit circle.
        starts: `int[N]`, how many starts have ended at each point.
    """

    states: State
    vectors: np.ndarray
    speed: np.ndarray
    fixed: np.ndarray
    jacobians: np.ndarray
    eigenvalues: np.ndarray
    stable: np.ndarray
    starts: np.ndarray


def fixed_points(
    layer: Layer,
    params: Params,
    x: Any,
    starts: State,
    *,
    tol: float | None = None,
    max_speed: float = 1e-3,
    distance: float = 1e-3,
    descent_steps: int = 500,
    learning_rate: float = 0.03,
    newton_steps: int = 50,
) -> FixedPoints:
    """Searches fixed points, and slow points, of a layer under a constant input.

    f(s) = s for a fixed point;  |f(s) - s| is small, and a local minimum, for a slow point

    From every start, gradient steps (Adam) go down the squared speed abs(f(s) - s)². They stay in
    the region of the start. Newton steps follow. A Newton step is damped by the speed, and is
    halved until it makes the state slower. So it also converges at a point of a line of fixed
    points. At last, points closer than `distance` become one point.

    If `jax_enable_x64` is on, all of this runs in float64, for parameters of any dtype.

    Args:
        layer: any layer that `step` takes.
        params: its parameters.
        x: the constant input, `[I]`.
        starts: the states to start from, with leaves `[*B, ...]`. Good starts are states that the
            layer visits, such as `trace(...).states`, with some noise.
        tol: the largest speed of a fixed point. None means 1e-10 in float64 and 1e-5 in float32.
        max_speed: the largest speed of a slow point. `max_speed=0` returns fixed points alone.
        distance: two points are one point if no number differs by more.
        descent_steps: the number of gradient steps; 0 leaves them out.
        learning_rate: the size of the first gradient step in each number. It falls to 0.
        newton_steps: the largest number of Newton steps.

    Returns:
        A `FixedPoints`. It is not possible under `jit`, because the number of points is a result.

    Raises:
        TypeError: as `step`.
        ValueError: as `step`, and if `x` has batch axes or `starts` are not states of the layer.

    Example:
        One unit, h' = tanh(2 h), has stable points near ±0.9575 and an unstable point at 0:

        >>> import jax.numpy as jnp, recurrax
        >>> from recurrax.analysis import fixed_points
        >>> cell = recurrax.ElmanCell(1, bias=False)
        >>> params = recurrax.cells.ElmanParams(jnp.ones((1, 1)), 2 * jnp.ones((1, 1)))
        >>> starts = recurrax.cells.ElmanState(jnp.linspace(-1, 1, 11)[:, None])
        >>> points = fixed_points(cell, params, jnp.zeros(1), starts)
        >>> for h, stable in zip(points.vectors[:, 0], points.stable):
        ...     print(f"{abs(h):.4f}", bool(stable))
        0.9575 True
        0.9575 True
        0.0000 False

    References:
        Sussillo, Barak, Opening the black box: low-dimensional dynamics in high-dimensional
        recurrent neural networks, 2013, https://doi.org/10.1162/NECO_a_00409

        Yamashita, Fukushima, On the rate of convergence of the Levenberg-Marquardt method (the
        damping by the residual), 2001, https://doi.org/10.1007/978-3-7091-6217-0_18
    """
    x = check_one_input(layer, x)
    state_batch_shape(layer, starts, "starts")
    newton_steps = check_number("newton_steps", newton_steps)
    if descent_steps:
        descent_steps = check_number("descent_steps", descent_steps)
    # float32 cannot tell a fixed point from a point that moves by 1e-7.
    params, x, starts = _widest((params, x, starts))
    vectors = flatten_state(layer, starts)
    vectors = vectors.reshape(-1, vectors.shape[-1])  # [number of starts, S]
    if tol is None:
        tol = 1e-5
        if vectors.dtype == jnp.float64:
            tol = 1e-10

    layer = without_initializers(layer)
    counts = (descent_steps, newton_steps)
    found, speeds = _search(layer, params, x, vectors, learning_rate, *counts)
    found, speeds = np.asarray(found), np.asarray(speeds)
    # A start may end nowhere: at infinity, or at a local minimum of a high speed.
    slow_enough = np.isfinite(found).all(axis=1) & (speeds <= max(tol, max_speed))
    found, speeds = found[slow_enough], speeds[slow_enough]
    kept, arrivals = _distinct(found, speeds, distance)
    found, speeds = found[kept], speeds[kept]

    jacobians = np.asarray(step_jacobian(layer, params, x, unflatten_state(layer, found)))
    eigenvalues = np.linalg.eigvals(jacobians).astype(complex)  # [N, S]
    by_modulus = np.argsort(-np.abs(eigenvalues), axis=1, kind="stable")
    eigenvalues = np.take_along_axis(eigenvalues, by_modulus, axis=1)
    largest = np.abs(eigenvalues[:, 0])

    # The most stable point first.
    order = np.argsort(largest, kind="stable")
    found = found[order]
    return FixedPoints(
        states=jax.tree.map(np.asarray, unflatten_state(layer, found)),
        vectors=found,
        speed=speeds[order],
        fixed=speeds[order] <= tol,
        jacobians=jacobians[order],
        eigenvalues=eigenvalues[order],
        stable=largest[order] < 1,
        starts=arrivals[order],
    )


def _widest(tree: Any) -> Any:
    """Casts numbers to the widest dtype that JAX allows: float64 if `jax_enable_x64` is on."""
    default = jnp.zeros(()).dtype

    def widest(leaf: Any) -> Any:
        leaf = jnp.asarray(leaf)
        if jnp.issubdtype(leaf.dtype, jnp.inexact):
            return leaf.astype(promote(leaf.dtype, default))
        return leaf

    return jax.tree.map(widest, tree)


@functools.partial(jax.jit, static_argnames=("layer", "descent_steps", "newton_steps"))
def _search(
    layer: Layer,
    params: Params,
    x: Any,
    vectors: jax.Array,
    learning_rate: float,
    descent_steps: int,
    newton_steps: int,
) -> tuple[jax.Array, jax.Array]:
    """Returns where every start ends, `[N, S]`, and the speed there, `[N]`."""

    def move(vector: jax.Array) -> jax.Array:
        return next_vector(layer, params, x, vector) - vector  # [S]

    def one(vector: jax.Array) -> tuple[jax.Array, jax.Array]:
        if descent_steps:
            vector = _descend(move, vector, learning_rate, descent_steps)
        vector = _refine(move, vector, newton_steps)
        return vector, jnp.linalg.norm(move(vector))

    return jax.vmap(one)(vectors)


def _descend(move: Callable, vector: jax.Array, rate: float, number: int) -> jax.Array:
    """Goes down the squared speed by Adam, with a rate that falls to 0."""
    slope = jax.grad(lambda vector: jnp.square(move(vector)).sum())

    def body(i: jax.Array, averages: tuple) -> tuple:
        vector, mean, square = averages
        done = i.astype(vector.dtype)
        gradient = slope(vector)
        mean = 0.9 * mean + 0.1 * gradient
        square = 0.999 * square + 0.001 * jnp.square(gradient)
        # Both averages begin at 0, and these factors correct it.
        unbiased = mean / (1 - 0.9 ** (done + 1))
        size = jnp.sqrt(square / (1 - 0.999 ** (done + 1)))
        vector -= rate * (1 - done / number) * unbiased / (size + 1e-8)
        return vector, mean, square

    zeros = jnp.zeros_like(vector)
    return lax.fori_loop(0, number, body, (vector, zeros, zeros))[0]


def _refine(move: Callable, vector: jax.Array, number: int) -> jax.Array:
    """Solves move(s) = 0 by damped Newton steps, each at most as long as it lowers the speed."""
    size = vector.shape[-1]
    identity = jnp.eye(size, dtype=vector.dtype)
    shares = jnp.asarray(0.5 ** np.arange(_HALVINGS), vector.dtype)

    def body(_: Any, vector: jax.Array) -> jax.Array:
        moved = move(vector)  # [S]
        speed = jnp.linalg.norm(moved)
        slope = jax.jacfwd(move)(vector)  # [S, S]
        # `way` has the least |slope @ way + moved|² + |speed * way|², by QR of the stacked system.
        q, r = jnp.linalg.qr(jnp.concatenate([slope, speed * identity]))  # [2*S, S], [S, S]
        way = -jax.scipy.linalg.solve_triangular(r, q[:size].T @ moved)  # [S]
        # The full step, one half of it, a quarter, and so on.
        tries = vector[None] + shares[:, None] * way[None]  # [8, S]
        speeds = jax.vmap(lambda attempt: jnp.linalg.norm(move(attempt)))(tries)
        # The solution of a singular system is not finite, and is no improvement.
        speeds = jnp.where(jnp.isfinite(speeds), speeds, jnp.inf)
        best = jnp.argmin(speeds)
        return jnp.where(speeds[best] < speed, tries[best], vector)

    return lax.fori_loop(0, number, body, vector)


def _distinct(
    vectors: np.ndarray, speeds: np.ndarray, distance: float
) -> tuple[np.ndarray, np.ndarray]:
    """Keeps one of all points that are close together, the slowest one.

    Returns:
        The numbers of the rows to keep, and how many rows each of them represents.
    """
    kept: list[int] = []
    arrivals: list[int] = []
    for row in np.argsort(speeds, kind="stable"):
        # How far each kept point is from this one.
        differences = np.abs(vectors[kept] - vectors[row]).max(axis=1)
        if len(kept) and differences.min() <= distance:
            arrivals[int(differences.argmin())] += 1
        else:
            kept.append(int(row))
            arrivals.append(1)
    return np.array(kept, int), np.array(arrivals, int)
