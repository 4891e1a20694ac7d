"""The machine: what it is, how fast it multiplies matrices, and how fast a training uses it."""

import datetime
import functools
import json
import math
import os
import platform
import shlex
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import flax
import jax
import jax.numpy as jnp

import recurrax

from .config import Config
from .files import append

# How long the large matrix product should take, in seconds.
_AIM = 0.03
# The sides of the first and of the largest product.
_FIRST, _LARGEST = 512, 8192


def note_session(path: Path, step: int, rate: float | None) -> None:
    """Adds a line to the file of sessions: where, how and with which versions a training starts.

    Args:
        path: the file.
        step: the number of steps before.
        rate: the result of `product_rate`; None if it was not measured.
    """
    # These variables change how JAX computes.
    variables = {}
    for name, value in sorted(os.environ.items()):
        if name.startswith(("JAX_", "XLA_")):
            variables[name] = value
    session = {
        "step": step,
        "command": shlex.join(sys.orig_argv),
        "variables": variables,
        "began": datetime.datetime.now().astimezone().isoformat(" ", "seconds"),
        "machine": machine(),
        "versions": versions(),
        "rate": rate,
    }
    append(path, (json.dumps(session) + "\n").encode())


def read_sessions(path: Path) -> list[dict[str, Any]]:
    """Reads the file of sessions. A line that a kill damaged is left out."""
    sessions = []
    if path.exists():
        for line in path.read_text("utf-8", errors="replace").splitlines():
            try:
                sessions.append(json.loads(line))
            except ValueError:
                continue
    return sessions


def machine() -> dict[str, str]:
    """Describes the machine."""
    devices = jax.devices()
    facts = {
        "device": f"{len(devices)} × {devices[0].device_kind} ({devices[0].platform})",
        "processor": _processor(),
        "cores": f"{os.cpu_count()}",
        "system": f"{platform.system()} {platform.machine()}",
    }
    # A process may be restricted to some cores, but not on every system.
    if hasattr(os, "sched_getaffinity"):
        facts["cores"] = f"{len(os.sched_getaffinity(0))} of {os.cpu_count()}"
    return facts


def versions() -> dict[str, str]:
    """Returns the versions that may change a result or a speed."""
    return {
        "Python": platform.python_version(),
        "jax": jax.__version__,
        "flax": flax.__version__,
        "recurrax": recurrax.__version__,
        'implementation="native"': recurrax.implementations.available()["native"].rstrip("."),
    }


@functools.cache
def product_rate(dtype: str) -> float:
    """Measures the rate of a large matrix product, in operations a second, within half a second."""
    seconds = _seconds_of_product(_FIRST, dtype)
    # The time grows with the third power of the side.
    side = _FIRST * (_AIM / seconds) ** (1 / 3)
    # A multiple of 128 suits every device.
    side = 128 * round(min(max(side, _FIRST), _LARGEST) / 128)
    return 2 * side**3 / _seconds_of_product(side, dtype)


def _seconds_of_product(side: int, dtype: str) -> float:
    product = jax.jit(jnp.matmul)
    matrix = jnp.ones([side, side], dtype)
    # The first call compiles.
    product(matrix, matrix).block_until_ready()
    best = math.inf
    for _ in range(4):
        before = time.perf_counter()
        product(matrix, matrix).block_until_ready()
        best = min(best, time.perf_counter() - before)
    return best


def characters_per_second(rows: list[dict[str, Any]], config: Config) -> float | None:
    """Returns the speed of the training steps in a log; None if it has fewer than two steps.

    Compiling, validations and samples do not count: the speed is the median over short spans.
    """
    seconds = [row["seconds"] for row in rows if "loss" in row]
    if len(seconds) < 2:
        return None
    # All steps of a dispatch are logged at once. A span has complete dispatches, 10 steps or more.
    span = config.steps_per_dispatch * math.ceil(10 / config.steps_per_dispatch)
    span = min(span, len(seconds) - 1)
    spans = [last - first for first, last in zip(seconds, seconds[span:], strict=False)]
    # The clock of the log counts milliseconds.
    seconds_per_step = max(statistics.median(spans), 0.0005) / span
    return config.batch * config.window / seconds_per_step


def speed(rows: list[dict[str, Any]], sessions: list[Any], weights: int, config: Config) -> str:
    """Tells the speed of the last session, beside the rate of one large matrix product.

    Args:
        rows: the log.
        sessions: the sessions of the run.
        weights: the number of weights that take part in matrix products.
        config: the settings.
    """
    if sessions:
        rows = [row for row in rows if row["step"] > sessions[-1]["step"]]
    characters = characters_per_second(rows, config)
    if characters is None:
        return "Speed: there are too few steps to tell."
    # Each weight takes part in one product forward and two backward, each a multiplication and an
    # addition.
    rate = 6 * weights * characters
    line = f"Speed: {characters:,.0f} characters/s, {rate / 1e9:,.1f} GFLOP/s of matrix products"
    # Several devices share a machine in many ways, so there is no rate to compare with.
    if not sessions or sessions[-1]["rate"] is None:
        return line + "."
    most = sessions[-1]["rate"]
    return line + f": {rate / most:.0%} of the {most / 1e9:,.0f} GFLOP/s of one large product."


def _processor() -> str:
    """The name of the processor, as Linux or Python knows it."""
    facts = Path("/proc/cpuinfo")
    if facts.exists():
        for line in facts.read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown"
