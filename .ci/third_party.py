"""Writes the run-time dependencies of recurrax: the name, version and license of each.

    python .ci/third_party.py > dist/THIRD_PARTY.md

The program reads the metadata of the packages that are installed beside recurrax. It follows the
requirements of recurrax and of its dependencies, but no extra of recurrax.
"""

from __future__ import annotations

import importlib.metadata
import re

HEAD = """# Third-party software of recurrax {version}

`pip install recurrax` installs these packages, each under its own license.

| package | version | license |
|---|---|---|"""
# The compiled library holds code from these headers. Their own README says more.
TAIL = """
The library in C++ was compiled with three headers of [XLA](https://openxla.org), under the Apache
License 2.0. The source distribution holds them in `recurrax/implementations/native/source/xla`.
"""
# A name, then perhaps extras: `etils[epath]`.
REQUIREMENT = re.compile(r"([\w.-]+)\s*(?:\[([^]]*)\])?")


def dependencies(name: str, extras: frozenset[str] = frozenset()) -> set[str]:
    """The names of all installed packages that a package requires, directly or not."""
    found: set[str] = set()
    seen = set()
    waiting = [(name, extras)]
    while waiting:
        package = waiting.pop()
        if package in seen:
            continue
        seen.add(package)
        name, extras = package
        for line in importlib.metadata.requires(name) or []:
            requirement, _, marker = line.partition(";")
            # A line of an extra counts only if somebody asked for this extra.
            asked = re.findall(r"extra == [\"']([\w.-]+)", marker)
            if asked and not extras.intersection(asked):
                continue
            match = REQUIREMENT.match(requirement)
            assert match is not None, line
            needed = re.sub(r"[-_.]+", "-", match[1]).lower()
            # Other markers are for other machines, where other packages are installed.
            if not is_installed(needed):
                continue
            found.add(needed)
            words = (match[2] or "").replace(" ", "").split(",")
            waiting.append((needed, frozenset(words)))
    return found


def is_installed(name: str) -> bool:
    """Whether a package is installed here."""
    try:
        importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def license_of(name: str) -> str:
    """The license, as the package tells it: an expression, a short text or classifiers."""
    metadata = importlib.metadata.metadata(name)
    expression = metadata.get("License-Expression")
    if expression:
        return expression
    classifiers = []
    for line in metadata.get_all("Classifier") or []:
        if line.startswith("License :: "):
            classifiers.append(line.split(" :: ")[-1])
    if classifiers:
        return ", ".join(classifiers)
    # Some packages put the text of the license here. Its first line names it.
    text = (metadata.get("License") or "").strip()
    return text.partition("\n")[0] or "unknown"


def rows() -> list[tuple[str, str, str]]:
    """One row for each dependency: name, version, license."""
    table = []
    for name in sorted(dependencies("recurrax")):
        table.append((name, importlib.metadata.version(name), license_of(name)))
    return table


if __name__ == "__main__":
    print(HEAD.format(version=importlib.metadata.version("recurrax")))
    for row in rows():
        print("| " + " | ".join(row) + " |")
    print(TAIL, end="")
