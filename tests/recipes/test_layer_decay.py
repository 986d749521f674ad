"""Rates that fall from the output to the input, and blocks that are released one by one."""

import keras
import numpy as np
import pytest
from keras import layers, ops, optimizers

import drawn
import finegrain as fg
from compiling import JIT


def chain(*names):
    """A Sequential model of dense layers; `None` leaves the name to Keras."""
    dense = [layers.Dense(2, name=name) if name else layers.Dense(2) for name in names]
    return keras.Sequential([keras.Input((2,)), *dense])


def functional(*names):
    inputs = hidden = keras.Input((2,))
    for name in names:
        hidden = layers.Dense(2, name=name)(hidden)
    return keras.Model(inputs, hidden)


def multipliers(model, rules):
    """The multiplier of each weight, by the last two parts of its path."""
    rows = fg.PerWeight("sgd", rules).describe(model).to_dicts()
    return {row["path"]: row["learning_rate_multiplier"] for row in rows}


def of_layers(model, rules):
    """The multipliers of the layers with weights, in order, where a layer has only one."""
    of_path = multipliers(model, rules)
    found = {}
    for path, multiplier in of_path.items():
        assert found.setdefault(path.rpartition("/")[0], multiplier) == multiplier
    return list(found.values())


@pytest.mark.one_backend
class TestModels:
    @pytest.mark.parametrize("build", [chain, functional])
    def test_each_layer_is_a_level(self, build):
        """Four layers: decay³ to 1, for kernel and bias alike."""
        model = build("first", "second", "third", "head")
        rules = fg.layer_decay(model, 0.5)
        assert of_layers(model, rules) == [0.125, 0.25, 0.5, 1.0]
        assert [rule.name for rule in rules] == ["first", "second", "third"]

    def test_layers_that_keras_names(self):
        """`dense`, `dense_1`, …: levels of their own too, not blocks, wherever counting began."""
        for _ in range(2):
            model = chain(None, None, None)
            assert of_layers(model, fg.layer_decay(model, 0.5)) == [0.25, 0.5, 1.0]

    def test_layers_without_weights_are_no_levels(self):
        """Activations and dropout do not count."""
        model = keras.Sequential(
            [
                keras.Input((2,)),
                layers.Dense(2),
                layers.ReLU(),
                layers.Dropout(0.5),
                layers.Dense(2),
            ]
        )
        # Dropout has a seed, which is a variable, but no weight.
        assert of_layers(model, fg.layer_decay(model, 0.5)) == [0.5, 1.0]

    def test_numbered_blocks(self):
        """A block is a level; what is before them is one, and what is after them the head."""
        names = [
            "embeddings",
            "stem",
            "block_1_conv",
            "block_1_norm",
            "block_2_conv",
            "block_2_norm",
            "norm",
            "head",
        ]
        model = functional(*names)
        rules = fg.layer_decay(model, 0.5)
        assert of_layers(model, rules) == [0.125, 0.125, 0.25, 0.25, 0.5, 0.5, 1.0, 1.0]

    def test_ten_blocks_and_more(self):
        """They are in the model's order, not in that of their names."""
        names = [f"layer_{index}" for index in range(12)]
        model = functional(*names, "head")
        assert of_layers(model, fg.layer_decay(model, 0.5)) == [
            0.5**depth for depth in range(12, 0, -1)
        ] + [1.0]

    def test_without_a_head(self):
        """The last block is then the output level."""
        model = functional("embeddings", "block_0", "block_1")
        assert of_layers(model, fg.layer_decay(model, 0.5)) == [0.25, 0.5, 1.0]

    def test_nested_backbone(self):
        """A model in the model is entered; the head outside of it is the output level."""
        backbone = functional("embeddings", "block_0", "block_1")
        inputs = keras.Input((2,))
        model = keras.Model(inputs, layers.Dense(1, name="head")(backbone(inputs)))
        assert of_layers(model, fg.layer_decay(model, 0.5)) == [0.125, 0.25, 0.5, 1.0]

    def test_a_model_that_is_made_again(self):
        """A second encoder, which Keras calls `encoder_1`, has the levels of the first."""

        class Encoder(keras.Model):
            def __init__(self):
                super().__init__()
                self.steps = [layers.Dense(2) for _ in range(3)]

            def call(self, x):
                for step in self.steps:
                    x = step(x)
                return x

        for name in ("encoder", "encoder_1"):
            inputs = keras.Input((2,))
            model = keras.Model(inputs, layers.Dense(1, name="head")(Encoder()(inputs)))
            assert model.layers[1].name == name
            assert of_layers(model, fg.layer_decay(model, 0.5)) == [0.125, 0.25, 0.5, 1.0]

    def test_a_model_as_block(self):
        """Models that are numbered blocks are levels as a whole."""

        def block(name):
            inputs = keras.Input((2,))
            hidden = layers.Dense(2, name="a")(inputs)
            return keras.Model(inputs, layers.Dense(2, name="b")(hidden), name=name)

        inputs = keras.Input((2,))
        hidden = block("block_1")(block("block_0")(inputs))
        model = keras.Model(inputs, layers.Dense(2, name="head")(hidden))
        rules = fg.layer_decay(model, 0.5)
        rows = fg.PerWeight("sgd", rules).describe(model).to_dicts()
        found = [row["learning_rate_multiplier"] for row in rows]
        assert found == [0.25] * 4 + [0.5] * 4 + [1.0] * 2

    def test_frozen_layers_keep_their_level(self):
        """They get no rule; the others' rates are as if nothing were frozen."""
        model = chain("first", "second", "head")
        model.get_layer("second").trainable = False
        rules = fg.layer_decay(model, 0.5)
        assert [rule.name for rule in rules] == ["first"]
        assert of_layers(model, rules) == [0.25, 1.0]

    def test_no_decay(self):
        """At decay 1 there is nothing to say."""
        assert fg.layer_decay(chain("first", "head"), 1.0) == []

    def test_a_floor(self):
        """No multiplier falls below it."""
        model = chain("a", "b", "c", "head")
        rules = fg.layer_decay(model, 0.5, min_multiplier=0.3)
        assert of_layers(model, rules) == [0.3, 0.3, 0.5, 1.0]

    def test_a_rule_for_the_head_survives(self):
        """Also before these rules, since the output level has none; others are multiplied."""
        model = chain("first", "second", "head")
        head = fg.Rule("head", learning_rate_multiplier=100.0)
        first = fg.Rule("first", learning_rate_multiplier=7.0)
        decay = fg.layer_decay(model, 0.5)
        assert of_layers(model, [head, *decay]) == [0.25, 0.5, 100.0]
        assert of_layers(model, [*decay, head]) == [0.25, 0.5, 100.0]
        assert of_layers(model, [first, *decay]) == [1.75, 0.5, 1.0]
        assert of_layers(model, [*decay, first]) == [7.0, 0.5, 1.0]


