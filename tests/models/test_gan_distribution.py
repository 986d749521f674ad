"""Trained on eight devices, a GAN is what one device makes of it."""

import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

import finegrain

pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "jax", reason="Keras distributes by DataParallel on JAX"
)


def trained(devices, folder):
    """What `models.distributed` computes in a process of its own."""
    paths = [Path(finegrain.__file__).parents[1], Path(__file__).parents[1]]
    environment = os.environ | {
        "KERAS_BACKEND": "jax",
        "PYTHONPATH": os.pathsep.join(map(str, paths)),
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
        "TF_CPP_MIN_LOG_LEVEL": "3",
    }
    file = folder / f"{devices}.npz"
    command = [sys.executable, "-m", "models.distributed", str(devices), str(file)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return np.load(file).values()


@pytest.mark.slow
def test_on_eight_devices(tmp_path):
    """Losses, scores, samples and weights agree: noise, penalty, statistics and averages too."""
    for one, many in zip(trained(1, tmp_path), trained(8, tmp_path), strict=True):
        np.testing.assert_allclose(many, one, rtol=1e-3, atol=1e-4)
