"""Gates and biases: libraries differ in the order of the gates and in the number of biases."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np


def reorder(array: Any, order: str, to: str) -> Any:
    """The gates of `[..., G*H]`, one letter each in `order`, in the order `to`.

    >>> reorder(np.arange(8), "iofg", "ifgo")
    array([0, 1, 4, 5, 6, 7, 2, 3])
    """
    gates = array.reshape(*array.shape[:-1], len(order), -1)  # [..., G, H]
    places = np.array(list(map(order.index, to)))
    return gates[..., places, :].reshape(array.shape)


def reordered(params: Any, order: str, to: str) -> Any:
    """The parameters of both affine maps with their gates in another order."""
    changes = {}
    for name in ("kernel", "recurrent_kernel", "bias", "recurrent_bias"):
        array = getattr(params, name)
        if array is not None:
            changes[name] = reorder(array, order, to)
    return params._replace(**changes)


def has_bias(params: Any) -> bool:
    """Whether there is a bias at all."""
    return params.bias is not None or params.recurrent_bias is not None


def two_biases(params: Any) -> tuple[Any, Any]:
    """Both biases `[G*H]`, with zeros for a missing bias."""
    zeros = jnp.zeros(params.kernel.shape[-1], params.kernel.dtype)
    bias, recurrent_bias = params.bias, params.recurrent_bias
    if bias is None:
        bias = zeros
    if recurrent_bias is None:
        recurrent_bias = zeros
    return bias, recurrent_bias


def one_bias(params: Any) -> Any:
    """The sum of both biases, for cells that only add them."""
    bias, recurrent_bias = two_biases(params)
    return bias + recurrent_bias


def bias_and_candidates(params: Any, gates: int) -> tuple[Any, Any]:
    """One bias for all gates, and the recurrent bias `[H]` of the candidate.

    The reset gate scales the candidate's recurrent bias, so the two cannot be added.
    """
    bias, recurrent_bias = two_biases(params)
    size = bias.shape[-1] // gates
    # The candidate is the last gate.
    return bias + recurrent_bias.at[-size:].set(0), recurrent_bias[-size:]


def last_of(gates: int, bias: Any) -> Any:
    """A bias `[G*H]` with `bias` in the last gate's part, and zeros elsewhere."""
    zeros = jnp.zeros((gates - 1) * bias.shape[-1], bias.dtype)
    return jnp.concatenate([zeros, bias])


def with_forget_one(params: Any) -> Any:
    """The LSTM parameters of a library that adds 1 to the forget gate at every step.

    The library has the gates i, g, f, o. Here recurrent_bias has the 1.
    """
    _, bias = two_biases(params)
    params = params._replace(recurrent_bias=bias + _forget_one(bias))
    return reordered(params, "igfo", "ifgo")


def without_forget_one(params: Any) -> Any:
    """The inverse of `with_forget_one`, with two biases."""
    params = reordered(params, "ifgo", "igfo")
    bias, recurrent_bias = two_biases(params)
    recurrent_bias = recurrent_bias - _forget_one(recurrent_bias)
    return params._replace(bias=bias, recurrent_bias=recurrent_bias)


def _forget_one(bias: Any) -> Any:
    # In the order i, g, f, o.
    gates = jnp.array([0, 0, 1, 0], bias.dtype)
    return jnp.repeat(gates, bias.shape[-1] // 4)
