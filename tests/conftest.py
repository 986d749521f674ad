"""What every test begins and ends with: one backend, fixed seeds, a clean Keras."""

import os
from collections.abc import Iterator

# Keras reads its backend once, when it is first imported: this has to be settled before.
os.environ.setdefault("KERAS_BACKEND", "jax")
os.environ.setdefault("MPLBACKEND", "agg")

import keras
import pytest
from hypothesis import settings

from elsewhere import Elsewhere

SEED = 20_260_101

# Examples are the same in every run, and compiling the first one may take as long as it takes.
settings.register_profile("finegrain", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("finegrain")

if keras.backend.backend() == "torch":
    import torch

    # The workers share the cores of the machine.
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def clean_keras() -> Iterator[None]:
    """Fixed seeds and default settings before each test, and no trace of it after."""
    keras.utils.set_random_seed(SEED)
    floatx = keras.config.floatx()
    policy = keras.config.dtype_policy()
    yield
    keras.config.set_floatx(floatx)
    keras.config.set_dtype_policy(policy)
    # Without the garbage collection, which takes longer than most tests.
    keras.utils.clear_session(free_memory=False)


@pytest.fixture(scope="session")
def backend() -> str:
    """The backend that this run is about: jax, torch or tensorflow."""
    return keras.backend.backend()


@pytest.fixture(scope="session")
def elsewhere() -> Iterator[Elsewhere]:
    """Runs scripts under another backend: `elsewhere(backend, script, *arguments)`."""
    others = Elsewhere()
    yield others
    others.close()
