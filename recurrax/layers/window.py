"""Layers that see the last few steps: windows of inputs, and the short convolution over them."""

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
from recurrax._arguments import check_number
from recurrax._check import check_input_size
from recurrax._dtype import cast, compute_dtype, promote
from recurrax._layer import INITIALIZER, Initializer, Layer, Params, ScanContext, State
from recurrax._mask import restarts, restarts_last, where
from recurrax.cells.affine import broadcast_to_rank


class WindowState(NamedTuple):
    """State of a layer that sees the last few steps.

    Attributes:
        xs: the last inputs, `[*B, W-1, I]`, the one before the next step last.
    """

    xs: jax.Array


@dataclasses.dataclass(frozen=True, repr=False)
class _Windowed(Layer):
    """A layer over the inputs of this step and the W - 1 real steps before it in its segment, all steps at once."""

    @property
    @abc.abstractmethod
    def _sizes(self) -> tuple[int, int]:
        """The number of features of an input, and the width W."""

    @abc.abstractmethod
    def _over(self, params: Params, window: Sequence[jax.Array]) -> jax.Array:
        """The outputs, from the inputs of each step and of those before it, the oldest first, each `[T, *B, I]`."""

    def initial_state(self, batch_shape: tuple[int, ...] = (), dtype: DTypeLike = jnp.float32) -> WindowState:
        """Zeros, `[*B, W-1, I]`."""
        size, width = self._sizes
        return WindowState(jnp.zeros((*batch_shape, width - 1, size), dtype))

    def apply(self, context: ScanContext, params: Params, state: WindowState, xs: jax.Array) -> tuple[State, jax.Array]:
        """All steps at once, after those in the state."""
        compute = compute_dtype(self, params, xs)
        mask = context.mask
        reset = None if context.reset is None else restarts(context.reset, context.reverse)
        if context.reverse:
            ahead, mask, reset = jax.tree.map(lambda a: jnp.flip(a, axis=0), (xs, mask, reset))
        else:
            ahead = xs
        both = promote(xs.dtype, state.xs.dtype)
        ahead = jnp.concatenate([jnp.moveaxis(state.xs, -2, 0).astype(both), ahead.astype(both)])
        window, last = _lags(ahead, self._sizes[1], mask, reset)
        ys = self._over(cast(params, compute), cast(window, compute)).astype(xs.dtype)
        last = jnp.moveaxis(last, 0, -2).astype(state.xs.dtype)
        ended = restarts_last(context.reset, context.reverse)
        if ended is not None:
            last = where(ended, jnp.zeros_like(last), last)
        return WindowState(last), jnp.flip(ys, axis=0) if context.reverse else ys


def _lags(
    xs: jax.Array, width: int, mask: jax.Array | None, reset: jax.Array | None
) -> tuple[list[jax.Array], jax.Array]:
    """The inputs of each step and of the `width` - 1 before it, the oldest first, and the last ones of all.

    `xs` begins with `width` - 1 inputs that are not steps. Where there is a `mask`, "before" means the real ones.
    """
    past, steps = width - 1, xs.shape[0] - (width - 1)
    if mask is None and reset is None:
        return [xs[lag : lag + steps] for lag in range(width)], xs[steps:]
    real = jnp.ones((steps, *xs.shape[1:-1]), bool) if mask is None else mask
    fresh = jnp.zeros_like(real) if reset is None else reset
    real, fresh = (
        jnp.pad(f, [(past, 0)] + [(0, 0)] * (f.ndim - 1), constant_values=v) for f, v in ((real, True), (fresh, False))
    )
    segment = jnp.cumsum(fresh, axis=0, dtype=jnp.int32)
    at = lax.broadcasted_iota(jnp.int32, real.shape, 0)
    latest = lax.cummax(jnp.where(real, at, 0), axis=0)  # the real place at or before each
    before = jnp.concatenate([jnp.zeros_like(latest[:1]), latest[:-1]])

    def take(values: jax.Array, places: jax.Array) -> jax.Array:
        return jnp.take_along_axis(values, jnp.expand_dims(places, tuple(range(places.ndim, values.ndim))), axis=0)

    def back(places: jax.Array, current: jax.Array, number: int) -> list[jax.Array]:
        """What stands at `places` and at the real places before them, or zeros of an earlier segment."""
        found = []
        for _ in range(number):
            same = jnp.expand_dims(take(segment, places) == current, -1)
            found.append(jnp.where(same, take(xs, places), jnp.zeros((), xs.dtype)))
            places = take(before, places)
        return found[::-1]

    end = back(latest[-1:], segment[-1:], past)
    return back(at[past:], segment[past:], width), jnp.concatenate([xs[:0], *end])


