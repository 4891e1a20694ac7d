"""The pictures of a run: its curves, and what the decoder reads of a source."""

from pathlib import Path

import numpy as np

from examples.char_lm.plot import (
    TRAINING_COLOR,
    VALIDATION_COLOR,
    Rows,
    curve,
    finish,
    has_validation,
    new_figure,
    save,
)

from .dates import Dates, decode_source, decode_target

EXACT_COLOR = "#55a868"


def plot_curves(rows: Rows, path: Path, title: str) -> None:
    """Draws the losses and the share of dates without a fault into a PNG file.

    Without a validation there is nothing to draw yet.
    """
    if not has_validation(rows):
        return
    steps, losses = curve(rows, "loss")
    checked_steps, validation = curve(rows, "validation_loss")
    _, exact = curve(rows, "exact")

    figure = new_figure(8, 5.5)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    above.plot(steps, losses, color=TRAINING_COLOR, alpha=0.6, linewidth=0.8, label="training")
    above.plot(
        checked_steps,
        validation,
        color=VALIDATION_COLOR,
        linewidth=1.8,
        marker="o",
        markersize=4,
        label="validation",
    )
    # A loss that falls by factors is a line on this scale.
    above.set_yscale("log")
    above.set_ylabel("loss, nats per character")
    above.set_title(title, loc="left", fontsize=11)
    above.legend(frameon=False)

    below.plot(
        checked_steps, 100 * exact, color=EXACT_COLOR, linewidth=1.8, marker="o", markersize=4
    )
    below.annotate(
        f"{100 * exact[-1]:.1f} %",
        (checked_steps[-1], 100 * exact[-1]),
        textcoords="offset points",
        xytext=(-2, -16),
        ha="right",
        color=EXACT_COLOR,
        fontweight="bold",
    )
    below.set(xlabel="training step", ylabel="dates without a fault, %", ylim=(-3, 106))
    for axes in (above, below):
        axes.set_xlim(0, steps[-1] * 1.01)
        finish(axes)
    save(figure, path)


def plot_attention(dates: Dates, weights: np.ndarray, path: Path) -> None:
    """Draws what each character of a target reads of its source into a PNG file.

    Args:
        dates: the dates, at most a handful.
        weights: `[N, 11, S]`, from `Translator.attention`.
        path: the file.
    """
    number = len(dates.lengths)
    rows = -(-number // 2)
    figure = new_figure(10, 2.6 * rows + 0.4)
    # Room between a panel and the characters above the next one.
    figure.set_layout_engine("constrained", hspace=0.06, wspace=0.03)
    panels = figure.subplots(rows, 2, squeeze=False).flat
    for panel in panels[number:]:
        panel.set_visible(False)
    for index in range(number):
        panel, length = panels[index], int(dates.lengths[index])
        source = decode_source(dates.sources[index])
        target = decode_target(dates.targets[index])
        # Without the token that ends the target, which reads nothing of interest.
        shown = weights[index, : len(target), :length]  # [10, length]
        panel.imshow(shown, cmap="Blues", vmin=0, vmax=1, aspect="auto")
        # A space has no ink, so a mark stands for it.
        panel.set_xticks(range(length), list(source.replace(" ", "·")), family="monospace")
        panel.set_yticks(range(len(target)), list(target), family="monospace")
        panel.tick_params(length=0, labelsize=8, top=True, labeltop=True, bottom=False)
        panel.tick_params(labelbottom=False)
        panel.spines[:].set_color("#cccccc")
    figure.suptitle(
        "What the decoder reads (columns) when it writes each character (rows)", fontsize=11
    )
    save(figure, path)
