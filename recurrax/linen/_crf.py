"""The scores of a conditional random field as a Flax Linen module."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from recurrax._check import check_number
from recurrax._flax import teaches
from recurrax.losses import crf
from recurrax.losses._crf_constraints import check_constraints


@teaches
class CRF(nn.Module):
    """A linear-chain conditional random field over the labels of a sequence.

    It holds the scores of transitions, first labels and last labels. `recurrax.losses.crf`
    computes. A call gives the log-likelihood of a labeling. For another result, name a method:
    `model.apply(variables, emissions, method="viterbi")`.

    Args:
        num_labels: the number of labels L.
        allowed: the labels that may follow each other, such as `crf.bio_constraints(names)`.
        param_dtype: the dtype of the parameters.
        transitions_init: draws the scores of transitions, `(key, [L, L], dtype) -> array`.
        start_init: draws the scores of first labels, `(key, [L], dtype) -> array`.
        end_init: draws the scores of last labels, as `start_init`.

    Raises:
        TypeError: if an argument has the wrong type.
        ValueError: if `num_labels` is below 1 or `allowed` is for another number of labels; at a
            call as `recurrax.losses.crf`.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from recurrax import linen as rnn
        >>> model = rnn.CRF(3)
        >>> emissions, labels = jnp.ones((2, 4, 3)), jnp.array([[0, 1, 2, 0], [1, 2, 2, 2]])
        >>> variables = model.init(jax.random.key(0), emissions, labels)
        >>> loss = -model.apply(variables, emissions, labels).mean()
        >>> labels, score = model.apply(variables, emissions, method="viterbi")
        >>> labels.shape, score.shape, variables["params"]["transitions"].shape
        ((2, 4), (2,), (3, 3))

    References:
        Lafferty et al., Conditional random fields: probabilistic models for segmenting and labeling
        sequence data, 2001, https://repository.upenn.edu/handle/20.500.14332/6188
    """

    num_labels: int
    allowed: crf.Constraints | None = None
    param_dtype: DTypeLike = jnp.float32
    transitions_init: Callable = crf.small_uniform
    start_init: Callable = crf.small_uniform
    end_init: Callable = crf.small_uniform

    def __post_init__(self) -> None:
        super().__post_init__()
        check_constraints(self.allowed, check_number("num_labels", self.num_labels))

    def setup(self) -> None:
        """Declares the parameters `transitions` `[L, L]`, `start` `[L]` and `end` `[L]`."""
        size = self.num_labels

        def drawn(name: str, init: Callable, shape: tuple[int, ...]) -> jax.Array:
            # Draw in float32, then cast, as `crf.init` does.
            draw = lambda key: init(key, shape, jnp.float32).astype(self.param_dtype)  # noqa: E731
            return self.param(name, draw)

        self.params = crf.CRFParams(
            drawn("transitions", self.transitions_init, (size, size)),
            drawn("start", self.start_init, (size,)),
            drawn("end", self.end_init, (size,)),
        )

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
