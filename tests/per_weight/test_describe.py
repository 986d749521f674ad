"""What `PerWeight.describe` tells, to people and to programs."""

import io
import re

import keras
import numpy as np
import pytest
from keras import layers, optimizers
from rich.console import Console

import finegrain as fg
from finegrain.per_weight.describe import Description, WeightReport

pytestmark = pytest.mark.one_backend

KEYS = [
    "path",
    "shape",
    "parameters",
    "optimizer",
    "learning_rate_multiplier",
    "effective_learning_rate",
    "weight_decay",
    "gradient",
    "trainable",
    "rules",
]


def small_model():
    return keras.Sequential(
        [
            keras.Input((3,)),
            layers.Dense(4, name="encoder"),
            layers.Dense(2, name="head"),
        ],
        name="model",
    )


PATHS = [
    f"transformer_layer_{layer}/self_attention_layer/{name}"
    for layer in (0, 1)
    for name in ("query/kernel", "attention_output/bias")
]


def of_paths(paths):
    """A description of weights of these paths, each under two rules."""
    rest = (1.0, 1e-4, 0.004, (), True, ("no decay", "slow"))
    return Description([WeightReport(path, (2, 4), 8, "AdamW", *rest) for path in paths])


def printed(description, width):
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(description)
    return console.file.getvalue()


def first_column(text):
    """What stands in the lines of the table's first column."""
    _, header, _, *lines = text.splitlines()
    table = lines[: next(place for place, line in enumerate(lines) if not line.strip())]
    return [line[: header.index("shape")].strip() for line in table]


def rule(weights, multiplier, name=None):
    return fg.Rule(weights, learning_rate_multiplier=multiplier, name=name)


def optimizer_with(*rules, **arguments):
    return fg.PerWeight(optimizers.AdamW(0.5, **arguments), rules)


