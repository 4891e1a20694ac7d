"""PyTorch as the oracle: its layers and cells, with its weights, against ours in NNX and in Linen."""

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from flax.traverse_util import flatten_dict, unflatten_dict

import recurrax as rx
import recurrax.linen
import recurrax.nnx
from recurrax import interop
from recurrax.initializers import torch_uniform

torch = pytest.importorskip("torch")

T, B, I, H, P = 6, 4, 3, 5, 2  # noqa: E741
LENGTHS = (3, 6, 1, 4)

# Each kind of layer by its class, what stands between `num_layers` and `bias`, and what stands after `bidirectional`.
KINDS = {
    "rnn-tanh": ("RNN", ("tanh",), ()),
    "rnn-relu": ("RNN", ("relu",), ()),
    "lstm": ("LSTM", (), (0,)),
    "lstm-proj": ("LSTM", (), (P,)),
    "gru": ("GRU", (), ()),
}
CELLS = {
    "rnn-tanh": (rx.ElmanCell(H, recurrent_bias=True), "RNNCell", {}),
    "rnn-relu": (rx.ElmanCell(H, jax.nn.relu, recurrent_bias=True), "RNNCell", {"nonlinearity": "relu"}),
    "lstm": (rx.LSTMCell(H, recurrent_bias=True), "LSTMCell", {}),
    "gru": (rx.GRUCell(H, recurrent_bias=True), "GRUCell", {}),
}


class Case(NamedTuple):
    """One combination of what PyTorch's layers can be asked for."""

    num_layers: int
    bidirectional: bool
    batch_first: bool
    bias: bool
    given_state: bool
    rows: str

    def __str__(self) -> str:
        said = [name for name in ("bidirectional", "batch_first", "bias", "given_state") if getattr(self, name)]
        return "-".join([f"{self.num_layers}", *said, self.rows])


# Every value of every field meets every value of every other; PyTorch's defaults and the richest case come first.
CASES = [
    Case(1, False, False, True, False, "full"),
    Case(3, True, False, True, True, "ragged"),
    Case(3, False, True, False, True, "unbatched"),
    Case(1, True, True, False, False, "ragged"),
    Case(1, True, False, True, False, "unbatched"),
    Case(3, True, True, True, False, "full"),
    Case(1, False, False, False, True, "full"),
    Case(1, False, True, False, True, "ragged"),
]

Named = dict[tuple[str, ...], Any]


def ours(named: dict[str, Any]) -> Named:
    """PyTorch's parameters, or gradients of them, by our names: `("layers_0", "backward", "kernel")`."""
    params = interop.from_torch(named)[1]
    return {
        tuple(f"layers_{key.idx}" if hasattr(key, "idx") else key.name for key in path): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(params)
    }


def in_nnx(name: str, args: tuple, named: Named, x: jax.Array) -> Callable:
    """Our NNX layer as a function of its parameters, which must have the names and shapes of `named`."""
    model = getattr(recurrax.nnx, name)(x.shape[-1], *args, rngs=nnx.Rngs(0))
    graphdef, params, rest = nnx.split(model, nnx.Param, ...)
    paths = {("weights", int(path[0].removeprefix("layers_")), *path[1:]): path for path in named}
    shapes = {paths.get(path, path): leaf.shape for path, leaf in nnx.to_flat_state(params)}
    assert shapes == {path: leaf.shape for path, leaf in named.items()}

    def run(named: Named, *args: Any, **options: Any) -> Any:
        params = nnx.from_flat_state([(path, nnx.Param(named[paths[path]])) for path in paths])
        return nnx.merge(graphdef, params, rest)(*args, **options)

    return run


def in_linen_order(name: str, args: tuple) -> Any:
    """Our Linen layer, whose arguments after the size are keywords."""
    fields = ["num_layers", "bias", "batch_first", "dropout", "bidirectional"]
    if name == "RNN":
        fields.insert(1, "nonlinearity")
    if name == "LSTM":
        fields.append("proj_size")
    return getattr(recurrax.linen, name)(args[0], **dict(zip(fields, args[1:], strict=True)))


def in_linen(name: str, args: tuple, named: Named, x: jax.Array) -> Callable:
    """Our Linen layer as a function of its parameters, which must have the names and shapes of `named`."""
    model = in_linen_order(name, args)
    shapes = jax.eval_shape(model.init, jax.random.key(0), x)["params"]
    assert {path: leaf.shape for path, leaf in flatten_dict(shapes).items()} == {
        path: leaf.shape for path, leaf in named.items()
    }

    def run(named: Named, *args: Any, **options: Any) -> Any:
        return model.apply({"params": unflatten_dict(named)}, *args, **options)

    return run


