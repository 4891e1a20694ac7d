"""Attention decoders: at each step they read a memory, such as the outputs of an encoder."""

from __future__ import annotations

import abc
import dataclasses
import functools
from typing import Any, ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from recurrax import initializers
from recurrax._arguments import SIZE, describe
from recurrax._check import check_flags
from recurrax._dtype import promote, widened
from recurrax._layer import (
    INITIALIZER,
    Cell,
    Gate,
    Initializer,
    Layer,
    Params,
    ScanContext,
    State,
    batch_shape_of,
    features,
)
from recurrax._mask import lengths_to_mask, where
from recurrax._params import Memory
from recurrax.cells._activation import keeps_output
from recurrax.cells.affine import affine, broadcast_to_rank
from recurrax.layers._wrapper import CellWrapper, Wrapper


class AttentionParams(NamedTuple):
    """Parameters of an attention layer.

    Attributes:
        layer: the parameters of the cell. It reads inputs and one more vector side by side.
        query_kernel: `[H, A]`, or None.
        memory_kernel: `[M, A]`, which makes the keys of the memory; or None.
        score_vector: `[A]`, or None.
        output_kernel: `[M + H, H]`, for the features of the memory first; or None.
        memory: None after `init`; `with_memory` sets it.
    """

    layer: Any
    query_kernel: jax.Array | None = None
    memory_kernel: jax.Array | None = None
    score_vector: jax.Array | None = None
    output_kernel: jax.Array | None = None
    memory: Memory | None = None


class AttentionState(NamedTuple):
    """State of an attention layer.

    Attributes:
        layer: the state of the cell.
        y: `[*B, H]`, an output of the last step that the next step reads. For `BahdanauAttention`
            it is the output of the cell, for `LuongAttention` the output of the layer.
    """

    layer: Any
    y: jax.Array


def with_memory(
    params: Params,
    memory: jax.Array | Memory,
    *,
    lengths: jax.Array | None = None,
    mask: jax.Array | None = None,
) -> Params:
    """Gives a memory, such as the outputs of an encoder, to the attention layers in `params`.

    The keys are formed here, once: keys = memory @ memory_kernel. `scan`, `step` and `unroll` then
    take the result as the parameters of the layer. Call this function within the function that you
    differentiate. Then gradients flow to the encoder, and to the kernel of the keys.

    The memory stands beside the parameters because it is constant over time. So a `reset` does not
    lose it, no step copies it, and a beam search need not reorder it.

    Args:
        params: the parameters of an attention layer, or any pytree with such parameters in it.
        memory: `[*B, S, M]`, S positions of M features; or a `Memory`. An axis of `*B` that is 1 or
            absent is shared by all rows. So `[B, 1, S, M]` serves K beams, `[B, K, T, I]`.
        lengths: `int[*B]`, the numbers of positions of right-padded rows.
        mask: `bool[*B, S]`, True at the positions that may be read, in any pattern. Other positions
            have no influence: they may be NaN. A row without any position reads zeros.

    Returns:
        The parameters with the memory in them.

    Raises:
        TypeError: if an argument has the wrong dtype.
        ValueError: if it has the wrong shape, or there is no attention layer in `params`.

    Example:
        >>> import jax, jax.numpy as jnp, recurrax
        >>> layer = recurrax.LuongAttention(recurrax.GRUCell(4), memory_size=6)
        >>> params = layer.init(jax.random.key(0), input_size=3)
        >>> encoded = jnp.ones((2, 5, 6))
        >>> params = recurrax.layers.with_memory(params, encoded, lengths=jnp.array([5, 2]))
        >>> recurrax.scan(layer, params, jnp.ones((2, 7, 3)))[1].shape
        (2, 7, 4)

    References:
        Bahdanau et al., Neural machine translation by jointly learning to align and translate,
        2015, https://arxiv.org/abs/1409.0473
    """
    memory = _checked(memory, lengths, mask)
    # `params` may be the parameters of a stack or of a model, so all attention layers are sought.
    found = []

    def bind(node: Any) -> Any:
        if not isinstance(node, AttentionParams):
            return node
        found.append(node)
        return node._replace(memory=_with_keys(node, memory))

    bound = jax.tree.map(bind, params, is_leaf=lambda node: isinstance(node, AttentionParams))
    if not found:
        raise ValueError(
            "`params` must hold the parameters of an attention layer, such as LuongAttention; got "
            f"{describe(params)}."
        )
    return bound


