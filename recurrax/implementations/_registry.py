"""What an implementation is, and which ones there are by name. This file imports no implementation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol


class Implementation(Protocol):
    """One way to run a layer over a sequence: a hashable object, which `scan` takes as `implementation`.

    Attributes:
        run: `run(layer, params, state, xs, *, initial, lengths, mask, restart, reverse, unroll) -> (state, ys)`.
            `xs` is `[T, *B, I]`, `initial` the state at a restart, `lengths` `int[*B]`, `mask` and `restart`
            `bool[T, *B]`. Each of the last three may be None. `mask` says what `lengths` says. `restart` marks the
            steps before which the state returns to `initial`, in the direction of the loop. State and outputs have
            the dtypes of `state` and `xs`.
        refuses: `refuses(layer, params, state, xs, *, lengths, mask, reset, reverse)`: the reason why it cannot serve
            these arguments, or None if it can.
        takes_composites: whether it also runs layers that are made of others.
    """

    @property
    def run(self) -> Callable: ...
    @property
    def refuses(self) -> Callable[..., str | None]: ...
    @property
    def takes_composites(self) -> bool: ...


class FunctionImplementation(NamedTuple):
    """An implementation made of two functions; its attributes are those of `Implementation`."""

    run: Callable
    refuses: Callable[..., str | None]
    takes_composites: bool = False


_ATTRIBUTES = ("run", "refuses", "takes_composites")
_implementations: dict[str, Implementation] = {}


def register(name: str, implementation: Implementation) -> None:
    """Makes an implementation known to `scan` by a name.

    Raises:
        ValueError: if the name is taken.
    """
    if name in _implementations:
        raise ValueError(f"`name` must be a name that is not taken; got {name!r}.")
    _implementations[name] = implementation


def names() -> tuple[str, ...]:
    """The names of all implementations."""
    return tuple(_implementations)


def find(implementation: str | Implementation | tuple) -> Implementation:
    """The implementation of this name, or the object itself if it is one.

    Raises:
        ValueError: if there is no such implementation.
        TypeError: if it is a class of implementations.
    """
    if isinstance(implementation, str) and implementation in _implementations:
        return _implementations[implementation]
    if not all(hasattr(implementation, name) for name in _ATTRIBUTES):
        known = ", ".join(f'"{name}"' for name in _implementations)
        raise ValueError(f"`implementation` must be None or one of {known}; got {implementation!r}.")
    if isinstance(implementation, type):
        name = implementation.__name__
        raise TypeError(f"`implementation` must be an object; got the class {name}. Write {name}().")
    return implementation  # type: ignore[return-value]


def takes_composites(implementation: str | Implementation | tuple | None) -> bool:
    """Whether this implementation runs layers that are made of others."""
    if implementation is None or isinstance(implementation, tuple):
        return False
    return find(implementation).takes_composites


def refusal(implementation: str | Implementation, layer: Any, reason: str) -> ValueError:
    """The error that says why an implementation that was asked for cannot serve a layer."""
    name = f'"{implementation}"' if isinstance(implementation, str) else repr(implementation)
    return ValueError(f"`implementation` {name} cannot serve {layer}: {reason}")
