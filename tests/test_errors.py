"""Wrong arguments: each is refused where it is given, by name, with what was expected and what came."""

import dataclasses
import re
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import AxisType

import recurrax as rx
from recurrax import interop
from recurrax.testing import perturbed_params

XS, KEY = jnp.ones((2, 7, 3)), jax.random.key(0)
CELL, LSTM, LRU = rx.GRUCell(4), rx.LSTMCell(4), rx.LRUCell(4)
PARAMS, LSTM_PARAMS, LRU_PARAMS = (perturbed_params(cell, 3) for cell in (CELL, LSTM, LRU))
H = jnp.zeros((2, 4))
STACK = rx.Stack((CELL, LSTM))
STACKED = STACK.init(KEY, 3)
LEARNED = rx.LearnedInitialState(CELL)
LEARNED_PARAMS = LEARNED.init(KEY, 3)
ROWS = [np.ones((2, 3), np.float32), np.ones((4, 3), np.float32)]


class OtherState(NamedTuple):
    """The fields of an LSTM's state."""

    h: jax.Array
    c: jax.Array


@dataclasses.dataclass(frozen=True, repr=False)
class ScaledCell(rx.Cell):
    """A user's cell, with scalar parameters and without a check of its own."""

    scale: float = 1.0

    def init(self, key, input_size, dtype=jnp.float32):
        return {"a": jnp.ones((), dtype)}

    def initial_state(self, batch_shape=(), dtype=jnp.float32):
        return jnp.zeros((*batch_shape, self.hidden_size), dtype)

    def step(self, params, state, z):
        h = self.scale * (params["a"] * state + z)
        return h, h


def scan(layer=CELL, params=PARAMS, xs=XS, state=None, **options):
    return lambda: rx.scan(layer, params, xs, state, **options)


def step(layer=CELL, params=PARAMS, state=None, x=XS[:, 0], **options):
    return lambda: rx.step(layer, params, x, state, **options)


def cast(tree, dtype):
    return jax.tree.map(lambda leaf: leaf.astype(dtype), tree)


