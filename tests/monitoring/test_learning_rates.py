"""What LearningRates puts into the logs, and who reads it there."""

import csv

import keras
import numpy as np
import pytest
from keras import callbacks, optimizers

import finegrain as fg
from compiling import JIT
from optimizers.contract import X, Y, mlp

BACKEND = keras.backend.backend()


def rule(weights, multiplier, **arguments):
    return fg.Rule(weights, learning_rate_multiplier=multiplier, **arguments)


def fit(optimizer, *others, epochs=2, before=(), compiled=False, **arguments):
    """The history of a model with the callback, two steps an epoch."""
    model = mlp()
    model.compile(optimizer, "mse", run_eagerly=not compiled, jit_compile=compiled and JIT)
    arguments = {"batch_size": 8, "epochs": epochs, "verbose": 0} | arguments
    watched = [*before, fg.callbacks.LearningRates(), *others]
    history = model.fit(X[:16], Y[:16], callbacks=watched, **arguments).history
    return {
        name.removeprefix("learning_rate/"): values
        for name, values in history.items()
        if name.startswith("learning_rate")
    }


def halved():
    """0.5 in the first epoch and half of it in each that follows."""
    return optimizers.schedules.ExponentialDecay(0.5, 2, 0.5, staircase=True)


class TestLogs:
    @pytest.mark.parametrize("compiled", [pytest.param(False, marks=pytest.mark.full), True])
    def test_history(self, compiled):
        """The rate at the end of each epoch, of schedules too, and of what is set meanwhile."""
        optimizer = fg.PerWeight(optimizers.SGD(halved()), [rule("bias$", 2.0, name="fast")])
        setting = callbacks.LambdaCallback(
            on_epoch_begin=lambda epoch, logs: (
                epoch and optimizer.set("fast", learning_rate_multiplier=4.0)
            )
        )
        rates = fit(optimizer, before=[setting], compiled=compiled)
        assert rates == {"fast": [0.5, 0.5], "no rule": [0.25, 0.125]}

    def test_several_rates(self):
        """Where other rules decide for some of its weights, the lowest and the highest."""
        rules = [rule("bias$", 2.0), rule("encoder", 0.5), rule("head/bias", 4.0)]
        rates = fit(fg.PerWeight(optimizers.SGD(0.5), rules), epochs=1)
        assert rates == {
            "bias$/min": [0.25],
            "bias$/max": [2.0],
            "encoder": [0.25],
            "head/bias": [2.0],
            "no rule": [0.5],
        }

    def test_names_stay(self):
        """Two rates that may part are two from the beginning."""
        rules = [rule("bias$", 2.0), rule("encoder", 2.0, name="encoder")]
        optimizer = fg.PerWeight(optimizers.SGD(0.5), rules)
        setting = callbacks.LambdaCallback(
            on_epoch_begin=lambda epoch, logs: (
                epoch and optimizer.set("encoder", learning_rate_multiplier=1.0)
            )
        )
        rates = fit(optimizer, before=[setting])
        assert rates["bias$/min"] == [1.0, 0.5]
        assert rates["bias$/max"] == [1.0, 1.0]
        assert len(rates) == 4

    @pytest.mark.one_backend
    def test_rules_that_leave_the_rate(self):
        """One rate for all."""
        rules = [
            fg.Rule("bias$", weight_decay=0.0),
            fg.Rule("head", weight_decay=0.5, gradient=fg.gradients.Centralize()),
            rule(".", 2.0),
        ]
        rates = fit(fg.PerWeight(optimizers.AdamW(0.5), rules), epochs=1)
        assert rates == {"bias$": [1.0], "head": [1.0], ".": [1.0]}

    @pytest.mark.one_backend
    def test_held_weights(self):
        rules = [fg.Rule("encoder", trainable=False), fg.Rule("head", learning_rate=0.25)]
        rates = fit(fg.PerWeight(optimizers.SGD(0.5), rules), epochs=1)
        assert rates == {"encoder": [0.0], "head": [0.25]}
        rules = [fg.Rule("bias$", weight_decay=0.0), fg.Rule("encoder", trainable=False)]
        rates = fit(fg.PerWeight(optimizers.AdamW(0.5), rules), epochs=1)
        assert (rates["bias$/min"], rates["bias$/max"]) == ([0.0], [0.5])

    @pytest.mark.one_backend
    def test_muon(self):
        """Its AdamW has a rate of its own."""
        muon = optimizers.Muon(0.5, adam_lr_ratio=0.25)
        assert fit(fg.PerWeight(muon), epochs=1) == {"no rule/min": [0.125], "no rule/max": [0.5]}

    def test_learned_rates(self):
        """Each group learns one, and it is that which is logged."""
        adaptive = fg.optimizers.AdaptiveStepSize(optimizers.SGD(0.5))
        optimizer = fg.PerWeight(adaptive, [rule("bias$", 2.0)])
        rates = fit(optimizer, epochs=1)
        effective = optimizer.effective_learning_rates()
        assert rates == {"bias$": [effective[1]], "no rule": [effective[0]]}
        assert effective[0] != 0.5

    def test_loss_scaling(self):
        inner = fg.PerWeight(optimizers.SGD(0.5), [rule("bias$", 2.0)])
        rates = fit(optimizers.LossScaleOptimizer(inner), epochs=1)
        assert rates == {"bias$": [1.0], "no rule": [0.5]}

    @pytest.mark.one_backend
    def test_long_names(self):
        """They are cut, and differ still."""
        name = "a rule with a long name" * 3
        rules = [rule("encoder", 2.0, name=f"{name} 1"), rule("head", 4.0, name=f"{name} 2")]
        rates = fit(fg.PerWeight(optimizers.SGD(0.5), rules), epochs=1)
        first, second = rates
        assert len(first) == 40
        assert second == f"{first}#2"
        assert list(rates.values()) == [[1.0], [2.0]]


