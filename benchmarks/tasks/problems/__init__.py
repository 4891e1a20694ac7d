"""The tasks, one a file; a new one is a file with a `TASK`, and its name here."""

from benchmarks.tasks.problems import adding, copying, irregular, parity, pixels, text

TASKS = {module.TASK.name: module.TASK for module in (adding, copying, parity, pixels, irregular, text)}
