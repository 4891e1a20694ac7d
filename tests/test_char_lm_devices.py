"""The example program on several devices and processes, and with several steps in a dispatch."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from examples.char_lm.log import read
from fault_injection import write_text

ROOT = Path(__file__).parent.parent
TINY = "--hidden-size 16 --embedding-size 8 --batch 8 --window 10 --warmup 5 --steps 100 --dropout 0.1 "
TINY += "--learning-rate 0.01 --eval-every 50 --checkpoint-every 50 --sample-every 1000"


def port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


def begin(arguments: list[str], processes: int = 1, devices: int = 1) -> list[subprocess.Popen]:
    """Starts the processes of a program."""
    flags = f"--xla_force_host_platform_device_count={devices}"
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}
    coordinator = f"127.0.0.1:{port()}"
    started = []
    for number in range(processes):
        command = [sys.executable, "-m", "examples.char_lm", *arguments]
        if processes > 1:
            command += ["--processes", str(processes), "--process", str(number), "--coordinator", coordinator]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        started.append(subprocess.Popen(command, cwd=ROOT, env=environment, **pipes))
    return started


def end(started: list[subprocess.Popen], code: int = 0) -> list[str]:
    """Waits for the processes, and returns what they said."""
    said = []
    try:
        for process in started:
            output, error = process.communicate(timeout=300)
            said.append(output + error)
        assert [process.returncode for process in started] == [code] * len(started), said
    finally:
        for process in started:
            process.kill()
    return said


def losses(folder: Path) -> np.ndarray:
    return np.array([row["loss"] for row in read(folder / "log.jsonl") if "loss" in row])


@pytest.mark.thorough
def test_devices_and_processes_agree_and_a_run_changes_between_them(tmp_path: Path) -> None:
    text = write_text(tmp_path / "text.py")

    def train(name: str, *options: str) -> list[str]:
        return ["train", "--text", str(text), "--out", str(tmp_path / name), *TINY.split(), *options]

    end(begin(train("one")))
    expected = losses(tmp_path / "one")
    assert len(expected) == 100
    end(begin(train("eight", "--mesh", "data=4,model=2"), devices=8))
    np.testing.assert_allclose(losses(tmp_path / "eight"), expected, rtol=0, atol=1e-5)

    said = end(begin(train("two"), processes=2))
    np.testing.assert_allclose(losses(tmp_path / "two"), expected, rtol=0, atol=1e-5)
    # The first process alone speaks: the other one says nothing that the program prints.
    assert "2 processes" in said[0]
    assert "loss" not in said[1]

    # A refused folder ends both, and the run is still there.
    said = end(begin(train("two"), processes=2), code=2)
    assert "already holds a run" in said[0]
    assert "already" not in said[1]

    # A signal to the second process stops both. The run goes on elsewhere.
    running = begin(train("moved", "--checkpoint-every", "10"), processes=2)
    while not (tmp_path / "moved" / "log.jsonl").exists() or len(losses(tmp_path / "moved")) < 20:
        assert running[0].poll() is None
        time.sleep(0.1)
    running[1].send_signal(signal.SIGTERM)
    said = end(running, code=75)
    assert "all is saved" in said[0]
    assert len(losses(tmp_path / "moved")) < 100
    end(begin(["resume", str(tmp_path / "moved"), "--mesh", "data=2,model=2"], devices=4))
    np.testing.assert_allclose(losses(tmp_path / "moved"), expected, rtol=0, atol=1e-5)


@pytest.mark.thorough
def test_several_steps_in_a_dispatch_keep_their_meaning(tmp_path: Path) -> None:
    text = write_text(tmp_path / "text.py")
    options = [*TINY.split(), "--eval-every", "13", "--checkpoint-every", "20", "--text", str(text)]
    end(begin(["train", *options, "--out", str(tmp_path / "one")]))
    end(begin(["train", *options, "--out", str(tmp_path / "five"), "--steps-per-dispatch", "5"]))
    np.testing.assert_allclose(losses(tmp_path / "five"), losses(tmp_path / "one"), rtol=0, atol=1e-6)
    checked = [row["step"] for row in read(tmp_path / "five" / "log.jsonl") if "validation_loss" in row]
    assert checked == [13, 26, 39, 52, 65, 78, 91, 100]
