"""What a release holds, what an install builds, and that an installed wheel trains."""

import email
import importlib.util
import os
import re
import shutil
import stat
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

import recurrax

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LIBRARY = "recurrax/implementations/native/librecurrax.so"
# Writes its arguments into the file after -o.
COMPILER = """#!/bin/sh
all="$*"
while [ "$1" != -o ]; do shift; done
echo "$all" > "$2"
"""


def environment(**settings: str) -> dict[str, str]:
    """The variables of the environment, without those of the tests and of a compiler."""
    ours = ("CC", "CXX", "PYTHONPATH", "RECURRAX_NATIVE", "XLA_FLAGS", "MPLBACKEND")
    kept = {name: value for name, value in os.environ.items() if name not in ours and not name.startswith("JAX_")}
    return kept | settings


def run(*command: object, cwd: Path, **settings: str) -> str:
    """What a command prints. It must succeed."""
    words = [str(word) for word in command]
    done = subprocess.run(words, cwd=cwd, env=environment(**settings), capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{words}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def clean_copy(folder: Path) -> Path:
    """A copy of every file that git holds or would add."""
    copy = folder / "copy"
    if not (ROOT / ".git").exists():  # an unpacked source distribution
        ignore = shutil.ignore_patterns("__pycache__", "*.so", "*.egg-info", ".venv*", "build", ".*_cache")
        return Path(shutil.copytree(ROOT, copy, ignore=ignore))
    for name in run("git", "ls-files", "--cached", "--others", "--exclude-standard", cwd=ROOT).splitlines():
        target = copy / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / name).exists():
            shutil.copy(ROOT / name, target)
    return copy


def files_below(folder: Path) -> set[str]:
    """The files of a folder, by their place in it."""
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def build(tree: Path, kind: str, folder: Path, **settings: str) -> tuple[subprocess.CompletedProcess, list[Path]]:
    """Builds a `wheel` or an `sdist` of a tree as pip does, with these variables of the environment."""
    pytest.importorskip("setuptools", "77")
    program = f"import setuptools.build_meta as backend; backend.build_{kind}({str(folder)!r})"
    folder.mkdir(exist_ok=True)
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=tree, env=environment(**settings), capture_output=True, text=True, check=False)
    return done, sorted(folder.iterdir())


def contents(wheel: Path) -> dict[str, bytes]:
    """The files of a wheel."""
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


@pytest.mark.thorough
def test_without_a_compiler(tmp_path: Path) -> None:
    done, [wheel] = build(clean_copy(tmp_path), "wheel", tmp_path / "dist", PATH="")
    assert done.returncode == 0
    assert 'recurrax: without `implementation="native"`: there is no C++ compiler' in done.stderr
    assert wheel.name.endswith("-py3-none-any.whl")
    assert LIBRARY not in contents(wheel)


@pytest.mark.thorough
def test_a_compiler_is_asked_for(tmp_path: Path) -> None:
    done, wheels = build(clean_copy(tmp_path), "wheel", tmp_path / "dist", PATH="", RECURRAX_NATIVE="1")
    assert done.returncode != 0
    assert "there is no C++ compiler" in done.stderr
    assert not [path for path in wheels if path.suffix == ".whl"]


@pytest.mark.thorough
@pytest.mark.skipif(sys.platform == "win32", reason="the compiler is a script of sh")
@pytest.mark.parametrize("wish", ["", "0"])
def test_with_a_compiler(tmp_path: Path, wish: str) -> None:
    compiler = tmp_path / "c++"
    compiler.write_text(COMPILER)
    compiler.chmod(compiler.stat().st_mode | stat.S_IXUSR)
    names = dict.fromkeys(("CC", "CXX", "LDSHARED", "LDCXXSHARED"), str(compiler))
    done, [wheel] = build(clean_copy(tmp_path), "wheel", tmp_path / "dist", RECURRAX_NATIVE=wish, **names)
    assert done.returncode == 0
    if wish == "0":
        assert wheel.name.endswith("-py3-none-any.whl")
        assert LIBRARY not in contents(wheel)
    else:
        assert 'recurrax: `implementation="native"` was compiled.' in done.stderr
        assert "-py3-none-linux_" in wheel.name or sys.platform != "linux"
        # The library alone: its sources stay in the source distribution.
        other = [name for name in contents(wheel) if name.startswith("recurrax/") and not name.endswith(".py")]
        assert sorted(other) == [LIBRARY, "recurrax/py.typed"]


