"""LinearChain where the answer is known in closed form, in half precision, and when misused."""

import keras
import numpy as np
import pytest
from keras import ops

import drawn
from crf.autodiff import gradients
from finegrain.crf import LinearChain

numpy = ops.convert_to_numpy
random = drawn.generator(0)


def normal(*shape):
    return random.normal(size=shape).astype("float32")


def zeros(*shape):
    return np.zeros(shape, "float32")


@pytest.mark.full
def test_all_scores_zero():
    """Every sequence of n valid positions has probability K^-n."""
    mask = np.array([[1, 1, 1, 1], [0, 1, 0, 1], [0, 0, 0, 0]], bool)
    chain = LinearChain(zeros(3, 4, 3), zeros(3, 3), mask=mask)
    expected = np.log(3) * mask.sum(1)
    np.testing.assert_allclose(numpy(chain.log_partition()), expected, rtol=1e-6)
    tags = random.integers(0, 3, (3, 4))
    np.testing.assert_allclose(numpy(chain.log_prob(tags)), -expected, rtol=1e-6)


@pytest.mark.full
def test_one_tag():
    """With one tag there is one sequence: probability 1, and all scores in the log-partition."""
    emissions, transitions, start, end = normal(2, 5, 1), normal(1, 1), normal(1), normal(1)
    chain = LinearChain(emissions, transitions, start=start, end=end)
    tags = np.zeros((2, 5), "int32")
    expected = emissions.sum((1, 2)) + 4 * transitions[0, 0] + start[0] + end[0]
    np.testing.assert_allclose(numpy(chain.log_partition()), expected, rtol=1e-5)
    np.testing.assert_allclose(numpy(chain.log_prob(tags)), 0, atol=1e-5)
    np.testing.assert_array_equal(numpy(chain.mode()[0]), tags)


@pytest.mark.full
def test_one_position():
    """A single position is a softmax over emission + start + end; transitions play no part."""
    emissions, start, end = normal(2, 1, 3), normal(3), normal(3)
    chain = LinearChain(emissions, np.full((3, 3), np.nan, "float32"), start=start, end=end)
    scores = emissions[:, 0] + start + end
    expected = scores[:, 1] - np.log(np.exp(scores).sum(1))
    np.testing.assert_allclose(numpy(chain.log_prob(np.array([[1], [1]]))), expected, rtol=1e-5)
    np.testing.assert_array_equal(numpy(chain.mode()[0])[:, 0], scores.argmax(1))


@pytest.mark.full
def test_independent_positions():
    """Without transitions and boundaries each position is a softmax of its own."""
    emissions, tags = normal(2, 5, 3), random.integers(0, 3, (2, 5))
    chain = LinearChain(emissions, zeros(3, 3))
    log_softmax = emissions - np.log(np.exp(emissions).sum(2, keepdims=True))
    expected = np.take_along_axis(log_softmax, tags[:, :, None], axis=2).sum((1, 2))
    np.testing.assert_allclose(numpy(chain.log_prob(tags)), expected, rtol=1e-5)
    np.testing.assert_array_equal(numpy(chain.mode()[0]), emissions.argmax(2))


@pytest.mark.full
def test_disconnected_chains():
    """Two pairs of tags that never meet: the sum of two chains, 300 nats apart and still seen."""
    transitions = np.full((4, 4), -np.inf, "float32")
    transitions[:2, :2] = transitions[2:, 2:] = 0
    emissions = zeros(2, 4, 4)
    emissions[1, 0, :2] = 300  # the first pair leads by 300 …
    emissions[1, 3, 2:] = 300  # … and the second has caught up at the end
    chain = LinearChain(emissions, transitions)
    expected = [np.log(32), np.log(32) + 300]
    np.testing.assert_allclose(numpy(chain.log_partition()), expected, rtol=1e-6)
    tags = np.array([[0, 1, 0, 1], [0, 1, 0, 2]])
    np.testing.assert_allclose(numpy(chain.log_prob(tags)), [-np.log(32), -np.inf], rtol=1e-5)


@pytest.mark.full
def test_all_transitions_forbidden():
    """Only sequences of one position are possible; the others are impossible, never NaN."""
    mask = np.array([[1, 1, 1], [0, 1, 0], [0, 0, 0]], bool)
    parts = {"emissions": zeros(3, 3, 2), "transitions": np.full((2, 2), -np.inf, "float32")}
    tags = np.zeros((3, 3), "int32")
    chain = LinearChain(**parts, mask=mask)
    np.testing.assert_allclose(numpy(chain.log_partition()), [-np.inf, np.log(2), 0], rtol=1e-6)
    np.testing.assert_allclose(numpy(chain.log_prob(tags)), [-np.inf, -np.log(2), 0], rtol=1e-6)
    found, score = map(numpy, chain.mode())
    np.testing.assert_array_equal(found == -1, ~mask)
    np.testing.assert_array_equal(score, [-np.inf, 0, 0])


