"""The loop for affine cells: their derivative takes every product with a weight out of the loop.

With a_t the pre-activations and s_t the state, the tangent of a walk is

    ds_t = push_t(dā_t + [ds_{t-1}.h] @ recurrent_kernel, ds_{t-1}),

where push_t is the linear part of `pointwise` and dā, all that does not wait for the state, is formed for every step
at once:

    dā = dxs @ kernel + xs @ dkernel + dbias + hs @ drecurrent_kernel + drecurrent_bias.

Transposed by JAX, that is backpropagation through time in which each step puts out the gradient of its
pre-activations alone, and each weight's gradient is one matrix product after the loop. So reverse mode, forward mode,
and every higher order come from this one rule.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from recurrax._dtype import cast_params, compute_dtype
from recurrax._layer import Cell, Params, State
from recurrax.cells._activation import closes_over_tracer
from recurrax.cells.affine import AffineCell, Gates
from recurrax.implementations._loop import guarded
from recurrax.implementations._packing import Packing
from recurrax.implementations._platform import forward_unroll, projects_inside
from recurrax.implementations._registry import FunctionImplementation

Flags = tuple[jax.Array | None, jax.Array | None]


def run(
    cell: AffineCell,
    params: Params,
    state: State,
    xs: jax.Array,
    *,
    initial: State,
    mask: jax.Array | None,
    restart: jax.Array | None,
    reverse: bool,
    unroll: int,
    **_: Any,
) -> tuple[State, jax.Array]:
    """Takes one step after another, under the derivative rule above."""
    compute = compute_dtype(cell, params, xs)
    loop = _Loop(cell, compute, xs.dtype, reverse, unroll, projects_inside(xs))
    return _along(loop, cast_params(cell, params, compute), state, initial, xs.astype(compute), (mask, restart))


@dataclasses.dataclass(frozen=True)
class _Loop:
    """What a loop knows before it sees an array."""

    cell: AffineCell
    compute: jnp.dtype
    output: jnp.dtype
    reverse: bool
    unroll: int
    inside: bool  # whether each step projects its own input

    def __call__(self, advance: Callable, initial: State, state: State, zs: Any, flags: Flags) -> tuple[State, Any]:
        body = guarded(advance, initial, self.compute, self.output)
        return lax.scan(body, state, (zs, *flags), reverse=self.reverse, unroll=self.unroll)

    def inputs(self, params: Params, xs: jax.Array) -> Any:
        return xs if self.inside else self.project(params, xs)

    def project(self, params: Params, xs: jax.Array) -> Gates:
        return self.cell.split(self.cell.project_inputs(params, xs))

    def preactivations(self, params: Params, z: Any, h: jax.Array) -> Gates:
        z = self.project(params, z) if self.inside else z
        u = self.cell.split(self.cell.project_state(params, h))
        return self.cell.preactivations(tuple(gate.astype(h.dtype) for gate in z), u)

    @property
    def together(self) -> bool:
        """Whether one product serves all gates of a gradient: not where the cell keeps z and u of a gate apart."""
        kind = type(self.cell)
        maps = (kind.project_inputs, kind.project_state)
        plain = maps == (AffineCell.project_inputs, AffineCell.project_state)
        return not plain or kind.preactivations is AffineCell.preactivations

    def preactivations_at_once(self, params: Params, xs: jax.Array, hs: jax.Array) -> Gates:
        """Those of all steps, where the states before them are known."""
        cell, parts = self.cell, [params] if self.together else self.cell.gate_params(params)
        z = tuple(cell.project_inputs(part, xs).astype(hs.dtype) for part in parts)
        u = tuple(cell.project_state(part, hs) for part in parts)
        return cell.preactivations(*((cell.split(*z), cell.split(*u)) if self.together else (z, u)))


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _along(
    loop: _Loop, params: Params, state: State, initial: State, xs: jax.Array, flags: Flags
) -> tuple[State, jax.Array]:
    others = loop.cell.other_params(params)

    def advance(before: State, z: Any) -> tuple[State, jax.Array, None]:
        return *loop.cell.pointwise(others, loop.preactivations(params, z, before.h), before), None

    loop = dataclasses.replace(loop, unroll=max(loop.unroll, forward_unroll(xs, loop.cell.gates)))
    state, (ys, _) = loop(advance, initial, state, loop.inputs(params, xs), flags)
    return state, ys


@_along.defjvp
def _push_along(loop: _Loop, primals: tuple, tangents: tuple) -> tuple[tuple, tuple]:
    params, state, initial, xs, flags = primals
    dparams, dstate, dinitial, dxs, _ = tangents
    cell, packing = loop.cell, Packing()
    others, dothers = cell.other_params(params), cell.other_params(dparams)

    def advance(before: State, z: Any) -> tuple[State, jax.Array, Any]:
        a = loop.preactivations(params, z, before.h)
        (after, y), push = jax.linearize(cell.pointwise, others, a, before)
        return after, y, (before, packing.pack(push, (others, before)))

    final, (ys, (befores, kept)) = loop(advance, initial, state, loop.inputs(params, xs), flags)

    # What does not wait for the state: the pre-activations' share in inputs and parameters ...
    at_once = functools.partial(loop.preactivations_at_once, hs=befores.h)
    _, da = jax.jvp(at_once, (params, xs), (dparams, dxs))
    # ... and that of the outputs in parameters which `pointwise` sees itself.
    own = None
    if jax.tree.leaves(others):

        def push_own(before: State, kept: Any, da: Gates) -> tuple[State, jax.Array]:
            return packing.unpack(kept, (others, before))(dothers, _zeros(da), _zeros(before))

        own = jax.vmap(push_own)(befores, kept, da)

    push_state = _push_state(cell, params)

    def push_advance(dbefore: State, at: tuple) -> tuple[State, jax.Array, None]:
        da, before, kept, own = at
        du = cell.split(push_state(dbefore.h))
        waiting = cell.preactivations(_zeros(du), du)
        da = jnp.split(da[0], len(waiting), axis=-1) if loop.together else da
        da = tuple(a + b for a, b in zip(da, waiting, strict=True))
        pushed = packing.unpack(kept, (others, before))(_zeros(others), da, dbefore)
        return *(pushed if own is None else jax.tree.map(jnp.add, pushed, own)), None

    # Else what does not depend on a tangent, zeros times what is kept, would get a loop of its own.
    if own is not None:
        push_advance = jax.checkpoint(push_advance, prevent_cse=False)
    if loop.together:  # One array, so that the transpose puts out one, the very one that the recurrent product takes.
        da = (jnp.concatenate(da, axis=-1),)
    dfinal, (dys, _) = loop(push_advance, dinitial, dstate, (da, befores, kept, own), flags)
    return (final, ys), (dfinal, dys)


def _push_state(cell: AffineCell, params: Params) -> Callable[[jax.Array], jax.Array]:
    """The linear part of `project_state`."""
    if type(cell).project_state is not AffineCell.project_state:
        return lambda dh: jax.jvp(lambda h: cell.project_state(params, h), (_zeros(dh),), (dh,))[1]
    # Transposed once, before the loop: backpropagation multiplies by it at every step.
    kernel = lax.optimization_barrier(params.recurrent_kernel.T)

    def push(dh: jax.Array) -> jax.Array:
        contract = (((dh.ndim - 1,), (1,)), ((), ()))
        return lax.dot_general(dh.astype(kernel.dtype), kernel, contract, preferred_element_type=dh.dtype)

    return push


def _zeros(tree: Any) -> Any:
    return jax.tree.map(jnp.zeros_like, tree)


def refuses(cell: Cell, *_: Any, **__: Any) -> str | None:
    """Why a cell has no such derivative, or None."""
    if isinstance(cell, AffineCell) and cell.is_affine:
        if closes_over_tracer(cell):
            return "a function in it reads a traced value from outside, which its derivative rule cannot see."
        return None
    return "it meets its state through more than `u = h @ recurrent_kernel + recurrent_bias`."


HOISTED = FunctionImplementation(run, refuses)
