"""Sums over all labellings of a chain: messages in both directions, log Z and its derivative.

With the scores A of transitions and e_t of labels, the messages are

    alpha_t[j] = e_t[j] + log sum_i exp(alpha_{t-1}[i] + A[i, j]),  alpha_1 = start + e_1
    beta_t[i] = log sum_j exp(A[i, j] + e_{t+1}[j] + beta_{t+1}[j]),  beta_T = end.

Then log Z = log sum_j exp(alpha_T[j] + end[j]), and its gradient is the marginals:

    p_t[j] = exp(alpha_t[j] + beta_t[j] - log Z).

This gradient is the derivative rule of `log_z`. The rule is made of operations that JAX can derive
again, so every order and both modes follow from it.

A masked step keeps both messages. A score of -inf forbids: every sum is right without a term too.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from recurrax._dtype import promote
from recurrax._mask import lengths_to_mask, where
from recurrax.losses._crf_constraints import Constraints


class CRFParams(NamedTuple):
    """The scores of a linear chain of L labels.

    Attributes:
        transitions: `[L, L]`: entry [i, j] is the score of label j after label i.
        start: `[L]`, the score of each label at the first step.
        end: `[L]`, the score of each label at the last step.
    """

    transitions: jax.Array
    start: jax.Array
    end: jax.Array


class Chain(NamedTuple):
    """The scores of a batch, with time first. A forbidden transition has the score -inf."""

    transitions: jax.Array  # [L, L]
    start: jax.Array  # [L]
    end: jax.Array  # [L]
    emissions: jax.Array  # [T, *B, L], zeros at masked steps
    mask: jax.Array  # bool[T, *B]
    first: jax.Array  # bool[T, *B], True at the first unmasked step of each row


def chain_of(
    params: CRFParams,
    emissions: jax.Array,
    lengths: Any,
    mask: Any,
    allowed: Constraints | None,
    time_major: bool,
) -> Chain:
    """Puts time first, makes one mask, and gives forbidden transitions the score -inf."""
    time = 0 if time_major else emissions.ndim - 2
    if lengths is not None:
        mask = jnp.moveaxis(lengths_to_mask(lengths, emissions.shape[time]), -1, time)
    dtypes = [part.dtype for part in params]
    dtype = promote(jnp.float32, emissions.dtype, *dtypes)
    emissions = jnp.moveaxis(emissions, time, 0).astype(dtype)  # [T, *B, L]
    # Flags made of the emissions bring their placement on a mesh.
    every = jnp.ones_like(emissions, dtype=bool).all(axis=-1)  # [T, *B]
    if mask is not None:
        every &= jnp.moveaxis(mask, time, 0)
    mask = every
    # NaN at a masked step must not reach a sum or its gradient.
    emissions = where(mask, emissions, jnp.zeros_like(emissions))
    first = mask & (jnp.cumsum(mask, axis=0, dtype=jnp.int32) == 1)
    scores = [part.astype(dtype) for part in params]
    if allowed is not None:
        for number, flags in enumerate(allowed.arrays):
            part = scores[number]
            scores[number] = jnp.where(flags, part, jnp.full_like(part, -jnp.inf))
    return Chain(*scores, emissions, mask, first)


def expanded(x: jax.Array, ndim: int) -> jax.Array:
    """Puts axes of size 1 before the axes of `x`, so that it has `ndim` axes."""
    return jnp.expand_dims(x, tuple(range(ndim - x.ndim)))


def finite(total: jax.Array) -> jax.Array:
    """Returns a sum to subtract: 0 in place of -inf, since -inf minus -inf is NaN."""
    return jnp.where(total == -jnp.inf, jnp.zeros_like(total), total)


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def logsumexp(x: jax.Array, axis: int) -> jax.Array:
    """The log of the sum of exp(x) over an axis; -inf, with a zero gradient, if all are -inf."""
    top = finite(jnp.max(x, axis=axis, keepdims=True))
    total = jnp.exp(x - top).sum(axis=axis)
    return jnp.log(total) + jnp.squeeze(top, axis)


@logsumexp.defjvp
def _logsumexp_jvp(axis: int, primals: tuple, tangents: tuple) -> tuple:
    (x,), (dx,) = primals, tangents
    total = logsumexp(x, axis)
    weights = jnp.exp(x - jnp.expand_dims(finite(total), axis))
    return total, (weights * dx).sum(axis=axis)


# The messages ------------------------------------------------------------------------------------


def forward(solver: str, chain: Chain) -> tuple[jax.Array, jax.Array]:
    """Returns alpha after the last step, `[*B, L]`, and after every step, `[T, *B, L]`."""
    zero = _zero(chain)  # [*B, L]
    if solver == "associative" and chain.emissions.shape[0]:
        products = lax.associative_scan(log_matmul, _factors(chain))  # [T, *B, L, L]
        # Every row of the factor of a first step is the same, so row 0 serves.
        alphas = products[..., 0, :]  # [T, *B, L]
        return alphas[-1], alphas
    transitions = expanded(chain.transitions, zero.ndim + 1)  # [..., L, L]
    start = zero + expanded(chain.start, zero.ndim)  # [*B, L]

    def advance(alpha: jax.Array, at: tuple) -> tuple[jax.Array, jax.Array]:
        emissions, mask, first = at  # [*B, L], [*B], [*B]
        reached = logsumexp(alpha[..., :, None] + transitions, -2)  # [*B, L]
        reached = where(first, start, reached) + emissions  # [*B, L]
        alpha = where(mask, reached, alpha)  # [*B, L]
        return alpha, alpha

    return lax.scan(advance, zero, (chain.emissions, chain.mask, chain.first))


def backward(solver: str, chain: Chain) -> jax.Array:
    """Returns beta at every step, `[T, *B, L]`."""
    zero = _zero(chain)  # [*B, L]
    end = zero + expanded(chain.end, zero.ndim)  # [*B, L]
    if solver == "associative" and chain.emissions.shape[0]:
        # In reverse the later factor comes first.
        flipped = lambda later, earlier: log_matmul(earlier, later)  # noqa: E731
        products = lax.associative_scan(flipped, _factors(chain), reverse=True)  # [T, *B, L, L]
        ahead = products[1:] + expanded(end, products.ndim - 1)[..., None, :]  # [T-1, *B, L, L]
        return jnp.concatenate([logsumexp(ahead, -1), end[None]])  # [T, *B, L]
    transitions = expanded(chain.transitions, zero.ndim + 1)  # [..., L, L]

    def retreat(beta: jax.Array, at: tuple) -> tuple[jax.Array, jax.Array]:
        emissions, mask = at  # [*B, L], [*B]
        ahead = (emissions + beta)[..., None, :]  # [*B, 1, L]
        before = logsumexp(transitions + ahead, -1)  # [*B, L]
        return where(mask, before, beta), beta

    return lax.scan(retreat, end, (chain.emissions, chain.mask), reverse=True)[1]


def _zero(chain: Chain) -> jax.Array:
    """Zeros `[*B, L]` in the placement of the emissions."""
    return jnp.zeros_like(chain.emissions).sum(axis=0)


def _factors(chain: Chain) -> jax.Array:
    """The scores of each step as a matrix, `[T, *B, L, L]`, from the label before to the label."""
    emissions = chain.emissions[..., None, :]  # [T, *B, 1, L]
    factors = expanded(chain.transitions, emissions.ndim) + emissions  # [T, *B, L, L]
    # A masked step is the identity: 1 has the log 0, and 0 has the log -inf.
    size = chain.start.shape[0]
    off = jnp.where(jnp.eye(size, dtype=bool), 0.0, -jnp.inf).astype(factors.dtype)  # [L, L]
    identity = jnp.zeros_like(factors) + expanded(off, factors.ndim)  # [T, *B, L, L]
    # The first step does not depend on a label before.
    begins = jnp.zeros_like(factors) + expanded(chain.start, factors.ndim) + emissions
    factors = where(chain.first, begins, factors)
    return where(chain.mask, factors, identity)


def log_matmul(a: jax.Array, b: jax.Array) -> jax.Array:
    """The product of matrices in logs: log sum_k exp(a[i, k] + b[k, j])."""
    return logsumexp(a[..., :, :, None] + b[..., None, :, :], -2)  # [..., L, L]


# Log Z and its derivative ------------------------------------------------------------------------


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def log_z(solver: str, chain: Chain) -> jax.Array:
    """The log of the sum over all labellings, `[*B]`; 0 for a row without an unmasked step."""
    return _total(chain, forward(solver, chain)[0])


def _total(chain: Chain, alpha: jax.Array) -> jax.Array:
    total = logsumexp(alpha + expanded(chain.end, alpha.ndim), -1)  # [*B]
    return where(chain.mask.any(axis=0), total, jnp.zeros_like(total))


@log_z.defjvp
def _log_z_jvp(solver: str, primals: tuple, tangents: tuple) -> tuple[jax.Array, jax.Array]:
    (chain,), (dchain,) = primals, tangents
    messages = messages_of(solver, chain)
    unary = marginals_of(chain, messages)  # [T, *B, L]
    # Each probability times the tangent of the score that it belongs to.
    dscores = dchain.emissions  # [T, *B, L]
    dstart = jnp.zeros_like(dscores) + expanded(dchain.start, dscores.ndim)
    dscores = dscores + where(chain.first, dstart, jnp.zeros_like(dstart))
    dtotal = (unary * dscores).sum(axis=(0, -1))  # [*B]
    last = last_marginals(chain, messages)  # [*B, L]
    dtotal += (last * expanded(dchain.end, last.ndim)).sum(axis=-1)
    return messages.total, dtotal + _from_pairs(chain, messages, dchain.transitions)


class Messages(NamedTuple):
    """The messages of a chain, and what follows from them."""

    final: jax.Array  # [*B, L], alpha after the last step
    befores: jax.Array  # [T, *B, L], alpha before each step
    alphas: jax.Array  # [T, *B, L]
    betas: jax.Array  # [T, *B, L]
    total: jax.Array  # [*B], log Z


def messages_of(solver: str, chain: Chain) -> Messages:
    """Computes both directions."""
    final, alphas = forward(solver, chain)
    befores = jnp.concatenate([jnp.zeros_like(alphas[:1]), alphas[:-1]])  # [T, *B, L]
    return Messages(final, befores, alphas, backward(solver, chain), _total(chain, final))


def _probabilities(flags: jax.Array, scores: jax.Array) -> jax.Array:
    """exp(scores) where a flag is set, else 0. A score without a flag may be of any size."""
    return jnp.exp(where(flags, scores, jnp.full_like(scores, -jnp.inf)))


def marginals_of(chain: Chain, messages: Messages) -> jax.Array:
    """The probability of each label at each step, `[T, *B, L]`; 0 at masked steps."""
    scores = messages.alphas + messages.betas  # [T, *B, L]
    return _probabilities(chain.mask, scores - finite(messages.total)[None, ..., None])


def last_marginals(chain: Chain, messages: Messages) -> jax.Array:
    """The probability of each label at the last unmasked step, `[*B, L]`."""
    scores = messages.final + expanded(chain.end, messages.final.ndim)  # [*B, L]
    scores -= finite(messages.total)[..., None]
    return _probabilities(chain.mask.any(axis=0), scores)


def pair_marginals(
    chain: Chain, before: jax.Array, ahead: jax.Array, joined: jax.Array, total: jax.Array
) -> jax.Array:
    """The probability of each pair of labels, `[..., L, L]`, from the messages at both ends."""
    scores = before[..., :, None] + ahead[..., None, :]  # [..., L, L]
    scores += expanded(chain.transitions, scores.ndim)
    return _probabilities(joined, scores - finite(total)[..., None, None])


def pair_arguments(chain: Chain, messages: Messages) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The messages at both ends of each transition, `[T, *B, L]`, and whether there is one."""
    joined = chain.mask & ~chain.first  # [T, *B]
    return messages.befores, chain.emissions + messages.betas, joined


