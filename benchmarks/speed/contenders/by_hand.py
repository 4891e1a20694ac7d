"""What one writes without a library: `lax.scan`, with the input projection before the loop."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax.nn import sigmoid

from benchmarks.speed.cases import GATES, Case
from benchmarks.speed.contenders import Work
from benchmarks.speed.contenders._jax import Model, work

Params = dict[str, jax.Array]
State = tuple[jax.Array, ...]


def lstm(params: Params, state: State, z: jax.Array) -> State:
    """Gates i, f, g, o."""
    h, c = state
    i, f, g, o = jnp.split(z + h @ params["recurrent_kernel"], 4, axis=-1)
    c = sigmoid(f) * c + sigmoid(i) * jnp.tanh(g)
    return sigmoid(o) * jnp.tanh(c), c


def gru(params: Params, state: State, z: jax.Array) -> State:
    """Gates r, z, n; the reset gate acts after the product."""
    (h,) = state
    z_r, z_z, z_n = jnp.split(z, 3, axis=-1)
    u_r, u_z, u_n = jnp.split(h @ params["recurrent_kernel"] + params["recurrent_bias"], 3, axis=-1)
    n = jnp.tanh(z_n + sigmoid(z_r + u_r) * u_n)
    return (n + sigmoid(z_z + u_z) * (h - n),)


def elman(params: Params, state: State, z: jax.Array) -> State:
    """The plain one."""
    return (jnp.tanh(z + state[0] @ params["recurrent_kernel"]),)


STEPS = {"lstm": lstm, "gru": gru, "elman": elman}


def project(params: Params, xs: jax.Array) -> jax.Array:
    """The input projection of one step, or of all of them."""
    return xs @ params["kernel"] + params["bias"]


def build(case: Case) -> Work:
    """Time-major throughout, a `where` for the padding."""
    step, width, rng = STEPS[case.cell], GATES[case.cell] * case.H, jax.random.key(0)
    state = (jnp.zeros((case.B, case.H)),) * (2 if case.cell == "lstm" else 1)

    def init(size: int) -> Params:
        return {
            "kernel": jax.random.normal(rng, (size, width)) / size**0.5,
            "recurrent_kernel": jax.random.normal(rng, (case.H, width)) / case.H**0.5,
            "bias": jnp.zeros(width),
        } | ({"recurrent_bias": jnp.zeros(width)} if case.cell == "gru" else {})

    def scanned(params: Params, xs: jax.Array, real: jax.Array | None, reverse: bool) -> tuple[State, jax.Array]:
        def body(state: State, inputs: Any) -> tuple[State, jax.Array]:
            z, real = inputs
            new = step(params, state, z)
            if real is not None:
                new = jax.tree.map(lambda new, old: jnp.where(real, new, old), new, state)
            return new, new[0]

        last, ys = jax.lax.scan(body, state, (project(params, xs), real), reverse=reverse)
        return last, ys if real is None else jnp.where(real, ys, 0)

    def scan(params: Any, xs: jax.Array, lengths: jax.Array | None) -> tuple[Any, jax.Array]:
        real, states = None if lengths is None else (jnp.arange(case.T)[:, None] < lengths)[..., None], []
        for layer in params:
            walks = [
                scanned(direction, xs, real, reverse) for direction, reverse in zip(layer, (False, True), strict=False)
            ]
            states.append([last for last, _ in walks])
            xs = jnp.concatenate([ys for _, ys in walks], axis=-1) if len(walks) > 1 else walks[0][1]
        return states, xs

    def one_step(params: Any, state: State, x: jax.Array) -> tuple[State, jax.Array]:
        state = step(params[0][0], state, project(params[0][0], x))
        return state, state[0]

    params = [[init(size)] * (1 + case.bidirectional) for size in case.input_sizes]
    return work(case, Model(params, scan, one_step, state, time_major=True))
