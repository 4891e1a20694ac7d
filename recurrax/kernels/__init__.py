"""The implementations of a recurrence, one a file; each is registered here for the layers that it serves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from recurrax._layer import Layer, Params, State, features
from recurrax._platform import accumulates_inside, linear_solver, several


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


class Implementation(Protocol):
    """What `scan` takes as `implementation` beside a name: a hashable object that has what a `Kernel` has."""

    @property
    def run(self) -> Callable: ...  # noqa: D102
    @property
    def refuses(self) -> Callable[..., str | None]: ...  # noqa: D102
    @property
    def whole(self) -> bool: ...  # noqa: D102


_kernels: dict[str, Implementation] = {}


def register(name: str, kernel: Implementation) -> None:
    """Makes a kernel known to `scan` as `implementation=name`, beside those of this name that serve other layers."""
    _kernels[name] = _either(_kernels[name], kernel) if name in _kernels else kernel


def _either(first: Implementation, second: Implementation) -> Implementation:
    """The first of two kernels, or the second for what the first refuses."""

    def refuses(*args: Any, **facts: Any) -> str | None:
        reason = first.refuses(*args, **facts)
        return reason if reason and second.refuses(*args, **facts) else None

    def run(*args: Any, **walk: Any) -> tuple[State, Any]:
        facts = {name: walk[name] for name in ("lengths", "mask", "reset", "reverse")}
        return (second if first.refuses(*args, **facts) else first).run(*args, **walk)

    return Kernel(run, refuses)


def find(implementation: str | Implementation | tuple) -> Implementation:
    """The kernel of this name, or the object itself if it is one.

    Raises:
        ValueError: if there is no such kernel.
        TypeError: if it is a class of kernels.
    """
    if isinstance(implementation, str) and implementation in _kernels:
        return _kernels[implementation]
    if not all(hasattr(implementation, name) for name in Kernel._fields):
        names = ", ".join(f'"{name}"' for name in _kernels)
        raise ValueError(f"`implementation` must be None or one of {names}; got {implementation!r}.")
    if isinstance(implementation, type):
        name = implementation.__name__
        raise TypeError(f"`implementation` must be an object; got the class {name}. Write {name}().")
    return implementation  # type: ignore[return-value]


def takes_whole(implementation: str | Implementation | tuple | None) -> bool:
    """Whether this implementation takes layers that are made of others."""
    return not (implementation is None or type(implementation) is tuple) and find(implementation).whole


def choose(
    implementation: str | Implementation | tuple | None,
    layer: Layer,
    params: Params,
    state: State,
    xs: Any,
    **facts: Any,
) -> Implementation:
    """The kernel that was asked for, or the best one for these arguments if none was.

    Raises:
        ValueError: if there is no such kernel or it cannot serve the layer.
    """
    args = (layer, params, state, xs)
    if type(implementation) is tuple:
        for one in implementation:
            if one is None or not find(one).refuses(*args, **facts):
                return choose(one, *args, **facts)
        raise ValueError(
            f"`implementation` {implementation} must hold one that can serve {layer}. End it with None, the best one."
        )
    if implementation is None:  # Among those that have every derivative.
        steps = features(xs).shape[0]
        if several(steps) and not linear.refuses(layer):
            return _kernels[linear_solver()]
        # On a CPU a training step takes 0.33 of the loop's time for (B, T, H, N) = (8, 256, 128, 4), 0.08 for
        # (32, 64, 128, 2).
        if isinstance(steps, int) and steps > 1 and not matrix_memory.DEFAULT.refuses(layer):
            return matrix_memory.DEFAULT
        # A kernel's gradient is one convolution after the loop: step by step it took 2 to 10 times as long on a CPU.
        inside = layer.feature_ndim == 1 and accumulates_inside(features(xs))
        plain = _kernels["hoisted"].refuses(*args, **facts) or inside
        return _kernels["xla" if plain else "hoisted"]
    kernel = find(implementation)
    if reason := kernel.refuses(*args, **facts):
        name = f'"{implementation}"' if isinstance(implementation, str) else repr(implementation)
        raise ValueError(f"`implementation` {name} cannot serve {layer}: {reason}")
    return kernel


from recurrax.kernels import cudnn as cudnn  # noqa: E402  (they register themselves, so they come last)
from recurrax.kernels import hoisted as hoisted  # noqa: E402
from recurrax.kernels import linear as linear  # noqa: E402
from recurrax.kernels import matrix_memory as matrix_memory  # noqa: E402
from recurrax.kernels import newton as newton  # noqa: E402
from recurrax.kernels import xla as xla  # noqa: E402
