"""Conditional random fields, against a sum over all labelings and against pytorch-crf."""

import functools
import itertools
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from jax.test_util import check_grads

from recurrax import lengths_to_mask, linen
from recurrax import nnx as rnn
from recurrax.losses import _crf_chain, crf
from recurrax.testing import assert_close

B, T, L = 2, 4, 3
RNG = np.random.default_rng(0)
PARAMS = crf.CRFParams(*(RNG.standard_normal(shape).astype(np.float32) for shape in ((L, L), (L,), (L,))))
EMISSIONS = RNG.standard_normal((B, T, L)).astype(np.float32)
LABELS = np.array([[0, 1, 2, 0], [1, 2, 0, 0]])  # allowed as BIO
BIO = crf.bio_constraints(("O", "B-X", "I-X"))
# Holes, and a row that begins and ends with masked steps.
HOLES = np.array([[True, False, True, True], [False, True, True, False]])


class Brute:
    """Every labeling of one sequence with its score and its probability, in float64."""

    def __init__(self, params: crf.CRFParams, emissions: np.ndarray, allowed: crf.Constraints | None):
        transitions, start, end = (np.asarray(part, np.float64) for part in params)
        if allowed is not None:
            pairs = zip(allowed.arrays, (transitions, start, end), strict=True)
            transitions, start, end = (np.where(flags, part, -np.inf) for flags, part in pairs)
        emissions = np.asarray(emissions, np.float64)
        steps, size = emissions.shape
        self.labelings = list(itertools.product(range(size), repeat=steps))
        scores = []
        for y in self.labelings:
            score = sum(emissions[t, y[t]] for t in range(steps))
            score += sum(transitions[y[t - 1], y[t]] for t in range(1, steps))
            scores.append(score + (start[y[0]] + end[y[-1]] if steps else 0))
        self.scores = np.array(scores)
        self.log_z = np.logaddexp.reduce(self.scores)
        self.p = np.exp(self.scores - self.log_z)
        shape = (steps, size)
        self.marginals, self.pairs = np.zeros(shape), np.zeros((max(steps - 1, 0), size, size))
        for y, p in zip(self.labelings, self.p, strict=True):
            for t in range(steps):
                self.marginals[t, y[t]] += p
            for t in range(1, steps):
                self.pairs[t - 1, y[t - 1], y[t]] += p
        some = self.p > 0
        self.entropy = -(self.p[some] * np.log(self.p[some])).sum()

    def best(self, k: int) -> tuple[np.ndarray, np.ndarray]:
        order = np.argsort(-self.scores, kind="stable")[:k]
        return np.array(self.labelings)[order], self.scores[order]