class TestReaders:
    @pytest.mark.one_backend
    def test_csv(self, tmp_path):
        file = tmp_path / "log.csv"
        optimizer = fg.PerWeight(optimizers.SGD(halved()), [rule("bias$", 2.0)])
        fit(optimizer, callbacks.CSVLogger(file))
        with file.open(newline="") as opened:
            rows = list(csv.DictReader(opened))
        assert [float(row["learning_rate/bias$"]) for row in rows] == [0.5, 0.25]

    @pytest.mark.skipif(BACKEND != "tensorflow", reason="Keras's TensorBoard imports TensorFlow")
    def test_tensorboard(self, tmp_path):
        from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
        from tensorboard.util.tensor_util import make_ndarray

        optimizer = fg.PerWeight(optimizers.SGD(halved()), [rule("bias$", 2.0)])
        fit(optimizer, callbacks.TensorBoard(tmp_path, write_graph=False))
        (file,) = (tmp_path / "train").glob("events.*")
        found = [
            float(make_ndarray(value.tensor))
            for event in EventFileLoader(str(file)).Load()
            for value in event.summary.value
            if value.tag == "epoch_learning_rate/bias$"
        ]
        assert found == [0.5, 0.25]

    @pytest.mark.one_backend
    def test_no_per_weight(self):
        with pytest.raises(TypeError, match=r"LearningRates needs .*PerWeight.*SGD"):
            fit(optimizers.SGD(0.5))

    @pytest.mark.one_backend
    def test_before_a_step(self):
        """A `train_step` without the optimizer has no rates yet."""

        class Still(keras.Model):
            def build(self, shape):
                self.head = keras.layers.Dense(1)
                self.head.build(shape)

            def call(self, x):
                return self.head(x)

            def train_step(self, *arguments):
                return {"loss": np.float32(0)}

        model = Still()
        model.build((None, X.shape[1]))
        model.compile(fg.PerWeight("sgd"), "mse", run_eagerly=True)
        logs = {}
        callback = fg.callbacks.LearningRates()
        callback.set_model(model)
        callback.on_train_begin()
        callback.on_epoch_end(0, logs)
        callback.on_epoch_end(0, None)
        assert logs == {}
