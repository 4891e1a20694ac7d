"""The scores of a conditional random field as a Flax NNX module."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from recurrax._check import check_number
from recurrax._flax import teaches
from recurrax.losses import crf
from recurrax.losses._crf_constraints import check_constraints


@teaches
class CRF(nnx.Module):
    """A linear-chain conditional random field over the labels of a sequence.

    It holds the scores of transitions, first labels and last labels. `recurrax.losses.crf`
    computes. A call gives the log-likelihood of a labeling.

    Args:
        num_labels: the number of labels L.
        allowed: the labels that may follow each other, such as `crf.bio_constraints(names)`.
        param_dtype: the dtype of the parameters.
        transitions_init: draws the scores of transitions, `(key, [L, L], dtype) -> array`.
        start_init: draws the scores of first labels, `(key, [L], dtype) -> array`.
        end_init: draws the scores of last labels, as `start_init`.
        rngs: the source of the initial parameters (stream `params`).

    Attributes:
        transitions: `[L, L]`, an `nnx.Param`: entry [i, j] is the score of label j after label i.
        start: `[L]`, an `nnx.Param`.
        end: `[L]`, an `nnx.Param`.

    Raises:
        TypeError: if an argument has the wrong type.
        ValueError: if `num_labels` is below 1 or `allowed` is for another number of labels; at a
            call as `recurrax.losses.crf`.

    Example:
        >>> import jax.numpy as jnp
        >>> from flax import nnx
        >>> from recurrax import nnx as rnn
        >>> from recurrax.losses import crf
        >>> allowed = crf.bio_constraints(("O", "B-PER", "I-PER"))
        >>> model = rnn.CRF(3, allowed=allowed, rngs=nnx.Rngs(0))
        >>> emissions, labels = jnp.ones((2, 4, 3)), jnp.array([[0, 1, 2, 0], [1, 2, 2, 2]])
        >>> loss = -model(emissions, labels).mean()
        >>> labels, score = model.viterbi(emissions, lengths=jnp.array([4, 2]))
        >>> labels.shape, score.shape
        ((2, 4), (2,))

    References:
        Lafferty et al., Conditional random fields: probabilistic models for segmenting and labeling
        sequence data, 2001, https://repository.upenn.edu/handle/20.500.14332/6188
    """

    def __init__(
        self,
        num_labels: int,
        *,
        allowed: crf.Constraints | None = None,
        param_dtype: DTypeLike = jnp.float32,
        transitions_init: Callable = crf.small_uniform,
        start_init: Callable = crf.small_uniform,
        end_init: Callable = crf.small_uniform,
        rngs: nnx.Rngs,
    ) -> None:
        if not isinstance(rngs, nnx.Rngs):
            raise TypeError(
                "`rngs` must be an nnx.Rngs, such as nnx.Rngs(0), to draw parameters; "
                f"got {rngs!r}."
            )
        self.num_labels = check_number("num_labels", num_labels)
        check_constraints(allowed, self.num_labels)
        self.allowed = allowed
        drawn = crf.init(
            rngs.params(),
            self.num_labels,
            param_dtype,
            transitions_init=transitions_init,
            start_init=start_init,
            end_init=end_init,
        )
        self.transitions = nnx.Param(drawn.transitions)
        self.start = nnx.Param(drawn.start)
        self.end = nnx.Param(drawn.end)

    @property
    def params(self) -> crf.CRFParams:
        """The parameters as arrays, for the functions of `recurrax.losses.crf`."""
        return crf.CRFParams(self.transitions[...], self.start[...], self.end[...])

    def __call__(
        self,
        emissions: jax.Array,
        labels: jax.Array,
        *,
        lengths: jax.Array | None = None,
        mask: jax.Array | None = None,
        time_major: bool = False,
        implementation: str | None = None,
    ) -> jax.Array:
        """Computes the log-likelihood `[*B]` of labelings, as `crf.log_likelihood`.

        Args:
            emissions: `[*B, T, L]`, the score of each label at each step.
            labels: `int[*B, T]`.
            lengths: `int[*B]`, the numbers of steps of right-padded sequences.
            mask: `bool[*B, T]`, False at steps that are skipped.
            time_major: whether time is the first axis.
            implementation: how to compute it.

        Returns:
            `[*B]`. The loss is minus the mean of it.
        """
        options: dict[str, Any] = {"lengths": lengths, "mask": mask, "time_major": time_major}
        options |= {"allowed": self.allowed, "implementation": implementation}
        return crf.log_likelihood(self.params, emissions, labels, **options)

    def log_likelihood(self, emissions: jax.Array, labels: jax.Array, **options: Any) -> jax.Array:
        """As the call."""
        return self(emissions, labels, **options)

    def log_partition(self, emissions: jax.Array, **options: Any) -> jax.Array:
        """The log of the sum over all labelings, `[*B]`, with the options of the call."""
        return crf.log_partition(self.params, emissions, allowed=self.allowed, **options)

    def marginals(self, emissions: jax.Array, **options: Any) -> jax.Array:
        """The probability of each label at each step, in the shape of `emissions`."""
        return crf.marginals(self.params, emissions, allowed=self.allowed, **options)

    def viterbi(self, emissions: jax.Array, **options: Any) -> tuple[jax.Array, jax.Array]:
        """The labels `int32[*B, T]` with the highest score, and this score `[*B]`."""
        return crf.viterbi(self.params, emissions, allowed=self.allowed, **options)

    def k_best(self, emissions: jax.Array, k: int, **options: Any) -> tuple[jax.Array, jax.Array]:
        """The k best labelings `int32[*B, K, T]`, and their scores `[*B, K]`."""
        return crf.k_best(self.params, emissions, k, allowed=self.allowed, **options)
