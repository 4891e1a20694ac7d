"""Executes every notebook of this folder.

`python notebooks/run.py OUT` keeps the executed notebooks in the folder OUT.
`python notebooks/run.py OUT 03 05` executes only the notebooks whose names begin so.
"""

import sys
import time
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient

# The limits end a notebook that hangs. A slow machine stays below them.
LIMITS = {"timeout": 3600, "startup_timeout": 600}

# Without a choice every name fits: every name begins with nothing.
chosen = tuple(sys.argv[2:]) or ("",)

for path in sorted(Path(__file__).parent.glob("[0-9]*.py")):
    if not path.name.startswith(chosen):
        continue
    notebook = jupytext.read(path)
    # Paths in a notebook are relative to its folder.
    resources = {"metadata": {"path": str(path.parent)}}
    start = time.perf_counter()
    NotebookClient(notebook, **LIMITS, resources=resources).execute()
    seconds = time.perf_counter() - start
    if len(sys.argv) > 1:
        folder = Path(sys.argv[1])
        folder.mkdir(parents=True, exist_ok=True)
        nbformat.write(notebook, folder / f"{path.stem}.ipynb")
    print(f"{path.name}: every cell ran, in {seconds:.0f} s")
