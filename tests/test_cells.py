"""The classic variants: each against a NumPy loop written from its paper, against other libraries, and the contract."""

import dataclasses
import inspect
import re
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import recurrax as rx
from equations import assert_obeys
from quick import quick_first
from recurrax.cells.diagonal import DiagonalGRUCell, DiagonalLSTMCell
from recurrax.cells.indrnn import IndRNNCell, LayerNormIndRNNCell
from recurrax.cells.layer_norm import LayerNormElmanCell, LayerNormGRUCell, LayerNormLSTMCell
from recurrax.cells.mgu import MGUCell, UGRNNCell
from recurrax.cells.multiplicative import MultiplicativeLSTMCell
from recurrax.cells.peephole import CIFGCell, PeepholeLSTMCell
from recurrax.testing import assert_close, check_contract, normal_like, values_and_gradients

T, B, I, H = 6, 3, 4, 5  # noqa: E741


def normal(*shape: int, seed: int = 1) -> jax.Array:
    return normal_like(jax.ShapeDtypeStruct(shape, jnp.float32), seed)


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def normalized(a: np.ndarray) -> np.ndarray:
    return (a - a.mean(-1, keepdims=True)) / np.sqrt(a.var(-1, keepdims=True) + 1e-5)


def total(p: Any, x: np.ndarray, h: np.ndarray) -> np.ndarray:
    return sum((bias for bias in (p.bias, p.recurrent_bias) if bias is not None), x @ p.kernel + h @ p.recurrent_kernel)


def peephole(p: Any, x: np.ndarray, h: np.ndarray, c: np.ndarray, clip: float = np.inf) -> tuple[np.ndarray, ...]:
    i, f, g, o = np.split(total(p, x, h), 4, -1)
    p_i, p_f, p_o = p.peephole
    c_new = np.clip(sigmoid(f + p_f * c) * c + sigmoid(i + p_i * c) * np.tanh(g), -clip, clip)
    h = sigmoid(o + p_o * c_new) * np.tanh(c_new)
    return (h if p.projection_kernel is None else h @ p.projection_kernel), c_new


def coupled(p: Any, x: np.ndarray, h: np.ndarray, c: np.ndarray) -> tuple[np.ndarray, ...]:
    # As the odyssey has it, with the input gate: i = σ(-a) where f = σ(a).
    f, g, o = np.split(total(p, x, h), 3, -1)
    p_f, p_o = np.zeros((2, H)) if p.peephole is None else p.peephole
    i = sigmoid(-f - p_f * c)
    c = np.tanh(g) * i + c * (1 - i)
    return np.tanh(c) * sigmoid(o + p_o * c), c


def layer_norm_elman(p: Any, x: np.ndarray, h: np.ndarray) -> tuple[np.ndarray, ...]:
    return (np.tanh(p.scale * normalized(x @ p.kernel + h @ p.recurrent_kernel) + p.bias),)


def layer_norm_indrnn(p: Any, x: np.ndarray, h: np.ndarray) -> tuple[np.ndarray, ...]:
    return (np.maximum(p.scale * normalized(x @ p.kernel + h * p.recurrent_kernel) + p.bias, 0),)


def layer_norm_lstm(p: Any, x: np.ndarray, h: np.ndarray, c: np.ndarray) -> tuple[np.ndarray, ...]:
    a = normalized(h @ p.recurrent_kernel) * p.recurrent_scale + p.recurrent_bias
    i, f, g, o = np.split(a + normalized(x @ p.kernel) * p.scale + p.bias, 4, -1)
    c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    return sigmoid(o) * np.tanh(normalized(c) * p.cell_scale + p.cell_bias), c


def layer_norm_gru(p: Any, x: np.ndarray, h: np.ndarray) -> tuple[np.ndarray, ...]:
    def terms(product: np.ndarray, scale: np.ndarray, bias: np.ndarray) -> np.ndarray:
        parts = [normalized(product[..., : 2 * H]), normalized(product[..., 2 * H :])]
        return np.concatenate(parts, -1) * scale + bias

    z, u = terms(x @ p.kernel, p.scale, p.bias), terms(h @ p.recurrent_kernel, p.recurrent_scale, p.recurrent_bias)
    r, keep = np.split(sigmoid(z + u)[..., : 2 * H], 2, -1)
    update = 1 - keep
    return ((1 - update) * h + update * np.tanh(z[..., 2 * H :] + r * u[..., 2 * H :]),)


