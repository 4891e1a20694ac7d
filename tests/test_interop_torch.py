"""PyTorch in and out: its runs against ours, weights both ways, models, and a file where it is not installed."""

import random
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import recurrax as rx
from recurrax import interop
from recurrax._check import check_tree, expected_params
from recurrax.layers import _torch_layout as torch_layout
from recurrax.testing import assert_close, normal_like, perturbed_params, values_and_gradients

T, B, I, H, P = 6, 3, 3, 5, 2  # noqa: E741
LENGTHS = (4, 6, 1)
XS = normal_like(jax.ShapeDtypeStruct((T, B, I), jnp.float32), 1)
GOLDEN = Path(__file__).parent / "golden" / "torch.npz"

LAYERS = {
    "rnn": ("RNN", {"nonlinearity": "relu", "dropout": 0.5, "num_layers": 2}),
    "lstm": ("LSTM", {"num_layers": 2, "bidirectional": True}),
    "lstm-proj": ("LSTM", {"proj_size": P, "bidirectional": True, "bias": False}),
    "gru": ("GRU", {"num_layers": 3, "bidirectional": True}),
    "gru-bias": ("GRU", {"bias": False}),
}


@pytest.fixture
def torch() -> Any:
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    return torch


def perturbed(torch: Any, module: Any) -> Any:
    with torch.no_grad():
        for weight in module.parameters():
            weight += 0.3 * torch.randn(weight.shape)
    return module.eval()


def same_state(torch: Any, a: Any, b: Any) -> bool:
    a, b = a.state_dict(), b.state_dict()
    return a.keys() == b.keys() and all(a[k].dtype == b[k].dtype and torch.equal(a[k], b[k]) for k in a)


def same(a: Any, b: Any) -> bool:
    return all(jax.tree.leaves(jax.tree.map(lambda x, y: x.dtype == y.dtype and bool((x == y).all()), a, b)))


@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN:UserWarning")
@pytest.mark.parametrize("kind", LAYERS)
def test_layers(kind: str, torch: Any) -> None:
    name, options = LAYERS[kind]
    module = perturbed(torch, getattr(torch.nn, name)(I, H, **options))
    layer, params = interop.from_torch(module)
    width = module(torch.zeros(1, I))[0].shape[-1]
    assert layer.output_size(I) == width

    def ours(params: Any, xs: Any) -> Any:
        state, ys = rx.scan(layer, params, xs, lengths=jnp.array(LENGTHS), time_major=True)
        return jax.tree.leaves(torch_layout.join_state(state)), ys

    xs = torch.tensor(np.asarray(XS)).requires_grad_()
    packed = torch.nn.utils.rnn.pack_padded_sequence(xs, torch.tensor(LENGTHS), enforce_sorted=False)
    ys, state = module(packed)
    theirs = list(state) if isinstance(state, tuple) else [state], torch.nn.utils.rnn.pad_packed_sequence(ys)[0]
    arrays = jax.tree.map(lambda leaf: jnp.asarray(leaf.detach().numpy()), theirs)
    out, (grads, grad_xs) = values_and_gradients(ours, params, XS)
    assert_close("values", out, arrays, 1e-5)

    cotangents = jax.tree.leaves(normal_like(arrays, seed=3))
    leaves = jax.tree.leaves(theirs)
    sum((leaf * torch.tensor(np.asarray(c))).sum() for leaf, c in zip(leaves, cotangents, strict=True)).backward()
    named = {weight_name: weight.grad for weight_name, weight in module.named_parameters()}
    expected = interop.from_torch(named)[1]
    assert all(np.any(leaf) for leaf in jax.tree.leaves(expected))
    assert_close("gradients", (grads, grad_xs), (expected, jnp.asarray(xs.grad.numpy())), 1e-5)

    # Back again, and through the mapping that a file would hold, in bfloat16 too.
    assert same_state(torch, interop.to_torch(layer, params), module)
    model = torch.nn.ModuleDict({"encoder": torch.nn.ModuleDict({"rnn": module}), "head": torch.nn.Linear(1, 1)})
    assert interop.from_torch(model)[0] == layer
    model = model.to(torch.bfloat16)
    options = {"nonlinearity": "relu", "dropout": layer.dropout}
    again, halves = interop.from_torch(model.state_dict(), prefix="encoder.", **options)
    assert again == layer
    assert jax.tree.leaves(halves)[0].dtype == jnp.bfloat16
    assert same_state(torch, interop.to_torch(layer, halves), module)
    assert same(interop.from_torch(interop.to_torch(layer, halves))[1], halves)