@pytest.mark.one_backend
class TestLists:
    def test_layers(self):
        """From the input to the output; what is not in the list keeps its rate."""
        model = chain("first", "second", "head")
        first, second, head = model.layers
        assert of_layers(model, fg.layer_decay([first, head], 0.5)) == [0.5, 1.0, 1.0]
        assert of_layers(model, fg.layer_decay([head, second, first], 0.5)) == [1.0, 0.5, 0.25]

    def test_layers_that_share_a_level(self):
        """A list, or a tuple, within the list is one level."""
        model = chain("a", "b", "c", "head")
        a, b, c, head = model.layers
        for levels in ([[a, b], c, head], ((a, b), [c], [head])):
            assert of_layers(model, fg.layer_decay(levels, 0.5)) == [0.25, 0.25, 0.5, 1.0]

    def test_models_and_variables(self):
        """An item may be a whole model, or a weight."""
        backbone = functional("a", "b")
        inputs = keras.Input((2,))
        model = keras.Model(inputs, layers.Dense(1, name="head")(backbone(inputs)))
        assert of_layers(model, fg.layer_decay([backbone, model.layers[-1]], 0.5)) == [0.5, 0.5, 1]
        kernel = model.layers[-1].kernel
        found = multipliers(model, fg.layer_decay([kernel, model.layers[-1].bias], 0.5))
        assert [found["head/kernel"], found["head/bias"]] == [0.5, 1.0]


@pytest.mark.one_backend
class TestErrors:
    @pytest.mark.parametrize("bad", [0, 0.0, -0.5, 1.5, float("nan"), float("inf")])
    def test_decay_out_of_range(self, bad):
        """In (0, 1]."""
        with pytest.raises(ValueError, match=r"`decay` should be.*Received: decay="):
            fg.layer_decay(chain("a", "b"), bad)

    @pytest.mark.parametrize("bad", ["0.5", None, True, [0.5]])
    def test_decay_of_another_type(self, bad):
        """A number."""
        with pytest.raises(TypeError, match=r"`decay`.*Received: decay="):
            fg.layer_decay(chain("a", "b"), bad)

    @pytest.mark.parametrize("bad", [-0.1, float("nan"), float("inf")])
    def test_floor_out_of_range(self, bad):
        """A finite number that is not negative."""
        with pytest.raises(ValueError, match=r"`min_multiplier`.*Received: min_multiplier="):
            fg.layer_decay(chain("a", "b"), 0.5, min_multiplier=bad)

    def test_unbuilt_model(self):
        """It has no weights to select."""
        with pytest.raises(ValueError, match="build the model first"):
            fg.layer_decay(keras.Sequential([layers.Dense(2)]), 0.5)

    @pytest.mark.parametrize("bad", ["model", None, 3, ["dense"], [[None]]])
    def test_no_layers(self, bad):
        """A model or a list of layers."""
        with pytest.raises(TypeError, match="takes a model, or a list of layers"):
            fg.layer_decay(bad, 0.5)

    def test_an_empty_list(self):
        """Nothing to learn is an error too."""
        with pytest.raises(ValueError, match="needs layers with weights"):
            fg.layer_decay([], 0.5)


