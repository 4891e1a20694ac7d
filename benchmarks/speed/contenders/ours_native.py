"""recurrax with `implementation="native"`, whatever the default is."""

from __future__ import annotations

from benchmarks.speed.cases import Case
from benchmarks.speed.contenders import Work, ours
from recurrax import implementations

state = implementations.available()["native"]
if state != "available":
    raise ImportError(f'implementation="native" cannot run here: {state}')


def build(case: Case, implementation: str | None = None, time_major: bool = False) -> Work:
    """As `ours`; the command's implementation is for the default one."""
    return ours.build(case, "native", time_major)