@pytest.mark.thorough
@pytest.mark.parametrize("mask", [lengths_to_mask(jnp.array([4, 2]), T), HOLES], ids=["lengths", "holes"])
@pytest.mark.parametrize("allowed", [None, BIO], ids=["all", "bio"])
def test_everything_equals_a_sum_over_all_labelings(allowed: Any, mask: Any) -> None:
    mask = np.asarray(mask)
    # Masked steps hold what must have no influence.
    emissions, labels = np.where(mask[..., None], EMISSIONS, np.nan), np.where(mask, LABELS, -100)
    options = {"mask": jnp.asarray(mask.T), "time_major": True, "allowed": allowed}
    major = jnp.asarray(np.swapaxes(emissions, 0, 1))
    log_z = jax.vjp(lambda *args: crf.log_partition(*args, **options), PARAMS, major)
    counts, of_emissions = log_z[1](jnp.ones(B))
    marginals, pairs, entropy = (f(PARAMS, major, **options) for f in (crf.marginals, crf.pair_marginals, crf.entropy))
    best, best_score = crf.viterbi(PARAMS, major, **options)
    few, few_scores = crf.k_best(PARAMS, major, 5, **options)
    score = crf.score(PARAMS, major, jnp.asarray(labels.T), **options)
    likelihood = crf.log_likelihood(PARAMS, major, jnp.asarray(labels.T), **options)
    expected = np.zeros((L, L))
    for row in range(B):
        steps = np.flatnonzero(mask[row])
        brute = Brute(PARAMS, EMISSIONS[row, steps], allowed)
        assert_close("log Z", log_z[0][row], np.float32(brute.log_z), 1e-6)
        assert_close("marginals", marginals[steps, row], brute.marginals.astype("f"), 1e-6)
        assert_close("gradient", of_emissions[:, row], marginals[:, row], 1e-6)
        assert_close("pairs", pairs[steps[1:] - 1, row], brute.pairs.astype("f"), 1e-6)
        assert not np.delete(marginals[:, row], steps, axis=0).any()
        assert_close("entropy", entropy[row], np.float32(brute.entropy), 1e-5)
        expected += brute.pairs.sum(axis=0)
        y, scores = brute.best(5)
        np.testing.assert_array_equal(best[steps, row], y[0])
        assert_close("best", best_score[row], np.float32(scores[0]), 1e-6)
        exists = np.isfinite(scores)
        np.testing.assert_array_equal(few[steps, row].T[: len(y)][exists], y[exists])
        assert_close("k best", few_scores[row][: len(y)][exists], scores[exists].astype("f"), 1e-6)
        assert (few_scores[row][len(y) :] == -np.inf).all()
        assert not few[~mask[row], row].any()
        mine = brute.scores[brute.labelings.index(tuple(LABELS[row, steps].tolist()))]
        # Some of these labelings are forbidden, and have -inf.
        np.testing.assert_allclose(score[row], mine, rtol=1e-5)
        np.testing.assert_allclose(likelihood[row], mine - brute.log_z, rtol=1e-5)
    assert_close("counts", counts.transitions, expected.astype("f"), 1e-6)


@jax.jit
def results(params: crf.CRFParams, emissions: jax.Array, labels: jax.Array, lengths: jax.Array) -> Any:
    """What several tests compare; one function, which is compiled once."""
    likelihood = lambda *args: crf.log_likelihood(*args, labels, lengths=lengths)  # noqa: E731
    value, vjp = jax.vjp(likelihood, params, emissions)
    sums = [f(params, emissions, lengths=lengths) for f in (crf.log_partition, crf.entropy, crf.marginals)]
    return value, vjp(jnp.array([1.0, 2.0])), sums, crf.viterbi(params, emissions, lengths=lengths)


def test_it_equals_pytorch_crf() -> None:
    torch, torchcrf = pytest.importorskip("torch"), pytest.importorskip("torchcrf")
    lengths, labels = np.array([4, 2]), LABELS[::-1].copy()
    theirs = torchcrf.CRF(L, batch_first=True)
    held = theirs.transitions, theirs.start_transitions, theirs.end_transitions
    for parameter, value in zip(held, PARAMS, strict=True):
        parameter.data = torch.tensor(value)
    inputs, mask = torch.tensor(EMISSIONS, requires_grad=True), torch.tensor(np.arange(T) < lengths[:, None])
    value = theirs(inputs, torch.tensor(labels), mask=mask, reduction="none")
    (value * torch.tensor([1.0, 2.0])).sum().backward()
    likelihood, gradients, _, (best, _) = results(PARAMS, EMISSIONS, labels, lengths)
    assert_close("likelihood", likelihood, value.detach().numpy(), 1e-5)
    expected = crf.CRFParams(*(parameter.grad.numpy() for parameter in held)), inputs.grad.numpy()
    assert_close("gradients", gradients, expected, 1e-5)
    for row, y in enumerate(theirs.decode(inputs, mask)):
        assert best[row, : len(y)].tolist() == y


def test_the_second_derivative_is_a_variance() -> None:
    # In any direction, the first derivative of log Z is the mean score of that direction, and the second its variance.
    way, es_way = jax.tree.map(np.cos, (PARAMS, EMISSIONS[0]))

    @jax.jit
    def second(params: crf.CRFParams, emissions: jax.Array) -> jax.Array:
        gradient = lambda *at: jax.grad(crf.log_partition, (0, 1))(*at)  # noqa: E731
        _, product = jax.jvp(gradient, (params, emissions), (way, es_way))
        return jax.tree.map(lambda a, b: (a * b).sum(), product, (way, es_way))

    p, scores = Brute(PARAMS, EMISSIONS[0], None).p, Brute(way, es_way, None).scores
    variance = (p * scores**2).sum() - (p * scores).sum() ** 2
    assert_close("variance", sum(jax.tree.leaves(second(PARAMS, EMISSIONS[0]))), np.float32(variance), 1e-5)