OF_SCAN = [
    (scan(rx.GRUCell), TypeError, "Construct it first"),
    (scan(xs=XS.astype(int)), TypeError, "`xs` must be of a floating dtype; got int32[2, 7, 3]"),
    (scan(xs=XS[0, 0]), ValueError, "`xs` must be [*B, T, I], at least 2 axes; got float32[3]"),
    (scan(xs=XS[..., :0]), ValueError, "`xs` must have at least 1 feature; got float32[2, 7, 0]"),
    (
        scan(xs=jnp.ones((2, 7, 5))),
        ValueError,
        "`xs` must have 3 features, for which the parameters of GRUCell(hidden_size=4) were drawn; got float32[2, 7",
    ),
    (
        scan(STACK, STACKED, jnp.ones((2, 7, 5))),
        ValueError,
        "`xs` must have 3 features, for which the parameters of Stack",
    ),
    (
        scan(params=rx.GRUCell(5).init(KEY, 3)),
        ValueError,
        "`params.kernel` must be [3, 12] for `xs` float32[2, 7, 3]",
    ),
    (scan(params=PARAMS._asdict()), ValueError, "recurrent_bias) for GRUCell(hidden_size=4); got a dict of 4"),
    (scan(rx.GRUCell(4, bias=False)), ValueError, "got also .bias, .recurrent_bias"),
    (scan(LSTM), ValueError, "`params` must be LSTMParams(kernel, recurrent_kernel, bias,"),
    (scan(STACK, list(STACKED)), ValueError, "a tuple of 2 for Stack"),
    (scan(STACK, STACKED[:1]), ValueError, "`params` must have 2 entries for Stack"),
    (scan(state=CELL.initial_state((3,))), ValueError, "`state.h` must be [2, 4] for `xs` float32[2, 7, 3]"),
    (scan(state=H), ValueError, "got float32[2, 4], an array. Wrap it: `GRUState(h)`"),
    (scan(state=(H,)), ValueError, "got a tuple of 1. Write `GRUState(*state)`"),
    (scan(LSTM, LSTM_PARAMS, state=H), ValueError, "an array. Give all of them: `LSTMState(h, c)`"),
    (scan(LSTM, LSTM_PARAMS, state=(H, H)), ValueError, "got a tuple of 2. Write `LSTMState(*state)`"),
    (scan(LSTM, LSTM_PARAMS, state=OtherState(H, H)), ValueError, "must be LSTMState(h, c) for LSTMCell(hidden_"),
    (
        scan(STACK, STACKED, state=list(STACK.initial_state((2,)))),
        ValueError,
        "got a list of 2. Write `tuple(state)`",
    ),
    (
        scan(STACK, STACKED, state=(rx.cells.GRUState(H), H)),
        ValueError,
        "`state[1]` must be LSTMState(h, c)",
    ),
    (scan(state=rx.cells.GRUState(None)), ValueError, "`state.h` must be [2, 4]"),
    (scan(mask=jnp.ones((7, 2), bool)), ValueError, "got bool[7, 2]. Is one of them time-"),
    (scan(mask=jnp.ones((2, 7))), TypeError, "`mask` must be bool[2, 7], one flag per step"),
    (scan(reset=jnp.ones(7, bool)), ValueError, "`reset` must be bool[2, 7]"),
    (scan(lengths=jnp.ones((2, 1), int)), ValueError, "`lengths` must be int[2], one"),
    (scan(lengths=jnp.ones(2)), TypeError, "got float32[2]"),
    (
        scan(lengths=jnp.ones(2, int), mask=jnp.ones((2, 7), bool)),
        ValueError,
        "`lengths` and `mask` must not both be given",
    ),
    (scan(implementation="fast"), ValueError, "`implementation` must be None or one of"),
    (scan(implementation=rx.experimental.Newton), TypeError, "got the class Newton. Write Newton()."),
    (scan(implementation=["xla"]), ValueError, "`implementation` must be None or one of"),
    (scan(key=0), TypeError, "`key` must be one PRNG key, such as jax.random.key(0); got 0"),
    (scan(key=jax.random.split(KEY, 3)), ValueError, "got key<fry>[3]. Take one of these keys: `key[0]`"),
    (scan(key=jnp.zeros((3, 2), jnp.uint32)), ValueError, "got uint32[3, 2]. Take one of these"),
    (scan(key=nnx.Rngs(0)), TypeError, "got Rngs. Draw a key from it: `rngs.params()`"),
    (scan(unroll=0), ValueError, "`unroll` must be an int of at least 1; got 0"),
    (step(x=jnp.ones(())), ValueError, "`x` must be [*B, I], at least 1 axes; got float32[]"),
    (step(x=jnp.ones((2, 5))), ValueError, "`x` must have 3 features"),
    (step(params=cast(PARAMS, int)), TypeError, "`params.kernel` must be of a floating dtype"),
    (step(state=rx.cells.GRUState(H[0])), ValueError, "must be [2, 4] for `x` float32[2, 3] and"),
    (step(mask=jnp.ones((2, 1), bool)), ValueError, "one flag per row of `x` float32[2, 3]; got bool[2, 1]"),
    (step(rx.Bidirectional(CELL), ()), ValueError, "must not read the future to be stepped"),
]


