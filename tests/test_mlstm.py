"""The mLSTM against a float64 loop after the paper, without its stabiliser, and its forms against each other."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import recurrax as rx
from recurrax.cells.mlstm import MLSTMCell, MLSTMParams, MLSTMState
from recurrax.implementations import Chunked, Steps, _choose
from recurrax.testing import assert_close, check_contract, normal_like, perturbed_params, values_and_gradients

CELLS = [MLSTMCell(6), MLSTMCell(6, 3, "exp", (0.0, 0.0)), MLSTMCell(6, 2, bias=False)]


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return np.exp(-np.logaddexp(0, -x))


def loop(cell: MLSTMCell, params: MLSTMParams, xs: np.ndarray, state: Any) -> tuple[Any, np.ndarray]:
    """The paper's equations for one row and one head at a time, from its own C `[B, N, D, D]` and n `[B, N, D]`."""
    size, hidden, ys = cell.hidden_size // cell.num_heads, cell.hidden_size, np.empty((*xs.shape[:2], cell.hidden_size))
    ends = [np.empty_like(part) for part in state]
    for b in range(len(xs)):
        for head in range(cell.num_heads):
            (c, n), own = (part[b, head] for part in state), np.arange(head * size, (head + 1) * size)
            for t in range(xs.shape[1]):
                a = xs[b, t] @ params.kernel + (0 if params.bias is None else params.bias)
                q, k, v, o = a[own], a[own + hidden] / np.sqrt(size), a[own + 2 * hidden], _sigmoid(a[own + 3 * hidden])
                i, f = np.exp(a[4 * hidden + head]), a[4 * hidden + cell.num_heads + head]
                f = np.exp(f) if cell.forget_gate == "exp" else _sigmoid(f)
                c, n = f * c + i * np.outer(v, k), f * n + i * k
                ys[b, t, own] = o * (c @ q) / max(abs(n @ q), 1)
            ends[0][b, head], ends[1][b, head] = c, n
    return (*ends, ys), ys


def _double(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), tree)


def _of_the_paper(state: MLSTMState) -> tuple[jax.Array, jax.Array]:
    scale = jnp.exp(state.m)[..., None]
    return state.c * scale[..., None], state.n * scale


@pytest.mark.parametrize("cell", CELLS, ids=str)
def test_equations(cell: MLSTMCell) -> None:
    params = _double(perturbed_params(cell, 3, scale=0.5))
    rng, size = np.random.default_rng(1), cell.hidden_size // cell.num_heads
    xs, past = rng.standard_normal((2, 7, 3)), rng.standard_normal((2, cell.num_heads, size, size))
    args = (params, xs, past, rng.standard_normal((2, cell.num_heads, size)))
    zeros = tuple(map(np.zeros_like, args[2:]))
    expected, fresh = loop(cell, *args[:2], args[2:])[0], loop(cell, *args[:2], zeros)[1]
    weigh = [np.random.default_rng(k).standard_normal(leaf.shape) for k, leaf in enumerate(expected)]
    with jax.enable_x64(True):
        along = _double(normal_like(args, 5))
    m = rng.standard_normal((2, cell.num_heads))

    def total(leaves: Any) -> Any:
        return sum((w * leaf).sum() for w, leaf in zip(weigh, leaves, strict=True))

    def slope(at: int) -> float:
        def moved(by: float) -> float:
            there = jax.tree.map(lambda a, way: a + by * way, args[at], along[at])
            params, xs, *state = (*args[:at], there, *args[at + 1 :])
            return float(total(loop(cell, params, xs, state)[0]))

        return (moved(1e-6) - moved(-1e-6)) / 2e-6

    slopes = [slope(at) for at in range(4)]
    for implementation in ("xla", Chunked(3)):

        def ours(params: Any, xs: Any, c: Any, n: Any, implementation: Any = implementation) -> tuple[Any, Any]:
            scale = jnp.exp(-m)[..., None]
            state = MLSTMState(jnp.zeros((2, 6)), c * scale[..., None], n * scale, m)
            state, ys = rx.scan(cell, params, xs, state, implementation=implementation)
            leaves = (*_of_the_paper(state), ys)
            return total(leaves), leaves

        with jax.enable_x64(True):
            np.testing.assert_allclose(rx.scan(cell, params, xs, implementation=implementation)[1], fresh, atol=1e-10)
            (_, got), gradients = jax.jit(jax.value_and_grad(ours, range(4), has_aux=True))(*args)
        for a, b in zip(got, expected, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-10)
        for at, name in enumerate(("params", "xs", "c", "n")):
            leaves = zip(jax.tree.leaves(gradients[at]), jax.tree.leaves(along[at]), strict=True)
            got = sum(np.vdot(g, d) for g, d in leaves)
            np.testing.assert_allclose(got, slopes[at], rtol=1e-6, atol=1e-6, err_msg=f"{name}, {implementation}")