FRONTENDS = {"nnx": in_nnx, "linen": in_linen}


def arguments(kind: str, case: Case) -> tuple:
    """The arguments after `input_size`, by position as PyTorch's users may give them; dropout is 0."""
    _, before, after = KINDS[kind]
    return (H, case.num_layers, *before, case.bias, case.batch_first, 0.0, case.bidirectional, *after)


def inputs(kind: str, case: Case) -> tuple[np.ndarray, Any, tuple[int, ...] | None]:
    """Random inputs, a random state in PyTorch's plain form (or None), and lengths, with NaN in the padding."""
    rng = np.random.default_rng(0)
    lengths = LENGTHS if case.rows == "ragged" else None
    batch = () if case.rows == "unbatched" else (B,)
    x = rng.standard_normal((T, *batch, I)).astype(np.float32)
    if lengths is not None:
        x[np.arange(T)[:, None] >= lengths] = np.nan
    if case.batch_first and batch:
        x = x.swapaxes(0, 1).copy()
    rows = case.num_layers * (1 + case.bidirectional)
    sizes = {"lstm": (H, H), "lstm-proj": (P, H)}.get(kind, (H,))
    state = tuple(rng.standard_normal((rows, *batch, size)).astype(np.float32) for size in sizes)
    return x, (state if len(state) > 1 else state[0]) if case.given_state else None, lengths


def run_torch(module: Any, x: Any, state: Any, lengths: tuple[int, ...] | None, batch_first: bool) -> Any:
    """PyTorch's output and final state, ragged rows packed and padded again."""
    if lengths is None:
        return module(x, state)
    packed = torch.nn.utils.rnn.pack_padded_sequence(
        x, torch.tensor(lengths), batch_first=batch_first, enforce_sorted=False
    )
    output, state = module(packed, state)
    return torch.nn.utils.rnn.pad_packed_sequence(output, batch_first=batch_first)[0], state


def to_torch(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: torch.tensor(np.asarray(leaf)).requires_grad_(), tree)


def close(got: Any, expected: Any, tol: float, relative: bool = False) -> None:
    """Compares two pytrees of arrays leaf by leaf, if `relative` to the largest entry of each."""
    leaves = jax.tree_util.tree_leaves_with_path(got)
    for (path, a), b in zip(leaves, jax.tree.leaves(expected), strict=True):
        a, b = np.asarray(a, np.float64), np.asarray(b.detach() if isinstance(b, torch.Tensor) else b, np.float64)
        assert a.shape == b.shape, path
        assert a.size, path
        error = np.abs(a - b).max() / (np.abs(b).max() if relative else 1)
        assert error <= tol, f"{jax.tree_util.keystr(path)}: off by {error:.1e}"


def compare(run: Callable, run_other: Callable, module: Any, args: tuple) -> None:
    """Outputs and states to 1e-5; gradients of inputs, states and every parameter to 1e-4 of their largest entry.

    Args:
        run: our function of parameters and `args`; it returns output and state.
        run_other: PyTorch's function of `args`.
        module: PyTorch's module, which has the parameters.
        args: the inputs, and the state if one is given.
    """
    results, pull_back = jax.vjp(run, ours(dict(module.named_parameters())), *args)
    other_args = to_torch(args)
    other_results = run_other(*other_args)
    close(results, other_results, 1e-5)

    rng = np.random.default_rng(1)
    cotangents = jax.tree.map(lambda leaf: jnp.asarray(rng.standard_normal(leaf.shape), jnp.float32), results)
    pairs = zip(jax.tree.leaves(other_results), jax.tree.leaves(cotangents), strict=True)
    sum((a * torch.tensor(np.asarray(b))).sum() for a, b in pairs).backward()
    grads, *arg_grads = pull_back(cotangents)
    other_grads = ours({name: param.grad for name, param in module.named_parameters()})
    assert grads.keys() == other_grads.keys()
    assert all(leaf.any() for leaf in other_grads.values())
    close(grads, other_grads, 1e-4, relative=True)
    close(tuple(arg_grads), jax.tree.map(lambda leaf: leaf.grad, other_args), 1e-4, relative=True)


def test_cases_meet_every_pair():
    values = [(1, 3), *[(False, True)] * 4, ("full", "ragged", "unbatched")]
    for i, j in itertools.combinations(range(len(values)), 2):
        met = {(case[i], case[j]) for case in CASES}
        assert met == set(itertools.product(values[i], values[j])), (Case._fields[i], Case._fields[j])


