"""`PerWeight.check`: what is expected of weights, in a test of one's own."""

import keras
import numpy as np
import pytest
from keras import layers, optimizers

import finegrain as fg

pytestmark = pytest.mark.one_backend


def model_with(names=("encoder", "head")):
    return keras.Sequential(
        [keras.Input((3,)), *[layers.Dense(3, name=name) for name in names]], name="model"
    )


def checked(*rules, **arguments):
    optimizer = fg.PerWeight(optimizers.AdamW(0.5, weight_decay=0.125, **arguments), rules)
    return optimizer, model_with()


SLOW = fg.Rule("encoder", learning_rate_multiplier=0.25, name="slow")
NO_DECAY = fg.Rule("bias$", weight_decay=0.0)


def message(optimizer, model, expected):
    with pytest.raises(AssertionError) as caught:
        optimizer.check(model, expected)
    return str(caught.value)


class TestWhatIsRight:
    @pytest.mark.parametrize(
        "expected",
        [
            {"kernel$": {"weight_decay": 0.125}, "bias$": {"weight_decay": 0}},
            {
                "encoder": {"learning_rate_multiplier": 0.25, "rules": ["slow"]},
                "h.*l$": {"rules": ()},
            },
            {"head": {"learning_rate": 0.5}, "encoder": {"effective_learning_rate": 0.125}},
            {"encoder": {"learning_rate": 0.125 * (1 + 9e-7)}},
            {".": {"optimizer": "AdamW", "trainable": True, "gradient": [], "dtype": "float32"}},
            {("encoder/kernel", "head/kernel"): {"weight_decay": np.float32(0.125)}},
            [(["encoder/kernel", "head/kernel"], {"weight_decay": 0.125})],
            {lambda weight: weight.name == "bias": {"weight_decay": 0.0}},
        ],
    )
    def test_nothing_happens(self, expected):
        rules = [SLOW, fg.Rule("encoder/bias", weight_decay=0.0, name="slow 2"), NO_DECAY]
        if "rules" in str(expected):
            rules = [SLOW]
        optimizer, model = checked(*rules)
        assert optimizer.check(model, expected) is None

    def test_layers_and_variables(self):
        optimizer, model = checked(SLOW, NO_DECAY)
        head = model.get_layer("head")
        optimizer.check(model, {head: {"learning_rate_multiplier": 1.0}})
        optimizer.check(model, [(head.bias, {"weight_decay": 0.0})])
        with pytest.raises(AssertionError, match="found 1"):
            optimizer.check(model, {head: {"learning_rate_multiplier": 0.25}})

    def test_transforms(self):
        """As objects, or as the table names them."""
        rules = [fg.Rule("head", gradient=[fg.gradients.Centralize(), fg.gradients.ClipNorm(1.0)])]
        optimizer, model = checked(*rules)
        labels = optimizer.describe(model).to_dicts()[-1]["gradient"]
        for gradient in (rules[0].gradient, list(labels), [fg.gradients.Centralize(), labels[1]]):
            optimizer.check(model, {"head": {"gradient": gradient}})
        text = message(optimizer, model, {"head": {"gradient": fg.gradients.Centralize()}})
        assert "expected [Centralize()]" in text
        assert f"found [Centralize(), {labels[1]}]" in text

    def test_held_and_frozen(self):
        """`trainable` is about frozen weights, too."""
        optimizer, model = checked(fg.Rule("head/bias", trainable=False))
        model.get_layer("encoder").trainable = False
        optimizer.check(model, {"encoder": {"trainable": False}, "kernel$": {"dtype": "float32"}})
        optimizer.check(model, {"bias$": {"trainable": False}})
        text = message(optimizer, model, {"kernel$": {"trainable": True}})
        assert "found False for model/encoder/kernel" in text
        assert "head" not in text

    def test_without_a_model(self):
        """The weights that the optimizer was built with."""
        optimizer, model = checked(SLOW)
        with pytest.raises(ValueError, match=r"`check` needs a model with trainable weights"):
            optimizer.check(None, {"encoder": {"rules": "slow"}})
        optimizer.build(model.trainable_variables)
        optimizer.check(None, {"encoder": {"rules": "slow"}})

    def test_as_it_is_now(self):
        optimizer, model = checked(SLOW)
        optimizer.set("slow", learning_rate_multiplier=0.5)
        optimizer.check(model, {"encoder": {"learning_rate_multiplier": 0.5}})
        optimizer.learning_rate = 0.25
        optimizer.check(model, {"encoder": {"learning_rate": 0.125}})


