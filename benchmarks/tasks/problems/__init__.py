"""The tasks, one a file; a new one is a file with a `TASK`, and its name here in a group, which has its own results."""

from benchmarks.tasks.problems import (
    adding,
    copying,
    irregular,
    parity,
    permutations,
    pixels,
    recall,
    running_sum,
    selective,
    text,
)

GROUPS = {
    "tasks": tuple(module.TASK for module in (adding, copying, parity, pixels, irregular, text)),
    "tracking": (running_sum.PARITY, running_sum.TASK, permutations.TASK, selective.TASK, recall.TASK),
}
TASKS = {task.name: task for group in GROUPS.values() for task in group}
