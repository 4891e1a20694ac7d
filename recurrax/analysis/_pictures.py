"""Pictures: gates, units, saturation, trajectories and gradients. They need matplotlib."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from recurrax._arguments import describe
from recurrax.analysis._fixed_points import FixedPoints
from recurrax.analysis._principal_components import PrincipalComponents
from recurrax.analysis._saturation import gate_saturation

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLORS = ("#4c72b0", "#dd8452", "#55a868", "#c44e52", "#8172b3", "#937860")
_GRID: dict[str, Any] = {"color": "#dddddd", "linewidth": 0.6}

# A longer text has no room for its characters below the picture.
_MOST_CHARACTERS = 160


def plot_gates(
    gates: Mapping[str, Any], *, text: Sequence[str] | None = None, series: Any = None
) -> Figure:
    """Draws gates, or states, as heat maps: one row for each unit, one column for each step.

    Args:
        gates: values `[T, H]` of one sequence by name, such as `trace(...).gates`. Values from 0 to
            1 are drawn in one color. If some are negative, the colors are red and blue.
        text: the T characters or tokens that the layer read; written below, if there is room.
        series: numbers `[T]` or `[T, I]` that the layer read, drawn above.

    Returns:
        A figure with one panel for each gate, for `figure.savefig("gates.png")`.

    Raises:
        ImportError: if matplotlib is not installed.
        ValueError: if an array does not have T steps.

    Example:
        >>> import jax, recurrax
        >>> from recurrax.analysis import plot_gates
        >>> forget = jax.random.uniform(jax.random.key(0), (7, 4))  # [T, H]
        >>> figure = plot_gates({"forget": forget}, text="a text.")
        >>> figure.axes[0].get_title(loc="left")
        'forget'
    """
    arrays = {}
    for name, values in gates.items():
        arrays[name] = _of_one_sequence(f"gates[{name!r}]", values)
    if not arrays:
        raise ValueError("`gates` must hold at least one array; got none.")
    steps = len(next(iter(arrays.values())))
    for name, values in arrays.items():
        _check_steps(f"gates[{name!r}]", values, steps)

    # A panel for each gate, and a lower one above them for the series.
    rows = len(arrays)
    heights = [1.5] * rows
    if series is not None:
        series = np.asarray(series)
        _check_steps("series", series, steps)
        rows, heights = rows + 1, [1.0, *heights]
    # Wide enough for a character below each column.
    width = float(np.clip(0.11 * steps, 6, 18))
    figure = _figure(width, sum(heights) + 0.6)
    panels = list(figure.subplots(rows, 1, sharex=True, squeeze=False, height_ratios=heights)[:, 0])
    if series is not None:
        panel = panels.pop(0)
        columns = series.reshape(steps, -1)  # [T, I]
        for column, color in zip(columns.T, _colors(columns.shape[1]), strict=True):
            panel.plot(np.arange(steps), column, color=color, linewidth=1.2)
        panel.set_title("series", loc="left", fontsize=10)
        panel.grid(**_GRID)
        panel.tick_params(labelsize=8, length=2)
        panel.spines[["top", "right"]].set_visible(False)
    for panel, (name, values) in zip(panels, arrays.items(), strict=True):
        _heat_map(panel, values, name)
    # All panels have the steps of the lowest one.
    for panel in figure.axes[: rows - 1]:
        panel.tick_params(axis="x", length=0)
    _write_below(panels[-1], text, steps)
    return figure


def plot_units(
    values: Any,
    units: Sequence[int],
    *,
    text: Sequence[str] | None = None,
    axes: Axes | None = None,
) -> Axes:
    """Draws the values of some units over time as lines, such as those of `find_units`.

    Args:
        values: `[T, H]`, states or gates of one sequence.
        units: the numbers of the units to draw.
        text: the T characters or tokens that the layer read; written below, if there is room.
        axes: where to draw; None for a new figure.

    Returns:
        The axes. `axes.figure` is the figure.

    Raises:
        ImportError: if matplotlib is not installed.
        ValueError: if an array does not have T steps.

    Example:
        >>> import jax.numpy as jnp
        >>> from recurrax.analysis import plot_units
        >>> axes = plot_units(jnp.eye(5), [3, 1], text="hello")
        >>> axes.lines[0].get_label(), axes.lines[0].get_ydata().tolist()
        ('unit 3', [0.0, 0.0, 0.0, 1.0, 0.0])
    """
    values = _of_one_sequence("values", values)
    steps = len(values)
    if axes is None:
        axes = _figure(float(np.clip(0.11 * steps, 6, 18)), 2.6).add_subplot()
    for unit, color in zip(units, _colors(len(units)), strict=True):
        line = values[:, unit]
        axes.plot(np.arange(steps), line, color=color, linewidth=1.4, label=f"unit {unit}")
    axes.set_ylabel("value", fontsize=9)
    axes.tick_params(labelsize=8, length=2)
    # A line up for every character would be too much.
    axes.grid(axis="y", **_GRID)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlim(-0.5, steps - 0.5)
    # Beside the lines, so that no value is covered.
    axes.legend(frameon=False, fontsize=9, loc="center left", bbox_to_anchor=(1, 0.5))
    _write_below(axes, text, steps)
    return axes


def plot_saturation(
    gates: Mapping[str, Any], *, mask: Any = None, axes: Axes | None = None
) -> Axes:
    """Draws how often each unit's gates are nearly shut and nearly open, one point a unit.

    Units near the lower right are open at nearly every step. Units near the upper left are shut.
    Units near the origin are never saturated. No unit lies above the line.

    Args:
        gates: values `[..., H]` by name, of gates with a sigmoid.
        mask: `bool[...]`, True at the unmasked steps.
        axes: where to draw; None for a new figure.

    Returns:
        The axes. `axes.figure` is the figure.

    Raises:
        ImportError: if matplotlib is not installed.
        ValueError: as `gate_saturation`.

    Example:
        >>> import jax.numpy as jnp
        >>> from recurrax.analysis import plot_saturation
        >>> axes = plot_saturation({"forget": jnp.array([[0.99, 0.5], [0.95, 0.0]])})
        >>> axes.collections[0].get_offsets().tolist()  # (open, shut) of both units
        [[1.0, 0.0], [0.0, 0.5]]

    References:
        Karpathy et al., Visualizing and understanding recurrent networks, 2015,
        https://arxiv.org/abs/1506.02078
    """
    points = {}
    for name, values in gates.items():
        saturation = gate_saturation(values, mask=mask)
        points[name] = np.stack([saturation.open, saturation.shut], axis=-1)  # [H, 2]
    if axes is None:
        axes = _figure(4.6, 4.6).add_subplot()
    for (name, point), color in zip(points.items(), _colors(len(points)), strict=True):
        # The points on the edges are drawn in full.
        style: dict[str, Any] = {"color": color, "alpha": 0.6, "linewidth": 0, "clip_on": False}
        axes.scatter(point[:, 0], point[:, 1], s=26, label=name, **style)
    axes.plot([0, 1], [1, 0], color="#999999", linewidth=0.8, linestyle="--")
    axes.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
    axes.set(xlabel="share of steps nearly open", ylabel="share of steps nearly shut")
    axes.grid(**_GRID)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="upper right")
    return axes


def plot_trajectories(
    components: PrincipalComponents,
    vectors: Any,
    points: FixedPoints | None = None,
    *,
    axes: Axes | None = None,
) -> Axes:
    """Draws trajectories of states, and fixed points, in two or three principal components.

    Args:
        components: the directions, two or three of them, from `principal_components`.
        vectors: `[*B, T, S]`, the states of every step, from `flatten_state`. Each sequence is a
            line, and a small dot marks its last step.
        points: fixed and slow points. Stable ones are filled, unstable ones are hollow, and slow
            ones are crosses.
        axes: where to draw, with `projection="3d"` for three components; None for a new figure.

    Returns:
        The axes. `axes.figure` is the figure.

    Raises:
        ImportError: if matplotlib is not installed.
        ValueError: if there are not two or three components.

    Example:
        >>> import jax
        >>> from recurrax.analysis import plot_trajectories, principal_components
        >>> vectors = jax.random.normal(jax.random.key(0), (3, 20, 8))  # [B, T, S]
        >>> axes = plot_trajectories(principal_components(vectors), vectors)
        >>> len(axes.lines)
        3
    """
    number = len(components.directions)
    if number not in (2, 3):
        raise ValueError(f"`components` must be 2 or 3 of them; got {number}.")
    projected = np.asarray(components.project(vectors))  # [*B, T, K]
    if projected.ndim < 2:
        raise ValueError(f"`vectors` must be [*B, T, S]; got {describe(np.asarray(vectors))}.")
    lines = projected.reshape(-1, *projected.shape[-2:])
    # In three dimensions axes have more methods than `Axes`.
    panel: Any = axes
    if panel is None:
        projection = {2: None, 3: "3d"}[number]
        panel = _figure(5.6, 5).add_subplot(projection=projection)
    # A few lines may have colors of their own. Many lines are one cloud.
    colors, alpha = _colors(len(lines)), 0.8
    if len(lines) > len(_COLORS):
        colors, alpha = ["#7f9cc9"] * len(lines), 0.4
    for line, color in zip(lines, colors, strict=True):
        panel.plot(*line.T, color=color, linewidth=0.8, alpha=alpha)
    ends = lines[:, -1]  # [N, K]
    panel.scatter(*ends.T, s=9, color=colors, linewidth=0)
    if points is not None:
        _draw_points(panel, components, points)

    names = [f"component {i + 1} ({share:.0%})" for i, share in enumerate(components.shares)]
    panel.set(xlabel=names[0], ylabel=names[1])
    if number == 3:
        panel.set(zlabel=names[2])
        # The layout leaves no room for the third label.
        panel.set_box_aspect(None, zoom=0.85)
    else:
        panel.grid(**_GRID)
        panel.set_axisbelow(True)
        panel.spines[["top", "right"]].set_visible(False)
    return panel


def _draw_points(panel: Any, components: PrincipalComponents, points: FixedPoints) -> None:
    """Draws fixed and slow points with a legend."""
    places = np.asarray(components.project(points.vectors))  # [N, K]
    kinds: dict[str, tuple[np.ndarray, dict[str, Any]]] = {
        "stable": (points.fixed & points.stable, {"color": "#222222", "marker": "o"}),
        "unstable": (
            points.fixed & ~points.stable,
            {"facecolor": "white", "edgecolor": "#c44e52", "marker": "o", "linewidth": 1.3},
        ),
        "slow": (~points.fixed, {"color": "#55a868", "marker": "x", "linewidth": 1.3}),
    }
    # The legend names only what is there, with its number.
    for name, (chosen, style) in kinds.items():
        if chosen.any():
            label = f"{name} ({chosen.sum()})"
            panel.scatter(*places[chosen].T, s=42, zorder=3, label=label, **style)
    panel.legend(frameon=False, fontsize=9)


def plot_gradients(norms: Mapping[str, Any], *, axes: Axes | None = None) -> Axes:
    """Draws the norms of gradients by distance in time, one line for each layer.

    Each line is the mean over the batch, relative to distance 0, on a logarithmic scale. A straight
    line down is a gradient that vanishes, a straight line up is one that explodes.

    Args:
        norms: the result of `gradient_by_distance`, `[*B, T]`, by the name of the layer.
        axes: where to draw; None for a new figure.

    Returns:
        The axes. `axes.figure` is the figure.

    Raises:
        ImportError: if matplotlib is not installed.

    Example:
        >>> import jax.numpy as jnp
        >>> from recurrax.analysis import plot_gradients
        >>> axes = plot_gradients({"half": 3 * 0.5 ** jnp.arange(4.0)})
        >>> axes.lines[0].get_ydata().tolist()
        [1.0, 0.5, 0.25, 0.125]

    References:
        Pascanu et al., On the difficulty of training recurrent neural networks, 2013,
        https://arxiv.org/abs/1211.5063
    """
    if axes is None:
        axes = _figure(6.5, 4).add_subplot()
    for (name, norm), color in zip(norms.items(), _colors(len(norms)), strict=True):
        norm = np.asarray(norm)
        mean = norm.reshape(-1, norm.shape[-1]).mean(axis=0)  # [T]
        axes.plot(np.arange(len(mean)), mean / mean[0], color=color, linewidth=1.8, label=name)
    axes.set_yscale("log")
    axes.set(xlabel="distance in time, steps", ylabel="gradient, relative to distance 0")
    # The line of a gradient that neither vanishes nor explodes.
    axes.axhline(1, color="#999999", linewidth=0.8, linestyle="--", zorder=1)
    axes.margins(x=0)
    axes.grid(**_GRID)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    return axes


# Parts of pictures -------------------------------------------------------------------------------


def _figure(width: float, height: float) -> Figure:
    """Returns a figure without pyplot: no window opens, and no global state changes."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise ImportError(
            "this needs matplotlib, which is not installed. Install it by: "
            "pip install 'recurrax[analysis]'",
            name="matplotlib",
        ) from error
    figure = Figure(figsize=(width, height), dpi=150, layout="constrained")
    # A figure without pyplot needs a canvas.
    FigureCanvasAgg(figure)
    return figure