OF_KINDS = [
    (
        scan(state=rx.cells.GRUState(H.astype(int))),
        TypeError,
        "`state.h` must be of a floating dtype, as float32[2, 4] is, for GRUCell(hidden_size=4); got int32[2, 4]",
    ),
    (scan(state=rx.cells.GRUState(H.astype(bool))), TypeError, "got bool[2, 4]"),
    (scan(state=rx.cells.GRUState(H.astype(jnp.int4))), TypeError, "got int4[2, 4]"),
    (
        scan(state=rx.cells.GRUState(H.astype(jnp.float8_e4m3fn))),
        TypeError,
        "got float8_e4m3fn[2, 4]. Floats of 8 bits are for storage",
    ),
    (scan(xs=XS.astype(jnp.float8_e4m3fn)), TypeError, "`xs` must be of a floating dtype"),
    (scan(state=rx.cells.GRUState(np.zeros((2, 4), np.int64))), TypeError, "got int64[2, 4]"),
    (
        scan(LRU, LRU_PARAMS, state=rx.cells.LinearState(H)),
        TypeError,
        "`state.h` must be of a complex dtype, as complex64[2, 4] is",
    ),
    (scan(params=cast(PARAMS, int)), TypeError, "`params.kernel` must be of a floating dtype"),
    (scan(params=cast(PARAMS, jnp.complex64)), TypeError, "got complex64[3, 12]"),
    (scan(LRU, cast(LRU_PARAMS, jnp.complex64)), TypeError, "must be of a floating dtype"),
    (scan(xs=XS.astype(jnp.complex64)), TypeError, "`xs` must be of a floating dtype for GRUCell"),
    (
        scan(LRU, LRU_PARAMS, XS.astype(jnp.complex64)),
        TypeError,
        "`xs` must be of a floating dtype for LRUCell",
    ),
    (
        scan(LEARNED, LEARNED_PARAMS._replace(state=rx.cells.GRUState(jnp.arange(4)))),
        TypeError,
        "`params.state.h` must be of a floating dtype",
    ),
    (
        lambda: LEARNED.first_state(LEARNED_PARAMS._replace(state=rx.cells.GRUState(jnp.arange(4))), (2,)),
        TypeError,
        "`params.state.h` must be of a floating dtype",
    ),
    (scan(ScaledCell(3), {"a": 1}), TypeError, "`params['a']` must be of a floating dtype"),
    (scan(ScaledCell(3), {"a": "1"}), TypeError, "`params['a']` must be of a floating dtype"),
    (
        lambda: interop.save("nowhere", CELL, cast(PARAMS, bool)),
        TypeError,
        "`params.kernel` must be of a floating dtype",
    ),
    (lambda: rx.infer_input_size(CELL, cast(PARAMS, int)), TypeError, "must be of a floating dtype"),
    (
        lambda: rx.scan(
            rx.CfCCell(4),
            rx.CfCCell(4).init(KEY, 3),
            rx.cells.TimedInputs(XS, jnp.ones((2, 7), jnp.complex64)),
        ),
        TypeError,
        "`dt` must be [2, 7], one number per step of `x` float32[2, 7, 3]; got complex64[2, 7]",
    ),
]


