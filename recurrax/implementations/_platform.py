"""The choices that depend on the platform and the shapes, each with its measurement."""

from __future__ import annotations

import math

import jax


def row_count(xs: jax.Array) -> int:
    """The number of rows of `xs` `[T, *B, I]`. An export has a symbolic number: 8 stands for it."""
    count = math.prod(xs.shape[1:-1])
    return count if isinstance(count, int) else 8


def has_several_steps(steps: int) -> bool:
    """Whether there is more than one step. A symbolic number counts as several."""
    return not isinstance(steps, int) or steps > 1


def projects_in_loop(xs: jax.Array) -> bool:
    """Whether to project the inputs `[T, *B, I]` step by step, not all before the loop.

    On a CPU, an array of all projected inputs costs memory traffic. This cost is higher than
    the gain of one large product, except where a step is a product with a single row.
    """
    return jax.default_backend() == "cpu" and row_count(xs) > 1


def forward_unroll(xs: jax.Array, gates: int) -> int:
    """The least number of steps in an iteration of the loop where no derivative is wanted.

    On a CPU, an unrolled loop runs the products of inputs beside the products of states. An LSTM
    and a GRU then take 0.8 to 0.9 of the time at 20 and 32 rows. With one gate or more rows, the
    layout of the outputs costs more than that gain. Derivatives gain nothing.
    """
    if not isinstance(xs.shape[0], int):
        return 1
    unrolls = projects_in_loop(xs) and gates > 1 and row_count(xs) <= 48
    return 4 if unrolls else 1


def accumulates_in_loop(xs: jax.Array) -> bool:
    """Whether to sum weight gradients step by step, not to form one product after the loop.

    The product after the loop needs an array of the gradients of all pre-activations. With many
    rows, this array costs a CPU more memory traffic than the product saves. For an LSTM, the
    product after the loop takes this share of the time of the sums, by (T, B, I, H):

    - (40, 128, 128, 128): 1.3
    - (60, 96, 256, 256): 1.0
    - (35, 32, 256, 256): 0.7
    """
    return jax.default_backend() == "cpu" and row_count(xs) >= 96


def linear_solver() -> str:
    """The name of the implementation that runs a linear recurrence of more than one step.

    On a CPU, every round of a parallel scan is a pass over memory. A single pass, step by step,
    costs less. For a minGRU with (B, I, H) = (4, 64, 64) and 256 to 65,536 steps, a training step
    takes 0.7 to 0.9 of the associative scan's time. `python -m benchmarks.linear` measures it. On
    an accelerator, each step costs a launch.
    """
    return "sequential" if jax.default_backend() == "cpu" else "associative"


def chain_solver(num_labels: int) -> str:
    """The name of the way to sum over the labelings of a chain of L labels.

    On a CPU, one step after another costs less: L * L a step and a row, where the parallel scan
    costs L * L * L. On an accelerator, each step costs a launch. The bound of 32 labels is an
    estimate: no accelerator was at hand to measure it.
    """
    return linear_solver() if num_labels <= 32 else "sequential"


def prefers_native(xs: jax.Array) -> bool:
    """Whether "native" is the fastest for these inputs, `[T, *B, I]`, where it can serve.

    For fewer steps, packing the weights can cost more than the faster products gain. From 8 steps
    on, with 16 to 256 units and 1 to 64 rows, an LSTM takes this share of the time of "hoisted":

    - forward: 0.4 to 0.8
    - training: 0.2 to 0.9; but with one row and 256 units 1.2 at 8 steps, and 1.0 at 32

    It compiles in a fifth of the time.
    """
    steps = xs.shape[0]
    return isinstance(steps, int) and steps >= 8


def reads_batch_major(xs: jax.Array) -> bool:
    """Whether "native" reads batch-major sequences where they lie, for inputs `[T, *B, I]`.

    Otherwise XLA transposes them before and after. With many rows, the steps of one time lie far
    apart and push each other out of the cache. Reading them in place takes this share of the
    time of a training step of an LSTM, by (T, B, I, H):

    - (100, 20, 200, 200): 0.96
    - (64, 256, 64, 128): 1.08
    """
    return row_count(xs) <= 96
