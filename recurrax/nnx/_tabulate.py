"""States that `nnx.tabulate` can print: it fails on a NamedTuple within a tuple."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jax
from flax import nnx


@jax.tree_util.register_pytree_with_keys_class
class Fields(dict):
    """A dictionary in place of a NamedTuple. It has the same fields and unpacks in the same way."""

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
    """The tree itself. While `nnx.tabulate` runs the module, a tree that it can print."""
    if hasattr(module, "_nnx_tabulate_id"):
        return _without_fields(tree)
    return tree


def _without_fields(tree: Any) -> Any:
    if not isinstance(tree, tuple):
        return tree
    parts = [_without_fields(part) for part in tree]
    if hasattr(tree, "_fields"):
        return Fields.of(type(tree), parts)
    return tuple(parts)


def taken(tree: Any) -> Any:
    """A state with its NamedTuples: the inverse of `shown`."""
    if isinstance(tree, Fields):
        return tree.kind(*map(taken, tree.values()))
    if isinstance(tree, tuple) and not hasattr(tree, "_fields"):
        return tuple(map(taken, tree))
    return tree
