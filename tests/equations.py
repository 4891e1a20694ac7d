"""A cell against its equations: a loop over steps in NumPy, in float64, in values and in gradients."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

import recurrax as rx
from recurrax.testing import assert_close, normal_like, perturbed_params


def assert_obeys(
    cell: rx.Cell, equations: Callable, input_size: int, implementations: tuple[str, ...], steps: int = 6, rows: int = 3
) -> None:
    """Compares a cell, on perturbed parameters, with `equations(params, x, *state) -> (state, y)` of one step.

    Gradients are compared in random directions, with central differences of the loop.
    """
    rng = np.random.default_rng(3)

    def draw(like: Any) -> Any:
        drawn = lambda a: rng.standard_normal(np.shape(a))  # noqa: E731
        return jax.tree.map(lambda a: drawn(a) + 1j * drawn(a) if np.iscomplexobj(a) else drawn(a), like)

    def dot(a: Any, b: Any) -> Any:
        return sum((x * y).sum().real for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))

    like = jax.eval_shape(lambda: cell.initial_state((rows,)))
    params, state = perturbed_params(cell, input_size, scale=0.5), normal_like(like, 2)
    wide = lambda a: np.asarray(a, np.complex128 if np.iscomplexobj(a) else np.float64)  # noqa: E731
    args = jax.tree.map(wide, (params, rng.standard_normal((rows, steps, input_size)), state))

    def scanned(params: Any, xs: np.ndarray, state: Any) -> tuple[Any, np.ndarray]:
        ys = []
        for t in range(steps):
            state, y = equations(params, xs[:, t], *state)
            ys.append(y)
        return type(like)(*state), np.stack(ys, axis=1)

    expected = scanned(*args)
    weights, directions = draw(expected), [draw(args) for _ in range(3)]
    moved = lambda direction, by: jax.tree.map(lambda a, d: a + by * d, args, direction)  # noqa: E731
    slopes = [
        (dot(scanned(*moved(d, 1e-6)), weights) - dot(scanned(*moved(d, -1e-6)), weights)) / 2e-6 for d in directions
    ]
    with jax.enable_x64(True):
        for implementation in implementations:

            def loss(*args: Any, implementation: str = implementation) -> Any:
                out = rx.scan(cell, *args, implementation=implementation)
                return dot(out, weights), out

            grads, got = jax.jit(jax.grad(loss, (0, 1, 2), has_aux=True))(*args)
            assert_close(f"values of {implementation}", got, expected, 1e-10)
            changes = [dot(jax.tree.map(np.asarray, grads), d) for d in directions]
            np.testing.assert_allclose(changes, slopes, rtol=1e-6, atol=1e-6)
