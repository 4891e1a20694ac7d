"""Any layer of the core as a Flax Linen module. It holds the parameters; the core computes."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import KW_ONLY
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.typing import DTypeLike

from recurrax._check import check_layer
from recurrax._flax import (
    Sharding,
    by_name,
    check_features,
    from_names,
    input_size_of,
    mesh_axes,
    names_of,
    teaches,
)
from recurrax._layer import Layer, Params, State, features, pickled, unpickled
from recurrax._params import Memory
from recurrax._scan import scan
from recurrax._scan import step as core_step
from recurrax.analysis._trace import Trace, trace
from recurrax.implementations._registry import Implementation
from recurrax.layers import _torch_layout as torch_layout
from recurrax.layers.attention import with_memory


class Module(nn.Module):
    """The common part of these modules: named parameters, dropout, and the call of the core."""

    _: KW_ONLY
    param_dtype: DTypeLike = jnp.float32
    sharding: Sharding | None = None
    deterministic: bool | None = None
    return_state: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        torch_layout.check_flag("return_state", self.return_state)
        if self.deterministic is not None:
            torch_layout.check_flag("deterministic", self.deterministic)

    def __reduce__(self) -> tuple:
        """A module is pickled as a layer is, without its parent."""
        fields = {}
        for field in dataclasses.fields(self):
            if field.init:
                fields[field.name] = getattr(self, field.name)
        fields["parent"] = None
        return _made, (type(self), pickled(fields))

    @nn.compact
    def _run(
        self,
        driver: Any,
        layer: Layer,
        x: jax.Array,
        state: State,
        deterministic: bool | None,
        memory: jax.Array | Memory | None = None,
        **options: Any,
    ) -> Any:
        key = None
        if layer.stochastic:
            off = nn.merge_param("deterministic", self.deterministic, deterministic)
            if not off:
                key = self.make_rng("dropout")
        params = self._params(layer, x)
        if memory is not None:
            params = with_memory(params, memory)
        if driver is trace:
            return trace(layer, params, x, state, key=key, **options)
        if driver is core_step:
            state, output = core_step(layer, params, x, state, key=key, **options)
        else:
            state, output = scan(layer, params, x, state, key=key, **options)
        return output, state

    def _params(self, layer: Layer, x: Any) -> Any:
        """The layer's parameters. Linen's users expect nested dictionaries of names."""
        input_size = features(x).shape[-1]

        def draw(key: jax.Array) -> Any:
            params = layer.init(key, input_size, self.param_dtype)
            leaves, structure = jax.tree.flatten(params)
            axes = mesh_axes(layer, params, self.sharding)
            boxed: list[Any] = []
            for leaf, names in zip(leaves, axes, strict=True):
                if names is None:
                    boxed.append(leaf)
                else:
                    boxed.append(nn.Partitioned(leaf, names=names))
            return jax.tree.unflatten(structure, boxed)

        if self.is_initializing():
            drawn = draw(self.make_rng("params"))
        else:
            # Linen compares these shapes with the stored parameters.
            shapes = jax.eval_shape(draw, jax.random.key(0))
            self._check_features(layer, x, nn.unbox(shapes))
            drawn = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
        # A tree of the layer becomes nested dictionaries, and back.
        paths, structure = jax.tree_util.tree_flatten_with_path(
            drawn, is_leaf=lambda node: isinstance(node, nn.Partitioned)
        )
        named = {names_of(path): leaf for path, leaf in paths}
        nested = unflatten_dict(named)
        stored = {}
        for name, value in nested.items():
            stored[name] = self.param(name, lambda _, value=value: value)
        kept = flatten_dict(stored)
        # The names are in the order of the layer's own parameters.
        return jax.tree.unflatten(structure, map(kept.get, named))

    def _check_features(self, layer: Layer, x: Any, expected: Any) -> None:
        """Refuses inputs of another size, if the stored parameters fit the layer for a size."""
        stored = flatten_dict(nn.unbox(self.variables.get("params", {})))
        wanted = jax.tree.map(jnp.shape, by_name(expected))
        if wanted != jax.tree.map(jnp.shape, stored):
            size = input_size_of(layer, stored)
            if size is not None:
                check_features(x, size)


def _made(kind: type[Module], fields: dict[str, Any]) -> Module:
    return kind(**unpickled(fields))


def variables(params: Params) -> dict[str, Any]:
    """The variables of a module, from a layer's parameters, such as from `recurrax.interop`.

    Args:
        params: the parameters, in the layer's own structure.

    Returns:
        Nested dictionaries of names, under "params".

    Example:
        >>> import jax, jax.numpy as jnp, recurrax
        >>> from recurrax import linen as rnn
        >>> layer = recurrax.Stack((recurrax.GRUCell(4),))
        >>> variables = rnn.variables(layer.init(jax.random.key(0), input_size=3))
        >>> variables["params"]["layers_0"]["kernel"].shape
        (3, 12)
        >>> rnn.Recurrent(layer).apply(variables, jnp.ones((2, 7, 3)))[0].shape
        (2, 7, 4)
    """
    return {"params": unflatten_dict(by_name(params))}


def params_of(layer: Layer, variables: Mapping[str, Any]) -> Params:
    """The parameters in the layer's structure, from a module's variables.

    Args:
        layer: the layer that the module holds, `module.layer`.
        variables: `{"params": ...}`, as `init` makes them.

    Returns:
        The parameters, for `recurrax.scan` and `recurrax.interop`.

    Raises:
        ValueError: if they are not the parameters of the layer.

    Example:
        >>> import jax, jax.numpy as jnp, recurrax
        >>> from recurrax import linen as rnn
        >>> layer = recurrax.GRUCell(4)
        >>> variables = rnn.Recurrent(layer).init(jax.random.key(0), jnp.ones((2, 7, 3)))
        >>> rnn.params_of(layer, variables).kernel.shape
        (3, 12)
    """
    return from_names(layer, flatten_dict(nn.unbox(dict(variables["params"]))))


@teaches
class Recurrent(Module):
    """Any layer of the core, with its parameters.

    Args:
        layer: the layer.
        param_dtype: the dtype of the parameters.
        sharding: the mesh axes of parameters that are to be sharded: by name, `{"kernel": (None,
            "model")}`, by the end of the path, `{"layers_0/kernel": (None, "model")}`, or as a
            function of path and shape. These parameters become `nn.Partitioned`.
        deterministic: whether dropout is off; here or at the call. Dropout draws from the rng
            `dropout`.
        return_state: whether a call returns the state beside the outputs. Without it the module may
            stand in an `nn.Sequential`, which hands on all that a module returns; `step` returns
            both in any case.

    Raises:
        TypeError: if an argument has the wrong type.
        ValueError: as `recurrax.scan`, at the call.

    Example:
        >>> import jax, jax.numpy as jnp, recurrax
        >>> from recurrax import linen as rnn
        >>> model = rnn.Recurrent(recurrax.Bidirectional(recurrax.LSTMCell(4), recurrax.GRUCell(4)))
        >>> x = jnp.ones((2, 7, 3))
        >>> variables = model.init(jax.random.key(0), x)
        >>> output, state = model.apply(variables, x)
        >>> output.shape, state.forward.c.shape, variables["params"]["backward"]["kernel"].shape
        ((2, 7, 8), (2, 4), (3, 12))

        An attention decoder reads the outputs of an encoder:

        >>> decoder = rnn.Recurrent(recurrax.BahdanauAttention(recurrax.GRUCell(4), memory_size=8))
        >>> variables = decoder.init(jax.random.key(1), x, memory=output)
        >>> decoder.apply(variables, x, memory=output)[0].shape
        (2, 7, 12)

    References:
        Flax Linen, 2020, https://flax-linen.readthedocs.io
    """

    layer: Layer

    def __post_init__(self) -> None:
        super().__post_init__()
        check_layer("layer", self.layer)

    def __call__(
        self,
        x: jax.Array,
        state: State | None = None,
        *,
        lengths: jax.Array | None = None,
        mask: jax.Array | None = None,
        reset: jax.Array | None = None,
        reverse: bool = False,
        time_major: bool = False,
        unroll: int = 1,
        remat: int | None = None,
        implementation: str | Implementation | tuple | None = None,
        memory: jax.Array | Memory | None = None,
        deterministic: bool | None = None,
    ) -> Any:
        """Runs the layer over a sequence.

        Args:
            x: `[*B, T, I]`, or `[T, *B, I]` if `time_major`.
            state: the state before the first step; None for the initial state.
            lengths: `int[*B]`, the number of unmasked steps of each sequence.
            mask: `bool[*B, T]`, laid out as `x`: False at masked steps, in any pattern.
            reset: `bool[*B, T]`, laid out as `x`: True at the first step of a new segment.
            reverse: as in `recurrax.scan`, and so are the next four.
            time_major: whether time is the first axis.
            unroll: how many steps one iteration of the compiled loop takes.
            remat: for how many steps at a time derivatives keep what happens within a step.
            implementation: how to compute it.
            memory: what an attention layer reads: an array `[*B, S, M]`, or a
                `recurrax.layers.Memory` with a mask.
            deterministic: whether dropout is off.

        Returns:
            The outputs `[*B, T, O]` and the final state, in the core's structure; the outputs alone
            without `return_state`.
        """
        output, state = self._run(
            scan,
            self.layer,
            x,
            state,
            deterministic,
            lengths=lengths,
            mask=mask,
            reset=reset,
            reverse=reverse,
            time_major=time_major,
            unroll=unroll,
            remat=remat,
            implementation=implementation,
            memory=memory,
        )
        if not self.return_state:
            return output
        return output, state

    def trace(
        self,
        x: jax.Array,
        state: State | None = None,
        *,
        lengths: jax.Array | None = None,
        mask: jax.Array | None = None,
        reset: jax.Array | None = None,
        reverse: bool = False,
        time_major: bool = False,
        unroll: int = 1,
        remat: int | None = None,
        implementation: str | Implementation | tuple | None = None,
        memory: jax.Array | Memory | None = None,
        deterministic: bool | None = None,
    ) -> Trace:
        """Runs the layer over a sequence and returns the states and gates of every step.

        The arguments are the arguments of the call.

        Returns:
            The result of `recurrax.trace`: `trace["0.forward"].gates["forget"]`.
        """
        return self._run(
            trace,
            self.layer,
            x,
            state,
            deterministic,
            lengths=lengths,
            mask=mask,
            reset=reset,
            reverse=reverse,
            time_major=time_major,
            unroll=unroll,
            remat=remat,
            implementation=implementation,
            memory=memory,
        )

    def step(
        self,
        x: jax.Array,
        state: State | None = None,
        *,
        mask: jax.Array | None = None,
        reset: jax.Array | None = None,
        implementation: str | Implementation | tuple | None = None,
        memory: jax.Array | Memory | None = None,
        deterministic: bool | None = None,
    ) -> tuple[jax.Array, State]:
        """Runs the layer over one step, `[*B, I]`; returns the output `[*B, O]` and the new state.

        `mask` `bool[*B]` is False where the step is masked. `reset` `bool[*B]` is True where a new
        segment begins. `memory` is as in the call. Before a loop of steps, form the keys of the
        memory once, by `recurrax.layers.with_memory`, and use `recurrax.step`.
        """
        options: dict[str, Any] = {"mask": mask, "reset": reset, "implementation": implementation}
        options["memory"] = memory
        return self._run(core_step, self.layer, x, state, deterministic, **options)

    def initial_state(
        self, batch_shape: tuple[int, ...] = (), dtype: DTypeLike = jnp.float32
    ) -> State:
        """The state before the first step, for a batch of shape `batch_shape`.

        It needs no rng and no parameters, so a learned state is not in it: pass None for a learned
        state.
        """
        return self.layer.initial_state(batch_shape, dtype)
