"""The pictures of a run: its curves, and the piano roll of a piece."""

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

from .midi import LOWEST

GIVEN_COLOR = "#8c8c8c"
COMPOSED_COLOR = "#4c72b0"


def plot_curves(rows: Rows, path: Path, title: str) -> None:
    """Draws training and validation loss into a PNG file.

    Without a validation there is nothing to draw yet.
    """
    if not has_validation(rows):
        return
    figure = new_figure(8, 4.5)
    axes = figure.add_subplot()
    steps, training = curve(rows, "loss")
    checked_steps, validation = curve(rows, "validation_loss")
    axes.plot(steps, training, color=TRAINING_COLOR, alpha=0.6, linewidth=0.8, label="training")
    axes.plot(
        checked_steps,
        validation,
        color=VALIDATION_COLOR,
        linewidth=1.8,
        marker="o",
        markersize=4,
        label="validation",
    )
    # The first steps fall from 88 keys at even odds. On their scale the rest would be a flat line.
    low = np.concatenate([training, validation]).min()
    high = np.quantile(training, 0.9)
    margin = 0.1 * (high - low)
    axes.set_ylim(low - margin, high + margin + 1e-6)
    axes.set_xlim(0, steps[-1] * 1.01)
    axes.set(xlabel="training step", ylabel="nats a step, summed over the keys")
    axes.set_title(title, loc="left", fontsize=11)
    finish(axes)
    axes.legend(frameon=False)
    save(figure, path)


def plot_rolls(original: np.ndarray, composed: np.ndarray, observed: int, path: Path) -> None:
    """Draws a piece above its continuation into a PNG file. What the model composed is blue.

    Args:
        original: the piece, `[T, 88]`.
        composed: its first steps and their continuation, `[T, 88]`.
        observed: the number of steps that the model was given; a line marks their end.
        path: the file.
    """
    figure = new_figure(10, 5.6)
    panels = figure.subplots(2, 1, sharex=True, sharey=True)
    keys = np.flatnonzero(np.concatenate([original, composed]).any(axis=0))
    # The keys of a silent piece are all the same.
    low, high = 0, 87
    if keys.size:
        low, high = keys[0] - 1, keys[-1] + 1
    # Of the piece itself nothing is composed.
    continued = f"its first {observed} steps, continued by the model"
    shown = (("the piece", original, len(original)), (continued, composed, observed))
    for panel, (title, roll, given) in zip(panels, shown, strict=True):
        for key in keys:
            for first, last in _spans(roll[:, key]):
                # A note that is held over the line has both colors.
                before = first, min(last, given), GIVEN_COLOR
                after = max(first, given), last, COMPOSED_COLOR
                for start, end, color in (before, after):
                    if start < end:
                        panel.broken_barh([(start, end - start)], (key - 0.4, 0.8), color=color)
        panel.axvline(observed, color="#333333", linewidth=0.8, linestyle="--")
        # The C of each octave has a label. C4 is number 60 of MIDI.
        octaves = [key for key in range(low, high + 1) if (key + LOWEST) % 12 == 0]
        panel.set_yticks(octaves, [f"C{(key + LOWEST) // 12 - 1}" for key in octaves])
        panel.set_ylim(low - 0.6, high + 0.6)
        panel.set_xlim(0, len(composed))
        panel.grid(axis="y", color="#dddddd", linewidth=0.6)
        panel.set_axisbelow(True)
        panel.spines[["top", "right"]].set_visible(False)
        panel.set_title(title, loc="left", fontsize=10)
    panels[-1].set_xlabel("step")
    save(figure, path)


def _spans(sounds: np.ndarray) -> list[tuple[int, int]]:
    """The first step of each note of a key, and the step after its last one."""
    padded = np.concatenate([[0], sounds.astype(int), [0]])
    changes = np.flatnonzero(np.diff(padded))
    return list(zip(changes[::2].tolist(), changes[1::2].tolist(), strict=True))