@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN:UserWarning")
@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("frontend", FRONTENDS)
def test_layer_is_that_of_torch(frontend: str, kind: str, case: Case):
    name = KINDS[kind][0]
    torch.manual_seed(0)
    module = getattr(torch.nn, name)(I, *arguments(kind, case))
    x, state, lengths = inputs(kind, case)
    layer = FRONTENDS[frontend](name, arguments(kind, case), ours(dict(module.named_parameters())), x)
    options = {} if lengths is None else {"lengths": jnp.array(lengths)}

    def run(params: Named, x: jax.Array, state: Any = None) -> Any:
        output, state = layer(params, x, state, **options)
        return output, tuple(state) if isinstance(state, tuple) else state

    def run_other(x: Any, state: Any = None) -> Any:
        return run_torch(module, x, state, lengths, case.batch_first)

    compare(run, run_other, module, (x, state) if case.given_state else (x,))


@pytest.mark.parametrize("name", ["RNN", "LSTM", "GRU"])
def test_defaults_are_those_of_torch(name: str):
    module = getattr(torch.nn, name)(I, H)
    fields = ["num_layers", "bias", "batch_first", "dropout", "bidirectional"]
    fields += {"RNN": ["nonlinearity"], "LSTM": ["proj_size"], "GRU": []}[name]
    linen_layer = getattr(recurrax.linen, name)(H)
    assert {field: getattr(linen_layer, field) for field in fields} == {
        field: getattr(module, field) for field in fields
    }
    nnx_layer = getattr(recurrax.nnx, name)(I, H, rngs=nnx.Rngs(0))
    assert nnx_layer.layer == linen_layer.layer
    assert nnx_layer.batch_first == module.batch_first
    assert nnx_layer.layer == interop.from_torch(module)[0]


