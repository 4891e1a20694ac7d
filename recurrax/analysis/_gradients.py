"""How much of a gradient is left after some steps back in time."""

from __future__ import annotations

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from recurrax._layer import Layer, Params, State, features, without_initializers
from recurrax._mask import Marks
from recurrax._scan import check_sequence, scan

# The number of outputs whose gradients are computed at once.
_AT_ONCE = 16


def gradient_by_distance(
    layer: Layer,
    params: Params,
    xs: Any,
    state: State | None = None,
    *,
    time_major: bool = False,
) -> jax.Array:
    """Computes how strongly the last output depends on earlier inputs: its gradient by distance.

    norm[d] = |d y_T / d x_{T-d}|, the root of the sum of all squared partial derivatives

    Where the norm falls by a constant factor per step, the gradient vanishes: the layer cannot
    learn what lies far back. Where it grows, the gradient explodes.

    Args:
        layer: a cell, or a layer made of layers.
        params: its parameters.
        xs: the inputs, `[*B, T, I]`, or `[T, *B, I]` if `time_major`, all steps unmasked.
        state: the state before the first step; None for the initial state.
        time_major: whether time is the first axis of `xs`.

    Returns:
        `[*B, T]`: entry d is the norm at distance d. Entry 0 is for the last step itself.

    Raises:
        TypeError: as `scan`.
        ValueError: as `scan`.

    Example:
        A linear unit that keeps half of its state:

        >>> import jax.numpy as jnp, recurrax
        >>> from recurrax.analysis import gradient_by_distance
        >>> cell = recurrax.ElmanCell(1, jnp.positive, bias=False)
        >>> params = recurrax.cells.ElmanParams(jnp.ones((1, 1)), 0.5 * jnp.ones((1, 1)))
        >>> gradient_by_distance(cell, params, jnp.ones((4, 1)))
        Array([1.   , 0.5  , 0.25 , 0.125], dtype=float32)

    References:
        Bengio et al., Learning long-term dependencies with gradient descent is difficult, 1994,
        https://doi.org/10.1109/72.279181

        Pascanu et al., On the difficulty of training recurrent neural networks, 2013,
        https://arxiv.org/abs/1211.5063
    """
    xs, _ = check_sequence(layer, params, xs, state, Marks(None, None, None), time_major)
    return _gradient_by_distance(without_initializers(layer), params, xs, state, time_major)


@functools.partial(jax.jit, static_argnames=("layer", "time_major"))
def _gradient_by_distance(layer, params, xs, state, time_major):
    inputs, structure = jax.tree.flatten(xs)
    x, *others = inputs
    batch_ndim = x.ndim - layer.feature_ndim - 1
    time = 0 if time_major else batch_ndim

    def last_output(x: jax.Array) -> jax.Array:
        # Only the features count. The elapsed times of `TimedInputs` are constants.
        xs = jax.tree.unflatten(structure, [x, *others])
        _, ys = scan(layer, params, xs, state, time_major=time_major)
        return lax.index_in_dim(ys, -1, time, keepdims=False)  # [*B, O]

    # One forward pass serves all entries of the output.
    y, pulled_back = jax.vjp(last_output, features(xs))
    shape = y.shape[batch_ndim:]
    number = math.prod(shape)

    def squares(index: jax.Array) -> jax.Array:
        """Returns the squared gradient of one entry of the output at every step, `[*B, T]`."""
        entry = jax.nn.one_hot(index, number, dtype=y.dtype).reshape(shape)
        # Adding zeros gives the entry the placement of the outputs on a mesh.
        cotangent = jnp.broadcast_to(entry, y.shape) + jnp.zeros_like(y)  # [*B, O]
        (gradient,) = pulled_back(cotangent)  # [*B, T, I], or [T, *B, I]
        gradient = jnp.moveaxis(gradient, time, batch_ndim)
        # The features may lie in space: then they have several axes.
        return jnp.square(jnp.abs(gradient)).sum(axis=tuple(range(batch_ndim + 1, x.ndim)))

    each = lax.map(squares, jnp.arange(number), batch_size=min(number, _AT_ONCE))  # [O, *B, T]
    # From the last step to the first: the index is the distance.
    return jnp.flip(jnp.sqrt(each.sum(axis=0)), axis=-1)
