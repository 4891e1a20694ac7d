"""Puts numbers of parameters behind the formulas of the gallery. The cells are asked for them."""

import re

import recurrax

# The sizes of the example. `docs/cells.md` names them.
SIZES = {"I": 100, "H": 256, "N": 8, "P": 64, "S": 27, "M": 2}
SIZES |= {"A": 128, "R": 8, "U": 128, "L": 5, "K": 9}
NAMES = {**vars(recurrax), **SIZES, "shape": (16, 16), "taps": (3, 3)}

# One row of the gallery: the cell as code, then its first formula.
ROW = re.compile(r"^(\| `([^`]+\))` \| `[^`]+`)( for I = H)?", re.MULTILINE)


def with_count(row: re.Match) -> str:
    """Writes the number behind the first formula of a row."""
    start, code, equal = row.groups()
    input_size = SIZES["I"]
    # Some cells take as many inputs as they have units.
    if equal:
        input_size = SIZES["H"]
    count = recurrax.num_params(eval(code, NAMES), input_size)
    return f"{start}{equal or ''} = {count:,}"


def add_counts(app, name, source):
    """Changes the text of the gallery before Sphinx reads it."""
    if name == "cells":
        source[0] = ROW.sub(with_count, source[0])
