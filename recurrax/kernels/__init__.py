"""The implementations of a cell's recurrence, one a file; each registers itself for the cells that it serves."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from recurrax._layer import Cell


class Kernel(NamedTuple):
    """One way to take a cell along a sequence.

    Attributes:
        run: `run(cell, params, state, xs, *, mask, reset, reverse, unroll) -> (state, ys)`, with `xs` `[T, *B, I]`,
            `mask` and `reset` `bool[T, *B]` or None, `reset` being that of the walk, and state and ys in the dtypes of
            `state` and `xs`.
        refuses: why it cannot serve a cell, or None if it can.
    """

    run: Callable
    refuses: Callable[[Cell], str | None]


_kernels: dict[str, Kernel] = {}


def register(name: str, kernel: Kernel) -> None:
    """Makes a kernel known to `scan` as `implementation=name`."""
    _kernels[name] = kernel


def choose(implementation: str | None, cell: Cell) -> Kernel:
    """The kernel that was asked for, or the best one for `cell` if none was.

    Raises:
        ValueError: if there is no such kernel or it cannot serve the cell.
    """
    if implementation is None:
        return _kernels["xla"]
    if implementation not in _kernels:
        names = ", ".join(f'"{name}"' for name in _kernels)
        raise ValueError(f"`implementation` must be None or one of {names}; got {implementation!r}.")
    kernel = _kernels[implementation]
    if reason := kernel.refuses(cell):
        raise ValueError(f'`implementation` "{implementation}" cannot serve {cell}: {reason}')
    return kernel


from recurrax.kernels import xla as xla  # noqa: E402  (a kernel registers itself, so it is imported last)
