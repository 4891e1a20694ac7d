"""Sums over all labelings of a chain: messages in both directions, log Z and its derivative.

With the scores A of transitions and e_t of labels, the messages are

    alpha_t[j] = e_t[j] + log sum_i exp(alpha_{t-1}[i] + A[i, j]),  alpha_1 = start + e_1
    beta_t[i] = log sum_j exp(A[i, j] + e_{t+1}[j] + beta_{t+1}[j]),  beta_T = end.

The greatest entry is subtracted from each message, so messages stay small over many steps. The sum
of these entries of alpha is a part of log Z. Probabilities do not change with a message's shift:

    p(y_t = j) = softmax_j(alpha_t[j] + beta_t[j])
    p(y_{t-1} = i | y_t = j) = softmax_i(alpha_{t-1}[i] + A[i, j]).

They are the gradient of log Z, and the derivative rule of `log_z` uses them. JAX can derive the
rule again. So every order and both modes follow from it.

A step has two forms. The exact form sums over a `[*B, L, L]` array, and is right for all scores.
The fast form is a matrix product, exp(alpha) @ exp(A), and then a log. It is right unless a sum of
the product underflows. The sums show this, and then the exact form computes all steps again.

A masked step keeps both messages. A score of -inf forbids: a log-sum leaves its term out.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
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
    # False where the constraints forbid every labeling up to this label; None without constraints.
    reached: jax.Array | None  # bool[T, *B, L]
    # False where they forbid every labeling from a label before this step to the end.
    leading: jax.Array | None  # bool[T, *B, L]


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
    every_label = jnp.ones_like(emissions, dtype=bool)  # [T, *B, L]
    every_step = every_label.all(axis=-1)  # [T, *B]
    if mask is not None:
        every_step &= jnp.moveaxis(mask, time, 0)
    mask = every_step
    # NaN at a masked step must not reach a sum or its gradient.
    emissions = where(mask, emissions, jnp.zeros_like(emissions))
    number = jnp.cumsum(mask, axis=0, dtype=jnp.int32)  # [T, *B], of unmasked steps so far
    first = mask & (number == 1)
    transitions, start, end = (part.astype(dtype) for part in params)
    if allowed is None:
        return Chain(transitions, start, end, emissions, mask, first, None, None)
    remaining = number[-1:] - number + 1  # [T, *B], of unmasked steps from this one on
    after_start = steps_from(allowed.start, allowed.transitions)
    before_end = steps_from(allowed.end, allowed.transitions.T)
    return Chain(
        _forbidding(allowed.transitions, transitions),
        _forbidding(allowed.start, start),
        _forbidding(allowed.end, end),
        emissions,
        mask,
        first,
        every_label & _at(number - 1, after_start),
        every_label & _at(remaining, before_end),
    )


def _forbidding(allowed: np.ndarray, scores: jax.Array) -> jax.Array:
    """The scores, with -inf where the flags forbid; no gradient reaches a forbidden score."""
    return jnp.where(allowed, scores, jnp.full_like(scores, -jnp.inf))


def steps_from(start: np.ndarray, transitions: np.ndarray) -> list[np.ndarray]:
    """The labels that are reached in 0, 1, 2, ... steps, until these do not change.

    If they go on changing, as labels in turn do, all labels stand at the end.
    """
    flags = [start]
    for _ in range(_MOST_CHANGES):
        after = transitions[flags[-1]].any(axis=0)
        if (after == flags[-1]).all():
            return flags
        flags.append(after)
    return [*flags, np.ones_like(start)]


# Constraints such as BIO need one change. The table must stay short.
_MOST_CHANGES = 8


def _at(number: jax.Array, table: list[np.ndarray]) -> jax.Array:
    """Entry `number` of the table, `[..., L]`, or its last entry for greater numbers."""
    number = number[..., None]  # [..., 1]
    found = (number >= len(table) - 1) & expanded(jnp.asarray(table[-1]), number.ndim)
    for place, flags in enumerate(table[:-1]):
        found |= (number == place) & expanded(jnp.asarray(flags), number.ndim)
    return found


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


class Alphas(NamedTuple):
    """The messages from the start, each less its greatest entry."""

    final: jax.Array  # [*B, L], after the last step
    every: jax.Array  # [T, *B, L], after each step
    scale: jax.Array  # [*B], the sum of the subtracted entries


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def forward(solver: str, chain: Chain) -> Alphas:
    """Computes alpha at every step."""
    if solver == "associative" and chain.emissions.shape[0]:
        return _forward_at_once(chain)
    alphas, is_exact = _forward_fast(chain)
    return lax.cond(is_exact, lambda: alphas, lambda: _forward_exact(chain))


@forward.defjvp
def _forward_jvp(solver: str, primals: tuple, tangents: tuple) -> tuple[Alphas, Alphas]:
    # Only a derivative of the second order comes here.
    return jax.jvp(_forward_exact, primals, tangents)


def _forward_exact(chain: Chain) -> Alphas:
    """The exact form: a log-sum over an array `[*B, L, L]` at each step."""
    transitions = expanded(chain.transitions, chain.emissions.ndim)  # [..., L, L]

    def sums(alpha: jax.Array) -> jax.Array:
        return logsumexp(alpha[..., :, None] + transitions, -2)  # [*B, L]

    return _forward_by(lambda alpha, *_: (sums(alpha), None), chain)[0]


def _forward_fast(chain: Chain) -> tuple[Alphas, jax.Array]:
    """The messages, and whether no sum has underflowed."""
    kernel, top = _kernel(chain.transitions)  # [L, L], [L]
    top = expanded(top, chain.emissions.ndim - 1)  # [..., L]

    def sums(alpha: jax.Array, joined: jax.Array, reached: Any) -> tuple[jax.Array, jax.Array]:
        total = _product(jnp.exp(alpha), kernel)  # [*B, L]
        return jnp.log(total) + top, ~joined | _is_exact(total, reached)

    alphas, is_exact = _forward_by(sums, chain)
    return alphas, is_exact.all()


def _forward_by(sums: Callable, chain: Chain) -> tuple[Alphas, Any]:
    """Takes one step after another; `sums` gives the log-sums of a step, and a flag beside them."""
    zero = _zero(chain)  # [*B, L]
    start = zero + expanded(chain.start, zero.ndim)  # [*B, L]

    def advance(alpha: jax.Array, at: tuple) -> tuple[jax.Array, tuple]:
        emissions, mask, first, reached = at  # [*B, L], [*B], [*B], [*B, L]
        total, flag = sums(alpha, mask & ~first, reached)
        after = where(first, start, total) + emissions  # [*B, L]
        top = _top(after, -1)  # [*B, 1]
        alpha = where(mask, after - top, alpha)  # [*B, L]
        return alpha, (alpha, where(mask, top[..., 0], zero[..., 0]), flag)

    # A derivative computes the sums again. To keep them would need memory of T * L * L a row.
    advance = jax.checkpoint(advance, prevent_cse=False)
    sequence = (chain.emissions, chain.mask, chain.first, chain.reached)
    final, (alphas, tops, flags) = lax.scan(advance, zero, sequence)
    return Alphas(final, alphas, tops.sum(axis=0)), flags


def _forward_at_once(chain: Chain) -> Alphas:
    factors = _factors(chain)  # [T, *B, L, L]
    start = (factors, jnp.zeros_like(factors[..., 0, 0]))
    products, scales = lax.associative_scan(_joined, start)  # [T, *B, L, L], [T, *B]
    # Every row of the factor of a first step is the same, so row 0 serves.
    alphas = products[..., 0, :]  # [T, *B, L]
    tops = _top(alphas, -1)  # [T, *B, 1]
    alphas -= tops
    return Alphas(alphas[-1], alphas, scales[-1] + tops[-1, ..., 0])


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def backward(solver: str, chain: Chain) -> jax.Array:
    """Computes beta at every step, `[T, *B, L]`."""
    if solver == "associative" and chain.emissions.shape[0]:
        return _backward_at_once(chain)
    betas, is_exact = _backward_fast(chain)
    return lax.cond(is_exact, lambda: betas, lambda: _backward_exact(chain))


@backward.defjvp
def _backward_jvp(solver: str, primals: tuple, tangents: tuple) -> tuple[jax.Array, jax.Array]:
    return jax.jvp(_backward_exact, primals, tangents)


def _backward_exact(chain: Chain) -> jax.Array:
    """The exact form, as `_forward_exact`."""
    transitions = expanded(chain.transitions, chain.emissions.ndim)  # [..., L, L]

    def sums(ahead: jax.Array) -> jax.Array:
        return logsumexp(transitions + ahead[..., None, :], -1)  # [*B, L]

    return _backward_by(lambda ahead, *_: (sums(ahead), None), chain)[0]


def _backward_fast(chain: Chain) -> tuple[jax.Array, jax.Array]:
    """The messages, and whether no sum has underflowed."""
    kernel, top = _kernel(chain.transitions.T)  # [L, L], [L]
    top = expanded(top, chain.emissions.ndim - 1)  # [..., L]

    def sums(ahead: jax.Array, joined: jax.Array, leading: Any) -> tuple[jax.Array, jax.Array]:
        shift = _top(ahead, -1)  # [*B, 1]
        total = _product(jnp.exp(ahead - shift), kernel)  # [*B, L]
        return jnp.log(total) + top + shift, ~joined | _is_exact(total, leading)

    betas, is_exact = _backward_by(sums, chain)
    return betas, is_exact.all()


def _backward_by(sums: Callable, chain: Chain) -> tuple[jax.Array, Any]:
    """The same from the last step to the first."""
    zero = _zero(chain)  # [*B, L]
    end = zero + expanded(chain.end, zero.ndim)  # [*B, L]

    def retreat(beta: jax.Array, at: tuple) -> tuple[jax.Array, tuple]:
        emissions, mask, first, leading = at  # [*B, L], [*B], [*B], [*B, L]
        before, flag = sums(emissions + beta, mask & ~first, leading)
        before = where(mask, before - _top(before, -1), beta)  # [*B, L]
        return before, (beta, flag)

    retreat = jax.checkpoint(retreat, prevent_cse=False)
    sequence = (chain.emissions, chain.mask, chain.first, chain.leading)
    return lax.scan(retreat, end, sequence, reverse=True)[1]


def _backward_at_once(chain: Chain) -> jax.Array:
    factors = _factors(chain)  # [T, *B, L, L]
    start = (factors, jnp.zeros_like(factors[..., 0, 0]))
    # In reverse the later factor comes first.
    flipped = lambda later, earlier: _joined(earlier, later)  # noqa: E731
    products, _ = lax.associative_scan(flipped, start, reverse=True)  # [T, *B, L, L]
    ahead = products[1:] + expanded(chain.end, products.ndim)  # [T-1, *B, L, L]
    end = _zero(chain) + expanded(chain.end, products.ndim - 2)  # [*B, L]
    betas = jnp.concatenate([logsumexp(ahead, -1), end[None]])  # [T, *B, L]
    return betas - _top(betas, -1)


def _kernel(transitions: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The exp of transitions, each column less its greatest entry, and these entries `[L]`."""
    top = _top(transitions, 0)  # [1, L]
    return jnp.exp(transitions - top), top[0]


