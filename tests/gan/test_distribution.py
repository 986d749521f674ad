"""Trained on eight devices, a GAN is what one device makes of it."""

import keras
import numpy as np
import pytest

from elsewhere import on_devices
from gan.distributed import train

pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "jax", reason="Keras distributes by DataParallel on JAX"
)


@pytest.mark.full
def test_on_eight_devices(tmp_path):
    """Losses, scores, samples and weights agree: noise, penalty, statistics and averages too."""
    one, eight = train(devices=1), on_devices("gan.distributed", 8, tmp_path)
    for expected, found in zip(one, eight, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)
