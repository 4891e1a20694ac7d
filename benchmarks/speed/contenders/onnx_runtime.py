"""onnxruntime: its operators LSTM, GRU and RNN in a model that recurrax writes. It has no gradients."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import onnxruntime

from benchmarks import quiet
from benchmarks.speed.cases import Absent, Case
from benchmarks.speed.contenders import Work, ours
from benchmarks.speed.memory import peak_growth
from recurrax.interop import to_onnx


def build(case: Case) -> Work:
    """Time-major as its operators are; lengths are their input `sequence_lens`."""
    if case.mode == "training":
        raise Absent("onnxruntime has no gradients")
    layer, streaming = ours.layer_of(case), case.mode == "streaming"
    params = layer.init(jax.random.key(0), case.I)
    model = to_onnx(layer, params, step=streaming, lengths=case.ragged, time_major=not streaming)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = quiet.own_cores()
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    data = case.data(time_major=True)
    feeds = {"xs": data.xs[0] if streaming else data.xs}
    if case.ragged:
        feeds["lengths"] = data.lengths
    # The states of a step are inputs after the first one, in the order of the outputs.
    names = [value.name for value in session.get_inputs()[1:]]
    if streaming:
        feeds |= {name: np.zeros((case.B, case.H), np.float32) for name in names}

    def call() -> Any:
        return session.run(None, feeds)

    def next_step() -> np.ndarray:
        y, *state = session.run(None, feeds)
        feeds.update(zip(names, state, strict=True))
        return y

    call = next_step if streaming else call
    return Work(call, lambda result: result, "cpu", lambda: peak_growth(call))
