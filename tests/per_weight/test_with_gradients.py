"""`with_gradients`: any function of all gradients, in one line."""

import keras
import numpy as np
import pytest
from keras import ops

import finegrain as fg
from gradients.contract import array, as_variables


def halved(gradients):
    return [gradient / 2 for gradient in gradients]


def plus_one(gradients):
    return [gradient + 1 for gradient in gradients]


def step(optimizer, names=2):
    """What a step with gradients 1, 2, … makes of weights that are 0."""
    weights = as_variables([np.zeros(1)] * names)
    optimizer.apply([ops.full((1,), 1.0 + index) for index in range(names)], weights)
    return [float(array(weight)[0]) for weight in weights]


def test_an_optimizer():
    """All gradients pass through the function."""
    optimizer = fg.with_gradients(keras.optimizers.SGD(1.0), halved)
    assert isinstance(optimizer, fg.PerWeight)
    assert step(optimizer) == [-0.5, -1.0]


@pytest.mark.parametrize("given", ["sgd", {"class_name": "SGD", "config": {"learning_rate": 0.01}}])
def test_name_and_config(given):
    """An optimizer may be given as `compile` takes it."""
    np.testing.assert_allclose(step(fg.with_gradients(given, halved)), [-0.005, -0.01], rtol=1e-6)


def test_two_arguments_and_transforms():
    """A function of the weights, too, or a transform."""

    def second_only(gradients, variables):
        return [g * (v.path == "w1") for g, v in zip(gradients, variables, strict=True)]

    assert step(fg.with_gradients(keras.optimizers.SGD(1.0), second_only)) == [0.0, -2.0]
    transform = fg.gradients.ClipValue(1.5)
    assert step(fg.with_gradients(keras.optimizers.SGD(1.0), transform)) == [-1.0, -1.5]


def test_per_weight():
    """Its rules and its policy stay, and the function comes after its transforms."""
    inner = fg.PerWeight(
        keras.optimizers.SGD(1.0),
        [fg.Rule("w0", gradient=plus_one), fg.Rule("w1", learning_rate_multiplier=4.0)],
        nonfinite="skip",
        name="mine",
    )
    optimizer = fg.with_gradients(inner, halved)
    assert (optimizer.nonfinite, optimizer.name) == ("skip", "mine")
    assert step(optimizer) == [-1.0, -4.0]


def test_twice():
    """The last function comes last: (1 + 1) / 2 and 1 / 2 + 1."""
    sgd = keras.optimizers.SGD
    assert step(fg.with_gradients(fg.with_gradients(sgd(1.0), plus_one), halved), 1) == [-1.0]
    assert step(fg.with_gradients(fg.with_gradients(sgd(1.0), halved), plus_one), 1) == [-1.5]


@pytest.mark.parametrize("what", ["learning_rate", "multiplier"])
def test_numbers_set_before(what):
    """A rate or multiplier that was changed is the one that counts."""
    inner = fg.PerWeight(keras.optimizers.SGD(1.0), [fg.Rule("w0", learning_rate_multiplier=1.0)])
    if what == "learning_rate":
        inner.learning_rate = 4.0
    else:
        inner.set("w0", learning_rate_multiplier=4.0)
    assert step(fg.with_gradients(inner, halved), 1) == [-2.0]


@pytest.mark.parametrize("make", [lambda: keras.optimizers.SGD(1.0), lambda: fg.PerWeight("sgd")])
def test_built(make):
    """The state would be lost."""
    optimizer = make()
    optimizer.build(as_variables([np.zeros(1)]))
    with pytest.raises(
        ValueError, match=r"has not been built.*Pass a new one. Received: optimizer"
    ):
        fg.with_gradients(optimizer, halved)


def test_wrapper():
    """The order of wrappers is in the message."""
    scaled = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(1.0))
    with pytest.raises(ValueError, match=r"LossScaleOptimizer\(PerWeight\(\.\.\.\)\)"):
        fg.with_gradients(scaled, halved)


@pytest.mark.parametrize("bad", [3, "halved", fg.gradients.Sign])
def test_what_is_no_function(bad):
    """As in a rule."""
    with pytest.raises(TypeError, match=r"a function of .*Received: gradient="):
        fg.with_gradients("sgd", bad)


@pytest.mark.parametrize("name", ["sgd", "adam", "lion"])
def test_zero_gradients(name):
    """The article's prank: the model trains, the loss does not fall, nothing has moved."""
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, name="head")])
    before = model.get_weights()
    model.compile(fg.with_gradients(name, lambda gradients: [0 * g for g in gradients]), "mse")
    losses = model.fit(np.ones((4, 2)), np.ones((4, 1)), epochs=3, verbose=0).history["loss"]
    assert losses == losses[:1] * 3
    for start, now in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(now, start)
    assert int(ops.convert_to_numpy(model.optimizer.iterations)) == 3
