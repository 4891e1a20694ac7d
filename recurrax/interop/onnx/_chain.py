"""A chain of recurrent nodes: which node reads which, and the nodes between them."""

from __future__ import annotations

import itertools
from typing import Any

from recurrax.interop.onnx._graph import Graph, named
from recurrax.interop.onnx._read import Node

RECURRENT = ("RNN", "LSTM", "GRU")
_MERGES = {"ReduceSum": "sum", "ReduceProd": "mul", "ReduceMean": "ave"}
_BETWEEN = {"Identity", "Dropout", "Transpose", "Squeeze", "Reshape", *_MERGES}


def find(graph: Graph, node: str | None) -> list[Node]:
    """The node of that name, or all recurrent nodes in the order of their chain.

    Raises:
        ValueError: if there is none, or they are no chain.
    """
    recurrent = [proto for proto in graph.nodes if proto.op_type in RECURRENT]
    choice = ", ".join(map(named, recurrent)) or "none"
    if node is not None:
        chosen = [proto for proto in recurrent if proto.name == node]
        if len(chosen) != 1:
            raise ValueError(
                f"`node` must name one recurrent node; {node!r} names {len(chosen)}. "
                f"There are: {choice}."
            )
        return [Node(graph, chosen[0])]
    if not recurrent:
        raise ValueError("`model` must have an RNN, LSTM or GRU in its graph; got none.")

    # Begin with a node that reads no other, and go up from reader to reader.
    below = _below(graph, recurrent)
    above: dict[int, Any] = {}
    order: list[Any] = []
    for proto in recurrent:
        source = below[id(proto)]
        if source is not None:
            above[id(source)] = proto
        elif not order:
            order = [proto]
    # The second condition ends a circle.
    while order and id(order[-1]) in above and len(order) < len(recurrent):
        order.append(above[id(order[-1])])
    if len(order) != len(recurrent):
        raise ValueError(
            f"`node` must name one recurrent node where they are no stack; there are: {choice}."
        )
    return [Node(graph, proto) for proto in order]


def merges(graph: Graph, nodes: list[Node]) -> list[str]:
    """How each node's two directions become one output.

    Raises:
        ValueError: if the nodes between two recurrent nodes do more than change the layout.
    """
    found = []
    for node, above in itertools.pairwise(nodes):
        axes, merge = _followed(graph, node, _way(graph, above.proto))
        wanted = ["T", "B"]
        if above.layout:
            wanted.reverse()
        # Two directions that are not merged lie side by side: the axis DH.
        features = "DH"
        if node.directions == 1 or merge != "concat":
            features = "H"
        if axes != [*wanted, features]:
            both = f"{named(node.proto)} to {named(above.proto)}"
            raise ValueError(f"`model` must lead the outputs of {both} as they are.")
        found.append(merge)
    return [*found, _last_merge(graph, nodes[-1])]


def _last_merge(graph: Graph, node: Node) -> str:
    """How the two directions of the last node become one output, if one node merges them."""
    if node.directions == 1 or not any(node.proto.output[:1]):
        return "concat"
    readers = list(graph.consumers(node.proto.output[0]))
    if len(readers) != 1:
        return "concat"
    [reader] = readers
    if reader.op_type not in _MERGES or _lost(graph, reader, _axes(node)) != ["D"]:
        return "concat"
    return _MERGES[reader.op_type]


def _below(graph: Graph, recurrent: list[Any]) -> dict[int, Any]:
    """The recurrent node that each recurrent node reads, or None, by the id of the reader."""
    # Many nodes may read one value, so the answer for each value between nodes is kept.
    known: dict[str, Any] = {}
    below = {}
    for proto in recurrent:
        name, passed = _input(proto), []
        while name not in known:
            # None for now: a path that returns to this value is a circle, and ends here.
            known[name] = None
            passed.append(name)
            producer = _producer(graph, name)
            if producer is None:
                break
            if producer.op_type in RECURRENT:
                known[name] = producer
                break
            name = _input(producer)
        known.update(dict.fromkeys(passed, known[name]))
        below[id(proto)] = known[name]
    return below


