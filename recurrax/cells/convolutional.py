"""Cells whose inputs and states lie in space: both affine maps are convolutions, the equations are the usual ones."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import NamedSharding, PartitionSpec, reshard
from jax.typing import DTypeLike

from recurrax._arguments import as_int
from recurrax._layer import Initializer, Params
from recurrax.cells._activation import frugal
from recurrax.cells.affine import AffineCell, along
from recurrax.cells.elman import ElmanCell, ElmanState
from recurrax.cells.gru import GRUCell, GRUParams, GRUState
from recurrax.cells.lstm import LSTMCell, LSTMState


@dataclasses.dataclass(frozen=True, repr=False)
class _Convolutional(AffineCell):
    """An affine cell on a grid; it stands behind the cell with the equations, whose fields and `init` build upon it."""

    input_shape: tuple[int, ...]
    kernel_size: int | tuple[int, ...]
    strides: int | tuple[int, ...] = dataclasses.field(default=1, kw_only=True)
    padding: str | tuple[tuple[int, int], ...] = dataclasses.field(default="SAME", kw_only=True)
    dilation: int | tuple[int, ...] = dataclasses.field(default=1, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        shape, sizes = self.input_shape, _ints(self.input_shape)
        object.__setattr__(self, "input_shape", (sizes,) if isinstance(sizes, int) else sizes)
        if not _all_positive(self.input_shape):
            raise ValueError(f"`input_shape` must be the size of each spatial axis, such as (16, 16); got {shape!r}.")
        axes = f"{len(self.input_shape)} spatial axes of `input_shape` {self.input_shape}"
        for name in ("kernel_size", "strides", "dilation"):
            value = getattr(self, name)
            object.__setattr__(self, name, _ints(value))
            each = self._each(getattr(self, name))
            if not _all_positive(each) or len(each) != len(self.input_shape):
                raise ValueError(f"`{name}` must be a positive int, or one for each of the {axes}; got {value!r}.")
        self._check_padding(axes)
        if not _all_positive(self.output_shape):
            raise ValueError(
                f"`kernel_size` must fit into `input_shape` {self.input_shape} with `padding` {self.padding!r}; "
                f"got {self.kernel_size}, which with `dilation` {self.dilation} extends over {self._extents}."
            )

    def _check_padding(self, axes: str) -> None:
        padding = self.padding
        if isinstance(padding, str) and padding.upper() in ("SAME", "VALID"):
            object.__setattr__(self, "padding", padding.upper())
        elif np.shape(padding) == (len(self.input_shape), 2) and all(map(_ints, padding)):
            object.__setattr__(self, "padding", tuple(map(_ints, padding)))
        else:
            raise ValueError(
                f'`padding` must be "SAME", "VALID", or a pair (low, high) for each of the {axes}; got {padding!r}.'
            )

    @property
    def feature_ndim(self) -> int:
        """The spatial axes and the channels."""
        return len(self.input_shape) + 1

    @property
    def output_shape(self) -> tuple[int, ...]:
        """The spatial shape of the state and of one output: the `input_shape` of a layer above."""
        space, extents, strides = self.input_shape, self._extents, self._each(self.strides)
        pads: Any = self.padding
        if isinstance(pads, str):
            pads = lax.padtype_to_pads(space, extents, strides, pads)
        axes = zip(space, extents, strides, pads, strict=True)
        return tuple((size + low + high - extent) // stride + 1 for size, extent, stride, (low, high) in axes)

    @property
    def _extents(self) -> tuple[int, ...]:
        sizes = zip(self._each(self.kernel_size), self._each(self.dilation), strict=True)
        return tuple((size - 1) * dilation + 1 for size, dilation in sizes)

    def _each(self, value: int | tuple[int, ...]) -> tuple[int, ...]:
        return (value,) * len(self.input_shape) if isinstance(value, int) else value

    def init(self, key: jax.Array, input_size: int, dtype: DTypeLike = jnp.float32) -> Params:
        """Draws `kernel` `[*kernel_size, I, G*H]`, `recurrent_kernel` `[*kernel_size, O, G*H]` and the biases."""

        def widened(initializer: Initializer) -> Initializer:
            size = self._each(self.kernel_size)
            return lambda key, shape, dtype: initializer(key, (*size, *shape), dtype)

        kernel, recurrent_kernel = widened(self.kernel_init), widened(self.recurrent_kernel_init)
        cell = dataclasses.replace(self, kernel_init=kernel, recurrent_kernel_init=recurrent_kernel)
        return AffineCell.init(cell, key, input_size, dtype)

    def project_inputs(self, params: Params, xs: jax.Array) -> jax.Array:
        """The convolution of the inputs, with the strides, the padding and the dilation of the cell."""
        space = xs.shape[-self.feature_ndim : -1]
        if space != self.input_shape:
            raise ValueError(f"`input_shape` must be the spatial shape of the inputs, {space}; got {self}.")
        strides, dilation = self._each(self.strides), self._each(self.dilation)
        return _convolve(xs, params.kernel, params.bias, strides, self.padding, dilation)

    def project_state(self, params: Params, h: jax.Array) -> jax.Array:
        """The convolution of the state, which keeps its shape."""
        ones = self._each(1)
        return _convolve(h, params.recurrent_kernel, params.recurrent_bias, ones, "SAME", ones)


def _convolve(
    x: jax.Array,
    kernel: jax.Array,
    bias: jax.Array | None,
    strides: tuple[int, ...],
    padding: str | Sequence[tuple[int, int]],
    dilation: tuple[int, ...],
) -> jax.Array:
    """Channels last: multiplied in the kernel's dtype, accumulated and returned in that of `x`, as `affine`."""
    ndim = len(strides)
    channels_last = (0, ndim + 1, *range(1, ndim + 1))
    placed = jax.typeof(x).sharding
    if any(placed.spec) and jax.typeof(kernel).sharding.mesh.empty:
        # The gradient of a kernel that was made outside of the mesh needs to know that it lies there too.
        kernel = reshard(kernel, NamedSharding(placed.mesh, PartitionSpec()))
    images, back = _as_one_axis(x, x.ndim - ndim - 1)
    y = lax.conv_general_dilated(
        images.astype(kernel.dtype),
        kernel,
        strides,
        padding,
        rhs_dilation=dilation,
        dimension_numbers=lax.ConvDimensionNumbers(channels_last, (ndim + 1, ndim, *range(ndim)), channels_last),
        preferred_element_type=x.dtype,
    )
    y = back(y)
    return y if bias is None else y + along(bias, y)


