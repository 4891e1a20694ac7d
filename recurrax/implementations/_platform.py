"""What the platform and the shapes decide, in one place, each with the measurement that says so."""

from __future__ import annotations

import math

import jax


def rows(xs: jax.Array) -> int:
    """The number of rows of a step of `[T, *B, I]`; where it is symbolic, in an export, a few."""
    number = math.prod(xs.shape[1:-1])
    return number if isinstance(number, int) else 8


def several(steps: int) -> bool:
    """Whether there is more than one step, as a symbolic number stands for."""
    return not isinstance(steps, int) or steps > 1


def projects_inside(xs: jax.Array) -> bool:
    """Whether the inputs `[T, *B, I]` should be projected step by step, not all before the loop.

    On a CPU an array of all projected inputs costs more in memory traffic than the larger product saves, except where
    a step is a product with a single row.
    """
    return jax.default_backend() == "cpu" and rows(xs) > 1


def forward_unroll(xs: jax.Array, gates: int) -> int:
    """How many steps of `[T, *B, I]` one iteration of the loop takes at least where no derivative is wanted.

    Unrolled on a CPU, the products of inputs run beside those of states: an LSTM and a GRU take 0.8 to 0.9 of the time
    at 20 and 32 rows. With one gate, or more rows, that is less than what the outputs' layout costs; derivatives gain
    nothing.
    """
    return 4 if isinstance(xs.shape[0], int) and projects_inside(xs) and gates > 1 and rows(xs) <= 48 else 1


def accumulates_inside(xs: jax.Array) -> bool:
    """Whether weight gradients should be summed up step by step, not formed as one product after the loop.

    With many rows to a step, an array of the gradients of all pre-activations costs a CPU more in memory traffic than
    the larger product saves. Formed after the loop, those of an LSTM take 1.3 times as long for (T, B, I, H) =
    (40, 128, 128, 128), 1.0 for (60, 96, 256, 256), 0.7 for (35, 32, 256, 256).
    """
    return jax.default_backend() == "cpu" and rows(xs) >= 96


def linear_solver() -> str:
    """Which implementation takes a linear recurrence along more than one step.

    On a CPU every round of a parallel scan is a pass over memory, and one pass step by step costs less: a training step
    of a minGRU with (B, I, H) = (4, 64, 64) takes 0.7 to 0.9 of the associative scan's time from 256 to 65,536 steps,
    `python -m benchmarks.linear`. On accelerators steps cost a launch each.
    """
    return "sequential" if jax.default_backend() == "cpu" else "associative"