def double() -> tuple:
    return jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), (PARAMS, EMISSIONS[:, :3]))


@pytest.mark.thorough
@pytest.mark.parametrize("name", ["sequential", "associative", "marginals", "entropy", "viterbi", "extreme"])
def test_derivatives_of_everything_to_second_order(name: str) -> None:
    options = {"mask": HOLES[:, :3], "allowed": BIO}
    labels = np.zeros((B, 3), int)
    likelihood = lambda *args, **kwargs: crf.log_likelihood(*args, labels, **options, **kwargs)  # noqa: E731
    runs = {
        "associative": (lambda *args: likelihood(*args, implementation="associative"), ("fwd", "rev")),
        "sequential": (likelihood, ("fwd", "rev")),
        "marginals": (lambda *args: crf.marginals(*args, **options), ("rev",)),
        "entropy": (lambda *args: crf.entropy(*args, **options), ("fwd", "rev")),
        "viterbi": (lambda *args: crf.viterbi(*args, **options)[1], ("rev",)),
        # Here sums of the fast form underflow.
        "extreme": (lambda params, es: likelihood(params, es + jnp.array([[[0.0, -800, 0.0]]])), ("fwd", "rev")),
    }
    run, modes = runs[name]
    with jax.enable_x64(True):
        check_grads(jax.jit(run), double(), order=2, modes=modes)


def test_both_implementations_agree() -> None:
    @jax.jit
    def run(params: crf.CRFParams, emissions: jax.Array) -> Any:
        options: dict = {"lengths": lengths, "implementation": "associative"}
        value, vjp = jax.vjp(lambda *args: crf.log_likelihood(*args, LABELS, **options), params, emissions)
        return value, vjp(jnp.array([1.0, 2.0]))

    lengths = jnp.array([3, 4])
    value, gradients, *_ = results(PARAMS, EMISSIONS, LABELS, lengths)
    assert_close("associative", run(PARAMS, EMISSIONS), (value, gradients), 1e-6)


@pytest.mark.thorough
def test_both_implementations_agree_with_masks_and_constraints() -> None:
    def run(implementation: str) -> Any:
        of = lambda *args: crf.log_partition(*args, mask=HOLES, allowed=BIO, implementation=implementation)  # noqa: E731
        value, vjp = jax.vjp(of, PARAMS, EMISSIONS)
        return value, vjp(jnp.array([1.0, 2.0]))

    assert_close("associative", run("associative"), run("sequential"), 1e-6)


def extreme(name: str) -> tuple[crf.CRFParams, np.ndarray, crf.Constraints | None]:
    """Scores of which sums of the fast form underflow."""
    rng = np.random.default_rng(2)
    draw = lambda *shape: rng.integers(-4, 5, shape).astype(np.float64)  # noqa: E731
    params, emissions = crf.CRFParams(draw(L, L), draw(L), draw(L)), draw(B, T, L)
    if name == "large":
        return jax.tree.map(lambda x: 2500 * x, params), 2500 * emissions, None
    if name == "one way":  # every transition but two is nearly impossible
        return params._replace(transitions=1e4 * np.eye(L, k=1) - 1e4), emissions, None
    # The constraints and the end need a label that the emissions nearly forbid.
    return params._replace(end=np.array([-1e4, -1e4, 0])), emissions + np.array([0, -1e4, 0]), BIO


@functools.partial(jax.jit, static_argnums=2)
def sums(params: crf.CRFParams, emissions: jax.Array, allowed: crf.Constraints | None) -> list:
    """Log Z and its gradients for a batch, and row by row under `vmap`, which computes both forms."""
    results = []
    log_z = functools.partial(crf.log_partition, allowed=allowed)
    for each in (log_z, jax.vmap(log_z, (None, 0))):
        value, vjp = jax.vjp(each, params, emissions)
        results.append((value, vjp(jnp.ones_like(value))))
    return results