def _as_one_axis(x: jax.Array, number: int) -> tuple[jax.Array, Callable[[jax.Array], jax.Array]]:
    """`x` with its first `number` axes as one, and the way back for what a map of the other axes makes of it.

    Under a mesh with Explicit axes, only axes that come first can be spread over devices and merged with others. So
    those that are spread come first.
    """
    sizes, sharding = x.shape[:number], jax.typeof(x).sharding
    mesh, placed = sharding.mesh, sharding.spec
    if not any(placed):
        return x.reshape(math.prod(sizes), *x.shape[number:]), lambda y: y.reshape(*sizes, *y.shape[1:])
    order = sorted(range(number), key=lambda axis: placed[axis] is None)
    moved = tuple(sizes[axis] for axis in order)
    names = [placed[axis] for axis in order]
    meshes = [axis for name in names if name is not None for axis in (name if isinstance(name, tuple) else (name,))]
    merged = lax.reshape(
        lax.transpose(x, (*order, *range(number, x.ndim))),
        (math.prod(sizes), *x.shape[number:]),
        out_sharding=NamedSharding(mesh, PartitionSpec(tuple(meshes) or None, *placed[number:])),
    )

    def back(y: jax.Array) -> jax.Array:
        spec = PartitionSpec(*names, *jax.typeof(y).sharding.spec[1:])
        y = lax.reshape(y, (*moved, *y.shape[1:]), out_sharding=NamedSharding(mesh, spec))
        places = [order.index(axis) for axis in range(number)]
        return lax.transpose(y, (*places, *range(number, y.ndim)))

    return merged, back


def _ints(value: Any) -> Any:
    """One int, or a tuple of them, as Python's; None for anything else."""
    if not isinstance(value, (tuple, list, np.ndarray)):
        return as_int(value)
    numbers = tuple(as_int(number) for number in value)
    return None if None in numbers else numbers


def _all_positive(numbers: tuple[int, ...] | None) -> bool:
    return bool(numbers) and all(number > 0 for number in numbers or ())


