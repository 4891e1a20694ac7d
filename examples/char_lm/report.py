"""The report of a run: one HTML file that needs no network."""

import base64
import dataclasses
import html
import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path
from string import Template
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from recurrax import nnx as rnn
from recurrax.analysis import (
    gate_saturation,
    gradient_by_distance,
    plot_gradients,
    plot_saturation,
)

from .config import PROGRAM, Config
from .data import Corpus
from .expect import baselines, parameters, product_weights
from .files import LOG, REPORT, SESSIONS, write
from .log import read
from .machine import read_sessions, speed
from .model import CharLM
from .plot import Rows, curve, curves, gradient_norms, has_validation, in_bits, new_figure, png
from .run import Run, Saved
from .sample import draw_sample, printable

_TEMPLATE = Path(__file__).with_name("report.html")

# The held-out text that the gates read: some rows, and the characters of each.
_ROWS, _STEPS = 4, 256
# The same for gradients by distance: each unit of the last layer costs a backward pass.
_GRADIENT_ROWS, _GRADIENT_STEPS, _MOST_UNITS = 2, 100, 1024
# The names of the gates with a sigmoid. The others are candidates, which no gate is.
_GATES = ("input", "forget", "output", "reset", "update")


def write_report(run: Run, corpus: Corpus, best: Saved, model: CharLM) -> None:
    """Writes the report of a run into its folder.

    Args:
        run: the run.
        corpus: its text.
        best: its best checkpoint.
        model: the model of that checkpoint.
    """
    config, vocabulary = run.config, run.text.vocabulary
    rows = read(run.folder / LOG)
    sessions = read_sessions(run.folder / SESSIONS)
    weights = product_weights(len(vocabulary), config)
    uniform, unigram, zipped = baselines(vocabulary, corpus)
    others = {"a blind guess": uniform, "frequencies alone": unigram, "gzip": zipped}
    count = parameters(len(vocabulary), config)
    title = f"{config.layers} × {config.cell} of {config.hidden_size}"
    parts = {
        "title": _escape(f"Character-level language model: {title}"),
        "summary": _escape(_summary(run, corpus, rows, count)),
        "baselines": _baselines(best, others),
        "curves": _curves(rows, title, others),
        "advice": _escape(_advice(rows, _epochs(rows, corpus, config))),
        "samples": _samples(rows, draw_sample(model, vocabulary, config, config.steps), best),
        "norms": _norms(rows, config),
        "memory": _memory(model, corpus, config),
        "speed": _escape(speed(rows, sessions, weights, config)),
        "sessions": _sessions(sessions),
        "settings": _settings(config),
        "commands": _commands(run),
    }
    page = Template(_TEMPLATE.read_text("utf-8")).substitute(parts)
    write(run.folder / REPORT, [page.encode()])


# The parts of the page, in its order.


def _summary(run: Run, corpus: Corpus, rows: Rows, count: int) -> str:
    source = run.text.source or "the source of the Python standard library"
    size = len(corpus.train) + len(corpus.validation)
    last = rows[-1]
    state = "finished"
    if last["step"] < run.config.steps:
        state = "not at its end"
    return (
        f"{count:,} parameters. Text: {source}, {size:,} characters, "
        f"{len(run.text.vocabulary):,} distinct; the last tenth is held out. "
        f"After {last['step']:,} of {run.config.steps:,} steps and "
        f"{last['seconds'] / 60:,.1f} minutes, the run is {state}."
    )


def _baselines(best: Saved, others: dict[str, float]) -> str:
    _, bits = in_bits(np.zeros(1), np.array([best.best]))
    scores = {**others, f"this model, best at step {best.step:,}": float(bits[0])}
    lines = []
    for name, score in sorted(scores.items(), key=lambda item: -item[1]):
        row = _row([_escape(name), f"{score:.2f}"], "td")
        if name not in others:
            row = row.replace("<tr>", '<tr class="own">')
        lines.append(row)
    return _table(["", "bits per character"], lines)


def _curves(rows: Rows, title: str, others: dict[str, float]) -> str:
    if not has_validation(rows):
        return "<p>The log has no validation yet.</p>"
    steps, validation = in_bits(*curve(rows, "validation_loss"))
    told = (
        f"from {validation[0]:.2f} bits per character at step {steps[0]:,.0f} "
        f"to {validation[-1]:.2f} at step {steps[-1]:,.0f}"
    )
    closer = _picture(
        curves(rows, title),
        f"Training and validation loss against the training step; validation goes {told}.",
        "The thin line is the loss of single steps.",
    )
    entire = _picture(
        curves(rows, "from the first step", others),
        f"The same on a logarithmic scale of steps, with the baselines as lines: {told}.",
        "Where the curve crosses a line, the model becomes better than that baseline.",
    )
    return closer + entire


