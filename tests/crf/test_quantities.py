"""Marginals, entropy, k best, samples and partial labels against enumeration."""

import functools

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from keras import ops

import drawn
from crf.autodiff import BACKEND, EPSILON, evaluate, gradients, precision
from crf.chains import Case, cases
from finegrain.crf import LinearChain
from oracle import EnumeratedChain, log_sum_exp

few = settings(max_examples=30 if BACKEND == "torch" else 15)
# JAX has to be told to compute in float64, and compiles everything a second time then.
dtypes_at_hand = pytest.mark.parametrize(
    "dtype", ["float32"] if BACKEND == "jax" else ["float32", "float64"]
)
numpy = ops.convert_to_numpy
# One k for each shape of the cases, since JAX compiles anew for each: 1 … 5, three of them more
# than there are sequences.
K_OF = {
    (2, 4, 3): 3,
    (3, 5, 4): 5,
    (2, 4, 2): 2,
    (1, 5, 2): 4,
    (2, 3, 3): 1,
    (1, 1, 3): 5,
    (2, 3, 1): 2,
    (1, 0, 2): 3,
}
SAMPLES = 3
QUANTITIES = {
    "marginals": lambda chain, fixed: chain.marginals(),
    "pairwise_marginals": lambda chain, fixed: chain.pairwise_marginals(),
    "entropy": lambda chain, fixed: chain.entropy(),
    "log_prob_partial": lambda chain, fixed: chain.log_prob_partial(fixed["allowed"]),
    "top_k": lambda chain, fixed: chain.top_k(K_OF[tuple(fixed["allowed"].shape)]),
    "mode": lambda chain, fixed: chain.mode(),
    "sample": lambda chain, fixed: chain.sample(SAMPLES, seed=7),
}
DIFFERENTIABLE = ["marginals", "pairwise_marginals", "entropy", "log_prob_partial"]


@functools.cache
def asked(*names):
    """A function of those quantities: of all at once on JAX, so that it compiles once for all."""

    def quantities(parts, fixed):
        chain = LinearChain(**parts, mask=fixed["mask"])
        return {name: QUANTITIES[name](chain, fixed) for name in names}

    return quantities


@functools.cache
def weighted(*names):
    """The sum of those quantities, each with any weights: something to differentiate."""
    quantities = asked(*names)

    def total(parts, fixed):
        found = quantities(parts, fixed)
        if "log_prob_partial" in found:
            partial = found["log_prob_partial"]
            partial = ops.where(fixed["counted"], partial, ops.zeros_like(partial))
            found["log_prob_partial"] = partial
        return sum(ops.sum(fixed[name] * found[name]) for name in names)

    return total


def value(case: Case, name, dtype="float32", allowed=None):
    fixed = {"mask": case.mask}
    fixed["allowed"] = np.ones(case.emissions.shape, bool) if allowed is None else allowed
    function = asked(*QUANTITIES) if BACKEND == "jax" else asked(name)
    with precision(dtype):
        return evaluate(function, case.parts(dtype), fixed)[name]


def tolerance(case: Case, dtype) -> float:
    """Rounding of sums as large as the chain's, above a floor of few digits."""
    return 4 * EPSILON[dtype] * case.magnitude() + {"float32": 1e-5, "float64": 1e-10}[dtype]


def probabilities(oracle: EnumeratedChain) -> np.ndarray:
    """Of each sequence; zeros where none is possible."""
    total = oracle.log_partition()
    return np.zeros(len(oracle.scores)) if total == -np.inf else np.exp(oracle.scores - total)


def uses(oracle: EnumeratedChain) -> list:
    """The counts of each sequence."""
    return [oracle._counts(sequence) for sequence in oracle.sequences]


def pair_counts(oracle: EnumeratedChain, sequence) -> np.ndarray:
    """(time − 1, tags, tags): the pairs of a sequence, where the second of the two stands."""
    steps = max(len(oracle.emissions) - 1, 0)
    found = np.zeros((steps, oracle.num_tags, oracle.num_tags))
    for place in range(1, len(oracle.positions)):
        step = oracle.positions[place] - 1
        found[step, sequence[place - 1], sequence[place]] = 1
    return found


