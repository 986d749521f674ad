"""LinearChain against the enumeration of all tag sequences."""

import numpy as np
import pytest
from hypothesis import given, settings
from keras import ops

from crf.autodiff import BACKEND, EPSILON, evaluate, gradients, precision
from crf.chains import Case, cases
from finegrain.crf import LinearChain

few = settings(max_examples=30 if BACKEND == "torch" else 15)  # others compile for each shape
# JAX has to be told to compute in float64, and compiles everything a second time then.
either_dtype = pytest.mark.parametrize("dtype", ["float32", "float64"])
dtypes_at_hand = pytest.mark.parametrize(
    "dtype", ["float32"] if BACKEND == "jax" else ["float32", "float64"]
)


def quantities(parts, fixed):
    """All values at once, so that JAX compiles once for all tests of them."""
    chain = LinearChain(**parts, mask=fixed["mask"])
    return {
        "score": chain.score(fixed["tags"]),
        "log_partition": chain.log_partition(),
        "log_prob": chain.log_prob(fixed["tags"]),
        "mode": chain.mode(),
    }


# A sum over the examples that count is something to differentiate.
def total_score(parts, fixed):
    chain = LinearChain(**parts, mask=fixed["mask"])
    return total(chain.score(fixed["tags"]), fixed["counted"])


def total_log_partition(parts, fixed):
    chain = LinearChain(**parts, mask=fixed["mask"])
    return total(chain.log_partition(), fixed["counted"])


def total_log_prob(parts, fixed):
    chain = LinearChain(**parts, mask=fixed["mask"])
    return total(chain.log_prob(fixed["tags"]), fixed["counted"])


def total(values, counted):
    return ops.sum(ops.where(counted, values, ops.zeros_like(values)))


def run(how, function, case: Case, dtype, **fixed):
    with precision(dtype):
        return how(function, case.parts(dtype), {"mask": case.mask, "tags": case.tags} | fixed)


def tolerance(case: Case, dtype) -> float:
    """Rounding of sums as large as the chain's, above a floor of few digits."""
    return 4 * EPSILON[dtype] * case.magnitude() + {"float32": 1e-5, "float64": 1e-10}[dtype]


def assert_close(ours, theirs, case: Case, dtype):
    assert ours.dtype == dtype
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=tolerance(case, dtype))


@pytest.mark.full
@dtypes_at_hand
@few
@given(case=cases())
def test_score(dtype, case):
    """Scores of sequences are their sums; −inf where something forbidden is used."""
    expected = [chain.score(tags) for chain, tags in zip(case.oracles(), case.tags, strict=True)]
    assert_close(run(evaluate, quantities, case, dtype)["score"], expected, case, dtype)


@pytest.mark.selected("float32")
@dtypes_at_hand
@few
@given(case=cases())
def test_log_partition(dtype, case):
    """The log-partition is that of all sequences; 0 for an empty mask, −inf where none is left."""
    expected = [chain.log_partition() for chain in case.oracles()]
    assert_close(run(evaluate, quantities, case, dtype)["log_partition"], expected, case, dtype)


@pytest.mark.full
@dtypes_at_hand
@few
@given(case=cases())
def test_log_prob(dtype, case):
    """Log-probabilities are shares of the total, also where the tags or all tags are impossible."""
    expected = [chain.log_prob(tags) for chain, tags in zip(case.oracles(), case.tags, strict=True)]
    assert_close(run(evaluate, quantities, case, dtype)["log_prob"], expected, case, dtype)


@pytest.mark.selected("float32")
@dtypes_at_hand
@few
@given(case=cases())
def test_mode(dtype, case):
    """The mode is a sequence that none exceeds, to the last digit, with −1 where masked."""
    tags, scores = run(evaluate, quantities, case, dtype)["mode"]
    assert tags.dtype == np.int32
    assert tags.shape == case.tags.shape
    assert scores.dtype == dtype
    np.testing.assert_array_equal(tags == -1, ~case.valid())
    assert tags.max(initial=-1) < case.emissions.shape[2]
    for oracle, found, score_found in zip(case.oracles(), tags, scores, strict=True):
        assert oracle.score(found) == oracle.best_score() == score_found


@pytest.mark.selected("float32")
@either_dtype
@settings(max_examples=60)  # fewer miss a wrong count of one boundary
@given(case=cases(possible_tags=True))
def test_gradient_of_log_prob(dtype, case):
    """Counts less expected counts, exactly zero wherever nothing can be used."""
    pairs = list(zip(case.oracles(), case.tags, strict=True))
    possible = np.array([chain.log_prob(tags) > -np.inf for chain, tags in pairs])
    found = run(gradients, total_log_prob, case, dtype, counted=possible)
    rows = [
        chain.log_prob_gradient(tags) if counts else None
        for (chain, tags), counts in zip(pairs, possible, strict=True)
    ]
    assert_gradients(found, rows, case, dtype)


@pytest.mark.full
@dtypes_at_hand
@few
@given(case=cases())
def test_gradient_of_log_partition(dtype, case):
    """Expected counts; zero, not NaN, where no sequence is possible."""
    oracles = case.oracles()
    every = np.ones(len(oracles), bool)
    found = run(gradients, total_log_partition, case, dtype, counted=every)
    assert_gradients(found, [chain.expected_counts() for chain in oracles], case, dtype)


@pytest.mark.full
@few
@given(case=cases(possible_tags=True))
def test_gradient_of_score(case):
    """How often the sequence uses each score: whole numbers, met exactly."""
    pairs = list(zip(case.oracles(), case.tags, strict=True))
    possible = np.array([chain.score(tags) > -np.inf for chain, tags in pairs])
    found = run(gradients, total_score, case, "float32", counted=possible)
    rows = [
        chain.counts(tags) if counts else None
        for (chain, tags), counts in zip(pairs, possible, strict=True)
    ]
    for name, expected in case.counts(rows).items():
        np.testing.assert_array_equal(found[name], expected, err_msg=name)


def assert_gradients(found, rows, case: Case, dtype):
    expected = case.counts(rows)
    assert found.keys() == expected.keys()
    for name, gradient in found.items():
        assert gradient.dtype == dtype
        np.testing.assert_allclose(
            gradient, expected[name], rtol=0, atol=tolerance(case, dtype), err_msg=name
        )
        unused = ~np.isfinite(getattr(case, name))
        if name == "emissions":
            unused |= ~case.valid()[:, :, None]
        elif gradient.ndim == 4:
            unused |= ~case.linked()[:, :, None, None]
        np.testing.assert_array_equal(gradient[unused], 0.0, err_msg=f"unused {name}")


@pytest.mark.full
@few
@given(case=cases())
def test_impossible_tags_leave_no_nan(case):
    """Where the tags are impossible the gradient is finite, and none of it moves what is −inf."""
    every = np.ones(len(case.tags), bool)
    found = run(gradients, total_log_prob, case, "float32", counted=every)
    for name, gradient in found.items():
        assert np.isfinite(gradient).all(), name
        np.testing.assert_array_equal(gradient[getattr(case, name) == -np.inf], 0, err_msg=name)
