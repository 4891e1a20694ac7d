"""cuDNN's LSTM, through `jax.experimental.rnn`: one call runs a stack, in one or two directions.

It is the fastest implementation on NVIDIA GPUs and the least flexible. It has reverse mode of the
first order: no `jvp`, no second order. It takes any number of batch axes, but has no batching rule
for `vmap`. That is why `implementation=None` never picks it.

By default, `jax.experimental.rnn` multiplies in TF32, with 10 bits of mantissa. Here, products are
full float32, unless `jax.default_matmul_precision` is "high" or "tensorfloat32".
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from recurrax._layer import Layer, Params, State
from recurrax._mask import Steps, where
from recurrax.cells.lstm import LSTMCell, LSTMParams
from recurrax.implementations._registry import FunctionImplementation
from recurrax.layers.compose import Bidirectional, Stack

# The fields in which a cell may differ from `LSTMCell(H)`.
# cuDNN knows no other field, nor any field that the cell gets later.
_FREE_FIELDS = {
    "hidden_size",
    "dtype",
    "forget_bias",
    "bias",
    "recurrent_bias",
    "kernel_init",
    "recurrent_kernel_init",
    "bias_init",
}


def refuses(
    layer: Layer,
    params: Params,
    state: State,
    xs: jax.Array,
    steps: Steps,
) -> str | None:
    """Why cuDNN cannot serve these arguments, or None."""
    if missing := why_missing():
        return missing
    # First the kinds of layers, then the options of the cells.
    parts = _parts(layer)
    cells = [cell for part in parts for cell in _directions(part)]
    kinds = {type(part) for part in parts}
    if len(kinds) > 1 or any(type(cell) is not LSTMCell for cell in cells):
        return (
            'cuDNN takes an LSTMCell, a Bidirectional of two with `merge` "concat",'
            " or a Stack of either kind alone."
        )
    if getattr(layer, "dropout", 0):
        return "cuDNN would draw other numbers; `dropout` must be 0."
    for field in dataclasses.fields(LSTMCell):
        if field.name in _FREE_FIELDS:
            continue
        if any(getattr(cell, field.name) != field.default for cell in cells):
            return f"cuDNN knows no other `{field.name}` of an LSTMCell than the default."
    sizes = sorted({cell.hidden_size for cell in cells})
    if len(sizes) > 1:
        return f"cuDNN takes one `hidden_size` for all cells; got {', '.join(map(str, sizes))}."
    # Then the arrays: float32 everywhere, no resets, no mask but right padding.
    dtypes = {leaf.dtype for leaf in jax.tree.leaves((params, state, xs))}
    dtypes |= {jnp.dtype(cell.dtype) for cell in cells if cell.dtype is not None}
    others = sorted(map(str, dtypes - {jnp.dtype(jnp.float32)}))
    if others:
        return f"parameters, state and inputs must be float32 throughout; got {', '.join(others)}."
    if steps.restart is not None:
        return "cuDNN cannot set the state back on its way; `reset` must be None."
    if steps.mask is not None and not steps.right_padded:
        return "cuDNN knows right padding alone, no other `mask`; give `lengths`."
    return None


def run(
    layer: Layer,
    params: Params,
    state: State,
    xs: jax.Array,
    steps: Steps,
    **_: Any,
) -> tuple[State, jax.Array]:
    """Runs all cells of the layer in one call.

    Args:
        layer: a layer that `refuses` accepts.
        params: its parameters.
        state: the state before the first step.
        xs: `[T, *B, I]`; the values in the padding have no influence.
        steps: a mask, or None, that is right padding, and the direction. A row without an unmasked
            step keeps its state. In reverse, every direction runs the other way.

    Returns:
        The state after the last step, in the structure of `state`, and the outputs `[T, *B, O]`.
        The outputs are zero in the padding.
    """
    number, *batch, input_size = xs.shape
    rows = math.prod(batch)
    ys_shape = (number, *batch, layer.output_size(input_size))
    if not number * rows:
        return state, jnp.zeros(ys_shape, xs.dtype)  # [T, *B, O]
    # cuDNN takes one batch axis, before the time axis.
    xs = jnp.swapaxes(xs.reshape(number, rows, input_size), 0, 1)  # [B, T, I]
    mask = None
    counts = jnp.full(rows, number, jnp.int32)  # [B]
    if steps.mask is not None:
        mask = jnp.swapaxes(steps.mask.reshape(number, rows), 0, 1)  # [B, T]
        counts = mask.sum(axis=1, dtype=jnp.int32)  # [B]

    def zero_padding(values: jax.Array) -> jax.Array:
        # For inputs and outputs: the gradient of the padding is then zero too.
        if mask is None:
            return values
        return where(mask, values, jnp.zeros_like(values))  # [B, T, ...]

    def reverse_unmasked(values: jax.Array) -> jax.Array:
        # The unmasked steps in the other order. The padding stays on the right.
        if not steps.reverse:
            return values
        if mask is None:
            return values[:, ::-1]  # [B, T, ...]
        t = lax.broadcasted_iota(jnp.int32, mask.shape, 1)  # [B, T]
        source = jnp.where(mask, counts[:, None] - 1 - t, t)  # [B, T]
        return jnp.take_along_axis(values, source[..., None], axis=1)  # [B, T, ...]

    weights, dims = _pack(layer, params)
    h, c = _stack_states(state, rows)  # [L*D, B, H] each
    # cuDNN fails on a length of 0. Such a row takes one step, and its result is dropped below.
    xs = reverse_unmasked(zero_padding(xs))  # [B, T, I]
    ys, *after = _call(xs, h, c, weights, jnp.maximum(counts, 1), dims)
    if mask is not None:
        took_steps = (counts > 0)[None, :, None]  # [1, B, 1]
        pairs = zip(after, (h, c), strict=True)
        after = [jnp.where(took_steps, new, old) for new, old in pairs]  # [L*D, B, H] each
    ys = zero_padding(reverse_unmasked(ys))  # [B, T, O]
    ys = jnp.swapaxes(ys, 0, 1).reshape(ys_shape)  # [T, *B, O]
    return _unstack_states(state, *after), ys


def _call(
    xs: jax.Array,
    h: jax.Array,
    c: jax.Array,
    weights: jax.Array,
    lengths: jax.Array,
    dims: dict[str, Any],
) -> tuple[jax.Array, ...]:
    """The call itself, from `xs` `[B, T, I]` and `h` and `c` `[L*D, B, H]`; lengths of at least 1.

    Returns:
        The outputs `[B, T, D*H]`, h and c.
    """
    # This module of JAX is experimental, so no other file depends on it.
    from jax.experimental import rnn

    # With `None`, the products would be in TF32.
    precision = lax.Precision.HIGHEST
    if jax.default_matmul_precision.value in ("high", "tensorfloat32"):
        precision = lax.Precision.HIGH
    return rnn.lstm(xs, h, c, weights, lengths, **dims, dropout=0.0, precision=precision)


def _pack(layer: Layer, params: Params) -> tuple[jax.Array, dict[str, Any]]:
    """The parameters in cuDNN's layout, one vector, and the sizes that describe it.

    First come the kernels of every layer, then all biases. In a layer, the forward direction comes
    before the backward direction, and the kernel before the recurrent kernel. The gates have our
    order i, f, g, o. They are the leading axis: `[4*H, I]`, the transpose of our kernel.
    """
    cells = jax.tree.leaves(params, is_leaf=lambda node: isinstance(node, LSTMParams))
    input_size, width = cells[0].kernel.shape
    zeros = jnp.zeros(width, cells[0].kernel.dtype)  # [4*H]
    kernels, biases = [], []
    for cell in cells:
        kernels += [cell.kernel.T.ravel(), cell.recurrent_kernel.T.ravel()]  # [4*H*I], [4*H*H]
        # cuDNN always reads both biases.
        biases.append(zeros if cell.bias is None else cell.bias)  # [4*H]
        biases.append(zeros if cell.recurrent_bias is None else cell.recurrent_bias)  # [4*H]
    weights = jnp.concatenate([*kernels, *biases])
    depth = len(_parts(layer))
    dims = {
        "input_size": input_size,
        "hidden_size": width // 4,
        "num_layers": depth,
        "bidirectional": len(cells) > depth,
    }
    return weights, dims


def _stack_states(state: State, rows: int) -> tuple[jax.Array, jax.Array]:
    """All h and all c, `[L*D, B, H]`: a layer's forward direction before its backward direction."""
    leaves = [leaf.reshape(rows, leaf.shape[-1]) for leaf in jax.tree.leaves(state)]  # [B, H] each
    # The leaves alternate: an `LSTMState` is an h and a c.
    return jnp.stack(leaves[::2]), jnp.stack(leaves[1::2])  # [L*D, B, H] each


