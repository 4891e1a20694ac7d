"""Layers of other libraries, as functions of their parameters, beside what they become here."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import recurrax as rx
from recurrax.testing import assert_close, normal_like, values_and_gradients

I, H, SPACE = 3, 4, (4, 3)  # noqa: E741
XS = normal_like(jax.ShapeDtypeStruct((2, 5, I), jnp.float32), 1)
IMAGES = normal_like(jax.ShapeDtypeStruct((2, 5, *SPACE, I), jnp.float32), 1)


class Theirs(NamedTuple):
    """A layer of another library: its parameters, how it runs, and how it is converted."""

    params: Any
    run: Callable  # of its parameters and inputs, to its final state and its outputs
    convert: Callable  # of its parameters, to our layer and parameters
    restore: Callable  # of our layer and parameters, to its parameters


def same(a: Any, b: Any) -> bool:
    """Whether two pytrees are equal in structure, in dtypes and bit by bit."""
    same = jax.tree.map(lambda x, y: x.dtype == y.dtype and np.asarray(x).tobytes() == np.asarray(y).tobytes(), a, b)
    return all(jax.tree.leaves(same))


def perturbed(params: Any) -> Any:
    return jax.tree.map(lambda leaf, n: leaf + 0.3 * n, params, normal_like(params, 2))


def check(theirs: Theirs, xs: Any, exact: bool = True, **options: Any) -> rx.Layer:
    """Values, final states, and gradients of inputs and of each of their weights; then, if `exact`, the way back."""
    layer, params = theirs.convert(theirs.params)

    def ours(params: Any, xs: Any) -> Any:
        return rx.scan(layer, theirs.convert(params)[1], xs, **options)

    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        expected = values_and_gradients(theirs.run, theirs.params, xs)
    assert_close(repr(layer), values_and_gradients(ours, theirs.params, xs), expected, 1e-5)
    assert all(np.any(leaf) for leaf in jax.tree.leaves(expected[1]))
    if exact:
        assert same(theirs.restore(layer, params), theirs.params)
    return layer
