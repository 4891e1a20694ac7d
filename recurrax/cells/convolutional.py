"""Cells whose inputs and states lie in space: both affine maps are convolutions."""

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
from recurrax.cells.affine import AffineCell, Gates, broadcast_to_rank
from recurrax.cells.elman import ElmanCell, ElmanState
from recurrax.cells.gru import GRUCell, GRUParams, GRUState
from recurrax.cells.lstm import LSTMCell, LSTMState


@dataclasses.dataclass(frozen=True, repr=False)
class _Convolutional(AffineCell):
    """An affine cell on a grid.

    Among the bases of a class it comes after the cell with the equations. The equations' cell adds
    its fields and its `init` to this class.
    """

    input_shape: tuple[int, ...]
    kernel_size: int | tuple[int, ...]
    strides: int | tuple[int, ...] = dataclasses.field(default=1, kw_only=True)
    padding: str | tuple[tuple[int, int], ...] = dataclasses.field(default="SAME", kw_only=True)
    dilation: int | tuple[int, ...] = dataclasses.field(default=1, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        # Ints, lists and NumPy's ints become tuples of Python's ints, so that equal cells are
        # equal.
        shape, sizes = self.input_shape, _ints(self.input_shape)
        if isinstance(sizes, int):
            sizes = (sizes,)
        object.__setattr__(self, "input_shape", sizes)
        if not _all_positive(self.input_shape):
            raise ValueError(
                "`input_shape` must be the size of each spatial axis, such as (16, 16); "
                f"got {shape!r}."
            )
        axes = f"{len(self.input_shape)} spatial axes of `input_shape` {self.input_shape}"
        for name in ("kernel_size", "strides", "dilation"):
            value = getattr(self, name)
            object.__setattr__(self, name, _ints(value))
            each = self._each(getattr(self, name))
            if not _all_positive(each) or len(each) != len(self.input_shape):
                raise ValueError(
                    f"`{name}` must be a positive int, or one for each of the {axes}; "
                    f"got {value!r}."
                )
        self._check_padding(axes)
        # A kernel that is too large leaves no output.
        if not _all_positive(self.output_shape):
            raise ValueError(
                f"`kernel_size` must fit into `input_shape` {self.input_shape} "
                f"with `padding` {self.padding!r}; got {self.kernel_size}, "
                f"which with `dilation` {self.dilation} extends over {self._extents}."
            )

    def _check_padding(self, axes: str) -> None:
        padding = self.padding
        if isinstance(padding, str) and padding.upper() in ("SAME", "VALID"):
            object.__setattr__(self, "padding", padding.upper())
        elif np.shape(padding) == (len(self.input_shape), 2) and all(map(_ints, padding)):
            object.__setattr__(self, "padding", tuple(map(_ints, padding)))
        else:
            raise ValueError(
                f'`padding` must be "SAME", "VALID", or a pair (low, high) for each of the {axes}; '
                f"got {padding!r}."
            )

    @property
    def feature_ndim(self) -> int:
        """The spatial axes and the channels."""
        return len(self.input_shape) + 1

    @property
    def output_shape(self) -> tuple[int, ...]:
        """The spatial shape of the state and of one output, the `input_shape` of the next layer."""
        space, extents, strides = self.input_shape, self._extents, self._each(self.strides)
        pads: Any = self.padding
        if isinstance(pads, str):
            pads = lax.padtype_to_pads(space, extents, strides, pads)
        shape = []
        for size, extent, stride, (low, high) in zip(space, extents, strides, pads, strict=True):
            # The number of places of a window over the padded axis.
            shape.append((size + low + high - extent) // stride + 1)
        return tuple(shape)

    @property
    def _extents(self) -> tuple[int, ...]:
        """The number of positions from the first tap of the kernel to the last."""
        sizes = zip(self._each(self.kernel_size), self._each(self.dilation), strict=True)
        return tuple((size - 1) * dilation + 1 for size, dilation in sizes)

    def _each(self, value: int | tuple[int, ...]) -> tuple[int, ...]:
        """One number for each spatial axis."""
        if isinstance(value, int):
            return (value,) * len(self.input_shape)
        return value

    def init(self, key: jax.Array, input_size: int, dtype: DTypeLike = jnp.float32) -> Params:
        """Draws `kernel` `[*kernel_size, I, G*H]`, `recurrent_kernel` and the biases.

        `recurrent_kernel` is `[*kernel_size, O, G*H]`.
        """
        size = self._each(self.kernel_size)

        # The affine cell asks for one gate, [I, H]. The spatial axes come before these axes.
        def over_space(initializer: Initializer) -> Initializer:
            return lambda key, shape, dtype: initializer(key, (*size, *shape), dtype)

        cell = dataclasses.replace(
            self,
            kernel_init=over_space(self.kernel_init),
            recurrent_kernel_init=over_space(self.recurrent_kernel_init),
        )
        return AffineCell.init(cell, key, input_size, dtype)

    def project_inputs(self, params: Params, xs: jax.Array) -> jax.Array:
        """The convolution of the inputs, with the cell's strides, padding and dilation."""
        space = xs.shape[-self.feature_ndim : -1]
        if space != self.input_shape:
            raise ValueError(
                f"`input_shape` must be the spatial shape of the inputs, {space}; got {self}."
            )
        strides, dilation = self._each(self.strides), self._each(self.dilation)
        return _convolve(xs, params.kernel, params.bias, strides, self.padding, dilation)

    def project_state(self, params: Params, h: jax.Array) -> jax.Array:
        """The convolution of the state; it keeps the shape of the state."""
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
    """Convolves with channels last: products in the dtype of `kernel`, sums in the dtype of `x`."""
    ndim = len(strides)
    channels_last = (0, ndim + 1, *range(1, ndim + 1))
    placed = jax.typeof(x).sharding
    if any(placed.spec) and jax.typeof(kernel).sharding.mesh.empty:
        # A kernel from outside the mesh has a gradient on the mesh. So the kernel goes there first.
        kernel = reshard(kernel, NamedSharding(placed.mesh, PartitionSpec()))
    # XLA's convolution has one batch axis.
    images, restore = _merge_axes(x, x.ndim - ndim - 1)
    dimensions = lax.ConvDimensionNumbers(
        channels_last, (ndim + 1, ndim, *range(ndim)), channels_last
    )
    y = lax.conv_general_dilated(
        images.astype(kernel.dtype),
        kernel,
        strides,
        padding,
        rhs_dilation=dilation,
        dimension_numbers=dimensions,
        preferred_element_type=x.dtype,
    )
    y = restore(y)
    if bias is None:
        return y
    return y + broadcast_to_rank(bias, y)


def _merge_axes(x: jax.Array, number: int) -> tuple[jax.Array, Callable[[jax.Array], jax.Array]]:
    """Merges the first `number` axes of `x` into one axis; also returns the inverse.

    The inverse takes an array whose other axes may have other sizes. Under a mesh with Explicit
    axes, an axis that the mesh splits can be merged only if it comes first. So these axes come
    first.
    """
    sizes, sharding = x.shape[:number], jax.typeof(x).sharding
    mesh, placed = sharding.mesh, sharding.spec
    if not any(placed):
        merged = x.reshape(math.prod(sizes), *x.shape[number:])
        return merged, lambda y: y.reshape(*sizes, *y.shape[1:])
    # False sorts before True, so the axes with a mesh axis come first.
    order = sorted(range(number), key=lambda axis: placed[axis] is None)
    moved = tuple(sizes[axis] for axis in order)
    names = [placed[axis] for axis in order]
    # The merged axis lies on every mesh axis of the axes in it. One axis may lie on several.
    meshes: list[str] = []
    for name in names:
        if isinstance(name, tuple):
            meshes.extend(name)
        elif name is not None:
            meshes.append(name)
    merged = lax.reshape(
        lax.transpose(x, (*order, *range(number, x.ndim))),
        (math.prod(sizes), *x.shape[number:]),
        out_sharding=NamedSharding(mesh, PartitionSpec(tuple(meshes) or None, *placed[number:])),
    )

    def restore(y: jax.Array) -> jax.Array:
        spec = PartitionSpec(*names, *jax.typeof(y).sharding.spec[1:])
        y = lax.reshape(y, (*moved, *y.shape[1:]), out_sharding=NamedSharding(mesh, spec))
        # Back to the order of `x`.
        places = [order.index(axis) for axis in range(number)]
        return lax.transpose(y, (*places, *range(number, y.ndim)))

    return merged, restore


def _ints(value: Any) -> Any:
    """A Python int, or a tuple of Python ints; None for any other value."""
    if not isinstance(value, (tuple, list, np.ndarray)):
        return as_int(value)
    numbers = tuple(map(as_int, value))
    if None in numbers:
        return None
    return numbers


def _all_positive(numbers: tuple[int, ...] | None) -> bool:
    return bool(numbers) and all(number > 0 for number in numbers or ())


@dataclasses.dataclass(frozen=True, repr=False)
class ConvLSTMCell(LSTMCell, _Convolutional):
    """The convolutional LSTM, in any number of dimensions: Keras' `ConvLSTM1D` to `ConvLSTM3D`.

    i = σ(z_i + u_i),  f = σ(z_f + u_f),  g = tanh(z_g + u_g),  o = σ(z_o + u_o)
    c' = f ⊙ c + i ⊙ g
    h' = o ⊙ tanh(c'), and h' @ projection_kernel, over channels, if `proj_size` is positive,

    where z = x * kernel + bias and u = h * recurrent_kernel + recurrent_bias are convolutions over
    space. As everywhere in the field, these are cross-correlations. The gates do not see c. Shi et
    al. have peepholes; Keras, Flax and this cell do not.

    Inputs are `[*B, T, *input_shape, I]`. States and outputs are `[*B, *output_shape, H]`.

    Args:
        hidden_size: the number of channels H of the cell state.
        input_shape: the spatial shape of one input, such as (16, 16); an int for one dimension.
        kernel_size: the spatial shape of both kernels; an int for the same size on every axis.
        proj_size: the number of channels P of the output, below H; 0 for no projection.
        forget_bias: the number that `init` adds to the forget gate's part of `bias`.
        strides: the steps between the windows of the input convolution, an int or one for each
            axis. The recurrent convolution has strides 1 and dilation 1; it keeps the shape of the
            state.
        padding: the padding of the input convolution, `"SAME"`, `"VALID"`, or a pair (low, high)
            for each axis.
        dilation: the distance between the taps of the input convolution, an int or one for each
            axis.
        activation: the nonlinearity of g and of c'.
        gate_activation: the nonlinearity of the gates i, f and o.
        bias: whether the input convolution has a bias, one number for each channel.
        recurrent_bias: whether the recurrent convolution has a separate bias.
        kernel_init: draws each gate of `kernel`, `[*kernel_size, I, H]`; Glorot uniform by default,
            which counts the taps among the inputs and outputs.
        recurrent_kernel_init: draws each gate of `recurrent_kernel`, `[*kernel_size, H, H]`;
            orthogonal by default. As in Keras, the H filters of a gate are orthonormal.
            `jax.nn.initializers.delta_orthogonal()` makes the convolution itself orthogonal.
        bias_init: draws each gate of each bias; zeros by default.
        dtype: the dtype of the convolutions; `None` follows the parameters and the inputs.

    Attributes:
        output_shape: the spatial shape of the state and of one output, the `input_shape` of the
            next layer.

    Raises:
        TypeError: if `hidden_size` is not an int.
        ValueError: if a size is not positive, an argument lacks an entry for a spatial axis, or the
            kernel does not fit into the input.

    Example:
        >>> import jax, recurrax
        >>> cell = recurrax.ConvLSTMCell(4, (16, 12), 3, strides=2)
        >>> params = cell.init(jax.random.key(0), input_size=3)
        >>> state, ys = recurrax.scan(cell, params, jax.numpy.ones((2, 7, 16, 12, 3)))
        >>> ys.shape, state.c.shape, params.recurrent_kernel.shape
        ((2, 7, 8, 6, 4), (2, 8, 6, 4), (3, 3, 4, 16))

    References:
        Shi et al., Convolutional LSTM network: a machine learning approach for precipitation
        nowcasting, 2015, https://arxiv.org/abs/1506.04214

        Xiao et al., Dynamical isometry and a mean field theory of CNNs (delta-orthogonal kernels),
        2018, https://arxiv.org/abs/1806.05393
    """

    def initial_state(
        self, batch_shape: tuple[int, ...] = (), dtype: DTypeLike = jnp.float32
    ) -> LSTMState:
        """Zeros: h `[*B, *output_shape, P]` and c `[*B, *output_shape, H]`."""
        return super().initial_state((*batch_shape, *self.output_shape), dtype)


@dataclasses.dataclass(frozen=True, repr=False)
class ConvGRUCell(GRUCell, _Convolutional):
    """The convolutional GRU, with the reset gate after the recurrent convolution or before it.

    r = σ(z_r + u_r),  z = σ(z_z + u_z)
    n = tanh(z_n + r ⊙ u_n)                                              with `reset_after`
    n = tanh(z_n + (r ⊙ h) * recurrent_kernel_n + recurrent_bias_n)      without `reset_after`
    h' = (1 - z) ⊙ n + z ⊙ h,

    where z_* = x * kernel + bias and u_* = h * recurrent_kernel + recurrent_bias are convolutions
    over space.

    Inputs are `[*B, T, *input_shape, I]`. States and outputs are `[*B, *output_shape, H]`.

    Args:
        hidden_size: the number of channels H of the state.
        input_shape: as in `ConvLSTMCell`. So are `kernel_size`, `strides`, `padding`, `dilation`,
            the initializers, `bias` and `dtype`.
        reset_after: whether the reset gate acts after the recurrent convolution, or before it
            (Ballas et al.).
        activation: the nonlinearity of the candidate n.
        gate_activation: the nonlinearity of the gates r and z.
        recurrent_bias: whether the recurrent convolution has a separate bias; `None` means yes with
            `bias` and `reset_after`.

    Attributes:
        output_shape: the spatial shape of the state and of one output, the `input_shape` of the
            next layer.

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
        Ballas et al., Delving deeper into convolutional networks for learning video
        representations, 2016, https://arxiv.org/abs/1511.06432
    """

    def initial_state(
        self, batch_shape: tuple[int, ...] = (), dtype: DTypeLike = jnp.float32
    ) -> GRUState:
        """Zeros, `[*B, *output_shape, H]`."""
        return super().initial_state((*batch_shape, *self.output_shape), dtype)

    def _products(self, params: GRUParams, h: jax.Array) -> tuple[Gates, Callable]:
        """The recurrent pre-activations of r and z, and the function from r to u_n."""
        # The candidate's convolution needs r, so every gate has a convolution.
        reset, update, candidate = self.gate_params(params)
        u = (self.project_state(reset, h), self.project_state(update, h))

        def project_candidate(r: jax.Array) -> jax.Array:
            return self.project_state(candidate, r * h)

        return u, project_candidate


@dataclasses.dataclass(frozen=True, repr=False)
class ConvElmanCell(ElmanCell, _Convolutional):
    """Elman's cell with convolutions for products: a convolution that also sees its last output.

    h' = activation(x * kernel + bias + h * recurrent_kernel + recurrent_bias)

    Inputs are `[*B, T, *input_shape, I]`. States and outputs are `[*B, *output_shape, H]`.

    Args:
        hidden_size: the number of channels H of the state.
        input_shape: as in `ConvLSTMCell`. So are `kernel_size`, `strides`, `padding`, `dilation`,
            the initializers, the biases and `dtype`.
        activation: the nonlinearity.

    Attributes:
        output_shape: the spatial shape of the state and of one output, the `input_shape` of the
            next layer.

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

    def initial_state(
        self, batch_shape: tuple[int, ...] = (), dtype: DTypeLike = jnp.float32
    ) -> ElmanState:
        """Zeros, `[*B, *output_shape, H]`."""
        return super().initial_state((*batch_shape, *self.output_shape), dtype)
