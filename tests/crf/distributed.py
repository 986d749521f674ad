"""A tagger trained on one device or on eight: `python -m crf.distributed DEVICES FILE` on JAX."""

from __future__ import annotations

import sys

import keras
import numpy as np

import drawn
import finegrain as fg
from crf.models import tagger, task


def train(devices: int) -> list[np.ndarray]:
    """The weights, metrics and predictions after an epoch over batches of 8."""
    if devices > 1:
        keras.distribution.set_distribution(keras.distribution.DataParallel())
    assert len(keras.distribution.list_devices()) == devices
    drawn.seed_keras(3)
    model = tagger()
    model.compile(
        fg.PerWeight(keras.optimizers.Adam(0.01), [fg.Rule("crf", learning_rate_multiplier=5.0)]),
        loss=fg.losses.CRFNegativeLogLikelihood(),
        metrics=[fg.metrics.ViterbiAccuracy(), fg.metrics.SpanF1(fg.tagging.BIO(["X"]))],
    )
    x, y = task(24)
    history = model.fit(x, y, batch_size=8, shuffle=False, verbose=0).history
    numbers = np.array([value[0] for _, value in sorted(history.items())])
    weights = [keras.ops.convert_to_numpy(weight) for weight in model.weights]
    return [numbers, model.predict(x, batch_size=8, verbose=0), *weights]


if __name__ == "__main__":
    devices, file = sys.argv[1:]
    with open(file, "wb") as stream:
        np.savez(stream, *train(int(devices)))