def mgu(p: Any, x: np.ndarray, h: np.ndarray) -> tuple[np.ndarray, ...]:
    f = sigmoid(total(p, x, h)[..., :H])
    u_n = h @ p.recurrent_kernel[:, H:] + p.recurrent_bias[H:]
    return ((1 - f) * np.tanh(x @ p.kernel[:, H:] + p.bias[H:] + f * u_n) + f * h,)


def mgu_of_the_paper(p: Any, x: np.ndarray, h: np.ndarray) -> tuple[np.ndarray, ...]:
    weights = np.concatenate([p.recurrent_kernel, p.kernel])
    f = sigmoid(np.concatenate([h, x], -1) @ weights[:, :H] + p.bias[:H])
    candidate = np.tanh(np.concatenate([f * h, x], -1) @ weights[:, H:] + p.bias[H:])
    return ((1 - f) * h + f * candidate,)


def ugrnn(p: Any, x: np.ndarray, h: np.ndarray) -> tuple[np.ndarray, ...]:
    g, n = np.split(total(p, x, h), 2, -1)
    return (sigmoid(g) * h + (1 - sigmoid(g)) * np.tanh(n),)


def indrnn(p: Any, x: np.ndarray, h: np.ndarray) -> tuple[np.ndarray, ...]:
    return (np.maximum(x @ p.kernel + p.bias + h * p.recurrent_kernel, 0),)