@pytest.mark.parametrize("name", ["large", "one way", pytest.param("needed", marks=pytest.mark.thorough)])
def test_scores_of_any_size(name: str) -> None:
    params, emissions, allowed = extreme(name)
    with jax.enable_x64(True):
        results = sums(params, emissions, allowed)
    brutes = [Brute(params, row, allowed) for row in emissions]
    expected = sum(brute.pairs.sum(axis=0) for brute in brutes)
    for value, (counts, marginals) in results:
        np.testing.assert_allclose(value, [brute.log_z for brute in brutes], rtol=1e-6)
        np.testing.assert_allclose(marginals, [brute.marginals for brute in brutes], atol=1e-6)
        np.testing.assert_allclose(counts.transitions, expected, atol=1e-6)


def test_ordinary_scores_take_the_fast_form() -> None:
    lengths = jnp.array([4, 2])

    @jax.jit
    def fast(params: crf.CRFParams, emissions: jax.Array) -> tuple[jax.Array, jax.Array]:
        chain = _crf_chain.chain_of(params, emissions, lengths, None, BIO, False)
        return _crf_chain._forward_fast(chain)[1], _crf_chain._backward_fast(chain)[1]

    assert all(fast(PARAMS, 5 * EMISSIONS))
    assert not all(fast(PARAMS, 500 * EMISSIONS))


def test_long_sequences_keep_their_precision() -> None:
    emissions = 30 * np.random.default_rng(3).standard_normal((1000, L))
    exact = None
    for dtype in ("float64", "float32"):
        with jax.enable_x64(dtype == "float64"):
            params = jax.tree.map(lambda x: jnp.asarray(x, dtype), PARAMS)  # noqa: B023
            got = crf.marginals(params, jnp.asarray(emissions, "float32").astype(dtype))
        exact = np.asarray(got, np.float32) if exact is None else exact
    assert_close("marginals", np.asarray(got), exact, 1e-5)


def test_rows_without_steps_and_rows_without_a_labeling() -> None:
    lonely = PARAMS._replace(transitions=np.full((L, L), -np.inf, "f"))  # no label follows another
    value, gradients, (log_z, entropy, marginals), (_, best) = results(lonely, EMISSIONS, LABELS, jnp.array([0, 3]))
    for result in (value, log_z, best):
        np.testing.assert_array_equal(result, [0, -np.inf])
    assert not np.concatenate([leaf.ravel() for leaf in jax.tree.leaves((gradients, entropy, marginals))]).any()
    # Constraints of which nothing is known outside of `jit`, since lengths are not.
    nothing = crf.Constraints(np.zeros((L, L), bool))
    value = jax.jit(lambda lengths: crf.log_partition(PARAMS, EMISSIONS, lengths=lengths, allowed=nothing))
    np.testing.assert_array_equal(value(jnp.array([0, 3])), [0, -np.inf])


@pytest.mark.thorough
def test_there_may_be_any_number_of_batch_axes() -> None:
    lengths, key = jnp.array([4, 2]), jax.random.key(0)

    def run(emissions: jax.Array, labels: jax.Array, lengths: jax.Array) -> Any:
        options: dict = {"lengths": lengths, "allowed": BIO}
        likelihood = crf.log_likelihood(PARAMS, emissions, labels, **options)
        best, few = (f(PARAMS, emissions, *k, **options) for f, k in ((crf.viterbi, ()), (crf.k_best, (2,))))
        drawn = crf.sample(PARAMS, emissions, key, **options)
        return likelihood, best, few, drawn, crf.pair_marginals(PARAMS, emissions, **options)

    one = run(jnp.asarray(EMISSIONS), jnp.asarray(LABELS), lengths)
    two = run(jnp.asarray(EMISSIONS)[:, None], jnp.asarray(LABELS)[:, None], lengths[:, None])
    assert_close("two axes", two, jax.tree.map(lambda x: x[:, None], one), 1e-6)
    # Draws depend on the number of rows, so they are left out.
    *first, _, pairs = jax.tree.map(lambda x: x[0], one)
    *alone, _, pairs_alone = run(jnp.asarray(EMISSIONS[0]), jnp.asarray(LABELS[0]), lengths[0])
    assert_close("no axis", (*alone, pairs_alone), (*first, pairs), 1e-6)