class TestToDicts:
    def test_all_of_it(self):
        """Keys, their order, and what stands under each."""
        optimizer = optimizer_with(
            rule("encoder", 0.25, name="slow"), rule("bias", 2), weight_decay=0.125
        )
        rows = optimizer.describe(small_model()).to_dicts()
        assert [list(row) for row in rows] == [KEYS] * 4
        same = {"optimizer": "AdamW", "weight_decay": 0.125, "gradient": (), "trainable": True}
        assert rows == [
            same
            | {
                "path": path,
                "shape": shape,
                "parameters": parameters,
                "learning_rate_multiplier": multiplier,
                "effective_learning_rate": 0.5 * multiplier,
                "rules": rules,
            }
            for path, shape, parameters, multiplier, rules in [
                ("model/encoder/kernel", (3, 4), 12, 0.25, ("slow",)),
                ("model/encoder/bias", (4,), 4, 2.0, ("slow", "bias")),
                ("model/head/kernel", (4, 2), 8, 1.0, ()),
                ("model/head/bias", (2,), 2, 2.0, ("bias",)),
            ]
        ]

    @pytest.mark.parametrize("rate", ["number", "schedule"])
    def test_numbers_are_plain(self, rate):
        """Floats and integers of Python, whatever the backend keeps."""
        if rate == "schedule":
            rate = optimizers.schedules.ExponentialDecay(0.5, 2, 0.5)
        else:
            rate = 0.5
        optimizer = fg.PerWeight(optimizers.Adam(rate), [rule("bias", 2)])
        for row in optimizer.describe(small_model()).to_dicts():
            for key in ("learning_rate_multiplier", "effective_learning_rate", "weight_decay"):
                assert type(row[key]) is float, key
            assert type(row["parameters"]) is int
            assert type(row["shape"]) is tuple
            assert {type(size) for size in row["shape"]} == {int}
            assert type(row["trainable"]) is bool

    def test_before_and_after_training(self):
        """Training changes nothing but the rate of a schedule."""
        schedule = optimizers.schedules.PiecewiseConstantDecay([1], [0.5, 0.125])
        optimizer = fg.PerWeight(optimizers.SGD(schedule), [rule("bias", 2)])
        model = small_model()
        before = optimizer.describe(model).to_dicts()
        assert [row["effective_learning_rate"] for row in before] == [0.5, 1.0, 0.5, 1.0]
        model.compile(optimizer, "mse", run_eagerly=True)
        model.fit(np.ones((6, 3)), np.ones((6, 2)), batch_size=2, verbose=0)
        after = optimizer.describe(model).to_dicts()
        assert [row.pop("effective_learning_rate") for row in after] == [0.125, 0.25, 0.125, 0.25]
        for row in before:
            del row["effective_learning_rate"]
        assert after == before

    def test_after_a_change_at_run_time(self):
        """It shows multipliers and base rate as they are now."""
        optimizer = optimizer_with(rule("bias", 2))
        optimizer.set("bias", learning_rate_multiplier=4)
        optimizer.learning_rate = 0.25
        rows = optimizer.describe(small_model()).to_dicts()
        assert [row["learning_rate_multiplier"] for row in rows] == [1, 4, 1, 4]
        assert [row["effective_learning_rate"] for row in rows] == [0.25, 1.0, 0.25, 1.0]

    def test_weights_that_are_not_trained(self):
        """The table is of the weights that the optimizer moves."""
        model = keras.Sequential(
            [keras.Input((3,)), layers.BatchNormalization(name="norm"), layers.Dense(1)]
        )
        paths = [row["path"] for row in optimizer_with().describe(model).to_dicts()]
        assert paths == [weight.path for weight in model.trainable_variables]
        assert len(paths) == 4

    def test_scalar_weights(self):
        """A weight without axes has shape () and one parameter."""

        class Gain(layers.Layer):
            def build(self, input_shape):
                self.gain = self.add_weight(shape=(), name="gain")

            def call(self, x):
                return x * self.gain

        description = optimizer_with().describe(
            keras.Sequential([keras.Input((3,)), Gain(name="gain")])
        )
        (row,) = description.to_dicts()
        assert (row["shape"], row["parameters"]) == ((), 1)
        assert "scalar" in str(description)

    def test_weights_excluded_from_decay(self):
        """What does not decay has decay 0."""
        adamw = optimizers.AdamW(0.5, weight_decay=0.125)
        adamw.exclude_from_weight_decay(var_names=["bias"])
        rows = fg.PerWeight(adamw).describe(small_model()).to_dicts()
        assert [row["weight_decay"] for row in rows] == [0.125, 0.0, 0.125, 0.0]


class TestGroups:
    def test_weights_that_learn_alike(self):
        """They come together in order of first appearance, with all their parameters."""
        optimizer = optimizer_with(rule("bias", 2))
        groups = optimizer.describe(small_model()).groups()
        assert [[report.path for report in group] for group in groups] == [
            ["model/encoder/kernel", "model/head/kernel"],
            ["model/encoder/bias", "model/head/bias"],
        ]

    def test_rules_of_one_effect_stay_apart(self):
        """What another rule decides may change by itself at run time: it is another group."""
        optimizer = optimizer_with(rule("encoder", 2), rule("head", 2))
        assert len(optimizer.describe(small_model()).groups()) == 2

    def test_totals(self):
        """One line a group: its number of weights and parameters, and its rate."""
        lines = str(optimizer_with(rule("head/bias", 2)).describe(small_model())).splitlines()
        assert "3 weights, 24 parameters: AdamW at 0.5 (× 1)" in lines
        assert "1 weight, 2 parameters: AdamW at 1 (× 2)" in lines


def large_model(layer_count=100):
    """Two hundred weights, with the long paths that real models have."""
    inputs = keras.Input((2,))
    x = inputs
    for index in range(layer_count):
        name = f"bert_backbone_transformer_layer_{index}_self_attention_output"
        x = layers.Dense(2, name=name)(x)
    return keras.Model(inputs, x)