OF_CONSTRUCTION = [
    (lambda: rx.LSTMCell(4.0), TypeError, "`hidden_size` of LSTMCell must be an int; got 4.0"),
    (lambda: rx.LSTMCell(True), TypeError, "`hidden_size` of LSTMCell must be an int; got True"),
    (lambda: rx.ElmanCell(0), ValueError, "`hidden_size` of ElmanCell must be at least 1; got 0"),
    (lambda: rx.LSTMCell(4, 4), ValueError, "`proj_size` must be below `hidden_size` 4, or 0"),
    (lambda: rx.Dense("8"), TypeError, "`features` of Dense must be an int; got '8'"),
    (lambda: rx.Window(3.0, 2), TypeError, "`input_size` of Window must be an int; got 3.0"),
    (lambda: rx.CausalConv(3, 0), ValueError, "`width` must be an int of at least 1; got 0"),
    (lambda: rx.LSTMCell(4, forget_bias=[1.0]), TypeError, "`forget_bias` of LSTMCell must be a number; got [1.0]"),
    (
        lambda: rx.LSTMCell(4, forget_bias=jnp.ones(())),
        TypeError,
        "`forget_bias` of LSTMCell must be a number; got Array",
    ),
    (
        lambda: rx.MLSTMCell(4, forget_bias=3.0),
        TypeError,
        "`forget_bias` of MLSTMCell must be a pair of numbers; got 3.0",
    ),
    (lambda: rx.GRUCell(4, bias="False"), TypeError, "`bias` of GRUCell must be True or False; got 'False'"),
    (lambda: rx.GRUCell(4, recurrent_bias=1), TypeError, "`recurrent_bias` of GRUCell must be True or False; got 1"),
    (lambda: rx.Dropout(0.1, shared="no"), TypeError, "`shared` of Dropout must be True or False; got 'no'"),
    (
        lambda: rx.ElmanCell(4, "relu"),
        TypeError,
        "must be a function, such as jax.nn.relu; got 'relu'. Write jax.nn.relu.",
    ),
    (lambda: rx.Activation("gelu"), TypeError, "Write jax.nn.gelu."),
    (lambda: rx.LSTMCell(4, kernel_init="glorot"), TypeError, "such as recurrax.initializers.glorot_uniform"),
    (
        lambda: rx.LSTMCell(4, kernel_init=jax.nn.initializers.he_normal),
        TypeError,
        "Call it: jax.nn.initializers.he_normal()",
    ),
    (lambda: rx.GRUCell(4, dtype="bf16"), TypeError, "got 'bf16'. Write \"bfloat16\"."),
    (lambda: rx.Dense(4, dtype=int), TypeError, "`dtype` of Dense must be a floating dtype"),
    (lambda: rx.LRUCell(4, dtype=jnp.complex64), TypeError, "must be a floating dtype"),
    (lambda: ScaledCell(4, scale="2"), TypeError, "`scale` of ScaledCell must be a number; got '2'"),
    (lambda: rx.Stack(()), ValueError, "must hold at least 1 layer"),
    (lambda: rx.Stack((rx.GRUCell,)), TypeError, "`layers` must be a recurrax.Layer"),
    (lambda: rx.Stack((nnx.Linear(3, 4, rngs=nnx.Rngs(0)),)), TypeError, "got an object of <class"),
    (
        lambda: rx.Stack(CELL, LSTM),
        TypeError,
        "must be a tuple of layers; got GRUCell(hidden_size=4). Write Stack((a, b)).",
    ),
    (
        lambda: rx.Stack((rx.ConvLSTMCell(4, (5, 5), 3), LSTM)),
        ValueError,
        "`layers` must take inputs with one number of axes of features; got 3 for ConvLSTMCell",
    ),
    (
        lambda: rx.Bidirectional(CELL, rx.ConvGRUCell(4, 5, 3)),
        ValueError,
        "`backward` must take inputs with one number",
    ),
    (lambda: rx.Gated(rx.Residual(CELL), rx.ConvGRUCell(4, 5, 3)), ValueError, "`gate` must take inputs with one"),
    (
        lambda: rx.Bidirectional(CELL, merge="add"),
        ValueError,
        "`merge` must be one of concat, sum, mul, ave; got 'add'",
    ),
    (lambda: rx.num_params(rx.Bidirectional(CELL, rx.GRUCell(3), "sum"), 3), ValueError, "output size of `forward`, 4"),
    (lambda: rx.num_params(rx.Residual(CELL), 3), ValueError, "must put out as many features as it takes in, 3"),
    (lambda: rx.Dropout(1.0), ValueError, "`rate` must be at least 0 and below 1; got 1.0"),
    (lambda: rx.Dropout("0.5"), TypeError, "`rate` of Dropout must be a number; got '0.5'"),
    (lambda: rx.Zoneout(CELL, np.array([0.1])), TypeError, "`rate` of Zoneout must be a number; got array([0.1])"),
    (lambda: rx.Zoneout(LSTM, (0.1, "0.2")), TypeError, "`rate` of Zoneout must be a number; got '0.2'"),
    (lambda: rx.GradientClip(CELL, "1"), TypeError, "`bound` of GradientClip must be a number; got '1'"),
    (lambda: rx.ConvLSTMCell(4, 5.0, 3), ValueError, "`input_shape` must be the size of each spatial axis"),
    (lambda: rx.ConvLSTMCell(4, (5, 5), None), ValueError, "`kernel_size` must be a positive int, or one for each"),
    (
        lambda: rx.cells.NCPWiring(4.0, 3, 2, 2, 2, 3, 2),
        TypeError,
        "`inter_neurons` of NCPWiring must be an int; got 4.0",
    ),
    (
        lambda: rx.experimental.Newton(max_iterations=3.0),
        TypeError,
        "`max_iterations` of Newton must be an int; got 3.0",
    ),
    (lambda: rx.experimental.Newton(fallback="no"), TypeError, "`fallback` of Newton must be True or False; got 'no'"),
    (lambda: rx.implementations.Chunked("64"), TypeError, "`length` of Chunked must be an int; got '64'"),
    (lambda: rx.implementations.TimeSharded(8, "time"), TypeError, "`mesh` must be a jax.sharding.Mesh; got 8"),
]


