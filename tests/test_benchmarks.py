"""The benchmark's command runs, and its arithmetic is right."""

import json
import subprocess
import sys
from pathlib import Path

from benchmarks.speed.cases import all_cases


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


def test_floating_point_operations_are_those_of_the_products() -> None:
    flops = {(case.cell, case.mode, case.name): case.flops for case in all_cases()}
    forward = 2 * 35 * 32 * (256 + 256) * 4 * 256
    assert flops["lstm", "forward", "35x32x256x256"] == forward
    assert flops["lstm", "training", "35x32x256x256"] == 3 * forward
    assert flops["gru", "forward", "35x32x256x256"] == forward * 3 // 4


def test_the_tasks_are_tried_and_resumed(tmp_path: Path) -> None:
    out = tmp_path / "tasks.json"
    command = [sys.executable, "-m", "benchmarks.tasks", "--tasks", "parity", "--seeds", "2", "--steps", "2"]
    command += ["--out", str(out), "--resume", "--layers"]
    where = {"check": True, "capture_output": True, "timeout": 300, "cwd": Path(__file__).parents[1]}
    subprocess.run([*command, "Elman"], **where)
    (first,) = json.loads(out.read_text())["rows"]
    assert first["parameters"] == 2 * 32 + 32 * 32 + 32 + 32 + 1
    assert {len(figures) for figures in first["measures"].values()} == {2}
    assert out.with_suffix(".md").exists()
    subprocess.run([*command, "Elman", "GRU"], **where)
    resumed, second = json.loads(out.read_text())["rows"]
    assert resumed == first
    assert second["layer"] == "GRU"
