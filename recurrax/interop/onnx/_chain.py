"""Recurrent nodes one upon another: what lies between the outputs of each and the inputs of the next."""

from __future__ import annotations

import itertools
from typing import Any

from recurrax.interop.onnx._graph import Graph, named
from recurrax.interop.onnx._read import Node

RECURRENT = ("RNN", "LSTM", "GRU")
_MERGES = {"ReduceSum": "sum", "ReduceProd": "mul", "ReduceMean": "ave"}
_BETWEEN = {"Identity", "Dropout", "Transpose", "Squeeze", "Reshape", *_MERGES}


def find(graph: Graph, node: str | None) -> list[Node]:
    """The node of that name alone, or all recurrent nodes in their order, which must be one chain.

    Raises:
        ValueError: if there is none, or no order.
    """
    recurrent = [proto for proto in graph.nodes if proto.op_type in RECURRENT]
    choice = ", ".join(map(named, recurrent)) or "none"
    if node is not None:
        chosen = [proto for proto in recurrent if proto.name == node]
        if len(chosen) != 1:
            raise ValueError(
                f"`node` must name one recurrent node; {node!r} names {len(chosen)}. There are: {choice}."
            )
        return [Node(graph, chosen[0])]
    if not recurrent:
        raise ValueError("`model` must have an RNN, LSTM or GRU in its graph; got none.")
    below = _below(graph, recurrent)
    above = {id(under): proto for proto in recurrent if (under := below[id(proto)]) is not None}
    order = [proto for proto in recurrent if below[id(proto)] is None][:1]
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
        ValueError: if what lies between two nodes is more than a change of layout.
    """
    found = []
    for node, above in itertools.zip_longest(nodes, nodes[1:]):
        output = node.proto.output[0] if node.proto.output else ""
        if above is None:
            readers = list(graph.consumers(output)) if output else []
            merging = (
                len(readers) == 1
                and readers[0].op_type in _MERGES
                and _lost(graph, readers[0], _axes(node)) == ["D"]
            )
            found.append(
                _MERGES[readers[0].op_type] if merging and node.directions == 2 else "concat"
            )
            continue
        axes, merge = _followed(graph, node, _way(graph, above.proto))
        wanted = "BT" if above.layout else "TB"
        if (
            "".join(axes[:2]) != wanted
            or axes[2:] not in (["H"], ["DH"])
            or (axes[2:] == ["H"]) != (node.directions == 1 or merge != "concat")
        ):
            raise ValueError(
                f"`model` must lead the outputs of {named(node.proto)} to {named(above.proto)} as they are."
            )
        found.append(merge)
    return found


def _below(graph: Graph, recurrent: list[Any]) -> dict[int, Any]:
    """For each recurrent node, by its id, the recurrent node whose outputs it reads, or None."""
    known: dict[
        str, Any
    ] = {}  # The same for the values between nodes, as many nodes may read one value.
    below = {}
    for proto in recurrent:
        name, passed = _input(proto), []
        while name not in known:
            known[name] = (
                None  # Until more is known: whoever comes back to this value goes in a circle.
            )
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
    """The nodes from the recurrent node whose outputs a node reads, which there is, to this node."""
    way: list[Any] = []
    while (
        producer := _producer(graph, _input(way[-1] if way else proto))
    ).op_type not in RECURRENT:
        way.append(producer)
    return way[::-1]


def _input(proto: Any) -> str:
    return proto.input[0] if proto.input else ""


def _producer(graph: Graph, name: str) -> Any:
    """The node whose first output a value is, if it is a recurrent node or may stand between two; else None."""
    producer = graph.producers.get(name)
    if producer is None or not producer.input or name != producer.output[0]:
        return None
    return producer if producer.op_type in RECURRENT or producer.op_type in _BETWEEN else None


def _followed(graph: Graph, node: Node, way: list[Any]) -> tuple[list[str], str]:
    """The axes of a node's outputs at the end of a way, of T, B, D, H and DH, and how directions were merged."""
    axes, merge = _axes(node), "concat"
    for proto in way:
        graph.check(proto)
        kind = proto.op_type
        if kind == "Transpose":
            perm = _numbers(graph, proto, "perm") or list(range(len(axes)))[::-1]
            if sorted(perm) != list(range(len(axes))):
                raise ValueError(
                    f"`perm` of {named(proto)} must have each of {len(axes)} axes once; got {perm}."
                )
            axes = [axes[k] for k in perm]
        elif kind == "Reshape":
            sizes = _numbers(graph, proto, "shape")
            size = node.directions * node.hidden_size
            if axes[2:] != ["D", "H"] or sizes[:2] != [0, 0] or sizes[2:] not in ([-1], [size]):
                raise ValueError(
                    f"`shape` of {named(proto)} must join directions and features; got {sizes}."
                )
            axes[2:] = ["DH"] if node.directions == 2 else ["H"]
        elif kind == "Squeeze" or kind in _MERGES:
            lost = _lost(graph, proto, axes)
            if lost != ["D"] or (kind == "Squeeze") != (node.directions == 1):
                raise ValueError(
                    f"`axes` of {named(proto)} must be that of directions, to take it away; got {lost}."
                )
            axes.remove("D")
            merge = _MERGES.get(kind, "concat")
    return axes, merge


def _axes(node: Node) -> list[str]:
    """The axes of a node's outputs."""
    return list("BTDH" if node.layout else "TDBH")


def _lost(graph: Graph, proto: Any, axes: list[str]) -> list[str]:
    """Which axes a `Squeeze` or a reduction takes away; none if it keeps them at size 1."""
    keeps = [attribute.i for attribute in proto.attribute if attribute.name == "keepdims"]
    if proto.op_type in _MERGES and keeps != [0]:
        return []
    return [axes[k] for k in _numbers(graph, proto, "axes") if -len(axes) <= k < len(axes)]


def _numbers(graph: Graph, proto: Any, name: str) -> list[int]:
    """What is an attribute in older opsets, and in newer ones the second input."""
    for attribute in proto.attribute:
        if attribute.name == name:
            return list(attribute.ints)
    array = graph.array(proto.input[1]) if len(proto.input) > 1 else None
    return [] if array is None else [int(number) for number in array.ravel()]