def _colors(number: int) -> list[str]:
    """Returns a color for each of some lines; they repeat if there are many."""
    return [_COLORS[i % len(_COLORS)] for i in range(number)]


def _heat_map(panel: Any, values: np.ndarray, name: str) -> None:
    """Draws values `[T, H]` with a scale beside them."""
    limit, beyond = 1.0, "neither"
    # States such as the c of an LSTM have no bounds, and one unit may be far above the others. The
    # scale ends where all but 2% of the values are, with a pointed end for the rest.
    if np.abs(values).max(initial=0) > 1:
        limit = max(float(np.quantile(np.abs(values), 0.98)), 1.0)
        beyond = "both"
    signed = values.size > 0 and values.min() < 0
    # White is 0 in both maps.
    color_map, low = "Blues", 0.0
    if signed:
        color_map, low = "RdBu_r", -limit
    image = panel.imshow(
        values.T,
        cmap=color_map,
        vmin=low,
        vmax=limit,
        aspect="auto",
        interpolation="nearest",
    )
    panel.set_title(name, loc="left", fontsize=10)
    panel.set_ylabel("unit", fontsize=9)
    panel.yaxis.get_major_locator().set_params(integer=True)
    panel.tick_params(labelsize=8, length=2)
    panel.spines[:].set_color("#cccccc")
    if not signed and beyond == "both":
        beyond = "max"
    place = {"ax": panel, "pad": 0.01, "fraction": 0.03}
    scale = panel.figure.colorbar(image, extend=beyond, ticks=[low, limit], format="%.3g", **place)
    scale.ax.tick_params(labelsize=8, length=2)
    scale.outline.set_edgecolor("#cccccc")


