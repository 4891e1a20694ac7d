"""What the platform and the shapes decide, in one place, each with the measurement that says so."""

from __future__ import annotations

import math

import jax


def flattens_products(x: jax.Array) -> bool:
    """Whether `x @ kernel` should see all leading axes of `x` as one.

    XLA's CPU compiler transposes whole operands for the gradient of a product with more than one leading axis: that of
    a kernel took 4 times as long for `[64, 256, 128]`, `[128, 512]`. On accelerators it does not, and an axis that is
    spread over devices must not be merged with another.
    """
    return jax.default_backend() == "cpu" and not any(jax.typeof(x).sharding.spec)


def projects_inside(xs: jax.Array) -> bool:
    """Whether the inputs `[T, *B, I]` should be projected step by step, not all before the loop.

    On a CPU an array of all projected inputs costs more in memory traffic than the larger product saves, except where
    a step is a product with a single row.
    """
    return jax.default_backend() == "cpu" and math.prod(xs.shape[1:-1]) > 1


def forward_unroll(xs: jax.Array) -> int:
    """How many steps one iteration of the loop over `[T, *B, I]` takes where no derivative is wanted.

    Unrolled, the products of inputs run beside those of states: 0.74 to 1.0 of the time. Derivatives gain nothing.
    """
    return 4 if projects_inside(xs) else 1


def accumulates_inside(xs: jax.Array, state_size: int) -> bool:
    """Whether weight gradients should be summed up step by step, not formed as one product after the loop.

    With many rows to a step, an array of the gradients of all pre-activations costs a CPU more in memory traffic than
    the larger product saves: 0.8 of the time at (T, B, I, H) = (64, 256, 64, 128), 1.1 at (128, 64, 256, 512).
    """
    return jax.default_backend() == "cpu" and 2 * math.prod(xs.shape[1:-1]) > xs.shape[-1] + state_size
