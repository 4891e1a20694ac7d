"""recurrax with `implementation="native"` and time first."""

from __future__ import annotations

import functools

from benchmarks.speed.contenders import ours_native

build = functools.partial(ours_native.build, time_major=True)