@dataclasses.dataclass(frozen=True, repr=False)
class ConvLSTMCell(LSTMCell, _Convolutional):
    """The convolutional LSTM: Keras' `ConvLSTM1D`, `ConvLSTM2D` and `ConvLSTM3D`, in any number of dimensions.

    i = σ(z_i + u_i),  f = σ(z_f + u_f),  g = tanh(z_g + u_g),  o = σ(z_o + u_o)
    c' = f ⊙ c + i ⊙ g
    h' = o ⊙ tanh(c'), and h' @ projection_kernel, over channels, if `proj_size` is positive,

    where z = x * kernel + bias and u = h * recurrent_kernel + recurrent_bias are convolutions over space (that is,
    cross-correlations, as everywhere in the field). The gates see no c: the peepholes of Shi et al. are left out, as
    in Keras and Flax. Inputs are `[*B, T, *input_shape, I]`, states and outputs `[*B, *output_shape, H]`.

    Args:
        hidden_size: the number of channels H of the cell state.
        input_shape: the spatial shape of one input, such as (16, 16); an int for one dimension.
        kernel_size: the spatial shape of both kernels; an int for the same size along every axis.
        proj_size: the number of channels P of the output, below H; 0 for no projection.
        forget_bias: what `init` adds to the forget gate's part of `bias`.
        strides: the steps between the windows of the input convolution, an int or one for each axis; the recurrent
            convolution has strides and dilation 1 and keeps the shape of the state.
        padding: of the input convolution, `"SAME"`, `"VALID"`, or a pair (low, high) for each axis.
        dilation: the distance between the taps of the input convolution, an int or one for each axis.
        activation: the nonlinearity of g and of c'.
        gate_activation: the nonlinearity of the gates i, f and o.
        bias: whether the input convolution has a bias, one number for each channel.
        recurrent_bias: whether the recurrent convolution has a bias of its own.
        kernel_init: draws each gate of `kernel`, `[*kernel_size, I, H]`; Glorot uniform by default, with the taps
            among the inputs and outputs.
        recurrent_kernel_init: draws each gate of `recurrent_kernel`, `[*kernel_size, H, H]`; by default orthogonal, as
            in Keras: the H filters of a gate are orthonormal. `jax.nn.initializers.delta_orthogonal()` makes the
            whole convolution orthogonal.
        bias_init: draws each gate of each bias; zeros by default.
        dtype: the dtype of the convolutions; `None` follows the parameters and the inputs.

    Attributes:
        output_shape: the spatial shape of the state and of one output: the `input_shape` of a layer above.

    Raises:
        TypeError: if `hidden_size` is not an int.
        ValueError: if a size is not positive, an argument has not one entry for each spatial axis, or the kernel does
            not fit into the input.

    Example:
        >>> import jax, recurrax
        >>> cell = recurrax.ConvLSTMCell(4, (16, 12), 3, strides=2)
        >>> params = cell.init(jax.random.key(0), input_size=3)
        >>> state, ys = recurrax.scan(cell, params, jax.numpy.ones((2, 7, 16, 12, 3)))
        >>> ys.shape, state.c.shape, params.recurrent_kernel.shape
        ((2, 7, 8, 6, 4), (2, 8, 6, 4), (3, 3, 4, 16))

    References:
        Shi et al., Convolutional LSTM network: a machine learning approach for precipitation nowcasting, 2015,
        https://arxiv.org/abs/1506.04214

        Xiao et al., Dynamical isometry and a mean field theory of CNNs (delta-orthogonal kernels), 2018,
        https://arxiv.org/abs/1806.05393
    """

    def initial_state(self, batch_shape: tuple[int, ...] = (), dtype: DTypeLike = jnp.float32) -> LSTMState:
        """Zeros: h `[*B, *output_shape, P]` and c `[*B, *output_shape, H]`."""
        return super().initial_state((*batch_shape, *self.output_shape), dtype)


