"""Any layer of the core as a Flax NNX module: it holds the parameters, and the core does the rest."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from recurrax._check import check_tree, expected_params
from recurrax._flax import mesh_axes
from recurrax._layer import Layer, Params, State
from recurrax._scan import scan
from recurrax._scan import step as core_step

Randomness = nnx.Rngs | nnx.RngStream | jax.Array | None


class Recurrent(nnx.Module):
    """Any layer of the core, with its parameters.

    Args:
        layer: the layer.
        input_size: the number of features I of one input.
        params: the parameters to begin with, as `recurrax.interop` has them from elsewhere; None to draw them.
        param_dtype: the dtype of the parameters that are drawn.
        sharding: the mesh axes of parameters that are to be sharded, such as `{"kernel": (None, "model")}`.
        deterministic: whether dropout is off; `train()` and `eval()` set it.
        rngs: the source of the initial parameters (stream `params`) and of dropout (stream `dropout`).

    Attributes:
        params: the parameters, in the layer's structure, each an `nnx.Param`.

    Raises:
        ValueError: if `params` are not those of the layer; as `recurrax.scan`, at the call.

    Example:
        >>> import jax.numpy as jnp, recurrax
        >>> from flax import nnx
        >>> from recurrax import nnx as rnn
        >>> layer = recurrax.Bidirectional(recurrax.LSTMCell(4), recurrax.GRUCell(4))
        >>> model = rnn.Recurrent(layer, 3, rngs=nnx.Rngs(0))
        >>> output, state = model(jnp.ones((2, 7, 3)))
        >>> output.shape, state.forward.c.shape, model.params.backward.kernel.shape
        ((2, 7, 8), (2, 4), (3, 12))

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
        sharding: Mapping[str, tuple] | None = None,
        deterministic: bool = False,
        rngs: nnx.Rngs,
    ) -> None:
        self.layer = layer
        self.deterministic = deterministic
        self.rngs = rngs["dropout"].fork() if layer.stochastic else nnx.data(None)

        if params is None:
            params = layer.init(rngs.params(), input_size, param_dtype)
        else:
            x = jax.ShapeDtypeStruct((input_size,), jnp.float32)
            check_tree("params", params, expected_params(layer, input_size), layer, x)
        leaves, structure = jax.tree.flatten(params)
        metadata: list[dict[str, Any]] = [
            {"out_sharding": axes} if axes else {} for axes in mesh_axes(layer, params, sharding)
        ]
        variables = [nnx.Param(leaf, **more) for leaf, more in zip(leaves, metadata, strict=True)]
        self.params = nnx.data(jax.tree.unflatten(structure, variables))

    def __call__(
        self,
        x: jax.Array,
        state: State | None = None,
        *,
        lengths: jax.Array | None = None,
        mask: jax.Array | None = None,
        reset: jax.Array | None = None,
        deterministic: bool | None = None,
        rngs: Randomness = None,
        **options: Any,
    ) -> tuple[jax.Array, State]:
        """Runs the layer over a sequence.

        Args:
            x: `[*B, T, I]`, or `[T, *B, I]` if `time_major`.
            state: the state before the first step; None for the initial state.
            lengths: `int[*B]`, as in `recurrax.scan`.
            mask: `bool[*B, T]`, as in `recurrax.scan`.
            reset: `bool[*B, T]`, as in `recurrax.scan`.
            deterministic: overrides the attribute of that name.
            rngs: overrides the source of dropout.
            **options: `reverse`, `time_major`, `unroll` and `implementation` of `recurrax.scan`.

        Returns:
            The outputs and the final state, in the core's structure.
        """
        options |= {"lengths": lengths, "mask": mask, "reset": reset, "key": self._key(deterministic, rngs)}
        state, output = scan(self.layer, self._arrays(), x, state, **options)
        return output, state

    def step(self, x: jax.Array, state: State | None = None, **options: Any) -> tuple[jax.Array, State]:
        """Runs the layer over one step, `[*B, I]`; returns the output `[*B, O]` and the new state.

        The options are the `mask`, `reset` and `implementation` of `recurrax.step`, `deterministic` and `rngs`.
        """
        key = self._key(options.pop("deterministic", None), options.pop("rngs", None))
        state, y = core_step(self.layer, self._arrays(), state, x, key=key, **options)
        return y, state

    def initial_state(self, batch_shape: tuple[int, ...] = (), dtype: DTypeLike = jnp.float32) -> State:
        """The state before the first step, for a batch of shape `batch_shape`."""
        return self.layer.first_state(self._arrays(), batch_shape, dtype)

    def _arrays(self) -> Params:
        return jax.tree.map(lambda p: p[...], self.params, is_leaf=lambda p: isinstance(p, nnx.Variable))

    def _key(self, deterministic: bool | None, rngs: Randomness) -> jax.Array | None:
        off = self.deterministic if deterministic is None else deterministic
        source = self.rngs if rngs is None else rngs
        if off or source is None or not self.layer.stochastic:
            return None
        if isinstance(source, nnx.Rngs):
            return source["dropout"]()
        return source() if isinstance(source, nnx.RngStream) else source
