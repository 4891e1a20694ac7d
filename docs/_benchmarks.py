"""Tables of the recorded figures in `benchmarks/results/`, for the directive `benchmark`.

Each function returns rows of text. The first row is the header, and columns of numbers begin at
the second column. A page shows a table by its name:

    ```{benchmark} training
    ```
"""

import json
import statistics
from pathlib import Path

RESULTS = Path(__file__).parent.parent / "benchmarks" / "results"
NONE = "–"
Rows = list[list[str]]

# How the contenders of `benchmarks.speed` are called here.
CONTENDERS = {
    "torch": "PyTorch",
    "onnxruntime": "onnxruntime",
    "nnx": "Flax NNX",
    "linen": "Flax Linen",
    "haiku": "Haiku",
    "equinox": "Equinox",
    "keras": "Keras",
}


def read(name: str) -> dict:
    """Reads one file of results."""
    return json.loads((RESULTS / f"{name}.json").read_text())


def with_quartiles(ratio: float, quartiles: list[float]) -> str:
    """Writes a ratio, and its quartiles behind it."""
    low, high = quartiles
    return f"{ratio:.2f} ({low:.2f}-{high:.2f})"


def speed(mode: str, file: str = "speed") -> Rows:
    """The time of recurrax over the time of each contender that has a figure in this mode."""
    cases = []
    for row in read(file)["rows"]:
        # A case that other programs disturbed has no place here.
        if row["mode"] == mode and not row.get("machine", {}).get("faults"):
            cases.append(row)
    names = []
    for name in CONTENDERS:
        if any("ratio" in case["contenders"].get(name, {}) for case in cases):
            names.append(name)
    rows = [["T×B×I×H", *(CONTENDERS[name] for name in names)]]
    for case in cases:
        cells = []
        for name in names:
            result = case["contenders"].get(name, {})
            text = NONE
            if "ratio" in result:
                text = with_quartiles(result["ratio"], result["ratio_quartiles"])
            cells.append(text)
        rows.append([case["label"], *cells])
    return rows


def forward() -> Rows:
    """A forward pass."""
    return speed("forward")


def training() -> Rows:
    """A training step."""
    return speed("training")


def streaming() -> Rows:
    """One step after another, called from Python."""
    return speed("streaming")


def one_core_training() -> Rows:
    """A training step on one core."""
    return speed("training", "speed_one_core")


def trace() -> Rows:
    """The time of a trace over the time of `scan`."""
    found: dict[str, dict[str, str]] = {}
    for row in read("trace")["rows"]:
        text = with_quartiles(row["ratio"], row["quartiles"])
        found.setdefault(row["cell"], {})[row["contender"]] = text
    names = ["states", "gates", "trace", "loop by hand"]
    rows = [["cell", *names]]
    for cell, figures in found.items():
        rows.append([cell, *(figures[name] for name in names)])
    return rows


def shakespeare() -> Rows:
    """The validation losses of complete training runs."""
    rows = [["seed", "recurrax", "PyTorch", "ratio"]]
    for run in read("shakespeare")["runs"]:
        losses = run["validation_loss"]
        ours, theirs = losses["recurrax"], losses["torch"]
        rows.append([str(run["seed"]), f"{ours:.4f}", f"{theirs:.4f}", f"{ours / theirs:.4f}"])
    return rows


def race() -> Rows:
    """The seconds of training until a validation loss is reached."""
    rows = [["seed", "recurrax", "PyTorch", "recurrax, at the end", "PyTorch, at the end"]]
    for run in read("shakespeare_target")["runs"]:
        cells = [str(run["seed"])]
        for name in ("recurrax", "torch"):
            seconds = run["seconds_to_target"][name]
            # A loss that was not reached has no time.
            text = NONE
            if seconds is not None:
                text = f"{seconds:.0f} s"
            cells.append(text)
        for name in ("recurrax", "torch"):
            cells.append(f"{run['validation_loss'][name]:.4f}")
        rows.append(cells)
    return rows


def remat() -> Rows:
    """What `remat` saves, and what it costs."""
    rows = [["kept", "temporary memory", "of the first row", "time, of the first row"]]
    for row in read("remat_memory")["rows"]:
        kept = "every step"
        if row["chunk"]:
            kept = f"every {row['chunk']}th state"
        memory, time = f"{row['memory_ratio']:.2f}", f"{row['time_ratio']:.2f}"
        rows.append([kept, f"{row['temporary_mb']:.0f} MB", memory, time])
    return rows


def by_steps(file: str, names: list[str]) -> Rows:
    """The time of a training step over the time of the contender at 1.00, and its memory."""
    found: dict[int, dict[str, str]] = {}
    for row in read(file)["rows"]:
        if row["mode"] == "training":
            text = f"{row['ratio']:.2f}; {row['temporary_mb']:.0f} MB"
            found.setdefault(row["steps"], {})[row["implementation"]] = text
    rows = [["steps", *names]]
    for steps, figures in sorted(found.items()):
        rows.append([f"{steps:,}", *(figures.get(name, NONE) for name in names)])
    return rows


