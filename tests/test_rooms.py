"""The rooms of `recurrax/`: imports go down only, no folder holds a circle, and few files lie loose."""

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import recurrax

ROOT = Path(recurrax.__file__).parent

# Lowest first. A room may import the rooms before it, and its own modules.
ORDER = (
    *("_arguments", "_layer", "_dtype", "_mask", "_check", "_params", "initializers"),
    *("cells", "layers", "implementations", "_scan"),
    *("decoding", "data", "penalties", "analysis", "losses", "experimental", "testing", "_flax"),
    *("nnx", "linen", "interop", "keras"),
)


def file_of(name: str) -> Path | None:
    """The file of a module or of a folder, by its dotted name; None if the name is of something else."""
    path = ROOT.parent.joinpath(*name.split("."))
    if path.is_dir():
        return path / "__init__.py"
    path = path.with_suffix(".py")
    return path if path.is_file() else None


def imported_by(file: Path) -> set[Path]:
    """The files of `recurrax` that a file imports as it loads: functions may import more later."""
    found = set()
    for node in ast.parse(file.read_text("utf-8")).body:
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
            found |= {file_of(name) for name in names if name.split(".")[0] == "recurrax"}
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: write absolute imports"
            if node.module.split(".")[0] != "recurrax":
                continue
            # `from recurrax.cells import lstm` takes a module; `import LSTMCell` takes a name of the folder.
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            found |= {file_of(name) or file_of(node.module) for name in names}
    return found


IMPORTS = {file: imported_by(file) for file in sorted(ROOT.rglob("*.py"))}
FOLDERS = sorted({file.parent for file in IMPORTS})


def entry(folder: Path, file: Path) -> str:
    """The file or the folder that holds `file`, directly inside of `folder`."""
    return Path(file.relative_to(folder).parts[0]).stem


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_no_folder_holds_a_circle(folder: Path) -> None:
    graph: dict[str, set[str]] = {}
    for file, imports in IMPORTS.items():
        if not file.is_relative_to(folder):
            continue
        below = {entry(folder, other) for other in imports if other.is_relative_to(folder)}
        node = entry(folder, file)
        # A folder may import its own modules: its own graph tells about them.
        graph.setdefault(node, set()).update(below - {node})
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"{folder.name}/ holds a circle of imports: {' -> '.join(error.args[1])}")


def test_imports_go_down_only() -> None:
    door = ROOT / "__init__.py"
    rooms = {entry(ROOT, file) for file in IMPORTS if file != door}
    assert rooms == set(ORDER), "every room has its place in ORDER"
    upward = []
    for file, imports in IMPORTS.items():
        # The door alone stands above all rooms.
        if file == door:
            continue
        for other in imports:
            if other == door or ORDER.index(entry(ROOT, other)) > ORDER.index(entry(ROOT, file)):
                upward.append(f"{file.relative_to(ROOT)} imports {other.relative_to(ROOT)}")
    assert not upward


def test_a_cell_imports_no_implementation() -> None:
    implementations = ROOT / "implementations"
    for file in (ROOT / "cells").glob("*.py"):
        assert not any(other.is_relative_to(implementations) for other in IMPORTS[file]), file


def test_few_files_lie_loose() -> None:
    assert len(list(ROOT.glob("*.py"))) <= 12
