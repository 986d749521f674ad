"""What plain Keras can under TensorFlow's MirroredStrategy, and what our optimizers can, too.

Every situation is tried in one process: that of the scenario `mirrored` of `distributed.py`. Plain
Adam shows that Keras can.
"""

from __future__ import annotations

import functools
import os
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np

import finegrain as fg
from optimizers.contract import fill, values

_random = np.random.default_rng(29)
X = _random.normal(size=(16, 4)).astype("float32")
Y = _random.normal(size=(16, 2)).astype("float32")
ROWS = 8

OPTIMIZERS: dict[str, Callable[[], keras.optimizers.Optimizer]] = {
    "plain": lambda: keras.optimizers.Adam(0.05),
    "rules": lambda: fg.PerWeight(
        keras.optimizers.Adam(0.05, use_ema=True, ema_momentum=0.9),
        [
            fg.Rule("frozen", trainable=False),
            fg.Rule("encoder", learning_rate_multiplier=0.1, gradient=fg.gradients.Centralize()),
            fg.Rule("head/bias", optimizer=keras.optimizers.SGD(0.1, momentum=0.9)),
        ],
        nonfinite="skip",
    ),
    "adax": lambda: fg.optimizers.AdaX(0.1),
}
FULL = os.environ.get("FINEGRAIN_REAL") == "full"
"""Whether all is tried; else those situations that each met a fault of its own."""

TRIED = list(OPTIMIZERS) if FULL else ["rules"]
"""That Keras can was seen once, and is looked at again where time is given."""


class Situation:
    """One optimizer under one strategy, and a folder for its files.

    Args:
        strategy: A strategy of two replicas.
        optimizer: Makes an optimizer.
        folder: An empty folder.
    """

    def __init__(
        self, strategy: Any, optimizer: Callable[[], keras.optimizers.Optimizer], folder: Path
    ) -> None:
        self.strategy, self.optimizer, self.folder = strategy, optimizer, folder
        self.scope = strategy.scope

    def model(self) -> keras.Model:
        """A compiled model, with the same weights at every call."""
        with self.scope():
            inputs = keras.Input((4,))
            hidden = keras.layers.Dense(3, activation="tanh", name="frozen")(inputs)
            hidden = keras.layers.Dense(3, activation="tanh", name="encoder")(hidden)
            model = keras.Model(inputs, keras.layers.Dense(2, name="head")(hidden))
            fill(model)
            model.compile(self.optimizer(), "mse", jit_compile=False)
        return model

    @functools.cached_property
    def trained(self) -> keras.Model:
        """After one round, which left a file by ModelCheckpoint and two by `save`."""
        callbacks = [
            keras.callbacks.ModelCheckpoint(self.folder / "callback.keras"),
            keras.callbacks.ModelCheckpoint(
                self.folder / "callback.weights.h5", save_weights_only=True
            ),
        ]
        model = fit(self.model(), callbacks=callbacks)
        model.save(self.folder / "outside.keras")
        with self.scope():
            model.save(self.folder / "inside.keras")
            model.save_weights(self.folder / "inside.weights.h5")
        return model

    @functools.cached_property
    def expected(self) -> list[np.ndarray]:
        """The weights after two rounds."""
        return values_of(fit(fit(self.model())))

    @functools.cached_property
    def in_one_go(self) -> list[np.ndarray]:
        """The weights after one call for both rounds, at whose end alone averages are taken."""
        return values_of(fit(self.model(), epochs=2))

    def goes_on(self, model: keras.Model) -> None:
        """Asserts that another round leads where two rounds lead."""
        assert_close(values_of(fit(model)), self.expected)


def fit(model: keras.Model, epochs: int = 1, **arguments: Any) -> keras.Model:
    """`model` after some rounds of two steps."""
    model.fit(X, Y, batch_size=ROWS, epochs=epochs, shuffle=False, verbose=0, **arguments)
    return model


def values_of(model: keras.Model) -> list[np.ndarray]:
    """The weights of both replicas' copies, or of the one copy."""
    copies = [getattr(weight.value, "values", [weight.value]) for weight in model.weights]
    return [np.array(copy) for of_weight in zip(*copies, strict=True) for copy in of_weight]


def assert_close(found: list[np.ndarray], expected: list[np.ndarray]) -> None:
    for mine, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=1e-6)


def saved_outside_loaded_inside(at: Situation) -> None:
    assert at.trained.built
    with at.scope():
        model = keras.models.load_model(at.folder / "outside.keras")
    at.goes_on(model)


def saved_inside_loaded_outside(at: Situation) -> None:
    assert at.trained.built
    model = keras.models.load_model(at.folder / "inside.keras")
    with at.scope():
        again = keras.models.load_model(at.folder / "inside.keras")
    assert_close(values_of(fit(model)), at.expected[: len(model.weights)])
    at.goes_on(again)


def saved_by_model_checkpoint(at: Situation) -> None:
    assert at.trained.built
    with at.scope():
        model = keras.models.load_model(at.folder / "callback.keras")
    assert_close(values_of(fit(model)), at.in_one_go)


def weights_alone(at: Situation) -> None:
    assert at.trained.built
    for name, expected in {"inside": at.expected, "callback": at.in_one_go}.items():
        model = at.model()
        with at.scope():
            model.optimizer.build(model.trainable_variables)
            model.load_weights(at.folder / f"{name}.weights.h5")
        assert_close(values_of(fit(model)), expected)


