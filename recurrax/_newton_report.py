"""How Newton iterations go, beside what `scan` returns."""

from __future__ import annotations

from typing import Any

import jax

from recurrax._layer import Cell, Params, State
from recurrax._scan import scan
from recurrax.kernels.newton import Newton, NewtonReport, _Reporter


def newton_report(
    cell: Cell,
    params: Params,
    xs: jax.Array,
    state: State | None = None,
    *,
    newton: Newton = Newton(),  # noqa: B008  (it is frozen)
    **walk: Any,
) -> NewtonReport:
    """How the iterations go for `scan(cell, params, xs, state, implementation=newton)`, which it runs once more.

    Nothing is raised or filled with NaN where they do not converge, and `fallback` is left aside.

    Args:
        cell: a cell; what is made of cells has no trajectory of its own.
        params: its parameters.
        xs: the inputs, as in `scan`.
        state: the state before the first step, as in `scan`.
        newton: the options of the iterations.
        **walk: `lengths`, `mask`, `reset`, `reverse` and `time_major` of `scan`.

    Returns:
        For each row the number of iterations, the residual and whether it is within the tolerance.

    Raises:
        TypeError: if `cell` is not a cell, and as `scan`.
        ValueError: as `scan`.

    Example:
        >>> import jax, recurrax
        >>> cell = recurrax.DiagonalGRUCell(4)
        >>> params = cell.init(jax.random.key(0), input_size=3)
        >>> report = recurrax.newton_report(cell, params, jax.random.normal(jax.random.key(1), (2, 100, 3)))
        >>> bool(report.converged.all()), bool((report.iterations < 10).all())
        (True, True)

    References:
        Lim et al., Parallelizing non-linear sequential models over the sequence length, 2024,
        https://arxiv.org/abs/2309.12252
    """
    if not isinstance(cell, Cell):
        raise TypeError(f"`cell` must be a recurrax.Cell, such as GRUCell(128); got {cell!r}.")
    return scan(cell, params, xs, state, implementation=_Reporter(newton), **walk)[0]
