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

    Every attribute counts, and each node becomes the core's own cell where one is exactly that:
    `ElmanCell`, `LSTMCell`, `PeepholeLSTMCell`, `CIFGCell` (`input_forget`), `GRUCell`
    (`linear_before_reset` is `reset_after`); else an `OnnxLSTMCell`. `activations` are functions of
    JAX or `OnnxActivation` objects, `Clipped` by `clip`, as in onnxruntime not where h sees the
    cell state. `direction` makes a `Bidirectional` or a `Reverse`. What stands before and after the
    recurrent layers stays behind.

    Lengths and initial states that are computed, or are inputs, are arguments of `scan`. A layer
    has no place for ones that the model fixes, and refuses them.

    Args:
        model: an `onnx.ModelProto`, its bytes, or the path of a file, with weights in files beside
            it or not.
        node: the name of the one node to read; by default all recurrent nodes are, as one stack.
        weights: the arrays of graph inputs, by their names, where W, R, B or P are inputs.

    Returns:
        The layer and its parameters, in the dtype of the weights: a `Stack` if there are several
            nodes. Its inputs are
        `[*B, T, I]`, whatever `layout` says.

    Raises:
        TypeError: if `model` is anything else, or has float64 weights that JAX would round.
        ValueError: if the model is damaged or invalid, has no recurrent node or several that are no
            stack, needs `weights` that are not given, or fixes lengths or a state that is not zero.
        OSError: if there is no such file.

    Example:
        >>> import jax, recurrax
        >>> from recurrax import interop
        >>> layer = recurrax.Stack((recurrax.Bidirectional(recurrax.LSTMCell(8)), recurrax.GRUCell(4)))
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
        for name, array in found.fixed().items():
            if name == "sequence_lens" or array.any():
                raise ValueError(
                    f"`{name}` of {named(found.proto)} must be left to `scan`; the model fixes {describe(array)}. "
                    "Give it to `scan`, as `lengths` or `state`, and take it out of the model."
                )
        if layers and (below := layers[-1].output_size(inputs)) != found.input_size:
            raise found.wrong(
                "W", f"for the {below} features that the node before puts out", found.input_size
            )
        inputs = found.input_size
        one, own = found.layer(merge)
        layers.append(one)
        params.append(own)
    return (Stack(tuple(layers)), tuple(params)) if len(layers) > 1 else (layers[0], params[0])


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
    """A layer as an ONNX model, its recurrences as ONNX's own `RNN`, `LSTM` and `GRU`, for any batch and any length.

    The inputs of the model are `xs` `[batch, time, I]`, then `lengths` `int32[batch]` and the
    states `[batch, H]` if they are asked for; its outputs `ys` `[batch, time, O]` and the states
    after the last step. States go by their fields and places, such as `h_0` and `c_0` of the first
    layer in a `Stack`, `h_0_backward` of one direction in it, or `h` of a cell alone, in the order
    of `jax.tree.leaves(state)`; as outputs they are `h_0_next` and so on.

    It computes what `scan` does without a key, in the dtype of the parameters: dropout of any kind
        and `GradientClip`
    stay behind. onnxruntime, unlike `scan`, refuses lengths above the number of steps.

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
        lengths: whether `lengths` are an input; then `ys` are zero where steps are not real.
        time_major: whether `xs` and `ys` are `[time, batch, I]` and `[time, batch, O]`.
        embedding: a table `[V, I]`; then `ids` `int32[batch, time]` are the input, not `xs`.

    Returns:
        The `onnx.ModelProto`, checked.

    Raises:
        TypeError: if ONNX cannot hold a layer.
        ValueError: if ONNX cannot hold an option of a layer, `params` are not those of the layer,
            `step` is asked for together with `lengths` or for a layer that reads the future, or
            `embedding` is of another size.

    Example:
        >>> import jax, recurrax
        >>> from recurrax import interop
        >>> tagger = recurrax.Stack((recurrax.Bidirectional(recurrax.LSTMCell(4)), recurrax.Dense(5)))
        >>> params = tagger.init(jax.random.key(0), input_size=3)
        >>> model = interop.to_onnx(tagger, params, embedding=jax.numpy.ones((100, 3)), lengths=True)
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
    axes = ("batch",) if step else ("time", "batch") if time_major else ("batch", "time")
    names = _state_names(layer)
    leaves = zip(
        jax.tree.leaves(names), jax.tree.leaves(jax.eval_shape(layer.initial_state)), strict=True
    )
    states: dict[str, Described] = {name: (dtype, ("batch", *leaf.shape)) for name, leaf in leaves}
    given = names if step or state else jax.tree.map(lambda _: "", names)

    writer, xs = Writer("lengths" if lengths else ""), "xs"
    inputs: dict[str, Described] = {"xs": (dtype, (*axes, size))}
    if embedding is not None:
        table = np.asarray(embedding)
        if table.ndim != 2 or table.shape[1] != size or table.dtype != dtype:
            raise ValueError(
                f"`embedding` must be {dtype}[V, {size}] for {layer}; got {describe(table)}."
            )
        inputs, xs = (
            {"ids": (np.int32, axes)},
            writer.add("Gather", writer.constant(table, dtype), "ids", axis=0),
        )
    inputs |= {"lengths": (np.int32, ("batch",))} if lengths else {}
    inputs |= states if step or state else {}
    outputs: dict[str, Described] = {"ys": (dtype, (*axes, layer.output_size(size)))}
    outputs |= {f"{name}_next": described for name, described in states.items()}

    if step:
        xs = writer.add("Unsqueeze", xs, writer.constant([0]))
    elif not time_major:
        xs = writer.add("Transpose", xs, perm=[1, 0, 2])
    final, ys = writer.layer(layer, params, given, xs)
    if lengths:
        ys = writer.masked(ys, dtype)
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
    dtypes = {str(leaf.dtype) for leaf in jax.tree.leaves(params)} or {"float32"}
    if len(dtypes) > 1 or not dtypes <= set(_DTYPES):
        raise ValueError(
            f"`params` must be of one of {', '.join(_DTYPES)} for ONNX; got {', '.join(sorted(dtypes))}. "
            "Cast them by `jax.tree.map`."
        )
    return np.dtype(dtypes.pop())


def _state_names(layer: Layer) -> Any:
    """A name for every leaf of the state: its field, then the places on the way to it."""

    def name(path: tuple, _: Any) -> str:
        *way, field = (str(getattr(key, "name", getattr(key, "idx", key))) for key in path)
        return "_".join([field, *way])

    return jax.tree_util.tree_map_with_path(name, jax.eval_shape(layer.initial_state))
