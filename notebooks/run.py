"""Executes every notebook of this folder; `python notebooks/run.py OUT` keeps the executed ones in OUT."""

import sys
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient

for path in sorted(Path(__file__).parent.glob("[0-9]*.py")):
    notebook = jupytext.read(path)
    # The limits are for a hang, not for a slow machine.
    limits = {"timeout": 3600, "startup_timeout": 600}
    NotebookClient(notebook, **limits, resources={"metadata": {"path": str(path.parent)}}).execute()
    if len(sys.argv) > 1:
        Path(sys.argv[1]).mkdir(parents=True, exist_ok=True)
        nbformat.write(notebook, Path(sys.argv[1]) / path.with_suffix(".ipynb").name)
    print(f"{path.name}: every cell ran")
