"""The Jacobian of one step."""

from __future__ import annotations

import functools
from typing import Any

import jax

from recurrax._arguments import describe
from recurrax._check import check_inputs
from recurrax._dtype import default_state_dtype
from recurrax._layer import Layer, Params, State, features, without_initializers
from recurrax.analysis._vector import flatten_state, next_vector, state_batch_shape


def step_jacobian(layer: Layer, params: Params, x: Any, state: State | None = None) -> jax.Array:
    """Computes the Jacobian of one step with respect to the state.

    J[i, j] = d s'_i / d s_j, where s' is the state after the step, as a vector

    Its eigenvalues say how a small change of the state grows or fades in one step.

    Args:
        layer: any layer that `step` takes.
        params: its parameters.
        x: the input of the step: `[*B, I]`, or `[I]` for the same input in every row.
        state: the state before the step, with leaves `[*B, ...]`; None for the initial state. The
            states of a trace are possible too: then time is one of the axes `*B`.

    Returns:
        `[*B, S, S]`, in the order of `flatten_state`.

    Raises:
        TypeError: as `step`.
        ValueError: as `step`, and if the layer has no state.

    Example:
        A linear cell, h' = x @ kernel + h @ recurrent_kernel:

        >>> import jax.numpy as jnp, recurrax
        >>> from recurrax.analysis import step_jacobian
        >>> cell = recurrax.ElmanCell(2, jnp.positive, bias=False)
        >>> recurrent_kernel = jnp.array([[0.5, 2.0], [0.0, 0.25]])
        >>> params = recurrax.cells.ElmanParams(jnp.ones((3, 2)), recurrent_kernel)
        >>> step_jacobian(cell, params, jnp.ones(3))
        Array([[0.5 , 0.  ],
               [2.  , 0.25]], dtype=float32)

    References:
        Pascanu et al., On the difficulty of training recurrent neural networks, 2013,
        https://arxiv.org/abs/1211.5063
    """
    x = check_inputs(layer, x, "x")
    batch_shape = features(x).shape[: features(x).ndim - layer.feature_ndim]
    if state is not None:
        of_state = state_batch_shape(layer, state, "state")
        if batch_shape not in ((), of_state):
            sizes = ", ".join([*map(str, of_state), "I"])
            raise ValueError(
                f"`x` must be [{sizes}], one input for each row of `state`, or [I]; "
                f"got {describe(features(x))}."
            )
    return _step_jacobian(without_initializers(layer), params, x, state)


@functools.partial(jax.jit, static_argnames="layer")
def _step_jacobian(layer: Layer, params: Params, x: Any, state: State | None) -> jax.Array:
    batch_shape = features(x).shape[: features(x).ndim - layer.feature_ndim]
    if state is None:
        state = layer.first_state(params, batch_shape, default_state_dtype(params, x))
    vectors = flatten_state(layer, state)  # [*B, S]

    def after(x: Any, vector: jax.Array) -> jax.Array:
        return next_vector(layer, params, x, vector)

    jacobian = jax.jacfwd(after, argnums=1)
    # An input without batch axes is the same in every row.
    axis_of_x = 0 if batch_shape else None
    for _ in vectors.shape[:-1]:
        jacobian = jax.vmap(jacobian, in_axes=(axis_of_x, 0))
    return jacobian(x, vectors)  # [*B, S, S]
