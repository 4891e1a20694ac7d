"""Every check that waits for a GPU, in parts: `python -m benchmarks.gpu --out results`.

Each part runs in a process of its own, takes at most `--limit` seconds, and writes PART.json after each row. So a
part that is stopped leaves what it has. `--parts` chooses. `--rehearse` takes tiny sizes, on any machine.

- `tests`: the tests of the core on the GPU, file by file.
- `cudnn`: values and gradients of `implementation="cudnn"` against `"xla"` at the benchmark's sizes.
- `loops`: times of `"xla"` (`lax.scan`), `"hoisted"`, unrolled loops and `"cudnn"`.
- `flags`: the times of the loops again, with XLA's options that record a loop in a CUDA graph.
- `linear`: linear recurrences, sequential, associative and blocked.
- `mlstm`: the matrix memory, step by step and in chunks.
- `crf`: the sum over labelings one step after another and at once, by the number of labels.
- `k_best`: the k best labelings against the best one, and against those of a CPU.
- `text`: an update of each recipe of text in `benchmarks.published`, at full size.
- `speed`: `benchmarks.speed` against PyTorch and Flax.
- `newton`: `benchmarks.newton`.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
# XLA's options that may save the cost of launching each step of a loop.
GRAPH = "--xla_gpu_enable_command_buffer=+WHILE --xla_gpu_graph_min_graph_size=1"
FLAGS = {
    "none": "",
    "while": GRAPH,
    "while_unrolled": f"{GRAPH} --xla_gpu_command_buffer_unroll_loops=true",
    "no_graphs": "--xla_gpu_enable_command_buffer=",
}
# Files whose tests need no several devices and no other library. Each has a process of its own.
TESTS = (
    "cudnn values cells scan masks implementations linear mlstm slstm continuous convolutional blocks regularizers"
    " learned_state attention batching unroll decoding crf ctc transducer flax contract"
)
# A row of results: what was measured, and the figures.
Row = dict[str, Any]


# Measuring -------------------------------------------------------------------------------------------


def times(runs: dict[str, Callable], args: tuple, reference: str, rounds: int, seconds: float) -> Row:
    """Compiles functions of the same arguments and times them in turn; says why one cannot run.

    Returns:
        For each name seconds a call, its ratio to the reference in the same round, seconds to compile and the
        temporary memory in MB.
    """
    import jax

    from benchmarks.speed.race import ratios

    result: Row = {}
    compiled, calls = {}, {}
    taken: dict[str, list[float]] = {}
    for name, run in runs.items():
        began = time.perf_counter()
        try:
            program = jax.jit(run).lower(*args).compile()
        except Exception as error:
            result[name] = {"failed": f"{type(error).__name__}: {error}".splitlines()[0][:300]}
            continue
        compile_seconds = time.perf_counter() - began
        memory = program.memory_analysis()
        result[name] = {"compile_seconds": compile_seconds, "temporary_mb": memory.temp_size_in_bytes / 1e6}
        # The first call warms up, the second one says how many calls are a turn.
        jax.block_until_ready(program(*args))
        began = time.perf_counter()
        jax.block_until_ready(program(*args))
        calls[name] = max(1, int(seconds / (time.perf_counter() - began)))
        compiled[name], taken[name] = program, []
    for number in range(rounds):
        for name in list(compiled)[:: -1 if number % 2 else 1]:
            began = time.perf_counter()
            for _ in range(calls[name]):
                last = compiled[name](*args)
            jax.block_until_ready(last)
            taken[name].append((time.perf_counter() - began) / calls[name])
    for name, of_rounds in taken.items():
        result[name]["seconds"] = statistics.median(of_rounds)
        if reference in taken:
            result[name] |= ratios("ratio", of_rounds, taken[reference])
    return result


def training_of(scan: Callable) -> Callable:
    """A step of training: the gradients of the parameters and the inputs."""
    import jax
    import jax.numpy as jnp

    return jax.grad(lambda params, xs: jnp.mean(scan(params, xs) ** 2), (0, 1))


# The parts -------------------------------------------------------------------------------------------


def loops(options: argparse.Namespace) -> Iterator[Row]:
    """The ways to run a classic cell, by cell, sizes, precision and layout."""
    import jax

    import recurrax
    from benchmarks.speed.cases import SHAPES

    layers = {"lstm": recurrax.LSTMCell, "gru": recurrax.GRUCell}
    ways: dict[str, Row] = {
        "xla": {"implementation": "xla"},
        "hoisted": {"implementation": "hoisted"},
        "hoisted, unroll 4": {"implementation": "hoisted", "unroll": 4},
        "hoisted, unroll 16": {"implementation": "hoisted", "unroll": 16},
        "cudnn": {"implementation": "cudnn"},
    }
    settings = [("tensorfloat32", True), ("tensorfloat32", False), ("highest", True)]
    shapes = SHAPES
    if options.few:
        settings, shapes = settings[:1], ((35, 32, 256, 256), (512, 1, 64, 128))
    if options.rehearse:
        settings, shapes = settings[-1:], ((5, 2, 3, 4),)
    # The limit of time stops the last ones: the LSTM comes first.
    for kind, shape, (precision, time_major) in itertools.product(layers, shapes, settings):
        steps, rows, features, size = shape
        cell = layers[kind](size)
        params = cell.init(jax.random.key(0), features)
        lead = (steps, rows) if time_major else (rows, steps)
        xs = jax.random.normal(jax.random.key(1), (*lead, features))

        def scan(params: Any, xs: jax.Array, cell: Any = cell, time_major: bool = time_major, **way: Any) -> jax.Array:
            return recurrax.scan(cell, params, xs, time_major=time_major, **way)[1]

        runs = {name: functools.partial(scan, **way) for name, way in ways.items()}
        with jax.default_matmul_precision(precision):
            for mode in ("forward", "training"):
                moded = dict(runs)
                if mode == "training":
                    moded = {name: training_of(run) for name, run in runs.items()}
                what = {"cell": kind, "shape": shape, "precision": precision, "time_major": time_major, "mode": mode}
                yield what | {"times": times(moded, (params, xs), "xla", options.rounds, options.seconds)}


def cudnn(options: argparse.Namespace) -> Iterator[Row]:
    """The greatest differences of values and gradients, as shares of the greatest numbers."""
    import jax
    import jax.numpy as jnp

    import recurrax
    from benchmarks.speed.cases import SHAPES

    def difference(got: Any, expected: Any) -> float:
        worst = 0.0
        for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
            worst = max(worst, float(jnp.max(jnp.abs(a - b)) / jnp.max(jnp.abs(b))))
        return worst

    shapes = SHAPES
    if options.rehearse:
        shapes = ((5, 2, 3, 4),)
    for steps, rows, features, size in shapes:
        both = recurrax.Bidirectional(recurrax.LSTMCell(size))
        layers = {"LSTM": recurrax.LSTMCell(size), "bidirectional, two layers": recurrax.Stack((both, both))}
        lengths = jnp.linspace(steps, steps // 5, rows).astype(jnp.int32)
        for name, layer in layers.items():
            params = layer.init(jax.random.key(0), features)
            xs = jax.random.normal(jax.random.key(1), (rows, steps, features))

            # The loop's values are defaults, so that a function keeps those of its own row.
            def scan(params: Any, xs: jax.Array, implementation: str, layer: Any = layer, n: Any = lengths) -> Any:
                return recurrax.scan(layer, params, xs, lengths=n, implementation=implementation)[1]

            row: Row = {"layer": name, "shape": (steps, rows, features, size)}
            try:
                # XLA's own default on a GPU has 10 bits of mantissa.
                with jax.default_matmul_precision("highest"):
                    ways = [functools.partial(scan, implementation=way) for way in ("cudnn", "xla")]
                    row["values"] = difference(*[jax.jit(way)(params, xs) for way in ways])
                    row["gradients"] = difference(*[jax.jit(training_of(way))(params, xs) for way in ways])
            except ValueError as reason:
                row["refused"] = str(reason)
            yield row


def linear(options: argparse.Namespace, family: str = "minGRU") -> Iterator[Row]:
    """The rows of `benchmarks.linear`, length by length."""
    from benchmarks.linear import measure

    lengths = (8,) if options.rehearse else (256, 1024, 4096, 16384, 65536)
    for steps in lengths[: None if family == "minGRU" else 4]:
        yield from measure(family, steps, options.rounds, largest=4096)


def crf(options: argparse.Namespace) -> Iterator[Row]:
    """A training step of a CRF by each solver: where "associative" stops being faster is the bound of labels."""
    import jax

    from recurrax.losses import crf

    sizes: tuple[int, ...] = (4, 9, 16, 24, 32, 48, 64, 128)
    batches: tuple[tuple[int, int], ...] = ((128, 32), (512, 1))
    if options.rehearse:
        sizes, batches = (3,), ((5, 2),)
    for steps, rows in batches:
        for size in sizes:
            emissions = jax.random.normal(jax.random.key(1), (rows, steps, size))
            labels = jax.random.randint(jax.random.key(2), (rows, steps), 0, size)
            params = crf.init(jax.random.key(0), size)

            def step(params: Any, emissions: jax.Array, solver: str, labels: Any = labels) -> Any:
                def loss(params: Any, emissions: jax.Array) -> jax.Array:
                    return -crf.log_likelihood(params, emissions, labels, implementation=solver).mean()

                return jax.grad(loss, (0, 1))(params, emissions)

            solvers = ("sequential", "associative")
            runs = {solver: functools.partial(step, solver=solver) for solver in solvers}
            figures = times(runs, (params, emissions), "sequential", options.rounds, options.seconds)
            yield {"shape": (rows, steps, size), "times": figures}


def k_best(options: argparse.Namespace) -> Iterator[Row]:
    """The k best labelings: time over that of the best one, and whether a CPU finds the same."""
    import jax
    import numpy as np

    from recurrax.losses import crf

    rows, steps, size = (2, 5, 3) if options.rehearse else (32, 128, 32)
    emissions = jax.random.normal(jax.random.key(1), (rows, steps, size))
    params = crf.init(jax.random.key(0), size)
    for k in (2,) if options.rehearse else (1, 5, 20):
        runs = {"viterbi": crf.viterbi, "k_best": functools.partial(crf.k_best, k=k)}
        figures = times(runs, (params, emissions), "viterbi", options.rounds, options.seconds)
        found = crf.k_best(params, emissions, k)
        # Equal scores may come in another order: so the shares of equal labels are told, not required.
        there = jax.device_put((params, emissions), jax.devices("cpu")[0])
        of_cpu = crf.k_best(*there, k)
        equal = float(np.mean(np.asarray(found[0]) == np.asarray(of_cpu[0])))
        error = float(np.max(np.abs(np.asarray(found[1]) - np.asarray(of_cpu[1]))))
        yield {"shape": (rows, steps, size), "k": k, "times": figures, "equal_labels": equal, "score_error": error}


def text(options: argparse.Namespace) -> Iterator[Row]:
    """An update of each full-size recipe of text, on random characters, and the hours that a complete run takes."""
    import dataclasses

    import jax
    import jax.numpy as jnp

    from benchmarks.published.presets import PRESETS
    from benchmarks.published.text import Learner, Settings

    # The characters of the alphabet and of the training part. Those of the Penn Treebank are rounded.
    sizes = {"ptb-char": (50, 5_000_000), "text8": (27, 90_000_000), "enwik8": (205, 90_000_000)}
    for name, (alphabet, length) in sizes.items():
        recipe = PRESETS[name].recipes["lstm"]
        if options.rehearse:
            recipe = dataclasses.replace(recipe, hidden_size=4, embedding_size=3, layers=1, batch=2, window=5)
        learner = Learner(Settings(**dataclasses.asdict(recipe)), alphabet)
        shape = (recipe.batch, recipe.window + 1)
        windows = jax.random.randint(jax.random.key(0), shape, 0, alphabet).astype(jnp.uint8)

        def update(state: Any, windows: jax.Array, learner: Any = learner) -> Any:
            return learner.train_step(state, windows, jnp.array(False))

        args = (learner.first_state(), windows)
        figures = times({"update": update}, args, "", options.rounds, options.seconds)["update"]
        row: Row = {"preset": name, "recipe": dataclasses.asdict(recipe)} | figures
        if "seconds" in figures:
            row["characters_per_second"] = recipe.batch * recipe.window / figures["seconds"]
            row["hours"] = recipe.epochs * length / row["characters_per_second"] / 3600
        yield row
        if options.rehearse:
            return


def tests(options: argparse.Namespace) -> Iterator[Row]:
    """Runs the files of tests one after another, on the GPU first, in full float32."""
    settings = {
        "JAX_PLATFORMS": "cpu" if options.rehearse else "cuda,cpu",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "0",
        "JAX_DEFAULT_MATMUL_PRECISION": "highest",
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
    }
    deadline = time.perf_counter() + options.limit
    command = [sys.executable, "-m", "pytest", "--tb=line", "-rf", "-p", "no:cacheprovider"]
    for name in ["cudnn"] if options.rehearse else TESTS.split():
        extra = ["-k", "refuses_without_a_gpu"] if options.rehearse else []
        row: Row = {"file": f"tests/test_{name}.py"}
        # A file that hangs must not take the time of the others' results.
        began = time.perf_counter()
        try:
            done = subprocess.run(
                [*command, row["file"], *extra],
                cwd=ROOT,
                env=os.environ | settings,
                capture_output=True,
                text=True,
                timeout=max(0.0, deadline - began),
            )
        except subprocess.TimeoutExpired:
            yield row | {"stopped": f"the part took {options.limit:.0f} s"}
            return
        lines = done.stdout.strip().splitlines()
        row["exit_code"] = done.returncode
        row["seconds"] = time.perf_counter() - began
        row["summary"] = lines[-1] if lines else done.stderr[-500:]
        row["failed"] = [line for line in lines if line.startswith("FAILED")]
        yield row


MEASURED: dict[str, Callable[[argparse.Namespace], Iterator[Row]]] = {
    "tests": tests,
    "cudnn": cudnn,
    "loops": loops,
    "linear": linear,
    "mlstm": functools.partial(linear, family="mLSTM"),
    "crf": crf,
    "k_best": k_best,
    "text": text,
}
PARTS = ("tests", "cudnn", "loops", "flags", "linear", "mlstm", "crf", "k_best", "text", "speed", "newton")


# The processes ---------------------------------------------------------------------------------------


def write_rows(path: Path, about: Row, rows: Iterator[Row]) -> None:
    """Writes the file again after each row, and prints the row."""
    found = []
    began = time.perf_counter()
    for row in rows:
        found.append(row)
        result = {**about, "seconds": time.perf_counter() - began, "rows": found}
        path.write_text(json.dumps(result, indent=1) + "\n")
        print(f"{path.stem}: {json.dumps(row)}", flush=True)


def work(options: argparse.Namespace) -> None:
    """What the process of some parts does."""
    import jax

    device = jax.devices()[0]
    about = {"platform": device.platform, "device": device.device_kind, "jax": jax.__version__}
    about["xla_flags"] = os.environ.get("XLA_FLAGS", "")
    for part in options.worker:
        path = options.out / f"{options.name or part}.json"
        write_rows(path, about, MEASURED[part](options))


def command_of(options: argparse.Namespace, *arguments: str) -> list[str]:
    """This program again, with the same options."""
    command = [sys.executable, "-m", "benchmarks.gpu", "--out", str(options.out), *arguments]
    command += ["--rounds", str(options.rounds), "--seconds", str(options.seconds), "--limit", str(options.limit)]
    return command + ["--rehearse"] * options.rehearse


def tasks(options: argparse.Namespace) -> Iterator[tuple[str, list[str], str]]:
    """For each process its name, its command and its XLA_FLAGS."""
    flags = os.environ.get("XLA_FLAGS", "")
    # A rehearsal measures everything in one process, since most of its time is imports.
    together = [part for part in options.parts if part in MEASURED] if options.rehearse else []
    if together:
        yield "all", command_of(options, "--worker", *together), flags
    for part in options.parts:
        if part in MEASURED and not together:
            yield part, command_of(options, "--worker", part), flags
        elif part == "flags":
            for name, extra in list(FLAGS.items())[: 1 if options.rehearse else None]:
                command = command_of(options, "--worker", "loops", "--few", "--name", f"flags_{name}")
                yield f"flags_{name}", command, f"{flags} {extra}".strip()
        elif part == "speed":
            chosen = ["--contenders", "recurrax", "torch", "nnx", "hand", "--busy"]
            if options.rehearse:
                chosen = ["--contenders", "recurrax", "--cells", "elman", "--cases", "one-step", "--busy"]
                chosen += ["--rounds", "2", "--seconds", "0.01"]
            out = str(options.out / "speed.json")
            yield part, [sys.executable, "-m", "benchmarks.speed", *chosen, "--out", out], flags
        elif part == "newton":
            chosen = ["--cells", "Elman", "--lengths", "16", "--updates", "2"] if options.rehearse else []
            out = str(options.out / "newton.json")
            yield part, [sys.executable, "-m", "benchmarks.newton", *chosen, "--busy", "--out", out], flags


def main() -> None:
    """Runs the parts one after another, each within its time."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__.splitlines()[0])
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="default all")
    parser.add_argument("--out", type=Path, required=True, help="a folder for one file of each part")
    parser.add_argument("--limit", type=float, default=240, help="seconds of each part; default %(default)s")
    parser.add_argument("--rounds", type=int, default=7, help="turns of each contender; default %(default)s")
    parser.add_argument("--seconds", type=float, default=0.1, help="length of a turn; default %(default)s")
    parser.add_argument("--rehearse", action="store_true", help="tiny sizes, also without a GPU")
    # For the processes that this program starts.
    parser.add_argument("--worker", nargs="+", choices=MEASURED, help=argparse.SUPPRESS)
    parser.add_argument("--few", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--name", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.rehearse:
        options.rounds, options.seconds = 2, 0.001
    options.out.mkdir(parents=True, exist_ok=True)
    if options.worker:
        work(options)
        return
    endings: Row = {}
    for name, command, flags in tasks(options):
        settings = {"XLA_FLAGS": flags, "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
        try:
            # The part `tests` stops by itself a little earlier.
            limit = options.limit + 10
            code = subprocess.run(command, cwd=ROOT, env=os.environ | settings, timeout=limit).returncode
            endings[name] = f"exit code {code}" if code else "done"
        except subprocess.TimeoutExpired:
            endings[name] = f"stopped after {options.limit:.0f} s"
        (options.out / "endings.json").write_text(json.dumps(endings, indent=1) + "\n")
    print(json.dumps(endings, indent=1))


if __name__ == "__main__":
    main()
