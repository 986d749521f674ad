"""A convolutional GAN of spots in the dark, which fills two epochs.

    python -m real.gan FOLDER

goes on from the file that `test_gan.py` left in the folder, and leaves what came of it there.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import layers

import finegrain as fg
from real.terminal import FULL

SAMPLES, SIDE, CHANNELS, LATENT = (2048, 32, 16, 32) if FULL else (64, 8, 4, 8)
RATE = 2e-3


def spots() -> np.ndarray:
    """(samples, side, side, 1) pictures in [-1, 1], each of a spot at some place."""
    random = np.random.default_rng(3)
    places = random.uniform(0.25, 0.75, (SAMPLES, 2, 1, 1)) * SIDE
    rows, columns = np.mgrid[:SIDE, :SIDE]
    distance = (rows - places[:, 0]) ** 2 + (columns - places[:, 1]) ** 2
    return (2 * np.exp(-distance / (SIDE / 2)) - 1)[..., None].astype("float32")


def gan() -> fg.models.GAN:
    """With all that has a state: noise, dropout, statistics, averages, slots."""
    generator = keras.Sequential(
        [
            keras.Input((LATENT,)),
            layers.Dense(SIDE // 4 * SIDE // 4 * 2 * CHANNELS, use_bias=False),
            layers.Reshape((SIDE // 4, SIDE // 4, 2 * CHANNELS)),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.Conv2DTranspose(CHANNELS, 4, 2, "same", use_bias=False),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.Conv2DTranspose(1, 4, 2, "same", activation="tanh"),
        ],
        name="generator",
    )
    discriminator = keras.Sequential(
        [
            keras.Input((SIDE, SIDE, 1)),
            layers.Conv2D(CHANNELS, 4, 2, "same"),
            layers.LeakyReLU(0.2),
            layers.Dropout(0.3, seed=2),
            layers.Conv2D(2 * CHANNELS, 4, 2, "same"),
            layers.LeakyReLU(0.2),
            layers.Flatten(),
            layers.Dense(1),
        ],
        name="discriminator",
    )
    model = fg.models.GAN(generator, discriminator, "non_saturating", ema_momentum=0.9, seed=1)
    model.compile(
        fg.PerWeight(
            keras.optimizers.Adam(RATE, beta_1=0.5),
            [fg.Rule(generator, learning_rate_multiplier=0.5)],
        )
    )
    return model


def fit(model: fg.models.GAN, first: int, last: int) -> dict[str, list[float]]:
    """The history of the epochs after `first`, up to `last`."""
    return model.fit(
        spots(), batch_size=32, initial_epoch=first, epochs=last, shuffle=False, verbose=0
    ).history


def results(model: fg.models.GAN, history: dict[str, list[float]]) -> dict[str, Any]:
    """Losses, samples, weights and slots."""
    variables = {"weight": model.weights, "slot": model.optimizer.variables}
    state = {
        f"{kind} {i}": np.array(keras.ops.convert_to_numpy(variable.value))
        for kind, members in variables.items()
        for i, variable in enumerate(members)
    }
    losses = {name: np.array(values) for name, values in history.items()}
    return losses | state | {"samples": model.generate(4, seed=0)}


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    model = keras.models.load_model(folder / "gan-1.keras")
    np.savez(folder / "resumed.npz", **results(model, fit(model, 1, 2)))