def _checked(memory: Any, lengths: Any, mask: Any) -> Memory:
    """Returns the memory with zeros at the masked positions."""
    # A `Memory` has its own mask, and it may have keys already.
    keys = None
    if isinstance(memory, Memory):
        if not (lengths is None and mask is None):
            raise ValueError("`lengths` and `mask` must not be given beside a `Memory`.")
        memory, mask, keys = memory.values, memory.mask, memory.keys
    if lengths is not None and mask is not None:
        raise ValueError(
            "`lengths` and `mask` must not both be given; fold the lengths into the mask."
        )
    values = jnp.asarray(memory)
    if not jnp.issubdtype(values.dtype, jnp.floating):
        raise TypeError(f"`memory` must be of a floating dtype; got {describe(values)}.")
    if values.ndim < 2 or not values.shape[-2]:
        raise ValueError(
            f"`memory` must be [*B, S, M], at least one position; got {describe(values)}."
        )
    # Lengths become a mask.
    positions = values.shape[:-1]
    what = f"`memory` {describe(values)}"
    if lengths is not None:
        meaning = f"one length per row of {what}"
        lengths = check_flags("lengths", lengths, jnp.integer, positions[:-1], meaning)
        mask = lengths_to_mask(lengths, positions[-1])
    mask = check_flags("mask", mask, jnp.bool_, positions, f"one flag per position of {what}")
    # Padding may be NaN, and 0 times NaN would be NaN.
    if mask is not None:
        values = where(mask, values, jnp.zeros_like(values))
    return Memory(values, mask, keys)


def _with_keys(params: AttentionParams, memory: Memory) -> Memory:
    """Forms the keys of one attention layer, if they are not there."""
    size = _memory_size(params)
    if memory.values.shape[-1] != size:
        raise ValueError(
            f"`memory` must have {size} features, the `memory_size` of the layer; got "
            f"{describe(memory.values)}."
        )
    if memory.keys is not None:
        return memory
    if params.memory_kernel is None:
        return memory._replace(keys=memory.values)
    dtype = promote(memory.values.dtype, params.memory_kernel.dtype)
    keys = affine(memory.values.astype(dtype), params.memory_kernel.astype(dtype))  # [*B, S, A]
    return memory._replace(keys=keys)


def _memory_size(params: AttentionParams) -> int:
    """Returns the number M of features of the memory."""
    if params.memory_kernel is not None:
        return params.memory_kernel.shape[0]
    # The rows of this kernel are M features of the memory, then H features of the cell.
    assert params.output_kernel is not None
    rows, columns = params.output_kernel.shape
    return rows - columns


