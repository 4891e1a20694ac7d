"""recurrax."""

from __future__ import annotations

import jax

import recurrax
from benchmarks.speed.cases import Case
from benchmarks.speed.contenders import Work
from benchmarks.speed.contenders._jax import Model, work

CELLS = {"lstm": recurrax.LSTMCell, "gru": recurrax.GRUCell, "elman": recurrax.ElmanCell}


def layer_of(case: Case) -> recurrax.Layer:
    """A cell, or two bidirectional layers of it."""
    cell = CELLS[case.cell](case.H)
    if case.bidirectional:
        return recurrax.Stack((recurrax.Bidirectional(cell), recurrax.Bidirectional(cell)))
    return cell


def build(case: Case, implementation: str | None = None, time_major: bool = False) -> Work:
    """`scan` and `step`, batch-major as they are by default."""
    layer = layer_of(case)
    return work(
        case,
        Model(
            layer.init(jax.random.key(0), case.I),
            lambda params, xs, lengths: recurrax.scan(
                layer, params, xs, lengths=lengths, implementation=implementation, time_major=time_major
            ),
            lambda params, state, x: recurrax.step(layer, params, x, state, implementation=implementation),
            layer.initial_state((case.B,)),
            time_major,
        ),
    )
