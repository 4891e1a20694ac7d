"""What rematerialization saves and costs: temporary memory and time of a training step against one scan.

Run `python benchmarks/remat_memory.py`. The memory is that of XLA's own analysis of the compiled program; the time is
the median, over alternating rounds, of the ratio to the plain scan's.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
from rich.console import Console
from rich.table import Table

import recurrax

T, B, I, H = 4096, 16, 128, 256  # noqa: E741
CHUNKS = (16, 64, 256)
ROUNDS = 7


def training_step(remat: int | None) -> Callable:
    """The loss and its gradients, with every step kept, or with every `remat`-th state kept and the rest recomputed."""
    layer = recurrax.LSTMCell(H)

    def loss(params: recurrax.cells.LSTMParams, xs: jax.Array) -> jax.Array:
        return jnp.mean(recurrax.scan(layer, params, xs, time_major=True, remat=remat)[1] ** 2)

    return jax.jit(jax.value_and_grad(loss))


def main() -> None:
    """Compiles, measures in turn, prints the table and keeps the figures beside it."""
    params = recurrax.LSTMCell(H).init(jax.random.key(0), I)
    xs = jax.random.normal(jax.random.key(1), (T, B, I))
    compiled = {chunk: training_step(chunk).lower(params, xs).compile() for chunk in (None, *CHUNKS)}
    seconds: dict[int | None, list[float]] = {chunk: [] for chunk in compiled}
    for _ in range(ROUNDS):
        for chunk, run in compiled.items():
            start = time.perf_counter()
            jax.block_until_ready(run(params, xs))
            seconds[chunk].append(time.perf_counter() - start)
    rows = []
    table = Table("kept", "temporary MB", "memory ratio", "time ratio", title=f"LSTM, T={T} B={B} I={I} H={H}")
    for chunk, run in compiled.items():
        memory = run.memory_analysis().temp_size_in_bytes / 1e6
        if chunk is None:
            baseline = memory
        ratio = statistics.median(a / b for a, b in zip(seconds[chunk], seconds[None], strict=True))
        kept = "every step" if chunk is None else f"every {chunk}th state"
        rows.append({"chunk": chunk, "temporary_mb": memory, "memory_ratio": memory / baseline, "time_ratio": ratio})
        table.add_row(kept, f"{memory:.0f}", f"{memory / baseline:.3f}", f"{ratio:.2f}")
    Console().print(table)
    result = {"platform": jax.default_backend(), "jax": jax.__version__, "shape": [T, B, I, H], "rows": rows}
    (Path(__file__).parent / "results").mkdir(exist_ok=True)
    (Path(__file__).parent / "results" / "remat_memory.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
