"""Trains one character-level LSTM with recurrax and with PyTorch, on the same batches, and compares where they end.

    python -m benchmarks.shakespeare --text tiny_shakespeare.txt
    python -m benchmarks.shakespeare --text tiny_shakespeare.txt --target 1.55 --steps 2400 --cores 2

Any UTF-8 text will do. Both start from the very same weights; with `--own-weights` each draws its own from the same
distributions. They live in processes of their own, of one core each, and train in turn, a round of steps each: they
share the machine's good and bad moments, so that the ratio of their times means something.

With `--target` both are validated after every 100 steps. The results tell how many seconds of training each needed to
reach that validation loss, its compilation included and the validation not, and a picture shows both curves.
"""

import argparse
import datetime
import functools
import json
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks import quiet

PARTS = {"weight_ih": "kernel", "weight_hh": "recurrent_kernel", "bias_ih": "bias", "bias_hh": "recurrent_bias"}
# With a target, the losses are validated whenever this many steps are done.
VALIDATION_STEPS = 100
# Takes `chars` `[B, T+1]` and the state (None at first); returns loss and state.
Step = Callable[[np.ndarray, Any], tuple[Any, Any]]


class Config(NamedTuple):
    """What both contenders are told."""

    seed: int
    steps: int
    round_steps: int = 50
    batch: int = 32
    window: int = 32
    sizes: tuple[int, int, int] = (64, 256, 2)  # embedding, state, layers
    learning_rate: float = 3e-3
    warmup_steps: int = 100
    betas: tuple[float, float] = (0.9, 0.99)
    eps: float = 1e-8
    weight_decay: float = 0.01
    clip: float = 1.0
    cores: int = 1
    target: float | None = None


