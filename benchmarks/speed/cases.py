"""What is measured: the cases, and the numbers that every contender is given."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

CELLS = {"lstm": "LSTM", "gru": "GRU", "elman": "Elman"}
MODES = ("forward", "training", "streaming")
GATES = {"lstm": 4, "gru": 3, "elman": 1}
SHAPES = ((35, 32, 256, 256), (100, 20, 200, 200), (512, 1, 64, 128), (128, 64, 256, 512), (64, 256, 64, 128))


class Data(NamedTuple):
    """Inputs, lengths (None if all are T), and what the outputs are multiplied with before they are summed."""

    xs: np.ndarray
    lengths: np.ndarray | None
    cotangent: np.ndarray


class Case(NamedTuple):
    """One thing to do: a cell, a mode, and sizes."""

    name: str
    cell: str
    mode: str
    T: int
    B: int
    I: int  # noqa: E741
    H: int
    bidirectional: bool = False
    ragged: bool = False

    @property
    def label(self) -> str:
        """Its name for people, without the mode."""
        return f"{CELLS[self.cell]} {self.name.replace('x', '×')}"

    @property
    def input_sizes(self) -> tuple[int, ...]:
        """The input size of each layer; bidirectional layers come in twos."""
        return (self.I, 2 * self.H) if self.bidirectional else (self.I,)

    @property
    def lengths(self) -> np.ndarray:
        """From T down to T/5 if ragged: sorted, since some must have them so and nobody minds."""
        return np.linspace(self.T, self.T // 5 if self.ragged else self.T, self.B).astype(np.int32)

    @property
    def flops(self) -> int:
        """Floating-point operations of the matrix products at the real steps; gradients take twice the forward's."""
        a_step = sum(2 * GATES[self.cell] * self.H * (size + self.H) for size in self.input_sizes)
        directions, passes = 1 + self.bidirectional, 3 if self.mode == "training" else 1
        return int(self.lengths.sum()) * a_step * directions * passes

    def data(self, time_major: bool = False) -> Data:
        """The numbers, batch-major unless asked otherwise; nothing is asked of the outputs in the padding."""
        rng = np.random.default_rng(0)
        xs = rng.standard_normal((self.B, self.T, self.I), np.float32)
        cotangent = rng.standard_normal((self.B, self.T, self.H * (1 + self.bidirectional)), np.float32)
        cotangent *= (np.arange(self.T) < self.lengths[:, None])[..., None]
        if time_major:
            xs, cotangent = (np.ascontiguousarray(np.swapaxes(array, 0, 1)) for array in (xs, cotangent))
        return Data(xs, self.lengths if self.ragged else None, cotangent)


class Absent(Exception):  # noqa: N818
    """The library has nothing for this case: no fault, and no figure."""


def all_cases() -> list[Case]:
    """Every case, in the order in which they are run and shown."""
    cases = []
    for mode in ("forward", "training"):
        cases += [Case("x".join(map(str, shape)), cell, mode, *shape) for cell in CELLS for shape in SHAPES]
        cases += [Case("bidirectional", "lstm", mode, 100, 32, 128, 256, bidirectional=True)]
        cases += [Case("ragged", cell, mode, 100, 20, 200, 200, ragged=True) for cell in ("lstm", "gru")]
    return cases + [Case("one step", cell, "streaming", 1, 1, 64, 128) for cell in CELLS]
