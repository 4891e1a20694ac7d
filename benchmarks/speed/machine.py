"""Where and with what the figures were taken."""

from __future__ import annotations

import concurrent.futures
import datetime
import importlib.metadata
import multiprocessing
import os
import platform
import re
import time
from pathlib import Path
from typing import Any

from benchmarks import quiet
from benchmarks.speed.contenders import CONTENDERS


def about() -> dict[str, Any]:
    """Date, versions, machine, and its rate of multiplying matrices."""
    cpuinfo = Path("/proc/cpuinfo")
    model = re.search(r"model name\s*:\s*(.*)", cpuinfo.read_text()) if cpuinfo.exists() else None
    versions = {"python": platform.python_version()}
    for name in sorted({"jaxlib", "numpy", *(contender.distribution for contender in CONTENDERS.values())}):
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    with concurrent.futures.ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as apart:
        device = apart.submit(_device).result()
    return {
        "date": datetime.date.today().isoformat(),
        "cpu": model[1] if model else platform.processor(),
        "cores": quiet.own_cores(),
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        **device,
        "versions": versions,
    }


def _device() -> dict[str, Any]:
    import jax

    # Large enough that no device is idle; the best of a few, since only other programs make it slower.
    size = 2048 if jax.default_backend() == "cpu" else 8192
    square = jax.random.normal(jax.random.key(0), (size, size))
    product, seconds = jax.jit(lambda a: a @ a), []
    product(square).block_until_ready()
    for _ in range(7):
        began = time.perf_counter()
        product(square).block_until_ready()
        seconds.append(time.perf_counter() - began)
    return {
        "platform": jax.default_backend(),
        "device": jax.devices()[0].device_kind,
        "matmul_flops_per_second": 2 * size**3 / min(seconds),
    }
