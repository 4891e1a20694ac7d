"""Linear-chain conditional random fields: a distribution over the labelings of a sequence.

A labeling y of T steps has the score

    score(y) = start[y_1] + sum_t emissions[t, y_t] + sum_t transitions[y_{t-1}, y_t] + end[y_T],

and the probability exp(score(y) - log Z), where Z is the sum of exp(score) over all labelings.
Emissions come from a network, such as a bidirectional LSTM. The other scores are parameters.

Every function takes `emissions` `[*B, T, L]` with any number of batch axes, or none, and `lengths`
or a `mask` as `recurrax.scan` does. A masked step is skipped: the steps at both sides become
neighbors. Its emissions and labels have no influence, not even on gradients: they may be NaN. A row
without an unmasked step has one labeling, the empty one, with the score 0.

Scores of any size are right, up to the rounding of their dtype. A score of -inf forbids a label or
a transition, and gradients stay finite. If every labeling of a row is forbidden, log Z and the
log-likelihood are -inf, and their gradients are zero. A score of NaN raises where its value is
known, and makes the results of its row NaN inside of `jax.jit`. Scores must not be +inf.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from recurrax._arguments import check_key, describe, is_floating
from recurrax._check import check_flags, check_number, check_steps
from recurrax.implementations._platform import chain_solver
from recurrax.losses import _crf_chain as chains
from recurrax.losses import _crf_paths as paths
from recurrax.losses._crf_chain import CRFParams as CRFParams
from recurrax.losses._crf_chain import backward, chain_of, finite, forward, log_z, score_of
from recurrax.losses._crf_constraints import Constraints as Constraints
from recurrax.losses._crf_constraints import bio_constraints as bio_constraints
from recurrax.losses._crf_constraints import bioes_constraints as bioes_constraints
from recurrax.losses._crf_constraints import check_constraints, check_paths


def small_uniform(
    key: jax.Array, shape: tuple[int, ...], dtype: DTypeLike = jnp.float32
) -> jax.Array:
    """Draws from U(-0.1, 0.1), as pytorch-crf does for every score.

    Args:
        key: a PRNG key.
        shape: the shape of the result.
        dtype: the dtype of the result.

    Returns:
        An array of the given shape and dtype.

    Example:
        >>> import jax
        >>> from recurrax.losses import crf
        >>> crf.small_uniform(jax.random.key(0), (3,)).shape
        (3,)
    """
    return jax.random.uniform(key, shape, dtype, -0.1, 0.1)


def init(
    key: jax.Array,
    num_labels: int,
    dtype: DTypeLike = jnp.float32,
    *,
    transitions_init: Callable = small_uniform,
    start_init: Callable = small_uniform,
    end_init: Callable = small_uniform,
) -> CRFParams:
    """Draws the parameters.

    Args:
        key: a PRNG key.
        num_labels: the number of labels L.
        dtype: the dtype of the parameters.
        transitions_init: draws the scores of transitions, `(key, [L, L], dtype) -> array`.
        start_init: draws the scores of first labels, `(key, [L], dtype) -> array`.
        end_init: draws the scores of last labels, as `start_init`.

    Returns:
        The parameters.

    Raises:
        TypeError: if `key` is no key.
        ValueError: if `num_labels` is below 1.

    Example:
        >>> import jax
        >>> from recurrax.losses import crf
        >>> crf.init(jax.random.key(0), 5).transitions.shape
        (5, 5)
    """
    check_key("key", key)
    size = check_number("num_labels", num_labels)
    first, second, third = jax.random.split(key, 3)
    # Draw in float32, then cast: a draw in bfloat16 has other values.
    drawn = (
        transitions_init(first, (size, size), jnp.float32),
        start_init(second, (size,), jnp.float32),
        end_init(third, (size,), jnp.float32),
    )
    return CRFParams(*(part.astype(dtype) for part in drawn))


def log_likelihood(
    params: CRFParams,
    emissions: jax.Array,
    labels: jax.Array,
    *,
    lengths: jax.Array | None = None,
    mask: jax.Array | None = None,
    time_major: bool = False,
    allowed: Constraints | None = None,
    implementation: str | None = None,
) -> jax.Array:
    """Computes the log of the probability of a labeling.

    log p(labels) = score(labels) - log Z

    The loss of a batch is minus the mean of this.

    Args:
        params: the scores of transitions, first labels and last labels.
        emissions: `[*B, T, L]`, the score of each label at each step; `[T, *B, L]` if `time_major`.
        labels: `int[*B, T]`, or `int[T, *B]` if `time_major`. Masked steps may hold any label.
        lengths: `int[*B]`, the numbers of steps of right-padded sequences. Lengths above T count as
            T.
        mask: `bool[*B, T]`, laid out as `labels`: False at steps that are skipped, in any pattern.
        time_major: whether time is the first axis of `emissions`, `labels` and `mask`.
        allowed: the labels that may follow each other. None allows every labeling.
        implementation: `"sequential"`, one step after another, or `"associative"`, all steps at
            once in about 2 log T rounds. None picks the faster one of this platform.

    Returns:
        `[*B]`, in float32 or wider. It is -inf for a labeling that `allowed` forbids.

    Raises:
        TypeError: if an argument has the wrong type or dtype.
        ValueError: if an argument has the wrong shape, or `lengths` and `mask` are both given.
            Where the values are known, also if a score is NaN, a label is out of range, or a
            sequence has no allowed labeling. Inside of `jax.jit` a label out of range gives NaN.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from recurrax.losses import crf
        >>> params = crf.init(jax.random.key(0), 3)
        >>> emissions = jax.random.normal(jax.random.key(1), (2, 5, 3))
        >>> labels = jnp.array([[0, 1, 1, 2, 0], [2, 0, 1, 0, 0]])
        >>> loss = -crf.log_likelihood(params, emissions, labels, lengths=jnp.array([5, 3])).mean()
        >>> bool(loss > 0)
        True

    References:
        Lafferty et al., Conditional random fields: probabilistic models for segmenting and labeling
        sequence data, 2001, https://repository.upenn.edu/handle/20.500.14332/6188
    """
    given = _checked(params, emissions, lengths, mask, time_major, allowed)
    labels = _checked_labels(labels, emissions, given, time_major)
    return _log_likelihood(given, labels, allowed, time_major, _solver(implementation, given))


def log_partition(
    params: CRFParams,
    emissions: jax.Array,
    *,
    lengths: jax.Array | None = None,
    mask: jax.Array | None = None,
    time_major: bool = False,
    allowed: Constraints | None = None,
    implementation: str | None = None,
) -> jax.Array:
    """Computes log Z, the log of the sum of exp(score) over all labelings.

    Args:
        params: as in `log_likelihood`, and so are all other arguments.
        emissions: `[*B, T, L]`, or `[T, *B, L]` if `time_major`.
        lengths: `int[*B]`.
        mask: `bool[*B, T]`.
        time_major: whether time is the first axis.
        allowed: the labels that may follow each other.
        implementation: how to compute it.

    Returns:
        `[*B]`, in float32 or wider.

    Raises:
        TypeError: as `log_likelihood`.
        ValueError: as `log_likelihood`.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from recurrax.losses import crf
        >>> params = jax.tree.map(jnp.zeros_like, crf.init(jax.random.key(0), 3))
        >>> total = crf.log_partition(params, jnp.zeros((4, 3)))  # log of 3⁴ labelings
        >>> bool(jnp.allclose(total, 4 * jnp.log(3)))
        True
    """
    given = _checked(params, emissions, lengths, mask, time_major, allowed)
    return _log_partition(given, allowed, time_major, _solver(implementation, given))


def score(
    params: CRFParams,
    emissions: jax.Array,
    labels: jax.Array,
    *,
    lengths: jax.Array | None = None,
    mask: jax.Array | None = None,
    time_major: bool = False,
    allowed: Constraints | None = None,
) -> jax.Array:
    """Computes the score of a labeling, which is its log-probability plus log Z.

    Args:
        params: as in `log_likelihood`, and so are all other arguments.
        emissions: `[*B, T, L]`, or `[T, *B, L]` if `time_major`.
        labels: `int[*B, T]`, or `int[T, *B]` if `time_major`.
        lengths: `int[*B]`.
        mask: `bool[*B, T]`.
        time_major: whether time is the first axis.
        allowed: the labels that may follow each other.

    Returns:
        `[*B]`, in float32 or wider. It is -inf for a labeling that `allowed` forbids.

    Raises:
        TypeError: as `log_likelihood`.
        ValueError: as `log_likelihood`.

    Example:
        >>> import jax.numpy as jnp
        >>> from recurrax.losses import crf
        >>> params = crf.CRFParams(jnp.array([[0.0, 1.0], [2.0, 0.0]]), jnp.zeros(2), jnp.zeros(2))
        >>> float(crf.score(params, jnp.zeros((3, 2)), jnp.array([0, 1, 0])))  # 1 + 2
        3.0
    """
    given = _checked(params, emissions, lengths, mask, time_major, allowed)
    labels = _checked_labels(labels, emissions, given, time_major)
    return _score(given, labels, allowed, time_major)


def marginals(
    params: CRFParams,
    emissions: jax.Array,
    *,
    lengths: jax.Array | None = None,
    mask: jax.Array | None = None,
    time_major: bool = False,
    allowed: Constraints | None = None,
    implementation: str | None = None,
) -> jax.Array:
    """Computes the probability of each label at each step, by sums in both directions.

    p(y_t = j), which is the gradient of log Z with respect to `emissions`

    Args:
        params: as in `log_likelihood`, and so are all other arguments.
        emissions: `[*B, T, L]`, or `[T, *B, L]` if `time_major`.
        lengths: `int[*B]`.
        mask: `bool[*B, T]`.
        time_major: whether time is the first axis.
        allowed: the labels that may follow each other.
        implementation: how to compute it.

    Returns:
        An array in the shape of `emissions`; 0 at masked steps, and where no labeling is allowed.

    Raises:
        TypeError: as `log_likelihood`.
        ValueError: as `log_likelihood`.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from recurrax.losses import crf
        >>> params = crf.init(jax.random.key(0), 3)
        >>> p = crf.marginals(params, jnp.ones((2, 5, 3)), lengths=jnp.array([5, 2]))
        >>> bool(jnp.allclose(p.sum(-1)[0], 1)), bool((p[1, 2:] == 0).all())
        (True, True)

    References:
        Rabiner, A tutorial on hidden Markov models, 1989, https://doi.org/10.1109/5.18626
    """
    given = _checked(params, emissions, lengths, mask, time_major, allowed)
    return _marginals(given, allowed, time_major, _solver(implementation, given))


def pair_marginals(
    params: CRFParams,
    emissions: jax.Array,
    *,
    lengths: jax.Array | None = None,
    mask: jax.Array | None = None,
    time_major: bool = False,
    allowed: Constraints | None = None,
    implementation: str | None = None,
) -> jax.Array:
    """Computes the probability of each pair of labels at neighboring steps.

    Entry [t, i, j] is p(y_t = i, y_{t+1} = j). If step t is masked, the last unmasked step before
    step t + 1 takes its place. The array has T * L * L entries a row.

    Args:
        params: as in `log_likelihood`, and so are all other arguments.
        emissions: `[*B, T, L]`, or `[T, *B, L]` if `time_major`.
        lengths: `int[*B]`.
        mask: `bool[*B, T]`.
        time_major: whether time is the first axis.
        allowed: the labels that may follow each other.
        implementation: how to compute it.

    Returns:
        `[*B, T-1, L, L]`, or `[T-1, *B, L, L]` if `time_major`. An entry is 0 where step t + 1 is
        masked, or no unmasked step is before it.

    Raises:
        TypeError: as `log_likelihood`.
        ValueError: as `log_likelihood`.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from recurrax.losses import crf
        >>> params, emissions = crf.init(jax.random.key(0), 3), jnp.ones((5, 3))
        >>> pairs = crf.pair_marginals(params, emissions)
        >>> p = crf.marginals(params, emissions)
        >>> bool(jnp.allclose(pairs.sum(axis=-1), p[:-1], atol=1e-6))
        True

    References:
        Rabiner, A tutorial on hidden Markov models, 1989, https://doi.org/10.1109/5.18626
    """
    given = _checked(params, emissions, lengths, mask, time_major, allowed)
    return _pair_marginals(given, allowed, time_major, _solver(implementation, given))


def entropy(
    params: CRFParams,
    emissions: jax.Array,
    *,
    lengths: jax.Array | None = None,
    mask: jax.Array | None = None,
    time_major: bool = False,
    allowed: Constraints | None = None,
) -> jax.Array:
    """Computes the entropy of the labeling, in nats.

    H = -sum_y p(y) log p(y), by one sum over time

    Args:
        params: as in `log_likelihood`, and so are all other arguments.
        emissions: `[*B, T, L]`, or `[T, *B, L]` if `time_major`.
        lengths: `int[*B]`.
        mask: `bool[*B, T]`.
        time_major: whether time is the first axis.
        allowed: the labels that may follow each other.

    Returns:
        `[*B]`, in float32 or wider; 0 for a row without an unmasked step, and where no labeling is
        allowed.

    Raises:
        TypeError: as `log_likelihood`.
        ValueError: as `log_likelihood`.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from recurrax.losses import crf
        >>> params = jax.tree.map(jnp.zeros_like, crf.init(jax.random.key(0), 3))
        >>> h = crf.entropy(params, jnp.zeros((4, 3)))  # 3⁴ labelings of one probability
        >>> bool(jnp.allclose(h, 4 * jnp.log(3)))
        True

    References:
        Hernando et al., Efficient computation of the hidden Markov model entropy for a given
        observation sequence, 2005, https://doi.org/10.1109/TIT.2005.850223
    """
    given = _checked(params, emissions, lengths, mask, time_major, allowed)
    return _entropy(given, allowed, time_major)


def viterbi(
    params: CRFParams,
    emissions: jax.Array,
    *,
    lengths: jax.Array | None = None,
    mask: jax.Array | None = None,
    time_major: bool = False,
    allowed: Constraints | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Finds the labeling with the highest score.

    Args:
        params: as in `log_likelihood`, and so are all other arguments.
        emissions: `[*B, T, L]`, or `[T, *B, L]` if `time_major`.
        lengths: `int[*B]`.
        mask: `bool[*B, T]`.
        time_major: whether time is the first axis.
        allowed: the labels that may follow each other.

    Returns:
        The labels `int32[*B, T]`, or `int32[T, *B]` if `time_major`, with 0 at masked steps, and
        their score `[*B]`. The gradient of the score is the gradient of this labeling's score. If
        no labeling is allowed, the score is -inf and the labels have no meaning.

    Raises:
        TypeError: as `log_likelihood`.
        ValueError: as `log_likelihood`.

    Example:
        >>> import jax.numpy as jnp
        >>> from recurrax.losses import crf
        >>> params = crf.CRFParams(jnp.array([[0.0, 1.0], [2.0, 0.0]]), jnp.zeros(2), jnp.zeros(2))
        >>> labels, score = crf.viterbi(params, jnp.zeros((3, 2)))
        >>> labels.tolist(), float(score)
        ([0, 1, 0], 3.0)

    References:
        Viterbi, Error bounds for convolutional codes and an asymptotically optimum decoding
        algorithm, 1967, https://doi.org/10.1109/TIT.1967.1054010
    """
    given = _checked(params, emissions, lengths, mask, time_major, allowed)
    return _viterbi(given, allowed, time_major)