def _product(x: jax.Array, kernel: jax.Array) -> jax.Array:
    # Without "highest", accelerators round the factors of a product.
    return jnp.matmul(x, kernel, precision="highest")


def _is_exact(total: jax.Array, wanted: jax.Array | None) -> jax.Array:
    """Whether no sum that is wanted has underflowed, `[...]` for sums `[..., L]`.

    A term that is lost is below the least number of the dtype, about 1e-38. So a sum that is far
    above this number is right.
    """
    enough = total >= _LEAST
    if wanted is not None:
        enough |= ~wanted
    return enough.all(axis=-1)


# Far above the least number, 1e-38, and far below any sum of ordinary scores.
_LEAST = 1e-30


def _top(x: jax.Array, axis: int | tuple[int, ...]) -> jax.Array:
    """The greatest entries over an axis, which stays with size 1; 0 for -inf.

    They are constants for derivatives, since a result adds again whatever a message subtracts.
    """
    return finite(lax.stop_gradient(jnp.max(x, axis=axis, keepdims=True)))


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


def _joined(earlier: tuple, later: tuple) -> tuple[jax.Array, jax.Array]:
    """The product of two matrices in logs, less its greatest entry, and the sum of those entries.

    log sum_k exp(a[i, k] + b[k, j])
    """
    (a, scale_a), (b, scale_b) = earlier, later  # [..., L, L], [...]
    product = logsumexp(a[..., :, :, None] + b[..., None, :, :], -2)  # [..., L, L]
    top = _top(product, (-2, -1))  # [..., 1, 1]
    return product - top, scale_a + scale_b + top[..., 0, 0]


