"""Flax Linen."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from benchmarks.speed.cases import Case
from benchmarks.speed.contenders import Work
from benchmarks.speed.contenders._jax import Model, work

CELLS = {"lstm": nn.OptimizedLSTMCell, "gru": nn.GRUCell, "elman": nn.SimpleCell}


def build(case: Case) -> Work:
    """`nn.RNN` and `nn.Bidirectional`."""

    def layer() -> nn.Module:
        rnn = [nn.RNN(CELLS[case.cell](case.H), return_carry=True) for _ in range(2)]
        return nn.Bidirectional(*rnn, return_carry=True) if case.bidirectional else rnn[0]

    key, cell, layers = jax.random.key(0), CELLS[case.cell](case.H), [layer() for _ in case.input_sizes]

    def scan(params: Any, xs: jax.Array, lengths: jax.Array | None) -> tuple[Any, jax.Array]:
        states = []
        for layer, variables in zip(layers, params, strict=True):
            state, xs = layer.apply(variables, xs, seq_lengths=lengths)
            states.append(state)
        return states, xs

    state = cell.initialize_carry(key, (case.B, case.I))
    if case.mode == "streaming":
        params = cell.init(key, state, jnp.zeros((case.B, case.I)))
    else:
        sizes = zip(layers, case.input_sizes, strict=True)
        params = [layer.init(key, jnp.zeros((case.B, case.T, size))) for layer, size in sizes]
    return work(case, Model(params, scan, cell.apply, state))
