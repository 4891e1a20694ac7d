"""Flax NNX."""

from __future__ import annotations

from typing import Any

import jax
from flax import nnx

from benchmarks.speed.cases import Case
from benchmarks.speed.contenders import Work
from benchmarks.speed.contenders._jax import Model, work

CELLS = {"lstm": nnx.OptimizedLSTMCell, "gru": nnx.GRUCell, "elman": nnx.SimpleCell}


def build(case: Case) -> Work:
    """`nnx.RNN` and `nnx.Bidirectional`, split once and merged under `jax.jit`, which costs less than `nnx.jit`."""
    rngs = nnx.Rngs(0)

    def rnn(size: int) -> nnx.RNN:
        return nnx.RNN(CELLS[case.cell](size, case.H, rngs=rngs), return_carry=True)

    def layer(size: int) -> nnx.Module:
        return nnx.Bidirectional(rnn(size), rnn(size), return_carry=True) if case.bidirectional else rnn(size)

    layers = nnx.List([layer(size) for size in case.input_sizes])
    graph, params, rest = nnx.split(layers, nnx.Param, ...)

    def scan(params: Any, xs: jax.Array, lengths: jax.Array | None) -> tuple[Any, jax.Array]:
        states = []
        for layer in nnx.merge(graph, params, rest, copy=True):
            state, xs = layer(xs, seq_lengths=lengths)
            states.append(state)
        return states, xs

    def step(params: Any, state: Any, x: jax.Array) -> tuple[Any, jax.Array]:
        return nnx.merge(graph, params, rest, copy=True)[0].cell(state, x)

    state = CELLS[case.cell](case.I, case.H, rngs=rngs).initialize_carry((case.B, case.I), rngs)
    return work(case, Model(params, scan, step, state))
