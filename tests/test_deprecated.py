"""Names of the last release: they do what the new ones do, and say which those are."""

import contextlib
import re
import warnings

import keras
import numpy as np
import pytest

import finegrain as fg
from optimizers.contract import rule

pytestmark = pytest.mark.one_backend


@contextlib.contextmanager
def deprecated(pattern):
    """Expects one warning of a name that goes, beside those that Keras's use of NumPy brings."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    messages = [str(w.message) for w in caught if "goes with the next release" in str(w.message)]
    assert len(messages) == 1, messages
    assert re.search(pattern, messages[0]), messages
    assert {w.category for w in caught} == {DeprecationWarning}
    assert any(w.filename == __file__ for w in caught), [w.filename for w in caught]


def test_frozen():
    with deprecated(r"routing.frozen goes.* Use .*constant_weights"):
        frozen = fg.routing.frozen
    assert frozen is fg.routing.constant_weights
    with pytest.raises(AttributeError, match=r"finegrain\.routing.*'thawed'"):
        fg.routing.thawed  # noqa: B018
    pair = [keras.layers.Dense(1), keras.layers.Dense(1)]
    with deprecated(r"GAN\(routing=...\) goes"):
        fg.models.GAN(*pair, latent_dim=2, routing="frozen")
    with deprecated(r"GAN\(gradient_penalty=...\) goes.* Use GAN\(penalties"):
        gan = fg.models.GAN(*pair, latent_dim=2, gradient_penalty=2.0)
    assert [penalty.weight for penalty in gan.penalties] == [2.0]


def test_decay():
    policy = fg.optimizers.PowerDecay(0.7)
    with deprecated("averaging"):
        optimizer = fg.optimizers.AdaptiveMoments(decay=policy)
    assert optimizer.averaging is policy
    with deprecated("averaging"):
        assert optimizer.decay is policy
    with pytest.raises(AttributeError, match="'AdaptiveMoments' object has no attribute 'decoy'"):
        optimizer.decoy  # noqa: B018


@pytest.mark.parametrize(
    ("setter", "value", "named"),
    [
        ("set_multiplier", 4.0, {"learning_rate_multiplier": 4.0}),
        ("set_learning_rate", 0.25, {"learning_rate": 0.25}),
        ("set_trainable", False, {"trainable": False}),
    ],
)
def test_setters(setter, value, named):
    (name,) = named
    first = {"learning_rate_multiplier": 2.0, "learning_rate": 0.5, "trainable": True}[name]
    optimizer = fg.PerWeight("sgd", [fg.Rule("bias", **{name: first})])
    with deprecated(rf"{setter} goes.*set\(rule, {name}=\.\.\."):
        getattr(optimizer, setter)("bias", value)
    assert optimizer.get("bias") == named


def test_setters_take_no_none():
    optimizer = fg.PerWeight("sgd", [rule("bias", 2.0)])
    with deprecated("set_multiplier"), pytest.raises(TypeError, match=r">= 0.*Received"):
        optimizer.set_multiplier("bias", None)
    assert np.isclose(optimizer.get("bias")["learning_rate_multiplier"], 2.0)


@pytest.mark.parametrize(
    ("arguments", "rule"),
    [
        ({"mode": "product", "gain_rate": 0.5}, "ProductGains(gain_rate=0.5)"),
        ({"mode": "sign", "max_gain": 9.0}, "SignGains(gain_rate=0.01, max_gain=9.0)"),
        (
            {"gain_rate": None, "tolerance": 0.1, "max_change": None},
            "Scale(gain_rate=20.0, tolerance=0.1, max_change=None, first_step=0.001)",
        ),
        (
            # Its gain rate was that of other averages.
            {"estimator": "drift", "gain_rate": 1.0, "memory": 0.9, "first_step": None},
            "Scale(gain_rate=20.0, tolerance=0.4, max_change=0.015, first_step=None)",
        ),
    ],
)
def test_modes_of_step_sizes(arguments, rule):
    with deprecated(r"AdaptiveStepSize\(.*rule="):
        optimizer = fg.optimizers.AdaptiveStepSize("sgd", **arguments)
    assert repr(optimizer.rule) == rule


def test_a_mode_by_its_place():
    with deprecated("AdaptiveStepSize"):
        optimizer = fg.optimizers.AdaptiveStepSize("sgd", "sign")
    assert isinstance(optimizer.rule, fg.optimizers.SignGains)
    with pytest.raises(ValueError, match="`mode` should be one of 'scale', 'product', 'sign'"):
        fg.optimizers.AdaptiveStepSize("sgd", mode="both")


def test_helpers_that_go():
    with deprecated("Rule.selects goes.* Use .*describe"):
        assert fg.Rule("bias", trainable=False).selects(keras.Variable(0.0, name="bias"))
    with deprecated(r"tagging.vocabulary goes.* Use .*chain"):
        assert fg.tagging.vocabulary([["a", "b"], [], ["a"]]) == {"a", "b"}