class TestPrinting:
    def test_no_weights(self):
        """A model without weights has a table without lines."""
        description = Description([])
        assert description.to_dicts() == description.groups() == []
        assert "0 weights" in str(description)

    def test_no_model(self):
        """What is no model is refused by name."""
        with pytest.raises(TypeError, match=r"a Keras model or layer.*model='encoder'"):
            fg.PerWeight("sgd").describe("encoder")

    def test_small_model_has_a_line_a_weight(self):
        """Each weight's line has its path, shape, multiplier, rate and rules."""
        optimizer = optimizer_with(rule("head/bias", 0.125, name="mine"), weight_decay=0.25)
        text = str(optimizer.describe(small_model()))
        (line,) = [line for line in text.splitlines() if "model/head/bias" in line]
        cells = line.replace("│", " ").split()
        assert cells == ["model/head/bias", "2", "0.125", "0.0625", "0.25", "mine"]
        assert "3×4" in text
        for weight in small_model().weights:
            assert weight.path in text

    def test_no_colour_codes(self):
        """`str` and `repr` are plain text."""
        description = optimizer_with().describe(small_model())
        assert "\x1b" not in str(description)
        assert repr(description) == str(description)

    @pytest.mark.parametrize("layer_count", [3, 100])
    def test_fits_in_eighty_columns(self, layer_count):
        """However many weights and however long their paths and rules."""
        rules = [
            rule(r"^bert_backbone_transformer_layer_[0-9]+_self_attention_output/kernel$", 1e-5),
            rule("bias", 12345.678),
        ]
        description = optimizer_with(*rules, weight_decay=0.0123456).describe(
            large_model(layer_count)
        )
        assert max(map(len, printed(description, 80).splitlines())) <= 80

    @pytest.mark.parametrize("width", [70, 80, 140, None])
    def test_paths_are_whole(self, width):
        """Broken at a slash where a console is narrow, and nowhere in plain text."""
        description = of_paths(PATHS)
        text = str(description) if width is None else printed(description, width)
        assert width is None or max(map(len, text.splitlines())) <= width
        lines = first_column(text)
        assert "".join(lines) == "".join(PATHS)
        if width in (140, None):
            assert lines == PATHS
        names = {name for path in PATHS for name in path.split("/")}
        assert {name for line in lines for name in line.strip("/").split("/")} - {""} == names
        assert {"decay,", "slow"} <= set(text.split())

    def test_names_longer_than_the_room(self):
        """They are broken where nothing else can be done, and nothing is lost."""
        path = "layer_" + "x" * 60 + "/kernel"
        assert "".join(first_column(printed(of_paths([path]), 60))) == path

    def test_large_model_folds(self):
        """Two hundred weights are a line a group, with the number of its weights."""
        model = large_model()
        description = optimizer_with(rule("bias", 2), rule("layer_99_", 4)).describe(model)
        assert len(description.to_dicts()) == 200
        assert [len(group) for group in description.groups()] == [99, 99, 1, 1]
        text = str(description)
        assert text.count("×99") == 2
        assert re.search(r"×99 +396 +1 +0\.5 +0\.004 +–", text)
        assert re.search(r"×99 +198 +2 +1 +0\.004 +bias", text)
        assert "200 weights, 600 parameters in all, 0 held" in text
        assert len(text.splitlines()) < 40
        assert "layer_50_" not in text

    def test_rich_prints_the_same_table(self):
        """Printed by rich at eighty columns it is the plain text."""
        description = optimizer_with(rule("bias", 2)).describe(small_model())
        assert printed(description, 80) == str(description)

    @pytest.mark.parametrize("expression", ["[a-z]+", "head[/]", ":smile:|head"])
    def test_expressions_are_shown_as_they_are(self, expression):
        """Brackets and colons in an expression are no markup."""
        text = str(optimizer_with(rule(expression, 2)).describe(small_model()))
        assert text.count(expression) >= 2
