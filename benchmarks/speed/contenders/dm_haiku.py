"""Haiku. Its GRU has the reset gate before the product, so two products depend on each other in each step."""

from __future__ import annotations

from typing import Any

import haiku as hk
import jax
import jax.numpy as jnp

from benchmarks.speed.cases import Absent, Case
from benchmarks.speed.contenders import Work
from benchmarks.speed.contenders._jax import Model, work

CORES = {"lstm": hk.LSTM, "gru": hk.GRU, "elman": hk.VanillaRNN}


def build(case: Case) -> Work:
    """`hk.dynamic_unroll`, time-major as it is by default."""
    if case.ragged:
        raise Absent("Haiku has no lengths")

    def network(xs: jax.Array) -> tuple[Any, jax.Array]:
        states = []
        for _ in case.input_sizes:
            ys = []
            for reverse in (False, True) if case.bidirectional else (False,):
                core = CORES[case.cell](case.H)
                y, state = hk.dynamic_unroll(core, xs, core.initial_state(case.B), reverse=reverse)
                ys.append(y)
                states.append(state)
            xs = jnp.concatenate(ys, axis=-1) if case.bidirectional else ys[0]
        return states, xs

    def one_step(state: Any, x: jax.Array) -> tuple[Any, jax.Array]:
        y, state = CORES[case.cell](case.H)(x, state)
        return state, y

    scan, step = (hk.without_apply_rng(hk.transform(function)) for function in (network, one_step))
    start = hk.without_apply_rng(hk.transform(lambda: CORES[case.cell](case.H).initial_state(case.B)))
    params = scan.init(jax.random.key(0), jnp.zeros((case.T, case.B, case.I)))
    return work(
        case,
        Model(params, lambda params, xs, _: scan.apply(params, xs), step.apply, start.apply({}), time_major=True),
    )
