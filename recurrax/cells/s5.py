"""S5: a diagonal state-space model in continuous time, with learned step sizes."""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import DTypeLike

from recurrax._dtype import widened
from recurrax.cells._complex import ComplexDiagonalCell
from recurrax.cells.linear import Coefficients


class S5Params(NamedTuple):
    """Parameters of an `S5Cell`, all of a floating dtype.

    Attributes:
        log_decay: log(-Re Λ), `[N/2]`.
        frequency: Im Λ, `[N/2]`.
        log_step: log Δ, `[N/2]`.
        kernel: B, `[I, N]`, its real part before its imaginary part.
        output_kernel: C, `[N, H]`, its real part above its imaginary part.
        skip: D, `[H]`, or `[I, H]` if the inputs do not have H features.
    """

    log_decay: jax.Array
    frequency: jax.Array
    log_step: jax.Array
    kernel: jax.Array
    output_kernel: jax.Array
    skip: jax.Array


@dataclasses.dataclass(frozen=True, repr=False)
class S5Cell(ComplexDiagonalCell):
    """S5: a linear state-space model of N states, as N/2 complex states and their conjugates.

    dh/dt = Λ h + B x,  with x constant over a step Δ:
    h' = exp(ΛΔ) * h + (exp(ΛΔ) - 1) / Λ * (x @ B)
    y = 2 Re(h' @ C) + D x

    The parameters are Λ, B and C in the basis in which the model is diagonal, and a step Δ for each
    state. Re Λ is minus an exponential, so Re Λ stays below 0 and the model is stable; the paper
    learns Re Λ itself. At first Λ has the eigenvalues of `num_blocks` blocks, each the normal part
    of a HiPPO-LegS matrix. `init` draws B and C as random matrices and transforms them into that
    basis. It draws Δ evenly in log space. For both directions use `Bidirectional`.

    Args:
        hidden_size: the number of features H of the output.
        state_size: the number N of states before they are made complex, the paper's P; 0 for H.
        num_blocks: the number of equal blocks of the state, the paper's J.
        min_step: the least Δ at first.
        max_step: the greatest Δ at first.
        dtype: the dtype of the matrix products; `None` follows the parameters and the inputs.

    Raises:
        TypeError: if a size is not an int.
        ValueError: if a size is out of range, a block has an odd number of states, or not
            0 < min_step <= max_step.

    Example:
        A block of the paper: normalization, the model and a gate:

        >>> import jax, recurrax as rx
        >>> model = rx.Stack((rx.S5Cell(8, 16), rx.Activation(jax.nn.gelu)))
        >>> gated = rx.Gated(rx.Dropout(0.1), rx.Dense(8, jax.nn.sigmoid))
        >>> block = rx.Residual(rx.Stack((rx.LayerNorm(), model, gated)))
        >>> params = block.init(jax.random.key(0), input_size=8)
        >>> xs = jax.numpy.ones((2, 7, 8))
        >>> state, ys = rx.scan(block, params, xs, implementation="associative")
        >>> ys.shape, state[1][0].h.shape, state[1][0].h.dtype.name
        ((2, 7, 8), (2, 8), 'complex64')

    References:
        Smith et al., Simplified state space layers for sequence modeling, 2023,
        https://arxiv.org/abs/2208.04933
    """

    num_blocks: int = 1
    min_step: float = 0.001
    max_step: float = 0.1

    exact: ClassVar[tuple[str, ...]] = ("log_decay", "frequency", "log_step")
    factor: ClassVar[float] = 2.0

    def __post_init__(self) -> None:
        super().__post_init__()
        size = self.state_size or self.hidden_size
        if self.num_blocks < 1 or size % (2 * self.num_blocks):
            raise ValueError(
                "`state_size` of S5Cell must be an even number for each of "
                f"{self.num_blocks} blocks; got {size}."
            )
        if not 0 < self.min_step <= self.max_step < math.inf:
            raise ValueError(
                "`min_step` and `max_step` must be finite, and 0 < min_step <= max_step; "
                f"got {self.min_step} and {self.max_step}."
            )

    @property
    def modes(self) -> int:
        """The number N/2 of complex states."""
        return (self.state_size or self.hidden_size) // 2

    def init(self, key: jax.Array, input_size: int, dtype: DTypeLike = jnp.float32) -> S5Params:
        """Draws B and C in the basis of the blocks, then transforms them to the eigenvectors."""
        keys, blocks = jax.random.split(key, 4), self.num_blocks
        # A block has `half` pairs of conjugate states.
        half = self.modes // blocks
        eigenvalues, vectors = _normal_hippo(2 * half)

        def rotate(drawn: jax.Array, basis: np.ndarray) -> jax.Array:
            parts = []
            # The part of the real numbers, then the part of the imaginary numbers.
            for matrix in (basis.real, basis.imag):
                part = jnp.einsum("...bn,nm->...bm", drawn, jnp.asarray(matrix, drawn.dtype))
                parts.append(part.reshape(-1, self.modes))
            return jnp.concatenate(parts, axis=-1)

        # The variance of each product is 1 for inputs or states of variance 1.
        kernel = jax.random.normal(keys[0], (input_size, blocks, 2 * half))
        kernel = kernel * input_size**-0.5
        output_kernel = jax.random.normal(keys[1], (self.hidden_size, blocks, 2 * half))
        output_kernel = output_kernel * (2 * self.modes) ** -0.5
        low, high = math.log(self.min_step), math.log(self.max_step)
        params = S5Params(
            log_decay=jnp.log(jnp.tile(-eigenvalues.real, blocks)),
            frequency=jnp.tile(eigenvalues.imag, blocks),
            log_step=jax.random.uniform(keys[2], (self.modes,), minval=low, maxval=high),
            kernel=rotate(kernel, vectors.conj()),
            output_kernel=rotate(output_kernel, vectors).T,
            skip=self.draw_skip(keys[3], input_size),
        )
        return jax.tree.map(lambda p: p.astype(dtype), params)

    def project_inputs(self, params: S5Params, xs: jax.Array) -> Coefficients:
        """exp(ΛΔ) and the scaled x @ B of each step; `rest` is D x."""
        log_decay, frequency = widened(params.log_decay), widened(params.frequency)
        log_step = widened(params.log_step)
        eigenvalues = lax.complex(-jnp.exp(log_decay), frequency)
        log_a = eigenvalues * jnp.exp(log_step).astype(eigenvalues.dtype)
        # expm1 keeps the digits of exp(ΛΔ) - 1 where ΛΔ is small.
        return self.coefficients(params, xs, log_a, jnp.expm1(log_a) / eigenvalues)


@functools.lru_cache
def _normal_hippo(size: int) -> tuple[np.ndarray, np.ndarray]:
    """The eigenvalues with Im > 0 and the eigenvectors of the normal part of HiPPO-LegS.

    This matrix has -1/2 on the diagonal, -√((n + 1/2)(k + 1/2)) below it, and √((n + 1/2)(k + 1/2))
    above.
    """
    root = np.sqrt(np.arange(size) + 0.5)
    products = np.outer(root, root)
    # -i times the antisymmetric part is Hermitian. Its eigenvalues ascend and come as ±pairs.
    frequencies, vectors = np.linalg.eigh(-1j * (np.triu(products, 1) - np.tril(products, -1)))
    return -0.5 + 1j * frequencies[size // 2 :], vectors[:, size // 2 :]
