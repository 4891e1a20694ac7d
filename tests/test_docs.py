"""README and docs are true: their Python blocks run, and every public name is documented."""

import importlib.util
import inspect
import itertools
import os
import re
import subprocess
import tomllib
from pathlib import Path

import jax
import pytest

import recurrax
from quick import quick_first
from recurrax import analysis, decoding, initializers, interop, keras, linen, losses, rl, testing
from recurrax import nnx as rnn

ROOT = Path(__file__).parent.parent
PAGES = [
    "README.md",
    "docs/guide.md",
    "docs/cells.md",
    "docs/index.md",
    "docs/faq.md",
    "docs/zh.md",
    "docs/long_sequences.md",
    "docs/regularization.md",
    "docs/decoding.md",
    "docs/tagging.md",
    "docs/analysis.md",
    "docs/reinforcement_learning.md",
    "docs/extending.md",
    "docs/series.md",
    "docs/streaming.md",
    "docs/gpu.md",
    "docs/many_devices.md",
]
OF_OTHER_LIBRARIES = "docs/coming_from.md"


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # Keras' own
def test_what_a_page_says_of_other_libraries(run_page) -> None:
    os.environ.setdefault("KERAS_BACKEND", "jax")
    for library in ("torch", "keras", "haiku", "equinox", "onnxruntime"):
        pytest.importorskip(library)
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):  # as the libraries need them
        run_page(OF_OTHER_LIBRARIES)


@pytest.mark.usefixtures("standard_promotion")
@pytest.mark.parametrize("page", quick_first(PAGES))
def test_the_blocks_of_a_page_run(page: str, run_page) -> None:
    run_page(page)


def test_every_page_with_code_is_run() -> None:
    with_code = set()
    for path in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        if "```python" in path.read_text():
            with_code.add(path.relative_to(ROOT).as_posix())
    assert with_code == {*PAGES, OF_OTHER_LIBRARIES}


