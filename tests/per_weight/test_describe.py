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
    "factors",
    "dtype",
]


@pytest.fixture(autouse=True)
def eighty_columns(monkeypatch):
    """The terminal that text is made for."""
    monkeypatch.setenv("COLUMNS", "80")


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
    return Description([report(path, rules=("no decay", "slow")) for path in paths])


def report(path, factors=(), parameters=8, rate=1e-4, **fields):
    multiplier = float(np.prod([factor for _, factor in factors]))
    given = {
        "path": path,
        "shape": (2, 4),
        "parameters": parameters,
        "optimizer": "AdamW",
        "learning_rate_multiplier": multiplier,
        "effective_learning_rate": rate * multiplier,
        "weight_decay": 0.004,
        "gradient": (),
        "trainable": multiplier > 0,
        "rules": tuple(name for name, _ in factors),
        "factors": tuple(factors),
        "dtype": "float32",
    }
    return WeightReport(**given | fields)


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
                "factors": ((rules[-1], multiplier),) if rules else (),
                "dtype": "float32",
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

    @pytest.mark.parametrize("width", [70, 80, 140])
    @pytest.mark.parametrize("plain", [True, False])
    def test_paths_are_whole(self, width, plain, monkeypatch):
        """Broken at a slash where a terminal or console is narrow."""
        description = of_paths(PATHS)
        monkeypatch.setenv("COLUMNS", str(width))
        text = str(description) if plain else printed(description, width)
        assert max(map(len, text.splitlines())) <= width
        lines = first_column(text)
        assert "".join(lines) == "".join(PATHS)
        if width == 140:
            assert lines == PATHS
        names = {name for path in PATHS for name in path.split("/")}
        assert {name for line in lines for name in line.strip("/").split("/")} - {""} == names
        assert {"decay,", "slow"} <= set(text.split())

    def test_names_longer_than_the_room(self):
        """They are broken where nothing else can be done, and nothing is lost."""
        path = "layer_" + "x" * 60 + "/kernel"
        assert "".join(first_column(printed(of_paths([path]), 60))) == path

    @pytest.mark.parametrize(("terminal", "width"), [(30, 60), (60, 60), (80, 80)])
    def test_numbers_are_whole(self, terminal, width, monkeypatch):
        """At 80 columns with all that a table can have, at 60 with what each of them has."""
        factors = [("layer", 0.0123), ("B", 16.0)]
        row = {"gradient": ("Centralize()",), "dtype": "bfloat16"} if width == 80 else {}
        parts = [
            report(f"block_{i}/attention/query/kernel", factors, optimizer=name, **row)
            for i, name in enumerate(["AdamW", "AdamW", "AdaptiveStepSize"])
        ]
        monkeypatch.setenv("COLUMNS", str(terminal))
        text = str(Description([*parts, report("head/kernel", dtype="float32")]))
        assert max(map(len, text.splitlines())) <= width
        assert "…" not in text
        cells = text.split()
        for cell in ("0.197", "0.0123", "16", "1.97e-05", *["bfloat16"][: len(row)]):
            assert cells.count(cell) >= 3
        assert "AdaptiveStepSize" in cells

    def test_unknown_width(self, monkeypatch):
        """Eighty columns, where no terminal is."""
        expected = str(of_paths(PATHS))
        monkeypatch.delenv("COLUMNS")
        monkeypatch.setattr(
            "os.get_terminal_size", lambda descriptor: (_ for _ in ()).throw(OSError)
        )
        assert str(of_paths(PATHS)) == expected

    def test_large_model_folds(self):
        """Two hundred weights are a line a group, with the number of its weights."""
        model = large_model()
        description = optimizer_with(rule("bias", 2), rule("layer_99_", 4)).describe(model)
        assert len(description.to_dicts()) == 200
        assert [len(group) for group in description.groups()] == [99, 99, 1, 1]
        text = printed(description, 140)
        assert text.count("×99") == 2
        assert re.search(r"×99 +396 +1 +0\.5 +0\.004 +–", text)
        assert re.search(r"×99 +198 +2 +1 +0\.004 +bias", text)
        assert "200 weights, 600 parameters in all, float32, 0 held; all by AdamW" in text
        assert len(text.splitlines()) < 40
        assert "layer_50_" not in text

    @pytest.mark.parametrize(("width", "folds"), [(80, True), (160, False)])
    def test_what_is_long_at_this_width_folds(self, width, folds):
        """Thirty weights are a line each where their paths fit, else more than forty lines."""
        paths = [f"{PATHS[0].rpartition('/')[0]}/kernel_with_a_long_name_{i}" for i in range(30)]
        text = printed(of_paths(paths), width)
        assert ("×30" in text) == folds
        assert (text.count("kernel_with_a_long_name") == 30) == (not folds)

    def test_what_is_printed_below_counts(self):
        """Thirty lines and fifteen totals are too many, thirty and two are not."""
        for groups, folds in ((15, True), (2, False)):
            parts = [report(f"layer/{i}", [(f"r{i % groups}", 0.5)]) for i in range(30)]
            text = printed(Description(parts), 140)
            assert text.count("layer/… ×") == groups * folds
            assert len(text.splitlines()) <= 40

    def test_totals_where_they_sum_up(self):
        """Not where most weights are a group of their own."""
        parts = [report(f"layer_{i}/kernel", [(f"rule {i}", 0.5**i)]) for i in range(4)]
        assert "AdamW at" not in str(Description(parts))

    def test_rich_prints_the_same_table(self):
        """Printed by rich at eighty columns it is the plain text."""
        description = optimizer_with(rule("bias", 2)).describe(small_model())
        assert printed(description, 80) == str(description)

    @pytest.mark.parametrize("expression", ["[a-z]+", "head[/]", ":smile:|head"])
    def test_expressions_are_shown_as_they_are(self, expression):
        """Brackets and colons in an expression are no markup."""
        text = str(optimizer_with(rule(expression, 2)).describe(small_model()))
        assert text.count(expression) >= 2


