"""Any layer of the core as a Flax NNX module. It holds the parameters; the core computes."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from recurrax._check import check_layer, check_tree, expected_params
from recurrax._flax import Sharding, check_features, mesh_axes, teaches
from recurrax._layer import Layer, Params, State
from recurrax._params import Memory
from recurrax._scan import scan
from recurrax._scan import step as core_step
from recurrax.analysis._trace import Trace, trace
from recurrax.implementations._registry import Implementation
from recurrax.layers import _torch_layout as torch_layout
from recurrax.layers.attention import with_memory
from recurrax.nnx._tabulate import shown, taken

Randomness = nnx.Rngs | nnx.RngStream | jax.Array | None


@teaches
class Recurrent(nnx.Module):
    """Any layer of the core, with its parameters.

    Args:
        layer: the layer.
        input_size: the number of features I of one input.
        params: the parameters to begin with, as `recurrax.interop` has them from elsewhere; None to
            draw them.
        param_dtype: the dtype of the parameters that are drawn.
        sharding: the mesh axes of parameters that are to be sharded: by name, `{"kernel": (None,
            "model")}`, by the end of the path, `{"layers_0/kernel": (None, "model")}`, or as a
            function of path and shape.
        deterministic: whether dropout is off; `train()`, `eval()` and `nnx.view` set it.
        return_state: whether a call returns the state beside the outputs. Without it the module may
            stand in an `nnx.Sequential`, which hands on all that a module returns; `step` returns
            both in any case.
        rngs: the source of the initial parameters (stream `params`) and of dropout (stream
            `dropout`). It may be None where `params` are given.

    Attributes:
        params: the parameters, in the layer's structure, each an `nnx.Param`; in `nnx.state` they
            are under `weights`.

    Raises:
        TypeError: if an argument has the wrong type.
        ValueError: if `params` do not fit the layer; at the call as `recurrax.scan`.

    Example:
        >>> import jax.numpy as jnp, recurrax
        >>> from flax import nnx
        >>> from recurrax import nnx as rnn
        >>> layer = recurrax.Bidirectional(recurrax.LSTMCell(4), recurrax.GRUCell(4))
        >>> model = rnn.Recurrent(layer, 3, rngs=nnx.Rngs(0))
        >>> output, state = model(jnp.ones((2, 7, 3)))
        >>> output.shape, state.forward.c.shape, model.params.backward.kernel.shape
        ((2, 7, 8), (2, 4), (3, 12))

        An attention decoder reads the outputs of an encoder:

        >>> layer = recurrax.BahdanauAttention(recurrax.GRUCell(4), memory_size=8)
        >>> decoder = rnn.Recurrent(layer, 3, rngs=nnx.Rngs(0))
        >>> decoder(jnp.ones((2, 5, 3)), memory=output)[0].shape
        (2, 5, 12)

    References:
        Flax NNX, 2024, https://flax.readthedocs.io/en/latest/nnx_basics.html
    """

    def __init__(
        self,
        layer: Layer,
        input_size: int,
        *,
        params: Params | None = None,
        param_dtype: DTypeLike = jnp.float32,
        sharding: Sharding | None = None,
        deterministic: bool = False,
        return_state: bool = True,
        rngs: nnx.Rngs | None = None,
    ) -> None:
        check_layer("layer", layer)
        if not (isinstance(rngs, nnx.Rngs) or (rngs is None and params is not None)):
            raise TypeError(
                "`rngs` must be an nnx.Rngs, such as nnx.Rngs(0), to draw parameters; "
                f"got {rngs!r}."
            )
        self.layer = layer
        self.input_size = input_size
        self.return_state = torch_layout.check_flag("return_state", return_state)
        self.deterministic = torch_layout.check_flag("deterministic", deterministic)
        self.rngs = nnx.data(None)
        if layer.stochastic and rngs is not None:
            self.rngs = rngs["dropout"].fork()

        if params is None:
            assert rngs is not None
            params = layer.init(rngs.params(), input_size, param_dtype)
        else:
            x = jax.ShapeDtypeStruct((input_size,), jnp.float32)
            check_tree("params", params, expected_params(layer, input_size), layer, x)
        leaves, structure = jax.tree.flatten(params)
        axes_of_leaves = mesh_axes(layer, params, sharding)
        variables = []
        for leaf, axes in zip(leaves, axes_of_leaves, strict=True):
            metadata: dict[str, Any] = {}
            if axes:
                metadata["out_sharding"] = axes
            variables.append(nnx.Param(leaf, **metadata))
        # Linen has a collection `params`, so `nnx.bridge.ToLinen` refuses an attribute `params`.
        self.weights = nnx.data(jax.tree.unflatten(structure, variables))

    @property
    def params(self) -> Params:
        """The parameters, in the layer's structure, each an `nnx.Param`."""
        return self.weights

    def set_view(self, deterministic: bool | None = None) -> None:
        """Sets the argument of `nnx.view`.

        Args:
            deterministic: whether dropout is off.
        """
        if deterministic is not None:
            self.deterministic = deterministic

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
        rngs: Randomness = None,
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
            deterministic: overrides the attribute of that name.
            rngs: overrides the source of dropout.

        Returns:
            The outputs `[*B, T, O]` and the final state, in the core's structure; the outputs alone
            without `return_state`.
        """
        output, state = self._run(
            scan,
            x,
            taken(state),
            deterministic,
            rngs,
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
        # Users of the core want the state as well; in `nnx.Sequential` it is in the way.
        if not self.return_state:
            return output
        return output, shown(self, state)

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
        rngs: Randomness = None,
    ) -> Trace:
        """Runs the layer over a sequence and returns the states and gates of every step.

        The arguments are the arguments of the call.

        Returns:
            The result of `recurrax.trace`: `trace["0.forward"].gates["forget"]`.
        """
        return self._run(
            trace,
            x,
            taken(state),
            deterministic,
            rngs,
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
        rngs: Randomness = None,
    ) -> tuple[jax.Array, State]:
        """Runs the layer over one step.

        Args:
            x: `[*B, I]`.
            state: the state before the step; None for the initial state.
            mask: `bool[*B]`, False where the step is masked.
            reset: `bool[*B]`, True where a new segment begins.
            implementation: as in the call.
            memory: as in the call. Before a loop of steps, form the keys of the memory once, by
                `recurrax.layers.with_memory`, and use `recurrax.step`.
            deterministic: as in the call.
            rngs: as in the call.

        Returns:
            The output `[*B, O]` and the new state.
        """
        y, state = self._run(
            core_step,
            x,
            taken(state),
            deterministic,
            rngs,
            mask=mask,
            reset=reset,
            implementation=implementation,
            memory=memory,
        )
        return y, shown(self, state)

    def initial_state(
        self, batch_shape: tuple[int, ...] = (), dtype: DTypeLike = jnp.float32
    ) -> State:
        """The state before the first step, for a batch of shape `batch_shape`."""
        return shown(self, self.layer.first_state(params_of(self), batch_shape, dtype))

    def _run(
        self,
        driver: Any,
        x: jax.Array,
        state: State | None,
        deterministic: bool | None,
        rngs: Randomness,
        memory: jax.Array | Memory | None = None,
        **options: Any,
    ) -> Any:
        check_features(x, self.input_size)
        options["key"] = self._key(deterministic, rngs)
        params = params_of(self)
        if memory is not None:
            params = with_memory(params, memory)
        if driver is trace:
            return trace(self.layer, params, x, state, **options)
        if driver is core_step:
            state, output = core_step(self.layer, params, x, state, **options)
        else:
            state, output = scan(self.layer, params, x, state, **options)
        return output, state

    def _key(self, deterministic: bool | None, rngs: Randomness) -> jax.Array | None:
        off = deterministic
        if off is None:
            off = self.deterministic
        if off or not self.layer.stochastic:
            return None
        source: Any = rngs
        if source is None:
            source = self.rngs
        if source is None:
            raise ValueError(
                "`rngs` must be given, here or at construction, for dropout to draw from; got "
                "None. Or give `deterministic=True`."
            )
        # An `Rngs` has many streams, a stream draws keys, and all else is a key.
        if isinstance(source, nnx.Rngs):
            source = source["dropout"]
        if isinstance(source, nnx.RngStream):
            return source()
        return source


def params_of(module: Recurrent) -> Params:
    """The parameters of a module as arrays, in the structure of its layer.

    Args:
        module: a module of `recurrax.nnx`.

    Returns:
        The parameters, for `recurrax.scan(module.layer, ...)` and `recurrax.interop`.

    Example:
        >>> import recurrax
        >>> from flax import nnx
        >>> from recurrax import nnx as rnn
        >>> model = rnn.GRU(3, 4, rngs=nnx.Rngs(0))
        >>> params = rnn.params_of(model)
        >>> params[0].kernel.shape, recurrax.num_params(model.layer, 3)
        ((3, 12), 108)
    """
    is_variable = lambda leaf: isinstance(leaf, nnx.Variable)  # noqa: E731
    return jax.tree.map(lambda leaf: leaf[...], module.params, is_leaf=is_variable)
