"""What a task is: how its sequences are drawn, what is asked of the outputs, who tries, and what papers claim."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax

from recurrax import Layer


class Batch(NamedTuple):
    """Sequences and what is asked about them.

    Attributes:
        xs: the inputs, `[B, T, ...]`, or a pytree of them.
        targets: whatever the task's loss and measures compare the outputs with.
        lengths: `int[B]`, or None where all sequences have T steps.
    """

    xs: Any
    targets: jax.Array
    lengths: jax.Array | None = None


@dataclass(frozen=True)
class Measure:
    """A figure of the table.

    Attributes:
        of: from the outputs of the readout and a batch to a scalar.
        split: which draws it is taken on, as `Task.draw` names them.
        higher_is_better: else lower is.
        solved: the task is solved by whoever reaches this in each of its measures; None asks nothing.
        stopped_early: taken where the task's first measure was best on validation draws, not at the end.
    """

    of: Callable[[jax.Array, Batch], jax.Array]
    split: str = "train"
    higher_is_better: bool = False
    solved: float | None = None
    stopped_early: bool = False

    def reached(self, value: float) -> bool:
        """Whether `value` is good enough."""
        if self.solved is None:
            return True
        return value >= self.solved if self.higher_is_better else value <= self.solved


@dataclass(frozen=True)
class Contender:
    """A layer, and what it needs beside the task.

    Attributes:
        layer: the layer; an affine map from its outputs to the task's is trained with it.
        view: what the layer is shown of the task's `xs`.
        outputs: the size of that affine map's outputs, where it is not the task's.
        shape: from the affine map's outputs `[B, T, ...]` to those the task expects.
        constrain: what is done to the layer's parameters after each update.
        rates: the learning rates to choose from, where they are not the task's.
    """

    layer: Layer
    view: Callable[[Any], Any] = lambda xs: xs
    outputs: int | None = None
    shape: Callable[[jax.Array], jax.Array] = lambda ys: ys
    constrain: Callable[[Any], Any] = lambda params: params
    rates: tuple[float, ...] | None = None


class Seen:
    """The rows of a task, as its claims ask for them; a layer without a row raises `KeyError`."""

    def __init__(self, rows: list[dict[str, Any]]):
        self._rows = {row["layer"]: row for row in rows}

    def solved(self, *layers: str) -> bool:
        """Whether each of the layers solved the task for more than half of the seeds."""
        return all(2 * sum(self._rows[layer]["solved"]) > len(self._rows[layer]["solved"]) for layer in layers)

    def median(self, layer: str, measure: str) -> float:
        """Over seeds."""
        return statistics.median(self._rows[layer]["measures"][measure])

    def below(self, layer: str, other: str, measure: str) -> bool | None:
        """Whether `layer` is below `other` whichever seeds are taken; None where that depends on the seeds."""
        ours, theirs = (self._rows[name]["measures"][measure] for name in (layer, other))
        return True if max(ours) < min(theirs) else False if min(ours) >= max(theirs) else None

    def parameters(self, layer: str) -> int:
        """How many the layer and its affine map have."""
        return self._rows[layer]["parameters"]


class Claim(NamedTuple):
    """A sentence with its source, and whether the rows bear it out; None where they leave it open."""

    says: str
    holds: Callable[[Seen], bool | None]


@dataclass(frozen=True)
class Task:
    """A task.

    Attributes:
        name: what the command line calls it.
        what: what is drawn and what is asked, in a sentence or two.
        draw: `draw(key, split)` draws a batch; "train" is what all train on.
        outputs: the number of features of one output.
        loss: from outputs and batch to what training makes small.
        measures: by name; the first one chooses the learning rate, on validation draws.
        contenders: by name.
        claims: what is to be seen.
        steps: the number of updates.
        rates: the learning rates to choose from.
    """

    name: str
    what: str
    draw: Callable[[jax.Array, str], Batch]
    outputs: int
    loss: Callable[[jax.Array, Batch], jax.Array]
    measures: Mapping[str, Measure]
    contenders: Mapping[str, Contender]
    claims: tuple[Claim, ...]
    steps: int
    rates: tuple[float, ...] = (1e-3, 3e-3)
