"""Which cases of a test the README's command runs. It must stay short; `.ci/run` runs all cases."""

from collections.abc import Sequence
from typing import Any

import pytest


def quick_first(cases: Sequence[Any], quick: int = 1) -> list[Any]:
    """Marks all cases but the first ones as thorough."""
    marked = list(cases[:quick])
    for case in cases[quick:]:
        arguments = case if isinstance(case, tuple) else (case,)
        marked.append(pytest.param(*arguments, marks=pytest.mark.thorough))
    return marked
