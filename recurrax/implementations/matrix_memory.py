"""The matrix memory of an mLSTM: parallel within chunks of steps, one chunk after another.

Let F_ts be the sum of log f over the steps after s up to t. The memory after step t holds v_s k_sᵀ
from each step s up to t, with the weight exp(F_ts + log i_s). The queries of a chunk read two
terms. The first is the weighted product of queries and keys, times the values. The second comes
from the memory before the chunk. A masked step has log f = 0 and log i = -inf. Steps before a reset
have no weight.

A weight of 0 does not remove NaN: 0 times NaN is NaN. So steps and memories that are not finite
enter the products as zeros. Afterwards, every output that reads them is set to NaN.
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
from recurrax._mask import Steps, where
from recurrax.cells.mlstm import MLSTMCell, bounded_exp, read_out, weights, without_past


class _Memory(NamedTuple):
    """The memory of every head: c `[*B, N, D, D]`, n `[*B, N, D]` and m `[*B, N]`."""

    c: jax.Array
    n: jax.Array
    m: jax.Array


class _Chunk(NamedTuple):
    """The L steps of a chunk, for every head: q, k, v `[*B, N, L, D]`; the rest `[*B, N, L]`.

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
    """An `implementation` of `MLSTMCell` that is parallel within chunks of steps.

    The name "chunked" means this object with its defaults. Within a chunk, work and memory grow
    with the square of the length. Between chunks, they grow with the number of chunks. The
    derivative stores one memory `[*B, N, D, D]` for each chunk and computes the rest again.

    Args:
        length: the number of steps of a chunk. A length of T or more makes one chunk: the fully
            parallel, quadratic form.

    Raises:
        ValueError: if `length` is not an int of at least 1. At the call, if the cell is no
            `MLSTMCell`.

    Example:
        >>> import jax, jax.numpy as jnp, recurrax
        >>> cell = recurrax.MLSTMCell(8, num_heads=2)
        >>> params = cell.init(jax.random.key(0), input_size=3)
        >>> chunked = recurrax.implementations.Chunked(32)
        >>> state, ys = recurrax.scan(cell, params, jnp.ones((2, 70, 3)), implementation=chunked)
        >>> ys.shape
        (2, 70, 8)

    References:
        Beck et al., xLSTM 7B: A recurrent LLM for fast and efficient inference, 2025,
        https://arxiv.org/abs/2503.13427

        Beck et al., Tiled flash linear attention: More efficient linear RNN and xLSTM kernels,
        2025, https://arxiv.org/abs/2503.14376
    """

    length: int = 64

    takes_composites: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_fields(self)
        check_number("length", self.length)

    def refuses(self, cell: Layer, *_: Any) -> str | None:
        """Why this implementation cannot run a cell, or None."""
        if isinstance(cell, MLSTMCell) and cell.has_matrix_memory:
            return None
        return "it keeps no memory of keys and values."

    def run(
        self,
        cell: MLSTMCell,
        params: Params,
        state: State,
        xs: jax.Array,
        steps: Steps,
        *,
        initial: State,
        **_: Any,
    ) -> tuple[State, jax.Array]:
        """Takes one chunk after another. Backwards, it flips time before and after."""
        if not len(xs):
            return state, jnp.zeros((*xs.shape[:-1], cell.hidden_size), xs.dtype)  # [0, *B, H]
        if steps.reverse:
            xs, steps = jax.tree.map(lambda a: jnp.flip(a, 0), (xs, steps))
        mask, restart = steps.mask, steps.restart  # [T, *B] each, in the direction of the run
        compute = compute_dtype(cell, params, xs)
        sum_dtype = promote(jnp.float32, compute, state.c.dtype)
        zs = cell.project_inputs(cast(params, compute), xs.astype(compute))  # [T, *B, 4*H + 2*N]
        # q, k, v: [T, *B, N, D]; i, f: [T, *B, N]; o: [T, *B, H]
        q, k, v, o, i, f = cell.heads(zs, sum_dtype)
        # A gate of -inf is in order: nothing comes in, or nothing stays.
        finite_gates = (i < jnp.inf) & (f < jnp.inf)  # [T, *B, N]
        broken = ~(_is_finite(q) & _is_finite(k) & _is_finite(v) & finite_gates)  # [T, *B, N]
        # A broken step enters the products as zeros, with the weight 0.
        zeros = jax.tree.map(jnp.zeros_like, (q, k, v, f))
        q, k, v, f = where(broken, zeros, (q, k, v, f))
        i = jnp.where(broken, -jnp.inf, i)  # [T, *B, N]
        # A masked step changes nothing, and breaks nothing.
        if mask is not None:
            broken = where(mask, broken, jnp.zeros_like(broken))  # [T, *B, N]
            i = where(mask, i, jnp.full_like(i, -jnp.inf))  # [T, *B, N]
            f = where(mask, f, jnp.zeros_like(f))  # [T, *B, N]

        length = min(self.length, len(xs))
        # The number of chunks C, rounded up. In a shape, -1 would fail for an empty batch.
        number = -(-len(xs) // length)

        def split_chunks(a: jax.Array, fill: float = 0) -> jax.Array:
            # Masked steps fill the last chunk.
            ends = [(0, -len(xs) % length)] + [(0, 0)] * (a.ndim - 1)
            a = jnp.pad(a, ends, constant_values=fill)  # [C*L, *B, N, ...]
            a = a.reshape(number, length, *a.shape[1:])  # [C, L, *B, N, ...]
            # The steps move behind the heads. An axis of features stays the last.
            return jnp.moveaxis(a, 1, i.ndim - a.ndim)  # [C, *B, N, L, ...]

        head_restart = None
        if restart is not None:
            spread = jnp.broadcast_to(restart[..., None], i.shape)  # [T, *B, N]
            head_restart = split_chunks(spread)  # [C, *B, N, L]
        chunks = _Chunk(
            q=split_chunks(q),  # [C, *B, N, L, D]
            k=split_chunks(k),  # [C, *B, N, L, D]
            v=split_chunks(v),  # [C, *B, N, L, D]
            i=split_chunks(i, -jnp.inf),  # [C, *B, N, L]
            f=split_chunks(f),  # [C, *B, N, L]
            broken=split_chunks(broken),  # [C, *B, N, L]
            restart=head_restart,
        )
        # An `MLSTMState` is h and a memory. The loop keeps the memory alone.
        before = cast(_Memory(*state[1:]), sum_dtype)
        at_reset = cast(_Memory(*initial[1:]), sum_dtype)
        # The derivative stores the memory before each chunk, and computes the chunk again.
        advance = functools.partial(_advance_chunk, at_reset)
        body = jax.checkpoint(advance, prevent_cse=False)
        after, reads = lax.scan(body, before, chunks)  # reads [C, *B, N, L, D]
        reads = jnp.moveaxis(reads, -2, 1)  # [C, L, *B, N, D]
        reads = reads.reshape(number * length, *q.shape[1:])[: len(xs)]  # [T, *B, N, D]
        hs = o * reads.reshape(o.shape)  # [T, *B, H]
        ys = hs.astype(xs.dtype)  # [T, *B, H]
        h = hs[-1]  # [*B, H]
        if mask is not None:
            h_before, h_at_reset = state.h.astype(sum_dtype), initial.h.astype(sum_dtype)
            h = _final_h(mask, restart, hs, h_before, h_at_reset)  # [*B, H]
            ys = steps.zero_masked(ys)  # [T, *B, H]
        final = type(state)(h, *after)
        state = jax.tree.map(lambda new, old: new.astype(old.dtype), final, state)
        return state, jnp.flip(ys, 0) if steps.reverse else ys


def _is_finite(x: jax.Array) -> jax.Array:
    """Whether every feature of a head is finite: `[..., D]` gives `[...]`."""
    return jnp.isfinite(x).all(axis=-1)


def _final_h(
    mask: jax.Array,
    restart: jax.Array | None,
    hs: jax.Array,
    h: jax.Array,
    initial: jax.Array,
) -> jax.Array:
    """The h `[*B, H]` after the last unmasked step, or the initial h if a reset comes later."""
    # The number of unmasked steps from each step on; it is 1 at the last of them.
    still_to_come = lax.cumsum(mask.astype(jnp.int32), reverse=True)  # [T, *B]
    is_last = mask & (still_to_come == 1)  # [T, *B]
    last_h = where(is_last, hs, jnp.zeros_like(hs)).sum(0)  # [*B, H]
    h = where(mask.any(0), last_h, h)  # [*B, H]
    if restart is None:
        return h
    reset_later = (restart & (still_to_come == 0)).any(0)  # [*B]
    return where(reset_later, initial, h)  # [*B, H]


def _advance_chunk(at_reset: _Memory, memory: _Memory, chunk: _Chunk) -> tuple[_Memory, jax.Array]:
    """The memory after a chunk, and what its queries read, `[*B, N, L, D]`."""
    q, k, v, i, f, broken, restart = chunk
    # A memory that is not finite enters the products as zeros.
    finite = jnp.isfinite(memory.c).all(axis=(-2, -1)) & _is_finite(memory.n)  # [*B, N]
    lost = ~(finite & jnp.isfinite(memory.m))  # [*B, N]
    memory = where(lost, jax.tree.map(jnp.zeros_like, memory), memory)

    # Pairs of steps (t, s): which s a query at t may read, and which s come after another step.
    length = f.shape[-1]
    square = (*f.shape, length)  # [*B, N, L, L]
    same = jnp.broadcast_to(np.tri(length, dtype=bool), square)  # s <= t, in one segment
    later = jnp.broadcast_to(np.tri(length, k=-1, dtype=bool), square)  # s < t
    begun = None  # [*B, N, L]: whether a segment has begun within the chunk
    if restart is not None:
        segment = jnp.cumsum(restart, axis=-1)  # [*B, N, L]
        begun = segment > 0  # [*B, N, L]
        same = same & (segment[..., :, None] == segment[..., None, :])  # [*B, N, L, L]

    def at_segment_start(read: Callable[[_Memory], Any], begun: jax.Array | None) -> Any:
        # Reads the memory with which a step's segment began.
        if begun is None:
            return read(memory)
        return where(begun, read(at_reset), read(memory))

    def product(subscripts: str, a: jax.Array, b: jax.Array) -> jax.Array:
        # Factors in the dtype of the products, sums in a wider dtype.
        a, b = a.astype(q.dtype), b.astype(q.dtype)
        return jnp.einsum(subscripts, a, b, preferred_element_type=f.dtype)

    # Each sum of log f is a sum of its own terms.
    # A difference of two long sums would lose small terms beside large terms.
    decay = jnp.cumsum(jnp.where(later, f[..., :, None], 0), axis=-2)  # [*B, N, L, L]
    present = jnp.where(same, decay + i[..., None, :], -jnp.inf)  # [*B, N, L, L]
    no_past, past = at_segment_start(
        lambda held: (without_past(held.c, held.n)[..., None], held.m[..., None]), begun
    )  # [*B, N, L] or [*B, N, 1]
    past = past + jnp.where(same, f[..., None, :], 0).sum(-1)  # [*B, N, L]

    # The stabilizer m cancels in what is read, so no derivative passes through m.
    m = jnp.maximum(present.max(-1), jnp.where(no_past, -jnp.inf, past))  # [*B, N, L]
    m = lax.stop_gradient(jnp.maximum(m, 0))  # [*B, N, L]
    scores = product("...td,...sd->...ts", q, k) * jnp.exp(present - m[..., None])  # [*B, N, L, L]
    past_weight = bounded_exp(past - m)  # [*B, N, L]

    def read_memory(held: _Memory) -> tuple[jax.Array, jax.Array]:
        values = product("...vk,...tk->...tv", held.c, q)  # [*B, N, L, D]
        return values, product("...k,...tk->...t", held.n, q)  # [*B, N, L]

    past_values, past_normalizer = at_segment_start(read_memory, begun)
    values = product("...ts,...sv->...tv", scores, v)  # [*B, N, L, D]
    values = values + past_weight[..., None] * past_values  # [*B, N, L, D]
    normalizer = scores.sum(-1) + past_weight * past_normalizer  # [*B, N, L]
    read = read_out(values, normalizer, m)  # [*B, N, L, D]

    # A broken step spoils the later steps of its segment. So does a lost memory.
    spoiled = (same & broken[..., None, :]).any(-1)  # [*B, N, L]
    reads_lost = lost[..., None]  # [*B, N, 1]
    if begun is not None:
        reads_lost = reads_lost & ~begun  # [*B, N, L]
    spoiled = spoiled | reads_lost  # [*B, N, L]
    read = jnp.where(spoiled[..., None], jnp.nan, read)  # [*B, N, L, D]

    # The memory after the chunk: the same sums, for the last step alone.
    begun_at_end = None if begun is None else begun[..., -1]  # [*B, N]
    c, n = at_segment_start(lambda held: (held.c, held.n), begun_at_end)
    past, present, no_past = past[..., -1], present[..., -1, :], no_past[..., -1]
    local = present.max(-1)  # [*B, N]
    # A chunk without an unmasked step keeps the memory, even if nothing is stored in it.
    m, past_weight, _ = weights(past, local, no_past & (local > -jnp.inf))  # [*B, N]
    added = jnp.exp(present - m[..., None])[..., None]  # [*B, N, L, 1]
    new_c = product("...sv,...sk->...vk", added * v.astype(f.dtype), k)  # [*B, N, D, D]
    new_n = (added * k.astype(f.dtype)).sum(-2)  # [*B, N, D]
    c = past_weight[..., None, None] * c + new_c  # [*B, N, D, D]
    n = past_weight[..., None] * n + new_n  # [*B, N, D]
    after = _Memory(c, n, m)
    nan = jax.tree.map(lambda a: jnp.full_like(a, jnp.nan), after)
    return where(spoiled[..., -1], nan, after), read


DEFAULT = Chunked()
