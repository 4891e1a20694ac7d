"""The matrix memory of an mLSTM: parallel within chunks of steps, one chunk after another.

With F_ts the sum of log f over the steps after s up to t, the memory after step t holds v_s k_sᵀ from each step s up to
t with the weight exp(F_ts + log i_s). So what the queries of a chunk read is the product of queries and keys, weighed,
times the values, and what they read of the memory before the chunk. A masked step has log f = 0 and log i = -inf; what
stands before a reset has no weight.

A weight of 0 does not remove NaN: 0 times NaN is NaN. So steps and memories that are not finite enter the products as
zeros, and what would have read them is set to NaN afterwards.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from recurrax._arguments import check_fields, check_number
from recurrax._dtype import cast, compute_dtype, promote
from recurrax._layer import Layer, Params, State
from recurrax._mask import where
from recurrax.cells.mlstm import MLSTMCell, bounded_exp, read_out, weights, without_past


class _Memory(NamedTuple):
    c: jax.Array
    n: jax.Array
    m: jax.Array


class _Chunk(NamedTuple):
    """Some steps of every head: q, k, v `[*B, N, L, D]`; the rest `[*B, N, L]`.

    Attributes:
        q: the queries.
        k: the keys.
        v: the values.
        i: the logarithms of the input gate.
        f: the logarithms of the forget gate.
        broken: whether a step is not finite, so that it breaks the memory.
        restart: whether the memory returns to the initial one before a step, or None.
    """

    q: jax.Array
    k: jax.Array
    v: jax.Array
    i: jax.Array
    f: jax.Array
    broken: jax.Array
    restart: jax.Array | None


@dataclasses.dataclass(frozen=True)
class Chunked:
    """An `implementation` of `MLSTMCell` that is parallel within chunks: "chunked" is this one with its defaults.

    Work and memory within a chunk grow with the square of its length, those between chunks with their number; the
    derivative keeps one memory `[*B, N, D, D]` for each chunk and works out the rest again.

    Args:
        length: the number of steps of a chunk. From T on, there is one chunk: the fully parallel, quadratic form.

    Raises:
        ValueError: if `length` is not an int of at least 1; at the call, if the cell is no `MLSTMCell`.

    Example:
        >>> import jax, jax.numpy as jnp, recurrax
        >>> cell = recurrax.MLSTMCell(8, num_heads=2)
        >>> params = cell.init(jax.random.key(0), input_size=3)
        >>> state, ys = recurrax.scan(cell, params, jnp.ones((2, 70, 3)), implementation=recurrax.implementations.Chunked(32))
        >>> ys.shape
        (2, 70, 8)

    References:
        Beck et al., xLSTM 7B: A recurrent LLM for fast and efficient inference, 2025, https://arxiv.org/abs/2503.13427

        Beck et al., Tiled flash linear attention: More efficient linear RNN and xLSTM kernels, 2025,
        https://arxiv.org/abs/2503.14376
    """

    length: int = 64

    takes_composites: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_fields(self)
        check_number("length", self.length)

    def refuses(self, cell: Layer, *_: Any, **__: Any) -> str | None:
        """Why a cell cannot be run so, or None."""
        if isinstance(cell, MLSTMCell) and type(cell).step is MLSTMCell.step:
            return None
        return "it keeps no memory of keys and values."

    def run(
        self,
        cell: MLSTMCell,
        params: Params,
        state: State,
        xs: jax.Array,
        *,
        initial: State,
        mask: jax.Array | None,
        restart: jax.Array | None,
        reverse: bool,
        **_: Any,
    ) -> tuple[State, jax.Array]:
        """Takes one chunk after another; going backwards, along everything turned round."""
        if not len(xs):
            return state, jnp.zeros((*xs.shape[:-1], cell.hidden_size), xs.dtype)
        if reverse:
            xs, mask, restart = jax.tree.map(lambda a: jnp.flip(a, 0), (xs, mask, restart))
        compute = compute_dtype(cell, params, xs)
        sums = promote(jnp.float32, compute, state.c.dtype)
        q, k, v, o, i, f = cell.heads(
            cell.project_inputs(cast(params, compute), xs.astype(compute)), sums
        )
        # A gate may be -inf: nothing comes in, or nothing stays.
        broken = ~(
            _finite(q) & _finite(k) & _finite(v) & (i < jnp.inf) & (f < jnp.inf)
        )  # [T, *B, N]
        q, k, v, f = where(broken, jax.tree.map(jnp.zeros_like, (q, k, v, f)), (q, k, v, f))
        i = jnp.where(broken, -jnp.inf, i)
        if mask is not None:
            broken = where(mask, broken, jnp.zeros_like(broken))
            i, f = where(mask, i, jnp.full_like(i, -jnp.inf)), where(mask, f, jnp.zeros_like(f))
        heads_restart = None if restart is None else jnp.broadcast_to(restart[..., None], i.shape)

        def folded(a: jax.Array, fill: float = 0) -> jax.Array:
            # Behind the last step stand masked ones; an axis of features stays the last.
            a = jnp.pad(a, [(0, -len(xs) % length)] + [(0, 0)] * (a.ndim - 1), constant_values=fill)
            return jnp.moveaxis(a.reshape(number, length, *a.shape[1:]), 1, i.ndim - a.ndim - 1)

        length = min(self.length, len(xs))
        number = -(-len(xs) // length)  # not -1 in a shape, which an empty batch leaves open
        restarts = jax.tree.map(folded, heads_restart)
        gates = folded(i, -jnp.inf), folded(f)
        chunks = _Chunk(
            folded(q), folded(k), folded(v), gates[0], gates[1], folded(broken), restarts
        )
        before, at_reset = (cast(_Memory(*s[1:]), sums) for s in (state, initial))
        body = jax.checkpoint(functools.partial(_advance, at_reset), prevent_cse=False)
        after, reads = lax.scan(body, before, chunks)
        reads = jnp.moveaxis(reads, -2, 1)
        hs = o * reads.reshape(number * length, *q.shape[1:])[: len(xs)].reshape(o.shape)
        ys = hs.astype(xs.dtype)
        if mask is None:
            h = hs[-1]
        else:
            h = _last(mask, restart, hs, state.h.astype(sums), initial.h.astype(sums))
            ys = where(mask, ys, jnp.zeros_like(ys))
        state = jax.tree.map(lambda s, old: s.astype(old.dtype), type(state)(h, *after), state)
        return state, jnp.flip(ys, 0) if reverse else ys


def _finite(x: jax.Array) -> jax.Array:
    """Whether every feature of a head is finite."""
    return jnp.isfinite(x).all(axis=-1)


def _last(
    mask: jax.Array, restart: jax.Array | None, hs: jax.Array, h: jax.Array, initial: jax.Array
) -> jax.Array:
    """The h after the last step: that of the last real step, or the initial one where a reset comes after it."""
    last = mask & (lax.cumsum(mask.astype(jnp.int32), reverse=True) == 1)
    h = where(mask.any(0), where(last, hs, jnp.zeros_like(hs)).sum(0), h)
    if restart is None:
        return h
    behind = ~(
        lax.cumsum(mask.astype(jnp.int32), reverse=True) > 0
    )  # steps after the last real one
    return where((restart & behind).any(0), initial, h)


def _advance(at_reset: _Memory, memory: _Memory, chunk: _Chunk) -> tuple[_Memory, jax.Array]:
    """From the memory before a chunk to that after it and what its queries read, `[*B, N, L, D]`."""
    q, k, v, i, f, broken, restart = chunk
    lost = ~(
        jnp.isfinite(memory.c).all(axis=(-2, -1)) & _finite(memory.n) & jnp.isfinite(memory.m)
    )  # [*B, N]
    memory = where(lost, jax.tree.map(jnp.zeros_like, memory), memory)
    square = (*f.shape, f.shape[-1])
    same = jnp.broadcast_to(np.tri(f.shape[-1], dtype=bool), square)
    later = jnp.broadcast_to(np.tri(f.shape[-1], k=-1, dtype=bool), square)
    begun = None  # whether a segment has begun within the chunk
    if restart is not None:
        segment = jnp.cumsum(restart, axis=-1)
        begun = segment > 0
        same = same & (segment[..., :, None] == segment[..., None, :])

    def before(of_memory: Callable[[_Memory], Any], begun: jax.Array | None) -> Any:
        """What holds of the memory that a step's segment began with."""
        return (
            of_memory(memory)
            if begun is None
            else where(begun, of_memory(at_reset), of_memory(memory))
        )

    def product(subscripts: str, a: jax.Array, b: jax.Array) -> jax.Array:
        return jnp.einsum(
            subscripts, a.astype(q.dtype), b.astype(q.dtype), preferred_element_type=f.dtype
        )

    # Each sum of log f from its own terms: differences of sums from the start would lose what large terms cover.
    decay = jnp.cumsum(jnp.where(later, f[..., :, None], 0), axis=-2)
    present = jnp.where(same, decay + i[..., None, :], -jnp.inf)
    none, past = before(
        lambda kept: (without_past(kept.c, kept.n)[..., None], kept.m[..., None]), begun
    )
    past = past + jnp.where(same, f[..., None, :], 0).sum(-1)

    # What is read does not depend on its stabiliser, so no derivative needs to pass through it.
    m = jnp.maximum(present.max(-1), jnp.where(none, -jnp.inf, past))
    m = lax.stop_gradient(jnp.maximum(m, 0))
    inner = product("...td,...sd->...ts", q, k) * jnp.exp(present - m[..., None])
    outer = bounded_exp(past - m)

    values, normaliser = before(
        lambda kept: (
            product("...vk,...tk->...tv", kept.c, q),
            product("...k,...tk->...t", kept.n, q),
        ),
        begun,
    )
    values = product("...ts,...sv->...tv", inner, v) + outer[..., None] * values
    read = read_out(values, inner.sum(-1) + outer * normaliser, m)
    # Every step after a broken one, up to the end of its segment.
    spoiled = (same & broken[..., None, :]).any(-1)
    spoiled = spoiled | (lost[..., None] if begun is None else lost[..., None] & ~begun)
    read = jnp.where(spoiled[..., None], jnp.nan, read)

    # The memory after the chunk. With no real step in it, it is that before, whatever that says of a past.
    c, n = before(lambda kept: (kept.c, kept.n), None if begun is None else begun[..., -1])
    past, present, none = past[..., -1], present[..., -1, :], none[..., -1]
    local = present.max(-1)
    m, kept, _ = weights(past, local, none & (local > -jnp.inf))
    added = jnp.exp(present - m[..., None])[..., None]
    c = kept[..., None, None] * c + product("...sv,...sk->...vk", added * v.astype(f.dtype), k)
    n = kept[..., None] * n + (added * k.astype(f.dtype)).sum(-2)
    after = _Memory(c, n, m)
    return where(
        spoiled[..., -1], jax.tree.map(lambda a: jnp.full_like(a, jnp.nan), after), after
    ), read


DEFAULT = Chunked()