@pytest.mark.parametrize("cell", [MLSTMCell(6), MLSTMCell(6, 3)], ids=str)
def test_the_authors_package(cell: MLSTMCell) -> None:
    torch, _ = pytest.importorskip("torch"), pytest.importorskip("xlstm")
    from xlstm.blocks.mlstm.backends import parallel_stabilized_simple, recurrent_step_stabilized_simple

    rng, params = np.random.default_rng(1), _double(perturbed_params(cell, 3, scale=0.5))
    xs, zeros = rng.standard_normal((2, 7, 3)), cell.initial_state((2,))
    past = jax.tree.map(lambda leaf: rng.standard_normal(leaf.shape), zeros)
    number, size = cell.num_heads, cell.hidden_size // cell.num_heads

    def theirs(params: MLSTMParams, xs: Any, state: MLSTMState, from_past: bool) -> Any:
        z = xs @ params.kernel + params.bias
        *qkv, o, gates = torch.split(z, [6, 6, 6, 6, 2 * number], dim=-1)
        q, k, v = (part.reshape(2, 7, number, size).transpose(1, 2) for part in qkv)
        i, f = (gate.transpose(1, 2)[..., None] for gate in torch.split(gates, number, dim=-1))
        if not from_past:
            read = parallel_stabilized_simple(q, k, v, i, f, eps=0.0)
            return torch.sigmoid(o) * read.transpose(1, 2).reshape(2, 7, 6)
        kept, reads = (state.c.transpose(-1, -2), state.n[..., None], state.m[..., None, None]), []
        for t in range(7):
            now = (part[:, :, t : t + 1].clone() for part in (q, k, v, i, f))
            read, kept = recurrent_step_stabilized_simple(*kept, *now, eps=0.0)
            reads.append(read.reshape(2, 6))
        final = kept[0].transpose(-1, -2), kept[1][..., 0], kept[2][..., 0, 0]
        return *final, torch.sigmoid(o) * torch.stack(reads, dim=1)

    for from_past in (False, True):
        args = (params, xs, past if from_past else _double(zeros))
        tensors = jax.tree.map(lambda leaf: torch.tensor(leaf, requires_grad=True), args)
        expected = jax.tree.leaves(theirs(*tensors, from_past))
        weigh = [rng.standard_normal(leaf.shape) for leaf in expected]
        sum((torch.tensor(w) * leaf).sum() for w, leaf in zip(weigh, expected, strict=True)).backward()
        wanted = [None if leaf.grad is None else leaf.grad.numpy() for leaf in jax.tree.leaves(tensors)]
        for implementation in ("xla", Chunked(3)):

            @jax.jit
            def ours(*args: Any, from_past: bool = from_past, implementation: Any = implementation) -> Any:
                state, ys = rx.scan(cell, *args, implementation=implementation)
                return [*state[1:], ys] if from_past else [ys]

            with jax.enable_x64(True):
                got, transposed = jax.vjp(ours, *args)
                gradients = jax.tree.leaves(transposed(weigh))
            assert_close("values", got, [leaf.detach().numpy() for leaf in expected], 1e-10)
            for ours_leaf, leaf in zip(gradients, wanted, strict=True):
                if leaf is not None:
                    assert_close("gradients", ours_leaf, leaf, 1e-10)