def pairs(oracle: EnumeratedChain) -> np.ndarray:
    each = [pair_counts(oracle, sequence) for sequence in oracle.sequences]
    return np.tensordot(probabilities(oracle), each, 1)


def entropy(oracle: EnumeratedChain) -> float:
    share = probabilities(oracle)
    share = share[share > 0]
    return float(-np.sum(share * np.log(share)))


def permitted(oracle: EnumeratedChain, allowed) -> np.ndarray:
    """Which of the sequences consist of allowed tags."""
    rows = allowed[oracle.positions]
    return np.array([all(rows[range(len(rows)), s]) for s in oracle.sequences])


def log_prob_partial(oracle: EnumeratedChain, allowed) -> float:
    some = log_sum_exp(np.where(permitted(oracle, allowed), oracle.scores, -np.inf))
    return some if some == -np.inf else some - oracle.log_partition()


def assert_close(ours, theirs, case: Case, dtype):
    assert ours.dtype == dtype
    assert ours.shape == np.shape(theirs)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=tolerance(case, dtype))


@pytest.mark.full
@dtypes_at_hand
@few
@given(case=cases())
def test_marginals(dtype, case):
    """Marginals are expected counts: rows of sum 1, exact zeros where masked or forbidden."""
    found = value(case, "marginals", dtype)
    oracles = case.oracles()
    assert_close(found, [o.expected_counts().emissions for o in oracles], case, dtype)
    possible = np.array([o.log_partition() > -np.inf for o in oracles])
    sums = np.where(case.valid() & possible[:, None], 1.0, 0.0)
    np.testing.assert_allclose(found.sum(2), sums, rtol=0, atol=1e-5)
    unused = ~case.valid()[:, :, None] | (case.emissions == -np.inf)
    np.testing.assert_array_equal(found[unused], 0)
    assert found.min(initial=0) >= 0


@pytest.mark.full
@dtypes_at_hand
@few
@given(case=cases())
def test_pairwise_marginals(dtype, case):
    """Pairs of neighbours across holes, at the second of the two."""
    found = value(case, "pairwise_marginals", dtype)
    assert_close(found, [pairs(oracle) for oracle in case.oracles()], case, dtype)
    np.testing.assert_array_equal(found[~case.linked()], 0)
    forbidden = np.broadcast_to(case.transitions == -np.inf, found.shape)
    np.testing.assert_array_equal(found[forbidden], 0)


@pytest.mark.full
@dtypes_at_hand
@few
@given(case=cases())
def test_entropy(dtype, case):
    """Never negative, 0 where there is one sequence or none."""
    found = value(case, "entropy", dtype)
    assert_close(found, [entropy(oracle) for oracle in case.oracles()], case, dtype)
    assert found.min() >= 0


@pytest.mark.full
@few
@given(case=cases())
def test_top_k(case):
    """The best distinct sequences, best first, to the last digit; −1 and −inf where no more are."""
    tags, scores = value(case, "top_k")
    k = K_OF[case.emissions.shape]
    assert tags.dtype == np.int32
    assert tags.shape == (len(case.tags), k, case.tags.shape[1])
    for oracle, rows, ours, valid in zip(case.oracles(), tags, scores, case.valid(), strict=True):
        expected = np.full(k, -np.inf)
        best = np.sort(oracle.scores)[::-1][:k]
        expected[: len(best)] = best
        np.testing.assert_array_equal(ours, expected)
        there = ours > -np.inf
        np.testing.assert_array_equal(rows == -1, ~(valid & there[:, None]))
        assert [oracle.score(row) for row in rows[there]] == ours[there].tolist()
        assert len({tuple(row) for row in rows[there]}) == there.sum()


@pytest.mark.full
@few
@given(case=cases())
def test_sample_is_possible(case):
    """Samples are possible sequences, with −1 where masked and where none is possible."""
    found = value(case, "sample")
    assert found.dtype == np.int32
    assert found.shape == (SAMPLES, *case.tags.shape)
    assert found.max(initial=-1) < case.emissions.shape[2]
    for example, (oracle, valid) in enumerate(zip(case.oracles(), case.valid(), strict=True)):
        possible = oracle.log_partition() > -np.inf
        for row in found[:, example]:
            np.testing.assert_array_equal(row == -1, ~(valid & possible))
            assert not possible or oracle.score(row) > -np.inf


