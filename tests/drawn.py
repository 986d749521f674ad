"""The number that all chance in the tests hangs on, and what is drawn from it."""

import os

import numpy as np

SEED = int(os.environ.get("FINEGRAIN_SEED", "20260101"))
"""`make test SEED=n` sets it; the processes that tests start inherit it."""


def generator(*key: int) -> np.random.Generator:
    """NumPy's generator, with a stream of its own for each `key`: the same one at every call."""
    return np.random.default_rng([SEED, *key])


def seed(*key: int) -> int:
    """A seed for what takes one, another for each `key`: the same one at every call."""
    return int(generator(*key).integers(2**31))


def seed_keras(*key: int) -> None:
    """From now on Keras, its backend, NumPy and Python draw what depends on `key` alone."""
    import keras  # not by the process that only hands out tests to others

    keras.utils.set_random_seed(seed(*key))