# Log Z and its derivative ------------------------------------------------------------------------


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def log_z(solver: str, chain: Chain) -> jax.Array:
    """The log of the sum over all labelings, `[*B]`; 0 for a row without an unmasked step."""
    return _total(chain, forward(solver, chain))


def _total(chain: Chain, alphas: Alphas) -> jax.Array:
    ended = alphas.final + expanded(chain.end, alphas.final.ndim)  # [*B, L]
    total = alphas.scale + logsumexp(ended, -1)  # [*B]
    return where(chain.mask.any(axis=0), total, jnp.zeros_like(total))


@log_z.defjvp
def _log_z_jvp(solver: str, primals: tuple, tangents: tuple) -> tuple[jax.Array, jax.Array]:
    (chain,), (dchain,) = primals, tangents
    alphas = forward(solver, chain)
    unary = label_marginals(chain, alphas, backward(solver, chain))  # [T, *B, L]
    # Each probability times the tangent of the score that it belongs to.
    dscores = dchain.emissions  # [T, *B, L]
    dstart = jnp.zeros_like(dscores) + expanded(dchain.start, dscores.ndim)
    dscores = dscores + where(chain.first, dstart, jnp.zeros_like(dstart))
    dtotal = (unary * dscores).sum(axis=(0, -1))  # [*B]
    last = softmax(alphas.final + expanded(chain.end, alphas.final.ndim), -1)  # [*B, L]
    last = where(chain.mask.any(axis=0), last, jnp.zeros_like(last))
    dtotal += (last * expanded(dchain.end, last.ndim)).sum(axis=-1)
    counts = pair_counts(chain.transitions, *pair_arguments(chain, alphas, unary))  # [*B, L, L]
    dtotal += (counts * expanded(dchain.transitions, counts.ndim)).sum(axis=(-2, -1))
    return _total(chain, alphas), dtotal


