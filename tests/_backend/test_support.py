"""Backends that finegrain has no kernels for: all that `keras.ops` can do, and clear errors."""

import numpy as np
import pytest

from finegrain._backend import neutral
from finegrain._backend.support import WITH_KERNELS

CHAINS = """
import numpy as np
import finegrain as fg
from oracle import EnumeratedChain

rng = np.random.default_rng(0)
tags = 3
for per_step in (False, True):
    shape = (2, 3, tags, tags) if per_step else (tags, tags)
    emissions, transitions = rng.normal(size=(2, 4, tags)), rng.normal(size=shape)
    start, end = rng.normal(size=(2, tags))
    mask = np.array([[True, True, True, True], [False, True, False, True]])
    if per_step:
        mask[:] = True
    chain = fg.crf.LinearChain(emissions, transitions, start=start, end=end, mask=mask)
    best, best_score = chain.mode()
    several, _ = chain.top_k(2)
    np.testing.assert_array_equal(several[:, 0], best)
    assert chain.sample(2, seed=1).shape == (2, 2, 4)
    assert chain.pairwise_marginals().shape == (2, 3, tags, tags)
    for row in range(2):
        moves = transitions[row] if per_step else transitions
        expected = EnumeratedChain(emissions[row], moves, start, end, mask[row])
        total, scores = expected.log_partition(), expected.scores
        found = {
            "score": chain.score(best)[row],
            "best": best_score[row],
            "total": chain.log_partition()[row],
            "log_prob": chain.log_prob(best)[row],
            "any": chain.log_prob_partial(np.ones((2, 4, tags), bool))[row],
            "entropy": chain.entropy()[row],
        }
        right = {
            "score": expected.best_score(),
            "best": expected.best_score(),
            "total": total,
            "log_prob": expected.best_score() - total,
            "any": 0.0,
            "entropy": -np.sum(np.exp(scores - total) * (scores - total)),
        }
        for name in right:
            np.testing.assert_allclose(found[name], right[name], atol=1e-6, err_msg=name)
        np.testing.assert_allclose(
            chain.marginals()[row], expected.expected_counts().emissions, atol=1e-6
        )
"""

MODELS = """
import sys
import keras, numpy as np
import finegrain as fg

x = keras.Input((3,), dtype="int32")
features = keras.layers.Embedding(10, 8, mask_zero=True)(x)
features = fg.routing.scale_gradient(features, 0.5)
tagger = keras.Model(x, fg.layers.CRF(4, name="crf", constraints=fg.tagging.BMES())(features))
inputs, labels = np.array([[3, 5, 0], [2, 4, 1]]), np.array([[0, 0, -1], [1, 2, 3]])
rules = [fg.Rule("crf", learning_rate_multiplier=100.0), fg.Rule("embedding", trainable=False)]
tagger.compile(
    fg.PerWeight("adam", rules),
    loss=fg.losses.CRFNegativeLogLikelihood(),
    metrics=[fg.metrics.ViterbiAccuracy(), fg.metrics.SpanF1(fg.tagging.BMES())],
)
assert np.isfinite(tagger.evaluate(inputs, labels, verbose=0, return_dict=True)["loss"])
potentials = tagger.predict(inputs, verbose=0)
assert (fg.crf.decode(potentials)[:, :2] >= 0).all()
assert "crf" in str(tagger.optimizer.describe(tagger))
tagger.save(sys.argv[1])
again = keras.models.load_model(sys.argv[1])
np.testing.assert_array_equal(again.predict(inputs, verbose=0), potentials)
assert len(fg.layer_decay(tagger, 0.9)) > 0

frozen = fg.routing.constant_weights(keras.layers.Dense(2, kernel_initializer="ones"))
np.testing.assert_array_equal(frozen(np.ones((1, 3), "float32")), [[3.0, 3.0]])
rounded = fg.routing.straight_through(np.array([2.0, np.inf]), np.zeros(2, "float32"))
np.testing.assert_array_equal(rounded, [2.0, np.inf])

# Keras has no gradients here. Those that are given move the weights as anywhere.
weights = tagger.trainable_variables
before = [np.array(weight) for weight in weights]
optimizer = fg.PerWeight(keras.optimizers.SGD(0.5), rules)
optimizer.apply([np.full(weight.shape, 0.25, "float32") for weight in weights], weights)
for weight, old in zip(weights, before, strict=True):
    moved = 0.0 if "embedding" in weight.path else 12.5
    np.testing.assert_allclose(np.array(weight), old - moved, rtol=1e-6)

def message_of(train):
    try:
        train()
    except NotImplementedError as error:
        return str(error)
    raise AssertionError("Keras trains on NumPy by now: make more of it")

assert "NumPy" in message_of(lambda: tagger.fit(inputs, labels, verbose=0))
message = message_of(lambda: fg.tagging.Segmenter().fit([["the", "dog"], ["a", "cat"]]))
assert message.startswith("Training works on the backends jax, torch and tensorflow."), message
"""


@pytest.mark.one_backend
def test_chains_on_numpy(elsewhere):
    """All quantities of a chain, against the enumeration of all tag sequences."""
    elsewhere("numpy", CHAINS)


@pytest.mark.one_backend
def test_models_and_rules_on_numpy(elsewhere, tmp_path):
    """A tagger predicts, is measured, described and saved; given gradients move its weights."""
    elsewhere("numpy", MODELS, tmp_path / "tagger.keras")


@pytest.mark.parametrize(
    "use",
    [
        lambda: neutral.straight_through(np.ones(1), np.ones(1)),
        lambda: neutral.gradient(lambda x: (x, None), np.ones(1)),
    ],
)
def test_what_lacks_a_kernel_names_the_backends(use, backend):
    with pytest.raises(NotImplementedError) as caught:
        use()
    for name in WITH_KERNELS:
        assert name in str(caught.value)
    assert f"Received: KERAS_BACKEND={backend}" in str(caught.value)
