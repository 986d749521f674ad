"""Wrote the files beside it, with finegrain 0.1.0 on JAX: `KERAS_BACKEND=jax python make.py`.

Each model is saved in the middle of its training. `expected.npz` says what it predicts, and which
loss the next two epochs have.
"""

from __future__ import annotations

import sys
from pathlib import Path

import keras
import numpy as np

import finegrain as fg

HERE = Path(__file__).parent
RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(16, 3)).astype("float32")
Y = (X @ [[1.0], [-2.0], [0.5]]).astype("float32")
TOKENS = RANDOM.integers(1, 9, (8, 6)).astype("int32")
TAGS = (TOKENS % 5).astype("int32")


def dense(*optimizer: object) -> keras.Model:
    """A model of two layers; compiled, if there is an optimizer."""
    model = keras.Sequential(
        [
            keras.Input((3,)),
            keras.layers.Dense(4, "tanh", name="encoder"),
            keras.layers.Dense(1, name="head"),
        ]
    )
    if optimizer:
        model.compile(*optimizer, loss="mse")
    return model


def with_optimizer(optimizer: object) -> tuple[keras.Model, object, object]:
    """A model under that optimizer, and its data."""
    return dense(optimizer), X, Y


def rules() -> tuple[keras.Model, object, object]:
    """Rules of every kind."""
    schedule = keras.optimizers.schedules.CosineDecay(1e-2, 50)
    return with_optimizer(
        fg.PerWeight(
            keras.optimizers.Adam(1e-2, weight_decay=0.01, global_clipnorm=1.0),
            [
                fg.Rule("encoder", learning_rate_multiplier=0.1, weight_decay=0.0),
                fg.Rule("head/kernel", learning_rate=schedule, gradient=fg.gradients.ClipNorm(0.5)),
                fg.Rule("head/bias", optimizer=keras.optimizers.SGD(0.1, momentum=0.9)),
                fg.Rule("encoder/bias", trainable=False, name="held"),
            ],
            nonfinite="skip",
        )
    )


def exponentiated() -> tuple[keras.Model, object, object]:
    """Positive weights, which are multiplied."""
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1, name="head")])
    for weight in model.weights:
        weight.assign(np.ones(weight.shape))
    model.compile(fg.optimizers.ExponentiatedGradient(1e-2), "mse")
    return model, X, Y


def crf() -> tuple[keras.Model, object, object]:
    """A tagger with a CRF, its loss and both metrics."""
    tokens = keras.Input((6,), dtype="int32")
    features = keras.layers.Embedding(9, 4, mask_zero=True)(tokens)
    model = keras.Model(tokens, fg.layers.CRF(5, name="crf")(features))
    scheme = fg.tagging.BIO(["A", "B"])
    model.compile(
        fg.PerWeight("adam", [fg.Rule("crf/transitions", learning_rate_multiplier=10.0)]),
        fg.losses.CRFNegativeLogLikelihood(),
        metrics=[fg.metrics.ViterbiAccuracy(), fg.metrics.SpanF1(scheme)],
    )
    return model, TOKENS, TAGS


def routed() -> tuple[keras.Model, object, object]:
    """Operations on gradients inside a functional model, and the wrapper of layers."""
    inputs = keras.Input((3,))
    hidden = fg.layers.SetLearningRate(keras.layers.Dense(4, "tanh"), 2.0, adaptive=False)(inputs)
    hidden = fg.routing.reverse_gradient(hidden, 0.5)
    model = keras.Model(inputs, keras.layers.Dense(1)(fg.routing.straight_through(hidden, hidden)))
    model.compile("sgd", "mse")
    return model, X, Y


def gan(loss: str) -> tuple[keras.Model, object, None]:
    """A GAN."""
    generator = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3)], name="generator")
    discriminator = keras.Sequential(
        [keras.Input((3,)), keras.layers.Dense(4, "tanh"), keras.layers.Dense(1)],
        name="discriminator",
    )
    model = fg.models.GAN(
        generator, discriminator, loss, gradient_penalty=1.0, ema_momentum=0.9, seed=1
    )
    model.compile(fg.PerWeight("adam", [fg.Rule(generator, learning_rate_multiplier=0.5)]))
    return model, X, None