def _way(graph: Graph, proto: Any) -> list[Any]:
    """The nodes between a recurrent node and the recurrent node below it, from below."""
    way: list[Any] = []
    producer = _producer(graph, _input(proto))
    while producer.op_type not in RECURRENT:
        way.append(producer)
        producer = _producer(graph, _input(producer))
    return way[::-1]


def _input(proto: Any) -> str:
    return next(iter(proto.input), "")


def _producer(graph: Graph, name: str) -> Any:
    """The node with this value as first output, if it may stand in a chain; else None."""
    producer = graph.producers.get(name)
    if producer is None or not producer.input or name != producer.output[0]:
        return None
    if producer.op_type in RECURRENT or producer.op_type in _BETWEEN:
        return producer
    return None


def _followed(graph: Graph, node: Node, way: list[Any]) -> tuple[list[str], str]:
    """The axes of a node's outputs at the end of a way, and how its directions are merged.

    The axes are T, B, D, H, or DH for directions and features in one axis.
    """
    axes, merge = _axes(node), "concat"
    for proto in way:
        graph.check(proto)
        kind = proto.op_type
        if kind == "Transpose":
            every = list(range(len(axes)))
            # Without `perm` the operator reverses the axes.
            perm = _numbers(graph, proto, "perm") or every[::-1]
            if sorted(perm) != every:
                must = f"must have each of {len(axes)} axes once"
                raise ValueError(f"`perm` of {named(proto)} {must}; got {perm}.")
            axes = [axes[k] for k in perm]
        elif kind == "Reshape":
            # 0 keeps an axis, and -1 takes what is left.
            sizes = _numbers(graph, proto, "shape")
            size = node.directions * node.hidden_size
            joins = sizes[:2] == [0, 0] and sizes[2:] in ([-1], [size])
            if axes[2:] != ["D", "H"] or not joins:
                must = "must join directions and features"
                raise ValueError(f"`shape` of {named(proto)} {must}; got {sizes}.")
            axes[2:] = ["DH"]
            if node.directions == 1:
                axes[2:] = ["H"]
        elif kind == "Squeeze" or kind in _MERGES:
            # `Squeeze` removes the axis of one direction. A reduction merges two.
            lost = _lost(graph, proto, axes)
            if lost != ["D"] or (kind == "Squeeze") != (node.directions == 1):
                must = "must be that of directions, to take it away"
                raise ValueError(f"`axes` of {named(proto)} {must}; got {lost}.")
            axes.remove("D")
            merge = _MERGES.get(kind, "concat")
    return axes, merge


def _axes(node: Node) -> list[str]:
    """The axes of a node's outputs."""
    if node.layout:
        return list("BTDH")
    return list("TDBH")


def _lost(graph: Graph, proto: Any, axes: list[str]) -> list[str]:
    """The axes that a `Squeeze` or a reduction removes; none if it keeps them at size 1."""
    keeps = True
    for attribute in proto.attribute:
        if attribute.name == "keepdims":
            keeps = bool(attribute.i)
    if proto.op_type in _MERGES and keeps:
        return []
    lost = []
    for axis in _numbers(graph, proto, "axes"):
        # A damaged file may have any number here.
        if -len(axes) <= axis < len(axes):
            lost.append(axes[axis])
    return lost


def _numbers(graph: Graph, proto: Any, name: str) -> list[int]:
    """An argument of a node: an attribute in older opsets, the second input in newer ones."""
    for attribute in proto.attribute:
        if attribute.name == name:
            return list(attribute.ints)
    array = None
    if len(proto.input) > 1:
        array = graph.array(proto.input[1])
    if array is None:
        return []
    return array.ravel().astype(int).tolist()
