"""What every test begins and ends with: one backend, fixed seeds, a clean Keras.

Keras is imported where it is used: with xdist the process that hands out the tests needs none.
"""

import os
import signal
from collections.abc import Iterator
from typing import TYPE_CHECKING

# Keras reads its backend once, when it is first imported: this has to be settled before.
os.environ.setdefault("KERAS_BACKEND", "jax")
os.environ.setdefault("MPLBACKEND", "agg")

import pytest
from hypothesis import settings

import drawn

if TYPE_CHECKING:
    from elsewhere import Elsewhere

# Compiling the first example may take as long as it takes. What is drawn depends on the seed alone.
settings.register_profile(
    "finegrain", deadline=None, derandomize=False, database=None, print_blob=True
)
settings.load_profile("finegrain")


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Examples are the same in every run of one seed."""
    if config.option.hypothesis_seed is None:
        config.option.hypothesis_seed = drawn.SEED


def pytest_report_header() -> str:
    """What to set to see again what was seen."""
    return f"finegrain: KERAS_BACKEND={os.environ['KERAS_BACKEND']} FINEGRAIN_SEED={drawn.SEED}"


@pytest.fixture(scope="session", autouse=True)
def settings_of_this_process() -> None:
    """PyTorch has one thread: workers share the cores. Other processes compile as a user's do."""
    import keras

    if keras.backend.backend() == "torch":
        import torch

        torch.set_num_threads(1)
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # A shell that starts the tests in the background has it ignored, in their processes too.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.pop("JAX_DISABLE_MOST_OPTIMIZATIONS", None)  # JAX has read it


@pytest.fixture(autouse=True)
def clean_keras() -> Iterator[None]:
    """Fixed seeds and default settings before each test, and no trace of it after."""
    import keras

    drawn.seed_keras()
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
    return os.environ["KERAS_BACKEND"]


@pytest.fixture(scope="session")
def elsewhere() -> "Iterator[Elsewhere]":
    """Runs scripts under another backend: `elsewhere(backend, script, *arguments)`."""
    from elsewhere import Elsewhere

    others = Elsewhere()
    yield others
    others.close()
