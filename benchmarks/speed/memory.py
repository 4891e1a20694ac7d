"""How much memory a call takes, as the operating system sees it."""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

# Of glibc's mallopt.
TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3


def peak_growth(call: Callable[[], Any]) -> int | None:
    """How far the process's resident memory rises over two calls, in bytes; None where there is no Linux and glibc."""
    try:
        # Freed memory is to go back at once: what malloc keeps, it would hand out again without anything growing.
        libc = ctypes.CDLL(None)
        libc.mallopt(MMAP_THRESHOLD, 1 << 16)
        libc.mallopt(TRIM_THRESHOLD, 1 << 17)
        call()
        gc.collect()
        libc.malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")  # Sets the peak back to where memory stands.
        before = _status("VmRSS")
        call()
        call()
        return max(0, _status("VmHWM") - before)
    except (OSError, AttributeError):
        return None


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))
