"""The curves of a run, drawn from its log."""

import math
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure


def plot(rows: list[dict[str, Any]], path: Path, title: str) -> None:
    """Draws training and validation loss, in bits per character, into a PNG file."""
    steps, losses = np.array([(row["step"], row["loss"]) for row in rows if "loss" in row]).T
    bits = losses / math.log(2)
    checks = np.array([(row["step"], row["validation_loss"]) for row in rows if "validation_loss" in row])
    checked, validation = checks[:, 0], checks[:, 1] / math.log(2)
    best = int(np.argmin(validation))

    # Single steps are too noisy to follow with the eye, and their mean too smooth to trust: show both.
    width = max(1, len(bits) // 60)
    mean = np.convolve(bits, np.full(width, 1 / width), "valid")
    middles = steps[width // 2 :][: len(mean)]

    figure = Figure(figsize=(8, 4.5), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.plot(steps, bits, color="#4c72b0", alpha=0.25, linewidth=0.6)
    axes.plot(middles, mean, color="#4c72b0", linewidth=1.8, label=f"training, mean of {width} steps")
    axes.plot(checked, validation, color="#dd8452", linewidth=1.8, marker="o", markersize=4, label="validation")
    axes.annotate(
        f"best {validation[best]:.3f}",
        (checked[best], validation[best]),
        textcoords="offset points",
        xytext=(0, 14),
        ha="right" if checked[best] > steps[-1] / 2 else "left",
        color="#b35a2a",
        fontweight="bold",
    )
    # The first steps fall from log2(vocabulary); on their scale, all the rest would be a flat line.
    low, high = min(mean.min(), validation.min()), np.quantile(bits, 0.97)
    axes.set_ylim(low - 0.15 * (high - low), high + 0.15 * (high - low) + 1e-6)
    axes.set_xlim(0, steps[-1] * 1.01)
    axes.set(xlabel="training step", ylabel="bits per character")
    axes.set_title(title, loc="left", fontsize=11)
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    figure.savefig(path)