@pytest.mark.thorough
@pytest.mark.parametrize(("steps", "lengths"), [(0, (1,)), (1, (4,)), (13, (4, 64))])
def test_forms_agree(steps: int, lengths: tuple[int, ...]) -> None:
    cell = MLSTMCell(6, 2)
    params, xs = perturbed_params(cell, 3), normal_like(jax.ShapeDtypeStruct((2, steps, 3), jnp.float32), 1)
    state = normal_like(jax.eval_shape(lambda: cell.initial_state((2,))), 2)
    mask, reset = np.random.default_rng(0).random((2, 2, steps)) < np.array([0.7, 0.2])[:, None, None]

    def results(implementation: Any) -> Any:
        def run(params: Any, xs: Any, state: Any) -> Any:
            plain = rx.scan(cell, params, xs, None, implementation=implementation)
            return plain, rx.scan(
                cell, params, xs, state, mask=mask, reset=reset, reverse=True, implementation=implementation
            )

        return values_and_gradients(run, params, xs, state)

    expected = results("xla")
    for length in lengths:
        assert_close(f"chunks of {length}", results(Chunked(length)), expected, 1e-5)


@pytest.mark.parametrize("forget_gate", ["sigmoid", "exp"])
def test_extreme_gates_stay_finite(forget_gate: Any) -> None:
    cell, rng = MLSTMCell(4, 2, forget_gate, bias=False), np.random.default_rng(0)
    params = MLSTMParams(jnp.eye(20).at[16:].multiply(50.0))
    xs = rng.standard_normal((8, 20, 20))
    xs[..., 16:] = rng.choice([-1.0, -0.01, 0.01, 1.0], (8, 20, 4))
    if forget_gate == "sigmoid":
        xs[:, 5, :16] = (
            0  # Nothing is stored and nothing asked for. Where weights have no bound, nor has the derivative.
        )
    zeros = np.zeros((8, 2, 2, 2)), np.zeros((8, 2, 2))
    xs32 = jnp.asarray(xs, jnp.float32)
    for implementation in ("xla", Chunked(8)):

        @jax.jit
        def run(params: Any, xs: Any, implementation: Any = implementation) -> Any:
            state, ys = rx.scan(cell, params, xs, implementation=implementation)
            return jnp.sum(jnp.sin(ys)), (state, ys)

        (_, (state, ys)), gradients = jax.value_and_grad(run, (0, 1), has_aux=True)(params, xs32)
        assert jax.tree.all(jax.tree.map(lambda leaf: jnp.isfinite(leaf).all(), (state, gradients)))
        if forget_gate == "sigmoid":  # The other grows beyond what the paper's own state can hold.
            assert_close(implementation, ys, loop(cell, _double(params), xs, zeros)[1], 1e-4)
        tangents = jax.jvp(lambda xs: run(params, xs)[1][1], (xs32,), (normal_like(xs32, 1),))[1]
        assert jnp.isfinite(tangents).all(), implementation


def test_no_past_is_told_from_keys_that_cancel() -> None:
    # With f = 1 and i = 1, two opposite keys leave n = 0, but not c.
    cell = MLSTMCell(2, forget_gate="exp", forget_bias=(0.0, 0.0))
    eye = jnp.eye(2)
    params = MLSTMParams(jnp.concatenate([eye, eye, eye, 0 * eye, 0 * eye], axis=1))
    cell = MLSTMCell(2, forget_gate="exp", bias=False)
    xs = jnp.array([[1.0, 0.0], [-1.0, 0.0], [1.0, 0.0]])
    for implementation in ("xla", Chunked(2)):
        state, ys = rx.scan(cell, params, xs, implementation=implementation)
        assert_close(
            implementation,
            ys,
            loop(cell, _double(params), xs[None], (np.zeros((1, 1, 2, 2)), np.zeros((1, 1, 2))))[1][0],
            1e-6,
        )
        assert float(state.c[0, 0, 0]) > 2


@pytest.mark.thorough
def test_a_learned_initial_state_learns_from_zeros() -> None:
    layer = rx.LearnedInitialState(MLSTMCell(4, 2))
    params, xs = layer.init(jax.random.key(0), 3), normal_like(jax.ShapeDtypeStruct((2, 5, 3), jnp.float32), 1)
    params = params._replace(layer=perturbed_params(MLSTMCell(4, 2), 3))
    reset = jnp.zeros((2, 5), bool).at[1, 2].set(True)

    def gradient(params: Any, implementation: Any) -> Any:
        loss = lambda params: rx.scan(layer, params, xs, reset=reset, implementation=implementation)[1].sum()  # noqa: E731
        return jax.jit(jax.grad(loss))(params)

    learned = params._replace(state=normal_like(params.state, 2))
    for at in (params, learned):
        expected = gradient(at, "xla")
        assert expected.state.c.all()
        assert_close("gradients", gradient(at, Chunked(2)), expected, 1e-5)