@pytest.mark.thorough
def test_there_may_be_no_steps() -> None:
    empty = EMISSIONS[:, :0]
    assert not crf.log_likelihood(PARAMS, empty, LABELS[:, :0], allowed=BIO).any()
    assert not jax.grad(lambda params: crf.log_partition(params, empty).sum())(PARAMS).transitions.any()
    assert crf.k_best(PARAMS, empty, 1)[0].shape == (B, 1, 0)
    assert crf.sample(PARAMS, empty, jax.random.key(0)).shape == (B, 0)
    labels, score = crf.viterbi(PARAMS, EMISSIONS[0, :0])
    assert labels.shape == (0,)
    assert score == 0


def test_nan_and_labels_out_of_range_spoil_their_row_alone() -> None:
    emissions, wrong, lengths = EMISSIONS.copy(), LABELS.copy(), jnp.array([4, 4])
    emissions[0, 1, 1], wrong[0, 1] = np.nan, L
    for es, labels in ((emissions, LABELS), (EMISSIONS, wrong)):
        value, (_, gradient), *_ = results(PARAMS, es, labels, lengths)
        assert np.isnan(value).tolist() == [True, False]
        assert np.isfinite(gradient[1]).all()
    # Both have no influence behind the end of a row.
    expected = results(PARAMS, EMISSIONS, LABELS, jnp.array([1, 4]))
    assert_close("in the padding", results(PARAMS, emissions, wrong, jnp.array([1, 4])), expected, 0)


def test_scores_of_minus_infinity_are_constraints() -> None:
    pairs = zip(BIO.arrays, PARAMS, strict=True)
    params = crf.CRFParams(*(np.where(flags, part, -np.inf).astype("f") for flags, part in pairs))
    value, gradients, (_, entropy, marginals), _ = results(params, EMISSIONS, LABELS, jnp.array([4, 4]))
    for row in range(B):
        brute = Brute(PARAMS, EMISSIONS[row], BIO)
        mine = brute.scores[brute.labelings.index(tuple(LABELS[row].tolist()))] - brute.log_z
        assert_close("likelihood", value[row], np.float32(mine), 1e-6)
        assert_close("entropy", entropy[row], np.float32(brute.entropy), 1e-5)
        assert_close("marginals", marginals[row], brute.marginals.astype("f"), 1e-6)
    assert np.isfinite(np.concatenate([leaf.ravel() for leaf in jax.tree.leaves(gradients)])).all()
    narrow = jnp.asarray(EMISSIONS, jnp.bfloat16)
    assert jax.eval_shape(crf.log_partition, PARAMS, narrow).dtype == jnp.float32


def test_draws_have_their_probabilities() -> None:
    emissions, number = EMISSIONS[:, :3], 4000
    keys = jax.random.split(jax.random.key(0), number)
    draw = lambda key: crf.sample(PARAMS, emissions, key, lengths=jnp.array([3, 2]), allowed=BIO)  # noqa: E731
    drawn = np.asarray(jax.jit(jax.vmap(draw))(keys))
    for row, length in enumerate((3, 2)):
        brute = Brute(PARAMS, emissions[row, :length], BIO)
        labelings, counts = np.unique(drawn[:, row, :length], axis=0, return_counts=True)
        found = dict(zip(map(tuple, labelings.tolist()), counts.tolist(), strict=True))
        possible = [y for y, p in zip(brute.labelings, brute.p, strict=True) if p > 0]
        assert set(found) <= set(possible)
        expected = number * brute.p[brute.p > 0]
        square = (np.array([found.get(y, 0) for y in possible]) - expected) ** 2 / expected
        # The mean is the number of labelings less 1, and the variance twice of that.
        freedom = len(possible) - 1
        assert square.sum() < freedom + 4 * np.sqrt(2 * freedom)
    assert not drawn[:, 1, 2].any()


