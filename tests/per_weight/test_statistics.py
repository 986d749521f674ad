"""What `describe` says of statistics that go on in held layers, and that its cure holds them."""

import keras
import numpy as np
import pytest
from keras import layers

import finegrain as fg

HELD = "held, but updated by training: the statistics of "
# Of a list of expressions each has to select something.
HELD_WEIGHTS = "inner_dense|norm"
CURE = "to hold those of BatchNormalization too, before compile"
RANDOM = np.random.default_rng(0)
X, Y = RANDOM.normal(3.0, 2.0, (8, 4)).astype("float32"), np.ones((8, 1), "float32")


def tagger():
    """A part with BatchNormalization, beside which stands another, within a model of its own."""
    x = keras.Input((4,))
    hidden = layers.Dense(3, name="inner_dense")(x)
    body = keras.Model(x, layers.BatchNormalization(name="inner_norm")(hidden), name="body")
    inputs = keras.Input((4,))
    hidden = layers.BatchNormalization(name="norm")(body(inputs))
    return keras.Model(inputs, layers.Dense(1, name="head")(hidden))


def notes(model, *rules):
    """The notes, but for that on what is not trained at all."""
    found = fg.PerWeight(keras.optimizers.SGD(0.1), rules).describe(model).notes
    return [note for note in found if not note.startswith("not trained: ")]


def train(model, *rules):
    model.compile(fg.PerWeight(keras.optimizers.SGD(0.1), rules), loss="mse")
    model.fit(X, Y, batch_size=4, epochs=20, verbose=0)


def statistics(model):
    norms = model.get_layer("norm"), model.get_layer("body").get_layer("inner_norm")
    kept = [(norm.moving_mean, norm.moving_variance) for norm in norms]
    return [keras.ops.convert_to_numpy(w) for pair in kept for w in pair]


def outputs(model):
    """What the held part makes of the data."""
    held = keras.Model(model.inputs[0], model.get_layer("norm").output)
    return keras.ops.convert_to_numpy(held(X))


def test_statistics_go_on_and_are_named():
    model = tagger()
    rule = fg.Rule(HELD_WEIGHTS, trainable=False)
    first, second, *code = notes(model, rule)
    assert first.startswith(HELD)
    for path in ("inner_norm", "norm"):
        assert f"{path} (moving_mean, moving_variance)" in first
    assert second == f"{CURE}:"
    assert len(code) == 4
    before = outputs(model)
    train(model, rule)
    assert np.abs(outputs(model) - before).max() > 0.1


def test_the_code_holds_them_as_it_is_pasted():
    model = tagger()
    rule = fg.Rule(HELD_WEIGHTS, trainable=False)
    _, _, *code = notes(model, rule)
    exec("\n".join(code), {"model": model})
    assert notes(model, rule) == []
    before, kept = outputs(model), statistics(model)
    train(model, rule)
    np.testing.assert_array_equal(outputs(model), before)
    np.testing.assert_array_equal(statistics(model), kept)


def test_what_would_be_left_with_nothing_is_named():
    """A selector that selects no trainable weight any more is an error."""
    model = tagger()
    rules = [
        fg.Rule(["norm", "inner_dense"], trainable=False),
        fg.Rule("gamma$", weight_decay=0.0, name="no decay"),
        fg.Rule("bias$|gamma$", weight_decay=0.0),
    ]
    _, second, *code = notes(model, *rules)
    assert second == f"{CURE}, and without rules on 'norm', 'gamma$':"
    exec("\n".join(code), {"model": model})
    for rule in rules[:2]:
        with pytest.raises(ValueError, match="selects no trainable weight"):
            notes(model, rule)
    train(model, fg.Rule("inner_dense", trainable=False), rules[-1])


class Codes(layers.Layer):
    """A layer of one's own that counts, and that has a normalization inside."""

    def build(self, shape):
        self.table = self.add_weight(shape=(shape[-1],), name="table")
        self.usage = self.add_weight(shape=(shape[-1],), trainable=False, name="usage")
        self.norm = layers.BatchNormalization(name="own_norm")
        self.norm.build(shape)

    def call(self, x, training=None):
        return self.norm(x * self.table, training=training)


@pytest.mark.one_backend
def test_layers_of_ones_own():
    model = keras.Sequential([keras.Input((3,)), Codes(name="codes"), layers.Dense(1, name="head")])
    first, _, *code = notes(model, fg.Rule("codes", trainable=False))
    assert "codes (usage)" in first
    assert "own_norm (moving_mean, moving_variance)" in first
    assert code == ["layer.trainable = False  # for each that is part of a layer of your own"]


@pytest.mark.one_backend
@pytest.mark.parametrize(
    "rules",
    [
        [],
        [fg.Rule("norm", learning_rate_multiplier=0.1)],
        [fg.Rule("head", trainable=False)],
        [fg.Rule("gamma$", trainable=False)],
        [fg.Rule("norm", trainable=True)],
    ],
)
def test_no_note_where_no_layer_is_held(rules):
    assert notes(tagger(), *rules) == []


@pytest.mark.one_backend
def test_no_note_on_constants():
    """The base of a layer under LoRA is no statistic."""
    model = keras.Sequential([keras.Input((4,)), layers.Dense(3, name="a"), layers.Dense(1)])
    model.get_layer("a").enable_lora(2)
    assert notes(model, fg.Rule("^((?!dense).)*$", trainable=False)) == []


@pytest.mark.one_backend
def test_the_code_is_for_narrow_terminals(monkeypatch):
    """A long place of a nested model is broken within brackets."""
    name = "a_backbone_with_a_name_of_forty_characters"
    inner = keras.Sequential([keras.Input((4,)), layers.BatchNormalization(name="norm")], name=name)
    model = keras.Sequential([keras.Input((4,)), inner, layers.Dense(1, name="head")])
    monkeypatch.setenv("COLUMNS", "80")
    printed = str(fg.PerWeight("sgd", [fg.Rule("norm", trainable=False)]).describe(model))
    assert max(map(len, printed.splitlines())) <= 80
    code = printed[printed.index("for name in") :]
    assert ".get_layer(name)).trainable" in code
    exec(code, {"model": model})
    assert not inner.get_layer("norm").trainable


@pytest.mark.one_backend
@pytest.mark.parametrize("names", [["norm"], [f"a_norm_with_a_long_name_{i}" for i in range(9)]])
def test_the_printed_code_runs(names):
    model = keras.Sequential([keras.Input((4,)), layers.Dense(4, name="dense")])
    for name in names:
        model.add(layers.BatchNormalization(name=name))
    optimizer = fg.PerWeight("sgd", [fg.Rule("dense|norm", trainable=False)])
    printed = str(optimizer.describe(model))
    exec(printed.partition(f"{CURE}:\n")[2], {"model": model})
    assert [model.get_layer(name).trainable for name in names] == [False] * len(names)