@pytest.mark.parametrize("case", CASES[:4], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_as_many_parameters_as_torch(kind: str, case: Case):
    name = KINDS[kind][0]
    module = getattr(torch.nn, name)(I, *arguments(kind, case))
    model = getattr(recurrax.nnx, name)(I, *arguments(kind, case), rngs=nnx.Rngs(0))
    assert rx.num_params(model.layer, I) == sum(param.numel() for param in module.parameters())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("frontend", FRONTENDS)
def test_torch_uniform_is_the_distribution_of_torch(frontend: str, kind: str):
    (name, before, after), size = KINDS[kind], 200
    options = {"nonlinearity": before[0]} if before else {"proj_size": after[0]} if after else {}
    module = getattr(torch.nn, name)(I, size, **options)
    options |= dict.fromkeys(("kernel_init", "recurrent_kernel_init", "bias_init"), torch_uniform)
    options |= {"forget_bias": 0.0} if name == "LSTM" else {}
    if frontend == "nnx":
        model = getattr(recurrax.nnx, name)(I, size, rngs=nnx.Rngs(0), **options)
        drawn = {("layers_0", path[-1]): leaf[...] for path, leaf in nnx.to_flat_state(nnx.state(model, nnx.Param))}
    else:
        variables = getattr(recurrax.linen, name)(size, **options).init(jax.random.key(0), jnp.ones((1, I)))
        drawn = flatten_dict(variables["params"])
    torchs, bound = ours(dict(module.named_parameters())), size**-0.5
    assert drawn.keys() == torchs.keys()
    for path, other in torchs.items():
        assert drawn[path].shape == other.shape
        for leaf in (drawn[path], other):
            leaf = np.asarray(leaf) / bound
            assert 0.95 < np.abs(leaf).max() <= 1, path
            assert abs(leaf.mean()) < 0.15, path
            assert leaf.std() == pytest.approx(3**-0.5, rel=0.15), path


def dropped(frontend: str, rate: float, x: jax.Array, name: str = "LSTM", **options: Any) -> tuple[Any, Callable]:
    """Two layers with dropout between: PyTorch's parameters by our names, and `run(training, seed) -> output`."""
    torch.manual_seed(0)
    named = ours(dict(getattr(torch.nn, name)(I, H, 2).named_parameters()))
    if frontend == "linen":
        model = getattr(recurrax.linen, name)(H, num_layers=2, dropout=rate, **options)
        variables = {"params": unflatten_dict(named)}
        return model, lambda training, seed=0: model.apply(
            variables, x, deterministic=not training, rngs={"dropout": jax.random.key(seed)} if training else None
        )
    model = getattr(recurrax.nnx, name)(I, H, 2, dropout=rate, rngs=nnx.Rngs(params=0, dropout=0), **options)
    for (depth, part), value in named.items():
        getattr(model.params[int(depth[-1])], part)[...] = value

    def run(training: bool, seed: int = 0) -> Any:
        model.train() if training else model.eval()
        nnx.reseed(model, dropout=seed)
        return model(x)

    return model, run


@pytest.mark.parametrize("frontend", FRONTENDS)
def test_dropout_is_that_of_torch(frontend: str):
    rows, rate = 20_000, 0.4
    rng = np.random.default_rng(0)
    x = np.repeat(rng.standard_normal((4, 1, I)).astype(np.float32), rows, axis=1)
    torch.manual_seed(0)
    module = torch.nn.LSTM(I, H, 2, dropout=rate)
    run = dropped(frontend, rate, jnp.asarray(x))[1]

    module.eval()
    with torch.no_grad():
        close(run(training=False), module(torch.tensor(x)), 1e-5)

        # In training each row has a dropout of its own, so that rows sample what may come of one sequence.
        module.train()
        output, (h, c) = run(training=True)
        other, (other_h, other_c) = module(torch.tensor(x))
    assert float(output.std(axis=1).min()) > 1e-3
    for a, b in [(output, other), (h[1], other_h[1]), (c[1], other_c[1])]:
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        error = np.sqrt((a.var(-2) + b.var(-2)) / rows)
        assert (np.abs(a.mean(-2) - b.mean(-2)) < 5 * error).all()
        np.testing.assert_allclose(a.std(-2), b.std(-2), rtol=0.05)
    # Nothing is dropped before the first layer.
    assert np.ptp(np.asarray(h[0]), axis=0).max() < 1e-6


def identity(x: jax.Array) -> jax.Array:
    return x


@pytest.mark.parametrize("frontend", FRONTENDS)
def test_dropout_keeps_the_expectation(frontend: str):
    rows = 20_000
    x = jnp.asarray(np.repeat(np.random.default_rng(0).standard_normal((4, 1, I)), rows, axis=1), jnp.float32)
    run = dropped(frontend, 0.5, x, "RNN", nonlinearity=identity)[1]
    kept, noisy = run(training=False)[0], run(training=True)[0]
    error = noisy.std(axis=1) / rows**0.5
    assert bool((error > 0).all())
    assert bool((jnp.abs(noisy.mean(axis=1) - kept[:, 0]) < 5 * error).all())


@pytest.mark.parametrize("frontend", FRONTENDS)
def test_dropout_is_off_in_evaluation(frontend: str):
    x = jnp.ones((T, B, I))
    run = dropped(frontend, 0.5, x)[1]
    without = dropped(frontend, 0.0, x)[1]
    close(run(training=False), without(training=True), 1e-6)
    first, again, other = run(True, seed=1)[0], run(True, seed=1)[0], run(True, seed=2)[0]
    assert bool((first == again).all())
    assert not bool((first == other).all())


@pytest.mark.parametrize("kind", CELLS)
def test_cell_is_that_of_torch(kind: str):
    cell, name, options = CELLS[kind]
    torch.manual_seed(0)
    module = getattr(torch.nn, name)(I, H, **options)
    rng = np.random.default_rng(0)
    xs = rng.standard_normal((T, B, I)).astype(np.float32)
    state = tuple(rng.standard_normal((B, H)).astype(np.float32) for _ in cell.initial_state())

    def params_of(named: Named) -> Any:
        return cell.params_type(**{name: leaf for (name,), leaf in named.items()})

    def state_of(state: tuple) -> Any:
        return type(cell.initial_state())(*state)

    def scanned(named: Named, xs: jax.Array, state: tuple) -> Any:
        final, ys = rx.scan(cell, params_of(named), xs, state_of(state), time_major=True)
        return ys, tuple(final)

    def stepped(named: Named, xs: jax.Array, state: tuple) -> Any:
        state, ys = state_of(state), []
        for x in xs:
            state, y = rx.step(cell, params_of(named), x, state)
            ys.append(y)
        return jnp.stack(ys), tuple(state)

    def other(xs: Any, state: tuple) -> Any:
        ys = []
        for x in xs:
            state = module(x, state) if kind == "lstm" else (module(x, state[0]),)
            ys.append(state[0])
        return torch.stack(ys), state

    for run in (scanned, stepped):
        module.zero_grad()
        compare(run, other, module, (xs, state))