def k_best(
    params: CRFParams,
    emissions: jax.Array,
    k: int,
    *,
    lengths: jax.Array | None = None,
    mask: jax.Array | None = None,
    time_major: bool = False,
    allowed: Constraints | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Finds the k labelings with the highest scores, the best first.

    Args:
        params: as in `log_likelihood`, and so are all other arguments but `k`.
        emissions: `[*B, T, L]`, or `[T, *B, L]` if `time_major`.
        k: the number of labelings K, at most L to the power of T.
        lengths: `int[*B]`.
        mask: `bool[*B, T]`.
        time_major: whether time is the first axis.
        allowed: the labels that may follow each other.

    Returns:
        The labels `int32[*B, K, T]`, or `int32[T, *B, K]` if `time_major`, and their scores
        `[*B, K]`. A row with fewer labelings, since it is short or some are forbidden, has the
        score -inf and the label 0 in the other places.

    Raises:
        TypeError: as `log_likelihood`.
        ValueError: as `log_likelihood`, and if `k` is greater than the number of labelings.

    Example:
        >>> import jax.numpy as jnp
        >>> from recurrax.losses import crf
        >>> params = crf.CRFParams(jnp.array([[0.0, 1.0], [2.0, 0.0]]), jnp.zeros(2), jnp.zeros(2))
        >>> labels, scores = crf.k_best(params, jnp.array([[0.0, 0.5], [0.0, 0.0]]), 2)
        >>> labels.tolist(), scores.tolist()
        ([[1, 0], [0, 1]], [2.5, 1.0])

    References:
        Seshadri and Sundberg, List Viterbi decoding algorithms with applications, 1994,
        https://doi.org/10.1109/TCOMM.1994.577040
    """
    given = _checked(params, emissions, lengths, mask, time_major, allowed)
    k = check_number("k", k)
    shape = given[1].shape
    steps, size = shape[0 if time_major else -2], shape[-1]
    # 2 to the power of 64 is more than any k.
    number = size ** min(steps, 64)
    if k > number:
        raise ValueError(
            f"`k` must be at most {number}, the number of labelings of {steps} steps with {size} "
            f"labels; got {k}."
        )
    return _k_best(given, allowed, time_major, k)


def sample(
    params: CRFParams,
    emissions: jax.Array,
    key: jax.Array,
    *,
    lengths: jax.Array | None = None,
    mask: jax.Array | None = None,
    time_major: bool = False,
    allowed: Constraints | None = None,
    implementation: str | None = None,
) -> jax.Array:
    """Draws one labeling for each row, with its probability.

    For several draws, use `jax.vmap` over keys. The sums over time are computed once then.

    Args:
        params: as in `log_likelihood`, and so are all other arguments but `key`.
        emissions: `[*B, T, L]`, or `[T, *B, L]` if `time_major`.
        key: the source of randomness.
        lengths: `int[*B]`.
        mask: `bool[*B, T]`.
        time_major: whether time is the first axis.
        allowed: the labels that may follow each other.
        implementation: how to compute the sums.

    Returns:
        The labels `int32[*B, T]`, or `int32[T, *B]` if `time_major`, with 0 at masked steps. If no
        labeling is allowed, they have no meaning.

    Raises:
        TypeError: as `log_likelihood`, and if `key` is no key.
        ValueError: as `log_likelihood`.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from recurrax.losses import crf
        >>> params, emissions = crf.init(jax.random.key(0), 3), jnp.ones((5, 3))
        >>> keys = jax.random.split(jax.random.key(1), 10)
        >>> jax.vmap(lambda key: crf.sample(params, emissions, key))(keys).shape
        (10, 5)

    References:
        Scott, Bayesian methods for hidden Markov models, 2002,
        https://doi.org/10.1198/016214502753479464
    """
    given = _checked(params, emissions, lengths, mask, time_major, allowed)
    check_key("key", key)
    return _sample(given, key, allowed, time_major, _solver(implementation, given))


# The checks --------------------------------------------------------------------------------------

# Parameters, emissions, lengths and mask, after the checks.
_Given = tuple[CRFParams, jax.Array, Any, Any]


def _checked(
    params: CRFParams, emissions: Any, lengths: Any, mask: Any, time_major: bool, allowed: Any
) -> _Given:
    """Checks the arguments of every function, and returns arrays."""
    if not isinstance(params, CRFParams):
        raise TypeError(
            "`params` must be a crf.CRFParams(transitions, start, end), as `crf.init` draws; got "
            f"{describe(params)}."
        )
    emissions = jnp.asarray(emissions)
    if emissions.ndim < 2 or not emissions.shape[-1]:
        raise ValueError(
            f"`emissions` must be [*B, T, L], at least 2 axes and 1 label; got "
            f"{describe(emissions)}."
        )
    if not is_floating(emissions.dtype):
        raise TypeError(f"`emissions` must be of a floating dtype; got {describe(emissions)}.")
    size = emissions.shape[-1]
    params = CRFParams(*map(jnp.asarray, params))
    for name, part in zip(CRFParams._fields, params, strict=True):
        shape = (size, size) if name == "transitions" else (size,)
        must = f"`params.{name}` must be float[{', '.join(map(str, shape))}] for `emissions` "
        must += f"{describe(emissions)} with {size} labels; got {describe(part)}."
        if part.shape != shape:
            raise ValueError(must)
        if not is_floating(part.dtype):
            raise TypeError(must)
    # `lengths` and `mask` are those of `scan`, and so are their errors.
    steps = emissions.shape[:-1]
    lengths, mask, _ = check_steps("emissions", emissions, steps, time_major, lengths, mask, None)
    check_constraints(allowed, size)
    # A length may have no allowed labeling, as in chains that must alternate.
    numbers = _numbers_of_steps(steps, time_major, lengths, mask)
    if allowed is not None and numbers is not None:
        check_paths(allowed, numbers)
    given = params, emissions, lengths, mask
    _check_nan(given, time_major)
    return given


def _check_nan(given: _Given, time_major: bool) -> None:
    """Refuses NaN, as far as the values are known. In the padding it may stand."""
    params, emissions, lengths, mask = given
    for name, part in zip(CRFParams._fields, params, strict=True):
        if _is_known(part) and np.isnan(np.asarray(part)).any():
            raise ValueError(f"`params.{name}` must not hold NaN; did the training diverge?")
    if not all(part is None or _is_known(part) for part in (emissions, lengths, mask)):
        return
    wrong = np.isnan(np.asarray(emissions))
    # The mask is made only where there is NaN.
    if wrong.any():
        wrong &= _concrete_mask(emissions.shape[:-1], lengths, mask, time_major)[..., None]
    if wrong.any():
        raise ValueError(
            "`emissions` must not hold NaN at steps that are not masked; got NaN at "
            f"{np.argwhere(wrong)[0].tolist()}. Did the network diverge, or is it padding? Then "
            "give `lengths` or a `mask`."
        )


def _numbers_of_steps(
    steps: tuple[int, ...], time_major: bool, lengths: Any, mask: Any
) -> set[int] | None:
    """Returns the numbers of unmasked steps of all rows; None if they are not known."""
    time = 0 if time_major else len(steps) - 1
    if lengths is None and mask is None:
        return {steps[time]}
    if lengths is not None and _is_known(lengths):
        return set(np.clip(np.asarray(lengths), 0, steps[time]).reshape(-1).tolist())
    if mask is not None and _is_known(mask):
        return set(np.asarray(mask).sum(axis=time).reshape(-1).tolist())
    return None


def _checked_labels(labels: Any, emissions: Any, given: _Given, time_major: bool) -> jax.Array:
    """Checks a labeling; returns it in int32."""
    _, emissions, lengths, mask = given
    size, steps = emissions.shape[-1], emissions.shape[:-1]
    meaning = f"one label per step of `emissions` {describe(emissions)}"
    labels = check_flags("labels", labels, jnp.integer, steps, meaning)
    if labels is None:
        raise TypeError(f"`labels` must be int{list(steps)}, {meaning}; got None.")
    # Values are known outside of `jax.jit` alone.
    if all(part is None or _is_known(part) for part in (labels, lengths, mask)):
        _check_range(np.asarray(labels), _concrete_mask(steps, lengths, mask, time_major), size)
    return labels.astype(jnp.int32)


def _concrete_mask(steps: tuple[int, ...], lengths: Any, mask: Any, time_major: bool) -> np.ndarray:
    if mask is not None:
        return np.asarray(mask)
    if lengths is None:
        return np.ones(steps, bool)
    time = 0 if time_major else len(steps) - 1
    flags = np.arange(steps[time]) < np.asarray(lengths)[..., None]
    return np.moveaxis(flags, -1, time)


def _check_range(labels: np.ndarray, mask: np.ndarray, size: int) -> None:
    wrong = mask & ((labels < 0) | (labels >= size))
    if wrong.any():
        place = tuple(int(axis) for axis in np.argwhere(wrong)[0])
        raise ValueError(
            f"`labels` must be from 0 to {size - 1}, for the {size} labels of `emissions`; got "
            f"{labels[place]} at {list(place)}. Is it padding? Then give `lengths` or a `mask`."
        )


def _is_known(value: Any) -> bool:
    """Whether the values of an array are known now, outside of `jax.jit` and other transforms."""
    if isinstance(value, jax.core.Tracer):
        return False
    # Several machines may hold parts of an array.
    return getattr(value, "is_fully_addressable", True)


def _solver(implementation: str | None, given: _Given) -> str:
    if implementation is None:
        return chain_solver(given[1].shape[-1])
    if implementation not in ("sequential", "associative"):
        raise ValueError(
            f"`implementation` must be 'sequential', 'associative' or None; got {implementation!r}."
        )
    return implementation


# The computations --------------------------------------------------------------------------------
#
# `jax.jit` is here so that a call outside of any jit compiles once.

_Allowed = Constraints | None


def _batch_first(x: jax.Array, given: _Given, time_major: bool) -> jax.Array:
    """Puts the axis of time back to its place in `emissions`."""
    if time_major:
        return x
    return jnp.moveaxis(x, 0, given[1].ndim - 2)


@functools.partial(jax.jit, static_argnums=(2, 3, 4))
def _log_likelihood(
    given: _Given, labels: jax.Array, allowed: _Allowed, time_major: bool, solver: str
) -> jax.Array:
    chain = chain_of(*given, allowed, time_major)
    of_labels = score_of(chain, _time_first(labels, time_major))
    # A forbidden labeling has the score -inf, also where all labelings are forbidden.
    gained = of_labels - finite(log_z(solver, chain))
    return jnp.where(of_labels == -jnp.inf, of_labels, gained)


@functools.partial(jax.jit, static_argnums=(1, 2, 3))
def _log_partition(given: _Given, allowed: _Allowed, time_major: bool, solver: str) -> jax.Array:
    return log_z(solver, chain_of(*given, allowed, time_major))


@functools.partial(jax.jit, static_argnums=(2, 3))
def _score(given: _Given, labels: jax.Array, allowed: _Allowed, time_major: bool) -> jax.Array:
    return score_of(chain_of(*given, allowed, time_major), _time_first(labels, time_major))


@functools.partial(jax.jit, static_argnums=(1, 2, 3))
def _marginals(given: _Given, allowed: _Allowed, time_major: bool, solver: str) -> jax.Array:
    chain = chain_of(*given, allowed, time_major)
    unary = chains.label_marginals(chain, forward(solver, chain), backward(solver, chain))
    return _batch_first(unary, given, time_major)


@functools.partial(jax.jit, static_argnums=(1, 2, 3))
def _pair_marginals(given: _Given, allowed: _Allowed, time_major: bool, solver: str) -> jax.Array:
    chain = chain_of(*given, allowed, time_major)
    alphas = forward(solver, chain)
    unary = chains.label_marginals(chain, alphas, backward(solver, chain))  # [T, *B, L]
    arguments = chains.pair_arguments(chain, alphas, unary)  # [T, *B, L] each
    pairs = chains.pair_marginals(chain.transitions, *arguments)  # [T, *B, L, L]
    return _batch_first(pairs[1:], given, time_major)  # [T-1, *B, L, L]


@functools.partial(jax.jit, static_argnums=(1, 2))
def _entropy(given: _Given, allowed: _Allowed, time_major: bool) -> jax.Array:
    return chains.entropy_of(chain_of(*given, allowed, time_major))


@functools.partial(jax.jit, static_argnums=(1, 2))
def _viterbi(given: _Given, allowed: _Allowed, time_major: bool) -> tuple[jax.Array, jax.Array]:
    labels, best = paths.best(chain_of(*given, allowed, time_major))
    return _batch_first(labels, given, time_major), best


@functools.partial(jax.jit, static_argnums=(1, 2, 3))
def _k_best(
    given: _Given, allowed: _Allowed, time_major: bool, k: int
) -> tuple[jax.Array, jax.Array]:
    labels, best = paths.k_best(chain_of(*given, allowed, time_major), k)  # [T, *B, K]
    if not time_major:
        labels = jnp.moveaxis(labels, 0, -1)  # [*B, K, T]
    return labels, best


@functools.partial(jax.jit, static_argnums=(2, 3, 4))
def _sample(
    given: _Given, key: jax.Array, allowed: _Allowed, time_major: bool, solver: str
) -> jax.Array:
    labels = paths.draw(solver, chain_of(*given, allowed, time_major), key)
    return _batch_first(labels, given, time_major)


def _time_first(labels: jax.Array, time_major: bool) -> jax.Array:
    if time_major:
        return labels
    return jnp.moveaxis(labels, -1, 0)
