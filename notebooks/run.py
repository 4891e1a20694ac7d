"""Executes every notebook of this folder.

`python notebooks/run.py OUT` keeps the executed notebooks in the folder OUT.
"""

import sys
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient

# The limits end a notebook that hangs. A slow machine stays below them.
LIMITS = {"timeout": 3600, "startup_timeout": 600}

for path in sorted(Path(__file__).parent.glob("[0-9]*.py")):
    notebook = jupytext.read(path)
    # Paths in a notebook are relative to its folder.
    resources = {"metadata": {"path": str(path.parent)}}
    NotebookClient(notebook, **LIMITS, resources=resources).execute()
    if len(sys.argv) > 1:
        folder = Path(sys.argv[1])
        folder.mkdir(parents=True, exist_ok=True)
        nbformat.write(notebook, folder / f"{path.stem}.ipynb")
    print(f"{path.name}: every cell ran")
