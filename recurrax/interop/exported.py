"""A layer and its parameters as one compiled function that needs JAX alone to run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict
from jax import export as jax_export
from jax.typing import DTypeLike

from recurrax import _scan
from recurrax._check import expected_state
from recurrax._fitting import input_size
from recurrax._flax import by_name
from recurrax._layer import Layer, Params, State


def export(
    layer: Layer,
    params: Params,
    *,
    step: bool = False,
    state: bool = False,
    lengths: bool = False,
    dtype: DTypeLike = jnp.float32,
    platforms: Sequence[str] = ("cpu", "cuda", "tpu"),
) -> jax_export.Exported:
    """Compiles `scan`, or `step`, to StableHLO with the parameters in it, for any batch and any number of steps.

    What comes back has `call`, and `serialize()` makes bytes of it. Whoever has these needs no recurrax: with
    `jax.export.deserialize(data).call` it runs where JAX does.

        ys, state = call(xs)                    xs [B, T, I], ys [B, T, O]
        ys, state = call(xs, lengths, state)    with `lengths` and `state`, or one of them
        y, state = call(x, state)               with `step`: x [B, I], y [B, O]

    States are dictionaries of the names in the core's states, such as `{"layers_0": {"h": ..., "c": ...}}`; the initial
    one, unless it is learned, is all zeros.

    Args:
        layer: any layer; with `step`, one that reads no future.
        params: its parameters.
        step: whether to export one step, with the state before it as an argument.
        state: whether the state before the first step is an argument, so that sequences can come in parts.
        lengths: whether `lengths`, `int32[B]`, are an argument.
        dtype: that of the inputs and the outputs.
        platforms: those to compile for, in one artefact.

    Returns:
        The `jax.export.Exported`.

    Raises:
        ValueError: if `params` are not those of the layer, or both `step` and `lengths` are asked for; as
            `recurrax.step`, if the layer reads the future.

    Example:
        >>> import jax, jax.numpy as jnp, recurrax
        >>> from recurrax import interop
        >>> layer = recurrax.Stack((recurrax.LSTMCell(4), recurrax.GRUCell(3)))
        >>> params = layer.init(jax.random.key(0), input_size=2)
        >>> data = interop.export(layer, params, lengths=True).serialize()
        >>> ys, state = jax.export.deserialize(data).call(jnp.ones((5, 7, 2)), jnp.array([7, 0, 3, 1, 2], jnp.int32))
        >>> ys.shape, state["layers_0"]["c"].shape
        ((5, 7, 3), (5, 4))

    References:
        JAX, exporting and serialising staged-out computations, 2024, https://docs.jax.dev/en/latest/export/export.html
    """
    if step and lengths:
        raise ValueError("`lengths` must be False with `step`: one step has no length.")
    batch: Any
    batch, time = jax_export.symbolic_shape("batch, time")
    shape = (*getattr(layer, "input_shape", ()), input_size(layer, params))
    arguments = [jax.ShapeDtypeStruct((batch, *shape) if step else (batch, time, *shape), dtype)]
    if lengths:
        arguments.append(jax.ShapeDtypeStruct((batch,), jnp.int32))
    if state or step:
        arguments.append(_named(jax.eval_shape(lambda: layer.initial_state((batch,)))))

    def run(xs: jax.Array, *rest: Any) -> tuple[jax.Array, Any]:
        before = _restored(layer, rest[-1]) if state or step else None
        if step:
            after, ys = _scan.step(layer, params, before, xs)
        else:
            after, ys = _scan.scan(layer, params, xs, before, lengths=rest[0] if lengths else None)
        return ys, _named(after)

    return jax_export.export(jax.jit(run), platforms=tuple(platforms))(*arguments)


def _named(state: State) -> Any:
    """Plain dictionaries, which are read where there is no recurrax."""
    return unflatten_dict(by_name(state))


def _restored(layer: Layer, state: Any) -> State:
    leaves, structure = flatten_dict(state), expected_state(layer, ())
    return jax.tree.unflatten(jax.tree.structure(structure), [leaves[name] for name in by_name(structure)])
