"""Layers that see the last few inputs: a window of inputs, and a short convolution over time."""

from __future__ import annotations

import abc
import dataclasses
import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike

from recurrax import initializers
from recurrax._arguments import SIZE, check_number
from recurrax._check import check_input_size
from recurrax._dtype import cast, compute_dtype, promote
from recurrax._layer import INITIALIZER, Initializer, Layer, Params, ScanContext, State
from recurrax._mask import restarts, restarts_last, where
from recurrax.cells.affine import broadcast_to_rank


class WindowState(NamedTuple):
    """State of a layer that sees the last few inputs.

    Attributes:
        xs: the last inputs, `[*B, W-1, I]`, the oldest first.
    """

    xs: jax.Array


@dataclasses.dataclass(frozen=True, repr=False)
class _Windowed(Layer):
    """A layer that reads the inputs of the last W unmasked steps of a segment."""

    @property
    @abc.abstractmethod
    def _sizes(self) -> tuple[int, int]:
        """Returns the number I of input features and the width W."""

    @abc.abstractmethod
    def _combine(self, params: Params, windows: Sequence[jax.Array]) -> jax.Array:
        """Computes the outputs from W arrays `[T, *B, I]`, the oldest inputs first."""

    def initial_state(
        self, batch_shape: tuple[int, ...] = (), dtype: DTypeLike = jnp.float32
    ) -> WindowState:
        """Returns zeros, `[*B, W-1, I]`."""
        size, width = self._sizes
        return WindowState(jnp.zeros((*batch_shape, width - 1, size), dtype))

    def apply(
        self, context: ScanContext, params: Params, state: WindowState, xs: jax.Array
    ) -> tuple[State, jax.Array]:
        """Computes all steps at once, after the inputs in the state."""
        compute = compute_dtype(self, params, xs)
        mask, reset = context.mask, context.reset
        if reset is not None:
            reset = restarts(reset, context.reverse)

        # From here on time runs in the direction of the scan.
        if context.reverse:
            flipped, mask, reset = jax.tree.map(lambda a: jnp.flip(a, axis=0), (xs, mask, reset))
        else:
            flipped = xs

        # The inputs in the state come before the first step: [W-1+T, *B, I].
        dtype = promote(xs.dtype, state.xs.dtype)
        before = jnp.moveaxis(state.xs, -2, 0).astype(dtype)
        inputs = jnp.concatenate([before, flipped.astype(dtype)])
        windows, last = _windows(inputs, self._sizes[1], mask, reset)
        ys = self._combine(cast(params, compute), cast(windows, compute)).astype(xs.dtype)
        if context.reverse:
            ys = jnp.flip(ys, axis=0)

        last = jnp.moveaxis(last, 0, -2).astype(state.xs.dtype)  # [*B, W-1, I]
        ended = restarts_last(context.reset, context.reverse)
        if ended is not None:
            last = where(ended, jnp.zeros_like(last), last)
        return WindowState(last), ys


def _windows(
    inputs: jax.Array, width: int, mask: jax.Array | None, reset: jax.Array | None
) -> tuple[list[jax.Array], jax.Array]:
    """Finds the inputs that each step sees.

    Args:
        inputs: `[W-1+T, *B, I]`; the first W-1 are those before the first step.
        width: the number W of inputs that a step sees.
        mask: `bool[T, *B]` or None. Masked steps are passed over.
        reset: `bool[T, *B]` or None, in the direction of the scan. A step sees no input before its
            segment.

    Returns:
        W arrays `[T, *B, I]`, the oldest inputs first, and the last W-1 inputs, `[W-1, *B, I]`.
    """
    past = width - 1
    steps = inputs.shape[0] - past
    if mask is None and reset is None:
        return [inputs[lag : lag + steps] for lag in range(width)], inputs[steps:]

    # The inputs before the first step count as unmasked steps, without a reset.
    unmasked = jnp.ones((steps, *inputs.shape[1:-1]), bool) if mask is None else mask
    restart = jnp.zeros_like(unmasked) if reset is None else reset
    padding = [(past, 0)] + [(0, 0)] * (unmasked.ndim - 1)
    unmasked = jnp.pad(unmasked, padding, constant_values=True)  # [W-1+T, *B]
    restart = jnp.pad(restart, padding, constant_values=False)  # [W-1+T, *B]

    segment = jnp.cumsum(restart, axis=0, dtype=jnp.int32)  # [W-1+T, *B], the number of the segment
    position = lax.broadcasted_iota(jnp.int32, unmasked.shape, 0)  # [W-1+T, *B]
    # The unmasked position at or before each position, and the one strictly before it.
    latest = lax.cummax(jnp.where(unmasked, position, 0), axis=0)
    previous = jnp.concatenate([jnp.zeros_like(latest[:1]), latest[:-1]])

    def take(values: jax.Array, positions: jax.Array) -> jax.Array:
        features_axes = tuple(range(positions.ndim, values.ndim))
        return jnp.take_along_axis(values, jnp.expand_dims(positions, features_axes), axis=0)

    def look_back(positions: jax.Array, current: jax.Array, number: int) -> list[jax.Array]:
        """Returns the inputs at `positions` and before them, zeros for earlier segments."""
        found = []
        for _ in range(number):
            same = jnp.expand_dims(take(segment, positions) == current, -1)
            found.append(jnp.where(same, take(inputs, positions), jnp.zeros((), inputs.dtype)))
            positions = take(previous, positions)
        return found[::-1]

    # The empty slice keeps the shape where W is 1 and the state holds nothing.
    last = jnp.concatenate([inputs[:0], *look_back(latest[-1:], segment[-1:], past)])
    return look_back(position[past:], segment[past:], width), last


