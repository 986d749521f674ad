"""A GAN on one device or on eight: `python -m models.distributed DEVICES FILE` on JAX."""

from __future__ import annotations

import sys

import keras
import numpy as np

import drawn
from gan.games import LABELS, X, conditional


def train(devices: int) -> list[np.ndarray]:
    """Losses, samples and weights after two epochs over batches of 8."""
    if devices > 1:
        keras.distribution.set_distribution(keras.distribution.DataParallel())
    assert len(keras.distribution.list_devices()) == devices
    drawn.seed_keras(3)
    gan = conditional(seed=drawn.seed(0))
    history = gan.fit(X, LABELS, batch_size=8, epochs=2, shuffle=False, verbose=0).history
    numbers = np.array([values for _, values in sorted(history.items())])
    weights = [keras.ops.convert_to_numpy(weight) for weight in gan.weights]
    return [numbers, gan.generate(8, seed=drawn.seed(1), labels=LABELS[:8]), *weights]


if __name__ == "__main__":
    devices, file = sys.argv[1:]
    with open(file, "wb") as stream:
        np.savez(stream, *train(int(devices)))
