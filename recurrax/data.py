"""Sequences of many lengths as arrays of few shapes: packed into rows, or padded in batches of like lengths."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from recurrax._arguments import as_int, check_number, describe


class Packed(NamedTuple):
    """Sequences in rows, one after another.

    Attributes:
        xs: the rows, `[R, T, ...]`, or a pytree of such; zeros behind the last sequence of each.
        segment_ids: `int32[R, T]`, 1 for the first sequence of a row, 2 for the second, and so on; 0 is padding.
        places: `int[N, 3]`: the row, the first step and the number of steps of each sequence.
    """

    xs: Any
    segment_ids: np.ndarray
    places: np.ndarray

    @property
    def mask(self) -> np.ndarray:
        """`bool[R, T]`, True at the real steps: the `mask` of `scan`."""
        return self.segment_ids != 0

    @property
    def reset(self) -> np.ndarray:
        """`bool[R, T]`, True at the first step of each sequence: the `reset` of `scan`."""
        reset = np.zeros(self.segment_ids.shape, bool)
        rows, starts, lengths = self.places.T
        reset[rows[lengths > 0], starts[lengths > 0]] = True
        return reset


class PaddedBatch(NamedTuple):
    """Sequences side by side, padded to one length.

    Attributes:
        xs: `[B, T, ...]`, or a pytree of such; zeros in the padding.
        lengths: `int32[B]`: the `lengths` of `scan`, 0 in rows that are there to fill the batch.
        indices: `int[B]`: which of the sequences each row is, counted from 0; -1 in rows that fill.
    """

    xs: Any
    lengths: np.ndarray
    indices: np.ndarray


def pack(sequences: Iterable[Any], row_length: int, *, rows: int | None = None) -> Packed:
    """Puts short sequences one after another into rows, so that little is padding.

    The longest comes first, and each goes into the first row where it fits. With `mask` and `reset` given to `scan`,
    every sequence is as if it were alone, in both directions.

    Args:
        sequences: arrays `[T_n, ...]`, or pytrees of such, as of inputs and targets; any iterable. They differ in
            their number of steps alone.
        row_length: the number of steps T of a row.
        rows: the number of rows, to have one shape for many packs; None for as many as it takes.

    Returns:
        The rows, and what is where.

    Raises:
        TypeError: if `sequences` is one array.
        ValueError: if there is no sequence, two differ in features, dtype or structure, one is longer than a row, or
            all do not fit into `rows`.

    Example:
        >>> import jax, numpy as np, recurrax
        >>> packed = recurrax.data.pack([np.ones((5, 3)), np.ones((2, 3)), np.ones((4, 3))], row_length=7)
        >>> packed.xs.shape, packed.segment_ids.tolist()
        ((2, 7, 3), [[1, 1, 1, 1, 1, 2, 2], [1, 1, 1, 1, 0, 0, 0]])
        >>> cell = recurrax.GRUCell(4)
        >>> params = cell.init(jax.random.key(0), input_size=3)
        >>> _, ys = recurrax.scan(cell, params, packed.xs, mask=packed.mask, reset=packed.reset)
        >>> [y.shape for y in recurrax.data.unpack(ys, packed)]
        [(5, 4), (2, 4), (4, 4)]

    References:
        Krell et al., Efficient sequence packing without cross-contamination, 2021, https://arxiv.org/abs/2107.02027
    """
    row_length = check_number("row_length", row_length)
    rows = None if rows is None else check_number("rows", rows)
    _check_several(sequences)
    sequences = list(sequences)
    if not sequences:
        raise ValueError("`sequences` must hold at least 1 sequence; got none.")
    lengths = [_length(sequence, number) for number, sequence in enumerate(sequences)]
    for number, sequence in enumerate(sequences):
        _check_alike(sequence, number, sequences[0])
    if max(lengths) > row_length:
        longest = lengths.index(max(lengths))
        raise ValueError(
            f"`row_length` must be at least the number of steps of every sequence; got {row_length}, and "
            f"`sequences[{longest}]` has {lengths[longest]}."
        )
    used: list[int] = []
    counts: list[int] = []
    places, ids = np.zeros((len(lengths), 3), np.int64), np.zeros(len(lengths), np.int64)
    for number in sorted(range(len(lengths)), key=lambda number: -lengths[number]):
        length = lengths[number]
        row = next((row for row, steps in enumerate(used) if steps + length <= row_length), len(used))
        if row == len(used):
            used.append(0)
            counts.append(0)
        places[number], ids[number] = (row, used[row], length), counts[row] + 1
        used[row] += length
        counts[row] += 1
    if rows is not None and len(used) > rows:
        raise ValueError(f"`rows` must be at least {len(used)}, which {len(lengths)} sequences need; got {rows}.")
    rows = rows or len(used)
    numbers = [np.full(length, number, np.int32) for length, number in zip(lengths, ids, strict=True)]
    xs, segment_ids = (_laid_out(leaves, places, rows, row_length) for leaves in (sequences, numbers))
    return Packed(xs, segment_ids, places)


def unpack(ys: Any, packed: Packed) -> list[Any]:
    """The part of each sequence, in the order in which `pack` was given them.

    Args:
        ys: `[R, T, ...]`, such as the outputs of `scan`, or a pytree of such.
        packed: what `pack` returned.

    Returns:
        For each sequence an array `[T_n, ...]`, or a pytree of such.

    Raises:
        ValueError: if `ys` does not have the rows and steps of `packed`.

    Example:
        >>> import numpy as np, recurrax
        >>> sequences = [np.arange(2), np.arange(3)]
        >>> packed = recurrax.data.pack(sequences, 5)
        >>> recurrax.data.unpack(packed.xs, packed)[1].tolist()
        [0, 1, 2]
    """
    for leaf in jax.tree.leaves(ys):
        if np.shape(leaf)[:2] != packed.segment_ids.shape:
            rows, steps = packed.segment_ids.shape
            raise ValueError(f"`ys` must be [{rows}, {steps}, ...], as the rows are; got {describe(leaf)}.")
    return [
        jax.tree.map(lambda leaf, at=(row, start, length): leaf[at[0], at[1] : at[1] + at[2]], ys)
        for row, start, length in packed.places.tolist()
    ]


def batch_by_length(sequences: Iterable[Any], lengths: Sequence[int], batch_size: int) -> Iterator[PaddedBatch]:
    """Batches of sequences that are about as long as each other, in as many shapes as there are `lengths`.

    Each sequence is padded to the least of `lengths` that holds it, and joins the others of that length; when these
    are `batch_size`, they come as a batch. What is left at the end comes in batches filled up with rows of no steps.
    So whatever is compiled for these batches is compiled at most `len(lengths)` times.

    Args:
        sequences: arrays `[T_n, ...]`, or pytrees of such; any iterable, read as batches are asked for.
        lengths: the numbers of steps T that batches may have.
        batch_size: the number of rows B of every batch.

    Yields:
        The batches.

    Raises:
        TypeError: if `sequences` is one array, or `lengths` one number.
        ValueError: if a sequence is longer than the greatest of `lengths`, two differ in features, dtype or structure,
            or there is no length.

    Example:
        >>> import numpy as np, recurrax
        >>> sequences = [np.ones((n, 3)) for n in (2, 9, 4, 3, 8)]
        >>> for batch in recurrax.data.batch_by_length(sequences, lengths=(4, 16), batch_size=2):
        ...     print(batch.xs.shape, batch.lengths, batch.indices)
        (2, 4, 3) [2 4] [0 2]
        (2, 16, 3) [9 8] [1 4]
        (2, 4, 3) [3 0] [ 3 -1]

    References:
        Khomenko et al., Accelerating recurrent neural network training using sequence bucketing and multi-GPU data
        parallelization, 2016, https://doi.org/10.1109/DSMP.2016.7583516
    """
    _check_several(sequences)
    if not isinstance(lengths, Iterable):
        hint = "" if as_int(lengths) is None else f" Write ({lengths},)."
        raise TypeError(f"`lengths` must be a tuple of ints; got {lengths!r}.{hint}")
    bounds = sorted({check_number("lengths", length) for length in lengths})
    if not bounds:
        raise ValueError("`lengths` must hold at least 1 length; got none.")
    # A function of its own, so that what is wrong is said at the call, not where batches are read.
    return _batches(sequences, bounds, check_number("batch_size", batch_size))


def _batches(sequences: Iterable[Any], bounds: list[int], batch_size: int) -> Iterator[PaddedBatch]:
    first = None
    waiting: dict[int, list[tuple[int, Any]]] = {bound: [] for bound in bounds}
    for index, sequence in enumerate(sequences):
        steps = _length(sequence, index)
        first = sequence if first is None else first
        _check_alike(sequence, index, first)
        if steps > bounds[-1]:
            raise ValueError(
                f"`lengths` must reach the number of steps of every sequence; the greatest is {bounds[-1]}, and "
                f"sequence {index} has {steps}."
            )
        bound = next(bound for bound in bounds if steps <= bound)
        waiting[bound].append((index, sequence))
        if len(waiting[bound]) == batch_size:
            yield _padded(waiting[bound], bound, batch_size)
            waiting[bound] = []
    for bound, rest in waiting.items():
        if rest:
            yield _padded(rest, bound, batch_size)


def _padded(numbered: list[tuple[int, Any]], steps: int, batch_size: int) -> PaddedBatch:
    lengths, indices = np.zeros(batch_size, np.int32), np.full(batch_size, -1)
    for row, (index, sequence) in enumerate(numbered):
        lengths[row], indices[row] = _length(sequence, index), index
    places = [(row, 0, length) for row, length in enumerate(lengths[: len(numbered)])]
    return PaddedBatch(_laid_out([s for _, s in numbered], places, batch_size, steps), lengths, indices)


def _laid_out(sequences: Sequence[Any], places: Iterable[Any], rows: int, steps: int) -> Any:
    """Each sequence at its row, from its first step on, with zeros elsewhere."""

    def lay(*leaves: Any) -> np.ndarray:
        first = np.asarray(leaves[0])
        out = np.zeros((rows, steps, *first.shape[1:]), first.dtype)
        for (row, start, length), leaf in zip(places, leaves, strict=True):
            out[row, start : start + length] = leaf
        return out

    return jax.tree.map(lay, *sequences)


def _check_several(sequences: Any) -> None:
    if hasattr(sequences, "shape"):
        raise TypeError(
            f"`sequences` must be a list of arrays [T, ...]; got one array, {describe(sequences)}. "
            "If it holds several, one for each index of its first axis, write list(sequences)."
        )
    if isinstance(sequences, (str, dict)) or not isinstance(sequences, Iterable):
        raise TypeError(f"`sequences` must be a list of arrays [T, ...]; got a {type(sequences).__name__}.")


def _check_alike(sequence: Any, number: int, first: Any) -> None:
    """Checks that only the number of steps differs from that of the first sequence."""
    structure: Any
    leaves, structure = jax.tree.flatten(sequence)
    wanted, needed = jax.tree.flatten(first)
    if structure != needed:
        raise ValueError(f"`sequences[{number}]` must have the structure of `sequences[0]`, {needed}; got {structure}.")
    for leaf, like in zip(map(np.asarray, leaves), map(np.asarray, wanted), strict=True):
        if (leaf.shape[1:], leaf.dtype) != (like.shape[1:], like.dtype):
            axes = ", ".join(map(str, ("T", *like.shape[1:])))
            raise ValueError(
                f"`sequences[{number}]` must be {like.dtype}[{axes}] as `sequences[0]` is; got {describe(leaf)}."
            )


def _length(sequence: Any, number: int) -> int:
    leaves = jax.tree.leaves(sequence)
    steps = {np.shape(leaf)[:1] for leaf in leaves}
    if len(steps) != 1 or () in steps:
        came = ", ".join(map(describe, leaves)) or "nothing"
        raise ValueError(f"`sequences[{number}]` must be [T, ...], or arrays of as many steps; got {came}.")
    return steps.pop()[0]
