"""cuDNN's LSTM: everything around the call against "xla" on any machine, and the call itself where there is a GPU."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import rnn

import recurrax as rx
from recurrax.implementations import Steps, cudnn
from recurrax.testing import assert_close, normal_like, values_and_gradients

STEPS, INPUT = 5, 2
PLAIN, BARE = rx.LSTMCell(3), rx.LSTMCell(3, bias=False)
TORCH, LAST = rx.LSTMCell(3, recurrent_bias=True), rx.LSTMCell(3, bias=False, recurrent_bias=True)
RAGGED = np.array([3, 0, STEPS, 1])
OVER = np.array([[3, 0], [STEPS + 2, 1]])
CASES = {
    "one layer, no batch axis": (TORCH, (), np.array(3), False),
    "one layer, backwards": (PLAIN, (2,), None, True),
    "ragged stack, two batch axes": (rx.Stack((BARE, TORCH, LAST)), (2, 2), OVER, False),
    "two directions": (rx.Bidirectional(BARE), (4,), None, False),
    "two directions, backwards": (rx.Stack((rx.Bidirectional(PLAIN),)), (2,), np.array([0, 2]), True),
    "ragged, two directions, two layers": (
        rx.Stack((rx.Bidirectional(TORCH, LAST), rx.Bidirectional(PLAIN))), (4,), RAGGED, False,
    ),
}  # fmt: skip


def steps_of(lengths: Any, reverse: bool = False) -> Steps:
    """Of right-padded sequences, as `scan` makes them."""
    mask = None if lengths is None else jnp.moveaxis(rx.lengths_to_mask(lengths, STEPS), -1, 0)
    return Steps(mask, None, reverse, right_padded=lengths is not None)


def shapes(layer: rx.Layer, batch: tuple[int, ...], steps: int = STEPS) -> tuple[Any, Any, Any]:
    params, state = jax.eval_shape(lambda: (layer.init(jax.random.key(0), INPUT), layer.initial_state(batch)))
    return params, jax.ShapeDtypeStruct((steps, *batch, INPUT), jnp.float32), state


def arguments(*args: Any, **options: Any) -> tuple[Any, jax.Array, Any]:
    return normal_like(shapes(*args, **options), seed=1)


def run(layer: rx.Layer, lengths: Any, reverse: bool, params: Any, xs: jax.Array, state: Any) -> Any:
    return cudnn.run(layer, params, state, xs, steps_of(lengths, reverse))


def scan(layer: rx.Layer, lengths: Any, reverse: bool, name: str, params: Any, xs: jax.Array, state: Any) -> Any:
    options = {"lengths": lengths, "reverse": reverse, "implementation": name}
    return rx.scan(layer, params, xs, state, time_major=True, **options)


def holed(xs: jax.Array, lengths: Any) -> jax.Array:
    if lengths is None:
        return xs
    real = jnp.moveaxis(rx.lengths_to_mask(lengths, xs.shape[0]), -1, 0)
    return jnp.where(real[..., None], xs, jnp.nan)


def reference(xs: Any, h: Any, c: Any, weights: Any, lengths: Any, dims: dict[str, Any]) -> Any:
    """jax's own, strict where cuDNN may fail (at a length of 0), and with nothing of use in the padding."""
    sizes = (dims["input_size"], dims["hidden_size"], dims["num_layers"], 0.0, dims["bidirectional"])
    ys, *state = rnn.lstm_ref(xs, h, c, *rnn.unpack_lstm_weights(weights, **dims), lengths, *sizes)
    real = rx.lengths_to_mask(lengths, xs.shape[1])[..., None] & jnp.all(lengths > 0)
    return jnp.where(real, ys, jnp.nan), *state


@pytest.mark.parametrize("case", CASES)
def test_all_but_the_call_equals_xla(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cudnn, "_call", reference)
    layer, batch, lengths, reverse = CASES[case]
    params, xs, state = arguments(layer, batch)
    got = values_and_gradients(partial(run, layer, lengths, reverse), params, holed(xs, lengths), state)
    assert_close(
        case, got, values_and_gradients(partial(scan, layer, lengths, reverse, "xla"), params, xs, state), 1e-5
    )


