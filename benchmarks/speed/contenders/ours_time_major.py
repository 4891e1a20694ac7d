"""recurrax with time first, which is how its time-major peers are compared with it."""

from __future__ import annotations

import functools

from benchmarks.speed.contenders import ours

build = functools.partial(ours.build, time_major=True)