def anchors_of(page: Path) -> set[str]:
    """The anchors that GitHub and the site give the headings of a page."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_links_between_files_lead_somewhere() -> None:
    pages = [*ROOT.glob("*.md"), *ROOT.glob(".github/*.md"), *ROOT.glob("notebooks/[0-9]*.py")]
    for folder in ("docs", "benchmarks", "examples"):
        pages += (ROOT / folder).rglob("*.md")
    broken = []
    for page in pages:
        # A code block may hold anything.
        text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
        for target in re.findall(r"\]\(([^()\s]+)\)", text):
            if target.startswith(("http", "mailto:")):
                continue
            file, _, anchor = target.partition("#")
            path = page
            if file:
                path = (page.parent / file).resolve()
            # The site makes its tutorials of the notebooks.
            if path.parent == ROOT / "docs" / "tutorials":
                path = ROOT / "notebooks" / f"{path.stem}.py"
            found = path.exists()
            if anchor and path.suffix == ".md":
                found = found and anchor in anchors_of(path)
            if not found:
                broken.append(f"{page.relative_to(ROOT)}: {target}")
    assert not broken


def test_the_readme_has_the_recorded_times() -> None:
    # The site makes its tables of the same results.
    spec = importlib.util.spec_from_file_location("_benchmarks", ROOT / "docs" / "_benchmarks.py")
    tables = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tables)
    readme = (ROOT / "README.md").read_text()
    missing = [line for line in tables.markdown(tables.training()).splitlines()[2:] if line not in readme]
    assert not missing
    # Every other table can be made too, and has a figure in each row.
    for name, table in tables.TABLES.items():
        header, *rows = table()
        assert rows, name
        assert all(len(row) == len(header) and any(map(str.isdigit, " ".join(row))) for row in rows), name


# Abstract, shown by the cells that derive from it; or a tool of `check_contract` or a result of `trace`, shown there.
WITHOUT_EXAMPLE = {"Layer", "AffineCell", "run_segments_apart", "values_and_gradients", "assert_close"}
WITHOUT_EXAMPLE |= {"Trace", "CellTrace"}


def public(module) -> dict:
    return {
        name: value
        for name, value in vars(module).items()
        if not name.startswith("_") and getattr(value, "__module__", "").startswith("recurrax")
    }


def reference() -> str:
    """All pages of the reference, one after another."""
    pages = sorted((ROOT / "docs" / "api").glob("*.md"))
    return "\n".join(page.read_text() for page in pages)


@pytest.mark.parametrize(
    "module",
    [
        recurrax,
        recurrax.cells,
        recurrax.layers,
        recurrax.data,
        recurrax.implementations,
        recurrax.penalties,
        analysis,
        decoding,
        rnn,
        linen,
        interop,
        rl,
        testing,
        initializers,
        keras,
        losses,
        losses.crf,
        losses.ctc,
        losses.transducer,
    ],
    ids=lambda m: m.__name__,
)
def test_every_public_name_is_documented(module) -> None:
    names = {
        name: v for name, v in public(module).items() if module is recurrax or v.__module__.startswith(module.__name__)
    }
    # A name that the door has too is documented there.
    if module is not recurrax:
        names = {name: v for name, v in names.items() if name not in vars(recurrax)}
    api = reference()
    for name, value in names.items():
        full, doc = f"{module.__name__}.{name}", inspect.getdoc(value) or ""
        assert f":: {full}\n" in api, f"{full} is missing from docs/api/"
        is_record = isinstance(value, type) and issubclass(value, tuple)
        if is_record:
            assert "Attributes:" in doc, f"the docstring of {full} does not say what its fields are"
        elif name not in WITHOUT_EXAMPLE:
            assert ">>>" in doc, f"the docstring of {full} has no example"


@pytest.mark.parametrize(
    "module", [keras.initializers, keras.regularizers, keras.constraints], ids=lambda m: m.__name__
)
def test_a_module_of_small_functions_has_one_example_for_all(module) -> None:
    assert f".. automodule:: {module.__name__}\n" in reference()
    assert ">>>" in inspect.getdoc(module)
    assert all(inspect.getdoc(function) for name, function in public(module).items())


# One row of the gallery: the cell as code, its formulas, and its kind. Layers that hold a cell have no kind.
ROW = re.compile(r"^\| `([^`]+\))` \| (`[^|]+) \| ([^|]+) \|", re.MULTILINE)


@pytest.mark.parametrize(("I", "H"), [(5, 8), (12, 12)])
def test_the_gallery_counts_parameters_as_the_cells_do(I: int, H: int) -> None:  # noqa: E741
    sizes = {"I": I, "H": H, "N": 4, "P": 3, "S": 2, "M": 2, "A": 3, "R": 2, "U": 6, "L": 5, "K": 9}
    names = {**vars(recurrax), **sizes, "shape": (6, 5), "taps": (3, 3)}
    rows = ROW.findall((ROOT / "docs" / "cells.md").read_text())
    for code, formulas, kind in rows:
        cell = eval(code, names)
        # A formula "for I = H" stands after the general one, or alone if the cell takes no other inputs.
        general = re.findall(r"`([^`]+)`(?! for I = H)", formulas)
        equal = re.findall(r"`([^`]+)` for I = H", formulas)
        chosen = equal if equal and I == H else general
        for formula in chosen:
            assert recurrax.num_params(cell, I) == eval(formula, names), f"{code}: {formula}"
        if kind in ("affine", "linear", "neither"):
            is_affine, is_linear = getattr(cell, "is_affine", False), getattr(cell, "is_linear", False)
            assert (is_affine, is_linear) == (kind == "affine", kind == "linear"), code
    shown = {code.split("(")[0] for code, *_ in rows}
    cells = {name for name, value in public(recurrax).items() if name.endswith("Cell")}
    assert cells - shown == {"Cell", "AffineCell", "LinearCell"}


def test_the_source_distribution_holds_every_file_that_git_does() -> None:
    # Setuptools takes the package, pyproject.toml, README and LICENSE by itself, and what MANIFEST.in names.
    found = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if found.returncode:
        pytest.skip("not a clone")
    lines = [line.split() for line in (ROOT / "MANIFEST.in").read_text().splitlines() if line and line[0] != "#"]
    words = {word for command, *words in lines if command in ("include", "graft") for word in words}
    words |= {"recurrax", "pyproject.toml", "README.md", "LICENSE", "MANIFEST.in", ".gitignore"}
    missing = [path for path in found.stdout.splitlines() if path.split("/")[0] not in words]
    assert not missing, f"MANIFEST.in must name {', '.join(missing)}"
    assert not [word for word in words if not (ROOT / word).exists()]


def test_a_clone_installs_what_it_is_tested_with() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = [*project["dependencies"], *itertools.chain(*project["optional-dependencies"].values())]
    pinned = re.findall(r"^([\w.-]+)==", (ROOT / "constraints.txt").read_text().lower(), re.MULTILINE)
    names = {re.split(r"[\[<>=]", requirement)[0] for requirement in asked} - {"recurrax"}
    assert not names - set(pinned), "constraints.txt must pin every requirement"
    # NumPy's floor is that of the oldest jax: an older NumPy could never be installed beside it.
    assert "numpy>=2.0" in project["dependencies"]


@pytest.mark.parametrize("page", ["CONTRIBUTING.md", ".github/pull_request_template.md"])
def test_a_page_names_files_that_exist(page: str) -> None:
    named = re.findall(r"`((?:recurrax|tests|docs|\.ci)/[\w./]*)`", (ROOT / page).read_text())
    assert not [path for path in named if not (ROOT / path).exists()]
    # The workflow runs the script that everybody runs, and the hooks run what is installed.
    assert "run: .ci/run" in (ROOT / ".github" / "workflows" / "ci.yml").read_text()
    hooks = (ROOT / ".pre-commit-config.yaml").read_text()
    assert hooks.count("repo: ") == hooks.count("repo: local") == 1
