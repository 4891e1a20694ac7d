"""Do the layers learn what their papers say they learn: `python -m benchmarks.tasks`."""