def data(name: str) -> tuple[object, object]:
    """What the model of that name was trained on."""
    if name == "crf":
        return TOKENS, TAGS
    return (X, None) if name.startswith("gan") else (X, Y)


MODELS = {
    "rules": rules,
    "adax": lambda: with_optimizer(fg.optimizers.AdaX(1e-2)),
    "moments": lambda: with_optimizer(
        fg.optimizers.AdaptiveMoments(1e-2, decay=fg.optimizers.PowerDecay(0.8))
    ),
    "adam_decay": lambda: with_optimizer(
        fg.optimizers.AdaptiveMoments(1e-2, decay=fg.optimizers.AdamDecay(0.99))
    ),
    "exponentiated": exponentiated,
    "scale": lambda: with_optimizer(
        fg.optimizers.AdaptiveStepSize(keras.optimizers.Adam(1e-2), gain_rate=5.0)
    ),
    "drift": lambda: with_optimizer(
        fg.optimizers.AdaptiveStepSize(keras.optimizers.Adam(1e-2), estimator="drift", memory=0.9)
    ),
    "product": lambda: with_optimizer(
        fg.optimizers.AdaptiveStepSize(keras.optimizers.SGD(1e-2), mode="product", gain_rate=0.1)
    ),
    "sign": lambda: with_optimizer(
        fg.optimizers.AdaptiveStepSize(keras.optimizers.Adam(1e-2), mode="sign", max_gain=5.0)
    ),
    "scale_per_group": lambda: with_optimizer(
        fg.PerWeight(
            fg.optimizers.AdaptiveStepSize(keras.optimizers.Adam(1e-2)),
            [fg.Rule("head", learning_rate_multiplier=3.0)],
        )
    ),
    "scale_of_four": lambda: with_optimizer(
        fg.PerWeight(fg.optimizers.AdaptiveStepSize(keras.optimizers.Adam(1e-2)))
    ),
    "scale_of_all": lambda: with_optimizer(
        fg.optimizers.AdaptiveStepSize(
            fg.PerWeight("adam", [fg.Rule("head", learning_rate_multiplier=3.0)])
        )
    ),
    "transforms": lambda: with_optimizer(
        fg.PerWeight(
            "adam",
            [
                fg.Rule(
                    ".",
                    gradient=[
                        fg.gradients.AdaptiveClip(0.1),
                        fg.gradients.Centralize(),
                        fg.gradients.Noise(1e-3, seed=1),
                        fg.gradients.Dropout(0.1, seed=2),
                    ],
                )
            ],
        )
    ),
    "crf": crf,
    "routed": routed,
    "gan_hinge": lambda: gan("hinge"),
    "gan_wasserstein": lambda: gan("wasserstein"),
}


def main() -> None:
    """Writes all files."""
    expected = {}
    for name, make in MODELS.items():
        keras.utils.set_random_seed(0)
        keras.utils.clear_session()
        model, x, y = make()
        arguments = {"batch_size": 8, "shuffle": False, "verbose": 0}
        model.fit(x, y, epochs=2, **arguments)
        model.save(HERE / f"{name}.keras")
        if y is not None:
            expected[f"{name}/predicts"] = model.predict(x, verbose=0)
        history = model.fit(x, y, epochs=2, **arguments)
        expected[f"{name}/loss"] = np.array(history.history["loss"])
        if name == "rules":
            model.save_weights(HERE / "rules.weights.h5")
    keras.utils.clear_session()
    sentences = [["the", "cat", "sat"], ["the", "dog", "sat"], ["a", "cat", "ran"]] * 8
    segmenter = fg.tagging.Segmenter(width=8, seed=0).fit(sentences, epochs=8, verbose=0)
    segmenter.save(HERE / "segmenter.keras")
    expected["segmenter/predicts"] = np.array(segmenter.segment("thedogran"))
    np.savez_compressed(HERE / "expected.npz", **expected)


if __name__ == "__main__":
    sys.exit(main())