@dataclasses.dataclass(frozen=True, repr=False)
class Window(_Windowed):
    """The inputs of the last steps, side by side: below a cell, its product becomes a convolution over time.

    y_t = [x_{t-W+1}, ..., x_{t-1}, x_t]

    Only real steps count: a masked one is passed over, and before the first step of a segment there are zeros. Going
    backwards the last steps are the next ones. It has no parameters.

    Args:
        input_size: the number of features I of its inputs.
        width: the number W of inputs that a step sees.

    Raises:
        ValueError: if a size is not at least 1; at `init`, if the inputs have another number of features.

    Example:
        >>> import jax, recurrax
        >>> xs = jax.numpy.array([[1.0], [2.0], [3.0]])
        >>> state, ys = recurrax.scan(recurrax.Window(1, 2), (), xs)
        >>> ys.tolist(), state.xs.tolist()
        ([[0.0, 1.0], [1.0, 2.0], [2.0, 3.0]], [[3.0]])

    References:
        Bradbury et al., Quasi-recurrent neural networks (section 2), 2017, https://arxiv.org/abs/1611.01576
    """

    input_size: int
    width: int

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("input_size", self.input_size)
        check_number("width", self.width)

    @property
    def _sizes(self) -> tuple[int, int]:
        return self.input_size, self.width

    def init(self, key: jax.Array, input_size: int, dtype: DTypeLike = jnp.float32) -> tuple[()]:
        """No parameters."""
        self.output_size(input_size)
        return ()

    def output_size(self, input_size: int) -> int:
        """W times that of the input."""
        check_input_size(self, input_size, self.input_size)
        return self.width * input_size

    def _over(self, params: Params, window: Sequence[jax.Array]) -> jax.Array:
        return jnp.concatenate(window, axis=-1)


class CausalConvParams(NamedTuple):
    """Parameters of a `CausalConv`.

    Attributes:
        kernel: `[W, H]`, that of the current step last.
        bias: `[H]`, or None.
    """

    kernel: jax.Array
    bias: jax.Array | None = None


@dataclasses.dataclass(frozen=True, repr=False)
class CausalConv(_Windowed):
    """A short convolution over time, each feature by itself.

    y_t = Σ_k kernel_k * x_{t-W+1+k} + bias,  k = 0, ..., W-1

    Only real steps count: a masked one is passed over, and before the first step of a segment there are zeros. Going
    backwards it reads the next steps in place of the last ones.

    Args:
        hidden_size: the number of features H, of the inputs and of the outputs.
        width: the number W of inputs that a step sees.
        bias: whether there is a bias.
        kernel_init: draws `kernel`; LeCun normal by default, of W inputs to an output.
        bias_init: draws `bias`; zeros by default.
        dtype: the dtype of the products; `None` follows the parameters and the inputs.

    Raises:
        ValueError: if a size is not at least 1; at `init`, if the inputs do not have H features.

    Example:
        >>> import jax, recurrax
        >>> layer = recurrax.Stack((recurrax.CausalConv(3), recurrax.MinGRUCell(4)))
        >>> params = layer.init(jax.random.key(0), input_size=3)
        >>> state, ys = recurrax.scan(layer, params, jax.numpy.ones((2, 7, 3)), lengths=jax.numpy.array([7, 5]))
        >>> ys.shape, state[0].xs.shape
        ((2, 7, 4), (2, 3, 3))

    References:
        De et al., Griffin: mixing gated linear recurrences with local attention for efficient language models
        (section 2.3), 2024, https://arxiv.org/abs/2402.19427
    """

    hidden_size: int
    width: int = 4
    bias: bool = dataclasses.field(default=True, kw_only=True)
    kernel_init: Initializer = dataclasses.field(default=initializers.lecun_normal, kw_only=True, metadata=INITIALIZER)
    bias_init: Initializer = dataclasses.field(default=initializers.zeros, kw_only=True, metadata=INITIALIZER)
    dtype: DTypeLike | None = dataclasses.field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("hidden_size", self.hidden_size)
        check_number("width", self.width)

    @property
    def _sizes(self) -> tuple[int, int]:
        return self.hidden_size, self.width

    def init(self, key: jax.Array, input_size: int, dtype: DTypeLike = jnp.float32) -> CausalConvParams:
        """Draws `kernel` `[W, H]` and `bias` `[H]`."""
        kernel_key, bias_key = jax.random.split(key)
        size = self.output_size(input_size)
        return CausalConvParams(
            kernel=self.kernel_init(kernel_key, (self.width, size), jnp.float32).astype(dtype),
            bias=self.bias_init(bias_key, (size,), jnp.float32).astype(dtype) if self.bias else None,
        )

    def output_size(self, input_size: int) -> int:
        """That of the input, which must be H."""
        check_input_size(self, input_size, self.hidden_size)
        return input_size

    def _over(self, params: CausalConvParams, window: Sequence[jax.Array]) -> jax.Array:
        taps = zip(params.kernel, window, strict=True)
        ys = functools.reduce(jnp.add, [broadcast_to_rank(k, x) * x for k, x in taps])
        return ys if params.bias is None else ys + broadcast_to_rank(params.bias, ys)
