"""The command line: `python -m examples.rl train|compare`."""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

from rich.console import Console

from examples.char_lm.command import (
    DEFAULT,
    DONE,
    Parser,
    add_settings,
    number_type,
    run_command,
    settings,
)

from .ppo import POLICIES, PROGRAM, TASKS, Config

COLORS = {"gru": "#4c72b0", "feed-forward": "#dd8452"}


def make_parser() -> argparse.ArgumentParser:
    """Makes the parser of the command line."""
    parser = Parser(prog=PROGRAM, description="Recurrent PPO on two tasks that need a memory.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="train|compare")
    # One run, and all of them.
    train = commands.add_parser("train", help="one run")
    train.add_argument("--task", choices=TASKS, default="repeat", help="what to learn" + DEFAULT)
    policy_help = "the layer in the middle of the agent" + DEFAULT
    train.add_argument("--policy", choices=POLICIES, default="gru", help=policy_help)
    seed_help = "the seed of all randomness" + DEFAULT
    seed_type = number_type(int, 0, 2**31 - 1)
    train.add_argument("--seed", type=seed_type, default=0, metavar="N", help=seed_help)
    compare = commands.add_parser("compare", help="both policies on both tasks, with several seeds")
    seeds_help = "runs of each policy on each task" + DEFAULT
    seeds_type = number_type(int, 1, 1000)
    compare.add_argument("--seeds", type=seeds_type, default=3, metavar="N", help=seeds_help)
    out_help = "folder of the picture and of the scores" + DEFAULT
    compare.add_argument("--out", type=Path, default=Path("runs/rl"), help=out_help)
    # Both take the settings of PPO.
    for command in (train, compare):
        add_settings(command, Config)
    return parser


def _train(options: argparse.Namespace) -> int:
    from .ppo import Learner, train

    config = settings(options, Config)
    console = Console()
    every = max(1, config.updates // 10)

    def show(update: int, score: float) -> None:
        if (update + 1) % every == 0:
            console.print(f"update {update + 1:,}: score {score:.3f}", highlight=False)

    learner = Learner(options.task, options.policy, config)
    _, final = train(learner, options.seed, show)
    console.print(f"Score with the most likely actions: [bold]{final:.3f}[/]", highlight=False)
    return DONE


def _compare(options: argparse.Namespace) -> int:
    config = settings(options, Config)
    console = Console()
    begin = time.perf_counter()
    runs = []
    for task in TASKS:
        for policy in POLICIES:
            runs += _runs(task, policy, config, options.seeds, console)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "scores.json").write_text(json.dumps(runs, indent=1), "utf-8")
    plot(runs, config, options.out / "curves.png")
    console.print(table(runs), highlight=False, soft_wrap=True)
    seconds = time.perf_counter() - begin
    console.print(f"{seconds:.0f} s. The picture is in {options.out}.", highlight=False)
    return DONE


def _runs(
    task: str, policy: str, config: Config, seeds: int, console: Console
) -> list[dict[str, Any]]:
    """Trains with several seeds, which share the compiled functions."""
    import jax

    from .ppo import Learner, train

    learner = Learner(task, policy, config)
    # Every seed has as many parameters.
    params = learner.first_state(0).params
    size = sum(leaf.size for leaf in jax.tree.leaves(params))
    runs = []
    for seed in range(seeds):
        begin = time.perf_counter()
        curve, final = train(learner, seed)
        seconds = time.perf_counter() - begin
        run = {"task": task, "policy": policy, "seed": seed, "parameters": size}
        run |= {"score": final, "seconds": round(seconds, 1), "curve": curve.tolist()}
        runs.append(run)
        name = f"{TASKS[task].name}, {POLICIES[policy]}, seed {seed}"
        console.print(f"{name}: score {final:.3f}, {seconds:.0f} s", highlight=False)
    return runs


def table(runs: list[dict[str, Any]]) -> str:
    """Writes the scores as a table in Markdown."""
    lines = [
        "| task | policy | parameters | score of each seed | best without a memory |",
        "|---|---|---:|---|---:|",
    ]
    for task, policy in dict.fromkeys((run["task"], run["policy"]) for run in runs):
        ours = [run for run in runs if (run["task"], run["policy"]) == (task, policy)]
        scores = ", ".join(f"{run['score']:.3f}" for run in ours)
        cells = [TASKS[task].name, POLICIES[policy], f"{ours[0]['parameters']:,}", scores]
        cells.append(f"{TASKS[task].chance:.2f}")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def plot(runs: list[dict[str, Any]], config: Config, path: Path) -> None:
    """Draws the scores of all runs into a PNG file."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    # Without pyplot no window opens and no global state changes. A figure then needs a canvas.
    figure = Figure(figsize=(9, 3.6), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(TASKS), sharey=True)
    played = config.environments * config.steps / 1000
    for (task, about), panel in zip(TASKS.items(), panels, strict=True):
        panel.axhline(about.chance, color="0.5", linestyle="--", linewidth=1)
        place = (played * config.updates, about.chance - 0.11)
        panel.text(*place, "best without a memory", color="0.4", fontsize=8, ha="right")
        # The legend names each policy once.
        labeled = set()
        for run in runs:
            if run["task"] != task:
                continue
            policy = run["policy"]
            label = None
            if policy not in labeled:
                label = POLICIES[policy]
            labeled.add(policy)
            steps = [played * (update + 1) for update in range(len(run["curve"]))]
            panel.plot(steps, run["curve"], color=COLORS[policy], label=label, linewidth=1.2)
        panel.set_title(about.name)
        panel.set_xlim(0, played * config.updates)
        panel.set_xlabel("steps of the environments, in thousands")
        panel.set_ylim(0, 1.04)
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("score of an episode")
    panels[-1].legend(frameon=False, loc="lower right")
    figure.savefig(path)


COMMANDS = {"train": _train, "compare": _compare}


def main(arguments: list[str] | None = None) -> int:
    """Runs a command.

    Returns:
        The exit code: 0; 2 for a fault that the user can mend; 130 after Ctrl-C.
    """
    options = make_parser().parse_args(arguments)
    return run_command(COMMANDS[options.command], options)


if __name__ == "__main__":
    sys.exit(main())
