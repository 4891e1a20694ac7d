"""The benchmark's command runs, and its arithmetic is right."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from benchmarks import quiet
from benchmarks.shakespeare import seconds_to
from benchmarks.speed import report
from benchmarks.speed.cases import all_cases
from benchmarks.speed.race import ratios


@pytest.mark.thorough
def test_the_command(tmp_path: Path) -> None:
    out = tmp_path / "speed.json"
    command = [sys.executable, "-m", "benchmarks.speed", "--contenders", "recurrax", "hand", "--cells", "lstm"]
    command += ["--cases", "one-step", "512x1x64x128", "--rounds", "2", "--seconds", "0.01", "--out", str(out)]
    command += ["--busy"]
    subprocess.run(command, check=True, capture_output=True, timeout=300, cwd=Path(__file__).parents[1])
    rows = json.loads(out.read_text())["rows"]
    assert [row["mode"] for row in rows] == ["forward", "training", "streaming"]
    for row in rows:
        ours, by_hand = (row["contenders"][name] for name in ("recurrax", "hand"))
        assert ours["ratio"] == 1
        low, high = by_hand["ratio_quartiles"]
        assert 0 < low <= by_hand["ratio"] <= high
        assert by_hand["best_matmul_fraction"] > 0
        assert row["machine"]["others"] >= 0
        assert ours["peak_bytes"] > 0
    assert out.with_suffix(".md").exists()
    assert out.with_suffix(".png").exists()


@pytest.mark.thorough
def test_the_command_of_the_crf(tmp_path: Path) -> None:
    pytest.importorskip("torchcrf")
    out = tmp_path / "crf.json"
    command = [sys.executable, "-m", "benchmarks.crf", "--shapes", "2x5x3", "--rounds", "2", "--seconds", "0.01"]
    command += ["--busy", "--out", str(out)]
    subprocess.run(command, check=True, capture_output=True, timeout=300, cwd=Path(__file__).parents[1])
    rows = json.loads(out.read_text())["rows"]
    assert [row["ragged"] for row in rows] == [False, True]
    assert all(row["ratio"] > 0 for row in rows)


def fake_proc(folder: Path, cores: dict[str, str], processes: dict[int, tuple[int, str]]) -> quiet.Snapshot:
    """A folder like Linux' /proc: counts of cores, and of processes with their parents; a tick is 10 ms."""
    stat = "".join(f"{name}  {counts} 0 0\n" for name, counts in cores.items())
    folder.mkdir(exist_ok=True)
    (folder / "stat").write_text(stat + "intr 5 0\n")
    for pid, (parent, ticks) in processes.items():
        (folder / str(pid)).mkdir(exist_ok=True)
        (folder / str(pid) / "stat").write_text(f"{pid} (a) b) (c) S {parent} 1 1 0 -1 0 0 0 0 0 {ticks} 20 0 1\n")
    return quiet.snapshot(folder, root=100, cores=(0, 1))


def test_the_load_of_others_is_told_from_our_own(tmp_path: Path) -> None:
    # user, nice, system, idle, iowait, irq, softirq, steal
    before = {"cpu": "0 0 0 0 0 0 0 0", "cpu2": "5 0 0 0 0 0 0 0"}
    before |= {"cpu0": "10 0 0 900 7 0 0 0", "cpu1": "0 0 0 0 0 0 0 4"}
    first = fake_proc(tmp_path, before, {100: (1, "5 0 3 0"), 101: (100, "1 1 0 0"), 200: (1, "50 0 0 0")})
    # Two seconds later: core 0 was busy for 2 s and core 1 for 1 s. Core 2 is not ours.
    after = {"cpu0": "150 20 10 900 9 10 20 0", "cpu1": "60 0 40 80 9 0 0 14", "cpu2": "205 0 0 0 0 0 0 0"}
    # A child and its child took 2.5 s, and this process 0.2 s. A program of others took 0.3 s.
    ours = {100: (1, "25 0 3 0"), 101: (100, "101 51 0 0"), 102: (101, "40 20 20 20"), 200: (1, "80 0 0 0")}
    last = fake_proc(tmp_path, after, ours)
    disturbance = quiet.between(first._replace(time=0.0), last._replace(time=2.0), cores=2, spread=0.04)
    assert disturbance == pytest.approx((0.3 / 4, 0.1 / 4, 0.04))
    assert disturbance.faults == ["other programs took 8% of the cores", "the host took 2% of the cores"]
    assert quiet.Disturbance(0.05, 0.02, 0.26).faults == ["the time of one fixed product spread by 26%"]
    assert quiet.spread_of([9.0, 10.0, 10.0, 11.0, 12.0]) == pytest.approx(0.1)
    assert quiet.snapshot(tmp_path / "none") is None


