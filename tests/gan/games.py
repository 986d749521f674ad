"""Small GANs that the tests share, and what they should compute, in float64 NumPy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import layers, ops

import drawn
import finegrain as fg

LATENT = 3
RNG = drawn.generator(0)
X = (RNG.normal(size=(16, 2)) * 0.3 + [1.5, -1.0]).astype("float32")
LABELS = np.arange(16) % 3


def networks(dense: Callable[..., Any] = layers.Dense) -> tuple[keras.Model, keras.Model]:
    """A generator and a discriminator with one hidden layer each."""

    def make(inputs: int, outputs: int, name: str) -> keras.Model:
        return keras.Sequential(
            [keras.Input((inputs,)), dense(4, "tanh"), dense(outputs)], name=name
        )

    return make(LATENT, 2, "generator"), make(2, 1, "discriminator")


def labelled_networks(rate: float = 0.0, *, embed: bool = True) -> tuple[Any, Any]:
    """The same for samples of three kinds, with statistics, and dropout where `rate` says so."""

    def make(inputs: int, outputs: int, name: str) -> keras.Model:
        samples, label = keras.Input((inputs,)), keras.Input((), dtype="int32")
        kind = layers.Embedding(3, 2)(label) if embed else ops.one_hot(label, 3)
        hidden = layers.Dense(4, "tanh")(layers.Concatenate()([samples, kind]))
        hidden = layers.BatchNormalization(momentum=0.5)(hidden)
        if rate:
            # Without a seed Keras leaves the masks to PyTorch's own generator.
            hidden = layers.Dropout(rate, seed=outputs)(hidden)
        return keras.Model([samples, label], layers.Dense(outputs)(hidden), name=name)

    return make(LATENT, 2, "generator"), make(2, 1, "discriminator")


def first_draws(seed: int, number: int = len(X)) -> tuple[np.ndarray, np.ndarray]:
    """The noise of a GAN's first step, and where its penalty looks between real and fake."""
    generator = keras.random.SeedGenerator(seed)
    noise = keras.random.normal((number, LATENT), seed=generator)
    share = keras.random.uniform((number, 1), seed=generator)
    return tuple(ops.convert_to_numpy(drawn).astype("float64") for drawn in (noise, share))


def neutral_noise(shape: Any, seed: keras.random.SeedGenerator) -> Any:
    """In the place of `keras.random.normal`: the same on all backends, new at each call."""
    step = ops.cast(seed.next()[1], "float32")
    at = np.arange(1, np.prod(shape) + 1, dtype="float32").reshape(shape)
    return 1.5 * ops.sin(ops.convert_to_tensor(at) + step)


def conditional(**arguments: Any) -> fg.models.GAN:
    """A GAN of all that has a state, compiled with rules."""
    # Of the sparse gradients of an embedding Keras's Adam makes something else on TensorFlow.
    generator, discriminator = labelled_networks(embed=False)
    gan = fg.models.GAN(
        generator,
        discriminator,
        loss="non_saturating",
        penalties=[("r1", 0.5)],
        ema_momentum=0.8,
        **arguments,
    )
    rule = fg.Rule(generator, learning_rate_multiplier=0.5)
    gan.compile(fg.PerWeight(keras.optimizers.Adam(0.01), [rule]))
    return gan


def softplus(x: np.ndarray) -> np.ndarray:
    return np.log1p(np.exp(x))


def average(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """The loss of RaGAN: `one` is to be above the mean of `other`, and `other` below."""
    return (softplus(other.mean() - one) + softplus(other - one.mean())) / 2


class Oracle:
    """The losses of the networks above, from the formulas."""

    def __init__(self, loss: str, penalty: str | None, weight: float, seed: int) -> None:
        self.loss, self.penalty, self.weight = loss, penalty, weight
        self.noise, self.share = first_draws(seed)

    @staticmethod
    def forward(w: Any, x: np.ndarray) -> np.ndarray:
        return np.tanh(x @ w[0] + w[1]) @ w[2] + w[3]

    def fake(self, generator: Any) -> np.ndarray:
        return self.forward(generator, self.noise)

    def of_discriminator(self, *w: np.ndarray, fake: np.ndarray) -> float:
        """Its loss, with the penalty."""
        x = X.astype("float64")
        real_score, fake_score = self.forward(w, x), self.forward(w, fake)
        losses = {
            "hinge": np.maximum(0, 1 - real_score) + np.maximum(0, 1 + fake_score),
            "non_saturating": np.log1p(np.exp(-real_score)) + np.log1p(np.exp(fake_score)),
            "least_squares": 0.5 * (real_score - 1) ** 2 + 0.5 * fake_score**2,
            "wasserstein": fake_score - real_score,
            "relativistic": softplus(fake_score - real_score),
            "relativistic_average": average(real_score, fake_score),
        }
        return losses[self.loss].mean() + self.of_slope(w, x, fake)

    def of_slope(self, w: Any, x: np.ndarray, fake: np.ndarray) -> float:
        if self.penalty is None:
            return 0.0
        between = (1 - self.share) * x + self.share * fake
        at = {"r1": x, "r2": fake, "wgan_gp": between}[self.penalty]
        slope = (1 - np.tanh(at @ w[0] + w[1]) ** 2) * w[2][:, 0] @ w[0].T
        norm = np.sqrt((slope**2).sum(1))
        return self.weight * ((norm - 1) ** 2 if self.penalty == "wgan_gp" else norm**2 / 2).mean()

    def of_generator(self, *w: np.ndarray, discriminator: Any) -> float:
        score = self.forward(discriminator, self.fake(w))
        real_score = self.forward(discriminator, X.astype("float64"))
        losses = {
            "hinge": -score,
            "non_saturating": np.log1p(np.exp(-score)),
            "least_squares": 0.5 * (score - 1) ** 2,
            "wasserstein": -score,
            "relativistic": softplus(real_score - score),
            "relativistic_average": average(score, real_score),
        }
        return losses[self.loss].mean()
