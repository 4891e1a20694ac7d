"""Brings the notebooks into the site: `docs/tutorials/` is made anew at each build.

A notebook that `notebooks/run.py build/notebooks` has executed comes with its outputs. Any other
one comes as it is, without outputs: nothing is executed here.
"""

import re
from pathlib import Path

import jupytext
import nbformat

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "docs" / "tutorials"
EXECUTED = ROOT / "build" / "notebooks"

INDEX = """# Tutorials

Each page is a notebook: a story with pictures. Read it here, or open the file in `notebooks/` with
Jupyter and change it. Continuous integration executes every cell.

```{toctree}
:maxdepth: 1

NAMES
```
"""

# A string after one of these words is the title of a picture.
TITLE = re.compile(r"""(?:title=|set_title\(|suptitle\()f?["']([^"']+)["']""")


def same_cells(executed, written) -> bool:
    """Says whether an executed notebook has the cells of the file, so is not from an older one."""
    cells = [cell.source for cell in executed.cells]
    return cells == [cell.source for cell in written.cells]


def mend_links(notebook) -> None:
    """Turns links between files of the repository into links between pages of the site."""
    for cell in notebook.cells:
        if cell.cell_type != "markdown":
            continue
        text = re.sub(r"\]\(\.\./docs/", "](../", cell.source)
        text = re.sub(r"\]\((\d\w+)\.py\)", r"](\1.ipynb)", text)
        # A program has no page, so its name stays without a link.
        cell.source = re.sub(r"\[([^\]]+)\]\(\.\./(?:examples|benchmarks)[^)]*\)", r"\1", text)


def describe_pictures(notebook) -> None:
    """Gives each picture an alternative text: its titles, after the heading above it."""
    heading = ""
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            for found in re.findall(r"^#+ (.+)$", cell.source, re.MULTILINE):
                heading = found
            continue
        titles = [title for title in TITLE.findall(cell.source) if "{" not in title]
        text = "; ".join([f"Picture: {heading}", *titles])
        # Quotes and markup would end the attribute.
        text = re.sub(r"[`\"*$]", "", text)
        options = cell.metadata.setdefault("mystnb", {})
        options.setdefault("image", {}).setdefault("alt", text)


def write() -> list[str]:
    """Writes the pages and their index, and returns the names of the notebooks."""
    FOLDER.mkdir(exist_ok=True)
    names = []
    for path in sorted((ROOT / "notebooks").glob("[0-9]*.py")):
        written = jupytext.read(path)
        notebook = written
        executed = EXECUTED / f"{path.stem}.ipynb"
        if executed.exists():
            found = nbformat.read(executed, as_version=4)
            if same_cells(found, written):
                notebook = found
        mend_links(notebook)
        describe_pictures(notebook)
        target = FOLDER / f"{path.stem}.ipynb"
        text = nbformat.writes(notebook)
        # Sphinx reads only what has changed.
        if not target.exists() or target.read_text() != text:
            target.write_text(text)
        names.append(path.stem)
    for page in FOLDER.glob("*.ipynb"):
        if page.stem not in names:
            page.unlink()
    (FOLDER / "index.md").write_text(INDEX.replace("NAMES", "\n".join(names)))
    return names
