"""The loop for affine cells. Their derivative takes every product with a weight out of the loop.

Let a_t be the pre-activations and s_t the state. The tangent of a step is

    ds_t = L_t(da_t + [ds_{t-1}.h] @ recurrent_kernel, ds_{t-1}),

where L_t is the linear part of `pointwise`. The summand da does not wait for the state, so it is
formed for every step at once:

    da = dxs @ kernel + xs @ dkernel + dbias + hs @ drecurrent_kernel + drecurrent_bias.

JAX transposes this rule into backpropagation through time. There, each step outputs only the
gradient of its pre-activations. Each weight's gradient is one matrix product after the loop.
Reverse mode, forward mode and every higher order follow from this one rule.
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
from recurrax._layer import Layer, Params, State
from recurrax._mask import Steps
from recurrax.cells._activation import closes_over_tracer
from recurrax.cells.affine import AffineCell, Gates
from recurrax.implementations._loop import loop_body
from recurrax.implementations._packing import Packing
from recurrax.implementations._platform import forward_unroll, projects_in_loop
from recurrax.implementations._registry import FunctionImplementation


def run(
    cell: AffineCell,
    params: Params,
    state: State,
    xs: jax.Array,
    steps: Steps,
    *,
    initial: State,
    unroll: int,
    keeps_states: bool = False,
) -> tuple[State, Any]:
    """Takes one step after another, under the derivative rule above.

    `keeps_states` adds the state after each step, and the pre-activations.
    """
    compute = compute_dtype(cell, params, xs)
    loop = _Loop(cell, compute, xs.dtype, unroll, projects_in_loop(xs), keeps_states)
    params = cast_params(cell, params, compute)
    xs = xs.astype(compute)  # [T, *B, I]
    state, *outs = _run_loop(loop, params, state, initial, xs, steps)
    if keeps_states:
        return state, tuple(outs)
    return state, outs[0]


@dataclasses.dataclass(frozen=True)
class _Loop:
    """The static facts of a loop."""

    cell: AffineCell
    compute: jnp.dtype
    output: jnp.dtype
    unroll: int
    projects: bool  # whether each step projects its own input
    keeps_states: bool  # whether states and pre-activations of all steps are results

    def __call__(
        self, advance: Callable, initial: State, state: State, zs: Any, steps: Steps
    ) -> tuple[State, Any]:
        body = loop_body(advance, initial, self.compute, self.output, self.keeps_states)
        return lax.scan(body, state, (zs, steps), reverse=steps.reverse, unroll=self.unroll)

    def inputs(self, params: Params, xs: jax.Array) -> Any:
        """The sequence that the loop reads: xs `[T, *B, I]`, or G projections `[T, *B, H]`."""
        return xs if self.projects else self.project(params, xs)

    def project(self, params: Params, xs: jax.Array) -> Gates:
        return self.cell.split(self.cell.project_inputs(params, xs))  # G arrays [..., H]

    def preactivations(self, params: Params, z: Any, h: jax.Array) -> Gates:
        """The pre-activations of one step, G arrays `[*B, H]`."""
        if self.projects:
            z = self.project(params, z)  # [*B, I] -> G arrays [*B, H]
        u = self.cell.split(self.cell.project_state(params, h))  # G arrays [*B, H]
        z = tuple(gate.astype(h.dtype) for gate in z)  # G arrays [*B, H]
        return self.cell.preactivations(z, u)

    def kept(self, a: Gates) -> jax.Array | None:
        """The pre-activations of a step as one array `[*B, G*H]`, if they are a result."""
        # The loop writes one array faster than one for each gate.
        if self.keeps_states:
            return jnp.concatenate(a, axis=-1)
        return None

    @property
    def joins_gates(self) -> bool:
        """Whether one product serves all gates of a gradient.

        Gates stay separate where plain maps meet a cell that keeps z and u of a gate apart.
        """
        plain_maps = self.cell.plain_inputs and self.cell.plain_state
        return self.cell.adds_gates or not plain_maps

    def preactivations_at_once(self, params: Params, xs: jax.Array, hs: jax.Array) -> Gates:
        """The pre-activations of all steps, `[T, *B, H]` each, from known states before them."""
        cell = self.cell
        if self.joins_gates:
            zs = cell.project_inputs(params, xs).astype(hs.dtype)  # [T, *B, G*H]
            us = cell.project_state(params, hs)  # [T, *B, G*H]
            return cell.preactivations(cell.split(zs), cell.split(us))
        # One product for each gate: [T, *B, H] each.
        parts = cell.gate_params(params)
        z = tuple(cell.project_inputs(part, xs).astype(hs.dtype) for part in parts)
        u = tuple(cell.project_state(part, hs) for part in parts)
        return cell.preactivations(z, u)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _run_loop(
    loop: _Loop, params: Params, state: State, initial: State, xs: jax.Array, steps: Steps
) -> tuple[State, jax.Array, State | None, jax.Array | None]:
    others = loop.cell.other_params(params)

    def advance(before: State, z: Any) -> tuple[State, jax.Array, Any]:
        a = loop.preactivations(params, z, before.h)  # G arrays [*B, H]
        return *loop.cell.pointwise(others, a, before), loop.kept(a)

    unroll = max(loop.unroll, forward_unroll(xs, loop.cell.gates))
    loop = dataclasses.replace(loop, unroll=unroll)
    inputs = loop.inputs(params, xs)
    state, (ys, states, a) = loop(advance, initial, state, inputs, steps)
    # Leaves [*B, H]; ys [T, *B, O]; leaves [T, *B, H] or None; a [T, *B, G*H] or None.
    return state, ys, states, a


@_run_loop.defjvp
def _run_loop_jvp(loop: _Loop, primals: tuple, tangents: tuple) -> tuple[tuple, tuple]:
    params, state, initial, xs, steps = primals
    dparams, dstate, dinitial, dxs, _ = tangents
    cell, packing = loop.cell, Packing()
    # The parameters that `pointwise` itself reads: biases and kernels are not among them.
    others, dothers = cell.other_params(params), cell.other_params(dparams)

    def advance(before: State, z: Any) -> tuple[State, jax.Array, Any]:
        a = loop.preactivations(params, z, before.h)  # G arrays [*B, H]
        (after, y), tangent_map = jax.linearize(cell.pointwise, others, a, before)
        stored = packing.pack(tangent_map, (others, before))
        return after, y, (before, stored, loop.kept(a))

    # `befores` and `stored` have the leading axis [T].
    inputs = loop.inputs(params, xs)
    final, (ys, states, extra) = loop(advance, initial, state, inputs, steps)
    befores, stored, a = extra

    # The share of inputs and parameters in the pre-activations: it does not wait for the state.
    at_once = functools.partial(loop.preactivations_at_once, hs=befores.h)
    _, da = jax.jvp(at_once, (params, xs), (dparams, dxs))  # arrays [T, *B, H]
    # The share of the parameters that `pointwise` reads: it does not wait either.
    share = None
    if jax.tree.leaves(others):

        def parameter_share(before: State, stored: Any, da: Gates) -> tuple[State, jax.Array]:
            tangent_map = packing.unpack(stored, (others, before))
            return tangent_map(dothers, _zeros(da), _zeros(before))

        share = jax.vmap(parameter_share)(befores, stored, da)  # leaves [T, *B, H]

    state_map = _linear_state_map(cell, params)

    def tangent_step(dbefore: State, at: tuple) -> tuple[State, jax.Array, Any]:
        da, before, stored, share = at
        # The only product in this loop: the share of the state in the pre-activations.
        du = cell.split(state_map(dbefore.h))  # G arrays [*B, H]
        from_state = cell.preactivations(_zeros(du), du)
        if loop.joins_gates:
            da = jnp.split(da[0], len(from_state), axis=-1)  # [*B, G*H] -> G arrays [*B, H]
        da = tuple(ready + waiting for ready, waiting in zip(da, from_state, strict=True))
        tangent_map = packing.unpack(stored, (others, before))
        moved = tangent_map(_zeros(others), da, dbefore)  # leaves [*B, H]
        if share is not None:
            moved = jax.tree.map(jnp.add, moved, share)
        return *moved, loop.kept(da)

    # Without a checkpoint, the terms that read no tangent (zeros times stored arrays) would get a
    # second loop.
    if share is not None:
        tangent_step = jax.checkpoint(tangent_step, prevent_cse=False)
    # One array goes in, so that the transpose gives out one array. The recurrent product takes it.
    if loop.joins_gates:
        da = (jnp.concatenate(da, axis=-1),)  # [T, *B, G*H]
    sequences = (da, befores, stored, share)
    dfinal, (dys, dstates, da) = loop(tangent_step, dinitial, dstate, sequences, steps)
    return (final, ys, states, a), (dfinal, dys, dstates, da)


def _linear_state_map(cell: AffineCell, params: Params) -> Callable[[jax.Array], jax.Array]:
    """The linear part of `project_state`, from dh `[*B, O]` to du `[*B, G*H]`."""
    if not cell.plain_state:

        def any_map(dh: jax.Array) -> jax.Array:
            project = functools.partial(cell.project_state, params)
            return jax.jvp(project, (_zeros(dh),), (dh,))[1]  # [*B, G*H]

        return any_map
    # One transpose before the loop: backpropagation multiplies by it at every step.
    kernel = lax.optimization_barrier(params.recurrent_kernel.T)  # [G*H, O]

    def matrix_map(dh: jax.Array) -> jax.Array:
        contract = (((dh.ndim - 1,), (1,)), ((), ()))
        dh, dtype = dh.astype(kernel.dtype), dh.dtype  # [*B, O]
        return lax.dot_general(dh, kernel, contract, preferred_element_type=dtype)  # [*B, G*H]

    return matrix_map


def _zeros(tree: Any) -> Any:
    return jax.tree.map(jnp.zeros_like, tree)


def refuses(cell: Layer, *_: Any) -> str | None:
    """Why a cell has no such derivative, or None."""
    if not isinstance(cell, AffineCell) or not cell.is_affine:
        return "it meets its state through more than `u = h @ recurrent_kernel + recurrent_bias`."
    # Tracers in a closure are no arguments of `_run_loop`, so the rule would lose their tangents.
    if closes_over_tracer(cell):
        return (
            "a function in it reads a traced value from outside,"
            " which its derivative rule cannot see."
        )
    return None


HOISTED = FunctionImplementation(run, refuses, run_states=functools.partial(run, keeps_states=True))
