"""PyTorch."""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from benchmarks import quiet
from benchmarks.speed.cases import Case
from benchmarks.speed.contenders import Work
from benchmarks.speed.memory import peak_growth

LAYERS = {"lstm": torch.nn.LSTM, "gru": torch.nn.GRU, "elman": torch.nn.RNN}
CELLS = {"lstm": torch.nn.LSTMCell, "gru": torch.nn.GRUCell, "elman": torch.nn.RNNCell}


def build(case: Case) -> Work:
    """Its layers, time-major as they are by default; its cells for single steps, which take it less time."""
    torch.set_num_threads(quiet.own_cores())
    device = "cuda" if torch.cuda.is_available() else "cpu"
    layer = LAYERS[case.cell](case.I, case.H, len(case.input_sizes), bidirectional=case.bidirectional).to(device)
    cell = CELLS[case.cell](case.I, case.H).to(device)
    data = case.data(time_major=True)
    xs, cotangent = (torch.from_numpy(array).to(device) for array in (data.xs, data.cotangent))
    lengths = None if data.lengths is None else torch.from_numpy(data.lengths).long()
    wanted = [*layer.parameters(), xs.requires_grad_(case.mode == "training")]
    state = None

    def forward() -> tuple[Any, torch.Tensor]:
        if lengths is None:
            ys, state = layer(xs)
        else:
            ys, state = layer(pack_padded_sequence(xs, lengths))
            ys, _ = pad_packed_sequence(ys, total_length=case.T)
        return state, ys

    def training() -> Any:
        _, ys = forward()
        loss = torch.vdot(ys.flatten(), cotangent.flatten())
        return loss, torch.autograd.grad(loss, wanted)

    def streaming() -> torch.Tensor:
        nonlocal state
        state = cell(xs[0], state)
        return state[0] if case.cell == "lstm" else state

    call = {"forward": forward, "training": training, "streaming": streaming}[case.mode]
    context = contextlib.nullcontext if case.mode == "training" else torch.inference_mode

    def wait(_: Any) -> None:
        if device == "cuda":
            torch.cuda.synchronize()

    def peak_bytes() -> int | None:
        if device == "cpu":
            return peak_growth(call)
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        wait(call())
        return torch.cuda.max_memory_allocated() - before

    name = f"cuda {torch.cuda.get_device_name()}" if device == "cuda" else "cpu"
    return Work(call, wait, name, peak_bytes, context=context)
