"""The benchmark's command runs, and its arithmetic is right."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from benchmarks.speed.cases import all_cases


@pytest.mark.thorough
def test_the_command(tmp_path: Path) -> None:
    out = tmp_path / "speed.json"
    command = [sys.executable, "-m", "benchmarks.speed", "--contenders", "recurrax", "hand", "--cells", "lstm"]
    command += ["--cases", "one-step", "512x1x64x128", "--rounds", "2", "--seconds", "0.01", "--out", str(out)]
    subprocess.run(command, check=True, capture_output=True, timeout=300, cwd=Path(__file__).parents[1])
    rows = json.loads(out.read_text())["rows"]
    assert [row["mode"] for row in rows] == ["forward", "training", "streaming"]
    for row in rows:
        ours, by_hand = (row["contenders"][name] for name in ("recurrax", "hand"))
        assert ours["ratio"] == 1
        assert by_hand["ratio"] > 0
        assert ours["peak_bytes"] > 0
    assert out.with_suffix(".md").exists()
    assert out.with_suffix(".png").exists()


@pytest.mark.thorough
def test_the_command_of_the_crf(tmp_path: Path) -> None:
    pytest.importorskip("torchcrf")
    out = tmp_path / "crf.json"
    command = [sys.executable, "-m", "benchmarks.crf", "--shapes", "2x5x3", "--rounds", "2", "--seconds", "0.01"]
    command += ["--out", str(out)]
    subprocess.run(command, check=True, capture_output=True, timeout=300, cwd=Path(__file__).parents[1])
    rows = json.loads(out.read_text())["rows"]
    assert [row["ragged"] for row in rows] == [False, True]
    assert all(row["ratio"] > 0 for row in rows)


def test_floating_point_operations_are_those_of_the_products() -> None:
    flops = {(case.cell, case.mode, case.name): case.flops for case in all_cases()}
    forward = 2 * 35 * 32 * (256 + 256) * 4 * 256
    assert flops["lstm", "forward", "35x32x256x256"] == forward
    assert flops["lstm", "training", "35x32x256x256"] == 3 * forward
    assert flops["gru", "forward", "35x32x256x256"] == forward * 3 // 4


@pytest.mark.thorough
def test_the_tasks_are_tried_and_resumed(tmp_path: Path) -> None:
    out = tmp_path / "tasks.json"
    figures = {"accuracy to 40": [0.5], "accuracy at 256": [0.5]}
    before = {
        "task": "parity",
        "layer": "Elman",
        "parameters": 1,
        "steps": 2,
        "rates": [0.1],
        "rate": 0.1,
        "measures": figures,
    }
    before |= {"solved": [False], "solved_at": [None], "seconds": 1.0}
    out.write_text(json.dumps({"rows": [before]}))
    command = [sys.executable, "-m", "benchmarks.tasks", "--tasks", "parity", "--layers", "Elman", "GRU"]
    command += ["--seeds", "2", "--steps", "2", "--resume", "--out", str(out)]
    cache = {"JAX_COMPILATION_CACHE_DIR": jax.config.jax_compilation_cache_dir}  # Most of the time is compilation.
    where = {"cwd": Path(__file__).parents[1], "env": os.environ | cache}
    subprocess.run(command, check=True, capture_output=True, timeout=300, **where)
    kept, new = json.loads(out.read_text())["rows"]
    assert kept == before
    assert new["layer"] == "GRU"
    assert new["parameters"] == 3 * (2 * 32 + 32 * 32 + 2 * 32) + 32 + 1
    assert {len(values) for values in new["measures"].values()} == {2}
    assert "| GRU | 3,489 |" in out.with_suffix(".md").read_text()


@pytest.mark.thorough
def test_sampling_is_measured(tmp_path: Path) -> None:
    out = tmp_path / "sampling.json"
    command = [sys.executable, "-m", "benchmarks.sampling", "--length", "8", "--hidden-size", "4", "--rounds", "1"]
    subprocess.run([*command, "--out", str(out)], check=True, timeout=300, cwd=Path(__file__).parents[1])
    rows = {row["contender"]: row for row in json.loads(out.read_text())["rows"]}
    assert set(rows) == {"generate", "dispatched", "scan", "drawn scan"}
    assert rows["generate"]["ratio"] == 1
    assert all(row["characters_per_second"] > 0 for row in rows.values())


@pytest.mark.thorough
def test_a_trace_is_measured(tmp_path: Path) -> None:
    out = tmp_path / "trace.json"
    command = [
        sys.executable,
        "-m",
        "benchmarks.trace",
        "--sizes",
        "5",
        "2",
        "3",
        "4",
        "--rounds",
        "2",
        "--out",
        str(out),
    ]
    subprocess.run(command, check=True, timeout=300, cwd=Path(__file__).parents[1])
    rows = json.loads(out.read_text())["rows"]
    assert [row["cell"] for row in rows] == ["LSTM"] * 5 + ["GRU"] * 5
    assert all(row["ratio"] > 0 for row in rows)
    assert rows[0]["ratio"] == rows[5]["ratio"] == 1
