"""The protocol of implementations, and their names. This file imports no implementation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol


class Implementation(Protocol):
    """One way to run a layer over a sequence: a hashable object for `scan(implementation=...)`.

    Attributes:
        run: takes `(layer, params, state, xs, steps, *, initial, unroll)` and returns `(state,
            ys)`. `xs` is `[T, *B, I]`. `steps` is a `Steps`: the masked steps, the restarts and
            the direction. `initial` is the state at a restart. The state and the outputs have the
            dtypes of `state` and `xs`.
        refuses: takes `(layer, params, state, xs, steps)`. It returns the reason why the
            implementation cannot serve these arguments, or None if it can.
        takes_composites: whether the implementation also runs layers that are made of layers.

    An implementation that serves `recurrax.trace` also has `run_states`. It takes the arguments of
    `run` and returns `(state, (ys, states, a))`. `states` is the state after every step, `[T, *B,
    ...]`. `a` has what `pointwise` of an affine cell gets at every step, `[T, *B, G*H]`. It may
    also be the gates, as `gate_values` returns them; None if the implementation has neither.

    Example:
        A loop that has one direction. It needs no base class.

        >>> import dataclasses, jax, jax.numpy as jnp, recurrax
        >>> @dataclasses.dataclass(frozen=True)
        ... class ForwardLoop:
        ...     takes_composites = False
        ...     def refuses(self, layer, params, state, xs, steps):
        ...         return "it has one direction." if steps.reverse else None
        ...     def run(self, layer, params, state, xs, steps, *, initial, unroll):
        ...         def one_step(state, inputs):
        ...             z, flags = inputs
        ...             state = flags.restarted(state, initial)
        ...             new, y = layer.step(params, state, z)
        ...             return flags.keep_masked(new, state), flags.zero_masked(y)
        ...         zs = layer.project_inputs(params, xs)
        ...         return jax.lax.scan(one_step, state, (zs, steps), unroll=unroll)
        >>> cell, xs = recurrax.GRUCell(4), jnp.ones((2, 7, 3))
        >>> params = cell.init(jax.random.key(0), input_size=3)
        >>> lengths = jnp.array([7, 2])
        >>> _, ys = recurrax.scan(cell, params, xs, lengths=lengths, implementation=ForwardLoop())
        >>> bool(jnp.allclose(ys, recurrax.scan(cell, params, xs, lengths=lengths)[1], atol=1e-6))
        True
    """

    @property
    def run(self) -> Callable: ...
    @property
    def refuses(self) -> Callable[..., str | None]: ...
    @property
    def takes_composites(self) -> bool: ...


class FunctionImplementation(NamedTuple):
    """An implementation made of functions, with the attributes of `Implementation`.

    `why_missing` says why it cannot run on this machine at all, or None: see `available`.
    """

    run: Callable
    refuses: Callable[..., str | None]
    takes_composites: bool = False
    why_missing: Callable[[], str | None] | None = None
    run_states: Callable | None = None


_ATTRIBUTES = ("run", "refuses", "takes_composites")
_implementations: dict[str, Implementation] = {}


def register(name: str, implementation: Implementation) -> None:
    """Makes an implementation known to `scan` by a name.

    Args:
        name: the name for `scan(implementation=name)`.
        implementation: an object with the attributes of `Implementation`.

    Raises:
        ValueError: if the name is taken.

    Example:
        >>> import jax, jax.numpy as jnp, recurrax
        >>> from recurrax.implementations import Chunked, register
        >>> register("chunks of 8", Chunked(8))
        >>> cell = recurrax.MLSTMCell(4)
        >>> params = cell.init(jax.random.key(0), input_size=3)
        >>> xs = jnp.ones((2, 10, 3))
        >>> _, ys = recurrax.scan(cell, params, xs, implementation="chunks of 8")
        >>> ys.shape
        (2, 10, 4)
    """
    if name in _implementations:
        raise ValueError(f"`name` must be a name that is not taken; got {name!r}.")
    _implementations[name] = implementation


def names() -> tuple[str, ...]:
    """The names of all implementations."""
    return tuple(_implementations)


def available() -> dict[str, str]:
    """Which implementations can run on this machine, and why the others cannot.

    An implementation that can run may still refuse some layers: it says so when it is named.

    Returns:
        For each name "available", or the reason why it cannot run here.

    Example:
        >>> import recurrax
        >>> recurrax.implementations.available()["xla"]
        'available'
    """
    answers = {}
    for name, implementation in _implementations.items():
        why_missing = getattr(implementation, "why_missing", None)
        reason = why_missing() if why_missing else None
        answers[name] = reason or "available"
    return answers


def find(implementation: str | Implementation | tuple) -> Implementation:
    """The implementation of this name. An object that is an implementation is returned.

    Raises:
        ValueError: if there is no such implementation.
        TypeError: if a class came where an object belongs.
    """
    if isinstance(implementation, str) and implementation in _implementations:
        return _implementations[implementation]
    if not all(hasattr(implementation, name) for name in _ATTRIBUTES):
        known = ", ".join(f'"{name}"' for name in _implementations)
        raise ValueError(
            f"`implementation` must be None or one of {known}; got {implementation!r}."
        )
    # A class has the attributes too, but not its instances' options.
    if isinstance(implementation, type):
        name = implementation.__name__
        raise TypeError(
            f"`implementation` must be an object; got the class {name}. Write {name}()."
        )
    return implementation  # type: ignore[return-value]


def takes_composites(implementation: str | Implementation | tuple | None) -> bool:
    """Whether this implementation runs layers that are made of layers."""
    # None and a tuple are chosen for each part of such a layer.
    if implementation is None or isinstance(implementation, tuple):
        return False
    return find(implementation).takes_composites


def keeps_states(implementation: Implementation) -> bool:
    """Whether the implementation can return the state after every step."""
    return getattr(implementation, "run_states", None) is not None


def refusal(implementation: str | Implementation | tuple, layer: Any, reason: str) -> ValueError:
    """The error that says why the requested implementation cannot serve a layer."""
    name = repr(implementation)
    if isinstance(implementation, str):
        name = f'"{implementation}"'
    return ValueError(f"`implementation` {name} cannot serve {layer}: {reason}")
