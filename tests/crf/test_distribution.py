"""Trained on eight devices, a tagger is what one device makes of it."""

import keras
import numpy as np
import pytest

from crf.distributed import train
from elsewhere import on_devices

pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "jax", reason="Keras distributes by DataParallel on JAX"
)


@pytest.mark.full
def test_on_eight_devices(tmp_path):
    """Loss, metrics, predictions and weights agree; a device has one example of each batch."""
    one, eight = train(devices=1), on_devices("crf.distributed", 8, tmp_path)
    for expected, found in zip(one, eight, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