def _write_below(panel: Axes, text: Sequence[str] | None, steps: int) -> None:
    """Writes a text below a panel, a piece for each step, or numbers the steps."""
    if text is not None and len(text) != steps:
        raise ValueError(
            f"`text` must have {steps} characters or tokens, one for each step; got {len(text)}."
        )
    if text is None or steps > _MOST_CHARACTERS:
        panel.set_xlabel("step", fontsize=9)
        return
    # Spaces and line breaks have no ink, so marks stand for them.
    marks = {" ": "·", "\n": "↵", "\t": "→"}
    labels = [marks.get(piece, piece) for piece in text]
    # Tokens are too wide to stand side by side.
    rotation = 0
    if max(map(len, labels)) > 1:
        rotation = 90
    panel.set_xticks(range(steps), labels, family="monospace", fontsize=8, rotation=rotation)
    panel.tick_params(axis="x", length=0)


def _of_one_sequence(name: str, values: Any) -> np.ndarray:
    """Returns values `[T, H]` as a NumPy array."""
    values = np.asarray(values)
    if values.ndim != 2:
        raise ValueError(
            f"`{name}` must be [T, H], one sequence without batch axes; got {describe(values)}. "
            "Take one row of the batch."
        )
    return values


def _check_steps(name: str, values: np.ndarray, steps: int) -> None:
    if not values.ndim or len(values) != steps:
        raise ValueError(f"`{name}` must have {steps} steps; got {describe(values)}.")