def partition_of_all(parts, fixed):
    return ops.sum(LinearChain(**parts, mask=fixed["mask"]).log_partition()[1:])


def test_impossible_neighbour_leaves_gradients_alone():
    """An example without possible sequences does not spoil the gradients of its batch."""
    parts = {"emissions": zeros(3, 3, 2), "transitions": np.full((2, 2), -np.inf, "float32")}
    mask = np.array([[1, 1, 1], [0, 1, 0], [0, 0, 0]], bool)
    found = gradients(partition_of_all, parts, {"mask": mask})
    expected = zeros(3, 3, 2)
    expected[1, 1] = 0.5
    np.testing.assert_allclose(found["emissions"], expected, rtol=1e-6)
    np.testing.assert_array_equal(found["transitions"], zeros(2, 2))


def leaving_padding(parts, fixed):
    chain = LinearChain(zeros(1, 3, 2), parts["transitions"], mask=fixed["mask"])
    return ops.sum(chain.log_partition())


@pytest.mark.parametrize("junk", [np.nan, np.inf])
def test_junk_in_transitions_out_of_padding(junk):
    """A step from padding into the chain's first position has no gradient, whatever is there."""
    transitions = zeros(1, 2, 2, 2)
    transitions[0, 0] = junk
    mask = np.array([[False, True, True]])
    found = gradients(leaving_padding, {"transitions": transitions}, {"mask": mask})["transitions"]
    np.testing.assert_array_equal(found[0, 0], zeros(2, 2))
    np.testing.assert_allclose(found[0, 1], np.full((2, 2), 0.25), rtol=1e-6)


def impossible_tags(parts, fixed):
    return ops.sum(LinearChain(zeros(1, 2, 2), parts["transitions"]).log_prob(fixed["tags"]))


def test_forbidden_transition_of_impossible_tags_gets_no_gradient():
    """What is forbidden has gradient exactly zero, also where the tags use it."""
    transitions = np.array([[-np.inf, 0], [0, 0]], "float32")
    found = gradients(impossible_tags, {"transitions": transitions}, {"tags": np.array([[0, 0]])})
    assert found["transitions"][0, 0] == 0


@pytest.mark.full
def test_shift_of_emissions_changes_nothing():
    """A constant on all tags of a position, be it 10⁴, drops out of the log-probability."""
    emissions = np.round(normal(2, 4, 3) * 64) / 64
    transitions, tags = normal(3, 3), random.integers(0, 3, (2, 4))
    shift = np.array([1e4, -1e4, 5e3, 0], "float32")[None, :, None]
    log_prob = numpy(LinearChain(emissions, transitions).log_prob(tags))
    shifted = numpy(LinearChain(emissions + shift, transitions).log_prob(tags))
    np.testing.assert_array_equal(log_prob, shifted)


@pytest.mark.full
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_is_computed_in_float32(dtype):
    """Half-precision scores are widened first: values and gradient as of the widened scores."""
    emissions = ops.cast(normal(2, 40, 3) * 8, dtype)
    transitions, tags = ops.cast(normal(3, 3), dtype), random.integers(0, 3, (2, 40))
    half = LinearChain(emissions, transitions).log_prob(tags)
    assert keras.backend.standardize_dtype(half.dtype) == "float32"
    wide = LinearChain(ops.cast(emissions, "float32"), ops.cast(transitions, "float32"))
    np.testing.assert_array_equal(numpy(half), numpy(wide.log_prob(tags)))


