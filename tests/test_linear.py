"""Linear recurrences: each against a NumPy loop written from its paper, and every implementation against the others."""

import dataclasses
import functools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import recurrax as rx
from equations import assert_obeys
from recurrax.cells.s5 import _normal_hippo
from recurrax.testing import assert_close, check_contract, normal_like, perturbed_params, values_and_gradients

PARALLEL = ("associative", "blocked")
ALL = ("xla", "sequential", *PARALLEL)


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def paired(w: np.ndarray, axis: int) -> np.ndarray:
    real, imaginary = np.split(w, 2, axis)
    return real + 1j * imaginary


def min_gru(p: Any, x: np.ndarray, h: np.ndarray, g: Callable) -> tuple:
    z, n = np.split(x @ p.kernel + p.bias, 2, -1)
    h = (1 - sigmoid(z)) * h + sigmoid(z) * g(n)
    return (h,), h


def min_lstm(p: Any, x: np.ndarray, h: np.ndarray, g: Callable) -> tuple:
    i, f, n = np.split(x @ p.kernel + (0 if p.bias is None else p.bias), 3, -1)
    i, f = sigmoid(i), sigmoid(f)
    h = f / (f + i) * h + i / (f + i) * g(n)
    return (h,), h


def positive(x: np.ndarray) -> np.ndarray:
    return np.where(x >= 0, x + 0.5, sigmoid(x))


def f_pooling(p: Any, x: np.ndarray, h: np.ndarray) -> tuple:
    f, z = np.split(x @ p.kernel + p.bias, 2, -1)
    h = sigmoid(f) * h + (1 - sigmoid(f)) * np.tanh(z)
    return (h,), h


def fo_pooling(p: Any, x: np.ndarray, c: np.ndarray) -> tuple:
    f, z, o = np.split(x @ p.kernel + p.bias, 3, -1)
    c = sigmoid(f) * c + (1 - sigmoid(f)) * np.tanh(z)
    return (c,), sigmoid(o) * c


def ifo_pooling(p: Any, x: np.ndarray, c: np.ndarray) -> tuple:
    i, f, z, o = np.split(x @ p.kernel + p.bias, 4, -1)
    c = sigmoid(f) * c + sigmoid(i) * np.tanh(z)
    return (c,), sigmoid(o) * c


