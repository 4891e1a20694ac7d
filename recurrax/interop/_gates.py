"""What cells of different libraries differ in: the order of their gates, and how many biases they have."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np


def reorder(array: Any, order: str, to: str) -> Any:
    """The gates of `[..., G*H]`, one letter each in `order`, in the order `to`.

    >>> reorder(np.arange(8), "iofg", "ifgo")
    array([0, 1, 4, 5, 6, 7, 2, 3])
    """
    gates = array.reshape(*array.shape[:-1], len(order), -1)
    return gates[..., np.array([order.index(gate) for gate in to]), :].reshape(array.shape)


def reordered(params: Any, order: str, to: str) -> Any:
    """The parameters of both affine maps with their gates in another order."""
    maps = params._asdict()
    names = [name for name in ("kernel", "recurrent_kernel", "bias", "recurrent_bias") if maps[name] is not None]
    return params._replace(**{name: reorder(maps[name], order, to) for name in names})


def has_bias(params: Any) -> bool:
    """Whether there is a bias at all."""
    return params.bias is not None or params.recurrent_bias is not None


def two_biases(params: Any) -> tuple[Any, Any]:
    """Both biases `[G*H]`; one that is not there is of zeros."""
    zeros = jnp.zeros(params.kernel.shape[-1], params.kernel.dtype)
    return tuple(zeros if bias is None else bias for bias in (params.bias, params.recurrent_bias))


def one_bias(params: Any) -> Any:
    """The sum of both biases, for cells that only ever add them."""
    bias, recurrent_bias = two_biases(params)
    return bias + recurrent_bias


def bias_and_candidates(params: Any, gates: int) -> tuple[Any, Any]:
    """One bias for all gates, and the recurrent bias `[H]` of the candidate, which a reset gate keeps apart."""
    bias, recurrent_bias = two_biases(params)
    size = bias.shape[-1] // gates
    return bias + recurrent_bias.at[-size:].set(0), recurrent_bias[-size:]


def last_of(gates: int, bias: Any) -> Any:
    """A bias `[G*H]` that is zero but for the last gate's part, `bias`."""
    return jnp.concatenate([jnp.zeros((gates - 1) * bias.shape[-1], bias.dtype), bias])


def one_for(gate: str, order: str, bias: Any) -> Any:
    """A bias like `bias` that is one for a gate and zero for the others: what some libraries add at every step."""
    return jnp.repeat(jnp.array([letter == gate for letter in order], bias.dtype), bias.shape[-1] // len(order))