EMISSIONS, SQUARE, TAGS = zeros(2, 3, 4), zeros(4, 4), np.zeros((2, 3), "int32")
MASK = np.ones((2, 3), bool)
MISTAKES = {
    "emissions of integers": (
        lambda: LinearChain(EMISSIONS.astype("int32"), SQUARE),
        TypeError,
        r"`emissions` should be floating point.*emissions\.dtype=int32",
    ),
    "emissions of one example": (
        lambda: LinearChain(EMISSIONS[0], SQUARE),
        ValueError,
        r"`emissions` should have shape \(batch, time, tags\).*\(3, 4\)",
    ),
    "transitions of other tags": (
        lambda: LinearChain(EMISSIONS, zeros(3, 3)),
        ValueError,
        r"`transitions` should have shape.*\(4, 4\).*transitions\.shape=\(3, 3\)",
    ),
    "a step of transitions too many": (
        lambda: LinearChain(EMISSIONS, zeros(2, 3, 4, 4)),
        ValueError,
        r"\(batch, time - 1, tags, tags\).*\(2, 2, 4, 4\).*transitions\.shape=\(2, 3, 4, 4\)",
    ),
    "transitions of rank 3": (
        lambda: LinearChain(EMISSIONS, zeros(2, 4, 4)),
        ValueError,
        r"`transitions` should have shape.*transitions\.shape=\(2, 4, 4\)",
    ),
    "start of other tags": (
        lambda: LinearChain(EMISSIONS, SQUARE, start=zeros(3)),
        ValueError,
        r"`start` should have shape.*start\.shape=\(3,\)",
    ),
    "end for each example": (
        lambda: LinearChain(EMISSIONS, SQUARE, end=zeros(2, 4)),
        ValueError,
        r"`end` should have shape.*end\.shape=\(2, 4\)",
    ),
    "a mask of integers": (
        lambda: LinearChain(EMISSIONS, SQUARE, mask=MASK.astype("int32")),
        TypeError,
        r"`mask` should be boolean \(compare numbers first.*mask\.dtype=.*int32",
    ),
    "a mask of floats": (
        lambda: LinearChain(EMISSIONS, SQUARE, mask=MASK.astype("float32")),
        TypeError,
        r"`mask` should be boolean.*mask\.dtype=.*float32",
    ),
    "a mask of another length": (
        lambda: LinearChain(EMISSIONS, SQUARE, mask=MASK[:, :2]),
        ValueError,
        r"`mask` should have shape \(batch, time\), here \(2, 3\).*mask\.shape=\(2, 2\)",
    ),
    "a mask with an axis too many": (
        lambda: LinearChain(EMISSIONS, SQUARE, mask=MASK[:, :, None]),
        ValueError,
        r"`mask` should have shape.*mask\.shape=\(2, 3, 1\)",
    ),
    "tags of floats": (
        lambda: LinearChain(EMISSIONS, SQUARE).score(TAGS.astype("float32")),
        TypeError,
        r"`tags` should be integers.*tags\.dtype=.*float32",
    ),
    "tags of booleans": (
        lambda: LinearChain(EMISSIONS, SQUARE).log_prob(MASK),
        TypeError,
        r"`tags` should be integers.*tags\.dtype=.*bool",
    ),
    "tags of another length": (
        lambda: LinearChain(EMISSIONS, SQUARE).log_prob(TAGS[:, :2]),
        ValueError,
        r"`tags` should have shape \(batch, time\), here \(2, 3\).*tags\.shape=\(2, 2\)",
    ),
    "tags one-hot": (
        lambda: LinearChain(EMISSIONS, SQUARE).score(np.zeros((2, 3, 4), "int32")),
        ValueError,
        r"`tags` should have shape.*tags\.shape=\(2, 3, 4\)",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_named(mistake):
    """Wrong arguments fail at once and are told what was expected and what came."""
    wrong, error, message = MISTAKES[mistake]
    with pytest.raises(error, match=f"(?s){message}"):
        wrong()


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int32", "int64"])
def test_any_integer_type_of_tags(dtype):
    """Tags may be integers of any width."""
    tags = np.array([[1, 0, 3], [2, 3, 0]])
    chain = LinearChain(EMISSIONS, np.arange(16, dtype="float32").reshape(4, 4))
    np.testing.assert_array_equal(numpy(chain.score(tags.astype(dtype))), [4 + 3, 11 + 12])


@pytest.mark.parametrize("per_step", [False, True])
def test_nothing_moves_an_impossible_chain(per_step):
    """Where all transitions are forbidden the log-partition is −inf, and its gradient zero."""
    shape = (1, 2, 2, 2) if per_step else (2, 2)
    parts = {
        "emissions": np.zeros((1, 3, 2), "float32"),
        "transitions": np.full(shape, -np.inf, "float32"),
        "start": np.zeros(2, "float32"),
        "end": np.zeros(2, "float32"),
    }
    found = gradients(lambda scores, _: ops.sum(LinearChain(**scores).log_partition()), parts, {})
    for name, slope in found.items():
        np.testing.assert_array_equal(slope, np.zeros_like(slope), err_msg=name)


@pytest.mark.selected("start-156.25", "end-10000.0", "transitions-1e+30")
@pytest.mark.parametrize("lead", [10.0, 156.25, 1e4, 1e30])
@pytest.mark.parametrize("part", ["start", "end", "transitions"])
def test_what_is_far_behind_is_pulled_up(part, lead):
    """The gradient pulls a possible tag up from any distance, also where its share rounds to 0."""
    parts = {
        "emissions": np.zeros((1, 2, 2), "float32"),
        "transitions": np.zeros((2, 2), "float32"),
        "start": np.zeros(2, "float32"),
        "end": np.zeros(2, "float32"),
    }
    behind = (1, 1) if part == "transitions" else 1
    parts[part][behind] = -lead
    tags = np.array([[1, 1]])
    found = gradients(lambda scores, _: ops.sum(LinearChain(**scores).log_prob(tags)), parts, {})
    share = np.exp(-lead) / (np.exp(-lead) + (3 if part == "transitions" else 1))
    np.testing.assert_allclose(found[part][behind], 1 - share, rtol=1e-5)
