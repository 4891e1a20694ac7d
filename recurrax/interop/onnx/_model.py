"""ONNX models as layers, and layers as ONNX models."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from recurrax._check import describe
from recurrax._layer import Layer, Params
from recurrax._params import infer_input_size
from recurrax.interop.onnx import _chain as chain
from recurrax.interop.onnx._graph import Graph, named
from recurrax.interop.onnx._write import Described, Writer
from recurrax.layers.compose import Stack

_DTYPES = ("float32", "float16", "float64")


def from_onnx(
    model: Any, *, node: str | None = None, weights: Mapping[str, Any] | None = None
) -> tuple[Layer, Params]:
    """The recurrent layers of an ONNX model: one `RNN`, `LSTM` or `GRU`, or a stack of them.

    Every attribute counts. A node becomes a cell of the core where one computes exactly the same:
    `ElmanCell`, `LSTMCell`, `PeepholeLSTMCell`, `CIFGCell` (`input_forget`) or `GRUCell`
    (`linear_before_reset` is `reset_after`). Else it becomes an `OnnxLSTMCell`. `activations`
    become functions of JAX or `OnnxActivation` objects. `clip` makes them `Clipped`, but as in
    onnxruntime not where h sees the cell state. `direction` makes a `Bidirectional` or a `Reverse`.
    The nodes before and after the recurrent layers stay behind.

    Lengths and initial states are arguments of `scan`. A model may compute them or take them as
    inputs. If the model fixes them, `from_onnx` refuses it.

    Args:
        model: an `onnx.ModelProto`, its bytes, or the path of a file, with weights in files beside
            it or not.
        node: the name of the one node to read; by default all recurrent nodes are, as one stack.
        weights: the arrays of graph inputs, by their names, where W, R, B or P are inputs.

    Returns:
        The layer and its parameters, in the dtype of the weights: a `Stack` if there are several
        nodes. Its inputs are `[*B, T, I]`, whatever `layout` says.

    Raises:
        TypeError: if `model` is anything else, or has float64 weights that JAX would round.
        ValueError: if the model is damaged or invalid. If it has no recurrent node, or several that
            are no stack. If it needs `weights`. If it fixes lengths, or a state that is not zero.
        OSError: if there is no such file.

    Example:
        >>> import jax, recurrax
        >>> from recurrax import interop
        >>> both = recurrax.Bidirectional(recurrax.LSTMCell(8))
        >>> layer = recurrax.Stack((both, recurrax.GRUCell(4)))
        >>> params = layer.init(jax.random.key(0), input_size=3)
        >>> layer, params = interop.from_onnx(interop.to_onnx(layer, params))
        >>> layer.layers[0].forward, params[1].kernel.shape
        (LSTMCell(hidden_size=8), (16, 12))

    References:
        ONNX, operators, 2025, https://onnx.ai/onnx/operators/
    """
    graph = Graph(model, weights)
    nodes = chain.find(graph, node)
    layers: list[Layer] = []
    params, inputs = [], 0
    for found, merge in zip(nodes, chain.merges(graph, nodes), strict=True):
        # A layer has no place for lengths and a state. Zeros are its default.
        for name, array in found.fixed().items():
            if name == "sequence_lens" or array.any():
                raise ValueError(
                    f"`{name}` of {named(found.proto)} must be left to `scan`; "
                    f"the model fixes {describe(array)}. "
                    "Give it to `scan`, as `lengths` or `state`, and take it out of the model."
                )
        if layers:
            below = layers[-1].output_size(inputs)
            if below != found.input_size:
                must = f"for the {below} features that the node before puts out"
                raise found.wrong("W", must, found.input_size)
        inputs = found.input_size
        one, own = found.layer(merge)
        layers.append(one)
        params.append(own)
    if len(layers) == 1:
        return layers[0], params[0]
    return Stack(tuple(layers)), tuple(params)


def to_onnx(
    layer: Layer,
    params: Params,
    *,
    step: bool = False,
    state: bool = False,
    lengths: bool = False,
    time_major: bool = False,
    embedding: Any = None,
) -> Any:
    """A layer as an ONNX model, for any batch and any length.

    Its recurrences are ONNX's own `RNN`, `LSTM` and `GRU`.

    The inputs of the model are `xs` `[batch, time, I]`, then `lengths` `int32[batch]` and the
    states `[batch, H]` if they are asked for; its outputs `ys` `[batch, time, O]` and the states
    after the last step. States go by their fields and places, such as `h_0` and `c_0` of the first
    layer in a `Stack`, `h_0_backward` of one direction in it, or `h` of a cell alone, in the order
    of `jax.tree.leaves(state)`; as outputs they are `h_0_next` and so on.

    The model computes the same as `scan` without a key, in the dtype of the parameters. Dropout and
    `GradientClip` stay behind. onnxruntime, unlike `scan`, refuses lengths above the number of
    steps.

    Args:
        layer: an `ElmanCell`, `LSTMCell`, `GRUCell`, `PeepholeLSTMCell`, `CIFGCell` or
            `OnnxLSTMCell`; a `Stack`, `Bidirectional`, `Reverse`, `Residual` or `Gated` of such;
            and among them `Dense`, `Activation`, `LayerNorm` and `Dropout`. Activations must be
            functions that ONNX has: `jnp.tanh`, functions of `jax.nn` or `OnnxActivation` objects.
        params: its parameters, float32; float16 and float64, for which runtimes may lack kernels,
            are written too.
        step: whether to write one step: `xs` and `ys` are `[batch, I]` and `[batch, O]`, and states
            are inputs.
        state: whether the states before the first step are inputs; else they are zeros.
        lengths: whether `lengths` are an input; then `ys` are zero at masked steps.
        time_major: whether `xs` and `ys` are `[time, batch, I]` and `[time, batch, O]`.
        embedding: a table `[V, I]`; then `ids` `int32[batch, time]` are the input, not `xs`.

    Returns:
        The `onnx.ModelProto`, checked.

    Raises:
        TypeError: if ONNX cannot hold a layer.
        ValueError: if ONNX cannot hold an option of a layer. If `params` do not fit the layer. If
            `step` meets `lengths`, or a layer that reads the future. If `embedding` is of another
            size.

    Example:
        >>> import jax, recurrax
        >>> from recurrax import interop
        >>> both = recurrax.Bidirectional(recurrax.LSTMCell(4))
        >>> tagger = recurrax.Stack((both, recurrax.Dense(5)))
        >>> params = tagger.init(jax.random.key(0), input_size=3)
        >>> table = jax.numpy.ones((100, 3))
        >>> model = interop.to_onnx(tagger, params, embedding=table, lengths=True)
        >>> [value.name for value in model.graph.input]
        ['ids', 'lengths']
        >>> [value.name for value in model.graph.output]
        ['ys', 'h_0_forward_next', 'c_0_forward_next', 'h_0_backward_next', 'c_0_backward_next']

    References:
        ONNX, operators, 2025, https://onnx.ai/onnx/operators/
    """
    if step and lengths:
        raise ValueError("`lengths` must be False with `step`: one step has no length.")
    if step and not layer.causal:
        raise ValueError(f"`layer` must not read the future to be stepped; {layer} does.")
    size, dtype = infer_input_size(layer, params), _dtype(params)
    axes: tuple[str, ...] = ("batch", "time")
    if step:
        axes = ("batch",)
    elif time_major:
        axes = ("time", "batch")

    # The states by their names. Without them as inputs, "" stands for zeros.
    names = _state_names(layer)
    shapes = jax.tree.leaves(jax.eval_shape(layer.initial_state))
    states: dict[str, Described] = {}
    for name, leaf in zip(jax.tree.leaves(names), shapes, strict=True):
        states[name] = (dtype, ("batch", *leaf.shape))
    initial = names
    if not step and not state:
        initial = jax.tree.map(lambda _: "", names)

    # The inputs and the outputs of the model, in their order.
    writer, xs = Writer("lengths" if lengths else ""), "xs"
    inputs: dict[str, Described] = {"xs": (dtype, (*axes, size))}
    if embedding is not None:
        table = np.asarray(embedding)
        if table.ndim != 2 or table.shape[1] != size or table.dtype != dtype:
            raise ValueError(
                f"`embedding` must be {dtype}[V, {size}] for {layer}; got {describe(table)}."
            )
        inputs = {"ids": (np.int32, axes)}
        xs = writer.add("Gather", writer.constant(table, dtype), "ids", axis=0)
    if lengths:
        inputs["lengths"] = (np.int32, ("batch",))
    if step or state:
        inputs |= states
    outputs: dict[str, Described] = {"ys": (dtype, (*axes, layer.output_size(size)))}
    outputs |= {f"{name}_next": described for name, described in states.items()}

    # ONNX runs over [T, B, I].
    if step:
        xs = writer.add("Unsqueeze", xs, writer.constant([0]))
    elif not time_major:
        xs = writer.add("Transpose", xs, perm=[1, 0, 2])
    final, ys = writer.layer(layer, params, initial, xs)
    if lengths:
        ys = writer.masked(ys, dtype)
    # Back to the layout of the inputs, under the names of the outputs.
    if step:
        writer.add("Squeeze", ys, writer.constant([0]), output="ys")
    elif time_major:
        writer.add("Identity", ys, output="ys")
    else:
        writer.add("Transpose", ys, perm=[1, 0, 2], output="ys")
    for name, after in zip(states, jax.tree.leaves(final), strict=True):
        writer.add("Identity", after, output=f"{name}_next")
    return writer.model(type(layer).__name__, inputs, outputs)


def _dtype(params: Params) -> np.dtype:
    # A layer without parameters computes in float32.
    dtypes = {str(leaf.dtype) for leaf in jax.tree.leaves(params)} or {"float32"}
    if len(dtypes) > 1 or not dtypes <= set(_DTYPES):
        raise ValueError(
            f"`params` must be of one of {', '.join(_DTYPES)} for ONNX; "
            f"got {', '.join(sorted(dtypes))}. Cast them by `jax.tree.map`."
        )
    return np.dtype(dtypes.pop())


def _state_names(layer: Layer) -> Any:
    """A name for every leaf of the state: its field, then its place in the layer."""

    def name(path: tuple, _: Any) -> str:
        # A key of a path is a field, a place in a tuple, or a name in a dictionary.
        *way, field = (str(getattr(key, "name", getattr(key, "idx", key))) for key in path)
        return "_".join([field, *way])

    return jax.tree_util.tree_map_with_path(name, jax.eval_shape(layer.initial_state))