def linear() -> Rows:
    """A minGRU against the number of steps."""
    names = ["sequential", "associative", "blocked", "xla", "by hand", "LSTM"]
    return by_steps("linear", names)


def matrix_memory() -> Rows:
    """An mLSTM against the number of steps."""
    names = ["xla", "chunks of 16", "chunks of 64", "chunks of 256", "LSTM"]
    return by_steps("linear_mlstm", names)


def newton() -> Rows:
    """Newton iterations until all states are right."""
    results = read("newton")
    shortest, longest = results["lengths"][0], results["lengths"][-1]
    found: dict[tuple, dict[tuple, str]] = {}
    for row in results["rows"]:
        text = str(row["iterations"])
        if not row["converged"]:
            text = f"> {results['limit']}"
        case = (row["parameters"], row["steps"])
        found.setdefault((row["cell"], row["jacobian"]), {})[case] = text
    # The columns: drawn and trained parameters, the shortest and the longest sequence.
    rows = [["cell", "Jacobian"]]
    cases = []
    for parameters in ("drawn", "trained"):
        for steps in (shortest, longest):
            cases.append((parameters, steps))
            rows[0].append(f"{parameters}, T = {steps:,}")
    # With damping there are as many rows again; `benchmarks/results/newton.md` has them.
    for (cell, jacobian), figures in found.items():
        if "damped" not in jacobian:
            rows.append([cell, jacobian, *(figures[case] for case in cases)])
    return rows


def crf() -> Rows:
    """A training step of a CRF, against pytorch-crf."""
    rows = [["B×T×L", "recurrax", "pytorch-crf", "ratio"]]
    for row in read("crf")["rows"]:
        label = "×".join(str(size) for size in row["shape"])
        if row["ragged"]:
            label += " ragged"
        times = [f"{1000 * row[name]:.1f} ms" for name in ("recurrax", "pytorch-crf")]
        rows.append([label, *times, with_quartiles(row["ratio"], row["quartiles"])])
    return rows


def sampling() -> Rows:
    """Characters of a text, one at a time."""
    rows = [["contender", "characters per second", "time over `generate`"]]
    for row in read("sampling")["rows"]:
        number = f"{row['characters_per_second']:,.0f}"
        rows.append([f"`{row['contender']}`", number, f"{row['ratio']:.2f}"])
    return rows


def published() -> Rows:
    """Losses on test data, beside those that others published."""
    found: dict[tuple, list[dict]] = {}
    for row in read("published")["rows"]:
        found.setdefault((row["preset"], row["cell"]), []).append(row)
    rows = [["data, cell", "published", "mean of the seeds", "seeds"]]
    for (preset, cell), runs in found.items():
        mean = statistics.mean(run["test"] for run in runs)
        cells = [f"{preset}, {cell}", f"{runs[0]['published']:.2f}", f"{mean:.3f}", str(len(runs))]
        rows.append(cells)
    return rows


def figure(values: list[float]) -> str:
    """Writes the median over seeds, and the least and the greatest where they differ."""
    middle, low, high = statistics.median(values), min(values), max(values)
    if f"{low:.2g}" == f"{high:.2g}":
        return f"{middle:.2g}"
    return f"{middle:.2g} ({low:.2g} to {high:.2g})"


def learned(file: str) -> Rows:
    """What each layer learned in each task."""
    rows = [["task, layer", "parameters", "measure", "median over seeds"]]
    for row in read(file)["rows"]:
        label = f"{row['task']}, {row['layer']}"
        for measure, values in row["measures"].items():
            rows.append([label, f"{row['parameters']:,}", measure, figure(values)])
            # The name stands once for all of its measures.
            label = "″"
    return rows


def tasks() -> Rows:
    """Tasks of the papers of the cells."""
    return learned("tasks")


def tracking() -> Rows:
    """Tasks that track a state, or recall values."""
    return learned("tracking")


TABLES = {
    "forward": forward,
    "training": training,
    "streaming": streaming,
    "one_core_training": one_core_training,
    "trace": trace,
    "shakespeare": shakespeare,
    "race": race,
    "remat": remat,
    "linear": linear,
    "matrix_memory": matrix_memory,
    "newton": newton,
    "crf": crf,
    "sampling": sampling,
    "published": published,
    "tasks": tasks,
    "tracking": tracking,
}


def markdown(rows: Rows) -> str:
    """Writes rows as a table of Markdown, numbers to the right."""
    rule = ["---", *["---:"] * (len(rows[0]) - 1)]
    lines = []
    for cells in (rows[0], rule, *rows[1:]):
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
