"""A model saved under one backend predicts the same under another."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import ops

import finegrain
from finegrain.crf import decode

PACKAGES = {"jax": "jax", "torch": "torch", "tensorflow": "tensorflow"}
SAVE = """
import sys
import keras, numpy as np
from finegrain.crf import decode
from crf.models import tagger, task

keras.utils.set_random_seed(7)
tokens, _ = task(8)
model = tagger(transitions_initializer="random_normal")
model.save(f"{sys.argv[1]}/model.keras")
potentials = model.predict(tokens, verbose=0)
tags = keras.ops.convert_to_numpy(decode(potentials))
np.savez(f"{sys.argv[1]}/results.npz", tokens=tokens, potentials=potentials, tags=tags)
"""


@pytest.mark.parametrize("other", PACKAGES)
def test_model_of_another_backend(other, tmp_path):
    """What another process saved loads here: same potentials, same tags."""
    if other == keras.backend.backend():
        pytest.skip("the backend of this run")
    if importlib.util.find_spec(PACKAGES[other]) is None:
        pytest.skip(f"{other} is not installed")
    paths = [Path(finegrain.__file__).parents[1], Path(__file__).parents[1]]
    environment = os.environ | {
        "KERAS_BACKEND": other,
        "PYTHONPATH": os.pathsep.join(map(str, paths)),
        "TF_CPP_MIN_LOG_LEVEL": "3",
    }
    command = [sys.executable, "-c", SAVE, str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr

    model = keras.models.load_model(tmp_path / "model.keras")
    results = np.load(tmp_path / "results.npz")
    potentials = model.predict(results["tokens"], verbose=0)
    np.testing.assert_allclose(potentials, results["potentials"], rtol=0, atol=1e-5)
    np.testing.assert_array_equal(ops.convert_to_numpy(decode(potentials)), results["tags"])