def diagonal_total(p: Any, x: np.ndarray, h: np.ndarray, gates: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    u = [h * kernel for kernel in np.split(p.recurrent_kernel, gates)]
    if p.recurrent_bias is not None:
        u = [u_g + bias for u_g, bias in zip(u, np.split(p.recurrent_bias, gates), strict=True)]
    return np.split(x @ p.kernel + p.bias, gates, -1), u


def diagonal_gru(p: Any, x: np.ndarray, h: np.ndarray) -> tuple[np.ndarray, ...]:
    z, u = diagonal_total(p, x, h, 3)
    keep = sigmoid(z[1] + u[1])
    return ((1 - keep) * np.tanh(z[2] + sigmoid(z[0] + u[0]) * u[2]) + keep * h,)


def diagonal_lstm(p: Any, x: np.ndarray, h: np.ndarray, c: np.ndarray) -> tuple[np.ndarray, ...]:
    i, f, g, o = (z + u for z, u in zip(*diagonal_total(p, x, h, 4), strict=True))
    c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    return sigmoid(o) * np.tanh(c), c


def multiplicative(p: Any, x: np.ndarray, h: np.ndarray, c: np.ndarray) -> tuple[np.ndarray, ...]:
    m = (x @ p.factor_kernel) * (h @ p.recurrent_factor_kernel)
    i, f, g, o = np.split(total(p, x, m), 4, -1)
    c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    h = np.tanh(c) * sigmoid(o)
    return (h if p.projection_kernel is None else h @ p.projection_kernel), c


CASES: dict[str, tuple[rx.AffineCell, Callable]] = {
    "peephole": (PeepholeLSTMCell(H), peephole),
    "peephole, projected": (
        PeepholeLSTMCell(H, 2, cell_clip=0.6, recurrent_bias=True),
        lambda *args: peephole(*args, clip=0.6),
    ),
    "cifg": (CIFGCell(H), coupled),
    "cifg, peepholes": (CIFGCell(H, peepholes=True, recurrent_bias=True), coupled),
    "layer norm elman": (LayerNormElmanCell(H), layer_norm_elman),
    "layer norm indrnn": (LayerNormIndRNNCell(H), layer_norm_indrnn),
    "layer norm lstm": (LayerNormLSTMCell(H, recurrent_bias=True), layer_norm_lstm),
    "layer norm gru": (LayerNormGRUCell(H), layer_norm_gru),
    "mgu": (MGUCell(H), mgu),
    "mgu, reset before": (MGUCell(H, reset_after=False), mgu_of_the_paper),
    "ugrnn": (UGRNNCell(H), ugrnn),
    "indrnn": (IndRNNCell(H), indrnn),
    "diagonal gru": (DiagonalGRUCell(H), diagonal_gru),
    "diagonal lstm": (DiagonalLSTMCell(H, recurrent_bias=True), diagonal_lstm),
    "multiplicative": (MultiplicativeLSTMCell(H), multiplicative),
    "multiplicative, projected": (MultiplicativeLSTMCell(H, 2, recurrent_bias=True), multiplicative),
}


# The names with a comma are options of the cells without.
@pytest.mark.parametrize("name", quick_first(sorted(CASES, key=lambda name: "," in name), 8))
def test_values_and_gradients_are_those_of_the_equations_in_float64(name: str) -> None:
    cell, oracle = CASES[name]

    def equations(*args: Any) -> tuple:
        state = oracle(*args)
        return state, state[0]

    assert_obeys(cell, equations, I, ("xla", *["hoisted"] * cell.is_affine, *["newton"] * cell.independent_units))


LAYERS = [
    PeepholeLSTMCell(4, 3, cell_clip=0.7),
    CIFGCell(4, peepholes=True, cell_clip=0.7),
    LayerNormElmanCell(4),
    LayerNormLSTMCell(4),
    LayerNormGRUCell(4),
    MGUCell(4),
    MGUCell(4, reset_after=False, recurrent_bias=True),
    UGRNNCell(4, activation=jax.nn.relu, recurrent_bias=True),
    IndRNNCell(4, recurrent_bias=True),
    DiagonalGRUCell(4),
    DiagonalLSTMCell(4),
    MultiplicativeLSTMCell(4, 3),
]


@pytest.mark.parametrize("cell", LAYERS, ids=str)
def test_contract(cell: rx.AffineCell, promises: tuple[str, ...] | None) -> None:
    check_contract(cell, implementation="hoisted" if cell.is_affine else None, promises=promises)


@pytest.mark.parametrize("reset_gate", [True, False])
def test_single_gates_equal_flax(reset_gate: bool) -> None:
    theirs = nn.RNN(nn.MGUCell(H, reset_gate=reset_gate))
    ours = MGUCell(H) if reset_gate else UGRNNCell(H)
    xs = normal(B, T, I)
    tree = theirs.init(jax.random.key(0), xs)["params"]["cell"]
    tree = jax.tree.map(lambda p, n: p + 0.5 * n, tree, normal_like(tree, 2))

    def run(tree: Any, xs: jax.Array) -> jax.Array:
        side = lambda which, names: jnp.concatenate([tree[name][which] for name in names], axis=-1)  # noqa: E731
        params = ours.params_type(
            kernel=side("kernel", ["if", "in"]),
            recurrent_kernel=side("kernel", ["hf", "hn"]),
            bias=side("bias", ["if", "in"]),
            recurrent_bias=jnp.concatenate([jnp.zeros(H), tree["hn"]["bias"]]) if reset_gate else None,
        )
        return rx.scan(ours, params, xs)[1]

    flax = values_and_gradients(lambda tree, xs: theirs.apply({"params": {"cell": tree}}, xs), tree, xs)
    assert_close("Flax", values_and_gradients(run, tree, xs), flax, 1e-5)


@pytest.mark.parametrize(
    ("cell", "bias"),
    [
        (PeepholeLSTMCell(2, forget_bias=3.0), [0, 3, 0, 0]),
        (CIFGCell(2), [1, 0, 0]),
        (LayerNormLSTMCell(2), [0, 1, 0, 0]),
        (MGUCell(2), [1, 0]),
        (MGUCell(2, reset_after=False), [-1, 0]),
        (UGRNNCell(2), [1, 0]),
    ],
    ids=str,
)
def test_at_first_the_state_is_rather_kept(cell: rx.AffineCell, bias: list[int]) -> None:
    params = cell.init(jax.random.key(0), 3)
    assert params.bias.tolist() == [b for b in bias for _ in range(2)]
    kept = {name: leaf for name, leaf in params._asdict().items() if name.endswith("scale") and leaf is not None}
    assert all((scale == 1).all() for scale in kept.values())


PUBLIC = [kind for name in dir(rx) if inspect.isclass(kind := getattr(rx, name)) and issubclass(kind, rx.Layer)]
SPATIAL = (rx.ConvElmanCell, rx.ConvGRUCell, rx.ConvLSTMCell)


def small(kind: type) -> rx.Cell:
    if kind is rx.MCLSTMCell:
        return kind(4, 2)
    return kind(4, (3,), 2) if kind in SPATIAL else kind(4)


def test_a_layer_has_the_fields_of_its_nearest_ancestor_and_of_its_docstring() -> None:
    for kind in filter(dataclasses.is_dataclass, PUBLIC):
        fields = {field.name: field for field in dataclasses.fields(kind)}
        for name, field in fields.items():
            owner = next(base for base in kind.__mro__ if name in inspect.get_annotations(base))
            said = next(other for other in dataclasses.fields(owner) if other.name == name)
            for what in ("type", "default", "default_factory", "kw_only", "init", "compare"):
                assert getattr(field, what) == getattr(said, what), f"{what} of {kind.__name__}.{name}"
        # Positional arguments stand in the order of the parent's, and of the docstring.
        given = [name for name, field in fields.items() if field.init]
        positional = [name for name in given if not fields[name].kw_only]
        for base in filter(dataclasses.is_dataclass, kind.__mro__[1:]):
            theirs = [field.name for field in dataclasses.fields(base) if not field.kw_only]
            kept = [name for name in theirs if name in positional]
            assert kept == [name for name in positional if name in kept], kind.__name__
        # Python 3.13 removes the indentation of docstrings by itself.
        section = re.search(r"Args:\n(.*?)\n\n", inspect.cleandoc(kind.__doc__), re.DOTALL)
        told = re.findall(r"^ {4}(\w+):", section[1], re.MULTILINE) if section else []
        assert set(told) <= set(given), kind.__name__
        if section and kind not in SPATIAL:  # These refer to one another.
            assert set(given) - set(told) <= {"dtype"}, kind.__name__
            assert [name for name in told if name in positional] == positional, kind.__name__


def test_a_diagonal_gru_has_the_biases_of_a_gru() -> None:
    params = jax.eval_shape(lambda: DiagonalGRUCell(4).init(jax.random.key(0), 3))
    assert params.recurrent_bias.shape == (12,)
    assert jax.eval_shape(lambda: DiagonalGRUCell(4, bias=False).init(jax.random.key(0), 3)).recurrent_bias is None
    with pytest.raises(TypeError, match="recurrent_bias"):
        LayerNormIndRNNCell(4, recurrent_bias=True)


@pytest.mark.parametrize("shape", [pytest.param((0, 3), marks=pytest.mark.thorough), (2, 0)], ids=str)
def test_nothing_of_a_batch_or_of_a_sequence_is_no_error(shape: tuple[int, int]) -> None:
    def run(cell: rx.Cell, **options: Any) -> jax.Array:
        xs = jnp.zeros((*shape, *[3] * (type(cell) in SPATIAL), 4))
        return rx.scan(cell, cell.init(jax.random.key(0), 4), xs, **options)[1]

    flags = {"mask": jnp.ones(shape, bool), "reset": jnp.ones(shape, bool), "reverse": True}
    kinds = [kind for kind in PUBLIC if issubclass(kind, rx.Cell) and not inspect.isabstract(kind)]
    # The static inputs of this cell stand beside its parameters.
    cells = [small(kind) for kind in kinds if kind is not rx.EALSTMCell]
    for cell in cells:
        assert jax.eval_shape(lambda cell=cell: run(cell, **flags)).shape[:2] == shape, cell
    for cell, implementation in ((rx.MLSTMCell(4, 2), rx.implementations.Chunked(2)), (rx.LSTMCell(4), "newton")):
        assert jax.eval_shape(lambda c=cell, i=implementation: run(c, implementation=i)).shape == (*shape, 4)


def test_what_a_cell_cannot_be() -> None:
    for kind in (PeepholeLSTMCell, CIFGCell):
        with pytest.raises(ValueError, match=re.escape("`cell_clip` must be above 0, or None for no bound; got 0.0.")):
            kind(4, cell_clip=0.0)
    with pytest.raises(TypeError, match="recurrent_bias"):
        LayerNormElmanCell(4, recurrent_bias=True)
    for cell in (MGUCell(4, reset_after=False), MultiplicativeLSTMCell(4)):
        with pytest.raises(ValueError, match=f'"hoisted" cannot serve {type(cell).__name__}'):
            rx.scan(cell, cell.init(jax.random.key(0), 3), jnp.ones((2, 3)), implementation="hoisted")