def sru(p: Any, x: np.ndarray, c: np.ndarray, g: Callable, alpha: float) -> tuple:
    size = c.shape[-1]
    products = np.split(x @ p.kernel, p.kernel.shape[-1] // size, -1)
    f, r = sigmoid(products[0] + p.bias[:size]), sigmoid(products[1] + p.bias[size:])
    c = f * c + (1 - f) * products[2]
    return (c,), r * g(c) + (1 - r) * alpha * (products[3] if len(products) == 4 else x)


def lru(p: Any, x: np.ndarray, h: np.ndarray) -> tuple:
    decay = np.exp(-np.exp(p.log_decay) + 1j * np.exp(p.log_phase))
    h = decay * h + np.exp(p.log_scale) * (x @ paired(p.kernel, 1))
    return (h,), (h @ paired(p.output_kernel, 0)).real + (x * p.skip if p.skip.ndim == 1 else x @ p.skip)


def s5(p: Any, x: np.ndarray, h: np.ndarray) -> tuple:
    eigenvalues, step = -np.exp(p.log_decay) + 1j * p.frequency, np.exp(p.log_step)
    held = np.exp(eigenvalues * step)
    h = held * h + (x @ paired(p.kernel, 1)) * (held - 1) / eigenvalues
    return (h,), 2 * (h @ paired(p.output_kernel, 0)).real + (x * p.skip if p.skip.ndim == 1 else x @ p.skip)


def rg_lru(p: Any, x: np.ndarray, h: np.ndarray) -> tuple:
    heads, size = p.kernel.shape[:2]
    gates = [x[:, n * size : (n + 1) * size] @ p.kernel[n] + p.bias[n] for n in range(heads)]
    r = sigmoid(np.concatenate([gate[:, :size] for gate in gates], -1))
    i = sigmoid(np.concatenate([gate[:, size:] for gate in gates], -1))
    a = np.exp(-8 * np.log1p(np.exp(p.log_decay)) * r)
    h = a * h + np.sqrt(1 - a**2) * i * x
    return (h,), h


CASES: dict[str, tuple[rx.LinearCell, int, Callable]] = {
    "minGRU": (rx.MinGRUCell(5), 4, functools.partial(min_gru, g=positive)),
    "minGRU, tanh": (rx.MinGRUCell(5, jnp.tanh), 4, functools.partial(min_gru, g=np.tanh)),
    "minLSTM": (rx.MinLSTMCell(5), 4, functools.partial(min_lstm, g=positive)),
    "minLSTM, identity": (rx.MinLSTMCell(5, None, bias=False), 4, functools.partial(min_lstm, g=lambda x: x)),
    "QRNN, f": (rx.QRNNCell(5, "f"), 4, f_pooling),
    "QRNN, fo": (rx.QRNNCell(5), 4, fo_pooling),
    "QRNN, ifo": (rx.QRNNCell(5, "ifo"), 4, ifo_pooling),
    "SRU": (rx.SRUCell(5, highway_bias=-1.0), 5, functools.partial(sru, g=lambda x: x, alpha=np.sqrt(1 + 2 / np.e))),
    "SRU, projected": (rx.SRUCell(5, jnp.tanh, rescale=False), 4, functools.partial(sru, g=np.tanh, alpha=1.0)),
    "LRU": (rx.LRUCell(4, 6), 4, lru),
    "LRU, other sizes": (rx.LRUCell(5, min_radius=0.5, max_radius=0.9, max_phase=0.3), 4, lru),
    "S5": (rx.S5Cell(4, 12, num_blocks=3, max_step=1.0), 4, s5),
    "S5, other sizes": (rx.S5Cell(6, max_step=1.0), 4, s5),
    "RG-LRU": (rx.RGLRUCell(6, num_heads=3), 6, rg_lru),
}


@pytest.mark.parametrize("name", CASES)
def test_values_and_gradients_are_those_of_the_equations_in_float64(name: str) -> None:
    cell, input_size, equations = CASES[name]
    # The derivative is one rule for all cells, and the implementations meet it below; all of them for a few here.
    assert_obeys(cell, equations, input_size, ALL if name in ("minGRU", "LRU") else ("xla", "associative"))


LAYERS = [
    (rx.MinGRUCell(4), 3, "associative"),
    (rx.MinLSTMCell(4), 3, "sequential"),
    (rx.QRNNCell(4, "ifo"), 3, "blocked"),
    (rx.SRUCell(4, jnp.tanh), 3, "xla"),
    (rx.LRUCell(4, 5), 3, "associative"),
    (rx.S5Cell(4, 8, num_blocks=2), 4, "blocked"),
    (rx.RGLRUCell(4, num_heads=2), 4, "sequential"),
]


@pytest.mark.parametrize(("cell", "input_size", "implementation"), LAYERS, ids=str)
def test_contract(cell: rx.LinearCell, input_size: int, implementation: str, promises: tuple[str, ...] | None) -> None:
    check_contract(cell, input_size, implementation=implementation, promises=promises)


REAL, COMPLEX = rx.RGLRUCell(4, num_heads=2), rx.LRUCell(4, 3, min_radius=0.9)


@pytest.mark.parametrize(
    ("cell", "steps", "reverse"),
    [(REAL, 0, False), (REAL, 1, True), (REAL, 7, False), (COMPLEX, 7, True), (REAL, 64, True), (COMPLEX, 100, False)],
    ids=str,
)
def test_implementations_agree(cell: rx.LinearCell, steps: int, reverse: bool) -> None:
    rng = np.random.default_rng(0)
    args = perturbed_params(cell, 4), normal_like(jax.ShapeDtypeStruct((3, steps, 4), jnp.float32), 1)
    state = normal_like(jax.eval_shape(lambda: cell.initial_state((3,))), 2)
    mask = (rng.random((3, steps)) < 0.8) & (np.arange(steps) < np.array([[steps], [steps // 2], [0]]))
    options = {"mask": mask, "reset": rng.random((3, steps)) < 0.1, "reverse": reverse}
    runs = [functools.partial(rx.scan, cell, implementation=name, **options) for name in ("sequential", *PARALLEL)]
    sequential, *parallel = (values_and_gradients(run, *args, state) for run in runs)
    for name, got in zip(PARALLEL, parallel, strict=True):
        assert_close(name, got, sequential, 1e-5)


@pytest.mark.thorough
def test_long_sequences() -> None:
    cell = rx.S5Cell(2, 4)
    params, xs = perturbed_params(cell, 2), normal_like(jax.ShapeDtypeStruct((4096, 2), jnp.float32), 1)
    runs = [functools.partial(rx.scan, cell, implementation=name) for name in ("sequential", *PARALLEL)]
    sequential, *parallel = (values_and_gradients(run, params, xs) for run in runs)
    for name, got in zip(PARALLEL, parallel, strict=True):
        assert_close(name, got, sequential, 1e-5)


@pytest.mark.parametrize("implementation", ["xla", "associative"])
@pytest.mark.parametrize("cell", [rx.LRUCell(4, 16, min_radius=0.9), rx.S5Cell(4, 16), rx.RGLRUCell(4)], ids=str)
def test_products_in_bfloat16_leave_the_decays_alone(cell: rx.LinearCell, implementation: str) -> None:
    params, xs = cell.init(jax.random.key(0), 4), normal_like(jax.ShapeDtypeStruct((1000, 4), jnp.float32), 1)
    _, expected = rx.scan(cell, params, xs)
    _, ys = rx.scan(dataclasses.replace(cell, dtype=jnp.bfloat16), params, xs, implementation=implementation)
    assert jnp.sqrt(jnp.mean((ys - expected) ** 2) / jnp.mean(expected**2)) < 0.01


@pytest.mark.thorough
def test_gates_far_out_are_gates() -> None:
    for cell in (rx.MinGRUCell(1), rx.MinLSTMCell(1), rx.QRNNCell(1), rx.SRUCell(1), rx.RGLRUCell(1)):
        params = cell.init(jax.random.key(0), 1)
        for size in (-1e4, -200.0, 200.0, 1e4):
            far = jax.tree.map(lambda p, size=size: jnp.full_like(p, size), params)
            far = far._replace(log_decay=params.log_decay) if isinstance(far, rx.cells.RGLRUParams) else far
            for sign in (1.0, -1.0):
                out, grads = values_and_gradients(
                    lambda *args, cell=cell: rx.scan(cell, *args), far, jnp.full((3, 1), sign)
                )
                assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves((out, grads))), (cell, size, sign)
    # Both gates shut: they still add up to 1.
    params = rx.cells.InputGatedParams(jnp.zeros((1, 3)), jnp.array([-200.0, -200.0, 1.5]))
    assert rx.scan(rx.MinLSTMCell(1), params, jnp.zeros((1, 1)))[1].tolist() == [[1.0]]


@pytest.mark.thorough
def test_lru_begins_on_the_ring() -> None:
    cell = rx.LRUCell(4, 4096, min_radius=0.4, max_radius=0.8, max_phase=1.0)
    params = cell.init(jax.random.key(0), 4)
    modulus = np.exp(-np.exp(params.log_decay))
    assert 0.4 <= modulus.min() < 0.41
    assert 0.79 < modulus.max() <= 0.8
    np.testing.assert_allclose(np.mean(modulus**2), (0.4**2 + 0.8**2) / 2, atol=0.01)  # even in the area
    assert 0 < np.exp(params.log_phase).min() < 0.01 < 0.99 < np.exp(params.log_phase).max() <= 1
    np.testing.assert_allclose(np.exp(2 * params.log_scale), 1 - modulus**2, rtol=1e-5)
    for radius in (0.0, 1.0):
        ends = rx.LRUCell(4, 64, min_radius=radius, max_radius=radius or 1e-3).init(jax.random.key(0), 4)
        assert all(jnp.isfinite(p).all() for p in ends)


def test_s5_begins_as_the_normal_part_of_hippo() -> None:
    size = 8
    n = np.arange(size)
    hippo = -np.tril(np.sqrt(np.outer(2 * n + 1, 2 * n + 1)), -1) - np.diag(n + 1)  # Gu et al., 2020
    normal = hippo + np.outer(np.sqrt(n + 0.5), np.sqrt(n + 0.5))
    cell = rx.S5Cell(2, 2 * size, num_blocks=2)
    params = jax.tree.map(np.asarray, cell.init(jax.random.key(0), 3))
    eigenvalues, vectors = _normal_hippo(size)
    np.testing.assert_allclose(2 * (vectors * eigenvalues @ vectors.conj().T).real, normal, atol=1e-12)
    np.testing.assert_allclose(-np.exp(params.log_decay) + 1j * params.frequency, np.tile(eigenvalues, 2), rtol=1e-5)
    # B and C are real in the basis of the matrix, block by block.
    for drawn, basis in ((paired(params.kernel, 1), vectors.conj()), (paired(params.output_kernel, 0).T, vectors)):
        blocks = drawn.reshape(-1, 2, size // 2)
        real = 2 * (blocks @ basis.conj().T).real
        np.testing.assert_allclose(real @ basis, blocks, atol=1e-5)
    assert 0.001 <= np.exp(params.log_step).min() <= np.exp(params.log_step).max() <= 0.1


def test_rg_lru_begins_between_its_radii() -> None:
    cell = rx.RGLRUCell(256, num_heads=4, min_radius=0.9, max_radius=0.999)
    params = cell.init(jax.random.key(0), 256)
    decay = np.exp(-8 * np.log1p(np.exp(np.float64(params.log_decay))))
    assert 0.9 <= decay.min() < 0.902
    assert 0.997 < decay.max() <= 0.9991


def golden(name: str) -> dict[str, np.ndarray]:
    arrays = np.load(Path(__file__).parent / "golden" / "linear.npz")
    return {key.removeprefix(f"{name}."): arrays[key] for key in arrays if key.startswith(f"{name}.")}


def test_rg_lru_is_that_of_recurrentgemma() -> None:
    theirs = golden("rg_lru")
    gates = lambda name: np.concatenate([theirs[f"a_gate_{name}"], theirs[f"input_gate_{name}"]], -1)  # noqa: E731
    params = rx.cells.RGLRUParams(theirs["a_param"], gates("w"), gates("b"))
    run = functools.partial(rx.scan, rx.RGLRUCell(6, num_heads=3), params, implementation="associative")
    final, ys = run(theirs["x"], rx.cells.LinearState(theirs["cache"]))
    assert_close("from a state", (ys, final.h), (theirs["y"], theirs["last"]), 1e-6)
    # There the first input of a segment is not scaled: step 3 begins one.
    _, before = run(theirs["x"][:, :3], rx.cells.LinearState(theirs["cache"]))
    _, after = run(theirs["x"][:, 4:], rx.cells.LinearState(theirs["y_segments"][:, 3]))
    for part, expected in ((before, theirs["y_segments"][:, :3]), (after, theirs["y_segments"][:, 4:])):
        assert_close("segments", part, expected, 1e-6)


def of_min_gated(weight: np.ndarray) -> rx.cells.InputGatedParams:
    gates = np.split(weight, weight.shape[0] // 4)  # theirs begin with the candidate; minLSTM's go on with f, i
    return rx.cells.InputGatedParams(np.concatenate(gates[::-1]).T)


def of_lru(theirs: dict) -> rx.cells.LRUParams:
    return rx.cells.LRUParams(
        *(theirs[name] for name in ("nu_log", "theta_log", "gamma_log")),
        np.concatenate([theirs["B"].real, theirs["B"].imag]).T,
        np.concatenate([theirs["C"].real, theirs["C"].imag], axis=1).T,
        theirs["D"].T,
    )


def of_s5(theirs: dict) -> rx.cells.S5Params:
    output = theirs["C"] / 2  # theirs adds no conjugates
    return rx.cells.S5Params(
        *(np.log(-theirs["Lambda"].real), theirs["Lambda"].imag, theirs["log_step"]),
        np.concatenate([theirs["B"][..., 0], theirs["B"][..., 1]]).T,
        np.concatenate([output.real, output.imag], axis=1).T,
        theirs["D"],
    )


PEERS: dict[str, tuple[rx.LinearCell, Callable]] = {
    "min_gru": (rx.MinGRUCell(4, bias=False), lambda theirs: of_min_gated(theirs["weight"])),
    "min_lstm": (rx.MinLSTMCell(4, bias=False), lambda theirs: of_min_gated(theirs["weight"])),
    "lru": (rx.LRUCell(3, 5), of_lru),
    "s5": (rx.S5Cell(4, 12), of_s5),
}


@pytest.mark.parametrize("name", PEERS)
def test_outputs_are_those_of_other_packages(name: str) -> None:
    (cell, convert), theirs = PEERS[name], golden(name)
    _, ys = rx.scan(cell, convert(theirs), theirs["x"], implementation="blocked")
    assert_close(name, ys, theirs["y"], 1e-5)


@pytest.mark.thorough
def test_parameters_are_finite_at_the_ends_of_what_a_cell_may_be() -> None:
    cells = (
        rx.LRUCell(8, max_radius=1e-30),
        rx.LRUCell(8, min_radius=1.0),
        rx.RGLRUCell(8, min_radius=1e-30, max_radius=1e-30),
        rx.RGLRUCell(8, max_radius=1 - 1e-7, c=1e-3),
        rx.S5Cell(8, min_step=1e-30, max_step=1e30),
    )
    for cell in cells:
        params = cell.init(jax.random.key(0), 8)
        assert jax.tree.all(jax.tree.map(lambda leaf: jnp.isfinite(leaf).all(), params)), cell


def test_what_a_cell_cannot_be() -> None:
    for make, message in {
        lambda: rx.QRNNCell(4, "of"): '`pooling` must be "f", "fo" or "ifo"; got \'of\'.',
        lambda: rx.LRUCell(
            4, min_radius=0.9, max_radius=0.5
        ): "<= max_radius <= 1, and max_radius above 0; got 0.9 and 0.5.",
        lambda: rx.LRUCell(4, max_phase=0.0): "`max_phase` must be above 0 and at most 2π; got 0.0.",
        lambda: rx.S5Cell(
            4, 6, num_blocks=2
        ): "`state_size` of S5Cell must be an even number for each of 2 blocks; got 6.",
        lambda: rx.S5Cell(4, min_step=1.0): "0 < min_step <= max_step; got 1.0 and 0.1.",
        lambda: rx.RGLRUCell(4, num_heads=3): "`num_heads` must divide `hidden_size` 4; got 3.",
        lambda: rx.RGLRUCell(4, max_radius=1.0): "0 < min_radius <= max_radius < 1 in float32; got 0.9 and 1.0.",
        lambda: rx.RGLRUCell(4, max_radius=1 - 1e-12): "max_radius < 1 in float32; got 0.9 and 0.999999999999.",
        lambda: rx.RGLRUCell(4, c=0.0): "`c` must be above 0 and finite; got 0.0.",
        lambda: rx.LRUCell(4, max_radius=0.0): "and max_radius above 0; got 0.0 and 0.0.",
        lambda: rx.S5Cell(4, max_step=float("inf")): "0 < min_step <= max_step; got 0.001 and inf.",
        lambda: rx.RGLRUCell(4).init(
            jax.random.key(0), 3
        ): "`input_size` of RGLRUCell(hidden_size=4) must be 4; got 3.",
    }.items():
        with pytest.raises(ValueError, match=re.escape(message)):
            make()
