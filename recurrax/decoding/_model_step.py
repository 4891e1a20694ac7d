"""Checks of a function `(token, state) -> (logits, state)`, and what decoders share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from recurrax._arguments import as_int, describe, named_leaves, short
from recurrax._check import kind

ModelStep = Callable[[jax.Array, Any], tuple[jax.Array, Any]]


def check_tokens(name: str, tokens: Any, axes: str) -> jax.Array:
    """Checks an array of token ids.

    Raises:
        TypeError: if the ids are no integers.
    """
    array = jnp.asarray(tokens)
    if kind(array) != "integer":
        raise TypeError(f"`{name}` must be int[{axes}], token ids; got {describe(array)}.")
    return array


def check_state(state: Any, batch_shape: tuple[int, ...], batch_axis: int) -> Any:
    """Checks that each leaf of a state has the batch axes, from `batch_axis` on.

    Raises:
        TypeError: if `batch_axis` is no int.
        ValueError: if a leaf does not have the batch axes there.
    """
    if as_int(batch_axis) is None or batch_axis < 0:
        raise TypeError(f"`batch_axis` must be an int of at least 0; got {short(batch_axis)}.")
    state = jax.tree.map(jnp.asarray, state)
    end = batch_axis + len(batch_shape)
    for path, leaf in named_leaves(state).items():
        if leaf.shape[batch_axis:end] != batch_shape:
            axes = ", ".join([*["any"] * batch_axis, *map(str, batch_shape), "..."])
            hint = "An array that all rows share belongs into `model_step`."
            # The batch may come one axis later, behind the layers.
            if leaf.shape[batch_axis + 1 : end + 1] == batch_shape:
                hint = f"Is it in PyTorch's layout? Set `batch_axis={batch_axis + 1}`."
            raise ValueError(
                f"`state{path}` must be [{axes}], with the batch axes of the tokens from axis "
                f"{batch_axis} on; got {describe(leaf)}. {hint}"
            )
    return state


def beside_rows(flags: jax.Array, leaf: jax.Array, axis: int) -> jax.Array:
    """Gives `flags` `[*B]` the number of axes of `leaf`, whose batch axes begin at `axis`."""
    behind = range(axis + flags.ndim, leaf.ndim)
    return jnp.expand_dims(flags, (*range(axis), *behind))


def where_rows(flags: jax.Array, yes: Any, no: Any, axis: int) -> Any:
    """Takes leaves of `yes` at the rows where a flag of `[*B]` is True, else of `no`."""

    def pick(new: jax.Array, old: jax.Array) -> jax.Array:
        return jnp.where(beside_rows(flags, old, axis), new, old)

    return jax.tree.map(pick, yes, no)


def check_model_step(model_step: ModelStep, token: Any, state: Any) -> jax.ShapeDtypeStruct:
    """Checks the results of a model's step by their shapes; returns the logits' shape.

    Args:
        model_step: the function.
        token: `int[*B]`, or its shape.
        state: the state before the step, or its shapes.

    Returns:
        The shape and the dtype of the logits, `[*B, V]`.

    Raises:
        TypeError: if `model_step` is no function, or the logits are not floating.
        ValueError: if the results have wrong shapes.
    """
    if not callable(model_step):
        raise TypeError(
            "`model_step` must be a function `(token, state) -> (logits, state)`; got "
            f"{short(model_step)}."
        )
    # Nothing is computed here: shapes alone are known.
    out = jax.eval_shape(model_step, token, state)
    if not isinstance(out, tuple) or len(out) != 2:
        raise ValueError(f"`model_step` must return (logits, state); got {describe(out)}.")
    logits, after = out
    axes = ", ".join([*map(str, token.shape), "V"])
    shape = getattr(logits, "shape", None)
    if shape is None or len(shape) != len(token.shape) + 1 or shape[:-1] != token.shape:
        raise ValueError(
            f"`model_step` must return logits [{axes}] for tokens {describe(token)}; got "
            f"{describe(logits)}. Is the order (logits, state)?"
        )
    if kind(logits) != "floating":
        raise TypeError(
            f"`model_step` must return floating logits [{axes}]; got {describe(logits)}."
        )
    # A loop keeps one structure of its state. The error of JAX would not name the leaf.
    wanted, got = named_leaves(state), named_leaves(after)
    structure: Any = jax.tree.structure(state)
    same = structure == jax.tree.structure(after)
    for path, leaf in wanted.items():
        new: Any = got.get(path)
        if not same or new.shape != leaf.shape or new.dtype != leaf.dtype:
            raise ValueError(
                f"`model_step` must return a state like `state`, with {describe(leaf)} at "
                f"`state{path}`; got {describe(new)}. Does it return the state after the step?"
            )
    if not same:
        raise ValueError(
            f"`model_step` must return a state like `state`, {describe(state)}; got "
            f"{describe(after)}."
        )
    return logits


def check_range(name: str, tokens: Any, size: int) -> None:
    """Checks that known token ids are in the vocabulary. Traced ids are not known yet.

    Raises:
        ValueError: if an id is not from 0 to `size` - 1.
    """
    if isinstance(tokens, jax.core.Tracer):
        return
    ids = np.asarray(tokens)
    wrong = ids[(ids < 0) | (ids >= size)]
    if wrong.size:
        raise ValueError(
            f"`{name}` must be token ids from 0 to {size - 1}, as the logits have {size} entries; "
            f"got {wrong[0]}."
        )


def stop_tokens(stop: int | Sequence[int] | None, size: int) -> tuple[int, ...]:
    """Returns the tokens that end a text as a tuple of ints.

    Raises:
        TypeError: if a token is no int.
        ValueError: if a token is outside of the vocabulary.
    """
    if stop is None:
        return ()
    # One token is a tuple of one.
    tokens: Any = stop
    if as_int(stop) is not None:
        tokens = (stop,)
    if not isinstance(tokens, (tuple, list)) or any(as_int(token) is None for token in tokens):
        raise TypeError(f"`stop` must be an int, a tuple of ints or None; got {short(stop)}.")
    found = tuple(int(token) for token in tokens)
    check_range("stop", np.array(found, int), size)
    return found


def log_probabilities(logits: jax.Array) -> jax.Array:
    """Returns the log-probabilities of logits in float32 at least; NaN where a row has NaN or +inf.

    A row of -inf alone stays -inf: no token can follow.
    """
    wide = logits.astype(wide_dtype(logits))
    none = (wide == -jnp.inf).all(axis=-1, keepdims=True)
    safe = jnp.where(none, jnp.zeros_like(wide), wide)
    return jnp.where(none, wide, jax.nn.log_softmax(safe, axis=-1))


def wide_dtype(logits: Any) -> jnp.dtype:
    """Returns the dtype of log-probabilities: float32, or float64 for logits in float64."""
    return jnp.promote_types(logits.dtype, jnp.float32)


def raise_if_nan(bad: jax.Array, what: str) -> None:
    """Raises for rows with NaN, where the values are known: outside of `jax.jit`.

    Raises:
        ValueError: if a flag of `bad` `bool[*B]` is set.
    """
    if isinstance(bad, jax.core.Tracer) or not bool(jnp.any(bad)):
        return
    rows = np.argwhere(np.asarray(bad))
    first = ", ".join(map(str, rows[0]))
    where = f" in row [{first}]" if first else ""
    raise ValueError(
        f"`model_step` must return logits without NaN and +inf, {what}; got such logits{where}, "
        f"one of {len(rows)} such rows. Did the training diverge?"
    )