def _from_pairs(chain: Chain, messages: Messages, dtransitions: jax.Array) -> jax.Array:
    """The share of the transitions in the tangent of log Z, `[*B]`."""

    def add(share: jax.Array, at: tuple) -> tuple[jax.Array, None]:
        pairs = pair_marginals(chain, *at, messages.total)  # [*B, L, L]
        moved = pairs * expanded(dtransitions, pairs.ndim)  # [*B, L, L]
        return share + moved.sum(axis=(-2, -1)), None

    # One step at a time: the pairs of all steps would need memory of T * L * L a row. The
    # checkpoint computes them again instead of keeping them.
    add = jax.checkpoint(add, prevent_cse=False)
    zero = jnp.zeros_like(messages.total)
    return lax.scan(add, zero, pair_arguments(chain, messages))[0]


def entropy_of(chain: Chain) -> jax.Array:
    """The entropy of the labelling, `[*B]`.

    With q[i, j] = p(y_{t-1} = i | y_t = j), the entropy of the steps up to t, given y_t = j, is

        h_t[j] = sum_i q[i, j] * (h_{t-1}[i] - log q[i, j]).

    Unlike log Z minus the mean score, no large numbers cancel.
    """
    zero = _zero(chain)  # [*B, L]
    transitions = expanded(chain.transitions, zero.ndim + 1)  # [..., L, L]
    start = zero + expanded(chain.start, zero.ndim)  # [*B, L]

    def gathered(scores: jax.Array, h: jax.Array, total: jax.Array) -> jax.Array:
        # The mean of h - log q over the axis before the last, weighted by q = exp(scores - total).
        logs = scores - finite(total)[..., None, :]  # [*B, L, L]
        weights = jnp.exp(logs)
        return (weights * (h[..., :, None] - finite(logs))).sum(axis=-2)  # [*B, L]

    def advance(before: tuple, at: tuple) -> tuple[tuple, None]:
        alpha, h = before  # [*B, L] each
        emissions, mask, first = at
        scores = alpha[..., :, None] + transitions  # [*B, L, L]
        reached = logsumexp(scores, -2)  # [*B, L]
        after = gathered(scores, h, reached)
        after = where(first, zero, after)
        reached = where(first, start, reached) + emissions
        return where(mask, (reached, after), before), None

    (alpha, h), _ = lax.scan(advance, (zero, zero), (chain.emissions, chain.mask, chain.first))
    scores = (alpha + expanded(chain.end, zero.ndim))[..., :, None]  # [*B, L, 1]
    total = gathered(scores, h, logsumexp(scores, -2))[..., 0]  # [*B]
    return where(chain.mask.any(axis=0), total, jnp.zeros_like(total))


