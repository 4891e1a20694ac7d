"""Training programs under strict dtype promotion: optax alone may mix dtypes."""

import contextlib
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import jax
import optax
import pytest


@contextlib.contextmanager
def lenient_optax(program: ModuleType) -> Iterator[pytest.MonkeyPatch]:
    """Lets the optimizer of a program mix dtypes: optax's Adam takes a power of a float and an int32.

    The patch that it yields ends with it, so a test may change more of the program by it.
    """
    make_optimizer = program.make_optimizer

    def make_lenient(config: Any) -> optax.GradientTransformation:
        optimizer = make_optimizer(config)

        def update(*args: Any) -> Any:
            with jax.numpy_dtype_promotion("standard"):
                return optimizer.update(*args)

        return optax.GradientTransformation(optimizer.init, update)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(program, "make_optimizer", make_lenient)
        yield patch