@dataclasses.dataclass(frozen=True, repr=False)
class Attention(Wrapper):
    """What both attention layers share. A subclass says when a step reads the memory."""

    layer: Cell | CellWrapper
    memory_size: int = dataclasses.field(default=1, metadata=SIZE)

    # Whether a step reads the memory before the step of the cell, with the last output of the cell.
    reads_first: ClassVar[bool]

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.layer, (Cell, CellWrapper)) or self.layer.feature_ndim != 1:
            raise TypeError(
                f"`layer` of {type(self).__name__} must be a cell that reads vectors, such as "
                f"LSTMCell(128), or one within Zoneout and the like; got {self.layer!r}."
            )

    @abc.abstractmethod
    def attend(
        self, cell: Cell, params: AttentionParams, state: AttentionState, x: Any
    ) -> tuple[AttentionState, jax.Array, jax.Array]:
        """Computes one step; returns the state, the output and the weights `[*B, S]`."""

    @abc.abstractmethod
    def cell_inputs(self, params: AttentionParams, state: AttentionState, x: Any) -> Any:
        """Computes the inputs of the cell in one step."""

    @property
    def weights(self) -> Layer:
        """A layer with these parameters and this state, whose outputs are the weights `[*B, S]`."""
        return _Weights(self)

    @property
    def cell(self) -> Cell:
        """The cell, below all layers that change its steps."""
        if isinstance(self.layer, CellWrapper):
            return self.layer.cell  # type: ignore[return-value]
        return self.layer

    def state_after(self, state: State) -> AttentionState:
        """Returns the state before the first step, for this state of the cell.

        So a decoder begins with the last state of an encoder.

        Args:
            state: a state of the cell, with any batch axes.
        """
        name = self.cell.output_part
        if self.reads_first and name is not None:
            return AttentionState(state, getattr(state, name))
        row = jax.tree.leaves(jax.eval_shape(self.layer.initial_state))[0]
        part = jax.tree.leaves(state)[0]
        batch_shape = part.shape[: part.ndim - row.ndim]
        # `finfo` maps a complex dtype to the dtype of its parts.
        zeros = jnp.zeros((*batch_shape, self._cell_size), jnp.finfo(part.dtype).dtype)
        return AttentionState(state, zeros)

    def initial_state(
        self, batch_shape: tuple[int, ...] = (), dtype: DTypeLike = jnp.float32
    ) -> AttentionState:
        """Returns the initial state: the state of the cell, and an output before the first step."""
        return self.state_after(self.layer.initial_state(batch_shape, dtype))

    def first_state(
        self, params: Params, batch_shape: tuple[int, ...] = (), dtype: DTypeLike = jnp.float32
    ) -> AttentionState:
        """Returns the first state: the state of the cell, and an output before the first step."""
        return self.state_after(self.layer.first_state(params.layer, batch_shape, dtype))

    @property
    def _cell_size(self) -> int:
        """The number H of features of the cell's output."""
        return self.layer.output_size(self.memory_size)

    def apply(
        self, context: ScanContext, params: AttentionParams, state: AttentionState, xs: Any
    ) -> tuple[State, jax.Array]:
        """Runs the cell, with the memory at each step."""
        return self.run(context, params, state, xs, weights=False)

    def run(
        self,
        context: ScanContext,
        params: AttentionParams,
        state: AttentionState,
        xs: Any,
        weights: bool,
    ) -> tuple[State, jax.Array]:
        """Runs the cell; returns the outputs, or else the weights."""
        memory = self._fitted(params.memory, batch_shape_of(self, xs), xs)
        cell, cell_params = self.layer, params.layer
        if isinstance(cell, CellWrapper):
            cell, cell_params, xs = cell.wrapped_cell(context.key, cell_params, state.layer, xs)
        params = params._replace(layer=cell_params, memory=memory)
        attending = _Attending(
            cell.hidden_size, dtype=cell.dtype, cell=cell, attention=self, weights=weights
        )
        return context.scan(attending, params, state, xs)

    def _fitted(self, memory: Memory | None, batch_shape: tuple[int, ...], xs: Any) -> Memory:
        """Returns the memory with as many batch axes as the inputs; absent axes become 1."""
        if memory is None:
            raise ValueError(
                f"`params` of {self} must hold a memory; got none. "
                "Write `params = recurrax.layers.with_memory(params, memory)` first."
            )
        # Absent axes come first, as in NumPy's rule for shapes.
        rows = memory.values.shape[:-2]
        missing = len(batch_shape) - len(rows)
        expanded = (1,) * missing + rows
        fits = len(expanded) == len(batch_shape)
        for size, wanted in zip(expanded, batch_shape, strict=False):
            fits = fits and size in (1, wanted)
        if not fits:
            axes = "".join(f"{size}, " for size in batch_shape)
            raise ValueError(
                f"`memory` must be [{axes}S, {self.memory_size}], with the batch axes of the "
                f"inputs {describe(features(xs))}; got {describe(memory.values)}. An axis of 1 is "
                "shared by all rows. For K beams, repeat each row K times or add an axis of 1."
            )
        return jax.tree.map(lambda leaf: jnp.expand_dims(leaf, tuple(range(missing))), memory)