@pytest.mark.parametrize(("batch", "steps"), [((4,), 0), ((2, 0), STEPS)])
def test_nothing_to_do(batch: tuple[int, ...], steps: int) -> None:
    layer, lengths = rx.Bidirectional(PLAIN), np.zeros(batch, np.int32)
    args = arguments(layer, batch, steps)
    got, expected = run(layer, lengths, False, *args), scan(layer, lengths, False, "xla", *args)
    assert_close("nothing", got, expected, 0.0)
    assert got[1].dtype == args[1].dtype


def test_packing() -> None:
    """Swapped biases would give the same outputs and gradients, so only this test could tell."""
    layer = rx.Stack((rx.Bidirectional(TORCH, LAST), rx.Bidirectional(BARE, PLAIN)))
    params, _, _ = arguments(layer, ())
    weights, dims = cudnn._pack(layer, params)
    assert dims == {"input_size": INPUT, "hidden_size": 3, "num_layers": 2, "bidirectional": True}
    assert weights.shape == (rnn.get_num_params_in_lstm(**dims),)
    cells = [cell for both in params for cell in both]
    for number, parts in enumerate(
        zip(*(part.values() for part in rnn.unpack_lstm_weights(weights, **dims)), strict=True)
    ):
        kernel, recurrent_kernel, bias, recurrent_bias, _ = cells[number]
        biases = [jnp.zeros(12) if b is None else b for b in (bias, recurrent_bias)]
        assert_close(f"cell {number}", parts, (kernel.T, recurrent_kernel.T, *biases), 0.0)


def test_the_call_is_of_full_precision_and_of_first_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rnn.gpu_rnn, "compute_rnn_workspace_reserve_space_sizes", lambda *_: (0, 0), raising=False)
    args, under_test = arguments(PLAIN, (4,)), partial(run, PLAIN, RAGGED, False)
    for precision in (None, "highest", "bfloat16", "high", "tensorfloat32"):
        with jax.default_matmul_precision(precision):
            program = str(jax.make_jaxpr(partial(values_and_gradients, under_test))(*args))
        tf32 = f"cudnn_allow_tf32={precision in ('high', 'tensorfloat32')}"
        assert program.count(tf32) == program.count("cudnn_allow_tf32") == 2
        assert program.count("= rnn_fwd[") == program.count("= rnn_bwd[") == 1

    def gradient(xs: jax.Array) -> jax.Array:
        return jax.grad(lambda xs: under_test(args[0], xs, args[2])[1].sum())(xs).sum()

    with pytest.raises(NotImplementedError, match="Differentiation rule for 'rnn_"):
        jax.make_jaxpr(jax.grad(gradient))(args[1])
    with pytest.raises(NotImplementedError, match="Batching rule for 'rnn_"):
        jax.make_jaxpr(jax.vmap(gradient))(args[1][None])


class Other(rx.LSTMCell):
    pass


KINDS = 'cuDNN takes an LSTMCell, a Bidirectional of two with `merge` "concat", or a Stack of either kind alone.'


@pytest.mark.parametrize(
    ("layer", "options", "reason"),
    [
        (rx.GRUCell(3), {}, KINDS),
        (Other(3), {}, KINDS),
        (rx.Bidirectional(PLAIN, merge="sum"), {}, KINDS),
        (rx.Bidirectional(PLAIN, rx.GRUCell(3)), {}, KINDS),
        (rx.Bidirectional(rx.Bidirectional(PLAIN)), {}, KINDS),
        (rx.Stack((rx.Stack((PLAIN,)),)), {}, KINDS),
        (rx.Stack((PLAIN, rx.Bidirectional(PLAIN))), {}, KINDS),
        (rx.Stack((PLAIN, rx.Residual(PLAIN))), {}, KINDS),
        (rx.Stack((PLAIN, PLAIN), dropout=0.5), {}, "cuDNN would draw other numbers; `dropout` must be 0."),
        (rx.LSTMCell(3, proj_size=2), {}, "cuDNN knows no other `proj_size` of an LSTMCell than the default."),
        (rx.Stack((PLAIN, rx.LSTMCell(3, activation=jax.nn.relu))), {},
         "cuDNN knows no other `activation` of an LSTMCell than the default."),
        (rx.LSTMCell(3, gate_activation=jax.nn.hard_sigmoid), {},
         "cuDNN knows no other `gate_activation` of an LSTMCell than the default."),
        (rx.Stack((PLAIN, rx.LSTMCell(4))), {}, "cuDNN takes one `hidden_size` for all cells; got 3, 4."),
        (rx.Bidirectional(rx.LSTMCell(4), PLAIN), {}, "cuDNN takes one `hidden_size` for all cells; got 3, 4."),
        (rx.LSTMCell(3, dtype=jnp.bfloat16), {},
         "parameters, state and inputs must be float32 throughout; got bfloat16."),
        (PLAIN, {"restart": np.zeros((STEPS, 4), bool)},
         "cuDNN cannot set the state back on its way; `reset` must be None."),
        (PLAIN, {"mask": np.ones((STEPS, 4), bool)},
         "cuDNN knows right padding alone, no other `mask`; give `lengths`."),
    ],
    ids=str,
)  # fmt: skip
def test_refusals(layer: rx.Layer, options: dict, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cudnn, "_on_cuda", lambda: True)
    params, xs, state = shapes(layer, (4,))
    assert cudnn.refuses(layer, params, state, xs, Steps(**options)) == reason


