"""States in a form that `nnx.tabulate` can print: it fails on a NamedTuple inside of a tuple."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jax
from flax import nnx


@jax.tree_util.register_pytree_with_keys_class
class Fields(dict):
    """A dictionary in the place of a NamedTuple: it is read, and unpacked, as that one is."""

    kind: type

    @classmethod
    def of(cls, kind: type, values: Any) -> Fields:
        fields = cls(zip(kind._fields, values, strict=True))  # type: ignore[attr-defined]
        fields.kind = kind
        return fields

    def __getattr__(self, name: str) -> Any:
        if name in self:
            return self[name]
        raise AttributeError(f"{self.kind.__name__} has no field {name!r}.")

    def __iter__(self) -> Iterator[Any]:
        return iter(self.values())

    def tree_flatten_with_keys(self) -> tuple[list, type]:
        return [(jax.tree_util.DictKey(name), value) for name, value in self.items()], self.kind

    @classmethod
    def tree_unflatten(cls, kind: type, values: Any) -> Fields:
        return cls.of(kind, values)


def shown(module: nnx.Module, tree: Any) -> Any:
    """The tree itself, but while `nnx.tabulate` runs the module one that it can print."""
    return _without_fields(tree) if hasattr(module, "_nnx_tabulate_id") else tree


def _without_fields(tree: Any) -> Any:
    if not isinstance(tree, tuple):
        return tree
    parts = [_without_fields(part) for part in tree]
    return Fields.of(type(tree), parts) if hasattr(tree, "_fields") else tuple(parts)


def taken(tree: Any) -> Any:
    """A state that a module may have shown, in its own form."""
    if isinstance(tree, Fields):
        return tree.kind(*map(taken, tree.values()))
    if isinstance(tree, tuple) and not hasattr(tree, "_fields"):
        return tuple(map(taken, tree))
    return tree
