"""LinearChain under the compilers of the backends, and over long sequences."""

import numpy as np
import pytest
from keras import ops

import drawn
from crf.autodiff import BACKEND, gradients
from finegrain.crf import LinearChain
from oracle import EnumeratedChain, forward_backward

TAGS = 3


def everything(emissions, transitions, start, end, mask, tags):
    """All values, as a compiled function would give them."""
    chain = LinearChain(emissions, transitions, start=start, end=end, mask=mask)
    best, score = chain.mode()
    return chain.score(tags), chain.log_partition(), chain.log_prob(tags), best, score


def eager(batch_time):
    return everything


def compiled(batch_time):
    """By the backend's compiler, for known shapes."""
    if BACKEND == "jax":
        import jax

        return jax.jit(everything)
    if BACKEND == "torch":
        pytest.skip("PyTorch runs eagerly")
    import tensorflow as tf

    return tf.function(everything, jit_compile=True)


def unknown_shape(batch_time):
    """A TensorFlow graph that knows neither batch nor time."""
    if BACKEND != "tensorflow":
        pytest.skip("only TensorFlow compiles for unknown shapes")
    import tensorflow as tf

    return tf.function(everything, input_signature=_signature(tf, (None, None)))


def unknown_shape_by_xla(batch_time):
    """The same by XLA, which sees the shapes when the function is called."""
    if BACKEND != "tensorflow":
        pytest.skip("only TensorFlow compiles for unknown shapes")
    import tensorflow as tf

    signature = _signature(tf, (None, None))
    return tf.function(everything, jit_compile=True, input_signature=signature)


def _signature(tf, shape):
    return [
        tf.TensorSpec((*shape, TAGS), "float32"),
        tf.TensorSpec((TAGS, TAGS), "float32"),
        tf.TensorSpec((TAGS,), "float32"),
        tf.TensorSpec((TAGS,), "float32"),
        tf.TensorSpec(shape, "bool"),
        tf.TensorSpec(shape, "int32"),
    ]


@pytest.mark.selected("compiled" if BACKEND == "jax" else "unknown_shape_by_xla")
@pytest.mark.parametrize("mode", [eager, compiled, unknown_shape, unknown_shape_by_xla])
def test_every_mode_gives_the_oracles_results(mode):
    """Eager, compiled, and compiled before the shape is known: the same numbers."""
    random = drawn.generator(0)
    function = None
    for shape in [(3, 4), (2, 1)]:
        function = function or mode(shape)
        scores = [
            random.integers(-20, 20, size).astype("float32") / 8
            for size in [(*shape, TAGS), (TAGS, TAGS), TAGS, TAGS]
        ]
        scores[1][0, 1] = -np.inf
        mask, tags = random.random(shape) < 0.7, random.integers(0, TAGS, shape)
        scores[0][~mask] = np.nan
        tags[~mask] = -100
        outputs = function(*map(ops.convert_to_tensor, (*scores, mask, tags.astype("int32"))))
        score, partition, log_prob, best, best_score = map(ops.convert_to_numpy, outputs)
        emissions, *shared = scores
        chains = [EnumeratedChain(e, *shared, m) for e, m in zip(emissions, mask, strict=True)]
        for i, chain in enumerate(chains):
            assert score[i] == chain.score(tags[i])
            np.testing.assert_allclose(partition[i], chain.log_partition(), rtol=1e-5)
            np.testing.assert_allclose(log_prob[i], chain.log_prob(tags[i]), rtol=1e-4, atol=1e-5)
            assert chain.score(best[i]) == chain.best_score() == best_score[i]
            np.testing.assert_array_equal(best[i] == -1, ~mask[i])


def total_log_prob(parts, fixed):
    return ops.sum(LinearChain(**parts).log_prob(fixed["tags"]))


# About four times the largest errors measured on the three backends: 4.2e-4 (of a log-probability
# near -2900), 2.4e-5 and 1.2e-3 (of counts up to some hundreds). Start and end are marginals too.
BOUNDS = {"log_prob": 2e-3, "emissions": 1e-4, "transitions": 5e-3, "start": 1e-4, "end": 1e-4}


@pytest.mark.full
def test_long_sequences_in_float32():
    """512 positions: rounding in float32 stays far below what training would notice."""
    random = drawn.generator(0)
    sizes = {"emissions": (4, 512, 4), "transitions": (4, 4), "start": 4, "end": 4}
    parts = {name: random.normal(size=size).astype("float32") for name, size in sizes.items()}
    parts["emissions"] *= 2
    tags = random.integers(0, 4, (4, 512)).astype("int32")

    log_prob = LinearChain(**parts).log_prob(tags)
    found = gradients(total_log_prob, parts, {"tags": tags})

    emissions, *shared = (part.astype("float64") for part in parts.values())
    total = np.zeros(4)
    expected = {name: np.zeros(part.shape) for name, part in parts.items()}
    for i in range(4):
        partition, mean = forward_backward(emissions[i], *shared)
        transitions, start, end = shared
        steps = emissions[i, np.arange(512), tags[i]].sum()
        links = transitions[tags[i, :-1], tags[i, 1:]].sum()
        total[i] = steps + links + start[tags[i, 0]] + end[tags[i, -1]] - partition
        expected["emissions"][i] = np.eye(4)[tags[i]] - mean.emissions
        np.add.at(expected["transitions"], (tags[i, :-1], tags[i, 1:]), 1)
        expected["transitions"] -= mean.transitions
        expected["start"] += np.eye(4)[tags[i, 0]] - mean.start
        expected["end"] += np.eye(4)[tags[i, -1]] - mean.end
    errors = {name: np.abs(found[name] - expected[name]).max() for name in parts}
    errors["log_prob"] = np.abs(ops.convert_to_numpy(log_prob) - total).max()
    assert all(errors[name] < bound for name, bound in BOUNDS.items()), errors


@pytest.mark.skipif(BACKEND != "jax", reason="only JAX compiles what runs eagerly")
def test_what_runs_eagerly_is_compiled_once(caplog):
    """A second chain of the same shape compiles nothing: that took a second, and lost memory."""
    import jax

    def everything_else(seed):
        random = np.random.default_rng(drawn.seed(seed))
        emissions = random.normal(size=(2, 5, TAGS)).astype("float32")
        mask = random.random((2, 5)) < 0.7
        chain = LinearChain(emissions, np.ones((TAGS, TAGS), "float32"), mask=mask)
        tags, _ = chain.mode()
        chain.score(ops.maximum(tags, 0))
        chain.log_prob(ops.maximum(tags, 0))
        chain.log_prob_partial(emissions > -1)
        chain.log_partition()
        chain.marginals()
        chain.pairwise_marginals()
        chain.entropy()
        chain.top_k(2)
        chain.sample(3, seed=seed)

    everything_else(0)
    with jax.log_compiles():
        everything_else(1)
        assert not [line for line in caplog.messages if line.startswith("Compiling")]
        jax.jit(lambda x: x + 1)(1.0)
    assert [line for line in caplog.messages if line.startswith("Compiling")]
