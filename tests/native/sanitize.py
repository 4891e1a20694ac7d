"""Builds the native kernels with the compiler's sanitizers, and runs them on random problems.

    python tests/native/sanitize.py            # some minutes

AddressSanitizer and UndefinedBehaviorSanitizer are in one program, ThreadSanitizer in another. Both
must end without a report.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HERE = Path(__file__).parent
SOURCE = HERE.parents[1] / "recurrax" / "implementations" / "native" / "source"
FLAGS = {"target_avx2": ["-mavx2", "-mfma"], "target_avx512": ["-mavx512f", "-mavx512vl", "-mfma"]}
SANITIZERS = {"address": "address,undefined", "thread": "thread"}


def build(sanitizers: str, folder: Path) -> Path:
    """Compiles everything but the handlers, which need XLA, with the program that tries it."""
    compiler = os.environ.get("CXX", "g++")
    common = [compiler, "-std=c++17", "-O1", "-g", "-pthread", f"-fsanitize={sanitizers}", f"-I{SOURCE}"]
    files = [HERE / "fuzz.cc", *(file for file in SOURCE.glob("*.cc") if file.stem != "handlers")]

    def compile_file(file: Path) -> Path:
        result = folder / f"{file.stem}.o"
        flags = ["-Wno-psabi", "-fno-sanitize-recover=all", *FLAGS.get(file.stem, [])]
        subprocess.run([*common, *flags, "-c", file, "-o", result], check=True)
        return result

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = list(pool.map(compile_file, files))
    program = folder / "fuzz"
    subprocess.run([*common, *objects, "-o", program], check=True)
    return program


def main() -> None:
    """Builds and runs each program."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sanitizers", nargs="+", choices=SANITIZERS, default=list(SANITIZERS))
    parser.add_argument("--problems", type=int, default=60)
    options = parser.parse_args()
    for name in options.sanitizers:
        folder = Path(tempfile.mkdtemp())
        program = build(SANITIZERS[name], folder)
        print(f"{SANITIZERS[name]}:", flush=True)
        subprocess.run([program, str(options.problems)], check=True)
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
