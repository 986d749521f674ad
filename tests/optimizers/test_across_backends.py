"""A file written on one backend goes on on another."""

import json
import zipfile

import keras
import numpy as np
import pytest

from covering import chosen
from optimizers.contract import compiled, push, values, with_rules

BACKEND = keras.backend.backend()
# What starts soonest comes first.
OTHERS = {
    "jax": ["torch", "tensorflow"],
    "torch": ["jax", "tensorflow"],
    "tensorflow": ["torch", "jax"],
}[BACKEND]
# Momentum, step counts, state of a whole group (Nadam), factors (Adafactor), two kinds (Muon),
# our own, one in another and round one; one that is saved within a pair of steps.
NAMES = ["sgd_momentum", "adam", "nadam", "adafactor", "muon", "adax", "adaptive_step_size"]
NAMES += ["round_rules", "extragradient", "extragradient_round_rules", "optimistic"]
WRITE = (
    "import sys; from optimizers.contract import write_checkpoints; "
    "write_checkpoints(sys.argv[1], sys.argv[2:])"
)


@pytest.fixture(scope="module")
def written_on(tmp_path_factory, elsewhere):
    """The folder of what another backend wrote: one process for each backend."""
    folders = {}

    def folder_of(backend):
        if backend not in folders:
            folder = tmp_path_factory.mktemp(backend)
            elsewhere(backend, WRITE, folder, *NAMES)
            folders[backend] = folder
        return folders[backend]

    return folder_of


@pytest.mark.parametrize("name", NAMES)
# A file is the same whoever reads it: in the selection JAX reads PyTorch's, and PyTorch reads all.
@pytest.mark.parametrize("other", chosen(OTHERS, OTHERS[:1] if BACKEND == "jax" else []))
def test_a_file_of_another_backend_goes_on_here(name, other, written_on):
    """What this backend makes of the file equals, up to rounding, what the other made of it."""
    folder = written_on(other)
    model = keras.models.load_model(folder / f"{name}.keras")
    assert int(model.optimizer.iterations) == 3
    before = values(model.weights)
    push(model)
    with np.load(folder / f"{name}.npz") as arrays:
        for old, mine, theirs in zip(before, values(model.weights), arrays.values(), strict=True):
            assert np.abs(theirs - old).max() > 1e-3
            np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_a_file_names_no_backend(name, tmp_path):
    """The optimizer is in the file as its public class.

    On torch Keras puts classes of its own in the place of some, which run on torch only.
    """
    model = compiled(with_rules(name))
    model.save(tmp_path / "model.keras")
    with zipfile.ZipFile(tmp_path / "model.keras") as file:
        config = json.loads(file.read("config.json"))["compile_config"]["optimizer"]
    module = config["config"]["optimizer"]["module"]
    assert module == "keras.optimizers" or module.startswith("finegrain.")