@pytest.mark.parametrize(
    ("name", "options"), [("RNNCell", {"nonlinearity": "relu"}), ("LSTMCell", {"bias": False}), ("GRUCell", {})]
)
def test_cells(name: str, options: dict, torch: Any) -> None:
    module = perturbed(torch, getattr(torch.nn, name)(I, H, **options))
    cell, params = interop.from_torch(module)
    state, ys = None, []
    for x in torch.tensor(np.asarray(XS)):
        state = module(x, state)
        ys.append(state[0] if isinstance(state, tuple) else state)
    got = rx.scan(cell, params, XS, time_major=True)
    state = state if isinstance(state, tuple) else (state,)
    theirs = cell.state_type(*(leaf.detach().numpy() for leaf in state)), torch.stack(ys).detach().numpy()
    assert_close(name, got, theirs, 1e-5)
    back = interop.to_torch(cell, params)
    assert type(back) is type(module)
    assert same_state(torch, back, module)


def test_a_missing_bias_is_of_zeros(torch: Any) -> None:
    layer = rx.Bidirectional(rx.LSTMCell(H))
    params = perturbed_params(layer, I)
    state = torch.get_rng_state()
    module = interop.to_torch(layer, params, batch_first=True)
    assert torch.equal(torch.get_rng_state(), state)
    assert module.batch_first
    assert not module.bias_hh_l0_reverse.any()
    (stacked,) = interop.from_torch(module)[1]
    assert same([way[:3] for way in stacked], [way[:3] for way in params])
    ys = module(torch.tensor(np.asarray(XS)))[0].detach().numpy()
    np.testing.assert_allclose(ys, rx.scan(layer, params, XS)[1], atol=1e-5)
    assert all(weight.requires_grad for weight in module.parameters())


def test_safetensors(torch: Any, tmp_path: Path) -> None:
    from safetensors.numpy import load_file
    from safetensors.torch import save_file

    for dtype in (torch.float32, torch.bfloat16):
        module = torch.nn.GRU(I, H, dtype=dtype)
        save_file(module.state_dict(), tmp_path / "weights")
        assert same_state(torch, interop.to_torch(*interop.from_torch(load_file(tmp_path / "weights"))), module)


def test_weights_without_torch() -> None:
    """What golden/make_interop.py wrote: a model's weights, inputs, and what PyTorch made of them."""
    stored = dict(np.load(GOLDEN))
    for path, kind in {"encoder.rnn.": rx.ElmanCell, "encoder.lstm.": rx.LSTMCell, "decoder.gru.": rx.GRUCell}.items():
        layer, params = interop.from_torch(stored, prefix=path)
        assert type(layer.layers[0].forward) is kind
        lengths = jnp.asarray(stored["lengths"])
        state, ys = rx.scan(layer, params, stored["x"], lengths=lengths, time_major=True)
        state = jax.tree.leaves(torch_layout.join_state(state))
        expected = [stored[f"{path}{name}"] for name in ("h", "c")[: len(state)]]
        assert_close(path, (state, ys), (expected, stored[f"{path}y"]), 1e-5)


def weights(gates: int = 4, **more: Any) -> dict:
    return {
        "weight_ih_l0": np.ones((gates * H, I), np.float32),
        "weight_hh_l0": np.ones((gates * H, H), np.float32),
    } | more


TWO = {f"{path}{name}": weight for path in ("a.", "b.rnn.") for name, weight in weights().items()}


