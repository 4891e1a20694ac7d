"""recurrax over every step of a ragged batch, padding included: what its masks cost, or save."""

from __future__ import annotations

from benchmarks.speed.cases import Absent, Case
from benchmarks.speed.contenders import Work, ours


def build(case: Case, implementation: str | None = None) -> Work:
    """As `ours`, without lengths."""
    if not case.ragged:
        raise Absent("there is no mask to leave out")
    return ours.build(case._replace(ragged=False), implementation)
