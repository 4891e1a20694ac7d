"""A large matrix product: not in the race, but the measure of the machine, in every round."""

from __future__ import annotations

import jax

from benchmarks.speed.cases import Case
from benchmarks.speed.contenders import Work
from benchmarks.speed.contenders import _jax as _jax


def size() -> int:
    """Large enough that no device is idle."""
    return 2048 if jax.default_backend() == "cpu" else 8192


def build(case: Case) -> Work:
    """The same product in every case."""
    square = jax.random.normal(jax.random.key(0), (size(), size()))
    product, device = jax.jit(lambda a: a @ a), jax.devices()[0]
    name = f"{device.platform} {device.device_kind}"
    return Work(lambda: product(square), jax.block_until_ready, name, lambda: None, flops=2 * size() ** 3)