@pytest.mark.parametrize(
    ("make", "letters", "valid"),
    [
        (crf.bio_constraints, "BI", r"(O|B(I)*|b(i)*)*"),
        (crf.bioes_constraints, "BIES", r"(O|S|s|BI*E|bi*e)*"),
    ],
    ids=["bio", "bioes"],
)
def test_constraints_are_the_grammar(make: Any, letters: str, valid: str) -> None:
    names = ["O", *(f"{letter}-{kind}" for kind in ("PER", "L-OC") for letter in letters)]
    # Small letters stand for the second type.
    short = ["O", *letters, *letters.lower()]
    allowed = make(names)
    for y in itertools.product(range(len(names)), repeat=3):
        passes = allowed.start[y[0]] and allowed.end[y[-1]] and all(allowed.transitions[y[:-1], y[1:]])
        assert passes == bool(re.fullmatch(valid, "".join(short[label] for label in y))), y
    assert allowed == make(tuple(names))
    assert hash(allowed) == hash(make(tuple(names)))
    assert allowed != BIO


@jax.jit
def everything(params: crf.CRFParams, emissions: jax.Array, labels: jax.Array, lengths: jax.Array) -> Any:
    options: dict = {"lengths": lengths, "allowed": BIO}
    loss = lambda *args: -crf.log_likelihood(*args, labels, **options).sum()  # noqa: E731
    gradients = jax.value_and_grad(loss, (0, 1))(params, emissions)
    best, few = crf.viterbi(params, emissions, **options), crf.k_best(params, emissions, 2, **options)
    drawn = crf.sample(params, emissions, jax.random.key(0), **options)
    return gradients, best, few, drawn, crf.entropy(params, emissions, **options)


@pytest.mark.parametrize("traced", [True, pytest.param(False, marks=pytest.mark.thorough)], ids=["types", "numbers"])
def test_it_is_the_same_under_an_explicit_mesh(traced: bool) -> None:
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Explicit,))
    emissions = np.random.default_rng(4).standard_normal((8, T, L)).astype("f")
    labels, lengths = np.tile(LABELS, (4, 1)), np.array([4, 2] * 4)
    expected = None if traced else everything(PARAMS, emissions, labels, lengths)
    with jax.set_mesh(mesh):
        place = lambda x: jax.device_put(x, NamedSharding(mesh, PartitionSpec("data")))  # noqa: E731
        arguments = PARAMS, place(emissions), place(labels), place(lengths)
        # Types say where arrays lie.
        got = jax.eval_shape(everything, *arguments) if traced else everything(*arguments)
    _, (best, _), (few, _), drawn, _ = got
    assert [x.sharding.spec[0] for x in (best, few, drawn)] == ["data"] * 3
    if not traced:
        assert_close("sharded by rows", jax.device_get(got), jax.device_get(expected), 1e-6)


def test_modules_hold_the_scores() -> None:
    model = rnn.CRF(L, allowed=BIO, rngs=nnx.Rngs(0))
    # As in the first test, which has compiled these functions.
    emissions, labels = np.swapaxes(EMISSIONS, 0, 1), jnp.asarray(LABELS.T)
    options: dict = {"mask": jnp.asarray(HOLES.T), "time_major": True}
    assert set(nnx.state(model)) == {"transitions", "start", "end"}
    assert model.transitions.shape == (L, L)
    expected = crf.log_likelihood(model.params, emissions, labels, allowed=BIO, **options)
    np.testing.assert_array_equal(model(emissions, labels, **options), expected)
    gradient = nnx.eval_shape(nnx.grad(lambda model: model(emissions, labels, **options).sum()), model)
    assert set(gradient) == {"transitions", "start", "end"}
    module = linen.CRF(L, BIO)
    drawn = jax.eval_shape(lambda key: module.init(key, emissions, labels, **options), jax.random.key(0))["params"]
    assert {name: leaf.shape for name, leaf in drawn.items()} == {"transitions": (L, L), "start": (L,), "end": (L,)}
    variables = {"params": model.params._asdict()}
    assert hash(module) == hash(linen.CRF(L, BIO))
    np.testing.assert_array_equal(module.apply(variables, emissions, labels, **options), expected)
    best = module.apply(variables, emissions, method="viterbi", **options)
    assert_close("viterbi", best, model.viterbi(emissions, **options), 0)
    # The other methods pass their arguments on, so shapes are enough.
    for name, extra in {"marginals": (), "log_partition": (), "k_best": (2,), "log_likelihood": (labels,)}.items():
        theirs = jax.eval_shape(lambda n=name, x=extra: module.apply(variables, emissions, *x, method=n, **options))
        assert theirs == jax.eval_shape(lambda n=name, x=extra: getattr(model, n)(emissions, *x, **options))