@dataclasses.dataclass(frozen=True, repr=False)
class BahdanauAttention(Attention):
    """Bahdanau's attention: a cell reads the memory with its last output, then takes a step.

    e_s = score_vector · tanh(h_{t-1} @ query_kernel + m_s @ memory_kernel)
    a = softmax(e),  c_t = Σ_s a_s m_s
    h_t = cell([x_t; c_t], h_{t-1}),  y_t = [h_t; c_t]

    h is the output of the cell, m_s are the positions of the memory. The memory is part of the
    parameters: `recurrax.layers.with_memory` says how and why. The first step reads with h of the
    initial state. If the output of the cell is no part of its state, it reads with zeros.

    Args:
        layer: a cell, or layers that keep the state of a cell, such as `Zoneout(LSTMCell(128))`.
        memory_size: the number M of features of the memory.
        attention_size: the number A of features of a key; None for the H of the cell.
        kernel_init: draws both kernels and the vector; Glorot uniform by default.

    Raises:
        TypeError: if `layer` is no such layer, or a size is not an int.
        ValueError: if a size is below 1; at the call, if the parameters hold no memory.

    Example:
        >>> import jax, jax.numpy as jnp, recurrax
        >>> layer = recurrax.BahdanauAttention(recurrax.GRUCell(4), memory_size=6)
        >>> params = layer.init(jax.random.key(0), input_size=3)
        >>> encoded = jnp.ones((2, 5, 6))
        >>> params = recurrax.layers.with_memory(params, encoded, lengths=jnp.array([5, 2]))
        >>> xs = jnp.ones((2, 7, 3))
        >>> state, ys = recurrax.scan(layer, params, xs)
        >>> ys.shape
        (2, 7, 10)

        The weights of all steps, for a picture:

        >>> _, weights = recurrax.scan(layer.weights, params, xs)
        >>> weights.shape, weights[1, 0].tolist()
        ((2, 7, 5), [0.5, 0.5, 0.0, 0.0, 0.0])

    References:
        Bahdanau et al., Neural machine translation by jointly learning to align and translate,
        2015, https://arxiv.org/abs/1409.0473
    """

    attention_size: int | None = dataclasses.field(default=None, metadata=SIZE)
    kernel_init: Initializer = dataclasses.field(
        default=initializers.glorot_uniform, kw_only=True, metadata=INITIALIZER
    )

    reads_first: ClassVar[bool] = True

    def init(
        self, key: jax.Array, input_size: int, dtype: DTypeLike = jnp.float32
    ) -> AttentionParams:
        """Draws the parameters of the cell for I + M features, both kernels and the vector."""
        layer_key, *keys = jax.random.split(key, 4)
        size = self.attention_size or self._cell_size
        query, memory, vector = _draw_additive(
            self.kernel_init, keys, self._cell_size, self.memory_size, size, dtype
        )
        layer = self.layer.init(layer_key, input_size + self.memory_size, dtype)
        return AttentionParams(layer, query, memory, vector)

    def output_size(self, input_size: int) -> int:
        """Returns H + M."""
        return self._cell_size + self.memory_size

    def attend(
        self, cell: Cell, params: AttentionParams, state: AttentionState, x: Any
    ) -> tuple[AttentionState, jax.Array, jax.Array]:
        """Reads the memory, then takes a step of the cell."""
        weights, c = _read(params, state.y)  # [*B, S], [*B, M]
        z = cell.project_inputs(params.layer, _beside(x, c))
        cell_state, h = cell.step(params.layer, state.layer, z)  # h [*B, H]
        y = jnp.concatenate([h, c.astype(h.dtype)], axis=-1)
        return AttentionState(cell_state, h), y, weights

    def cell_inputs(self, params: AttentionParams, state: AttentionState, x: Any) -> Any:
        """Puts what is read from the memory beside the features of `x`."""
        return _beside(x, _read(params, state.y)[1])


