"""The minGRU and the minLSTM: their gates see only the inputs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from recurrax._layer import Gate
from recurrax.cells._activation import keeps_output
from recurrax.cells._gated import GatedLinearCell, InputGatedParams
from recurrax.cells.affine import gate_of
from recurrax.cells.linear import Coefficients


def positive(x: jax.Array) -> jax.Array:
    """A positive, increasing function: σ(x) for x < 0, and x + 1/2 for x >= 0.

    Args:
        x: an array.

    Returns:
        An array like `x`.

    Example:
        >>> import jax
        >>> from recurrax.cells.mingru import positive
        >>> positive(jax.numpy.array([0.0, 1.0])).tolist()
        [0.5, 1.5]

    References:
        Feng et al., Were RNNs all we needed? (appendix B), 2024, https://arxiv.org/abs/2410.01201
    """
    return jnp.where(x >= 0, x + 0.5, jax.nn.sigmoid(x))


@dataclasses.dataclass(frozen=True, repr=False)
class _CandidateCell(GatedLinearCell):
    """A gated linear recurrence with an activation for its candidate."""

    activation: Callable[[jax.Array], jax.Array] | None = positive

    def _candidate(self, x: jax.Array) -> jax.Array:
        if self.activation is None:
            return x
        return keeps_output(self.activation)(x)


@dataclasses.dataclass(frozen=True, repr=False)
class MinGRUCell(_CandidateCell):
    """The minGRU: one gate and a candidate, which do not see the state.

    z = σ(x @ kernel_z + bias_z)
    n = activation(x @ kernel_n + bias_n)
    h' = (1 - z) * h + z * n

    The code computes 1 - z as σ(-x @ kernel_z - bias_z), which keeps its digits where z is near 1.
    It adds h itself, not the logarithm of h, so states and candidates may have any sign. Products
    of numbers below 1 cannot overflow. The paper's form in log space gives the same result from the
    same state, but it needs a state above 0.

    Args:
        hidden_size: the number of features H of the state.
        activation: the nonlinearity of the candidate; None for the identity. The default is the
            paper's: x + 1/2 for x >= 0, and σ(x) for x < 0.
        bias: whether the gates have a bias.
        kernel_init: draws each gate of `kernel` `[I, 2*H]`, in the order z, n; Glorot uniform by
            default.
        bias_init: draws each gate of `bias`; zeros by default.
        dtype: the dtype of the matrix products; `None` follows the parameters and the inputs.

    Raises:
        TypeError: if `hidden_size` is not an int.
        ValueError: if `hidden_size` is not positive.

    Example:
        A block of the paper: a short convolution, the cell, and a feed-forward network:

        >>> import jax, recurrax as rx
        >>> minimal = rx.Stack((rx.RMSNorm(), rx.CausalConv(8), rx.MinGRUCell(16), rx.Dense(8)))
        >>> network = rx.Stack((rx.RMSNorm(), rx.Dense(32, jax.nn.gelu), rx.Dense(8)))
        >>> block = rx.Stack((rx.Residual(minimal), rx.Residual(network)))
        >>> params = block.init(jax.random.key(0), input_size=8)
        >>> rx.scan(block, params, jax.numpy.ones((2, 7, 8)), implementation="associative")[1].shape
        (2, 7, 8)

    References:
        Feng et al., Were RNNs all we needed? (section 3.1), 2024, https://arxiv.org/abs/2410.01201
    """

    @property
    def gates(self) -> int:
        """The number of gates, 2: z and n."""
        return 2

    def project_inputs(self, params: InputGatedParams, xs: jax.Array) -> Coefficients:
        """The gate and the candidate of every step."""
        z, n = self.split(params, xs)
        sigmoid = keeps_output(jax.nn.sigmoid)
        # σ(-z) is 1 - σ(z), with all digits.
        return Coefficients(sigmoid(-z), sigmoid(z) * self._candidate(n))

    def gate_values(self, params: InputGatedParams, state: Any, xs: jax.Array) -> dict[str, Gate]:
        """The gate z and the candidate n."""
        z, n = self.split(params, xs)
        return {"update": gate_of(jax.nn.sigmoid, z), "new": Gate(self._candidate(n), n)}


@dataclasses.dataclass(frozen=True, repr=False)
class MinLSTMCell(_CandidateCell):
    """The minLSTM: an input gate and a forget gate with sum 1, and a candidate, without the state.

    i = σ(x @ kernel_i + bias_i),  f = σ(x @ kernel_f + bias_f)
    g = activation(x @ kernel_g + bias_g)
    h' = f / (f + i) * h + i / (f + i) * g

    The code computes both quotients as σ(±(log i - log f)), from the logarithms of the gates. So
    they are right even where both gates are so small that i + f is 0 in floating point. Without the
    normalization by f + i the recurrence is `QRNNCell` with ifo-pooling.

    Args:
        hidden_size: the number of features H of the state.
        activation: the nonlinearity of the candidate; None for the identity. The default is the
            paper's: x + 1/2 for x >= 0, and σ(x) for x < 0.
        bias: whether the gates have a bias.
        kernel_init: draws each gate of `kernel` `[I, 3*H]`, in the order i, f, g; Glorot uniform by
            default.
        bias_init: draws each gate of `bias`; zeros by default.
        dtype: the dtype of the matrix products; `None` follows the parameters and the inputs.

    Raises:
        TypeError: if `hidden_size` is not an int.
        ValueError: if `hidden_size` is not positive.

    Example:
        >>> import jax, recurrax
        >>> cell = recurrax.MinLSTMCell(4)
        >>> params = cell.init(jax.random.key(0), input_size=3)
        >>> xs = jax.numpy.ones((2, 7, 3))
        >>> state, ys = recurrax.scan(cell, params, xs, implementation="associative")
        >>> ys.shape, params.kernel.shape
        ((2, 7, 4), (3, 12))

    References:
        Feng et al., Were RNNs all we needed? (section 3.2), 2024, https://arxiv.org/abs/2410.01201
    """

    @property
    def gates(self) -> int:
        """The number of gates, 3: i, f and g."""
        return 3

    def project_inputs(self, params: InputGatedParams, xs: jax.Array) -> Coefficients:
        """The gates and the candidate of every step."""
        i, f, g = self.split(params, xs)
        difference = jax.nn.log_sigmoid(i) - jax.nn.log_sigmoid(f)
        sigmoid = keeps_output(jax.nn.sigmoid)
        # i / (f + i) = σ(log i - log f), and f / (f + i) = σ(log f - log i).
        return Coefficients(sigmoid(-difference), sigmoid(difference) * self._candidate(g))

    def gate_values(self, params: InputGatedParams, state: Any, xs: jax.Array) -> dict[str, Gate]:
        """The gates i and f, and the candidate g."""
        i, f, g = self.split(params, xs)
        return {
            "input": gate_of(jax.nn.sigmoid, i),
            "forget": gate_of(jax.nn.sigmoid, f),
            "cell": Gate(self._candidate(g), g),
        }