@pytest.mark.thorough
@pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit], ids=str)
def test_inputs_sharded_over_a_mesh(axis_type: AxisType) -> None:
    cell, chunked = MLSTMCell(6, 3), Chunked(4)
    params, xs, lengths = (
        perturbed_params(cell, 3),
        normal_like(jax.ShapeDtypeStruct((8, 5, 3), jnp.float32), 1),
        jnp.arange(8) % 6,
    )
    reset = jnp.zeros((8, 5), bool).at[::2, 2].set(True)

    def run(params: Any, xs: Any, lengths: Any, reset: Any) -> Any:
        return rx.scan(cell, params, xs, lengths=lengths, reset=reset, implementation=chunked)

    expected = run(params, xs, lengths, reset)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(axis_type,))
    with jax.set_mesh(mesh):
        placed = [jax.device_put(x, NamedSharding(mesh, PartitionSpec("data"))) for x in (xs, lengths, reset)]
        got = jax.jit(run)(params, *placed)
        assert {leaf.sharding.spec[0] for leaf in jax.tree.leaves(got)} == {"data"}
        assert_close("outputs", jax.device_get(got), expected, 1e-5)


@pytest.mark.parametrize("length", [None, 4])
def test_contract(length: int | None, promises: tuple[str, ...] | None) -> None:
    implementation = "xla" if length is None else Chunked(length)
    check_contract(MLSTMCell(6, 3), implementation=implementation, promises=promises)


def test_choice() -> None:
    cell = MLSTMCell(4)
    chosen = lambda steps: _choose.choose(None, cell, None, None, jnp.ones((steps, 3)), Steps())  # noqa: E731
    assert chosen(1) is _choose.find("xla")
    assert chosen(2) == Chunked()


def test_memory_is_linear_in_steps() -> None:
    cell = MLSTMCell(64)
    params, chunked = perturbed_params(cell, 16), Chunked(32)

    def memory(steps: int, implementation: Any) -> int:
        loss = lambda params, xs: rx.scan(cell, params, xs, implementation=implementation)[1].sum()  # noqa: E731
        lowered = jax.jit(jax.grad(loss)).lower(params, jnp.ones((2, steps, 16)))
        return lowered.compile().memory_analysis().temp_size_in_bytes

    assert memory(1024, chunked) < 2.2 * memory(512, chunked)
    assert memory(512, chunked) < 0.3 * memory(512, "xla")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MLSTMCell(6, 4), "`num_heads` must divide `hidden_size` 6; got 4"),
        (lambda: MLSTMCell(6, forget_gate="relu"), '`forget_gate` must be "sigmoid" or "exp"; got \'relu\''),
        (lambda: Chunked(0), "`length` must be an int of at least 1; got 0"),
        (
            lambda: rx.scan(
                rx.LSTMCell(3), rx.LSTMCell(3).init(jax.random.key(0), 3), jnp.ones((2, 3)), implementation="chunked"
            ),
            '"chunked" cannot serve LSTMCell.*: it keeps no memory of keys and values',
        ),
    ],
)
def test_errors_teach(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_the_scalar_cell_adds_its_logarithms_in_float32() -> None:
    """In bfloat16 the sum log f + m = 49.69 would be 49.75, and every weight off by 6%."""
    cell, wide, narrow = rx.SLSTMCell(1), jnp.float32, jnp.bfloat16
    a, state = (49.5, 1.0, -2.0, 0.25), (0.0, 2.0, 3.0, 50.0)  # all of them exact in bfloat16

    def read(dtype: Any) -> jax.Array:
        gates = tuple(jnp.full(1, x, dtype) for x in a)
        return cell.pointwise(None, gates, rx.cells.SLSTMState(*(jnp.full(1, x, dtype) for x in state)))[1]

    np.testing.assert_allclose(read(narrow).astype(wide), read(wide), rtol=0.02)
