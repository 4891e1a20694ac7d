"""A report on the Newton iterations: `scan` returns only their result."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from recurrax._dtype import default_state_dtype
from recurrax._layer import Cell, Params, State, batch_shape_of, features
from recurrax._mask import Marks, fill_masked
from recurrax._scan import check_sequence, time_first
from recurrax.experimental.newton import Newton, NewtonReport


def newton_report(
    cell: Cell,
    params: Params,
    xs: jax.Array,
    state: State | None = None,
    *,
    newton: Newton = Newton(),  # noqa: B008  (it is frozen)
    lengths: jax.Array | None = None,
    mask: jax.Array | None = None,
    reset: jax.Array | None = None,
    reverse: bool = False,
    time_major: bool = False,
) -> NewtonReport:
    """Reports the iterations of `scan(cell, params, xs, state, implementation=newton)`.

    The report runs the iterations again. A row that does not converge raises no error and gets no
    NaN. The report ignores `fallback`.

    Args:
        cell: a cell; a layer that is made of cells has no single trajectory.
        params: its parameters.
        xs: the inputs, as in `scan`.
        state: the state before the first step, as in `scan`.
        newton: the options of the iterations.
        lengths: as in `scan`.
        mask: as in `scan`.
        reset: as in `scan`.
        reverse: as in `scan`.
        time_major: as in `scan`.

    Returns:
        For each row, the number of iterations, the residual, and whether the residual is within
        the tolerance.

    Raises:
        TypeError: if `cell` is not a cell, and for the reasons of `scan`.
        ValueError: for the reasons of `scan`.

    Example:
        >>> import jax, recurrax
        >>> cell = recurrax.DiagonalGRUCell(4)
        >>> params = cell.init(jax.random.key(0), input_size=3)
        >>> xs = jax.random.normal(jax.random.key(1), (2, 100, 3))
        >>> report = recurrax.experimental.newton_report(cell, params, xs)
        >>> bool(report.converged.all()), bool((report.iterations < 10).all())
        (True, True)

    References:
        Lim et al., Parallelizing non-linear sequential models over the sequence length, 2024,
        https://arxiv.org/abs/2309.12252
    """
    if not isinstance(cell, Cell):
        raise TypeError(f"`cell` must be a recurrax.Cell, such as GRUCell(128); got {cell!r}.")
    marks = Marks(lengths, mask, reset)
    xs, marks = check_sequence(cell, params, xs, state, marks, time_major)
    return _report(newton, cell, params, xs, state, marks, reverse, time_major)


@functools.partial(jax.jit, static_argnames=("newton", "cell", "reverse", "time_major"))
def _report(newton, cell, params, xs, state, marks, reverse, time_major):
    # As in `scan`: time comes first, the initial state has the dtypes of the state, and masked
    # inputs get ordinary values.
    time = 0 if time_major else features(xs).ndim - cell.feature_ndim - 1
    xs, state, marks = time_first(cell, params, xs, state, marks, time)
    initial = cell.first_state(params, batch_shape_of(cell, xs), default_state_dtype(params, xs))
    # Zeros made of the state give the initial state the placement of the state on a mesh.
    initial = jax.tree.map(lambda i, s: i.astype(s.dtype) + jnp.zeros_like(s), initial, state)
    if marks.mask is not None:
        xs = fill_masked(marks.mask, xs)
    return newton.report(cell, params, state, xs, marks.steps(reverse), initial=initial)
