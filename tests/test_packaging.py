"""What an install builds: with a compiler, without one, and as the environment variable asks."""

import os
import shutil
import stat
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

pytest.importorskip("setuptools", "77")
pytestmark = pytest.mark.thorough

ROOT = Path(__file__).parents[1]
LIBRARY = "recurrax/implementations/native/librecurrax.so"
# Writes its arguments into the file after -o.
COMPILER = """#!/bin/sh
all="$*"
while [ "$1" != -o ]; do shift; done
echo "$all" > "$2"
"""


def build(folder: Path, path: str, **settings: str) -> tuple[subprocess.CompletedProcess, list[Path]]:
    """Builds a wheel of a copy of the package, with these variables of the environment."""
    copy = folder / "copy"
    ignore = shutil.ignore_patterns("__pycache__", "*.so")
    shutil.copytree(ROOT / "recurrax", copy / "recurrax", ignore=ignore)
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE", "MANIFEST.in"):
        shutil.copy(ROOT / name, copy)
    command = [sys.executable, "setup.py", "-q", "bdist_wheel", "--dist-dir", str(folder)]
    kept = {name: value for name, value in os.environ.items() if name not in ("CC", "CXX", "RECURRAX_NATIVE")}
    done = subprocess.run(command, cwd=copy, env=kept | {"PATH": path} | settings, capture_output=True, text=True)
    return done, list(folder.glob("*.whl"))


def test_without_a_compiler(tmp_path: Path) -> None:
    done, [wheel] = build(tmp_path, path="")
    assert done.returncode == 0
    assert 'recurrax: without `implementation="native"`: there is no C++ compiler' in done.stderr
    assert wheel.name.endswith("-py3-none-any.whl")
    assert LIBRARY not in zipfile.ZipFile(wheel).namelist()


def test_a_compiler_is_asked_for(tmp_path: Path) -> None:
    done, wheels = build(tmp_path, path="", RECURRAX_NATIVE="1")
    assert done.returncode != 0
    assert "there is no C++ compiler" in done.stderr
    assert not wheels


@pytest.mark.skipif(sys.platform == "win32", reason="the compiler is a script of sh")
@pytest.mark.parametrize("wish", ["", "0"])
def test_with_a_compiler(tmp_path: Path, wish: str) -> None:
    compiler = tmp_path / "c++"
    compiler.write_text(COMPILER)
    compiler.chmod(compiler.stat().st_mode | stat.S_IXUSR)
    names = dict.fromkeys(("CC", "CXX", "LDSHARED", "LDCXXSHARED"), str(compiler))
    done, [wheel] = build(tmp_path, os.environ["PATH"], RECURRAX_NATIVE=wish, **names)
    assert done.returncode == 0
    files = zipfile.ZipFile(wheel).namelist()
    if wish == "0":
        assert wheel.name.endswith("-py3-none-any.whl")
        assert LIBRARY not in files
    else:
        assert 'recurrax: `implementation="native"` was compiled.' in done.stderr
        assert "-py3-none-linux_" in wheel.name or sys.platform != "linux"
        assert LIBRARY in files