OF_INIT = [
    (lambda: CELL.init(0, 3), TypeError, "`key` must be one PRNG key, such as jax.random.key(0); got 0 of type int"),
    (lambda: CELL.init(nnx.Rngs(0), 3), TypeError, "got Rngs. Draw a key from it"),
    (lambda: CELL.init(jax.random.split(KEY, 3), 3), ValueError, "got key<fry>[3]. Take one of these keys"),
    (lambda: CELL.init(key=KEY, input_size=0), ValueError, "`input_size` must be an int of at least 1"),
    (lambda: CELL.init(KEY, -1), ValueError, "the number of features of one input; got -1"),
    (lambda: CELL.init(KEY, 3.0), TypeError, "the number of features of one input; got 3.0 of type float"),
    (lambda: CELL.init(KEY, "10"), TypeError, "got '10' of type str"),
    (lambda: CELL.init(KEY, XS), TypeError, "got float32[2, 7, 3]. Give the size of its last axis, 3."),
    (lambda: rx.Dropout(0.5).init(KEY, 0), ValueError, "`input_size` must be an int of at least 1"),
    (lambda: STACK.init(0, 3), TypeError, "`key` must be one PRNG key"),
    (lambda: ScaledCell(3).init(KEY, True), TypeError, "got True of type bool"),
    (lambda: rx.num_params(CELL, 0), ValueError, "`input_size` must be an int of at least 1"),
]


OF_DATA = [
    (lambda: rx.lengths_to_mask(jnp.ones(2), 3), TypeError, "`lengths` must be int[*B]; got float32[2]"),
    (lambda: rx.lengths_to_mask(jnp.ones(2, bool), 3), TypeError, "`lengths` must be int[*B]; got bool[2]"),
    (lambda: rx.lengths_to_mask(jnp.ones(2, int), 3.0), TypeError, "`max_length` must be an int; got 3.0"),
    (lambda: rx.segment_ids_to_reset(jnp.ones(2)), TypeError, "`segment_ids` must be int[*B, T]; got float32[2]"),
    (lambda: rx.data.pack(np.ones((2, 3, 4)), 6), TypeError, "got one array, float64[2, 3, 4]."),
    (lambda: rx.data.pack({"x": ROWS}, 6), TypeError, "`sequences` must be a list of arrays [T, ...]; got a dict"),
    (
        lambda: rx.data.pack([ROWS[0], ROWS[1][:, :1]], 6),
        ValueError,
        "`sequences[1]` must be float32[T, 3] as `sequences[0]` is; got float32[4, 1]",
    ),
    (
        lambda: rx.data.pack([np.arange(3), np.full(2, 0.5)], 6),
        ValueError,
        "`sequences[1]` must be int64[T] as `sequences[0]` is; got float64[2]",
    ),
    (lambda: rx.data.pack([(ROWS[0],), ROWS[1]], 6), ValueError, "`sequences[1]` must have the structure of"),
    (lambda: rx.data.pack(ROWS, 6, rows=0), ValueError, "`rows` must be an int of at least 1; got 0"),
    (
        lambda: rx.data.batch_by_length(ROWS, 16, 2),
        TypeError,
        "`lengths` must be a tuple of ints; got 16. Write (16,).",
    ),
    (lambda: rx.data.batch_by_length(ROWS[0], (16,), 2), TypeError, "got one array, float32[2, 3]"),
    (
        lambda: list(rx.data.batch_by_length([ROWS[0], ROWS[1].astype(int)], (16,), 1)),
        ValueError,
        "`sequences[1]` must be float32[T, 3] as `sequences[0]` is; got int64[4, 3]",
    ),
    (
        lambda: rx.layers.embedding_dropout(jax.random.split(KEY), jnp.ones((3, 2)), 0.5),
        ValueError,
        "`key` must be one PRNG key",
    ),
]


