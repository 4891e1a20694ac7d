"""How the driver walks: which kernel takes a layer along, and in which parts."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from recurrax import kernels
from recurrax._dtype import default_state_dtype
from recurrax._layer import Cell, Layer, Params, State, batch_shape_of, features
from recurrax._mask import fill_masked, restarts, restarts_last, where
from recurrax._timed import in_reverse, without_time


@dataclasses.dataclass(frozen=True)
class ScanWalk:
    """What a walk along the sequence needs to know beside the layer; `mask` and `reset` are `bool[T, *B]`."""

    lengths: jax.Array | None
    mask: jax.Array | None  # that of `lengths`, where they are given
    reset: jax.Array | None
    reverse: bool
    unroll: int
    remat: int | None
    implementation: str | kernels.Implementation | tuple | None
    key: jax.Array | None
    initial: State | None = None  # within a layer that says it for its cell

    def __call__(
        self, layer: Layer, params: Params, state: State, xs: Any, initial: State | None = None
    ) -> tuple[State, jax.Array]:
        context = self if initial is None else dataclasses.replace(self, initial=initial)
        xs = xs if layer.reads_time else without_time(xs)
        if self.mask is None:
            return context._run(layer, params, state, xs)
        if layer.parts and not kernels.takes_whole(self.implementation):
            state, ys = context._run(layer, params, state, fill_masked(self.mask, xs))
        else:
            state, ys = context._run_masked(layer, params, state, fill_masked(self.mask, xs), self.mask)
        return state, where(self.mask, ys, jnp.zeros_like(ys))

    def _run_masked(
        self, layer: Layer, params: Params, state: State, xs: Any, mask: jax.Array
    ) -> tuple[State, jax.Array]:
        """Runs a layer where some steps are masked: a state that no real step sees has no influence."""
        initial = self._initial(layer, params, state, xs)
        unseen = ~mask.any(axis=0)  # [*B], rows without a real step
        finite = [jnp.isfinite(s).all(axis=tuple(range(unseen.ndim, s.ndim))) for s in jax.tree.leaves(state)]
        broken = unseen & ~functools.reduce(jnp.logical_and, finite, jnp.ones_like(unseen))
        # NaN in such a state would reach the gradients of the parameters as 0 times NaN.
        after, ys = self._run(layer, params, where(broken, initial, state), xs)
        if self.reset is not None:
            state = where(self.reset.any(axis=0), initial, state)
        return where(unseen, state, after), ys

    def _initial(self, layer: Layer, params: Params, state: State, xs: Any) -> State:
        """The state at a reset, in the dtypes and the place of `state`."""
        initial = self.initial
        if initial is None:
            initial = layer.first_state(params, batch_shape_of(layer, xs), default_state_dtype(params, xs))
        # Under an Explicit mesh the choice between both needs them to lie in the same place.
        return jax.tree.map(lambda i, s: i.astype(s.dtype) + jnp.zeros_like(s), initial, state)

    def _run(self, layer: Layer, params: Params, state: State, xs: Any) -> tuple[State, jax.Array]:
        """Runs a layer: one that is made of others by its `apply`, a cell by an implementation."""
        if not isinstance(layer, Cell) and not kernels.takes_whole(self.implementation):
            return layer.apply(self, params, state, xs)
        facts = {"lengths": self.lengths, "mask": self.mask, "reset": self.reset, "reverse": self.reverse}
        kernel = kernels.choose(self.implementation, layer, params, state, xs, **facts)
        initial = self._initial(layer, params, state, xs)
        restart = None if self.reset is None else restarts(self.reset, self.reverse)
        xs = in_reverse(xs, self.mask, self.reset) if self.reverse else xs

        def run(state: State, at: tuple) -> tuple[State, jax.Array]:
            xs, mask, restart = at
            walk = {**facts, "mask": mask, "reset": restart, "initial": initial, "unroll": self.unroll}
            return kernel.run(layer, params, state, xs, **walk)

        if self.remat is not None and kernel.whole:
            raise ValueError(f"`remat` must be None with `implementation` {self.implementation!r}; got {self.remat}.")
        if self.remat is None:
            state, ys = run(state, (xs, self.mask, restart))
        else:
            state, ys = _in_parts(run, self.remat, state, (xs, self.mask, restart), self.reverse)
        last = restarts_last(self.reset, self.reverse)
        return state if last is None else where(last, initial, state), ys

    def reversed(self) -> ScanWalk:
        return dataclasses.replace(self, reverse=not self.reverse)

    def split(self, number: int) -> list[ScanWalk]:
        if self.key is None:
            return [self] * number
        return [dataclasses.replace(self, key=key) for key in jax.random.split(self.key, number)]


def _in_parts(run: Callable, length: int, state: State, at: tuple, reverse: bool) -> tuple[State, jax.Array]:
    """Runs over parts of `length` steps, of which only the first state is kept for the derivative."""
    run = jax.checkpoint(run, prevent_cse=False)
    steps = features(at).shape[0]
    number, rest = divmod(steps, length)

    def parts(state: State) -> tuple[State, jax.Array]:
        folded = jax.tree.map(lambda a: a[: steps - rest].reshape(number, length, *a.shape[1:]), at)
        state, ys = lax.scan(run, state, folded, reverse=reverse)
        return state, ys.reshape(number * length, *ys.shape[2:])

    def remainder(state: State) -> tuple[State, jax.Array]:
        return run(state, jax.tree.map(lambda a: a[steps - rest :], at))

    if not rest:
        return parts(state)
    if not number:
        return remainder(state)
    outputs: list[Any] = []
    for part in (remainder, parts) if reverse else (parts, remainder):
        state, ys = part(state)
        outputs.append(ys)
    return state, jnp.concatenate(outputs[::-1] if reverse else outputs)
