"""The example program on several devices and processes, and with several steps in a dispatch."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from examples.char_lm.__main__ import main
from examples.char_lm.config import UserError
from examples.char_lm.devices import _check_port
from examples.char_lm.lock import Lock
from examples.char_lm.log import read
from fault_injection import write_text

ROOT = Path(__file__).parent.parent
TINY = "--hidden-size 16 --embedding-size 8 --batch 8 --window 10 --warmup 5 --steps 100 --dropout 0.1 "
TINY += "--learning-rate 0.01 --eval-every 50 --checkpoint-every 50 --sample-every 1000 --no-report"


def port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


def begin(arguments: list[str], processes: int = 1, devices: int = 1) -> list[subprocess.Popen]:
    """Starts the processes of a program."""
    flags = os.environ.get("XLA_FLAGS", "") + f" --xla_force_host_platform_device_count={devices}"
    environment = {**os.environ, "XLA_FLAGS": flags}
    # The cache of the tests: a run that goes on compiles nothing again.
    environment["JAX_COMPILATION_CACHE_DIR"] = jax.config.jax_compilation_cache_dir
    environment["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.2"
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
        assert [process.returncode for process in started] == [code] * len(started), "\n".join(said)
    finally:
        for process in started:
            process.kill()
    return said


def losses(folder: Path) -> np.ndarray:
    return np.array([row["loss"] for row in read(folder / "log.jsonl") if "loss" in row])


def train(text: Path, folder: Path, *options: str) -> list[str]:
    return ["train", "--text", str(text), "--out", str(folder), *TINY.split(), *options]


def wait_for_step(step: int, folder: Path, started: list[subprocess.Popen]) -> None:
    while not (folder / "log.jsonl").exists() or len(losses(folder)) < step:
        assert started[0].poll() is None
        time.sleep(0.02)


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_text(tmp_path_factory.mktemp("text") / "text.py")


@pytest.fixture(scope="module")
def expected(text: Path) -> np.ndarray:
    """The losses of one device."""
    folder = text.parent / "one"
    end(begin(train(text, folder)))
    expected = losses(folder)
    assert len(expected) == 100
    return expected


def test_what_does_not_fit_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def told(*options: str, command: str = "train") -> str:
        folder = str(tmp_path)
        arguments = ["train", "--out", folder]
        if command == "resume":
            arguments = ["resume", folder]
        try:
            code = main([*arguments, *options])
        except SystemExit as stop:
            code = stop.code
        assert code == 2
        return capsys.readouterr().err

    for mesh in ("dta=2", "data=0", "4", "data=2,data=2"):
        assert f"such as data=4,model=2; got '{mesh}'" in told("--mesh", mesh)
    assert "data=16,model=1 needs 16 devices; JAX has 8" in told("--mesh", "data=16")
    assert "data=3 of the mesh must divide the batch, which has 32 rows" in told("--mesh", "data=3")
    assert "need --processes" in told("--process", "1")
    assert "from 0 to 1; got None" in told("--processes", "2")
    assert "must be such as node1:8476; got 'node1'" in told("--coordinator", "node1")
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        with pytest.raises(UserError, match="another program has the port"):
            _check_port(server.getsockname()[1])
    # A second program is refused before it meets the processes of the first one.
    with Lock(tmp_path):
        for command in ("train", "resume"):
            assert "another program trains in" in told("--processes", "2", "--process", "1", command=command)


@pytest.mark.thorough
def test_devices_and_processes_agree(text: Path, tmp_path: Path, expected: np.ndarray) -> None:
    end(begin(train(text, tmp_path / "eight", "--mesh", "data=4,model=2"), devices=8))
    np.testing.assert_allclose(losses(tmp_path / "eight"), expected, rtol=0, atol=1e-5)

    said = end(begin(train(text, tmp_path / "two"), processes=2))
    np.testing.assert_allclose(losses(tmp_path / "two"), expected, rtol=0, atol=1e-5)
    # The first process alone speaks: the other one says nothing that the program prints.
    assert "2 processes" in said[0]
    assert "loss" not in said[1]


@pytest.mark.thorough
def test_processes_end_together_and_the_run_goes_on_elsewhere(text: Path, tmp_path: Path, expected: np.ndarray) -> None:
    folder = tmp_path / "run"
    # The first process alone reads the text. The second one waits for it no longer.
    said = end(begin(train(text.with_suffix(".txt"), folder), processes=2), code=2)
    assert "found no file" in said[0]
    assert "another process failed" in said[1]

    # A signal to the second process stops both.
    running = begin(train(text, folder, "--checkpoint-every", "10"), processes=2)
    wait_for_step(20, folder, running)
    running[1].send_signal(signal.SIGTERM)
    said = end(running, code=75)
    assert "all is saved" in said[0]

    # A kill of the second process ends the first one.
    running = begin(["resume", str(folder)], processes=2)
    wait_for_step(len(losses(folder)) + 10, folder, running)
    running[1].kill()
    said = end(running[:1], code=2)
    assert "the link to another process broke" in said[0]
    running[1].communicate()
    assert len(losses(folder)) < 100

    end(begin(["resume", str(folder), "--mesh", "data=2,model=2"], devices=4))
    np.testing.assert_allclose(losses(folder), expected, rtol=0, atol=1e-5)


@pytest.mark.thorough
def test_several_steps_in_a_dispatch_keep_their_meaning(text: Path, tmp_path: Path, expected: np.ndarray) -> None:
    options = ["--eval-every", "13", "--checkpoint-every", "20", "--steps-per-dispatch", "5"]
    end(begin(train(text, tmp_path, *options)))
    np.testing.assert_allclose(losses(tmp_path), expected, rtol=0, atol=1e-6)
    checked = [row["step"] for row in read(tmp_path / "log.jsonl") if "validation_loss" in row]
    assert checked == [13, 26, 39, 52, 65, 78, 91, 100]