class TestTraining:
    def test_steps_of_sgd(self):
        """Weights of gradient 1 move by their own rates."""
        weights = {name: keras.Variable([0.0], name=name) for name in ("a", "b", "c")}
        rules = fg.layer_decay(list(weights.values()), 0.5)
        optimizer = fg.PerWeight(optimizers.SGD(1.0), rules)
        gradients = [ops.ones((1,)) for _ in weights]
        optimizer.apply(gradients, list(weights.values()))
        moved = [float(ops.convert_to_numpy(w)[0]) for w in weights.values()]
        assert moved == [-0.25, -0.5, -1.0]

    @pytest.mark.full
    def test_gradual_unfreezing(self):
        """Each block is released at its step, and is still to the last bit before."""
        model = chain("block_0", "block_1", "head")
        release = {"block_0": 4, "block_1": 2}

        def from_step(begin):
            return lambda step: ops.where(step >= begin, 1.0, 0.0)

        rules = [
            fg.Rule(name, learning_rate_multiplier=from_step(step))
            for name, step in release.items()
        ]
        model.compile(fg.PerWeight(optimizers.Adam(0.1), rules), "mse", jit_compile=JIT)
        seen = []

        class Look(keras.callbacks.Callback):
            def on_train_batch_end(self, batch, logs=None):
                seen.append([np.array(weight) for weight in self.model.get_weights()])

        start = [np.array(weight) for weight in model.get_weights()]
        random = drawn.generator(3)
        x, y = (random.normal(size=(12, 2)).astype("float32") for _ in range(2))
        model.fit(x, y, batch_size=2, verbose=0, callbacks=[Look()])
        begun = [
            [not np.array_equal(a, b) for a, b in zip(start, weights, strict=True)]
            for weights in seen
        ]
        # After each step: kernel and bias of block 0, of block 1, and of the head.
        expected = [[s >= 4, s >= 4, s >= 2, s >= 2, True, True] for s in range(6)]
        assert begun == expected

    @pytest.mark.full
    def test_kept_in_the_file(self, tmp_path):
        """The rules select by layers, and load with the model."""
        model = chain(None, None, "head")
        model.compile(fg.PerWeight("sgd", fg.layer_decay(model, 0.5)), "mse")
        x = np.ones((2, 2), "float32")
        model.fit(x, x, verbose=0)
        model.save(tmp_path / "model.keras")
        loaded = keras.models.load_model(tmp_path / "model.keras")
        rows = loaded.optimizer.describe(loaded).to_dicts()
        found = [row["learning_rate_multiplier"] for row in rows]
        assert found == [0.25, 0.25, 0.5, 0.5, 1.0, 1.0]


@pytest.mark.full
def test_bert_of_keras_hub():
    """Embeddings, three transformer layers and what comes after them: five levels."""
    hub = pytest.importorskip("keras_hub")
    backbone = hub.models.BertBackbone(
        vocabulary_size=11,
        num_layers=3,
        num_heads=2,
        hidden_dim=4,
        intermediate_dim=8,
        max_sequence_length=6,
    )
    tokens = backbone.output["sequence_output"]
    model = keras.Model(backbone.input, layers.Dense(2, name="tags")(tokens))
    rules = fg.layer_decay(model, 0.5)
    found = multipliers(model, rules)
    level = {"transformer_layer_0": 0.25, "transformer_layer_1": 0.5, "transformer_layer_2": 1.0}
    level = {name: multiplier * 0.5 for name, multiplier in level.items()}
    seen = set()
    for path, multiplier in found.items():
        block = next((name for name in level if path.startswith(f"{name}/")), None)
        if block is not None:
            assert multiplier == level[block], path
        elif "embedding" in path:
            assert multiplier == 0.0625, path
        else:
            assert multiplier == 1.0, path
        seen.add(multiplier)
    assert seen == {0.0625, 0.125, 0.25, 0.5, 1.0}
