"""What every test begins and ends with: one backend, fixed seeds, a clean Keras.

Keras is imported where it is used: with xdist the process that hands out the tests needs none.
"""

import gc
import os
import signal
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

# Keras reads its backend once, when it is first imported: this has to be settled before.
os.environ.setdefault("KERAS_BACKEND", "jax")
os.environ.setdefault("MPLBACKEND", "agg")

import pytest
from hypothesis import settings

import drawn
from covering import mark_the_unselected

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


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Marks what selections spare, and puts first what takes longest."""
    by_name = any("::" in argument for argument in config.args)
    # PyTorch, which spares nothing, compiles nothing either: compiled cases are not there.
    mark_the_unselected(items, complete=not by_name and os.environ["KERAS_BACKEND"] != "torch")
    if config.pluginmanager.hasplugin("xdist"):
        from order import longest_first

        longest_first(items)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """How the workers of `pytest -n 2` share the tests."""
    from order import ByFile

    return ByFile(config, log)


def pytest_collection_finish() -> None:
    """What is there by now stays: the garbage collection need not look at it again and again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 10_000)


def pytest_report_header() -> str:
    """What to set to see again what was seen."""
    return f"finegrain: KERAS_BACKEND={os.environ['KERAS_BACKEND']} FINEGRAIN_SEED={drawn.SEED}"


@pytest.fixture(scope="session", autouse=True)
def settings_of_this_process() -> None:
    """PyTorch has one thread: workers share the cores."""
    import keras

    if keras.backend.backend() == "torch":
        import torch

        torch.set_num_threads(1)
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # A shell that starts the tests in the background has it ignored, in their processes too.
        signal.signal(signal.SIGINT, signal.default_int_handler)


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
