"""Rules that warm up what they release."""

import keras
import numpy as np
import pytest
from keras import optimizers

import finegrain as fg
from compiling import JIT
from optimizers.contract import (
    ONES,
    fit_ones,
    kernel_and_bias,
    mean_output,
    unit_slope_model,
)


def warming(trainable, eager=True, **arguments):
    """A model that SGD moves by minus the rate, 1, whose bias warms up over four steps."""
    model = unit_slope_model()
    rules = [
        fg.Rule("bias", learning_rate_multiplier=8.0),
        fg.Rule("bias", trainable=trainable, warm_up=4, name="late"),
    ]
    optimizer = fg.PerWeight(optimizers.SGD(1.0, **arguments), rules)
    how = {"run_eagerly": True} if eager else {"jit_compile": JIT}
    model.compile(optimizer, mean_output, **how)
    return model


def test_in_compiled_fit():
    """The k-th step from the release on is k / 4 of the rate that the other rule gives."""
    model = warming(trainable=False, eager=False)
    biases = []

    class Release(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 2:
                self.model.optimizer.set("late", trainable=True)

        def on_epoch_end(self, epoch, logs=None):
            biases.append(kernel_and_bias(self.model)[1])

    fit_ones(model, 7, [Release()])
    assert kernel_and_bias(model)[0] == -7
    assert biases == [0, 0, -2, -6, -12, -20, -28]


@pytest.mark.full
def test_from_the_first_step():
    """What a rule never held warms up from step 0."""
    model = warming(trainable=True)
    fit_ones(model, 3)
    assert kernel_and_bias(model) == [-3, -12]


@pytest.mark.full
def test_each_release_begins_anew():
    """Held in the middle of it and released again, the weights begin again."""
    model = warming(trainable=True)
    fit_ones(model, 3)
    model.optimizer.set("late", trainable=True)  # is so already
    fit_ones(model)
    assert kernel_and_bias(model)[1] == -20
    model.optimizer.set("late", trainable=False)
    fit_ones(model)
    model.optimizer.set("late", trainable=True)
    fit_ones(model)
    assert kernel_and_bias(model) == [-6, -22]


@pytest.mark.full
def test_released_by_a_multiplier():
    """A rule that says `trainable` alone takes a factor, which the warm-up multiplies."""
    optimizer = fg.PerWeight("sgd", [fg.Rule("bias", trainable=False, warm_up=4)])
    model = unit_slope_model()
    model.compile(optimizer, mean_output, run_eagerly=True)
    fit_ones(model, 3)
    optimizer.set("bias", learning_rate_multiplier=0.5)
    rates = [row["learning_rate_multiplier"] for row in optimizer.describe(model).to_dicts()]
    assert rates == [1.0, 0.125]
    optimizer.set("bias", learning_rate_multiplier=2.0)
    fit_ones(model)
    assert optimizer.describe(model).to_dicts()[1]["learning_rate_multiplier"] == 1.0


@pytest.mark.parametrize("released", [False, True])
@pytest.mark.selected("True")
def test_saved_and_loaded(tmp_path, released):
    """In the middle of the warm-up, or before it."""
    model = warming(trainable=False)
    fit_ones(model, 2)
    if released:
        model.optimizer.set("late", trainable=True)
    fit_ones(model)
    config = model.optimizer.get_config()
    assert config["rules"][1]["released_at"] == (2.0 if released else 0.0)
    assert fg.PerWeight.from_config(config).get_config()["rules"] == config["rules"]
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras", {"mean_output": mean_output})
    if not released:
        again.optimizer.set("late", trainable=True)
    fit_ones(again, 4)
    assert kernel_and_bias(again)[1] == (-28 if released else -20)
    assert repr(again.optimizer).count("warm_up=4") == 1


@pytest.mark.full
def test_under_accumulation():
    """Its steps are batches, as those of schedules are."""
    model = warming(trainable=True, gradient_accumulation_steps=2)
    model.fit(ONES, ONES, batch_size=1, verbose=0)
    assert kernel_and_bias(model) == [-2, -12]


@pytest.mark.one_backend
@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"trainable": True, "warm_up": 0}, ValueError, "integer >= 1; leave it out for none"),
        ({"trainable": True, "warm_up": 2.0}, TypeError, "integer >= 1. Received: warm_up=2.0"),
        ({"trainable": True, "warm_up": True}, TypeError, "integer >= 1. Received: warm_up=True"),
        ({"learning_rate": 1.0, "warm_up": 3}, ValueError, "give the rule `trainable=False`"),
    ],
)
def test_errors(arguments, error, message):
    """A warm-up is a number of steps, of a rule that holds or releases."""
    with pytest.raises(error, match=message):
        fg.Rule("bias", **arguments)


@pytest.mark.one_backend
def test_a_rule_that_was_set_to_zero(tmp_path):
    """Its config holds a rate of 0 and `trainable=True`, which a rule is not made with."""
    rule = fg.Rule("bias", learning_rate_multiplier=2.0, trainable=True, warm_up=3)
    optimizer = fg.PerWeight("sgd", [rule])
    optimizer.set("bias", learning_rate_multiplier=0.0)
    again = fg.PerWeight.from_config(optimizer.get_config())
    assert again.get("bias") == {"learning_rate_multiplier": 0.0, "trainable": True}
    np.testing.assert_equal(again.get_config()["rules"], optimizer.get_config()["rules"])
