"""Figures that others published, each reproduced by one command: `python -m benchmarks.published`."""