class TestDifferences:
    def test_all_of_it(self):
        """By selector and property, with the weights that share what was found."""
        optimizer, model = checked(SLOW, NO_DECAY)
        expected = {
            ".": {"weight_decay": 0.125, "learning_rate": 0.5},
            "kernel$": {"optimizer": "AdamW"},
            "head": {"trainable": False},
        }
        assert message(optimizer, model, expected).splitlines() == [
            "4 weights do not learn as expected:",
            "'.'",
            "  weight_decay: expected 0.125",
            "    found 0 for model/encoder/bias, model/head/bias",
            "  effective_learning_rate: expected 0.5",
            "    found 0.125 for model/encoder/kernel, model/encoder/bias",
            "'head'",
            "  trainable: expected False",
            "    found True for model/head/kernel, model/head/bias",
        ]

    def test_it_is_both_errors(self):
        optimizer, model = checked()
        with pytest.raises(ValueError, match="1 weight does not learn as expected"):
            optimizer.check(model, {"head/bias": {"weight_decay": 0.0}})
        with pytest.raises(AssertionError):
            optimizer.check(model, {"head/bias": {"weight_decay": 0.0}})

    def test_how_close_numbers_are(self):
        optimizer, model = checked()
        message(optimizer, model, {"head": {"learning_rate": 0.5 * (1 + 2e-6)}})
        message(optimizer, model, {"head": {"weight_decay": 0}})

    def test_it_is_not_too_long(self):
        """Many weights are counted, many differences cut."""
        model = model_with([f"layer_{i}" for i in range(40)])
        rules = [fg.Rule(f"layer_{i}/", learning_rate_multiplier=1 / (i + 2)) for i in range(40)]
        optimizer = fg.PerWeight("sgd", rules)
        text = message(optimizer, model, {"layer": {"weight_decay": 1.0, "learning_rate": 1.0}})
        assert "model/layer_1/bias and 76 more" in text
        assert len(text.splitlines()) == 22
        assert text.splitlines()[-1] == "… and 24 lines more"


class TestMistakes:
    @pytest.mark.parametrize(
        ("expected", "error", "match"),
        [
            ({"crf": {"weight_decay": 0}}, ValueError, "expression 'crf' selects no trainable"),
            (
                {("head", "crf"): {"weight_decay": 0}},
                ValueError,
                "expression 'crf' selects no trainable",
            ),
            ({"head": {"weight_deca": 0}}, ValueError, "did you mean 'weight_decay'"),
            ({"head": {"momentum": 0}}, ValueError, "Known are learning_rate_multiplier, "),
            ({"head": {"weight_decay": "0"}}, TypeError, "should be a number.*weight_decay='0'"),
            ({"head": {"learning_rate": True}}, TypeError, "`learning_rate` should be a number"),
            ({"head": {"trainable": 1}}, TypeError, "should be True or False"),
            ({"head": {"optimizer": optimizers.AdamW}}, TypeError, "name of an optimizer's class"),
            ({"head": {"dtype": np.float32}}, TypeError, "name of a dtype"),
            ({"head": {"rules": 3}}, TypeError, "names of all rules"),
            ({"head": {"gradient": 3}}, TypeError, "gradient transforms, or how the table"),
            ({"[": {"weight_decay": 0}}, ValueError, "valid regular expression"),
            ({3: {"weight_decay": 0}}, TypeError, "selects weights by"),
            ({"head": 0.1}, TypeError, r"\{selector: \{property: value\}\}"),
            ("head", TypeError, r"\{selector: \{property: value\}\}"),
            ({}, ValueError, "should name a property"),
            ({"head": {}}, ValueError, "should name a property"),
        ],
    )
    def test_they_are_named(self, expected, error, match):
        """As errors that are no failed expectation."""
        optimizer, model = checked()
        with pytest.raises(error, match=match) as caught:
            optimizer.check(model, expected)
        assert not isinstance(caught.value, AssertionError)

    def test_of_frozen_weights(self):
        optimizer, model = checked()
        model.get_layer("encoder").trainable = False
        with pytest.raises(ValueError, match=r"frozen weights alone.*weight_decay of model/enc"):
            optimizer.check(model, {"encoder": {"weight_decay": 0.125}})

    def test_no_model(self):
        optimizer, _ = checked()
        with pytest.raises(TypeError, match=r"`check` takes a Keras model or layer, or None"):
            optimizer.check("model", {"head": {"weight_decay": 0.125}})
        with pytest.raises(ValueError, match="build it first"):
            optimizer.check(keras.Sequential([layers.Dense(1)]), {"head": {"weight_decay": 0.1}})
