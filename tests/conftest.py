"""Strict promotion, warnings as errors (see pyproject.toml), eight virtual devices and a compilation cache on disk."""

import contextlib
import importlib.metadata
import os
import re
import warnings
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Nearly all of the suite's time is compilation, a third of that the optimization of code that runs once. What must pass
# before a change lands is run optimized too, on the newest Python.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")

if importlib.metadata.version("jaxlib").startswith("0.10."):  # Its older way to emit fusions compiles twice as fast.
    os.environ.setdefault("XLA_FLAGS", "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1")

import jax
import pytest
from hypothesis import HealthCheck, settings

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
# One cache for all clones and environments of a user: most of the suite's time is compilation.
caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
jax.config.update("jax_compilation_cache_dir", str(caches / "recurrax-tests"))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)

# A slow machine is no reason for a test to fail.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leaves the contract of most layers to what runs before a change lands: it compiles for many seconds each."""
    for item in items:
        if item.name.startswith("test_contract") and item.path.name != "test_contract.py":
            item.add_marker(pytest.mark.thorough)


@pytest.fixture
def standard_promotion():
    """For programs with an optimiser in them: optax's Adam does not run under strict dtype promotion."""
    with jax.numpy_dtype_promotion("standard"):
        yield


@contextlib.contextmanager
def of_keras():
    """The promotion and the warnings that Keras needs."""
    with warnings.catch_warnings(), jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        warnings.simplefilter("ignore")
        yield


@pytest.fixture
def strict_keras(monkeypatch: pytest.MonkeyPatch):
    """Keras on JAX, in a test that is strict."""
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    with of_keras():
        keras = pytest.importorskip("keras")
    if keras.backend.backend() != "jax":
        pytest.skip("Keras was imported with another backend")
    return keras


@pytest.fixture
def keras(strict_keras):
    """Keras on JAX, with the promotion and the warnings that it needs throughout the test."""
    with of_keras():
        yield strict_keras


@pytest.fixture
def promises() -> tuple[str, ...] | None:
    """What differs from cell to cell where all share one path; with CONTRACT=whole, all of the contract."""
    return None if os.environ.get("CONTRACT") == "whole" else ("steps", "unroll", "dtypes", "derivatives", "identity")


@pytest.fixture
def run_page():
    """Runs the Python blocks of a page, one after another, and returns what they define."""

    def run(page: str) -> dict:
        text = (Path(__file__).parent.parent / page).read_text()
        blocks = re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
        assert blocks
        names: dict = {"__name__": "page"}
        for block in blocks:
            exec(compile(block, page, "exec"), names)
        return names

    return run