@pytest.mark.thorough
def test_the_distributions_hold_what_they_should(tmp_path: Path) -> None:
    tree = clean_copy(tmp_path)
    tracked = files_below(tree)
    # The wheel comes first: what its build leaves behind must not get into the source distribution.
    _, [wheel] = build(tree, "wheel", tmp_path / "wheel", RECURRAX_NATIVE="0")
    _, [sdist] = build(tree, "sdist", tmp_path / "sdist")
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path / "unpacked", filter="data")
    [unpacked] = (tmp_path / "unpacked").iterdir()
    assert unpacked.name == f"recurrax-{recurrax.__version__}"

    made = {name for name in files_below(unpacked) - tracked if not name.startswith("recurrax.egg-info/")}
    assert made == {"PKG-INFO", "setup.cfg"}
    assert tracked - files_below(unpacked) <= {".gitignore"}
    folder = "recurrax/implementations/native/source"
    some = {f"{folder}/team.cc", f"{folder}/xla/ffi/api/c_api.h", "tests/test_scan.py", "constraints.txt", "LICENSE"}
    assert some <= files_below(unpacked)

    held = contents(wheel)
    info = f"recurrax-{recurrax.__version__}.dist-info"
    about = {f"{info}/{name}" for name in ("METADATA", "WHEEL", "RECORD", "top_level.txt", "licenses/LICENSE")}
    package = {name for name in tracked if name.startswith("recurrax/") and name.endswith(".py")}
    assert set(held) == package | about | {"recurrax/py.typed"}
    assert held[f"{info}/licenses/LICENSE"] == (ROOT / "LICENSE").read_bytes()
    # `pip` may build from the source distribution: the wheel is the same to the last byte.
    _, [again] = build(unpacked, "wheel", tmp_path / "again", RECURRAX_NATIVE="0")
    assert again.name == wheel.name
    assert contents(again) == held

    metadata = email.message_from_bytes(held[f"{info}/METADATA"])
    assert (metadata["Name"], metadata["Version"]) == ("recurrax", recurrax.__version__)
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Requires-Python"] == PROJECT["requires-python"]
    required = [line for line in metadata.get_all("Requires-Dist") if "extra ==" not in line]
    assert required == PROJECT["dependencies"]
    assert "# recurrax" in metadata.get_payload()


@pytest.mark.network
def test_a_wheel_in_an_empty_environment_trains(tmp_path: Path) -> None:
    # The README says how: this test runs its program.
    program = re.search(r"^```python first\.py\n(.*?)^```", (ROOT / "README.md").read_text(), re.DOTALL | re.MULTILINE)
    tree = clean_copy(tmp_path)
    project = tmp_path / "project"
    project.mkdir()
    (project / "first.py").write_text(program[1])
    run(sys.executable, "-m", "venv", "venv", cwd=project)
    python = project / "venv" / "bin" / "python"
    install = (python, "-m", "pip", "install", "-q", "-c", ROOT / "constraints.txt")

    # Makes a wheel as the README does. pip gets setuptools for it.
    def made(folder: Path, wish: str) -> Path:
        words = (python, "-m", "pip", "wheel", "-q", "--no-deps", "-w", folder, tree)
        run(*words, cwd=project, RECURRAX_NATIVE=wish)
        [wheel] = folder.iterdir()
        return wheel

    pure = made(tmp_path / "pure", "0")
    wheels = {"was not compiled": pure}
    if shutil.which("c++"):
        wheels["available"] = made(tmp_path / "native", "1")
        assert set(contents(wheels["available"])) == set(contents(pure)) | {LIBRARY}
    for state, wheel in wheels.items():
        if state == "was not compiled":
            run(*install, f"{wheel}[analysis]", cwd=project)
        else:
            run(*install, "--force-reinstall", "--no-deps", wheel, cwd=project)
        about = "import recurrax; print(recurrax.__file__, recurrax.implementations.available()['native'])"
        place, native = run(python, "-c", about, cwd=project).split(maxsplit=1)
        assert place.startswith(str(project / "venv"))
        assert state in native

        (project / "first.png").unlink(missing_ok=True)
        first, last = re.findall(r"\d+\.\d+", run(python, "first.py", cwd=project, JAX_PLATFORMS="cpu"))
        assert float(last) < 0.1 * float(first)
        picture = (project / "first.png").read_bytes()
        assert picture.startswith(b"\x89PNG")
        assert len(picture) > 10_000


def test_the_files_of_a_release_agree() -> None:
    yaml = pytest.importorskip("yaml")
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    version, date = re.search(r"^## (\S+) \((.+?)\)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE).groups()
    assert citation["version"] == version == recurrax.__version__
    assert str(citation.get("date-released", "unreleased")) == date
    assert citation["license"] == PROJECT["license"]
    assert {"cff-version", "message", "title", "authors"} <= set(citation)
    # The version stands in the package alone, where setuptools reads it.
    assert PROJECT["dynamic"] == ["version"]

    # Whoever reads the classifiers may trust them: the workflow tests each of these versions.
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
    matrix = workflow["jobs"]["versions"]["strategy"]["matrix"]
    classifiers = re.findall(r"Python :: (3\.\d+)", "\n".join(PROJECT["classifiers"]))
    assert matrix["python"] == classifiers
    assert PROJECT["requires-python"] == f">={classifiers[0]}"
    script = (ROOT / ".ci" / "versions").read_text()
    for word in matrix["versions"]:
        assert f"\n{word})" in script


def test_the_licenses_of_the_dependencies() -> None:
    place = ROOT / ".ci" / "third_party.py"
    spec = importlib.util.spec_from_file_location("third_party", place)
    third_party = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(third_party)
    licenses = {name: license for name, _, license in third_party.rows()}
    # NumPy is required by name; ml-dtypes comes through jax, and epath's part of etils through an extra.
    assert {"jax", "flax", "optax", "numpy", "ml-dtypes", "etils", "fsspec"} <= set(licenses)
    assert "Apache" in licenses["jax"]
    assert "unknown" not in licenses.values()
    # What an extra of recurrax brings is no dependency, and neither is recurrax itself.
    assert not {"recurrax", "pytest", "matplotlib", "hypothesis"} & set(licenses)