def softmax(x: jax.Array, axis: int) -> jax.Array:
    """exp(x) over its sum; 0 if all are -inf."""
    return jnp.exp(x - jnp.expand_dims(finite(logsumexp(x, axis)), axis))


def label_marginals(chain: Chain, alphas: Alphas, betas: jax.Array) -> jax.Array:
    """The probability of each label at each step, `[T, *B, L]`; 0 at masked steps."""
    unary = softmax(alphas.every + betas, -1)  # [T, *B, L]
    return where(chain.mask, unary, jnp.zeros_like(unary))


def pair_arguments(chain: Chain, alphas: Alphas, unary: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The messages before each transition, and the probabilities of the labels after it.

    Both are `[T, *B, L]`. The probabilities are 0 where a step has no unmasked step before it.
    """
    # Entry t - 1 is the message of the last unmasked step before step t. At the first step it has
    # no effect.
    before = jnp.concatenate([jnp.zeros_like(unary[:1]), alphas.every[:-1]])
    joined = chain.mask & ~chain.first  # [T, *B]
    return before, where(joined, unary, jnp.zeros_like(unary))


def pair_marginals(transitions: jax.Array, before: jax.Array, after: jax.Array) -> jax.Array:
    """The probability of each pair of labels, `[..., L, L]`, from arrays `[..., L]` as above."""
    scores = before[..., :, None] + expanded(transitions, before.ndim + 1)  # [..., L, L]
    return softmax(scores, -2) * after[..., None, :]


@jax.custom_jvp
def pair_counts(transitions: jax.Array, before: jax.Array, after: jax.Array) -> jax.Array:
    """The sums of the pairs' probabilities over time, `[*B, L, L]`."""
    kernel, _ = _kernel(transitions)  # [L, L]
    start = jnp.exp(before)  # [T, *B, L]
    total = _product(start, kernel)  # [T, *B, L]
    is_exact = _is_exact(total, after != 0).all()

    def fast() -> jax.Array:
        # A pair's probability is start[i] * kernel[i, j] / total[j] * after[j].
        ends = jnp.where(after == 0, jnp.zeros_like(after), after / total)  # [T, *B, L]
        counts = jnp.einsum("t...i,t...j->...ij", start, ends, precision="highest")
        return counts * expanded(kernel, counts.ndim)

    return lax.cond(is_exact, fast, lambda: _pair_counts_exact(transitions, before, after))


@pair_counts.defjvp
def _pair_counts_jvp(primals: tuple, tangents: tuple) -> tuple[jax.Array, jax.Array]:
    # Only a derivative of the second order comes here.
    return jax.jvp(_pair_counts_exact, primals, tangents)


def _pair_counts_exact(transitions: jax.Array, before: jax.Array, after: jax.Array) -> jax.Array:
    # One step at a time: the pairs of all steps would need memory of T * L * L a row.
    def add(counts: jax.Array, at: tuple) -> tuple[jax.Array, None]:
        return counts + pair_marginals(transitions, *at), None

    add = jax.checkpoint(add, prevent_cse=False)
    zero = jnp.zeros_like(after).sum(axis=0)  # [*B, L]
    zeros = zero[..., None] + zero[..., None, :]  # [*B, L, L]
    return lax.scan(add, zeros, (before, after))[0]


def entropy_of(chain: Chain) -> jax.Array:
    """The entropy of the labeling, `[*B]`.

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
        reached -= _top(reached, -1)
        return where(mask, (reached, after), before), None

    (alpha, h), _ = lax.scan(advance, (zero, zero), (chain.emissions, chain.mask, chain.first))
    scores = (alpha + expanded(chain.end, zero.ndim))[..., :, None]  # [*B, L, 1]
    total = gathered(scores, h, logsumexp(scores, -2))[..., 0]  # [*B]
    return where(chain.mask.any(axis=0), total, jnp.zeros_like(total))


# The score of one labeling ----------------------------------------------------------------------


def score_of(chain: Chain, labels: jax.Array) -> jax.Array:
    """The score of each row's labeling, `[*B]`; -inf if it is forbidden, NaN if out of range.

    `labels` are `int[T, *B]`. Labels of masked steps have no influence.
    """
    size, dtype = chain.start.shape[0], chain.emissions.dtype
    known = (labels >= 0) & (labels < size)  # [T, *B]
    is_label = one_hot(labels, size) & chain.mask[..., None]  # [T, *B, L]
    # Reading with flags has no scatter in its gradient, and keeps the placement on a mesh.
    own = _read(is_label, chain.emissions)  # [T, *B]
    start = expanded(chain.start, is_label.ndim)
    own += _read(is_label & chain.first[..., None], start)
    # The label before each step, and the last label. Masked steps may lie between. The greatest of
    # `t * L + label` so far belongs to the last unmasked step, and holds its label.
    steps = lax.broadcasted_iota(jnp.int32, labels.shape, 0)
    codes = jnp.where(chain.mask, steps * size + labels.astype(jnp.int32), -1)
    padding = [(1, 0)] + [(0, 0)] * (codes.ndim - 1)
    codes = jnp.pad(lax.cummax(codes, axis=0), padding, constant_values=-1)  # [T+1, *B]
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
    # Adding to zeros made of the flags gives the values the placement of the flags.
    zeros = jnp.zeros_like(flags, dtype=values.dtype)
    return jnp.where(flags, zeros + values, zeros).sum(axis=-1)
