"""The implementations of a recurrence, one a file; each is registered here for the layers that it serves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from recurrax._layer import Layer, Params, State, features
from recurrax._platform import accumulates_inside


class Kernel(NamedTuple):
    """One way to take a layer along a sequence.

    Attributes:
        run: `run(layer, params, state, xs, *, initial, lengths, mask, reset, reverse, unroll) -> (state, ys)`, with
            `xs` `[T, *B, I]`, `initial` the state at a reset, `lengths` `int[*B]`, `mask` and `reset` `bool[T, *B]`,
            each of these three or None, and state and ys in the dtypes of `state` and `xs`. `mask` says what `lengths`
            says, and `reset` is that of the walk.
        refuses: `refuses(layer, params, state, xs, *, lengths, mask, reset, reverse)`: why it cannot serve these
            arguments, or None if it can.
        whole: whether it also takes layers that are made of others.
    """

    run: Callable
    refuses: Callable[..., str | None]
    whole: bool = False


_kernels: dict[str, Kernel] = {}


def register(name: str, kernel: Kernel) -> None:
    """Makes a kernel known to `scan` as `implementation=name`, beside those of this name that serve other layers."""
    _kernels[name] = _either(_kernels[name], kernel) if name in _kernels else kernel


def _either(first: Kernel, second: Kernel) -> Kernel:
    """The first of two kernels, or the second for what the first refuses."""

    def refuses(*args: Any, **facts: Any) -> str | None:
        reason = first.refuses(*args, **facts)
        return reason if reason and second.refuses(*args, **facts) else None

    def run(*args: Any, **walk: Any) -> tuple[State, Any]:
        facts = {name: walk[name] for name in ("lengths", "mask", "reset", "reverse")}
        return (second if first.refuses(*args, **facts) else first).run(*args, **walk)

    return Kernel(run, refuses)


def takes_whole(implementation: str | None) -> bool:
    """Whether the implementation of this name takes layers that are made of others."""
    return implementation in _kernels and _kernels[implementation].whole


def choose(implementation: str | None, layer: Layer, params: Params, state: State, xs: Any, **facts: Any) -> Kernel:
    """The kernel that was asked for, or the best one for these arguments if none was.

    Raises:
        ValueError: if there is no such kernel or it cannot serve the layer.
    """
    args = (layer, params, state, xs)
    if implementation is None:  # Among those that have every derivative.
        # Where it serves, a training step takes 0.1 to 0.3 of the loop's time on a CPU.
        if features(xs).shape[0] > 1 and not matrix_memory.DEFAULT.refuses(layer):
            return matrix_memory.DEFAULT
        # A kernel's gradient is one convolution after the loop: step by step it took 2 to 10 times as long on a CPU.
        inside = layer.feature_ndim == 1 and accumulates_inside(features(xs))
        plain = _kernels["hoisted"].refuses(*args, **facts) or inside
        return _kernels["xla" if plain else "hoisted"]
    if implementation not in _kernels:
        names = ", ".join(f'"{name}"' for name in _kernels)
        raise ValueError(f"`implementation` must be None or one of {names}; got {implementation!r}.")
    kernel = _kernels[implementation]
    if reason := kernel.refuses(*args, **facts):
        raise ValueError(f'`implementation` "{implementation}" cannot serve {layer}: {reason}')
    return kernel


from recurrax.kernels import cudnn as cudnn  # noqa: E402  (they register themselves, so they come last)
from recurrax.kernels import hoisted as hoisted  # noqa: E402
from recurrax.kernels import linear as linear  # noqa: E402
from recurrax.kernels import matrix_memory as matrix_memory  # noqa: E402
from recurrax.kernels import xla as xla  # noqa: E402
