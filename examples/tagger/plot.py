"""The picture of a run: how it learned, and which types it takes for which."""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.layout_engine import ConstrainedLayoutEngine

from examples.char_lm.plot import TRAINING_COLOR, Rows, curve, new_figure, save, smoothed

from .data import Example

F1_COLOR = "#b35a2a"
NONE = "none"


def plot(rows: Rows, counts: np.ndarray, types: list[str], path: Path) -> None:
    """Draws the curves of a log and the confusion of types into a PNG file.

    Args:
        rows: the log, with a validation at least.
        counts: the result of `confusion`.
        types: the types of spans.
        path: the file to write.
    """
    figure = new_figure(11, 4.8)
    figure.set_layout_engine(ConstrainedLayoutEngine(wspace=0.06))
    curves, matrix = figure.subplots(1, 2, width_ratios=(1.25, 1))
    _draw_curves(curves, rows)
    _draw_confusion(matrix, counts, [NONE, *types])
    save(figure, path)


def confusion(examples: list[Example], labels: list[np.ndarray], num_types: int) -> np.ndarray:
    """Counts characters by their type and their predicted type.

    Args:
        examples: sentences with their expected labels.
        labels: the predicted labels of each sentence, `int[T]`.
        num_types: the number of types.

    Returns:
        `int[num_types + 1, num_types + 1]`: a row for each expected type, a column for each
        predicted type. Number 0 stands for characters without a type.
    """
    expected = np.concatenate([example.labels for example in examples])
    predicted = np.concatenate(labels)
    # The labels are O, B and I of the first type, B and I of the second type, and so on.
    pair = ((expected + 1) // 2, (predicted + 1) // 2)
    counts = np.zeros((num_types + 1, num_types + 1), int)
    np.add.at(counts, pair, 1)
    return counts


def _draw_curves(axes: Axes, rows: Rows) -> None:
    steps, losses = curve(rows, "loss")
    checked_steps, f1 = curve(rows, "f1")
    middles, mean, width = smoothed(steps, losses)
    axes.plot(steps, losses, color=TRAINING_COLOR, alpha=0.25, linewidth=0.6)
    axes.plot(middles, mean, color=TRAINING_COLOR, linewidth=1.8)
    # The loss falls by orders of magnitude.
    axes.set_yscale("log")
    axes.set_xlim(0, steps[-1] * 1.02)
    axes.set_xlabel("training step")
    axes.set_ylabel(f"training loss, nats per character (mean of {width})", color=TRAINING_COLOR)
    axes.tick_params(axis="y", which="both", colors=TRAINING_COLOR)

    scale = axes.twinx()
    scale.plot(checked_steps, 100 * f1, color=F1_COLOR, linewidth=1.8, marker="o", markersize=4)
    scale.set_ylabel("validation F1 of spans, %", color=F1_COLOR)
    scale.tick_params(axis="y", colors=F1_COLOR)
    best = int(np.argmax(f1))
    axes.set_title(
        f"best F1 {100 * f1[best]:.2f} % at step {checked_steps[best]:,}", loc="left", fontsize=11
    )
    for part in (axes, scale):
        part.spines["top"].set_visible(False)


def _draw_confusion(axes: Axes, counts: np.ndarray, names: list[str]) -> None:
    # Most characters have no type. Shares of a row make the rows comparable.
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set_xticks(range(len(names)), names, rotation=30, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(names)), names)
    axes.set_xlabel("predicted type of a character")
    axes.set_ylabel("expected type")
    axes.set_title("validation part, % of each row", loc="left", fontsize=11)
    for (row, column), share in np.ndenumerate(shares):
        color = "#333333"
        if share > 0.5:
            color = "white"
        axes.text(column, row, _percent(share), ha="center", va="center", color=color, fontsize=9)


def _percent(share: float) -> str:
    """Writes a share so that a rare mistake is not a perfect result."""
    if share == 0:
        return "0"
    if share == 1:
        return "100"
    return f"{100 * share:.1f}"
