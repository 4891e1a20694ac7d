"""Compiles the library of `implementation="native"`, where `RECURRAX_NATIVE=1` asks for it.

Everything else about the package stands in pyproject.toml. Without the library the package is
complete. Without a C++ compiler the package installs without the library.
"""

from __future__ import annotations

import itertools
import os
import platform
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

FOLDER = Path("recurrax/implementations/native")
LIBRARY = FOLDER / "librecurrax.so"
FLAGS = ["-std=c++17", "-O3", "-g0", "-fPIC", f"-I{FOLDER / 'source'}"]
# Each processor has a file of its own. The library picks one as it loads.
PROCESSOR_FLAGS = {
    "target_avx2": ["-mavx2", "-mfma"],
    "target_avx512": ["-mavx512f", "-mavx512vl", "-mfma"],
}


class BuildLibrary(build_ext):
    """Compiles and links the files; says in one line whether the library was built."""

    def get_ext_filename(self, fullname: str) -> str:
        """The library is no module of Python, so its name has no tag."""
        return f"{Path(*fullname.split('.'))}.so"

    def run(self) -> None:
        """Builds the library, or says why not: an install never fails for want of a compiler."""
        try:
            super().run()
            print('recurrax: `implementation="native"` was compiled.', file=sys.stderr)
        except Exception as reason:
            # An editable install would look for the file.
            self.extensions = []
            print(f'recurrax: without `implementation="native"`: {reason}', file=sys.stderr)

    def build_extension(self, ext: Extension) -> None:
        """Compiles each file with the flags of its processor, and links them."""
        on_x86 = platform.machine().lower() in ("x86_64", "amd64")

        def compile_file(source: str) -> list[str]:
            flags = FLAGS + PROCESSOR_FLAGS.get(Path(source).stem, [])
            return self.compiler.compile([source], output_dir=self.build_temp, extra_postargs=flags)

        sources = [s for s in ext.sources if on_x86 or Path(s).stem not in PROCESSOR_FLAGS]
        # The longest file takes half of the time, so all are compiled at once.
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            objects = list(itertools.chain.from_iterable(pool.map(compile_file, sources)))
        target = self.get_ext_fullpath(ext.name)
        Path(target).parent.mkdir(parents=True, exist_ok=True)
        self.compiler.link_shared_object(objects, target, target_lang="c++")


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
# The library is new, and compiling it takes a minute.
asked = os.environ.get("RECURRAX_NATIVE") == "1"
setup(
    ext_modules=[library] if asked else [],
    cmdclass={"build_ext": BuildLibrary, "bdist_wheel": LibraryWheel},
)