def layers_of(multipliers, first=0, rest=()):
    """A kernel and a bias of each of numbered layers, which a rule each makes slower."""
    return [
        report(f"block_{i}/{name}", [(f"block_{i}", multiplier), *rest], weight_decay=decay)
        for i, multiplier in enumerate(multipliers, first)
        for name, decay in (("dense/kernel", 0.01), ("dense/bias", 0.0))
    ]


class TestSeries:
    """Groups of numbered layers, in a table that would be long without."""

    def test_of_layers(self):
        """One line for what is alike in all of them, with the first and the last rate."""
        rates = [0.5**i for i in range(21, 0, -1)]
        text = printed(Description(layers_of(rates)), 140)
        for name, decay in (("kernel", "0.01"), ("bias", "–")):
            cells = f"block_{{0…20}}/dense/{name} ×21  168  4.77e-07…0.5  4.77e-11…5e-05  {decay}"
            pattern = "  +".join(map(re.escape, f"{cells}  block_{{0…20}}".split("  ")))
            assert re.search(pattern, text)
        assert len(text.splitlines()) == 7

    def test_where_one_is_otherwise(self):
        """It stands alone, between two series."""
        blocks = layers_of([0.5**i for i in range(20, 0, -1)])
        factors = [("block_4", 0.5**16), ("fast", 3.0)]
        blocks[8] = report("block_4/dense/kernel", factors, weight_decay=0.01)
        text = printed(Description(blocks, fold_above=30), 140)
        for label in ("block_{0…3}/dense/kernel ×4", "block_{5…19}/dense/kernel ×15"):
            assert text.count(label) == 1
        assert re.search(r"block_4/dense/kernel .* = 1\.53e-05 × 3", text)
        assert "block_{0…19}/dense/bias ×20" in text

    def test_of_products(self):
        """Each factor with its first and last value."""
        rates = [0.5**i for i in range(24, 0, -1)]
        text = printed(Description(layers_of(rates, rest=[("B", 16.0)])), 140)
        assert "9.54e-07…8 = 5.96e-08…0.5 × 16" in text

    @pytest.mark.parametrize(
        "multipliers",
        [
            [0.1, 0.2] * 15,  # neither rising nor falling
            [0.5] * 30,  # the rules differ all the same
        ],
    )
    def test_rates_between_first_and_last(self, multipliers):
        """Only rates that all rise, fall or stay are shown as two numbers."""
        text = printed(Description(layers_of(multipliers)), 140)
        assert ("{" in text) == (len(set(multipliers)) == 1)

    def test_without_numbers(self):
        """Groups of one layer are no series."""
        parts = [report(f"layer/{name}", rate=i // 2 + 1.0) for i, name in enumerate("abcdef")]
        text = str(Description(parts, fold_above=2))
        assert text.count("layer/… ×2") == 3

    def test_short_tables_have_all_rates(self):
        """Three layers are three lines each."""
        text = str(Description(layers_of([0.25, 0.5, 0.75]), fold_above=5))
        assert "{" in text
        text = str(Description(layers_of([0.25, 0.5, 0.75])))
        assert "{" not in text


class TestFactors:
    @pytest.mark.parametrize(
        ("rules", "factors", "shown"),
        [
            ([], [], "1"),
            ([("slow", 0.5, {})], [0.5], "0.5"),
            ([("slow", 0.5, {}), ("B", 16, {"cumulative": True})], [0.5, 16], "8 = 0.5 × 16"),
            ([("a", 5, {"cumulative": True}), ("b", 0.5, {})], [0.5], "0.5"),
            ([("a", 0.5, {}), ("b", 1, {"cumulative": True})], [0.5, 1], "0.5"),
            ([("a", 0.5, {}), ("b", 4, {"trainable": True})], [4, 1], "4"),
            (
                [("a", 3, {"cumulative": True}), ("b", None, {"trainable": False})],
                [3, 0],
                "0 = 3 × 0",
            ),
        ],
    )
    def test_they_are_shown(self, rules, factors, shown):
        made = [
            fg.Rule("head/kernel", learning_rate_multiplier=multiplier, name=name, **arguments)
            for name, multiplier, arguments in rules
        ]
        description = optimizer_with(*made).describe(small_model())
        row = description.to_dicts()[2]
        assert [factor for _, factor in row["factors"]] == factors
        assert np.prod(factors) == row["learning_rate_multiplier"]
        (line,) = [line for line in str(description).splitlines() if "head/kernel" in line]
        assert re.search(rf" 4×2 +{re.escape(shown)} +(held|\d)", line)

    def test_their_names(self):
        """Rules in their order, the one that replaces others first; none for an absolute rate."""
        rules = [
            fg.Rule("head", learning_rate_multiplier=7.0, name="replaced"),
            fg.Rule("head", learning_rate=0.25, name="absolute"),
            rule("head/bias", 2.0, "relative"),
            fg.Rule("head", learning_rate_multiplier=3.0, cumulative=True, name="more"),
        ]
        kernel, bias = optimizer_with(*rules).describe(small_model()).to_dicts()[2:]
        assert kernel["factors"] == (("more", 3.0),)
        assert kernel["effective_learning_rate"] == 0.75
        assert bias["factors"] == (("relative", 2.0), ("more", 3.0))
        assert bias["effective_learning_rate"] == 3.0

    def test_now(self):
        """Of schedules and of numbers that were set, at the present step."""
        optimizer = optimizer_with(
            rule("head", lambda step: 0.5 + keras.ops.cast(step, "float32"), "warm-up"),
            fg.Rule("head", learning_rate_multiplier=4.0, cumulative=True, name="fast"),
        )
        optimizer.set("fast", learning_rate_multiplier=8.0)
        row = optimizer.describe(small_model()).to_dicts()[-1]
        assert row["factors"] == (("warm-up", 0.5), ("fast", 8.0))

    def test_warm_up(self):
        """Part of the factor of the rule that releases."""
        held = fg.Rule("head", trainable=False, warm_up=4, name="held")
        optimizer = optimizer_with(held, rule("head", 2.0, "fast"))
        model = small_model()
        optimizer.build(model.trainable_variables)
        assert optimizer.describe().to_dicts()[-1]["factors"] == (("fast", 2.0), ("held", 0.0))
        optimizer.set("held", trainable=True)
        assert optimizer.describe().to_dicts()[-1]["factors"] == (("fast", 2.0), ("held", 0.25))
        assert optimizer.describe().to_dicts()[-1]["effective_learning_rate"] == 0.25


class TestSizes:
    @pytest.mark.parametrize(
        ("parameters", "text"),
        [
            (999_999, "999,999"),
            (1_000_000, "1.0 M"),
            (23_837_184, "23.8 M"),
            (2_506e6, "2,506.0 M"),
        ],
    )
    def test_millions(self, parameters, text):
        """In a folded table and in its last line."""
        description = Description([report("embeddings", parameters=int(parameters))], fold_above=0)
        lines = str(description).splitlines()
        assert re.search(rf"embeddings +{re.escape(text)} +1 ", lines[3])
        assert f"1 weight, {text} parameters in all, float32" in lines[-1]

    def test_dtypes(self):
        """A column where they differ."""
        same = [report("a/kernel"), report("a/bias")]
        assert "dtype" not in str(Description(same))
        text = str(Description([*same, report("b/kernel", dtype="bfloat16")]))
        assert re.search(r"a/bias .* float32 ", text)
        assert re.search(r"b/kernel .* bfloat16 ", text)
        assert "parameters in all, 0 held" in text

    def test_of_a_model(self):
        model = keras.Sequential(
            [keras.Input((3,)), layers.Dense(4), layers.Dense(2, dtype="float16")]
        )
        dtypes = [row["dtype"] for row in optimizer_with().describe(model).to_dicts()]
        assert dtypes == ["float32"] * 2 + ["float16"] * 2


def muon(**arguments):
    return optimizers.Muon(0.5, **{"adam_lr_ratio": 0.25, "adam_weight_decay": 0.125} | arguments)


class TestMuon:
    """Keras's Muon moves what is no matrix by an AdamW within."""

    @pytest.mark.parametrize("where", ["wrapped", "rule"])
    def test_it_says_which(self, where):
        if where == "wrapped":
            optimizer = fg.PerWeight(muon(), [rule("head", 2.0)])
        else:
            rules = [fg.Rule(".", optimizer=muon(), name="matrices"), rule("head", 2.0)]
            optimizer = fg.PerWeight("sgd", rules)
        description = optimizer.describe(small_model())
        rows = description.to_dicts()
        assert [row["optimizer"] for row in rows] == ["Muon", "AdamW"] * 2
        assert [row["effective_learning_rate"] for row in rows] == [0.5, 0.125, 1.0, 0.25]
        assert [row["learning_rate_multiplier"] for row in rows] == [1, 1, 2, 2]
        assert [row["weight_decay"] for row in rows] == [0.004, 0.125] * 2
        assert len(description.groups()) == 4
        assert description.notes == [
            "Muon leaves what is no matrix, and embeddings, to its AdamW",
        ]

    def test_the_rate_is_that_of_its_steps(self):
        """The first step of Adam is the rate itself."""
        model = small_model()
        optimizer = fg.PerWeight(muon(weight_decay=0.0, adam_weight_decay=0.0), [rule("head", 2.0)])
        rates = [row["effective_learning_rate"] for row in optimizer.describe(model).to_dicts()]
        before = [keras.ops.convert_to_numpy(weight) for weight in model.weights]
        gradients = [keras.ops.ones(weight.shape) for weight in model.weights]
        optimizer.apply(gradients, model.trainable_variables)
        assert optimizer.effective_learning_rates() == rates
        for place in (1, 3):
            moved = before[place] - keras.ops.convert_to_numpy(model.weights[place])
            np.testing.assert_allclose(moved, rates[place], rtol=1e-4)

    def test_a_rule_of_decay(self):
        """It counts for both."""
        optimizer = fg.PerWeight(muon(), [fg.Rule("head", weight_decay=0.5)])
        rows = optimizer.describe(small_model()).to_dicts()
        assert [row["weight_decay"] for row in rows] == [0.004, 0.125, 0.5, 0.5]

    def test_beside_a_real_adamw(self):
        """No note where Muon has but matrices."""
        rules = [fg.Rule("kernel", optimizer=muon())]
        description = optimizer_with(*rules).describe(small_model())
        assert [row["optimizer"] for row in description.to_dicts()] == ["Muon", "AdamW"] * 2
        assert description.notes == []


class TestLearnedRates:
    def test_round_which_optimizer(self):
        adaptive = fg.optimizers.AdaptiveStepSize(optimizers.Adam(0.5))
        description = fg.PerWeight(adaptive).describe(small_model())
        (note,) = description.notes
        assert note == "AdaptiveStepSize round Adam learns the rates: shown as they are now"
        assert note in str(description)
        assert {row["optimizer"] for row in description.to_dicts()} == {"AdaptiveStepSize"}

    def test_round_muon(self):
        """Its AdamW has the rate that it has, and the decay is that of the whole."""
        adaptive = fg.optimizers.AdaptiveStepSize(muon())
        rows = fg.PerWeight(adaptive).describe(small_model()).to_dicts()
        assert [row["effective_learning_rate"] for row in rows] == [0.5, 0.125] * 2
        assert {row["weight_decay"] for row in rows} == {0.004}


def untrained(model):
    """The note on what is not trained, as {reason: (weights, parameters)}."""
    notes = [n for n in optimizer_with().describe(model).notes if n.startswith("not trained: ")]
    if not notes:
        return {}
    (note,) = notes
    parts = re.findall(r"(\d+) ([^(]+) \(([\d,.]+(?: M)?) parameters\)", note)
    return {reason: (int(count), size) for count, reason, size in parts}


class TestUntrained:
    """How many weights are not trained, and why."""

    def test_all_are(self):
        assert untrained(small_model()) == {}

    def test_frozen(self):
        model = small_model()
        model.get_layer("encoder").trainable = False
        assert untrained(model) == {"frozen": (2, "16")}

    def test_statistics(self):
        model = keras.Sequential([keras.Input((3,)), layers.BatchNormalization(), layers.Dense(2)])
        assert untrained(model) == {"statistics of BatchNormalization": (2, "6")}

    def test_lora(self):
        """What is under it, and what is frozen besides."""
        model = small_model()
        model.get_layer("head").enable_lora(2)
        model.get_layer("encoder").trainable = False
        assert untrained(model) == {"frozen": (2, "16"), "under LoRA": (1, "8")}

    @pytest.mark.parametrize("mode", ["int8", "int4"])
    def test_quantized(self, mode):
        """Kernels of four bits count as what they stand for, not as they are packed."""
        model = small_model()
        model.get_layer("head").quantize(mode)
        model.get_layer("head").enable_lora(2)
        found = untrained(model)
        assert found[f"{mode} kernels"] == (1, "8")
        assert found.keys() == {f"{mode} kernels", f"{mode} scales"}

    def test_without_a_model(self):
        """The weights that an optimizer was built with say nothing of others."""
        model = small_model()
        model.get_layer("encoder").trainable = False
        optimizer = optimizer_with()
        optimizer.build(model.trainable_variables)
        assert optimizer.describe().notes == []
