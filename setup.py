"""Compiles the library of `implementation="native"` where it finds a C++ compiler.

Everything else about the package stands in pyproject.toml. Without the library the package is
complete. The environment variable `RECURRAX_NATIVE` decides:

- unset: it is compiled where it can be, and an install never fails for want of a compiler.
- 0: it is not compiled.
- 1: it is compiled, or the install fails with the reason.
"""

from __future__ import annotations

import itertools
import os
import platform
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

# What an install does without the environment variable: "" tries to compile, "0" does not.
BY_DEFAULT = ""
WISH = os.environ.get("RECURRAX_NATIVE", BY_DEFAULT)

FOLDER = Path("recurrax/implementations/native")
LIBRARY = FOLDER / "librecurrax.so"
FLAGS = ["-std=c++17", "-g0", "-fPIC", f"-I{FOLDER / 'source'}"]
# With "-O2" the loops compile in 0.6 of the time (an install then takes 19 s instead of 26 s on two
# cores) and run in 1.0 to 1.07 of the time.
LOOPS = "-O3"
# Each processor has a file of its own. The library picks one as it loads.
PROCESSOR_FLAGS = {
    "target_avx2": ["-mavx2", "-mfma"],
    "target_avx512": ["-mavx512f", "-mavx512vl", "-mfma"],
}


def flags_of(source: str, on_x86: bool) -> list[str]:
    """The flags of one file."""
    stem = Path(source).stem
    level = "-O1"
    # On x86 the portable loops are for processors before 2013 only, so they may be slower.
    if stem in PROCESSOR_FLAGS or (stem == "target_portable" and not on_x86):
        level = LOOPS
    return [*FLAGS, level, *PROCESSOR_FLAGS.get(stem, [])]


def _is_newer(library: Path, sources: list[str]) -> bool:
    """Whether the library was built after the last change of its sources."""
    if not library.exists():
        return False
    return library.stat().st_mtime > max(Path(source).stat().st_mtime for source in sources)


class BuildLibrary(build_ext):
    """Compiles and links the files; says in one line whether the library was built."""

    def get_ext_filename(self, fullname: str) -> str:
        """The library is no module of Python, so its name has no tag."""
        return f"{Path(*fullname.split('.'))}.so"

    def run(self) -> None:
        """Builds the library, or says why not."""
        try:
            super().run()
        except Exception as reason:
            if WISH == "1":
                raise
            # An editable install would look for the file.
            self.extensions = []
            print(f'recurrax: without `implementation="native"`: {reason}', file=sys.stderr)
        else:
            print('recurrax: `implementation="native"` was compiled.', file=sys.stderr)

    def build_extension(self, ext: Extension) -> None:
        """Compiles each file with the flags of its processor, and links them."""
        target = Path(self.get_ext_fullpath(ext.name))
        target.parent.mkdir(parents=True, exist_ok=True)
        if self.editable_mode and _is_newer(LIBRARY, [*ext.sources, *ext.depends, "setup.py"]):
            shutil.copy2(LIBRARY, target)
            return
        compiler = getattr(self.compiler, "compiler_cxx", None) or [""]
        if shutil.which(compiler[0]) is None:
            raise FileNotFoundError(f"there is no C++ compiler {compiler[0]!r} on this machine.")
        on_x86 = platform.machine().lower() in ("x86_64", "amd64")

        def compile_file(source: str) -> list[str]:
            flags = flags_of(source, on_x86)
            return self.compiler.compile([source], output_dir=self.build_temp, extra_postargs=flags)

        sources = [s for s in ext.sources if on_x86 or Path(s).stem not in PROCESSOR_FLAGS]
        # Several at once, and the long ones first.
        sources.sort(key=lambda source: not Path(source).stem.startswith("target_"))
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            objects = list(itertools.chain.from_iterable(pool.map(compile_file, sources)))
        self.compiler.link_shared_object(objects, str(target), target_lang="c++")


class LibraryWheel(bdist_wheel):
    """A wheel for any Python: the library does not use Python's interface."""

    def get_tag(self) -> tuple[str, str, str]:
        """py3-none and the platform, or py3-none-any if the library was not built."""
        built = Path(self.bdist_dir) / LIBRARY
        platform_tag = super().get_tag()[2]
        if not built.exists():
            platform_tag = "any"
        return "py3", "none", platform_tag


library = Extension(
    "recurrax.implementations.native.librecurrax",
    sources=sorted(str(path) for path in (FOLDER / "source").glob("*.cc")),
    depends=sorted(str(path) for path in (FOLDER / "source").rglob("*.h")),
)
setup(
    ext_modules=[] if WISH == "0" else [library],
    cmdclass={"build_ext": BuildLibrary, "bdist_wheel": LibraryWheel},
)
