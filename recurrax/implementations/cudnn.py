"""cuDNN's LSTM, through `jax.experimental.rnn`: a whole stack, in one or two directions, in a single call.

It is the fastest way on NVIDIA GPUs and the least flexible one. Its derivative is reverse mode of the first order: no
`jvp`, no second order; nor has it a batching rule for `vmap`, but any number of batch axes. That is why
`implementation=None` never takes it.

Left to itself, `jax.experimental.rnn` multiplies in TF32, 10 bits of mantissa. Here products are of full float32,
unless `jax.default_matmul_precision` was set to "high" or "tensorfloat32".
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
from recurrax._mask import lengths_to_mask, where
from recurrax.cells.lstm import LSTMCell, LSTMParams
from recurrax.implementations._registry import FunctionImplementation
from recurrax.layers.compose import Bidirectional, Stack

# What may differ between a cell and `LSTMCell(H)`. Whatever else a cell may come to know, cuDNN does not know of it.
_FREE = {
    "hidden_size", "dtype", "forget_bias", "bias", "recurrent_bias", "kernel_init", "recurrent_kernel_init", "bias_init"
}  # fmt: skip


def refuses(
    layer: Layer,
    params: Params,
    state: State,
    xs: jax.Array,
    *,
    lengths: jax.Array | None,
    mask: jax.Array | None,
    reset: jax.Array | None,
    reverse: bool,
) -> str | None:
    """Why cuDNN cannot serve these arguments, or None if it can; `mask` may say what `lengths` says."""
    if not _on_cuda():
        return f"it needs an NVIDIA GPU, and JAX runs on {jax.default_backend()!r} here."
    parts = _parts(layer)
    cells = [cell for part in parts for cell in _directions(part)]
    if any(type(cell) is not LSTMCell for cell in cells) or len({type(part) for part in parts}) > 1:
        return 'cuDNN takes an LSTMCell, a Bidirectional of two with `merge` "concat", or a Stack of either kind alone.'
    if getattr(layer, "dropout", 0):
        return "cuDNN would draw other numbers; `dropout` must be 0."
    for field in dataclasses.fields(LSTMCell):
        if field.name not in _FREE and any(getattr(cell, field.name) != field.default for cell in cells):
            return f"cuDNN knows no other `{field.name}` of an LSTMCell than the default."
    if len(sizes := {cell.hidden_size for cell in cells}) > 1:
        return f"cuDNN takes one `hidden_size` for all cells; got {', '.join(map(str, sorted(sizes)))}."
    dtypes = {leaf.dtype for leaf in jax.tree.leaves((params, state, xs))}
    dtypes |= {jnp.dtype(cell.dtype) for cell in cells if cell.dtype is not None}
    if others := sorted(str(dtype) for dtype in dtypes if dtype != jnp.float32):
        return f"parameters, state and inputs must be float32 throughout; got {', '.join(others)}."
    if reset is not None:
        return "cuDNN cannot set the state back on its way; `reset` must be None."
    if mask is not None and lengths is None:
        return "cuDNN knows right padding alone, no other `mask`; give `lengths`."
    return None


def run(
    layer: Layer,
    params: Params,
    state: State,
    xs: jax.Array,
    *,
    lengths: jax.Array | None,
    reverse: bool = False,
    **_: Any,
) -> tuple[State, jax.Array]:
    """Takes the whole layer along in one call.

    Args:
        layer: a layer that `refuses` does not refuse.
        params: its parameters.
        state: the state before the first step.
        xs: `[T, *B, I]`; what stands in the padding has no influence.
        lengths: `int[*B]`, or None; a length of 0 keeps the state.
        reverse: whether every direction walks the other way.

    Returns:
        The state after the last step, in the structure of `state`, and the outputs `[T, *B, O]`, zero in the padding.
    """
    steps, *batch, input_size = xs.shape
    rows, ys_shape = math.prod(batch), (steps, *batch, layer.output_size(input_size))
    if not steps * rows:
        return state, jnp.zeros(ys_shape, xs.dtype)
    xs = jnp.swapaxes(xs.reshape(steps, rows, input_size), 0, 1)
    mask = None if lengths is None else lengths_to_mask(lengths.reshape(rows), steps)
    counts = jnp.full(rows, steps, jnp.int32) if mask is None else mask.sum(axis=1, dtype=jnp.int32)

    def real(xs: jax.Array) -> jax.Array:  # In both modes: the gradient of the padding is zero too.
        return xs if mask is None else where(mask, xs, jnp.zeros_like(xs))

    def turned(xs: jax.Array) -> jax.Array:  # The other way around, and the padding where it was.
        if not reverse or mask is None:
            return xs[:, ::-1] if reverse else xs
        t = lax.broadcasted_iota(jnp.int32, mask.shape, 1)
        return jnp.take_along_axis(xs, jnp.where(mask, counts[:, None] - 1 - t, t)[..., None], axis=1)

    weights, dims = _pack(layer, params)
    h, c = _states_in(state, rows)
    # cuDNN fails on a length of 0, so such a row takes one step, of which nothing is kept.
    ys, *after = _call(turned(real(xs)), h, c, weights, jnp.maximum(counts, 1), dims)
    if mask is not None:
        after = [jnp.where((counts > 0)[None, :, None], new, old) for new, old in zip(after, (h, c), strict=True)]
    ys = jnp.swapaxes(real(turned(ys)), 0, 1).reshape(ys_shape)
    return _states_out(state, *after), ys


def _call(
    xs: jax.Array, h: jax.Array, c: jax.Array, weights: jax.Array, lengths: jax.Array, dims: dict[str, Any]
) -> tuple[jax.Array, ...]:
    """`xs` `[B, T, I]`, `h` and `c` `[L*D, B, H]`, lengths of at least 1; returns ys `[B, T, D*H]`, h and c."""
    from jax.experimental import rnn  # Experimental, so nobody else shall depend on it.

    less = jax.default_matmul_precision.value in ("high", "tensorfloat32")
    precision = lax.Precision.HIGH if less else lax.Precision.HIGHEST  # None would mean TF32.
    return rnn.lstm(xs, h, c, weights, lengths, **dims, dropout=0.0, precision=precision)


def _pack(layer: Layer, params: Params) -> tuple[jax.Array, dict[str, Any]]:
    """The parameters as cuDNN lays them out, one vector, and the sizes that say how to read it.

    First the kernels of every layer, then all biases; a layer's forward direction before its backward; the inputs'
    before the recurrent. Gates are in the order i, f, g, o, ours, and come first: `[4*H, I]`, the transpose of ours.
    """
    cells = jax.tree.leaves(params, is_leaf=lambda node: isinstance(node, LSTMParams))
    input_size, width = cells[0].kernel.shape
    kernels = [kernel.T.ravel() for cell in cells for kernel in (cell.kernel, cell.recurrent_kernel)]
    biases = [bias for cell in cells for bias in (cell.bias, cell.recurrent_bias)]
    zeros = jnp.zeros(width, cells[0].kernel.dtype)
    weights = jnp.concatenate([*kernels, *(zeros if bias is None else bias for bias in biases)])
    depth = len(_parts(layer))
    sizes = {"input_size": input_size, "hidden_size": width // 4, "num_layers": depth}
    return weights, {**sizes, "bidirectional": len(cells) > depth}


def _states_in(state: State, rows: int) -> tuple[jax.Array, jax.Array]:
    """All h and all c, `[L*D, B, H]`, a layer's forward before its backward."""
    leaves = [leaf.reshape(rows, leaf.shape[-1]) for leaf in jax.tree.leaves(state)]
    return jnp.stack(leaves[::2]), jnp.stack(leaves[1::2])  # An `LSTMState` is an h and a c.


def _states_out(like: State, h: jax.Array, c: jax.Array) -> State:
    """The way back, into the structure and the shapes of `like`."""
    leaves, tree = jax.tree.flatten(like)
    new = [part for pair in zip(h, c, strict=True) for part in pair]
    return jax.tree.unflatten(tree, [part.reshape(leaf.shape) for part, leaf in zip(new, leaves, strict=True)])


def _parts(layer: Layer) -> tuple[Layer, ...]:
    return layer.layers if type(layer) is Stack else (layer,)


def _directions(layer: Layer) -> Sequence[Any]:
    both = type(layer) is Bidirectional and layer.merge == "concat"
    return layer.parts if both else (layer,)


def _on_cuda() -> bool:
    # Both vendors' devices are called "gpu".
    return "cuda" in jax.local_devices()[0].client.platform_version


CUDNN = FunctionImplementation(run, refuses, takes_composites=True)