# The score of one labelling ----------------------------------------------------------------------


def score_of(chain: Chain, labels: jax.Array) -> jax.Array:
    """The score of each row's labelling, `[*B]`; -inf if it is forbidden, NaN if out of range.

    `labels` are `int[T, *B]`. Labels of masked steps have no influence.
    """
    size, dtype = chain.start.shape[0], chain.emissions.dtype
    known = (labels >= 0) & (labels < size)  # [T, *B]
    is_label = one_hot(labels, size) & chain.mask[..., None]  # [T, *B, L]
    # Reading with flags has no scatter in its gradient, and keeps the placement on a mesh.
    own = _read(is_label, chain.emissions)  # [T, *B]
    start = expanded(chain.start, is_label.ndim)
    own += _read(is_label & chain.first[..., None], start)
    # The last label and the label before each step: masked steps lie between, so the greatest of
    # `t * L + label` so far tells.
    steps = lax.broadcasted_iota(jnp.int32, labels.shape, 0)
    codes = jnp.where(chain.mask, steps * size + labels.astype(jnp.int32), -1)
    codes = jnp.concatenate([jnp.full_like(codes[:1], -1), lax.cummax(codes, axis=0)])  # [T+1, *B]
    is_before = one_hot(jnp.where(codes < 0, -1, codes % size), size)  # [T+1, *B, L]
    end = _read(is_before[-1], expanded(chain.end, is_before.ndim - 1))  # [*B]
    # Row `label before` of the transitions, by a product. It must not meet an infinite score.
    forbidden = chain.transitions == -jnp.inf  # [L, L]
    scores = jnp.where(forbidden, jnp.zeros_like(chain.transitions), chain.transitions)
    rows = jnp.matmul(is_before[:-1].astype(dtype), scores, precision="highest")  # [T, *B, L]
    crossed = jnp.matmul(is_before[:-1].astype(dtype), forbidden.astype(dtype))  # [T, *B, L]
    total = (own + _read(is_label, rows)).sum(axis=0) + end  # [*B]
    is_forbidden = (is_label & (crossed > 0)).any(axis=(0, -1))  # [*B]
    total = jnp.where(is_forbidden, jnp.full_like(total, -jnp.inf), total)
    valid = (known | ~chain.mask).all(axis=0)  # [*B]
    return jnp.where(valid, total, jnp.full_like(total, jnp.nan))


def one_hot(labels: jax.Array, size: int) -> jax.Array:
    """Flags `[..., L]` of the labels `[...]`; no flag for a label out of range."""
    expanded_labels = labels[..., None]
    numbers = lax.broadcasted_iota(labels.dtype, (*labels.shape, size), labels.ndim)
    return expanded_labels == numbers


def _read(flags: jax.Array, values: jax.Array) -> jax.Array:
    """The value where a flag of the last axis is set; 0 without a flag."""
    values = jnp.broadcast_to(values, flags.shape)
    return jnp.where(flags, values, jnp.zeros_like(values)).sum(axis=-1)
