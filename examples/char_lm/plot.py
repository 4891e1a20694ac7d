"""The pictures of a run, drawn from its log; `curve` and `save` serve other programs too."""

import io
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter
from PIL import Image

from .files import write

TRAINING_COLOR = "#4c72b0"
VALIDATION_COLOR = "#dd8452"
BEST_COLOR = "#b35a2a"
BASELINE_COLOR = "#777777"

Rows = list[dict[str, Any]]


def plot(rows: Rows, path: Path, title: str) -> None:
    """Draws training and validation loss, in bits per character, into a PNG file.

    Without a validation there is nothing to draw yet.
    """
    if has_validation(rows):
        save(curves(rows, title), path)


def has_validation(rows: Rows) -> bool:
    """Returns whether a log has a training step and a validation."""
    names = {name for row in rows for name in row}
    return {"loss", "validation_loss"} <= names


def curves(rows: Rows, title: str, baselines: Mapping[str, float] | None = None) -> Figure:
    """Draws training and validation loss, in bits per character.

    Args:
        rows: the log, with a validation at least.
        title: the title.
        baselines: the bits per character that others need, by name. They are lines, and the
            picture shows all steps from the first one. Without them it shows the last ones best.
    """
    steps, training = in_bits(*curve(rows, "loss"))
    checked_steps, validation = in_bits(*curve(rows, "validation_loss"))
    best = int(np.argmin(validation))
    middles, mean, width = smoothed(steps, training)

    figure = new_figure(6.4, 4)
    axes = figure.add_subplot()
    axes.plot(steps, training, color=TRAINING_COLOR, alpha=0.25, linewidth=0.6)
    label = f"training, mean of {width} steps"
    axes.plot(middles, mean, color=TRAINING_COLOR, linewidth=1.8, label=label)
    style: dict[str, Any] = {"color": VALIDATION_COLOR, "marker": "o", "markersize": 4}
    axes.plot(checked_steps, validation, linewidth=1.8, label="validation", **style)

    # The label of the best validation turns toward the middle of the picture.
    side = "left"
    if checked_steps[best] > steps[-1] / 2:
        side = "right"
    axes.annotate(
        f"best {validation[best]:.3f}",
        (checked_steps[best], validation[best]),
        textcoords="offset points",
        xytext=(0, 14),
        ha=side,
        color=BEST_COLOR,
        fontweight="bold",
    )

    low, high = min(mean.min(), validation.min()), training.max()
    place: Any = "upper right"
    if baselines:
        # The first steps fall fast. They would be a vertical line on a scale of equal steps.
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter("{x:g}")
        place = "center right"
        axes.set_xlim(1, steps[-1] * 1.05)
        for name, bits in baselines.items():
            line: dict[str, Any] = {"color": BASELINE_COLOR, "linestyle": "--"}
            axes.axhline(bits, linewidth=0.9, zorder=1, **line)
            axes.annotate(
                f"{name} {bits:.2f}",
                (1.1, bits),
                textcoords="offset points",
                xytext=(0, 3),
                color=BASELINE_COLOR,
                fontsize=8,
            )
        low, high = min(low, *baselines.values()), max(high, *baselines.values())
    else:
        # On the scale of the first steps, the rest would be a flat line.
        axes.set_xlim(0, steps[-1] * 1.01)
        high = np.quantile(training, 0.97)
    margin = 0.1 * (high - low)
    axes.set_ylim(low - 1.5 * margin, high + margin + 1e-6)
    axes.set(xlabel="training step", ylabel="bits per character")
    axes.set_title(title, loc="left", fontsize=11)
    finish(axes)
    axes.legend(frameon=False, loc=place)
    return figure


def gradient_norms(rows: Rows, clip: float) -> Figure:
    """Draws the norm of the gradients of each step, and the norm to which they are scaled down."""
    steps, norms = curve(rows, "gradient_norm")
    middles, mean, width = smoothed(steps, norms)
    figure = new_figure(6.4, 3.2)
    axes = figure.add_subplot()
    axes.plot(steps, norms, color=TRAINING_COLOR, alpha=0.3, linewidth=0.6)
    label = f"mean of {width} steps"
    axes.plot(middles, mean, color=TRAINING_COLOR, linewidth=1.8, label=label)
    if math.isfinite(clip):
        line: dict[str, Any] = {"color": BASELINE_COLOR, "linestyle": "--", "linewidth": 0.9}
        axes.axhline(clip, label="--clip", **line)
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_xlim(0, steps[-1] * 1.01)
    axes.set(xlabel="training step", ylabel="norm of all gradients")
    finish(axes)
    axes.legend(frameon=False, fontsize=9)
    return figure


# Parts of pictures.


def new_figure(width: float, height: float) -> Figure:
    """Makes a figure of some inches, without pyplot: no window opens, no global state changes."""
    figure = Figure(figsize=(width, height), dpi=150, layout="constrained")
    # A figure without pyplot needs a canvas.
    FigureCanvasAgg(figure)
    return figure


def curve(rows: Rows, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns the steps that logged `name`, and its values."""
    # Training steps and validations have rows apart.
    points = [(row["step"], row[name]) for row in rows if name in row]
    columns: np.ndarray = np.array(points).reshape(-1, 2)
    return columns[:, 0], columns[:, 1]


def in_bits(steps: np.ndarray, nats: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the losses of a curve in bits."""
    return steps, nats / math.log(2)


def smoothed(steps: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    """Returns the steps and the values of a moving mean, and over how many steps it goes.

    The eye cannot follow single steps, which are noisy. A mean hides how noisy: show both.
    """
    width = max(1, len(values) // 60)
    mean = np.convolve(values, np.full(width, 1 / width), "valid")
    return steps[width // 2 :][: len(mean)], mean, width


def finish(axes: Axes) -> None:
    """Gives a panel its grid, and takes two sides of its frame."""
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)


def png(figure: Figure) -> bytes:
    """Returns a figure as a PNG file of 256 colors, which is a third as large as with all."""
    picture = io.BytesIO()
    figure.savefig(picture)
    few_colors = Image.open(picture).convert("RGB").quantize(256)
    picture = io.BytesIO()
    few_colors.save(picture, "png", optimize=True)
    return picture.getvalue()


def save(figure: Figure, path: Path) -> None:
    """Writes a figure into a PNG file: all of it, or nothing."""
    write(path, [png(figure)])