_SCORES = ("dot", "general", "concat")


@dataclasses.dataclass(frozen=True, repr=False)
class LuongAttention(Attention):
    """Luong's attention: a cell takes a step, then reads the memory with its output.

    h_t = cell([x_t; y_{t-1}], h_{t-1}) with `input_feeding`, else cell(x_t, h_{t-1})
    e_s = h_t · m_s                                                   for `score="dot"`
    e_s = h_t · (m_s @ memory_kernel)                                 for `score="general"`
    e_s = score_vector · tanh(h_t @ query_kernel + m_s @ memory_kernel)  for `score="concat"`
    a = softmax(e),  c_t = Σ_s a_s m_s
    y_t = tanh([c_t; h_t] @ output_kernel)

    m_s are the positions of the memory. The memory is part of the parameters:
    `recurrax.layers.with_memory` says how and why. The first step is fed zeros.

    Args:
        layer: a cell, or layers that keep the state of a cell, such as `Zoneout(LSTMCell(128))`.
        memory_size: the number M of features of the memory.
        score: `dot`, `general` or `concat`. For `dot` the memory has the H features of the cell.
        attention_size: the number A of features of a key for `concat`; None for H.
        input_feeding: whether the cell also reads the last output of the layer.
        kernel_init: draws the kernels and the vector; Glorot uniform by default.

    Raises:
        TypeError: if `layer` is no such layer, or a size is not an int.
        ValueError: if a size is below 1, or if `score` is not one of the three or does not fit the
            sizes. At the call, if the parameters hold no memory.

    Example:
        >>> import jax, jax.numpy as jnp, recurrax
        >>> layer = recurrax.LuongAttention(recurrax.LSTMCell(4), memory_size=6)
        >>> params = layer.init(jax.random.key(0), input_size=3)
        >>> params = recurrax.layers.with_memory(params, jnp.ones((2, 5, 6)))
        >>> state, ys = recurrax.scan(layer, params, jnp.ones((2, 7, 3)))
        >>> ys.shape
        (2, 7, 4)

        A decoder begins with the last state of an encoder:

        >>> encoded = recurrax.cells.LSTMState(jnp.ones((2, 4)), jnp.ones((2, 4)))
        >>> state = layer.state_after(encoded)
        >>> state, y = recurrax.step(layer, params, jnp.ones((2, 3)), state)

    References:
        Luong et al., Effective approaches to attention-based neural machine translation, 2015,
        https://arxiv.org/abs/1508.04025
    """

    score: Literal["dot", "general", "concat"] = "general"
    attention_size: int | None = dataclasses.field(default=None, metadata=SIZE)
    input_feeding: bool = dataclasses.field(default=True, kw_only=True)
    kernel_init: Initializer = dataclasses.field(
        default=initializers.glorot_uniform, kw_only=True, metadata=INITIALIZER
    )

    reads_first: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.score not in _SCORES:
            raise ValueError(
                f"`score` of LuongAttention must be one of {', '.join(_SCORES)}; got "
                f"{self.score!r}."
            )
        # Without a kernel, the product needs vectors of one size.
        if self.score == "dot" and self.memory_size != self._cell_size:
            raise ValueError(
                f"`memory_size` must be the {self._cell_size} features of {self.layer} for the "
                f'score "dot"; got {self.memory_size}. Take the score "general".'
            )
        if self.score != "concat" and self.attention_size is not None:
            raise ValueError(
                '`attention_size` must be None unless `score` is "concat"; got '
                f"{self.attention_size}."
            )

    def init(
        self, key: jax.Array, input_size: int, dtype: DTypeLike = jnp.float32
    ) -> AttentionParams:
        """Draws the parameters of the cell for its inputs, and the kernels."""
        layer_key, output_key, *keys = jax.random.split(key, 5)
        size, memory_size = self._cell_size, self.memory_size
        query = memory = vector = None
        if self.score == "general":
            memory = self.kernel_init(keys[0], (memory_size, size), jnp.float32).astype(dtype)
        if self.score == "concat":
            query, memory, vector = _draw_additive(
                self.kernel_init, keys, size, memory_size, self.attention_size or size, dtype
            )
        output = self.kernel_init(output_key, (memory_size + size, size), jnp.float32)
        fed = size if self.input_feeding else 0
        layer = self.layer.init(layer_key, input_size + fed, dtype)
        return AttentionParams(layer, query, memory, vector, output.astype(dtype))

    def output_size(self, input_size: int) -> int:
        """Returns the H of the cell."""
        return self._cell_size

    def attend(
        self, cell: Cell, params: AttentionParams, state: AttentionState, x: Any
    ) -> tuple[AttentionState, jax.Array, jax.Array]:
        """Takes a step of the cell, then reads the memory."""
        z = cell.project_inputs(params.layer, self.cell_inputs(params, state, x))
        cell_state, h = cell.step(params.layer, state.layer, z)  # h [*B, H]
        weights, c = _read(params, h)  # [*B, S], [*B, M]
        joined = jnp.concatenate([c, h.astype(c.dtype)], axis=-1)  # [*B, M + H]
        assert params.output_kernel is not None
        y = keeps_output(jnp.tanh)(affine(joined, params.output_kernel))  # [*B, H]
        return AttentionState(cell_state, y), y, weights

    def cell_inputs(self, params: AttentionParams, state: AttentionState, x: Any) -> Any:
        """Puts the last output beside the features of `x`, if `input_feeding` is set."""
        if self.input_feeding:
            return _beside(x, state.y)
        return x


