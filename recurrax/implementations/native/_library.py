"""The compiled library: found, loaded and registered with JAX on first use."""

from __future__ import annotations

import ctypes
import functools
import os
from pathlib import Path

import jax

# The names of the three handlers, in the library and for XLA.
FORWARD = "recurrax_forward"
STATES = "recurrax_states"
BACKWARD = "recurrax_backward"

_FILE = Path(__file__).with_name("librecurrax.so")


@functools.cache
def why_missing() -> str | None:
    """Why the library cannot be used on this machine, or None if it is ready."""
    if os.environ.get("RECURRAX_NATIVE") == "0":
        return "the environment variable RECURRAX_NATIVE=0 switches it off."
    if not _FILE.exists():
        return (
            "it was not compiled. Install recurrax again where there is a C++ compiler. With"
            " RECURRAX_NATIVE=1 in the environment, the install fails with the reason."
        )
    try:
        # JAX refuses a library that was built with newer headers than its own.
        library = ctypes.CDLL(str(_FILE))
        for name in (FORWARD, STATES, BACKWARD):
            handler = jax.ffi.pycapsule(getattr(library, name))
            jax.ffi.register_ffi_target(name, handler, platform="cpu")
    # Whatever the reason is, the loops of JAX serve.
    except Exception as error:
        return f"its library does not load: {error}"
    return None


def target() -> str:
    """The name of the processor for which the library computes, such as "avx2"."""
    library = ctypes.CDLL(str(_FILE))
    library.recurrax_target.restype = ctypes.c_char_p
    return library.recurrax_target().decode()
