"""Puts sequences of many lengths into few shapes: packed in rows, or padded in batches."""

from __future__ import annotations

import bisect
import operator
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from recurrax._arguments import as_int, check_number, describe


class Packed(NamedTuple):
    """Sequences in rows, one after another.

    Attributes:
        xs: the rows, `[R, T, ...]`, or a pytree of such arrays; zeros after the last sequence of a
            row.
        segment_ids: `int32[R, T]`, 1 for the first sequence of a row, 2 for the second, and so on;
            0 is padding.
        places: `int[N, 3]`: the row, the first step and the number of steps of each sequence.
    """

    xs: Any
    segment_ids: np.ndarray
    places: np.ndarray

    @property
    def mask(self) -> np.ndarray:
        """`bool[R, T]`, True at the steps of sequences: the `mask` of `scan`."""
        return self.segment_ids != 0

    @property
    def reset(self) -> np.ndarray:
        """`bool[R, T]`, True at the first step of each sequence: the `reset` of `scan`."""
        reset = np.zeros(self.segment_ids.shape, bool)
        rows, starts, lengths = self.places.T
        # The place of an empty sequence may belong to the next sequence, or lie outside the row.
        reset[rows[lengths > 0], starts[lengths > 0]] = True
        return reset


class PaddedBatch(NamedTuple):
    """Sequences side by side, padded to one length.

    Attributes:
        xs: `[B, T, ...]`, or a pytree of such arrays; zeros in the padding.
        lengths: `int32[B]`: the `lengths` of `scan`; 0 in rows that only fill the batch.
        indices: `int[B]`: the index of the sequence in each row, from 0; -1 in rows that only fill
            the batch.
    """

    xs: Any
    lengths: np.ndarray
    indices: np.ndarray


def pack(sequences: Iterable[Any], row_length: int, *, rows: int | None = None) -> Packed:
    """Puts short sequences one after another into rows, so that there is little padding.

    The longest sequence comes first. Each goes into the first row with enough space. Give `mask`
    and `reset` to `scan`: then no sequence influences another, in both directions.

    Args:
        sequences: an iterable of arrays `[T_n, ...]`, or of pytrees of such arrays, as for inputs
            and targets. They differ only in their number of steps.
        row_length: the number of steps T of a row.
        rows: the number of rows, for one shape in every call; None for as many as are needed.

    Returns:
        The rows, and the place of each sequence.

    Raises:
        TypeError: if `sequences` is one array.
        ValueError: if there is no sequence, if two differ in features, dtype or structure, if one
            is longer than a row, or if they do not fit into `rows`.

    Example:
        >>> import jax, numpy as np, recurrax
        >>> sequences = [np.ones((5, 3)), np.ones((2, 3)), np.ones((4, 3))]
        >>> packed = recurrax.data.pack(sequences, row_length=7)
        >>> packed.xs.shape, packed.segment_ids.tolist()
        ((2, 7, 3), [[1, 1, 1, 1, 1, 2, 2], [1, 1, 1, 1, 0, 0, 0]])
        >>> cell = recurrax.GRUCell(4)
        >>> params = cell.init(jax.random.key(0), input_size=3)
        >>> _, ys = recurrax.scan(cell, params, packed.xs, mask=packed.mask, reset=packed.reset)
        >>> [y.shape for y in recurrax.data.unpack(ys, packed)]
        [(5, 4), (2, 4), (4, 4)]

    References:
        Krell et al., Efficient sequence packing without cross-contamination, 2021,
        https://arxiv.org/abs/2107.02027
    """
    row_length = check_number("row_length", row_length)
    if rows is not None:
        rows = check_number("rows", rows)
    _check_several(sequences)
    sequences = list(sequences)
    if not sequences:
        raise ValueError("`sequences` must hold at least 1 sequence; got none.")
    lengths = list(map(_length, sequences, range(len(sequences))))
    for number, sequence in enumerate(sequences):
        _check_alike(sequence, number, sequences[0])
    if max(lengths) > row_length:
        longest = lengths.index(max(lengths))
        raise ValueError(
            "`row_length` must be at least the number of steps of every sequence; got "
            f"{row_length}, and `sequences[{longest}]` has {lengths[longest]}."
        )
    used: list[int] = []  # the number of steps in each row
    counts: list[int] = []  # the number of sequences in each row
    count = len(lengths)
    places = np.zeros((count, 3), np.int64)
    ids = np.zeros(count, np.int32)
    # First fit, with the longest sequences first.
    for number in sorted(range(count), key=lengths.__getitem__, reverse=True):
        length = lengths[number]
        row = _first_fit(used, row_length - length)
        if row == len(used):
            used.append(0)
            counts.append(0)
        places[number] = row, used[row], length
        used[row] += length
        counts[row] += 1
        ids[number] = counts[row]
    if rows is not None and len(used) > rows:
        must = f"must be at least {len(used)}, which {count} sequences need"
        raise ValueError(f"`rows` {must}; got {rows}.")
    rows = rows or len(used)
    # The segment ids are placed like the sequences.
    segments = list(map(np.full, lengths, ids))
    xs = _place(sequences, places, rows, row_length)
    segment_ids = _place(segments, places, rows, row_length)
    return Packed(xs, segment_ids, places)