def allowances(case: Case) -> st.SearchStrategy:
    """Tables of what is allowed: any, everything, the tags alone, nothing."""
    shape = case.emissions.shape
    known = np.eye(shape[2], dtype=bool)[np.where(case.valid(), case.tags, 0)]
    return st.one_of(
        hnp.arrays(bool, shape),
        st.sampled_from([np.ones(shape, bool), known, np.zeros(shape, bool)]),
    )


@pytest.mark.full
@dtypes_at_hand
@few
@given(data=st.data())
def test_log_prob_partial(dtype, data):
    """The share of the sequences that are allowed; 0 if all are, −inf if none is."""
    case = data.draw(cases())
    allowed = data.draw(allowances(case))
    found = value(case, "log_prob_partial", dtype, allowed)
    rows = zip(case.oracles(), allowed, strict=True)
    assert_close(found, [log_prob_partial(*row) for row in rows], case, dtype)


@pytest.mark.full
@few
@given(case=cases())
def test_everything_allowed_is_certain(case):
    """The log-probability of anything that is possible is exactly 0, however large the scores."""
    found = value(case, "log_prob_partial")
    possible = [oracle.log_partition() > -np.inf for oracle in case.oracles()]
    np.testing.assert_array_equal(found, np.where(possible, 0, -np.inf))


def covariances(oracle: EnumeratedChain, f: np.ndarray) -> list[np.ndarray]:
    """Of f(y) with each count: the gradient of the mean of f, were f itself constant."""
    share = probabilities(oracle)
    f = np.where(share > 0, f, 0)
    mean = np.sum(share * f)
    return [np.tensordot(share * (f - mean), part, 1) for part in zip(*uses(oracle), strict=True)]


def gradient_of(name, oracle: EnumeratedChain, weight, allowed) -> list[np.ndarray]:
    """The gradient of weight · quantity of one example."""
    counts = uses(oracle)
    if name == "marginals":
        return covariances(oracle, np.array([np.sum(weight * c.emissions) for c in counts]))
    if name == "pairwise_marginals":
        each = [np.sum(weight * pair_counts(oracle, s)) for s in oracle.sequences]
        return covariances(oracle, np.array(each))
    if name == "entropy":  # H = log Z − E s, so ∂H = −cov(s, counts)
        behind = oracle.scores - oracle.scores.max()  # large scores alike would cost digits
        return covariances(oracle, -weight * np.maximum(behind, -1e9))
    inside = permitted(oracle, allowed)
    scores = np.where(inside, oracle.scores, -np.inf)
    given_allowed = np.exp(scores - log_sum_exp(scores))
    change = weight * (given_allowed - probabilities(oracle))
    return [np.tensordot(change, part, 1) for part in zip(*counts, strict=True)]


@pytest.mark.full
@dtypes_at_hand
@pytest.mark.parametrize("name", DIFFERENTIABLE)
@settings(max_examples=20)
@given(data=st.data())
def test_gradients(dtype, name, data):
    """The gradient of any weighting of each quantity, from covariances; never NaN."""
    case = data.draw(cases())
    allowed = data.draw(allowances(case))
    oracles = case.oracles()
    partial = [log_prob_partial(*row) for row in zip(oracles, allowed, strict=True)]
    counted = np.array(partial) > -np.inf
    batch, time, tags = case.emissions.shape
    shapes = [(batch, time, tags), (batch, max(time - 1, 0), tags, tags), (batch,), (batch,)]
    fixed = {n: np.zeros(s, dtype) for n, s in zip(DIFFERENTIABLE, shapes, strict=True)}
    random = drawn.generator(0)
    weight = random.integers(-8, 8, fixed[name].shape) / 4.0
    fixed[name] = weight.astype(dtype)
    fixed |= {"mask": case.mask, "allowed": allowed, "counted": counted}
    function = weighted(*DIFFERENTIABLE) if BACKEND == "jax" else weighted(name)
    with precision(dtype):
        found = gradients(function, case.parts(dtype), fixed)

    kind = type(oracles[0].expected_counts())
    rows = [
        kind(*gradient_of(name, oracle, w, a))
        if oracle.log_partition() > -np.inf and (c or name != "log_prob_partial")
        else None
        for oracle, w, a, c in zip(oracles, weight, allowed, counted, strict=True)
    ]
    for part, expected in case.counts(rows).items():
        assert found[part].dtype == dtype
        # Weights, of which there are as many as counts, are up to 2.
        np.testing.assert_allclose(
            found[part], expected, rtol=0, atol=8 * tolerance(case, dtype), err_msg=part
        )
        unused = getattr(case, part) == -np.inf
        np.testing.assert_array_equal(found[part][unused], 0, err_msg=f"forbidden {part}")


