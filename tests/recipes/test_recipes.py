"""What the recipes say of each weight, by hand, and put together."""

import keras
import numpy as np
import pytest
from keras import layers

import drawn
import finegrain as fg
from finegrain import recipes
from finegrain.recipes.roles import heads


class Attention(layers.Layer):
    """A block whose weights have every number of axes."""

    def __init__(self):
        super().__init__()
        self.attention = layers.MultiHeadAttention(2, 3, name="attention")
        self.norm = layers.LayerNormalization(name="norm")
        self.dense = layers.Dense(4, name="dense")

    def call(self, x):
        return self.dense(self.norm(x + self.attention(x, x)))


def transformer(width=4):
    inputs = keras.Input((5,), dtype="int32")
    x = layers.Embedding(9, width, name="embed")(inputs)
    attention = layers.MultiHeadAttention(2, width // 2, name="attention")
    x = layers.LayerNormalization(name="norm")(x + attention(x, x))
    x = layers.Dense(width, name="hidden")(x)
    return keras.Model(inputs, layers.Dense(2, name="head")(x))


def rows(model, rules, optimizer=None):
    """What describe says of each weight, by its path."""
    optimizer = keras.optimizers.AdamW(1e-3, weight_decay=0.5) if optimizer is None else optimizer
    table = fg.PerWeight(optimizer, rules).describe(model).to_dicts()
    return {row["path"]: row for row in table}


def by_path(model, rules, name):
    return {path: row[name] for path, row in rows(model, rules).items()}


@pytest.mark.one_backend
class TestRoles:
    def test_a_transformer(self):
        found = recipes.roles(transformer())
        expected = {"embed/embeddings": "embedding", "norm/gamma": "norm", "norm/beta": "norm"}
        for layer in ("hidden", "head", *(f"attention/{n}" for n in ("query", "key", "value"))):
            expected |= {f"{layer}/kernel": "kernel", f"{layer}/bias": "bias"}
        expected |= {f"attention/attention_output/{n}": r for n, r in _LINEAR.items()}
        assert found == expected

    def test_recurrent_and_convolutional_layers(self):
        model = keras.Sequential(
            [
                keras.Input((6, 8, 8, 3)),
                layers.ConvLSTM2D(2, 3, name="convlstm"),
                layers.SeparableConv2D(3, 3, name="separable"),
                layers.Conv2DTranspose(3, 3, name="up"),
                layers.GroupNormalization(1, name="groups"),
                layers.Reshape((-1, 3)),
                layers.Bidirectional(layers.GRU(2), name="both"),
            ]
        )
        found = {path.split("/", 1)[1]: role for path, role in recipes.roles(model).items()}
        kinds = {path.rpartition("/")[2]: role for path, role in found.items()}
        assert kinds["depthwise_kernel"] == kinds["pointwise_kernel"] == "convolution"
        assert {role for path, role in found.items() if "convlstm" in path} == {
            "convolution",
            "recurrent",
            "bias",
        }
        assert kinds["gamma"] == kinds["beta"] == "norm"
        gru = [role for path, role in found.items() if "both" in path]
        assert gru == ["kernel", "recurrent", "bias"] * 2
        assert found["up/kernel"] == "convolution"

    def test_a_crf(self):
        model = keras.Sequential([keras.Input((5, 4)), fg.layers.CRF(3, name="crf")])
        assert list(recipes.roles(model).values()) == [
            "kernel",
            "bias",
            "transitions",
            "transitions",
            "transitions",
        ]

    def test_lora_and_int8(self):
        """LoRA's factors are told apart; what is quantized does not learn."""
        model = keras.Sequential([keras.Input((4,)), layers.Dense(4), layers.Dense(4)])
        model.layers[0].enable_lora(2)
        found = recipes.roles(model)
        assert list(found.values()) == ["kernel", "bias", "lora_a", "lora_b", "kernel", "bias"]
        for layer in model.layers:
            layer.quantize("int8")
        again = recipes.roles(model)
        assert "kernel" not in again.values()
        assert {"lora_a", "lora_b", "bias"} == set(again.values())

    def test_an_unknown_weight_is_named(self):
        class Odd(layers.Layer):
            def build(self, shape):
                self.thing = self.add_weight(name="thing", shape=(3,))

            def call(self, x):
                return x * self.thing

        model = keras.Sequential([keras.Input((3,)), Odd(name="odd"), layers.Dense(2)])
        with pytest.raises(
            ValueError, match=r"role of \['[a-z0-9_/]*odd/thing'\].*roles=\{'thing\$': 'scal"
        ):
            recipes.no_weight_decay(model)
        path = model.layers[0].thing.path
        assert recipes.roles(model, {"thing$": "scale"})[path] == "scale"
        rules = recipes.no_weight_decay(model, roles={"thing$": "scale"})
        assert by_path(model, rules, "weight_decay")[path] == 0.0
        with pytest.raises(ValueError, match=r"A role should be one of .*'kernels'"):
            recipes.roles(model, {"thing$": "kernels"})
        with pytest.raises(ValueError, match="'nothing', which no weight"):
            recipes.roles(model, {"nothing": "scale"})

    @pytest.mark.parametrize("bad", ["model", None, layers.Dense(2)])
    def test_no_model(self, bad):
        for recipe in (recipes.roles, recipes.no_weight_decay, recipes.muon, recipes.lora_plus):
            with pytest.raises(TypeError, match=r"takes a keras\.Model"):
                recipe(bad)

    def test_rules_of_another_model(self):
        rules = recipes.no_weight_decay(transformer())
        with pytest.raises(ValueError, match="make the rule for this model"):
            fg.PerWeight("adam", rules).describe(transformer())

    def test_roles_of_another_type(self):
        with pytest.raises(TypeError, match=r"`roles` should be \{selector: role\}"):
            recipes.no_weight_decay(transformer(), roles=["bias"])

    def test_unbuilt_model(self):
        with pytest.raises(ValueError, match="build it first"):
            recipes.no_weight_decay(keras.Sequential([layers.Dense(2)]))


_LINEAR = {"kernel": "kernel", "bias": "bias"}


@pytest.mark.one_backend
class TestHeads:
    def test_the_last_kernels(self):
        assert [layer.name for layer in heads(transformer())] == ["head"]

    def test_two_outputs(self):
        inputs = keras.Input((3,))
        hidden = layers.Dense(4)(inputs)
        outputs = [layers.Dense(2, name="one")(hidden), layers.Dense(1, name="two")(hidden)]
        assert {layer.name for layer in heads(keras.Model(inputs, outputs))} == {"one", "two"}

    def test_a_block_is_no_head(self):
        inputs = keras.Input((5, 4))
        assert heads(keras.Model(inputs, Attention()(layers.Dense(4)(inputs)))) == []

    def test_head_first(self):
        model = transformer()
        found = by_path(model, recipes.head_first(model, 5), "learning_rate_multiplier")
        assert {path for path, multiplier in found.items() if multiplier == 5} == {
            "head/kernel",
            "head/bias",
        }
        found = by_path(
            model, recipes.head_first(model, head="hidden|head"), "learning_rate_multiplier"
        )
        assert sum(multiplier == 10 for multiplier in found.values()) == 4

    def test_no_head(self):
        inputs = keras.Input((5, 4))
        model = keras.Model(inputs, Attention()(inputs))
        with pytest.raises(ValueError, match=r"no head .* say what it is"):
            recipes.head_first(model)


@pytest.mark.one_backend
class TestNoWeightDecay:
    def test_biases_of_two_axes_and_norms(self):
        model = transformer()
        found = by_path(model, recipes.no_weight_decay(model), "weight_decay")
        spared = {path for path, decay in found.items() if decay == 0}
        assert spared == {p for p in found if p.endswith(("/bias", "/gamma", "/beta"))}
        assert set(found.values()) == {0.0, 0.5}

    def test_embeddings_too(self):
        model = transformer()
        found = by_path(model, recipes.no_weight_decay(model, embeddings=True), "weight_decay")
        assert found["embed/embeddings"] == 0.0
        assert found["head/kernel"] == 0.5

    def test_nothing_to_say(self):
        model = keras.Sequential([keras.Input((3,)), layers.Dense(2, use_bias=False)])
        assert recipes.no_weight_decay(model) == []

    def test_frozen_weights_have_no_rule(self):
        model = transformer()
        for layer in model.layers[1:]:
            layer.trainable = layer.name == "embed"
        assert recipes.no_weight_decay(model) == []


@pytest.mark.one_backend
class TestMuon:
    def test_hidden_matrices_alone(self):
        model = transformer()
        found = by_path(model, recipes.muon(model, 0.02), "optimizer")
        attention = [f"attention/{n}/kernel" for n in ("query", "key", "value", "attention_output")]
        expected = {"hidden/kernel", *attention}
        assert {path for path, kind in found.items() if kind == "Muon"} == expected
        assert rows(model, recipes.muon(model, 0.02))["hidden/kernel"][
            "effective_learning_rate"
        ] == pytest.approx(0.02)

    def test_axes_by_what_they_stand_for(self):
        model = transformer()
        axes = {rule.optimizer.axes: rule.name for rule in recipes.muon(model)}
        assert axes == {
            "ioo": "3 hidden matrices (ioo)",
            "iio": "1 hidden matrix (iio)",
            "io": "1 hidden matrix (io)",
        }

    def test_as_keras_with_excluded_layers(self):
        """On a model of matrices the split is that of Keras's own arguments."""
        model = keras.Sequential(
            [
                keras.Input((5,)),
                layers.Embedding(9, 4, name="embedding"),
                layers.Dense(4, name="one"),
                layers.LayerNormalization(),
                layers.Dense(4, name="two"),
                layers.Dense(2, name="head"),
            ]
        )
        found = by_path(model, recipes.muon(model), "optimizer")
        theirs = keras.optimizers.Muon(exclude_layers=["head"])
        for weight in model.trainable_variables:
            assert (found[weight.path] == "Muon") != theirs._should_use_adamw(weight)

    def test_tied_embeddings_are_embeddings(self):
        inputs = keras.Input((5,), dtype="int32")
        embed = layers.Embedding(9, 4, name="embed")
        x = layers.Dense(4, name="hidden")(embed(inputs))
        model = keras.Model(inputs, keras.ops.matmul(x, keras.ops.transpose(embed.embeddings)))
        found = by_path(model, recipes.muon(model, head=()), "optimizer")
        assert found["embed/embeddings"] == "AdamW"

    def test_arguments_and_another_head(self):
        model = transformer()
        rules = recipes.muon(model, head="hidden", momentum=0.5, weight_decay=0.25)
        found = rows(model, rules)
        assert found["head/kernel"]["optimizer"] == "Muon"
        assert found["hidden/kernel"]["optimizer"] == "AdamW"
        assert found["head/kernel"]["weight_decay"] == 0.25
        assert rules[0].optimizer.momentum == 0.5

    def test_a_head_that_is_not_there(self):
        with pytest.raises(ValueError, match="Received: head='nothing'"):
            recipes.muon(transformer(), head="nothing")

    def test_a_model_without_hidden_matrices(self):
        model = keras.Sequential([keras.Input((3,)), layers.Dense(2)])
        with pytest.raises(ValueError, match="no hidden matrix"):
            recipes.muon(model)


class TestLoRAPlus:
    def model(self):
        model = keras.Sequential(
            [keras.Input((3,)), layers.Dense(4, name="a"), layers.Dense(2, name="b")]
        )
        for layer in model.layers:
            layer.enable_lora(2)
        return model

    def test_ratio_also_on_top_of_layer_decay(self):
        model = self.model()
        rules = [*recipes.layer_decay(model, 0.5), *recipes.lora_plus(model, 8)]
        found = {
            tuple(path.split("/")[1:]): row["learning_rate_multiplier"]
            for path, row in rows(model, rules).items()
        }
        for layer, level in (("a", 0.5), ("b", 1.0)):
            assert found[layer, "lora_kernel_a"] == level
            assert found[layer, "lora_kernel_b"] == 8 * level

    def test_steps(self):
        """SGD moves B eight times as far as at ratio 1, and A as far."""
        x = drawn.generator(1).normal(size=(8, 3)).astype("float32")
        moved = []
        for ratio in (1.0, 8.0):
            keras.utils.set_random_seed(0)
            model = self.model()
            for layer in model.layers:  # B = 0 would leave A without a gradient
                layer.lora_kernel_b.assign(np.full(layer.lora_kernel_b.shape, 0.1))
            before = [keras.ops.convert_to_numpy(weight) for weight in model.trainable_variables]
            optimizer = fg.PerWeight(keras.optimizers.SGD(1e-3), recipes.lora_plus(model, ratio))
            model.compile(optimizer, "mse")
            model.train_on_batch(x, np.ones((8, 2), "float32"))
            after = [keras.ops.convert_to_numpy(weight) for weight in model.trainable_variables]
            names = [weight.name for weight in model.trainable_variables]
            moved.append([b - a for a, b in zip(before, after, strict=True)])
        for name, once, eight in zip(names, *moved, strict=True):
            times = 8 if name == "lora_kernel_b" else 1
            np.testing.assert_allclose(eight, times * once, rtol=1e-3, atol=1e-6)

    @pytest.mark.one_backend
    def test_without_lora(self):
        with pytest.raises(ValueError, match="has no LoRA: call `enable_lora"):
            recipes.lora_plus(transformer())

    @pytest.mark.one_backend
    @pytest.mark.parametrize("ratio", [0, -1, float("inf")])
    def test_wrong_ratio(self, ratio):
        with pytest.raises(ValueError, match="`ratio`"):
            recipes.lora_plus(self.model(), ratio)


class TestMup:
    @pytest.mark.one_backend
    def test_by_hand(self):
        """Table 3 of the paper: with Adam and with SGD, for four times the width."""
        model, base = transformer(16), transformer(4)
        adam = by_path(model, recipes.mup(model, base), "learning_rate_multiplier")
        wider = {"hidden/kernel", "head/kernel"} | {
            f"attention/{n}/kernel" for n in ("query", "key", "value", "attention_output")
        }
        assert {path for path, multiplier in adam.items() if multiplier == 0.25} == wider
        assert {adam[path] for path in adam.keys() - wider} == {1.0}
        sgd = by_path(model, recipes.mup(model, base, optimizer="sgd"), "learning_rate_multiplier")
        assert sgd["hidden/kernel"] == 1.0
        assert sgd["head/kernel"] == 0.25
        assert sgd["head/bias"] == 1.0
        assert sgd["embed/embeddings"] == sgd["hidden/bias"] == sgd["norm/gamma"] == 4.0

    @pytest.mark.one_backend
    def test_convolutions(self):
        def net(width):
            return keras.Sequential(
                [
                    keras.Input((8, 8, 3)),
                    layers.Conv2D(width, 3, name="first"),
                    layers.DepthwiseConv2D(3, name="depth"),
                    layers.Conv2DTranspose(width, 3, name="up"),
                    layers.Flatten(),
                    layers.Dense(2, name="head"),
                ]
            )

        model, base = net(8), net(4)
        found = by_path(model, recipes.mup(model, base), "learning_rate_multiplier")
        found = {path.partition("/")[2]: m for path, m in found.items()}
        assert [found[f"{n}/kernel"] for n in ("first", "depth", "up", "head")] == [1, 1, 0.5, 0.5]

    @pytest.mark.one_backend
    def test_other_layers(self):
        with pytest.raises(ValueError, match="differ in their widths alone"):
            recipes.mup(transformer(), keras.Sequential([keras.Input((3,)), layers.Dense(2)]))
        with pytest.raises(ValueError, match="Received: optimizer='adamw'"):
            recipes.mup(transformer(), transformer(), optimizer="adamw")

    @pytest.mark.one_backend
    def test_the_same_width_needs_no_rules(self):
        assert recipes.mup(transformer(), transformer()) == []

    @pytest.mark.full
    @pytest.mark.parametrize("optimizer", ["adam", "sgd"])
    def test_outputs_change_alike_at_each_width(self, optimizer):
        """After a few steps outputs have changed as much in a wide model as in a narrow one.

        Without the rules Adam changes those of the wide one much more.
        """
        rates = {"adam": 0.01, "sgd": 0.0125}

        def net(width):
            return keras.Sequential(
                [
                    keras.Input((8,)),
                    layers.Dense(width, "relu", kernel_initializer="he_normal", name="first"),
                    layers.Dense(width, "relu", kernel_initializer="he_normal", name="hidden"),
                    layers.Dense(1, kernel_initializer="zeros", name="head"),
                ]
            )

        random = drawn.generator(2)
        x = random.normal(size=(64, 8)).astype("float32")
        y = np.sin(x.sum(1, keepdims=True)).astype("float32")

        def change(width, with_rules):
            """How much three steps change the outputs, in root mean square, over two seeds."""
            found = []
            for seed in (0, 1):
                keras.utils.set_random_seed(seed)
                model = net(width)
                rules = recipes.mup(model, net(128), optimizer=optimizer) if with_rules else []
                wrapped = keras.optimizers.get(
                    {"class_name": optimizer, "config": {"learning_rate": rates[optimizer]}}
                )
                model.compile(fg.PerWeight(wrapped, rules), "mse", run_eagerly=True)
                before = keras.ops.convert_to_numpy(model(x))
                for _ in range(3):
                    model.train_on_batch(x, y)
                found.append(np.sqrt(np.mean((keras.ops.convert_to_numpy(model(x)) - before) ** 2)))
            return np.mean(found)

        narrow = change(128, with_rules=True)
        wide = change(1024, with_rules=True)
        assert 0.6 < wide / narrow < 1.6
        without = change(1024, with_rules=False)
        assert not 0.5 < without / narrow < 2.0


@pytest.mark.one_backend
class TestCRF:
    def test_transitions_alone(self):
        model = keras.Sequential(
            [keras.Input((5, 4)), layers.Dense(4, name="start"), fg.layers.CRF(3, name="crf")]
        )
        found = by_path(model, recipes.crf(50), "learning_rate_multiplier")
        fast = {path.partition("/")[2] for path, multiplier in found.items() if multiplier == 50}
        assert fast == {"crf/transitions", "crf/start", "crf/end"}


@pytest.mark.one_backend
def test_discriminative():
    model = keras.Sequential([keras.Input((2,)), *(layers.Dense(2) for _ in range(3))])
    found = list(by_path(model, recipes.discriminative(model), "learning_rate_multiplier").values())
    np.testing.assert_allclose(found[::2], [2.6**-2, 2.6**-1, 1.0])
    with pytest.raises(ValueError, match="`factor` should be at least 1"):
        recipes.discriminative(model, 0.5)


class TestTogether:
    def test_all_of_them(self, tmp_path):
        """They compose, train, and are saved and loaded with the model."""
        model = transformer()
        rules = [
            *recipes.layer_decay(model, 0.5),
            *recipes.head_first(model, 4),
            *recipes.no_weight_decay(model),
            *recipes.muon(model, 0.02),
        ]
        before = rows(model, rules)
        assert before["head/kernel"]["learning_rate_multiplier"] == 4.0
        assert before["hidden/kernel"]["optimizer"] == "Muon"
        assert before["hidden/kernel"]["learning_rate_multiplier"] == 0.5
        assert before["hidden/bias"]["weight_decay"] == 0.0
        optimizer = fg.PerWeight(keras.optimizers.AdamW(1e-3, weight_decay=0.5), rules)
        model.compile(optimizer, "mse", run_eagerly=True)
        x = np.ones((4, 5), "int32")
        y = np.ones((4, 5, 2), "float32")
        model.fit(x, y, verbose=0)
        model.save(tmp_path / "model.keras")
        loaded = keras.models.load_model(tmp_path / "model.keras")
        table = loaded.optimizer.describe(loaded).to_dicts()
        ignored = ("rules",)
        for row in table:
            mine = before[row["path"]]
            for key in mine.keys() - set(ignored):
                assert row[key] == mine[key], (row["path"], key)

    @pytest.mark.full
    def test_mixed_precision_and_accumulation(self):
        """Two halves of a batch accumulated are the whole; in bfloat16 variables stay float32."""
        x = drawn.generator(4).integers(1, 9, (8, 5)).astype("int32")
        y = np.ones((8, 5, 2), "float32")
        found = []
        for accumulated in (None, 2):
            with_policy = keras.dtype_policies.DTypePolicy("mixed_bfloat16")
            keras.config.set_dtype_policy(with_policy if accumulated == 2 else "float32")
            try:
                keras.utils.set_random_seed(0)
                model = transformer()
            finally:
                keras.config.set_dtype_policy("float32")
            rules = [
                *recipes.layer_decay(model, 0.5),
                *recipes.no_weight_decay(model),
                *recipes.muon(model, 0.02),
            ]
            inner = keras.optimizers.AdamW(1e-2, gradient_accumulation_steps=accumulated)
            model.compile(fg.PerWeight(inner, rules), "mse", run_eagerly=True)
            start = [keras.ops.convert_to_numpy(w) for w in model.trainable_variables]
            for part in np.split(np.arange(8), accumulated or 1):
                model.train_on_batch(x[part], y[part])
            assert {w.dtype for w in model.trainable_variables} == {"float32"}
            end = [keras.ops.convert_to_numpy(w) for w in model.trainable_variables]
            found.append([b - a for a, b in zip(start, end, strict=True)])
        paths = [weight.path for weight in model.trainable_variables]
        for path, whole, halves in zip(paths, *found, strict=True):
            if path == "attention/key/bias":
                continue  # no loss depends on it, and it moves by rounding errors
            # Adam's first step and Muon's are of full size, whatever the gradient's: signs agree.
            assert (np.sign(whole) == np.sign(halves)).mean() > 0.8
            np.testing.assert_allclose(np.abs(halves).max(), np.abs(whole).max(), rtol=0.1)