def _draw_additive(
    init: Initializer, keys: list, query_size: int, memory_size: int, size: int, dtype: DTypeLike
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Draws the kernel of the query, the kernel of the memory and the vector of the score."""
    query = init(keys[0], (query_size, size), jnp.float32)
    memory = init(keys[1], (memory_size, size), jnp.float32)
    vector = init(keys[2], (size, 1), jnp.float32)[:, 0]
    return query.astype(dtype), memory.astype(dtype), vector.astype(dtype)


def _beside(x: Any, more: jax.Array) -> Any:
    """Puts features beside those of `x`; other leaves of `x`, such as times, stay unchanged."""
    leaves, structure = jax.tree.flatten(x)
    leaves[0] = jnp.concatenate([leaves[0], more.astype(leaves[0].dtype)], axis=-1)
    return jax.tree.unflatten(structure, leaves)


def _read(params: AttentionParams, h: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Reads the memory with the query `h` `[*B, H]`.

    Returns:
        The weights `[*B, S]` and their mean of the memory `[*B, M]`. Both are zero in a row without
        any position.
    """
    memory = params.memory
    assert memory is not None
    assert memory.keys is not None
    if params.query_kernel is None or params.score_vector is None:
        scores = _dot(memory.keys, h)  # [*B, S]
    else:
        query = affine(h, params.query_kernel)  # [*B, A]
        scores = _additive(query, memory.keys, params.score_vector)  # [*B, S]
    # A sum over many positions needs the precision of float32.
    weights = _softmax(widened(scores), memory.mask)  # [*B, S]
    values = memory.values
    c = jnp.einsum(
        "...s,...sm->...m",
        weights.astype(values.dtype),
        values,
        preferred_element_type=weights.dtype,
    )
    return weights.astype(h.dtype), c.astype(h.dtype)


def _dot(keys: jax.Array, h: jax.Array) -> jax.Array:
    """Returns the products of `h` `[*B, A]` with the keys `[*B, S, A]`."""
    return jnp.einsum(
        "...a,...sa->...s", h.astype(keys.dtype), keys, preferred_element_type=h.dtype
    )


# The derivative stores the query, and computes the [*B, S, A] numbers of each step again.
@functools.partial(jax.checkpoint, prevent_cse=False)
def _additive(query: jax.Array, keys: jax.Array, vector: jax.Array) -> jax.Array:
    """Returns vector · tanh(query + key) for the keys `[*B, S, A]`."""
    sums = jnp.expand_dims(query, -2) + keys.astype(query.dtype)  # [*B, S, A]
    terms = jnp.tanh(sums) * broadcast_to_rank(vector, sums)
    return terms.sum(axis=-1)  # [*B, S]


def _softmax(scores: jax.Array, mask: jax.Array | None) -> jax.Array:
    """Returns the softmax over the positions that may be read; zeros if there are none."""
    if mask is None:
        return jax.nn.softmax(scores)
    # With -inf a row without any position would be NaN. With the lowest number it is finite.
    lowest = jnp.full_like(scores, jnp.finfo(scores.dtype).min)
    # Flags made of the scores have the placement of the scores on a mesh.
    flags = mask | jnp.zeros_like(scores, jnp.bool_)
    weights = jax.nn.softmax(jnp.where(flags, scores, lowest))
    return jnp.where(flags, weights, jnp.zeros_like(weights))


@dataclasses.dataclass(frozen=True, repr=False)
class _Attending(Cell):
    """The cell that runs: its step is the step of an attention layer."""

    # Dataclasses need defaults behind the fields of `Cell`; `run` always gives all three.
    cell: Cell = dataclasses.field(default=None, kw_only=True)  # type: ignore[assignment]
    attention: Attention = dataclasses.field(default=None, kw_only=True)  # type: ignore[assignment]
    weights: bool = dataclasses.field(default=False, kw_only=True)

    @property
    def exact(self) -> tuple[str, ...]:  # type: ignore[override]
        return self.cell.exact

    @property
    def alters_gradient(self) -> bool:  # type: ignore[override]
        return self.cell.alters_gradient

    @property
    def reads_time(self) -> bool:
        return self.cell.reads_time

    def init(self, key: jax.Array, input_size: int, dtype: DTypeLike = jnp.float32) -> Params:
        return self.attention.init(key, input_size, dtype)

    def initial_state(
        self, batch_shape: tuple[int, ...] = (), dtype: DTypeLike = jnp.float32
    ) -> AttentionState:
        return self.attention.state_after(self.cell.initial_state(batch_shape, dtype))

    def first_state(
        self, params: Params, batch_shape: tuple[int, ...] = (), dtype: DTypeLike = jnp.float32
    ) -> AttentionState:
        return self.attention.state_after(self.cell.first_state(params.layer, batch_shape, dtype))

    def step(self, params: Params, state: AttentionState, z: Any) -> tuple[State, jax.Array]:
        state, y, weights = self.attention.attend(self.cell, params, state, z)
        return state, weights if self.weights else y

    def gate_values(
        self, params: AttentionParams, state: AttentionState, xs: Any
    ) -> dict[str, Gate]:
        if not self.cell.tells_gates:
            return {}
        inputs = functools.partial(self.attention.cell_inputs, params)
        # The memory `[*B, S, M]` has no axis of time.
        assert params.memory is not None
        for _ in range(state.y.ndim + 1 - params.memory.values.ndim):
            inputs = jax.vmap(inputs)
        return self.cell.gate_values(params.layer, state.layer, inputs(state, xs))


@dataclasses.dataclass(frozen=True, repr=False)
class _Weights(Wrapper):
    """An attention layer whose outputs are its weights."""

    layer: Attention

    def output_size(self, input_size: int) -> int:
        raise ValueError(
            f"the number of weights of {self.layer} is the number of positions of its memory, so "
            "no layer may stand behind them."
        )

    def apply(
        self, context: ScanContext, params: Params, state: State, xs: Any
    ) -> tuple[State, jax.Array]:
        return self.layer.run(context, params, state, xs, weights=True)