def _epochs(rows: Rows, corpus: Corpus, config: Config) -> float:
    """Returns how often training has read its text."""
    return rows[-1]["step"] * config.batch * config.window / len(corpus.train)


def _advice(rows: Rows, epochs: float) -> str:
    """Compares the last training losses with the validation."""
    if not has_validation(rows):
        return "The log has no validation yet."
    steps, validation = in_bits(*curve(rows, "validation_loss"))
    _, training = in_bits(*curve(rows, "loss"))
    learned = training[-max(1, len(training) // 20) :].mean()
    best = int(np.argmin(validation))
    compared = (
        f"The last training steps need {learned:.2f} bits per character, "
        f"the held-out text {validation[-1]:.2f}. "
    )
    # A text that was read once at most cannot be learned by heart: the parts differ in kind.
    if epochs < 1:
        return compared + (
            f"Training has read {epochs:.0%} of its text, so it cannot know the text by heart. "
            "More --steps, a larger --hidden-size or more --layers may help."
        )
    compared += f"Training has read its text {epochs:.1f} times. "
    # A validation rises a little by chance.
    if validation[-1] > 1.02 * validation[best]:
        return compared + (
            f"The validation was best at step {steps[best]:,.0f} and has become worse since: "
            "the model learns its text by heart. More text or --dropout helps, or fewer --steps."
        )
    if validation[-1] > 1.1 * learned:
        return compared + (
            "The model knows its own text better than other text. "
            "More text or --dropout may help more than a larger model. "
            "The held-out text may also be of another kind: it is the end of the text."
        )
    return compared + (
        "The difference is small, so the model does not learn its text by heart. "
        "More --steps, a larger --hidden-size or more --layers may help."
    )


def _samples(rows: Rows, last: str, best: Saved) -> str:
    parts = []
    for row in rows:
        if "sample" in row:
            parts.append(_sample(f"after step {row['step']:,}", row["sample"]))
    parts.append(_sample(f"by the best checkpoint, of step {best.step:,}", last, "open"))
    return "\n".join(parts)


def _sample(title: str, text: str, state: str = "") -> str:
    shown = _escape(printable(text))
    return f"<details {state}><summary>{title}</summary><pre>{shown}</pre></details>"


def _norms(rows: Rows, config: Config) -> str:
    steps, norms = curve(rows, "gradient_norm")
    if not len(steps):
        return "<p>The log is of an older version and has no gradient norms.</p>"
    share = float((norms > config.clip).mean())
    told = (
        f"Half of the steps have a norm below {np.median(norms):.2g}, the largest is "
        f"{norms.max():.2g}. Gradients above --clip {config.clip:g} are scaled down to it, "
        f"in {share:.1%} of the steps."
    )
    caption = "A line that rises again and again by factors asks for a lower --learning-rate."
    alt = f"The norm of all gradients against the training step. {told}"
    return f"<p>{told}</p>" + _picture(gradient_norms(rows, config.clip), alt, caption)


def _memory(model: CharLM, corpus: Corpus, config: Config) -> str:
    """Describes the gates on held-out text, and how far gradients reach."""
    model.eval()
    xs = model.embedding(_held_out(corpus, _ROWS, _STEPS))  # [B, T, embedding_size]
    cells = model.recurrent.trace(xs).cells
    lines, pictures = [], []
    for number, cell in enumerate(cells.values(), 1):
        gates = {name: cell.gates[name] for name in _GATES if name in cell.gates}
        told = []
        for name, values in gates.items():
            saturation = gate_saturation(values)
            shut, opened = float(saturation.shut.mean()), float(saturation.open.mean())
            cells_of_row = [str(number), name, f"{shut:.0%}", f"{opened:.0%}"]
            lines.append(_row(cells_of_row, "td"))
            told.append(f"{name} gate {shut:.0%} shut, {opened:.0%} open")
        if gates:
            figure = new_figure(4.6, 4.6)
            axes = plot_saturation(gates, axes=figure.add_subplot())
            axes.set_title(f"layer {number}", loc="left", fontsize=11)
            alt = f"Gates of layer {number}, one point for each unit: {'; '.join(told)}."
            pictures.append(_picture(figure, alt))
    parts = [f"<p>An {config.cell.upper()} has no gates, so there is no picture of them.</p>"]
    if lines:
        heads = ["layer", "gate", "nearly shut", "nearly open"]
        text = (
            "A gate is nearly shut below 0.1 and nearly open above 0.9. The table has the share "
            f"of {xs.shape[0] * xs.shape[1]:,} steps on held-out text, as the mean over units. "
            "A unit whose forget or update gate stays open has a long memory."
        )
        parts = [f"<p>{text}</p>", _table(heads, lines), *pictures]
    return "\n".join([*parts, _reach(model, corpus, config)])


def _reach(model: CharLM, corpus: Corpus, config: Config) -> str:
    """Describes how strongly the last output depends on earlier characters."""
    if config.hidden_size > _MOST_UNITS:
        return "<p>The gradient by distance is left out: it takes long for so many units.</p>"
    steps = min(_GRADIENT_STEPS, 2 * config.window)
    xs = model.embedding(_held_out(corpus, _GRADIENT_ROWS, steps))
    layer, params = model.recurrent.layer, rnn.params_of(model.recurrent)
    norms = np.asarray(gradient_by_distance(layer, params, xs.astype(jnp.float32)))  # [B, T]
    mean = norms.mean(axis=0)
    # The first distance at which a tenth is left.
    weak = np.flatnonzero(mean < 0.1 * mean[0])
    told = "More than a tenth of the gradient is left at all distances shown."
    if len(weak):
        told = f"At a distance of {weak[0]} characters, less than a tenth of the gradient is left."
    figure = new_figure(6.4, 3.4)
    axes = plot_gradients({"all layers": norms}, axes=figure.add_subplot())
    axes.axvline(config.window, color="#777777", linewidth=0.9, linestyle=":", label="--window")
    axes.legend(frameon=False)
    places = f"It is the mean of {len(norms)} places of the held-out text."
    caption = f"How strongly the last output depends on earlier characters. {told} {places}"
    return _picture(figure, f"The norm of gradients by distance in time. {told}", caption)


def _sessions(sessions: Sequence[dict[str, Any]]) -> str:
    parts = []
    for session in sessions:
        variables = [f"{name}={shlex.quote(value)}" for name, value in session["variables"].items()]
        command = _escape(" ".join([*variables, session["command"]]))
        facts = {"start": session["began"], **session["machine"], **session["versions"]}
        if session["rate"] is not None:
            facts["one large product"] = f"{session['rate'] / 1e9:,.0f} GFLOP/s"
        table = _facts(facts)
        parts.append(f"<p>From step {session['step']:,}:</p><pre>{command}</pre>{table}")
    if not parts:
        return "<p>The run is of an older version, which did not note the command.</p>"
    return "\n".join(parts)


def _settings(config: Config) -> str:
    # Each setting is an option of `train`, with a default.
    lines = []
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        option = "--" + field.name.replace("_", "-")
        cells = [option, str(value), str(field.default), field.metadata["help"]]
        row = _row(map(_escape, cells), "td", numbers=False)
        if value != field.default:
            row = row.replace("<tr>", '<tr class="own">')
        lines.append(row)
    return _table(["option", "value", "default", "meaning"], lines, numbers=False)


def _commands(run: Run) -> str:
    folder = shlex.quote(str(run.folder))
    commands = {
        "Let it write more:": f"{PROGRAM} sample {folder} --length 2000",
        "Continue a text of yours:": f"{PROGRAM} sample {folder} --prompt 'your text'",
        "Go on, if it was stopped:": f"{PROGRAM} resume {folder}",
        "Learn another text:": f"{PROGRAM} train --text FILE --out runs/mine",
        "All options:": f"{PROGRAM} train --help",
    }
    parts = []
    for title, command in commands.items():
        parts.append(f"<p>{title}</p><pre>{_escape(command)}</pre>")
    return "\n".join(parts)


# Pieces of HTML.


def _escape(text: str) -> str:
    return html.escape(text)


def _picture(figure: Figure, alt: str, caption: str = "") -> str:
    data = base64.b64encode(png(figure)).decode()
    width, height = figure.get_size_inches() * 100
    size = f'width="{width:.0f}" height="{height:.0f}"'
    image = f'<img {size} alt="{_escape(alt)}" src="data:image/png;base64,{data}">'
    return f"<figure>{image}<figcaption>{_escape(caption)}</figcaption></figure>"


def _table(heads: list[str], lines: list[str], numbers: bool = True) -> str:
    return f"<table>{_row(heads, 'th', numbers)}{''.join(lines)}</table>"


def _row(cells: Iterable[str], tag: str, numbers: bool = True) -> str:
    """A row of a table. The cells are HTML; after the first one they may be numbers."""
    parts = []
    for index, cell in enumerate(cells):
        kind = ""
        if numbers and index:
            kind = ' class="number"'
        parts.append(f"<{tag}{kind}>{cell}</{tag}>")
    return f"<tr>{''.join(parts)}</tr>"


def _facts(facts: dict[str, str]) -> str:
    lines = []
    for name, value in facts.items():
        lines.append(_row([_escape(name), _escape(value)], "td", numbers=False))
    return f"<table>{''.join(lines)}</table>"


def _held_out(corpus: Corpus, rows: int, steps: int) -> jax.Array:
    """Takes `int[rows, steps]` characters from the start of the held-out text, or fewer."""
    steps = min(steps, len(corpus.validation) // rows)
    chars = np.asarray(corpus.validation[: rows * steps]).reshape(rows, steps)
    return jnp.asarray(chars, jnp.int32)