def backup_and_restore(at: Situation) -> None:
    class Interrupt(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
            if epoch == 1:
                raise KeyboardInterrupt

    def backup() -> keras.callbacks.Callback:
        return keras.callbacks.BackupAndRestore(at.folder / "backup")

    try:
        fit(at.model(), epochs=2, callbacks=[backup(), Interrupt()])
    except KeyboardInterrupt:
        model = fit(at.model(), epochs=2, callbacks=[backup()])
    assert_close(values_of(model), at.in_one_go)


def all_inside_of_the_scope(at: Situation) -> None:
    with at.scope():
        callback = keras.callbacks.ModelCheckpoint(at.folder / "scope.keras")
        fit(at.model(), callbacks=[callback])
        model = keras.models.load_model(at.folder / "scope.keras")
        assert_close(values_of(fit(model)), at.in_one_go)


def saved_before_its_first_step(at: Situation) -> None:
    model = at.model()
    with at.scope():
        model.save(at.folder / "new.keras")
        again = keras.models.load_model(at.folder / "new.keras")
    fit(again)
    at.goes_on(again)


def another_model_after_it(at: Situation) -> None:
    """In the same process, and the first goes on."""
    first, other = fit(at.model()), fit(at.model())
    at.goes_on(first)
    at.goes_on(other)


def weights_set_and_read(at: Situation) -> None:
    own = values(at.trained.optimizer.variables)
    model = at.model()
    with at.scope():
        model.set_weights(values(at.trained.weights))
        model.optimizer.build(model.trainable_variables)
        model.optimizer.set_weights(own)
        config = model.optimizer.get_config()
    assert isinstance(type(model.optimizer).from_config(config), type(model.optimizer))
    at.goes_on(model)


def unfrozen_on_resume(at: Situation) -> None:
    """What was held begins anew, as it does on one device, outside of the scope as inside."""
    if not isinstance(at.optimizer(), fg.PerWeight):
        return  # Keras lets new weights take over the count of others
    import tensorflow as tf

    def resumed(place: Situation, model: keras.Model) -> list[np.ndarray]:
        with place.scope():
            model.compile(fg.PerWeight(keras.optimizers.Adam(0.05)), "mse", jit_compile=False)
        model.optimizer.build(model.trainable_variables)
        model.load_weights(at.folder / "held.weights.h5")
        return values_of(fit(model))

    held = at.model()
    with at.scope():
        rules = [fg.Rule("frozen", trainable=False)]
        held.compile(fg.PerWeight(keras.optimizers.Adam(0.05), rules), "mse", jit_compile=False)
    fit(held).save_weights(at.folder / "held.weights.h5")
    alone = Situation(tf.distribute.get_strategy(), at.optimizer, at.folder)
    on_one_device = resumed(alone, alone.model())
    on_replicas = resumed(at, at.model())
    assert_close(on_replicas[: len(on_one_device)], on_one_device)
    assert_close(on_replicas[len(on_one_device) :], on_one_device)


def watched(at: Situation) -> None:
    """The norms are those of one device, which sees the whole batch."""
    if not isinstance(at.optimizer(), fg.PerWeight):
        return  # a Watch is for PerWeight
    import tensorflow as tf

    on_one_device = Situation(tf.distribute.get_strategy(), at.optimizer, at.folder)
    watches = [fg.callbacks.Watch(every=1) for _ in range(2)]
    for place, watch in zip([at, on_one_device], watches, strict=True):
        fit(place.model(), callbacks=[watch])
    mine, alone = (watch.history for watch in watches)
    for quantity in ("gradient_norm", "update_norm", "weight_norm"):
        assert mine[quantity].shape == (len(X) // ROWS, 6)
        np.testing.assert_allclose(mine[quantity], alone[quantity], rtol=1e-4, atol=1e-5)


def another_learning_rate(at: Situation) -> None:
    model = fit(at.model())
    with at.scope():
        model.optimizer.learning_rate = 0.0
        if isinstance(model.optimizer, fg.PerWeight):
            assert str(model.optimizer.describe(model))
            assert model.optimizer.effective_learning_rates()[0] == 0.0
            assert model.optimizer.skipped_steps == 0
    before = values_of(model)
    fit(model)
    still = [
        weight.path
        for weight, old, now in zip(model.weights, before, values_of(model), strict=False)
        if np.array_equal(old, now)
    ]
    assert "frozen/kernel" in still


FEW = [all_inside_of_the_scope, unfrozen_on_resume, watched]
REST = [
    saved_outside_loaded_inside,
    saved_inside_loaded_outside,
    saved_by_model_checkpoint,
    weights_alone,
    backup_and_restore,
    saved_before_its_first_step,
    another_model_after_it,
    weights_set_and_read,
    another_learning_rate,
]
SITUATIONS: dict[str, Callable[[Situation], None]] = {
    situation.__name__: situation for situation in (FEW + REST if FULL else FEW)
}


def compare(strategy: Any, folder: Path) -> dict[str, dict[str, str]]:
    """Optimizer → situation → what went wrong, empty where nothing did."""
    found: dict[str, dict[str, str]] = {}
    for name in TRIED:
        (folder / name).mkdir()
        at = Situation(strategy, OPTIMIZERS[name], folder / name)
        found[name] = {}
        for title, situation in SITUATIONS.items():
            try:
                situation(at)
                found[name][title] = ""
            except Exception:
                found[name][title] = traceback.format_exc()
    return found