@dataclasses.dataclass(frozen=True, repr=False)
class Window(_Windowed):
    """Puts the inputs of the last W steps side by side.

    Below a cell, the product of the cell becomes a convolution over time.

    y_t = [x_{t-W+1}, ..., x_{t-1}, x_t]

    Masked steps are passed over. Before the first step of a segment there are zeros. In reverse a
    step sees the next inputs instead of the last. The layer has no parameters.

    Args:
        input_size: the number I of input features.
        width: the number W of inputs that a step sees.

    Raises:
        ValueError: if a size is below 1; at `init`, if the inputs have another number of features.

    Example:
        >>> import jax, recurrax
        >>> xs = jax.numpy.array([[1.0], [2.0], [3.0]])
        >>> state, ys = recurrax.scan(recurrax.Window(1, 2), (), xs)
        >>> ys.tolist(), state.xs.tolist()
        ([[0.0, 1.0], [1.0, 2.0], [2.0, 3.0]], [[3.0]])

    References:
        Bradbury et al., Quasi-recurrent neural networks (section 2), 2017,
        https://arxiv.org/abs/1611.01576
    """

    input_size: int = dataclasses.field(metadata=SIZE)
    width: int

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("width", self.width)

    @property
    def _sizes(self) -> tuple[int, int]:
        return self.input_size, self.width

    def init(self, key: jax.Array, input_size: int, dtype: DTypeLike = jnp.float32) -> tuple[()]:
        """Returns `()`: there are no parameters."""
        self.output_size(input_size)
        return ()

    def output_size(self, input_size: int) -> int:
        """Returns W times the input size."""
        check_input_size(self, input_size, self.input_size)
        return self.width * input_size

    def _combine(self, params: Params, windows: Sequence[jax.Array]) -> jax.Array:
        return jnp.concatenate(windows, axis=-1)  # [T, *B, W*I]


class CausalConvParams(NamedTuple):
    """Parameters of a `CausalConv`.

    Attributes:
        kernel: `[W, H]`; the last row belongs to the current step.
        bias: `[H]`, or None.
    """

    kernel: jax.Array
    bias: jax.Array | None = None


@dataclasses.dataclass(frozen=True, repr=False)
class CausalConv(_Windowed):
    """Applies a short convolution over time to each feature by itself.

    y_t = Σ_k kernel_k * x_{t-W+1+k} + bias,  k = 0, ..., W-1

    Masked steps are passed over. Before the first step of a segment there are zeros. In reverse a
    step reads the next inputs instead of the last.

    Args:
        hidden_size: the number H of features, of the inputs and of the outputs.
        width: the number W of inputs that a step sees.
        bias: whether the layer has a bias.
        kernel_init: draws `kernel`; by default LeCun normal, with W inputs to each output.
        bias_init: draws `bias`; zeros by default.
        dtype: the dtype of the products; `None` follows the parameters and the inputs.

    Raises:
        ValueError: if a size is below 1; at `init`, if the inputs do not have H features.

    Example:
        >>> import jax, recurrax
        >>> layer = recurrax.Stack((recurrax.CausalConv(3), recurrax.MinGRUCell(4)))
        >>> params = layer.init(jax.random.key(0), input_size=3)
        >>> state, ys = recurrax.scan(layer, params, jax.numpy.ones((2, 7, 3)))
        >>> ys.shape, state[0].xs.shape
        ((2, 7, 4), (2, 3, 3))

    References:
        De et al., Griffin: mixing gated linear recurrences with local attention for efficient
        language models (section 2.3), 2024, https://arxiv.org/abs/2402.19427
    """

    hidden_size: int = dataclasses.field(metadata=SIZE)
    width: int = 4
    bias: bool = dataclasses.field(default=True, kw_only=True)
    kernel_init: Initializer = dataclasses.field(
        default=initializers.lecun_normal, kw_only=True, metadata=INITIALIZER
    )
    bias_init: Initializer = dataclasses.field(
        default=initializers.zeros, kw_only=True, metadata=INITIALIZER
    )
    dtype: DTypeLike | None = dataclasses.field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("width", self.width)

    @property
    def _sizes(self) -> tuple[int, int]:
        return self.hidden_size, self.width

    def init(
        self, key: jax.Array, input_size: int, dtype: DTypeLike = jnp.float32
    ) -> CausalConvParams:
        """Draws `kernel` `[W, H]` and `bias` `[H]`."""
        kernel_key, bias_key = jax.random.split(key)
        size = self.output_size(input_size)
        # An initializer draws in float32, so that the numbers are the same for every `dtype`.
        kernel = self.kernel_init(kernel_key, (self.width, size), jnp.float32)
        bias = None
        if self.bias:
            bias = self.bias_init(bias_key, (size,), jnp.float32).astype(dtype)
        return CausalConvParams(kernel.astype(dtype), bias)

    def output_size(self, input_size: int) -> int:
        """Returns H, which the input size must be too."""
        check_input_size(self, input_size, self.hidden_size)
        return input_size

    def _combine(self, params: CausalConvParams, windows: Sequence[jax.Array]) -> jax.Array:
        # One product for each row of the kernel; all arrays are [T, *B, H].
        weighted = [
            broadcast_to_rank(k, x) * x for k, x in zip(params.kernel, windows, strict=True)
        ]
        ys = functools.reduce(jnp.add, weighted)
        if params.bias is None:
            return ys
        return ys + broadcast_to_rank(params.bias, ys)
