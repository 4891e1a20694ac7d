"""Keras 3 on JAX."""

from __future__ import annotations

import os
from typing import Any

os.environ["KERAS_BACKEND"] = "jax"

import jax
import jax.numpy as jnp
import keras

from benchmarks.speed.cases import Case
from benchmarks.speed.contenders import Work
from benchmarks.speed.contenders._jax import Model, work

LAYERS = {"lstm": keras.layers.LSTM, "gru": keras.layers.GRU, "elman": keras.layers.SimpleRNN}


def build(case: Case) -> Work:
    """Its layers through `stateless_call`, and its cells for single steps."""

    def layer(size: int) -> keras.Layer:
        layer = LAYERS[case.cell](case.H, return_sequences=True, return_state=True)
        layer = keras.layers.Bidirectional(layer) if case.bidirectional else layer
        layer.build((case.B, case.T, size))
        return layer

    layers = [layer(size) for size in case.input_sizes]
    params, rest = (
        [[variable.value for variable in getattr(layer, which)] for layer in layers]
        for which in ("trainable_variables", "non_trainable_variables")
    )

    def scan(params: Any, xs: jax.Array, lengths: jax.Array | None) -> tuple[Any, jax.Array]:
        mask, states = None if lengths is None else jnp.arange(case.T) < lengths[:, None], []
        for layer, trainable, fixed in zip(layers, params, rest, strict=True):
            (xs, *state), _ = layer.stateless_call(trainable, fixed, xs, mask=mask)
            states.append(state)
        return states, xs

    def step(params: Any, state: Any, x: jax.Array) -> tuple[Any, jax.Array]:
        cell = layers[0].cell
        fixed = [variable.value for variable in cell.non_trainable_variables]
        (y, state), _ = cell.stateless_call(params[0], fixed, x, state)
        return state, y

    state = [jnp.zeros((case.B, case.H))] * (2 if case.cell == "lstm" else 1)
    return work(case, Model(params, scan, step, state))