def _unstack_states(like: State, h: jax.Array, c: jax.Array) -> State:
    """The inverse of `_stack_states`: a state with the structure and the shapes of `like`."""
    leaves, tree = jax.tree.flatten(like)
    new = [part for pair in zip(h, c, strict=True) for part in pair]  # [B, H] each
    shaped = [part.reshape(leaf.shape) for part, leaf in zip(new, leaves, strict=True)]
    return jax.tree.unflatten(tree, shaped)  # leaves [*B, H]


def _parts(layer: Layer) -> tuple[Layer, ...]:
    """The layers of a stack, or the layer alone."""
    return layer.layers if type(layer) is Stack else (layer,)


def _directions(layer: Layer) -> Sequence[Any]:
    """The two cells of a bidirectional layer, or the layer alone."""
    if type(layer) is Bidirectional and layer.merge == "concat":
        return layer.parts
    return (layer,)


def why_missing() -> str | None:
    """Why cuDNN cannot run on this machine, or None."""
    if _on_cuda():
        return None
    return f"it needs an NVIDIA GPU, and JAX runs on {jax.default_backend()!r} here."


def _on_cuda() -> bool:
    # JAX calls the devices of both vendors "gpu".
    return "cuda" in jax.local_devices()[0].client.platform_version


CUDNN = FunctionImplementation(run, refuses, takes_composites=True, why_missing=why_missing)