@pytest.mark.full
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_is_computed_in_float32(dtype):
    """Half-precision scores are widened first: each quantity is that of the widened scores."""
    random = drawn.generator(0)
    emissions = ops.cast(random.normal(size=(2, 4, 3)) * 4, dtype)
    transitions = ops.cast(random.normal(size=(3, 3)), dtype)
    half = LinearChain(emissions, transitions)
    wide = LinearChain(ops.cast(emissions, "float32"), ops.cast(transitions, "float32"))
    allowed = random.random((2, 4, 3)) < 0.7
    for quantity in (
        lambda chain: chain.marginals(),
        lambda chain: chain.pairwise_marginals(),
        lambda chain: chain.entropy(),
        lambda chain: chain.log_prob_partial(allowed),
        lambda chain: chain.top_k(2)[1],
    ):
        ours, theirs = quantity(half), quantity(wide)
        assert keras.backend.standardize_dtype(ours.dtype) == "float32"
        np.testing.assert_array_equal(numpy(ours), numpy(theirs))
    np.testing.assert_array_equal(numpy(half.sample(4, seed=1)), numpy(wide.sample(4, seed=1)))


@pytest.mark.full
@pytest.mark.parametrize("mask", [None, np.ones((0, 3), bool)])
def test_empty_batch(mask):
    """No examples, no results, no errors."""
    chain = LinearChain(np.zeros((0, 3, 2), "float32"), np.zeros((2, 2), "float32"), mask=mask)
    tags, scores = chain.top_k(2)
    shapes = {
        (0, 3, 2): [chain.marginals()],
        (0, 2, 2, 2): [chain.pairwise_marginals()],
        (0,): [chain.entropy(), chain.log_prob_partial(np.ones((0, 3, 2), bool))],
        (0, 2, 3): [tags],
        (0, 2): [scores],
        (4, 0, 3): [chain.sample(4)],
    }
    for shape, found in shapes.items():
        assert [tuple(x.shape) for x in found] == [shape] * len(found)


def small_chain(batch):
    """Two tags over three positions, with very unequal shares."""
    emissions = np.array([[1.0, 0.0], [0.0, 0.5], [-1.0, 0.0]], "float32")
    transitions = np.array([[0.5, -1.0], [-np.inf, 1.0]], "float32")
    shared = {"transitions": transitions, "start": np.array([0.0, 0.5], "float32")}
    chain = LinearChain(np.stack([emissions] * batch), **shared)
    return chain, EnumeratedChain(emissions, **shared)


@pytest.mark.full
def test_frequencies_of_samples():
    """Samples come as often as their probability says, and independently along the batch.

    By Hoeffding's inequality one of 64 frequencies is further off once in 10⁷ seeds.
    """
    chain, oracle = small_chain(2)
    n = 20_000
    found = numpy(chain.sample(n, seed=3))  # (n, 2, 3)
    both = found @ [4, 2, 1]  # the place of each sample among the sequences
    frequency = np.zeros((8, 8))
    np.add.at(frequency, (both[:, 0], both[:, 1]), 1 / n)
    share = probabilities(oracle)
    bound = np.sqrt(np.log(2 * 64 / 1e-7) / (2 * n))
    np.testing.assert_allclose(frequency, np.outer(share, share), rtol=0, atol=bound)
    np.testing.assert_array_equal(frequency[share == 0], 0)


