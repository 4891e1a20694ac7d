"""Dropout of weights."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from recurrax._check import check_layer, check_rate
from recurrax._layer import Params, ScanContext, State
from recurrax._params import param_mask
from recurrax.layers._random import dropped
from recurrax.layers._wrapper import Wrapper


@dataclasses.dataclass(frozen=True, repr=False)
class WeightDrop(Wrapper):
    """Drops single weights at random (DropConnect), by default those of the recurrent kernels.

    One mask serves all steps of a call of `scan`. The layer acts only when `scan` has a key. It has
    the parameters and the state of `layer`.

    Args:
        layer: any layer.
        rate: the probability of zero, in [0, 1). The other weights are divided by 1 - rate.
        names: the names of the parameters, at any depth of the layer, as in `param_mask`. A str is
            one name.

    Raises:
        TypeError: if `layer` is not a layer, or a name is not a str.
        ValueError: if `rate` is outside [0, 1), if there is no name, or if the layer has no
            parameter of a name (at `init`).

    Example:
        >>> import jax, recurrax
        >>> layer = recurrax.WeightDrop(recurrax.LSTMCell(4), 0.5)
        >>> params = layer.init(jax.random.key(0), input_size=3)
        >>> recurrax.scan(layer, params, jax.numpy.ones((2, 7, 3)), key=jax.random.key(1))[1].shape
        (2, 7, 4)

    References:
        Merity et al., Regularizing and optimizing LSTM language models, 2018,
        https://arxiv.org/abs/1708.02182

        Wan et al., Regularization of neural networks using DropConnect, 2013,
        https://proceedings.mlr.press/v28/wan13.html
    """

    rate: float = 0.5
    names: str | tuple[str, ...] = ("recurrent_kernel",)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_layer("layer", self.layer)
        check_rate("rate", self.rate)
        names = self.names
        if isinstance(names, str):
            names = (names,)
        if not isinstance(names, (tuple, list)) or not all(isinstance(name, str) for name in names):
            raise TypeError(
                "`names` of WeightDrop must be the name of a parameter, such as "
                '"recurrent_kernel", or a tuple of '
                f"names; got {self.names!r}."
            )
        if not names:
            raise ValueError("`names` of WeightDrop must hold at least 1 name; got none.")
        # A list has no hash, and a layer must have one.
        object.__setattr__(self, "names", tuple(names))

    @property
    def stochastic(self) -> bool:
        """Whether the rate is positive, or `layer` draws random numbers."""
        return self.rate > 0 or self.layer.stochastic

    def init(self, key: jax.Array, input_size: int, dtype: DTypeLike = jnp.float32) -> Params:
        """Draws the parameters of the layer and checks that each name is among them."""
        params = super().init(key, input_size, dtype)
        # `param_mask` raises if a name is not among the parameters.
        param_mask(params, *self.names)
        return params

    def apply(
        self, context: ScanContext, params: Params, state: State, xs: Any
    ) -> tuple[State, jax.Array]:
        """Runs the layer with some of its weights set to zero."""
        if context.key is None:
            return context.scan(self.layer, params, state, xs)
        # The layer gets one part of the randomness; the masks use a key folded from all of it.
        rest, _ = context.split(2)
        leaves, structure = jax.tree.flatten(params)
        keys = jax.random.split(jax.random.fold_in(context.key, 1), len(leaves))
        named = jax.tree.leaves(param_mask(params, *self.names))
        for number, leaf in enumerate(leaves):
            if named[number]:
                leaves[number] = dropped(keys[number], self.rate, leaf)
        params = jax.tree.unflatten(structure, leaves)
        return rest.scan(self.layer, params, state, xs)
