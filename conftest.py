"""Examples that need a library that may be missing are run where it is installed."""

import importlib.util
import os
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "jax")

collect_ignore = [
    f"recurrax/interop/{name}.py"
    for name in ("equinox", "keras", "torch")
    if importlib.util.find_spec(name) is None
]
if importlib.util.find_spec("matplotlib") is None:
    collect_ignore.append("recurrax/analysis/_pictures.py")


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Says in one line whether the loop in C++ was there to be tested."""
    import recurrax

    native = recurrax.implementations.available()["native"]
    terminalreporter.write_line(f'The loop in C++, implementation="native": {native}')
