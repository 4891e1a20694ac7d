"""Recurrent nodes one upon another: what lies between the outputs of each and the inputs of the next."""

from __future__ import annotations

import itertools
from typing import Any

from recurrax.interop._onnx_graph import Graph, named
from recurrax.interop._onnx_read import Node

_MERGES = {"ReduceSum": "sum", "ReduceProd": "mul", "ReduceMean": "ave"}
_BETWEEN = {"Identity", "Dropout", "Transpose", "Squeeze", "Reshape", *_MERGES}


def find(graph: Graph, node: str | None) -> list[Node]:
    """The node of that name alone, or all recurrent nodes in their order, which must be one chain.

    Raises:
        ValueError: if there is none, or no order.
    """
    recurrent = [proto for proto in graph.nodes if proto.op_type in ("RNN", "LSTM", "GRU")]
    choice = ", ".join(map(named, recurrent)) or "none"
    if node is not None:
        chosen = [proto for proto in recurrent if proto.name == node]
        if len(chosen) != 1:
            raise ValueError(f"`node` must name one recurrent node; {node!r} names {len(chosen)}. There are: {choice}.")
        return [Node(graph, chosen[0])]
    if not recurrent:
        raise ValueError("`model` must have an RNN, LSTM or GRU in its graph; got none.")
    below = {id(proto): _below(graph, proto) for proto in recurrent}
    above = {id(under): proto for proto in recurrent if (under := below[id(proto)]) is not None}
    order = [proto for proto in recurrent if below[id(proto)] is None][:1]
    while order and id(order[-1]) in above and len(order) < len(recurrent):
        order.append(above[id(order[-1])])
    if len(order) != len(recurrent):
        raise ValueError(f"`node` must name one recurrent node where they are no stack; there are: {choice}.")
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
            way = readers[:1] if len(readers) == 1 and readers[0].op_type in _MERGES else []
            found.append(_followed(graph, node, way)[1])
            continue
        axes, merge = _followed(graph, node, _way(graph, above.proto)[1])
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


def _below(graph: Graph, proto: Any) -> Any:
    """The recurrent node whose outputs a node reads, or None."""
    return _way(graph, proto)[0]


def _way(graph: Graph, proto: Any) -> tuple[Any, list[Any]]:
    """The recurrent node whose outputs a node reads, and the nodes from that one to this."""
    way: list[Any] = []
    name = proto.input[0] if proto.input else ""
    for _ in graph.nodes:  # A way longer than that goes in a circle.
        producer = graph.producers.get(name)
        if producer is None or not producer.input:
            return None, way
        if producer.op_type in ("RNN", "LSTM", "GRU"):
            return (producer if name == producer.output[0] else None), way[::-1]
        if producer.op_type not in _BETWEEN or name != producer.output[0]:
            return None, way
        way.append(producer)
        name = producer.input[0]
    return None, way


def _followed(graph: Graph, node: Node, way: list[Any]) -> tuple[list[str], str]:
    """The axes of a node's outputs at the end of a way, of T, B, D, H and DH, and how directions were merged."""
    axes, merge = list("BTDH" if node.layout else "TDBH"), "concat"
    for proto in way:
        graph.check(proto)
        kind = proto.op_type
        attributes = {a.name: a for a in proto.attribute}
        if kind == "Transpose":
            perm = list(attributes["perm"].ints) if "perm" in attributes else list(range(len(axes)))[::-1]
            if sorted(perm) != list(range(len(axes))):
                raise ValueError(f"`perm` of {named(proto)} must have each of {len(axes)} axes once; got {perm}.")
            axes = [axes[k] for k in perm]
        elif kind == "Reshape":
            sizes = _numbers(graph, proto, attributes, "shape", 1)
            size = node.directions * node.hidden_size
            if axes[2:] != ["D", "H"] or sizes[:2] != [0, 0] or sizes[2:] not in ([-1], [size]):
                raise ValueError(f"`shape` of {named(proto)} must join directions and features; got {sizes}.")
            axes[2:] = ["DH"] if node.directions == 2 else ["H"]
        elif kind == "Squeeze" or kind in _MERGES:
            gone = _numbers(graph, proto, attributes, "axes", 1)
            keeps = kind in _MERGES and ("keepdims" not in attributes or attributes["keepdims"].i)
            which = [axes[k] for k in gone if -len(axes) <= k < len(axes)]
            if which != ["D"] or keeps or (kind == "Squeeze") != (node.directions == 1):
                raise ValueError(f"`axes` of {named(proto)} must be that of directions, to take it away; got {gone}.")
            axes.remove("D")
            merge = _MERGES.get(kind, "concat")
    return axes, merge


def _numbers(graph: Graph, proto: Any, attributes: dict[str, Any], name: str, place: int) -> list[int]:
    """What is an attribute in older opsets and an input in newer ones."""
    if name in attributes:
        return list(attributes[name].ints)
    array = graph.array(proto.input[place]) if len(proto.input) > place else None
    return [] if array is None else [int(number) for number in array.ravel()]