CLOSED = crf.Constraints(np.eye(L, dtype=bool), [True, False, False], [False, True, True])
FLAGS = np.ones((L, L), bool)
FORBIDDEN = crf.Constraints(np.triu(np.ones((L, L), bool), 1))  # labels that rise: at most L steps
ERRORS = {
    "range": (lambda: crf.log_likelihood(PARAMS, EMISSIONS, LABELS + 1), r"from 0 to 2.*got 3 at \[0, 2\]"),
    "padding": (lambda: crf.score(PARAMS, EMISSIONS, LABELS - 1), r"got -1 at \[0, 0\].*`lengths` or a `mask`"),
    "labels": (lambda: crf.score(PARAMS, EMISSIONS, LABELS.T), r"must be int\[2, 4\].*time-major"),
    "k": (lambda: crf.k_best(PARAMS, EMISSIONS, 82), "at most 81, the number of labelings of 4 steps"),
    "params": (lambda: crf.viterbi(PARAMS, np.zeros((4, 5), "f")), r"float\[5, 5\].*got float32\[3, 3\]"),
    "emissions": (lambda: crf.viterbi(PARAMS, np.zeros(3, "f")), r"must be \[\*B, T, L\]"),
    "nan": (lambda: crf.viterbi(PARAMS, np.full((4, L), np.nan, "f")), r"NaN at \[0, 0\]"),
    "nan params": (lambda: crf.viterbi(PARAMS._replace(end=PARAMS.end * np.nan), EMISSIONS), "`params.end`.*diverge"),
    "path": (lambda: crf.viterbi(PARAMS, EMISSIONS, allowed=FORBIDDEN), "a sequence of 4 steps has none"),
    "last": (lambda: crf.viterbi(PARAMS, EMISSIONS, allowed=CLOSED), r"end with \[0\] alone"),
    "number": (lambda: linen.CRF(4, BIO), "for 4 labels; got constraints for 3"),
    "name": (lambda: crf.bio_constraints(("O", "PER")), "got 'PER'. A label is O, or one of B, I"),
    "scheme": (lambda: crf.bio_constraints(("O", "S-PER")), "use `bioes_constraints`"),
    "lonely": (lambda: crf.bioes_constraints(("O", "B-X", "I-X")), "must have E-X"),
    "twice": (lambda: crf.bio_constraints(("O", "O")), "got 'O' twice"),
    "square": (lambda: crf.Constraints(np.ones((2, 3), bool)), r"must be bool\[L, L\]"),
    "implementation": (lambda: crf.marginals(PARAMS, EMISSIONS, implementation="xla"), "'sequential', 'associative'"),
}  # fmt: skip
KINDS = {
    "floats": (lambda: crf.score(PARAMS, EMISSIONS, LABELS * 1.0), r"must be int\[2, 4\]"),
    "tuple": (lambda: crf.viterbi(tuple(PARAMS), EMISSIONS), "must be a crf.CRFParams"),
    "array": (lambda: crf.viterbi(PARAMS, EMISSIONS, allowed=FLAGS), r"Write `crf.Constraints\(allowed\)`"),
    "flags": (lambda: crf.Constraints(np.ones((2, 2))), r"astype\(bool\)"),
    "traced": (lambda: jax.jit(crf.Constraints)(np.ones((2, 2), bool)), "Make the constraints outside"),
    "string": (lambda: crf.bio_constraints("O"), "must be names of BIO"),
    "key": (lambda: crf.sample(PARAMS, EMISSIONS, 0), "must be one PRNG key"),
    "rngs": (lambda: rnn.CRF(3, rngs=0), "must be an nnx.Rngs"),
}  # fmt: skip


@pytest.mark.parametrize("name", [*ERRORS, *KINDS])
def test_errors_teach(name: str) -> None:
    call, message = (ERRORS | KINDS)[name]
    with pytest.raises(ValueError if name in ERRORS else TypeError, match=message):
        call()