def read_corpus(path: str) -> tuple[int, np.ndarray, np.ndarray]:
    """The size of a text's vocabulary, and its characters as numbers: 90% for training, the rest for validation."""
    vocabulary, ids = np.unique(list(Path(path).read_text("utf-8")), return_inverse=True)
    return len(vocabulary), *np.split(ids, [len(ids) * 9 // 10])


def train_window(config: Config, chars: np.ndarray, step: int) -> np.ndarray:
    """The batch of a step, `[B, T+1]`: each row goes on where it ended in the step before, round and round the text."""
    first = np.random.default_rng(config.seed).integers(len(chars))
    rows = first + np.arange(config.batch) * (len(chars) // config.batch)
    return chars[(rows[:, None] + step * config.window + np.arange(config.window + 1)) % len(chars)]


def validation_windows(config: Config, chars: np.ndarray) -> Iterable[np.ndarray]:
    """The held-out text once through, as B streams side by side."""
    length = (len(chars) - 1) // config.batch
    for start in range(0, length - config.window + 1, config.window):
        yield chars[np.arange(config.batch)[:, None] * length + start + np.arange(config.window + 1)]


def learning_rates(config: Config) -> np.ndarray:
    """One learning rate a step: linear warm-up, then a cosine down to a tenth."""
    step = np.arange(config.steps)
    progress = np.clip((step - config.warmup_steps) / max(1, config.steps - config.warmup_steps), 0, 1)
    cosine = 0.1 + 0.9 * (1 + np.cos(np.pi * progress)) / 2
    return (config.learning_rate * np.minimum((step + 1) / config.warmup_steps, cosine)).astype(np.float32)


def recurrax_steps(config: Config, vocabulary_size: int, weights: Path | None) -> tuple[Step, Step]:
    """Training and validation step of recurrax; its first parameters go to `weights`, if given, by PyTorch's names."""
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    import jax
    import jax.numpy as jnp
    import optax
    from flax import nnx

    from recurrax import nnx as rnn
    from recurrax.initializers import torch_uniform

    sizes, bound = config.sizes, config.sizes[1] ** -0.5
    uniform = functools.partial(jax.random.uniform, minval=-bound, maxval=bound)

    class CharLM(nnx.Module):
        def __init__(self, rngs: nnx.Rngs):
            self.embedding = nnx.Embed(vocabulary_size, sizes[0], embedding_init=jax.random.normal, rngs=rngs)
            options = dict.fromkeys(("kernel_init", "recurrent_kernel_init", "bias_init"), torch_uniform)
            self.lstm = rnn.LSTM(*sizes, batch_first=True, forget_bias=0.0, rngs=rngs, **options)
            self.logits = nnx.Linear(sizes[1], vocabulary_size, kernel_init=uniform, bias_init=uniform, rngs=rngs)

        def __call__(self, chars: jax.Array, state: Any) -> tuple[jax.Array, Any]:
            ys, state = self.lstm(self.embedding(chars), state)
            return self.logits(ys), state

    @nnx.jit
    def loss_of(model: CharLM, chars: jax.Array, state: Any) -> tuple[jax.Array, Any]:
        logits, state = model(chars[:, :-1], state)
        return optax.softmax_cross_entropy_with_integer_labels(logits, chars[:, 1:]).mean(), state

    @nnx.jit
    def train_step(model: CharLM, optimizer: nnx.Optimizer, chars: jax.Array, state: Any) -> tuple[jax.Array, Any]:
        (loss, state), grads = nnx.value_and_grad(loss_of, has_aux=True)(model, chars, state)
        optimizer.update(model, grads)
        return loss, state

    model, rates = CharLM(nnx.Rngs(config.seed)), jnp.asarray(learning_rates(config))
    adamw = optax.adamw(lambda count: rates[count], *config.betas, eps=config.eps, weight_decay=config.weight_decay)
    optimizer = nnx.Optimizer(model, optax.chain(optax.clip_by_global_norm(config.clip), adamw), wrt=nnx.Param)
    if weights:
        named = {"logits.weight": model.logits.kernel[...].T, "logits.bias": model.logits.bias}
        for depth, params in enumerate(model.lstm.params):
            named |= {f"lstm.{theirs}_l{depth}": getattr(params, ours)[...].T for theirs, ours in PARTS.items()}
        np.savez(weights, **named | {"embedding.weight": model.embedding.embedding})
    return (
        lambda chars, state: train_step(model, optimizer, jnp.asarray(chars, jnp.int32), state),
        lambda chars, state: loss_of(model, jnp.asarray(chars, jnp.int32), state),
    )


def torch_steps(config: Config, vocabulary_size: int, weights: Path | None) -> tuple[Step, Step]:
    """Training and validation step of PyTorch; its first parameters come from `weights`, if given."""
    import torch
    from torch.nn.functional import cross_entropy

    class CharLM(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding = torch.nn.Embedding(vocabulary_size, config.sizes[0])
            self.lstm = torch.nn.LSTM(*config.sizes, batch_first=True)
            self.logits = torch.nn.Linear(config.sizes[1], vocabulary_size)

        def forward(self, chars: torch.Tensor, state: Any) -> tuple[torch.Tensor, Any]:
            ys, state = self.lstm(self.embedding(chars), state)
            return self.logits(ys), state

    def loss_of(chars: np.ndarray, state: Any) -> tuple[torch.Tensor, Any]:
        chars = torch.from_numpy(chars)
        logits, (h, c) = model(chars[:, :-1], state)
        return cross_entropy(logits.flatten(0, 1), chars[:, 1:].flatten()), (h.detach(), c.detach())

    def train_step(chars: np.ndarray, state: Any) -> tuple[torch.Tensor, Any]:
        optimizer.param_groups[0]["lr"] = next(rates)
        loss, state = loss_of(chars, state)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip)
        optimizer.step()
        return loss.detach(), state

    torch.manual_seed(config.seed)
    model, rates = CharLM(), iter(learning_rates(config).tolist())
    if weights:
        model.load_state_dict({name: torch.from_numpy(value) for name, value in np.load(weights).items()})
    optimizer = torch.optim.AdamW(model.parameters(), 0.0, config.betas, config.eps, config.weight_decay)
    return train_step, torch.no_grad()(loss_of)


def run_through(step: Step, windows: Iterable[np.ndarray], state: Any) -> tuple[list[float], Any]:
    """Takes one step after another with the state carried over; returns their losses and the last state."""
    losses = []
    for chars in windows:
        loss, state = step(chars, state)
        losses.append(loss)
    return [float(loss) for loss in losses], state


def serve(pipe: Any, name: str, config: Config, text: str, weights: Path | None) -> None:
    """A contender's process: it trains the steps that it is sent, and validates at the word "validate"."""
    if hasattr(os, "sched_setaffinity"):
        # OpenMP's threads spin while they wait for each other, which on a busy machine costs PyTorch dear.
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: config.cores])
    vocabulary_size, train, validation = read_corpus(text)
    steps_of = {"recurrax": recurrax_steps, "torch": torch_steps}[name]
    (train_step, validation_step), state = steps_of(config, vocabulary_size, weights), None
    pipe.send("ready")
    while (steps := pipe.recv()) is not None:
        if steps == "validate":
            losses, _ = run_through(validation_step, validation_windows(config, validation), None)
            pipe.send(statistics.fmean(losses))
            continue
        began = time.perf_counter()
        losses, state = run_through(train_step, (train_window(config, train, step) for step in steps), state)
        pipe.send((statistics.fmean(losses), time.perf_counter() - began))


def race(config: Config, text: str, weights: Path | None) -> dict[str, Any]:
    """Trains both contenders in turn, from the same weights if a place for them is given; returns a row of results."""
    spawn, pipes, rounds = multiprocessing.get_context("spawn"), {}, {"recurrax": [], "torch": []}
    for name in rounds:
        pipes[name], theirs = spawn.Pipe()
        spawn.Process(target=serve, args=(theirs, name, config, text, weights), daemon=True).start()
        theirs.close()  # So that a contender that dies is noticed at once.
        pipes[name].recv()
    curves: dict[str, list[tuple[int, float, float]]] = {name: [] for name in rounds}

    def validate(name: str, step: int) -> None:
        """Adds a point to a curve: the step, the seconds of training, the validation loss."""
        pipes[name].send("validate")
        curves[name].append((step, sum(seconds for _, seconds in rounds[name]), pipes[name].recv()))

    for number, start in enumerate(range(0, config.steps, config.round_steps)):
        stop = min(start + config.round_steps, config.steps)
        for name in list(rounds)[:: -1 if number % 2 else 1]:
            pipes[name].send(range(start, stop))
            rounds[name].append(pipes[name].recv())
            if stop == config.steps or (config.target and stop % VALIDATION_STEPS == 0):
                validate(name, stop)
    for name in rounds:
        pipes[name].send(None)
    final = {name: curve[-1][2] for name, curve in curves.items()}
    times = [ours / theirs for (_, ours), (_, theirs) in zip(rounds["recurrax"], rounds["torch"], strict=True)]
    row = {
        **config._asdict(),
        "initial_weights": "shared" if weights else "own",
        "validation_loss": final,
        "validation_loss_ratio": final["recurrax"] / final["torch"],
        "time_ratio": statistics.median(times[1:] or times),  # The first round holds the compilation.
        "time_ratio_of_rounds": times,
        "train_loss_of_rounds": {name: [loss for loss, _ in done] for name, done in rounds.items()},
    }
    if config.target:
        row["curves"] = curves
        row["seconds_to_target"] = {name: seconds_to(config.target, curve) for name, curve in curves.items()}
    return row


def seconds_to(target: float, curve: list[tuple[int, float, float]]) -> float | None:
    """The seconds of training after which the loss first was at most the target; None if it never was."""
    for _, seconds, loss in curve:
        if loss <= target:
            return seconds
    return None


def draw(rows: list[dict[str, Any]], target: float, path: Path) -> None:
    """Draws the validation losses of all runs over the seconds of training."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    colors = {"recurrax": "tab:blue", "torch": "tab:orange"}
    names = {"recurrax": "recurrax", "torch": "PyTorch"}
    styles = ["solid", "dashed", "dotted", "dashdot"]  # One for each run.
    for number, row in enumerate(rows):
        for name, curve in row["curves"].items():
            _, seconds, losses = zip(*curve, strict=True)
            label = f"{names[name]}, seed {row['seed']}"
            style = styles[number % len(styles)]
            axes.plot(seconds, losses, color=colors[name], linestyle=style, label=label, linewidth=1.5)
    axes.axhline(target, color="gray", linewidth=1, label=f"{target} nats a character")
    axes.set(xlabel="seconds of training, compilation included", ylabel="validation loss, nats a character")
    axes.set_ylim(top=min(axes.get_ylim()[1], target + 0.6))
    axes.legend()
    figure.savefig(path, dpi=150)


def show(rows: list[dict[str, Any]]) -> None:
    """Prints the validation losses and the ratios, recurrax : PyTorch, and the seconds to the target."""
    titles = ["seed", "steps", "weights", "recurrax", "PyTorch", "loss ratio", "time ratio"]
    if rows[0]["target"]:
        titles += [f"recurrax, s to {rows[0]['target']}", "PyTorch"]
    table = Table(*titles)
    for row in rows:
        losses = [f"{loss:.4f}" for loss in (*row["validation_loss"].values(), row["validation_loss_ratio"])]
        cells = [str(row["seed"]), str(row["steps"]), row["initial_weights"], *losses, f"{row['time_ratio']:.2f}"]
        for seconds in row.get("seconds_to_target", {}).values():
            cells.append("never" if seconds is None else f"{seconds:.0f}")
        table.add_row(*cells)
    Console().print(table)


def main() -> None:
    """Reads the command line, runs all races, and writes the results as JSON and as a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--text", required=True, help="a UTF-8 text; its first 90%% are for training")
    parser.add_argument("--steps", type=int, default=1200, help="training steps; default %(default)s")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="default 0 1 2")
    parser.add_argument("--own-weights", action="store_true", help="each draws its own initial weights")
    parser.add_argument("--cores", type=int, default=1, help="cores of each contender; default %(default)s")
    parser.add_argument("--target", type=float, help="a validation loss; how soon does each reach it?")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "shakespeare.json")
    quiet.add_option(parser)
    options = parser.parse_args()
    watch = quiet.Watch(options.busy)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder, Console().status("") as status:
        for seed in options.seeds:
            config = Config(seed, options.steps, cores=options.cores, target=options.target)
            weights = None if options.own_weights else Path(folder) / "weights.npz"
            status.update(f"seed {seed}, {len(rows)} of {len(options.seeds)} done")
            rows.append(race(config, options.text, weights))
    show(rows)
    versions = {name: version(name) for name in ("jax", "flax", "optax", "torch", "numpy")}
    about = {"date": datetime.date.today().isoformat(), "versions": versions, "machine": watch.verdict(), "runs": rows}
    options.out.write_text(json.dumps(about, indent=1) + "\n")
    if options.target:
        draw(rows, options.target, options.out.with_suffix(".png"))


if __name__ == "__main__":
    main()