@dataclasses.dataclass(frozen=True, repr=False)
class ConvGRUCell(GRUCell, _Convolutional):
    """The convolutional GRU, with the reset gate after the recurrent convolution or before it.

    r = σ(z_r + u_r),  z = σ(z_z + u_z)
    n = tanh(z_n + r ⊙ u_n), or tanh(z_n + (r ⊙ h) * recurrent_kernel_n + recurrent_bias_n) without `reset_after`
    h' = (1 - z) ⊙ n + z ⊙ h,

    where z_* = x * kernel + bias and u_* = h * recurrent_kernel + recurrent_bias are convolutions over space. Inputs
    are `[*B, T, *input_shape, I]`, states and outputs `[*B, *output_shape, H]`.

    Args:
        hidden_size: the number of channels H of the state.
        input_shape: as in `ConvLSTMCell`, and so are `kernel_size`, `strides`, `padding`, `dilation`, the initialisers,
            `bias` and `dtype`.
        reset_after: whether the reset gate acts after the recurrent convolution, or before it (Ballas et al.).
        activation: the nonlinearity of the candidate n.
        gate_activation: the nonlinearity of the gates r and z.
        recurrent_bias: whether the recurrent convolution has a bias of its own; `None` for one with `reset_after`.

    Attributes:
        output_shape: the spatial shape of the state and of one output: the `input_shape` of a layer above.

    Raises:
        TypeError: as `ConvLSTMCell`.
        ValueError: as `ConvLSTMCell`.

    Example:
        >>> import jax, recurrax
        >>> cell = recurrax.ConvGRUCell(4, (16, 12), (3, 5))
        >>> params = cell.init(jax.random.key(0), input_size=3)
        >>> state, ys = recurrax.scan(cell, params, jax.numpy.ones((2, 7, 16, 12, 3)))
        >>> ys.shape, state.h.shape
        ((2, 7, 16, 12, 4), (2, 16, 12, 4))

    References:
        Ballas et al., Delving deeper into convolutional networks for learning video representations, 2016,
        https://arxiv.org/abs/1511.06432
    """

    def initial_state(self, batch_shape: tuple[int, ...] = (), dtype: DTypeLike = jnp.float32) -> GRUState:
        """Zeros, `[*B, *output_shape, H]`."""
        return super().initial_state((*batch_shape, *self.output_shape), dtype)

    def step(self, params: GRUParams, state: GRUState, z: jax.Array) -> tuple[GRUState, jax.Array]:
        """One recurrent convolution and `pointwise`; one for each gate where the reset gate acts before them."""
        if self.reset_after:
            return super().step(params, state, z)
        reset, update, candidate = self.gate_params(params)
        z_r, z_z, z_n = self.split(z.astype(state.h.dtype))
        r = frugal(self.gate_activation)(z_r + self.project_state(reset, state.h))
        u_z, u_n = self.project_state(update, state.h), self.project_state(candidate, r * state.h)
        return self._mix(z_z + u_z, z_n + u_n, state)


@dataclasses.dataclass(frozen=True, repr=False)
class ConvElmanCell(ElmanCell, _Convolutional):
    """Elman's cell with convolutions for products: a convolution over space that also sees its own last output.

    h' = activation(x * kernel + bias + h * recurrent_kernel + recurrent_bias)

    Inputs are `[*B, T, *input_shape, I]`, states and outputs `[*B, *output_shape, H]`.

    Args:
        hidden_size: the number of channels H of the state.
        input_shape: as in `ConvLSTMCell`, and so are `kernel_size`, `strides`, `padding`, `dilation`, the initialisers,
            the biases and `dtype`.
        activation: the nonlinearity.

    Attributes:
        output_shape: the spatial shape of the state and of one output: the `input_shape` of a layer above.

    Raises:
        TypeError: as `ConvLSTMCell`.
        ValueError: as `ConvLSTMCell`.

    Example:
        >>> import jax, recurrax
        >>> cell = recurrax.ConvElmanCell(4, 16, 3, jax.nn.relu, padding="VALID")
        >>> params = cell.init(jax.random.key(0), input_size=3)
        >>> state, ys = recurrax.scan(cell, params, jax.numpy.ones((2, 7, 16, 3)))
        >>> ys.shape, state.h.shape
        ((2, 7, 14, 4), (2, 14, 4))

    References:
        Liang and Hu, Recurrent convolutional neural network for object recognition, 2015,
        https://openaccess.thecvf.com/content_cvpr_2015/html/Liang_Recurrent_Convolutional_Neural_2015_CVPR_paper.html
    """

    def initial_state(self, batch_shape: tuple[int, ...] = (), dtype: DTypeLike = jnp.float32) -> ElmanState:
        """Zeros, `[*B, *output_shape, H]`."""
        return super().initial_state((*batch_shape, *self.output_shape), dtype)
