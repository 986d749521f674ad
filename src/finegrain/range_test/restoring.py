"""A training that leaves no trace: all that `fit` changes is put back."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np

from finegrain._backend import backend

# Keras's own name for the generator that draws where no seed is given.
_KERAS_GENERATOR = "global_seed_generator"
# What `fit` sets on a model besides variables.
_ATTRIBUTES = ("history", "stop_training")


class Randomness:
    """The states of all global generators of random numbers, as they are when this is made."""

    def __init__(self) -> None:
        self._python = random.getstate()
        self._numpy = np.random.get_state()  # noqa: NPY002 (Keras shuffles by this generator)
        self._backend = backend.random_state()
        generator = _keras_generator()
        self._keras = None if generator is None else backend.host_array(generator.state)

    def restore(self) -> None:
        """Put the generators back into these states."""
        random.setstate(self._python)
        np.random.set_state(self._numpy)  # noqa: NPY002
        backend.set_random_state(self._backend)
        generator = _keras_generator()
        if self._keras is None:
            _set_keras_generator(None)
        elif generator is not None:
            generator.state.assign(self._keras)


class Restoring:
    """What `unchanged` will put back.

    Attributes:
        randomness: The generators' states; may be set anew until the end.
    """

    def __init__(self, model: Any) -> None:
        self.randomness = Randomness()
        self._model = model
        self._undo_fit = backend.undo_fit(model)
        self._attributes = {name: vars(model)[name] for name in _ATTRIBUTES if name in vars(model)}
        # On the host: compiled steps overwrite the arrays of the device.
        variables = [*model.variables, *model.optimizer.variables, *model.metrics_variables]
        self._values = [(variable, backend.host_array(variable)) for variable in variables]

    def restore(self) -> None:
        """Put back the variables, the model's attributes and the generators."""
        self._undo_fit()
        model, known = self._model, {id(variable) for variable, _ in self._values}
        with backend.scope_of(model.variables):
            if any(id(variable) not in known for variable in model.metrics_variables):
                # The metrics were made by the first batch, and begin as they would have.
                model.reset_metrics()
            for variable, value in self._values:
                variable.assign(value)
        for name in _ATTRIBUTES:
            if name in self._attributes:
                setattr(model, name, self._attributes[name])
            elif name in vars(model):
                delattr(model, name)
        self.randomness.restore()


@contextmanager
def unchanged(model: Any) -> Iterator[Restoring]:
    """Put a model back, when this context is left, into the state that it has now.

    Put back are its variables and those of its optimizer and metrics, `history`, `stop_training`,
    the modes of PyTorch's modules, and the generators of Python, NumPy, Keras and the backend; also
    after an error.

    Args:
        model: A built and compiled model, of which the optimizer is built.
    """
    restoring = Restoring(model)
    try:
        yield restoring
    finally:
        restoring.restore()


def draws_for_building(model: Any) -> bool:
    """Return whether the next `fit` draws a batch to build losses and metrics, before it trains."""
    parts = (getattr(model, "_compile_loss", None), getattr(model, "_compile_metrics", None))
    return backend.BUILDS_ON_A_BATCH and any(part is not None and not part.built for part in parts)


def _keras_generator() -> keras.random.SeedGenerator | None:
    from keras.src.backend.common import global_state

    return global_state.get_global_attribute(_KERAS_GENERATOR)


def _set_keras_generator(generator: Any) -> None:
    from keras.src.backend.common import global_state

    global_state.set_global_attribute(_KERAS_GENERATOR, generator)
