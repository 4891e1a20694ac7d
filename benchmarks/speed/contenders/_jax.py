"""What all contenders on JAX share: from two functions of a library to jitted work."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from benchmarks.speed.cases import Case
from benchmarks.speed.contenders import Work

# A compile time that was read from a disk is none.
jax.config.update("jax_enable_compilation_cache", False)


class Model(NamedTuple):
    """A library's layer as functions: `scan(params, xs, lengths)` and `step(params, state, x)`, each to (state, y)."""

    params: Any
    scan: Callable[[Any, jax.Array, jax.Array | None], tuple[Any, jax.Array]]
    step: Callable[[Any, Any, jax.Array], tuple[Any, jax.Array]]
    state: Any
    time_major: bool = False


def work(case: Case, model: Model) -> Work:
    """Compiles a case and says how to call it."""
    jax.clear_caches()
    xs, lengths, cotangent = jax.tree.map(jnp.asarray, case.data(model.time_major))
    state = model.state

    def forward(params: Any, xs: jax.Array, lengths: jax.Array | None) -> tuple[Any, jax.Array]:
        return model.scan(params, xs, lengths)

    def loss(params: Any, xs: jax.Array, lengths: jax.Array | None, cotangent: jax.Array) -> jax.Array:
        return jnp.sum(model.scan(params, xs, lengths)[1] * cotangent)

    match case.mode:
        case "forward":
            run, args = jax.jit(forward), (model.params, xs, lengths)
        case "training":
            run, args = jax.jit(jax.value_and_grad(loss, (0, 1))), (model.params, xs, lengths, cotangent)
        case "streaming":
            run, args = jax.jit(model.step), (model.params, state, xs.reshape(case.B, case.I))

    def call() -> Any:
        return run(*args)

    def next_step() -> jax.Array:
        nonlocal state
        state, y = run(args[0], state, args[2])
        return y

    began = time.perf_counter()
    compiled = run.lower(*args).compile()
    compile_seconds = time.perf_counter() - began
    memory, device = compiled.memory_analysis(), jax.devices()[0]
    account = {"temporary": memory.temp_size_in_bytes, "output": memory.output_size_in_bytes} if memory else {}
    call = next_step if case.mode == "streaming" else call
    return Work(
        call,
        jax.block_until_ready,
        f"{device.platform} {device.device_kind}",
        _peak(device, account),
        compile_seconds,
        account,
    )


def _peak(device: jax.Device, account: dict[str, int]) -> Callable[[], int | None]:
    if device.platform == "cpu":
        return lambda: sum(account.values()) or None
    before = device.memory_stats() or {}

    def rise() -> int | None:
        # The device's count of its peak never falls: it tells only of a case that rose above all before it.
        after = device.memory_stats() or {}
        peak = after.get("peak_bytes_in_use", 0)
        return peak - before["bytes_in_use"] if peak > before.get("peak_bytes_in_use", 0) else None

    return rise
