"""The leaky rate network: neurons in continuous time, by Euler steps."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import ClassVar

import jax

from recurrax.cells._activation import keeps_output
from recurrax.cells.affine import AffineCell, Gates, Update, unchanged
from recurrax.cells.elman import ElmanParams, ElmanState


@dataclasses.dataclass(frozen=True, repr=False)
class LeakyCell(AffineCell):
    """The leaky rate network of neuroscience: firing rates that follow their input slowly.

    tau * dh/dt = -h + activation(x @ kernel + bias + h @ recurrent_kernel + recurrent_bias + ξ)

    One step is an Euler step of length `dt`, with alpha = dt / tau:

    h' = (1 - alpha) * h + alpha * activation(z + u),

    where z = x @ kernel + bias and u = h @ recurrent_kernel + recurrent_bias. With `dt` = `tau` it
    is Elman's cell.

    The cell itself has no noise ξ. `RecurrentNoise(cell, sigma)` adds the noise of the papers, with
    the standard deviation √(2 / alpha) * sigma in each step. `Dale` gives each unit a sign, and
    `Connectivity` removes connections.

    Args:
        hidden_size: the number of units H.
        activation: the nonlinearity; ReLU by default, so that no rate is negative.
        tau: the time constant of a unit.
        dt: the length of a step, in the unit of `tau`, at most `tau`.
        bias: whether the input projection has a bias.
        recurrent_bias: whether the recurrent projection has a separate bias.
        kernel_init: draws `kernel`; Glorot uniform by default.
        recurrent_kernel_init: draws `recurrent_kernel`; orthogonal by default.
        bias_init: draws each bias; zeros by default.
        dtype: the dtype of the matrix products; `None` follows the parameters and the inputs.

    Raises:
        TypeError: if `hidden_size` is not an int.
        ValueError: if `hidden_size` is not positive, or `dt` is not above 0 and at most `tau`.

    Example:
        A network with noise, four fifths of its units excitatory:

        >>> import jax, recurrax
        >>> cell = recurrax.LeakyCell(10, tau=100.0, dt=20.0)  # milliseconds
        >>> layer = recurrax.RecurrentNoise(recurrax.Dale(cell, 0.8), 0.05)
        >>> params = layer.init(jax.random.key(0), input_size=3)
        >>> xs = jax.numpy.ones((2, 7, 3))
        >>> state, ys = recurrax.scan(layer, params, xs, key=jax.random.key(1))
        >>> ys.shape, cell.alpha
        ((2, 7, 10), 0.2)

    References:
        Song, Yang and Wang, Training excitatory-inhibitory recurrent neural networks for cognitive
        tasks, 2016, https://doi.org/10.1371/journal.pcbi.1004792

        Yang et al., Task representations in neural networks trained to perform many cognitive
        tasks (this form), 2019, https://doi.org/10.1038/s41593-018-0310-2
    """

    activation: Callable[[jax.Array], jax.Array] = jax.nn.relu
    tau: float = 5.0
    dt: float = 1.0

    gates: ClassVar[int] = 1
    params_type: ClassVar[type] = ElmanParams
    state_type: ClassVar[type] = ElmanState
    output_part: ClassVar[str] = "h"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.dt <= self.tau:
            raise ValueError(
                f"`dt` must be above 0 and at most `tau` {self.tau}; got {self.dt}. "
                "Are both in one unit of time?"
            )

    @property
    def alpha(self) -> float:
        """The share of a unit that one step replaces, dt / tau."""
        return self.dt / self.tau

    @property
    def noise_scale(self) -> float:  # type: ignore[override]
        """√(2 / alpha): so the noise of a unit has one variance for every `dt`."""
        return math.sqrt(2 / self.alpha)

    def pointwise(
        self, params: ElmanParams, a: Gates, state: ElmanState, update: Update = unchanged
    ) -> tuple[ElmanState, jax.Array]:
        """Mixes the old rates with activation(z + u)."""
        rate = update(keeps_output(self.activation)(*a))
        h = (1 - self.alpha) * state.h + self.alpha * rate
        return ElmanState(h), h
