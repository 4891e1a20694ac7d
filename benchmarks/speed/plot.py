"""The ratios as a picture: a panel for each mode, a row for each case, a dot for each contender."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.speed.cases import MODES
from benchmarks.speed.contenders import CONTENDERS
from benchmarks.speed.report import contenders_of, disturbances, group

# Okabe and Ito's colors, which everyone can tell apart, and shapes for print.
LOOKS = {
    "native": ("#882255", "*"),
    "native-time-major": ("#882255", "*"),
    "torch": ("#D55E00", "o"),
    "onnxruntime": ("#999933", "h"),
    "nnx": ("#0072B2", "s"),
    "linen": ("#56B4E9", "D"),
    "haiku": ("#009E73", "^"),
    "equinox": ("#CC79A7", "v"),
    "keras": ("#E69F00", "P"),
    "hand": ("#000000", "X"),
    "unmasked": ("#777777", "d"),
}
GREY = "#666666"


def plot(about: dict[str, Any], rows: list[dict[str, Any]], path: Path) -> None:
    """Draws the ratios of time on a logarithmic axis and writes them to `path`."""
    panels = {mode: rows_of for mode in MODES if (rows_of := [row for row in rows if row["mode"] == mode])}
    names = contenders_of(rows, "ratio")
    if not names:
        return
    tops = [mode for mode in panels if mode != "streaming"]
    heights = [max((len(panels[mode]) for mode in tops), default=0), len(panels.get("streaming", ()))]
    with mpl.rc_context({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(12, 2.4 + 0.3 * sum(heights)), layout="constrained", facecolor="white")
        grid = figure.add_gridspec(2, len(tops) or 1, height_ratios=[max(height, 0.01) for height in heights])
        for column, mode in enumerate(tops):
            _panel(figure.add_subplot(grid[0, column]), mode, panels[mode], names, labels=column == 0)
        if "streaming" in panels:
            _panel(figure.add_subplot(grid[1, :]), "streaming", panels["streaming"], names)
        handles, labels = figure.axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=len(names), frameon=False, fontsize=10)
        figure.supxlabel(
            f"time of recurrax : time of the contender, median of rounds; T×B×I×H; {about['device']}, "
            f"{about['cpu']}, cores: {about['cores']}, {about['date']}",
            fontsize=8,
            color=GREY,
        )
        if note := disturbances(about, rows):
            figure.suptitle(note, color="#CC0000", fontsize=9)
        figure.savefig(path, dpi=150)


def _panel(axes: Axes, mode: str, rows: list[dict[str, Any]], names: list[str], labels: bool = True) -> None:
    for y, row in enumerate(rows):
        ratios = [result["ratio"] for result in row["contenders"].values() if "ratio" in result] or [1.0]
        axes.plot([min(ratios), max(ratios)], [y, y], color="#DDDDDD", linewidth=1, zorder=1)
        if y and group(row) != group(rows[y - 1]):
            axes.axhline(y - 0.5, color="#CCCCCC", linewidth=0.6)
    for rank, name in enumerate(names):
        lift = 0.4 * (rank / max(len(names) - 1, 1) - 0.5)  # So that equals do not hide each other.
        points = [(row["contenders"].get(name, {}).get("ratio"), y + lift) for y, row in enumerate(rows)]
        ratios, ys = zip(*([point for point in points if point[0]] or [(float("nan"), 0)]), strict=True)
        color, marker = LOOKS[name]
        for y, row in enumerate(rows):
            if quartiles := row["contenders"].get(name, {}).get("ratio_quartiles"):
                axes.hlines(y + lift, *quartiles, color, linewidth=1.2, alpha=0.6, zorder=2)
        label = CONTENDERS[name].label
        axes.scatter(ratios, ys, 46, color, marker, label=label, edgecolors="white", linewidths=0.6, zorder=3)
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(lambda ratio, _: f"{ratio:g}" if ratio >= 1 else f"1/{1 / ratio:g}")
    low, high = axes.get_xlim()
    axes.set_xlim(min(low, 2**-1.1), max(high, 2**1.1))
    axes.axvspan(axes.get_xlim()[0], 1, color="#009E73", alpha=0.07, linewidth=0, zorder=0)
    axes.axvline(1, color="black", linewidth=1, zorder=2)
    axes.grid(axis="x", color="#EEEEEE", linewidth=0.6, zorder=0)
    axes.set_axisbelow(True)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_yticks(range(len(rows)), [row["label"] for row in rows] if labels else [""] * len(rows))
    axes.tick_params(axis="y", length=0)
    axes.set_title(mode, loc="left", fontweight="bold", fontsize=11)
    axes.annotate("recurrax is faster ◂ ", (1, 1), (0, 4), ("data", "axes fraction"), "offset points",
                  ha="right", fontsize=8, color="#00664B")  # fmt: skip
    axes.annotate(" ▸ slower", (1, 1), (0, 4), ("data", "axes fraction"), "offset points",
                  ha="left", fontsize=8, color=GREY)  # fmt: skip