def test_a_busy_machine_is_refused_or_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quiet, "BEFORE", 0)
    monkeypatch.setattr(quiet, "between", lambda *_: quiet.Disturbance(others=0.5))
    with pytest.raises(SystemExit, match=r"other programs took 50% of the cores before the first.*--busy"):
        quiet.Watch(busy=False)
    verdict = quiet.Watch(busy=True).verdict()
    assert verdict["during"]["faults"] == ["other programs took 50% of the cores"]
    result = {"seconds": 1e-3, "compile_seconds": 1, "peak_bytes": None, **ratios("ratio", [4, 1, 2, 3, 5], [2] * 5)}
    result |= ratios("native_ratio", [1, 1, 1], [2, 2, 2])
    row = {"label": "LSTM", "mode": "forward", "name": "1", "cell": "lstm", "contenders": {"hand": result}}
    about = {"date": "", "platform": "", "device": "", "cpu": "", "cores": 2, "versions": {}}
    about |= {"matmul_flops_per_second": 1e9, "before": verdict["before"]}
    text = report.markdown(about, [row, row | {"machine": verdict["during"]}])
    assert "**The machine was busy, so these figures may be wrong: before the run other programs took 50%" in text
    assert "in 1 of 2 cases, at worst other programs took 50% of the cores.**" in text
    assert "| LSTM | forward | 1.50 (1.00-2.00) level |" in text
    assert "| LSTM (busy) | forward | 0.500 (0.500-0.500) |" in text


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
def test_the_loop_is_measured(tmp_path: Path) -> None:
    out, text = tmp_path / "loop.json", tmp_path / "text.txt"
    text.write_text("an example of a text\n" * 2000)
    command = [sys.executable, "-m", "benchmarks.loop", "--text", str(text), "--steps", "14", "--rounds", "1"]
    command += ["--hidden-size", "4", "--batch", "8", "--out", str(out)]
    subprocess.run(command, check=True, timeout=300, cwd=Path(__file__).parents[1])
    rows = {row["contender"]: row for row in json.loads(out.read_text())["rows"]}
    assert rows["bare"]["ratio"] == 1
    assert rows["loop"]["ratio"] > 0


@pytest.mark.thorough
def test_the_race_to_a_loss(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    out, text = tmp_path / "race.json", tmp_path / "text.txt"
    text.write_text("an example of a text\n" * 1000)
    command = [sys.executable, "-m", "benchmarks.shakespeare", "--text", str(text), "--steps", "2", "--seeds", "0"]
    command += ["--target", "2.5", "--busy", "--out", str(out)]
    subprocess.run(command, check=True, capture_output=True, timeout=300, cwd=Path(__file__).parents[1])
    (run,) = json.loads(out.read_text())["runs"]
    assert run["validation_loss_ratio"] == pytest.approx(1, abs=1e-4)
    for name, curve in run["curves"].items():
        ((step, seconds, loss),) = curve
        assert (step, loss) == (2, run["validation_loss"][name])
        assert seconds > 0
        assert run["seconds_to_target"][name] == (seconds if loss <= 2.5 else None)
    assert out.with_suffix(".png").exists()


def test_the_seconds_to_a_loss() -> None:
    curve = [(100, 5.0, 2.0), (200, 9.0, 1.5), (300, 14.0, 1.6)]
    assert seconds_to(1.5, curve) == 9.0
    assert seconds_to(1.4, curve) is None


@pytest.mark.thorough
def test_the_checks_for_a_gpu_are_rehearsed(tmp_path: Path) -> None:
    parts = ["tests", "cudnn", "loops", "flags", "linear", "mlstm", "crf", "k_best"]
    command = [sys.executable, "-m", "benchmarks.gpu", "--rehearse", "--parts", *parts, "--out", str(tmp_path)]
    subprocess.run(command, check=True, capture_output=True, timeout=300, cwd=Path(__file__).parents[1])
    assert json.loads((tmp_path / "endings.json").read_text()) == {"all": "done", "flags_none": "done"}
    rows_of = {path.stem: json.loads(path.read_text()).get("rows") for path in tmp_path.glob("*.json")}
    assert set(rows_of) == {*parts, "flags_none", "endings"} - {"flags"}
    assert rows_of["tests"][0]["exit_code"] == 0
    for row in rows_of["loops"]:
        assert row["times"]["hoisted"]["ratio"] > 0
        assert "needs an NVIDIA GPU" in row["times"]["cudnn"]["failed"]
    assert {row["implementation"] for row in rows_of["linear"]} >= {"sequential", "associative", "blocked"}
    assert rows_of["crf"][0]["times"]["associative"]["seconds"] > 0
    assert rows_of["k_best"][0]["equal_labels"] == 1
    assert "needs an NVIDIA GPU" in rows_of["cudnn"][0]["refused"]


@pytest.mark.thorough
def test_sampling_is_measured(tmp_path: Path) -> None:
    out = tmp_path / "sampling.json"
    command = [sys.executable, "-m", "benchmarks.sampling", "--length", "8", "--hidden-size", "4", "--rounds", "1"]
    subprocess.run([*command, "--busy", "--out", str(out)], check=True, timeout=300, cwd=Path(__file__).parents[1])
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


@pytest.mark.thorough
def test_dispatch_is_measured(tmp_path: Path) -> None:
    out = tmp_path / "dispatch.json"
    command = [
        sys.executable,
        "-m",
        "benchmarks.dispatch",
        "--steps",
        "3",
        "--hidden-size",
        "4",
        "--rounds",
        "2",
        "--busy",
    ]
    subprocess.run([*command, "--out", str(out)], check=True, timeout=300, cwd=Path(__file__).parents[1])
    rows = {row["contender"]: row for row in json.loads(out.read_text())["rows"]}
    assert len(rows) == 9
    assert rows["bare"]["ratio"] == 1
    assert all(row["microseconds"] > 0 for row in rows.values())