@pytest.mark.parametrize(
    ("source", "prefix", "message"),
    [
        ({}, "", r"`prefix` must pick one recurrent layer; '' picks 0. There are: none"),
        (TWO, "", r"'' picks 2. There are: 'a.', 'b.rnn.'"),
        (TWO, "c.", r"'c.' picks 0. There are: 'a.', 'b.rnn.'"),
        (weights(bias_ih_l1=np.ones(4 * H)), "", r"the same weights for every layer .*bias_ih_l1"),
        (
            {name.replace("l0", "l1"): weight for name, weight in weights().items()},
            "",
            r"every layer and direction; got",
        ),
        (weights(gates=2), "", r"must have 1, 3 or 4 gates of 5 features; got weight_hh \[10, 5\]"),
    ],
)
def test_weights_that_are_of_no_layer(source: dict, prefix: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        interop.from_torch(source, prefix=prefix)


def test_what_is_no_source() -> None:
    with pytest.raises(TypeError, match=r"`source` must be one of a torch.nn.Module, a mapping .*; got builtins.list"):
        interop.from_torch([weights()])


def test_float64_is_not_rounded() -> None:
    wide = {name: weight.astype(np.float64) for name, weight in weights().items()}
    with pytest.raises(TypeError, match=r"must be float32 or narrower; got float64. Set `jax_enable_x64`"):
        interop.from_torch(wide)
    with jax.enable_x64(True):
        assert interop.from_torch(wide)[1][0].kernel.dtype == jnp.float64


LSTM = rx.LSTMCell(H)


@pytest.mark.parametrize(
    ("error", "layer", "message"),
    [
        (
            TypeError,
            rx.Residual(rx.LSTMCell(I)),
            r"must be one of ElmanCell, LSTMCell, GRUCell, a Stack .*; got Residual",
        ),
        (TypeError, rx.PeepholeLSTMCell(H), r"got PeepholeLSTMCell\(hidden_size=5\)"),
        (ValueError, rx.Stack((LSTM, rx.GRUCell(H))), r"`layer` must have equal cells in all layers and directions"),
        (ValueError, rx.Stack((LSTM, rx.Bidirectional(LSTM))), r"`layer` must have equal cells in all layers and dir"),
        (
            ValueError,
            rx.Bidirectional(LSTM, merge="sum"),
            r"`merge` of `layer` must be 'concat' for PyTorch; got 'sum'",
        ),
        (ValueError, rx.GRUCell(H, False), r"`reset_after` of `layer` must be True for torch.nn.GRU; got False"),
        (ValueError, rx.ElmanCell(H, jnp.sin), r"`activation` of `layer` must be tanh or relu for torch.nn.RNN"),
        (ValueError, rx.LSTMCell(H, P), r"`proj_size` of `layer` must be 0 for torch.nn.LSTMCell; got 2"),
    ],
)
def test_layers_that_torch_has_not(error: type, layer: rx.Layer, message: str) -> None:
    with pytest.raises(error, match=message):
        interop.to_torch(layer, perturbed_params(layer, I))


def test_mappings_that_fit_no_layer_are_refused() -> None:
    """Whatever is done to a mapping, it is refused, or it is that of a layer."""
    shapes_of = {"l": (16, 3), "l_reverse": (16, 3), "m": (16, 8), "m_reverse": (16, 8)}
    weights: dict[str, Any] = {}
    for place, shape in shapes_of.items():
        at = place.replace("l", "_l0", 1) if place.startswith("l") else place.replace("m", "_l1")
        weights |= {f"weight_ih{at}": np.zeros(shape, np.float32), f"weight_hh{at}": np.zeros((16, 4), np.float32)}
        weights |= {f"bias_ih{at}": np.zeros(16, np.float32), f"bias_hh{at}": np.zeros(16, np.float32)}
    assert interop.from_torch(weights)[0].layers[0].forward.hidden_size == 4
    others = ["weight_hr_l0", "weight_hr_l1_reverse", "weight_ih_l2", "weight_ih", "weight_ih_l\u0661"]
    refused = []
    for seed in range(600):
        rng, bad = random.Random(seed), dict(weights)
        for _ in range(rng.randrange(1, 3)):
            name = rng.choice(list(bad))
            shape = [rng.choice([0, 1, 2, 3, 4, 5, 8, 12, 16, 17]) for _ in range(rng.randrange(4))]
            array = np.zeros(shape, rng.choice([np.float32, np.float32, np.int32, np.bool_, np.complex64, np.float16]))
            match rng.randrange(6):
                case 0:
                    del bad[name]
                case 1:
                    bad[rng.choice(others)] = array
                case 2:
                    bad[name] = rng.choice([None, "x", [1.0], array])
                case 3:
                    bad[rng.choice([3, None, ("l", 0), name])] = array
                case _:
                    bad[name] = array
        try:
            layer, params = interop.from_torch(bad)
        except (ValueError, TypeError) as error:
            refused.append(str(error))
        else:
            check_tree("params", params, expected_params(layer, rx.infer_input_size(layer, params)), layer, XS)
            assert {leaf.dtype.name for leaf in jax.tree.leaves(params)} == {"float32"}
    assert len(refused) > 500
    assert all(message.startswith(("`source` must", "`prefix` must")) for message in refused)
