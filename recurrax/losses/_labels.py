"""What CTC and the transducer share: checks of scores and labels, and numbers for impossible."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from recurrax._arguments import as_int, check_number, describe, named_leaves, short
from recurrax._check import check_flags, kind
from recurrax._dtype import widened
from recurrax._mask import lengths_to_mask

# The log-probability of an impossible event. It is finite: for -inf the derivative of
# log(exp(a) + exp(b)) is NaN. A sum over many thousand steps still fits into float32.
IMPOSSIBLE = -1e30


class Decoded(NamedTuple):
    """Sequences of labels that a decoder found.

    Attributes:
        labels: `int32[*B, U]` of the greedy decoders, or `int32[*B, K, U]` of a beam, the best
            first; `blank` in the padding.
        lengths: `int32[*B]` or `int32[*B, K]`, the numbers of labels.
        scores: `float[*B]` or `float[*B, K]`, log-probabilities. An empty place of a beam has score
            -inf and length 0.
    """

    labels: jax.Array
    lengths: jax.Array
    scores: jax.Array


def possible(scores: jax.Array) -> jax.Array:
    """Whether a sum of log-probabilities contains nothing impossible. NaN counts as possible."""
    return ~(scores <= IMPOSSIBLE / 2)


def to_inf(scores: jax.Array) -> jax.Array:
    """Writes -inf for impossible. No gradient flows through it."""
    return jnp.where(possible(scores), scores, -jnp.inf)


def log_probs_of(logits: jax.Array) -> jax.Array:
    """Returns log-probabilities over the last axis, in float32 or wider, and none below IMPOSSIBLE.

    Log-probabilities stay the same.
    """
    logits = widened(logits)
    # Where nothing is possible, the softmax is NaN.
    nothing = (logits == -jnp.inf).all(axis=-1, keepdims=True)
    log_probs = jax.nn.log_softmax(jnp.where(nothing, 0, logits))
    return jnp.where(nothing, IMPOSSIBLE, jnp.maximum(log_probs, IMPOSSIBLE))


def over_batch(function: Callable, axes: int) -> Callable:
    """Maps a function of one sequence over a number of batch axes."""
    for _ in range(axes):
        function = jax.vmap(function)
    return function


def zeros_like(lengths: jax.Array) -> jax.Array:
    """Returns zeros with the placement of the lengths on a mesh, for arrays that are made."""
    # Under `vmap`, `jnp.zeros_like` would make a zero without the batch.
    return lengths - lengths


def known(*arrays: Any) -> bool:
    """Whether arrays have known values: outside of `jit`, `grad` and `vmap`."""
    leaves = jax.tree.leaves(arrays)
    return not any(isinstance(leaf, jax.core.Tracer) for leaf in leaves)


# Checks ------------------------------------------------------------------------------------------


def check_blank(blank: Any, size: int, of: str) -> int:
    """Checks the index of the blank among `size` labels; `of` describes the scores."""
    index = as_int(blank)
    if index is None:
        raise TypeError(f"`blank` must be an int; got {short(blank)}.")
    if not 0 <= index < size:
        hint = ""
        if index == -1:
            hint = f" For the last label write {size - 1}."
        raise ValueError(f"`blank` must be from 0 to {size - 1} for {of}; got {index}.{hint}")
    return index


def check_frames(name: str, xs: Any, axes: str, lengths: Any, time_major: bool) -> tuple:
    """Checks a sequence `[*B, T, features]` with its lengths.

    Args:
        name: the name of the sequence in errors.
        xs: the sequence; `[T, *B, features]` if `time_major`.
        axes: the axes in errors, such as "T, L".
        lengths: `int[*B]`, or None for full sequences.
        time_major: whether time is the first axis.

    Returns:
        The sequence with its time before the last axis, and `int32[*B]`, each from 0 to T.

    Raises:
        TypeError: if a dtype is wrong.
        ValueError: if a shape is wrong.
    """
    xs = jnp.asarray(xs)
    if kind(xs) != "floating":
        raise TypeError(f"`{name}` must be of a floating dtype; got {describe(xs)}.")
    if xs.ndim < 2:
        raise ValueError(f"`{name}` must be [*B, {axes}], at least 2 axes; got {describe(xs)}.")
    if not xs.shape[-1]:
        raise ValueError(
            f"`{name}` must have at least 1 entry in its last axis; got {describe(xs)}."
        )
    what = f"`{name}` {describe(xs)}"
    if time_major:
        xs = jnp.moveaxis(xs, 0, -2)
    return xs, check_lengths("lengths", lengths, xs, 2, xs.shape[-2], what)


def check_lengths(
    name: str, lengths: Any, xs: jax.Array, axes: int, most: int, what: str
) -> jax.Array:
    """Checks lengths and returns them as `int32[*B]`, each from 0 to `most`; None means `most`.

    `xs` has the axes of the batch and then `axes` more. `what` describes it.
    """
    batch_shape = xs.shape[: xs.ndim - axes]
    if lengths is None:
        # Zeros made of `xs` have its placement on a mesh.
        corner = xs[(..., *[slice(1)] * axes)]
        zeros = jnp.zeros_like(corner, jnp.int32)
        return zeros.sum(axis=tuple(range(-axes, 0)), dtype=jnp.int32) + most
    meaning = f"one length per sequence of {what}"
    lengths = check_flags(name, lengths, jnp.integer, batch_shape, meaning)
    # A wide dtype is clipped before it is cast, a narrow dtype after it.
    if jnp.iinfo(lengths.dtype).bits < 32:
        lengths = lengths.astype(jnp.int32)
    return jnp.clip(lengths, 0, most).astype(jnp.int32)


def check_labels(
    labels: Any,
    label_lengths: Any,
    batch_shape: tuple[int, ...],
    blank: int,
    size: int,
    what: str,
) -> tuple[jax.Array, jax.Array]:
    """Checks labels `int[*B, U]`. Their values are checked outside of `jit`.

    Returns:
        `int32[*B, U]` with `blank` in the padding, and the lengths `int32[*B]`.

    Raises:
        TypeError: if a dtype is wrong.
        ValueError: if a shape is wrong, or a label is out of range or blank.
    """
    labels = jnp.asarray(labels)
    axes = ", ".join([*map(str, batch_shape), "U"])
    must = f"`labels` must be int[{axes}], U labels per sequence of {what}"
    if labels.ndim != len(batch_shape) + 1 or labels.shape[:-1] != batch_shape:
        raise ValueError(f"{must}; got {describe(labels)}.")
    # An empty list is an array of floats.
    if not jnp.issubdtype(labels.dtype, jnp.integer) and labels.size:
        raise TypeError(f"{must}; got {describe(labels)}.")
    labels = labels.astype(jnp.int32)
    of = f"`labels` {describe(labels)}"
    most = labels.shape[-1]
    label_lengths = check_lengths("label_lengths", label_lengths, labels, 1, most, of)
    within = lengths_to_mask(label_lengths, most)  # [*B, U]
    if known(labels, label_lengths):
        _check_range(np.asarray(labels), np.asarray(within), blank, size)
    return jnp.where(within, labels, blank), label_lengths


def _check_range(labels: np.ndarray, within: np.ndarray, blank: int, size: int) -> None:
    wrong = within & ((labels < 0) | (labels >= size) | (labels == blank))
    if not wrong.any():
        return
    place = tuple(int(index) for index in np.argwhere(wrong)[0])
    label = int(labels[place])
    hint = "Is it padding? Then `label_lengths` must leave it out."
    if label == blank:
        hint = f"{label} is `blank`. {hint}"
    entry = ", ".join(map(str, place))
    raise ValueError(
        f"`labels` must be from 0 to {size - 1} and not {blank}, the blank; got `labels[{entry}]` "
        f"= {label}. {hint}"
    )


def check_nan(name: str, xs: jax.Array, lengths: jax.Array) -> None:
    """Checks that a sequence `[*B, T, ...]` has no NaN within its lengths, if values are known."""
    if not known(xs, lengths):
        return
    wrong = np.asarray(_nan_steps(xs, lengths))
    if not wrong.any():
        return
    *row, step = (int(index) for index in np.argwhere(wrong)[0])
    sequence = "the sequence"
    if row:
        sequence = f"sequence {row[0] if len(row) == 1 else tuple(row)}"
    raise ValueError(
        f"`{name}` must have no NaN within `lengths`; got NaN at step {step} of {sequence}. "
        "Has the training diverged, or do the lengths count padding?"
    )


def check_scores(name: str, decoded: Decoded) -> Decoded:
    """Checks that a function of the user gave no NaN, if the scores are known."""
    if not known(decoded.scores):
        return decoded
    wrong = np.isnan(np.asarray(decoded.scores))
    if wrong.any():
        raise ValueError(
            f"`{name}` must return scores without NaN and +inf; got such scores, and "
            f"{int(wrong.sum())} of {wrong.size} results are NaN. Has the training diverged?"
        )
    return decoded


@jax.jit
def _nan_steps(xs: jax.Array, lengths: jax.Array) -> jax.Array:
    """Whether a step within the lengths has NaN, `bool[*B, T]`."""
    return jnp.isnan(xs).any(axis=-1) & lengths_to_mask(lengths, xs.shape[-2])


def check_beam_size(beam_size: Any, labels: int, most: int) -> int:
    """Checks the size of a beam against the number of sequences of up to `most` of `labels`."""
    beam_size = check_number("beam_size", beam_size)
    number = 0
    for length in range(most + 1):
        number += labels**length
        if number >= beam_size:
            return beam_size
    raise ValueError(
        f"`beam_size` must be at most {number}, the number of sequences of up to {most} labels out "
        f"of {labels}; got {beam_size}."
    )


def check_states(name: str, state: Any, batch_shape: tuple[int, ...], what: str) -> Any:
    """Checks that every leaf of a state begins with the batch axes, and returns arrays."""
    state = jax.tree.map(jnp.asarray, state)
    axes = ", ".join([*map(str, batch_shape), "..."])
    for path, leaf in named_leaves(state).items():
        if leaf.shape[: len(batch_shape)] != batch_shape:
            raise ValueError(
                f"`{name}{path}` must be [{axes}], one state per sequence of {what}; got "
                f"{describe(leaf)}."
            )
    return state


def check_returned_scores(
    name: str, scores: Any, batch_shape: tuple[int, ...], size: int | None = None
) -> None:
    """Checks the scores that a function of the user returned: one for each label."""
    shape = jnp.shape(scores)
    same = shape[:-1] == batch_shape and len(shape) == len(batch_shape) + 1
    if same and kind(scores) == "floating" and size in (None, shape[-1]):
        return
    axes = ", ".join([*map(str, batch_shape), str(size or "V")])
    raise ValueError(
        f"`{name}` must return float[{axes}], one score per label and sequence; got "
        f"{describe(scores)}."
    )


def check_step(name: str, returned: Any, state: Any) -> None:
    """Checks the pair that a function of the user returned after it got `state`."""
    if not isinstance(returned, tuple) or len(returned) != 2:
        raise ValueError(
            f"`{name}` must return two results, the state second; got {describe(returned)}."
        )
    _check_like(name, returned[1], state)


def _check_like(name: str, got: Any, expected: Any) -> None:
    must = "a state like the state that it gets"
    leaves, wanted = named_leaves(got), named_leaves(expected)
    if leaves.keys() != wanted.keys():
        raise ValueError(f"`{name}` must return {must}; got {describe(got)}.")
    for path, leaf in wanted.items():
        if jnp.shape(leaves[path]) != leaf.shape or jnp.result_type(leaves[path]) != leaf.dtype:
            raise ValueError(
                f"`{name}` must return {must}, {describe(leaf)}; got "
                f"{describe(jnp.asarray(leaves[path]))} at {path or 'its only leaf'}."
            )