def test_refuses_other_dtypes_anywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cudnn, "_on_cuda", lambda: True)
    params, xs, state = shapes(PLAIN, (4,))
    half = lambda tree: jax.tree.map(lambda leaf: leaf.update(dtype=jnp.float16), tree)  # noqa: E731
    reason = "parameters, state and inputs must be float32 throughout; got float16."
    for args in ((half(params), state, xs), (params, half(state), xs), (params, state, half(xs))):
        assert cudnn.refuses(PLAIN, *args, Steps()) == reason


@pytest.mark.skipif(jax.default_backend() == "gpu", reason="there is a GPU")
def test_refuses_without_a_gpu() -> None:
    params, xs, state = shapes(PLAIN, (4,))
    reason = f"it needs an NVIDIA GPU, and JAX runs on {jax.default_backend()!r} here."
    assert cudnn.refuses(PLAIN, params, state, xs, Steps()) == reason


@pytest.mark.parametrize("case", CASES)
def test_serves(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cudnn, "_on_cuda", lambda: True)
    layer, batch, lengths, reverse = CASES[case]
    params, xs, state = shapes(layer, batch)
    assert cudnn.refuses(layer, params, state, xs, steps_of(lengths, reverse)) is None


# With a GPU: JAX_PLATFORMS=cuda,cpu pytest tests/test_cudnn.py
on_gpu = pytest.mark.skipif(jax.default_backend() != "gpu", reason="needs a GPU")


@on_gpu
@pytest.mark.parametrize("case", CASES)
def test_cudnn_equals_xla(case: str) -> None:
    layer, batch, lengths, reverse = CASES[case]
    params, xs, state = arguments(layer, batch)
    under_test = partial(scan, layer, lengths, reverse)
    with jax.default_matmul_precision("highest"):  # XLA's own default is TF32 as well.
        expected = values_and_gradients(partial(under_test, "xla"), params, xs, state)
    assert_close(
        case, values_and_gradients(partial(under_test, "cudnn"), params, holed(xs, lengths), state), expected, 2e-5
    )


@on_gpu
def test_cudnn_is_of_full_precision_at_size() -> None:
    layer, lengths = rx.Stack((rx.Bidirectional(rx.LSTMCell(128)),) * 2), np.arange(0, 64, 4)
    params, xs, state = arguments(layer, (16,), steps=60)
    params = jax.tree.map(lambda p: p / 16, params)  # Full normal noise would be chaos, at this size.
    with jax.default_matmul_precision("highest"):
        expected = values_and_gradients(partial(scan, layer, lengths, False, "xla"), params, xs, state)
    assert_close(
        "at size",
        values_and_gradients(partial(scan, layer, lengths, False, "cudnn"), params, xs, state),
        expected,
        1e-4,
    )


@on_gpu
def test_cudnn_refuses_by_name() -> None:
    params, xs, state = arguments(PLAIN, (4,))
    with pytest.raises(ValueError, match="right padding alone"):
        rx.scan(PLAIN, params, xs, state, time_major=True, mask=np.ones((STEPS, 4), bool), implementation="cudnn")
