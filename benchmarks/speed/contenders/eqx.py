"""Equinox."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from benchmarks.speed.cases import Absent, Case
from benchmarks.speed.contenders import Work
from benchmarks.speed.contenders._jax import Model, work

CELLS = {"lstm": eqx.nn.LSTMCell, "gru": eqx.nn.GRUCell}


def build(case: Case) -> Work:
    """Cells under `lax.scan`, written for one sequence and mapped over the batch, as Equinox would have it."""
    if case.cell not in CELLS:
        raise Absent(f"Equinox has no {case.cell} cell")
    if case.ragged:
        raise Absent("Equinox has no lengths")
    key, h = jax.random.key(0), jnp.zeros(case.H)
    zeros = (h, h) if case.cell == "lstm" else h

    def scanned(cell: eqx.Module, xs: jax.Array, reverse: bool) -> tuple[Any, jax.Array]:
        def body(state: Any, x: jax.Array) -> tuple[Any, jax.Array]:
            state = cell(x, state)
            return state, state[0] if case.cell == "lstm" else state

        return jax.lax.scan(body, zeros, xs, reverse=reverse)

    def one_sequence(params: Any, xs: jax.Array) -> tuple[Any, jax.Array]:
        states = []
        for layer in params:
            walks = [scanned(cell, xs, reverse) for cell, reverse in zip(layer, (False, True), strict=False)]
            states.append([state for state, _ in walks])
            xs = jnp.concatenate([ys for _, ys in walks], axis=-1)
        return states, xs

    def step(params: Any, state: Any, x: jax.Array) -> tuple[Any, jax.Array]:
        state = jax.vmap(params[0][0])(x, state)
        return state, state[0] if case.cell == "lstm" else state

    directions = 1 + case.bidirectional
    params = [[CELLS[case.cell](size, case.H, key=key) for _ in range(directions)] for size in case.input_sizes]
    state = jax.tree.map(lambda leaf: jnp.zeros((case.B, *leaf.shape)), zeros)
    return work(case, Model(params, lambda p, xs, _: jax.vmap(lambda xs: one_sequence(p, xs))(xs), step, state))
