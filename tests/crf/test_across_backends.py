"""A model saved under one backend predicts the same under another, and learns on."""

import keras
import numpy as np
import pytest
from keras import ops

from finegrain.crf import decode

BACKENDS = ["jax", "torch", "tensorflow"]
SAVE = """
import sys
import drawn, keras, numpy as np
from finegrain.crf import decode
from crf.models import tagger, task

drawn.seed_keras(7)
tokens, _ = task(8)
model = tagger(transitions_initializer="random_normal")
model.save(f"{sys.argv[1]}/model.keras")
potentials = model.predict(tokens, verbose=0)
tags = keras.ops.convert_to_numpy(decode(potentials))
np.savez(f"{sys.argv[1]}/results.npz", tokens=tokens, potentials=potentials, tags=tags)
"""


TRAIN = """
import sys
import drawn, keras, numpy as np
import finegrain as fg
from crf.models import TAGS, WORDS, task

drawn.seed_keras(7)
tokens, tags = task(16)
inputs = keras.Input((None,), dtype="int32")
# Not an embedding: of its sparse gradients Keras's Adam makes something else on TensorFlow.
hidden = keras.layers.Dense(8)(keras.ops.one_hot(inputs, WORDS + 1))
hidden = keras.layers.Bidirectional(keras.layers.LSTM(8, return_sequences=True))(hidden)
crf = fg.layers.CRF(TAGS, constraints=np.ones((TAGS, TAGS), bool), name="tags")
outputs = {
    "tags": crf(hidden, mask=keras.ops.not_equal(inputs, 0)),
    "first": keras.layers.Dense(1, name="first")(hidden[:, 2]),
}
model = keras.Model(inputs, outputs)
scheme = fg.tagging.BIO(["X"])
model.compile(
    fg.PerWeight(keras.optimizers.Adam(0.01), [fg.Rule("tags", learning_rate_multiplier=10.0)]),
    loss={"tags": fg.losses.CRFNegativeLogLikelihood(), "first": "mse"},
    metrics={"tags": [fg.metrics.ViterbiAccuracy(), fg.metrics.SpanF1(scheme)]},
)
targets = {"tags": tags, "first": tags[:, :1].astype("float32")}
model.fit(tokens, targets, batch_size=4, epochs=2, shuffle=False, verbose=0)
model.save(f"{sys.argv[1]}/model.keras")
model.fit(tokens, targets, batch_size=4, shuffle=False, verbose=0)
weights = [keras.ops.convert_to_numpy(weight) for weight in model.weights]
np.savez(f"{sys.argv[1]}/results.npz", tokens, *targets.values(), *weights)
"""


@pytest.mark.full
@pytest.mark.parametrize("other", BACKENDS)
def test_model_of_another_backend(other, tmp_path, elsewhere):
    """What another process saved loads here: same potentials, same tags."""
    elsewhere(other, SAVE, tmp_path)
    model = keras.models.load_model(tmp_path / "model.keras")
    results = np.load(tmp_path / "results.npz")
    potentials = model.predict(results["tokens"], verbose=0)
    np.testing.assert_allclose(potentials, results["potentials"], rtol=0, atol=1e-5)
    np.testing.assert_array_equal(ops.convert_to_numpy(decode(potentials)), results["tags"])


@pytest.mark.full
@pytest.mark.parametrize("other", BACKENDS)
def test_training_goes_on_from_another_backend(other, tmp_path, elsewhere):
    """A model of two outputs, its optimizer and metrics: the next epoch is the same here."""
    elsewhere(other, TRAIN, tmp_path)
    model = keras.models.load_model(tmp_path / "model.keras")
    tokens, tags, first, *weights = np.load(tmp_path / "results.npz").values()
    targets = {"tags": tags, "first": first}
    model.jit_compile = False  # A model from JAX says true, and PyTorch's compiler takes a minute.
    history = model.fit(tokens, targets, batch_size=4, shuffle=False, verbose=0).history
    assert {"tags_viterbi_accuracy", "tags_span_f1"} <= history.keys()
    for weight, expected in zip(model.weights, weights, strict=True):
        found = ops.convert_to_numpy(weight)
        np.testing.assert_allclose(found, expected, rtol=0, atol=2e-4, err_msg=weight.path)
