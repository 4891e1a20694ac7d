"""The curves of a run, drawn from its log."""

import io
import math
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from .files import write

TRAINING_COLOR = "#4c72b0"
VALIDATION_COLOR = "#dd8452"


def plot(rows: list[dict[str, Any]], path: Path, title: str) -> None:
    """Draws training and validation loss, in bits per character, into a PNG file.

    Without a validation there is nothing to draw yet.
    """
    steps, training = _curve(rows, "loss")
    checked_steps, validation = _curve(rows, "validation_loss")
    if not len(training) or not len(validation):
        return
    best = int(np.argmin(validation))

    # The eye cannot follow single steps, which are noisy. A mean hides how noisy: show both.
    width = max(1, len(training) // 60)
    mean = np.convolve(training, np.full(width, 1 / width), "valid")
    middles = steps[width // 2 :][: len(mean)]

    # Without pyplot no window opens and no global state changes. A figure then needs a canvas.
    figure = Figure(figsize=(8, 4.5), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.plot(steps, training, color=TRAINING_COLOR, alpha=0.25, linewidth=0.6)
    axes.plot(
        middles,
        mean,
        color=TRAINING_COLOR,
        linewidth=1.8,
        label=f"training, mean of {width} steps",
    )
    axes.plot(
        checked_steps,
        validation,
        color=VALIDATION_COLOR,
        linewidth=1.8,
        marker="o",
        markersize=4,
        label="validation",
    )

    # The label of the best validation turns toward the middle of the picture.
    in_right_half = checked_steps[best] > steps[-1] / 2
    axes.annotate(
        f"best {validation[best]:.3f}",
        (checked_steps[best], validation[best]),
        textcoords="offset points",
        xytext=(0, 14),
        ha="right" if in_right_half else "left",
        color="#b35a2a",
        fontweight="bold",
    )

    # The first steps fall from log2(vocabulary). On their scale, the rest would be a flat line.
    low = min(mean.min(), validation.min())
    high = np.quantile(training, 0.97)
    margin = 0.15 * (high - low)
    axes.set_ylim(low - margin, high + margin + 1e-6)
    axes.set_xlim(0, steps[-1] * 1.01)

    axes.set(xlabel="training step", ylabel="bits per character")
    axes.set_title(title, loc="left", fontsize=11)
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    picture = io.BytesIO()
    figure.savefig(picture)
    write(path, [picture.getvalue()])


def _curve(rows: list[dict[str, Any]], name: str) -> tuple[np.ndarray, np.ndarray]:
    """The steps that logged `name`, and its values in bits."""
    # Training steps and validations have rows apart, so a row holds one of the two losses.
    points = [(row["step"], row[name]) for row in rows if name in row]
    steps, nats = np.array(points).reshape(-1, 2).T
    return steps, nats / math.log(2)
