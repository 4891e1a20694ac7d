"""Recurrent kernels in blocks: one for each head of the state."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from recurrax._layer import Initializer
from recurrax.cells.affine import affine, broadcast_to_rank, draw_gates


def check_heads(cell: Any) -> None:
    """Checks that `num_heads` divides `hidden_size`."""
    if cell.num_heads < 1 or cell.hidden_size % cell.num_heads:
        raise ValueError(
            f"`num_heads` must divide `hidden_size` {cell.hidden_size}; got {cell.num_heads}."
        )


def draw_heads(
    initializer: Initializer, key: jax.Array, heads: int, gates: int, size: int, dtype: DTypeLike
) -> jax.Array:
    """Draws `[N, D, G*D]`: for each head, from its D features to its part of each gate."""
    drawn = []
    for head_key in jax.random.split(key, heads):
        drawn.append(draw_gates(initializer, head_key, gates, (size, size), dtype))
    return jnp.stack(drawn)


def project_heads(h: jax.Array, kernel: jax.Array, bias: jax.Array | None) -> jax.Array:
    """`h @ kernel + bias` for each head; `[*B, G*H]`, gate by gate."""
    heads, size, columns = kernel.shape  # N, D, G*D
    if heads == 1:
        return affine(h, kernel[0], bias)
    batch, gates = h.shape[:-1], columns // size
    parts = h.reshape(*batch, heads, size).astype(kernel.dtype)
    u = jnp.einsum("...nd,ndg->...ng", parts, kernel, preferred_element_type=h.dtype)
    # From [*B, N, G, D], head by head, to [*B, G, N, D], gate by gate.
    u = jnp.swapaxes(u.reshape(*batch, heads, gates, size), -3, -2)
    u = u.reshape(*batch, gates * heads * size)
    if bias is None:
        return u
    return u + broadcast_to_rank(bias, u)