TABLE = [*OF_SCAN, *OF_KINDS, *OF_CONSTRUCTION, *OF_INIT, *OF_DATA]


@pytest.mark.parametrize(("call", "kind", "message"), TABLE, ids=[message for *_, message in TABLE])
def test_errors_teach(call, kind, message) -> None:
    with pytest.raises(kind, match=re.escape(message)):
        call()


def test_numbers_of_numpy_are_stored_as_those_of_python() -> None:
    three, half, yes = np.int64(3), np.float32(0.5), np.bool_(True)
    stored = [
        (rx.LSTMCell(three, forget_bias=half, bias=yes), rx.LSTMCell(3, forget_bias=0.5)),
        (rx.Dense(three, bias=yes), rx.Dense(3)),
        (rx.Window(three, np.int32(2)), rx.Window(3, 2)),
        (rx.MLSTMCell(4, forget_bias=[np.int64(3), 6.0]), rx.MLSTMCell(4, forget_bias=(3, 6))),
        (rx.Zoneout(CELL, half), rx.Zoneout(CELL, 0.5)),
        (rx.ConvGRUCell(three, np.array([5, 5]), three), rx.ConvGRUCell(3, (5, 5), 3)),
        (rx.ConvGRUCell(3, 5, 3, padding=[[three, three]]), rx.ConvGRUCell(3, 5, 3, padding=((3, 3),))),
        (rx.experimental.Newton(max_iterations=three), rx.experimental.Newton(max_iterations=3)),
        (rx.implementations.Chunked(three), rx.implementations.Chunked(3)),
    ]
    for got, expected in stored:
        assert got == expected
        assert repr(got) == repr(expected)
        numbers = (leaf for field in vars(got).values() for leaf in jax.tree.leaves(field))
        assert not any(isinstance(number, (np.generic, np.ndarray)) for number in numbers)
    assert CELL.init(KEY, three).kernel.shape == (3, 12)
    assert rx.scan(CELL, PARAMS, XS, unroll=np.int64(2), remat=np.int64(4))[1].shape == (2, 7, 4)
    assert rx.data.batch_by_length(ROWS, (np.int64(4),), np.int64(2)) is not None


def test_what_is_of_the_kind_is_taken_whatever_its_width() -> None:
    narrow = [rx.cells.GRUState(H.astype(dtype)) for dtype in (jnp.bfloat16, jnp.float16)]
    for state in (*narrow, rx.cells.GRUState(np.zeros((2, 4)))):
        jax.eval_shape(lambda state: rx.scan(CELL, PARAMS, XS, state, implementation="xla"), state)
    _, ys = rx.scan(ScaledCell(3), {"a": 0.5}, XS)
    assert ys.shape == XS.shape
    assert rx.scan(rx.Activation(jnp.conj), (), XS.astype(jnp.complex64))[1].dtype == jnp.complex64
    assert rx.data.pack((row for row in ROWS), 6).xs.shape == (1, 6, 3)
    mesh = jax.make_mesh((1,), ("time",), axis_types=(AxisType.Auto,))
    assert rx.implementations.TimeSharded(mesh, "time").axis == "time"
    # Layers without a state take any number of axes.
    rx.Stack((rx.ConvLSTMCell(4, (5, 5), 3), rx.Dropout(0.5), rx.Dense(3), rx.ConvLSTMCell(4, (5, 5), 3)))