def _first_fit(used: list[int], most: int) -> int:
    """Returns the first row with at most `most` steps, or the number of a new row."""
    for row, steps in enumerate(used):
        if steps <= most:
            return row
    return len(used)


def unpack(ys: Any, packed: Packed) -> list[Any]:
    """Takes rows apart: returns the part of each sequence, in the order given to `pack`.

    Args:
        ys: `[R, T, ...]`, such as the outputs of `scan`, or a pytree of such arrays.
        packed: the result of `pack`.

    Returns:
        An array `[T_n, ...]`, or a pytree of such arrays, for each sequence.

    Raises:
        ValueError: if the rows and steps of `ys` differ from those of `packed`.

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
            must = f"must be [{rows}, {steps}, ...], as the rows are"
            raise ValueError(f"`ys` {must}; got {describe(leaf)}.")
    parts = []
    for row, start, length in packed.places.tolist():
        place = row, slice(start, start + length)
        parts.append(jax.tree.map(operator.itemgetter(place), ys))
    return parts


def batch_by_length(
    sequences: Iterable[Any], lengths: Sequence[int], batch_size: int
) -> Iterator[PaddedBatch]:
    """Makes batches of sequences of similar length, with one shape for each of `lengths`.

    Each sequence is padded to the least of `lengths` that is long enough. When `batch_size`
    sequences have the same padded length, they form a batch. At the end the remaining sequences
    form batches too, filled with rows without steps. So a function of the batches is compiled at
    most `len(lengths)` times.

    Args:
        sequences: an iterable of arrays `[T_n, ...]`, or of pytrees of such arrays. It is read only
            as batches are taken.
        lengths: the numbers of steps T of the batches.
        batch_size: the number of rows B of every batch.

    Yields:
        The batches.

    Raises:
        TypeError: if `sequences` is one array, or `lengths` one number.
        ValueError: if a sequence is longer than the greatest of `lengths`, if two differ in
            features, dtype or structure, or if there is no length.

    Example:
        >>> import numpy as np, recurrax
        >>> sequences = [np.ones((n, 3)) for n in (2, 9, 4, 3, 8)]
        >>> for batch in recurrax.data.batch_by_length(sequences, lengths=(4, 16), batch_size=2):
        ...     print(batch.xs.shape, batch.lengths, batch.indices)
        (2, 4, 3) [2 4] [0 2]
        (2, 16, 3) [9 8] [1 4]
        (2, 4, 3) [3 0] [ 3 -1]

    References:
        Khomenko et al., Accelerating recurrent neural network training using sequence bucketing and
        multi-GPU data parallelization, 2016, https://doi.org/10.1109/DSMP.2016.7583516
    """
    _check_several(sequences)
    if not isinstance(lengths, Iterable):
        hint = ""
        if as_int(lengths) is not None:
            hint = f" Write ({lengths},)."
        raise TypeError(f"`lengths` must be a tuple of ints; got {lengths!r}.{hint}")
    bounds = sorted({check_number("lengths", length) for length in lengths})
    if not bounds:
        raise ValueError("`lengths` must hold at least 1 length; got none.")
    batch_size = check_number("batch_size", batch_size)
    # The generator is a separate function. So a wrong argument raises at the call, not at the first
    # batch.
    return _batches(sequences, bounds, batch_size)


def _batches(sequences: Iterable[Any], bounds: list[int], batch_size: int) -> Iterator[PaddedBatch]:
    first = None
    # The sequences of each padded length that wait for a full batch, with their indices.
    waiting: dict[int, list[tuple[int, Any]]] = {}
    for bound in bounds:
        waiting[bound] = []
    for index, sequence in enumerate(sequences):
        steps = _length(sequence, index)
        if first is None:
            first = sequence
        _check_alike(sequence, index, first)
        if steps > bounds[-1]:
            raise ValueError(
                "`lengths` must reach the number of steps of every sequence; the greatest is "
                f"{bounds[-1]}, and sequence {index} has {steps}."
            )
        # The least bound that is long enough.
        bound = bounds[bisect.bisect_left(bounds, steps)]
        group = waiting[bound]
        group.append((index, sequence))
        if len(group) == batch_size:
            yield _padded(group, bound, batch_size)
            waiting[bound] = []
    # The last batches, which are not full.
    for bound, rest in waiting.items():
        if rest:
            yield _padded(rest, bound, batch_size)


def _padded(numbered: list[tuple[int, Any]], steps: int, batch_size: int) -> PaddedBatch:
    """Makes a batch of sequences with their indices; rows without a sequence have length 0."""
    lengths = np.zeros(batch_size, np.int32)
    indices = np.full(batch_size, -1)
    sequences = []
    places = []
    for row, (index, sequence) in enumerate(numbered):
        length = _length(sequence, index)
        lengths[row], indices[row] = length, index
        sequences.append(sequence)
        places.append((row, 0, length))
    xs = _place(sequences, places, batch_size, steps)
    return PaddedBatch(xs, lengths, indices)


def _place(sequences: Sequence[Any], places: Iterable[Any], rows: int, steps: int) -> Any:
    """Puts each sequence at its place, `(row, start, length)`, with zeros elsewhere."""

    def place(*leaves: Any) -> np.ndarray:
        first = np.asarray(leaves[0])
        out = np.zeros((rows, steps, *first.shape[1:]), first.dtype)  # [R, T, ...]
        for (row, start, length), leaf in zip(places, leaves, strict=True):
            out[row, start : start + length] = leaf
        return out

    return jax.tree.map(place, *sequences)


def _check_several(sequences: Any) -> None:
    """Checks that `sequences` is an iterable of sequences, not one array."""
    if hasattr(sequences, "shape"):
        raise TypeError(
            f"`sequences` must be a list of arrays [T, ...]; got one array, {describe(sequences)}. "
            "If it holds several, one for each index of its first axis, write list(sequences)."
        )
    if isinstance(sequences, (str, dict)) or not isinstance(sequences, Iterable):
        got = type(sequences).__name__
        raise TypeError(f"`sequences` must be a list of arrays [T, ...]; got a {got}.")


def _check_alike(sequence: Any, number: int, first: Any) -> None:
    """Checks that a sequence differs from the first one only in its number of steps."""
    structure: Any
    leaves, structure = jax.tree.flatten(sequence)
    wanted, needed = jax.tree.flatten(first)
    if structure != needed:
        must = f"must have the structure of `sequences[0]`, {needed}"
        raise ValueError(f"`sequences[{number}]` {must}; got {structure}.")
    for leaf, like in zip(leaves, wanted, strict=True):
        leaf, like = np.asarray(leaf), np.asarray(like)
        # Only the first axis, time, may differ.
        if leaf.shape[1:] != like.shape[1:] or leaf.dtype != like.dtype:
            axes = ", ".join(map(str, ("T", *like.shape[1:])))
            must = f"must be {like.dtype}[{axes}] as `sequences[0]` is"
            raise ValueError(f"`sequences[{number}]` {must}; got {describe(leaf)}.")


def _length(sequence: Any, number: int) -> int:
    """Returns the number of steps, which all leaves must share."""
    leaves = jax.tree.leaves(sequence)
    steps = {np.shape(leaf)[:1] for leaf in leaves}
    if len(steps) != 1 or () in steps:
        must = "must be [T, ...], or arrays of as many steps"
        got = ", ".join(map(describe, leaves)) or "nothing"
        raise ValueError(f"`sequences[{number}]` {must}; got {got}.")
    [(length,)] = steps
    return length