@pytest.mark.full
def test_seeds():
    """An integer gives the same samples again, another one others; a generator moves on."""
    chain, _ = small_chain(1)
    first = numpy(chain.sample(50, seed=1))
    np.testing.assert_array_equal(numpy(chain.sample(50, seed=1)), first)
    assert (numpy(chain.sample(50, seed=2)) != first).any()
    assert (numpy(chain.sample(50)) != numpy(chain.sample(50))).any()
    generator = keras.random.SeedGenerator(1)
    drawn = [numpy(chain.sample(50, seed=generator)) for _ in range(2)]
    assert (drawn[0] != drawn[1]).any()
    again = keras.random.SeedGenerator(1)
    np.testing.assert_array_equal(numpy(chain.sample(50, seed=again)), drawn[0])
    assert numpy(chain.sample()).shape == (1, 1, 3)


@pytest.mark.full
def test_partial_labels_of_known_tags():
    """One allowed tag everywhere is the log-probability of these tags, anything where masked."""
    random = drawn.generator(0)
    emissions = random.normal(size=(3, 4, 3)).astype("float32")
    mask = np.array([[1, 1, 1, 1], [0, 1, 0, 1], [0, 0, 0, 0]], bool)
    chain = LinearChain(emissions, random.normal(size=(3, 3)).astype("float32"), mask=mask)
    tags = random.integers(0, 3, (3, 4))
    known = np.eye(3, dtype=bool)[tags]
    expected = numpy(chain.log_prob(tags))
    for junk in (False, True):
        allowed = np.where(mask[:, :, None], known, junk)
        found = numpy(chain.log_prob_partial(allowed))
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


CHAIN = LinearChain(np.zeros((2, 3, 4), "float32"), np.zeros((4, 4), "float32"))
MISTAKES = {
    "allowed of integers": (
        lambda: CHAIN.log_prob_partial(np.ones((2, 3, 4), "int32")),
        TypeError,
        r"`allowed` should be boolean.*allowed\.dtype=.*int32",
    ),
    "allowed of floats": (
        lambda: CHAIN.log_prob_partial(np.ones((2, 3, 4), "float32")),
        TypeError,
        r"`allowed` should be boolean.*allowed\.dtype=.*float32",
    ),
    "allowed like a mask": (
        lambda: CHAIN.log_prob_partial(np.ones((2, 3), bool)),
        ValueError,
        r"`allowed` should have shape \(batch, time, tags\), here \(2, 3, 4\).*=\(2, 3\)",
    ),
    "allowed of other tags": (
        lambda: CHAIN.log_prob_partial(np.ones((2, 3, 3), bool)),
        ValueError,
        r"`allowed` should have shape.*allowed\.shape=\(2, 3, 3\)",
    ),
    "allowed of no positions": (
        lambda: CHAIN.log_prob_partial(np.ones((2, 0, 4), bool)),
        ValueError,
        r"`allowed` should have shape.*allowed\.shape=\(2, 0, 4\)",
    ),
    "allowed for one example": (
        lambda: CHAIN.log_prob_partial(np.ones((1, 3, 4), bool)),
        ValueError,
        r"`allowed` should have shape.*allowed\.shape=\(1, 3, 4\)",
    ),
    "k = 0": (lambda: CHAIN.top_k(0), ValueError, r"`k` should be a positive.*Received: k=0"),
    "k = −1": (lambda: CHAIN.top_k(-1), ValueError, r"`k` should be a positive.*k=-1"),
    "k = 2.0": (lambda: CHAIN.top_k(2.0), ValueError, r"`k` should be a positive.*k=2\.0"),
    "k = True": (lambda: CHAIN.top_k(True), ValueError, r"`k` should be a positive.*k=True"),
    "n = 0": (lambda: CHAIN.sample(0), ValueError, r"`n` should be a positive.*Received: n=0"),
    "n = True": (lambda: CHAIN.sample(True), ValueError, r"`n` should be a positive.*n=True"),
    "n = None": (lambda: CHAIN.sample(None), ValueError, r"`n` should be a positive.*n=None"),
}


@pytest.mark.parametrize(("call", "error", "message"), MISTAKES.values(), ids=MISTAKES)
def test_mistakes(call, error, message):
    """What is wrong is named, with what was received."""
    with pytest.raises(error, match=f"(?s){message}"):
        call()


@pytest.mark.full
def test_counts_may_be_numpy_integers():
    """Numbers that come out of arrays are integers, too."""
    assert CHAIN.top_k(np.int64(2))[1].shape == (2, 2)
    assert CHAIN.sample(np.int32(2)).shape == (2, 2, 3)
