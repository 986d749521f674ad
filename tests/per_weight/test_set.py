"""`set` and `get`: what a rule says, changed and read while training goes on."""

import keras
import numpy as np
import pytest
from keras import optimizers

import finegrain as fg
from compiling import JIT
from covering import chosen
from optimizers.contract import assert_bit_equal, compiled, groups, push, train, values

OPTIMIZERS = {
    "sgd": lambda: optimizers.SGD(0.1, momentum=0.9),
    "adamw": lambda: optimizers.AdamW(0.01),
    "muon": lambda: optimizers.Muon(0.01),
    "adax": lambda: fg.optimizers.AdaX(0.1),
    "step_size": lambda: fg.optimizers.AdaptiveStepSize(
        optimizers.SGD(0.01), fg.optimizers.Scale(first_step=None)
    ),
}


class At(keras.callbacks.Callback):
    """Sets something as an epoch begins."""

    def __init__(self, **epochs):
        super().__init__()
        self.epochs = epochs

    def on_epoch_begin(self, epoch, logs=None):
        change = self.epochs.get(f"epoch_{epoch}")
        if change is not None:
            self.model.optimizer.set("all", **change)


def set_and_saved(optimizer, decay, folder):
    """A model whose head decayed by 0.5 and now by `decay`, and what its file gives."""
    rules = [fg.Rule("head", weight_decay=0.5)]
    model = push(compiled(fg.PerWeight(optimizer, rules)))
    model.optimizer.set("head", weight_decay=decay)
    model.save(folder / "model.keras")
    return model, keras.models.load_model(folder / "model.keras")


class TestWeightDecay:
    @pytest.mark.parametrize("kind", chosen(OPTIMIZERS, ["adamw", "step_size"]))
    def test_it_decays_as_under_a_rule_of_that_decay(self, kind, tmp_path):
        """From any step on, to the last digit or, compiled, up to rounding."""

        def model(decay):
            rules = [fg.Rule(".", weight_decay=decay, name="all")]
            made = compiled(fg.PerWeight(OPTIMIZERS[kind](), rules))
            made.optimizer.build(made.trainable_variables)
            return made

        mine, file = model(0.5), tmp_path / "model.weights.h5"
        start = values(mine.weights)
        for decay in (0.25, 0.75):
            train(mine)
            mine.save_weights(file)
            other = model(decay)
            other.load_weights(file)
            mine.optimizer.set("all", weight_decay=decay)
            train(mine)
            train(other)
            for ours, theirs, before in zip(
                values(mine.weights), values(other.weights), start, strict=True
            ):
                np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-7)
                assert np.abs(ours - before).max() > 1e-3

    def test_between_the_epochs_of_fit(self):
        """Nothing is compiled again, and the gradient of 0 leaves the decay alone to be seen."""
        weight = keras.layers.Dense(1, use_bias=False, kernel_initializer="ones")
        model = keras.Sequential([keras.Input((1,)), weight])
        rules = [fg.Rule(".", weight_decay=0.5, name="all")]
        model.compile(
            fg.PerWeight(optimizers.SGD(1.0), rules), lambda y, p: 0.0 * p, jit_compile=JIT
        )
        x = np.ones((1, 1), "float32")
        change = At(epoch_1={"weight_decay": 0.25}, epoch_2={"weight_decay": 0.0})
        seen = []

        class Note(keras.callbacks.Callback):
            def on_epoch_end(self, epoch, logs=None):
                seen.append(float(self.model.get_weights()[0][0, 0]))

        model.fit(x, x, epochs=3, callbacks=[change, Note()], verbose=0)
        assert seen == [0.5, 0.375, 0.375]
        assert model.optimizer.get("all") == {"weight_decay": 0.0}
        assert model.optimizer.describe().to_dicts()[0]["weight_decay"] == 0.0

    def test_it_is_saved(self, tmp_path):
        """With the state, and in the config."""
        model, again = set_and_saved(optimizers.AdamW(0.01), 0.125, tmp_path)
        assert again.optimizer.get("head") == {"weight_decay": 0.125}
        rules = [fg.Rule("head", weight_decay=0.5)]
        other = push(compiled(fg.PerWeight(optimizers.AdamW(0.01), rules)))
        model.save_weights(tmp_path / "model.weights.h5")
        other.load_weights(tmp_path / "model.weights.h5")
        assert other.optimizer.get("head") == {"weight_decay": 0.125}
        assert_bit_equal(push(again), push(model))

    def test_a_decay_of_zero_comes_back(self, tmp_path):
        """Set to 0 and saved, it can be set again: the step has it still."""
        model, again = set_and_saved(optimizers.SGD(0.1), 0.0, tmp_path)
        for one in (again, model):
            one.optimizer.set("head", weight_decay=0.25)
            push(one)
        assert_bit_equal(again, model)
        still = compiled(fg.PerWeight(optimizers.SGD(0.1), [fg.Rule("head", weight_decay=0.0)]))
        still.optimizer.build(still.trainable_variables)
        still.set_weights(again.get_weights())
        push(still)
        push(again)
        moved = zip(values(again.weights), values(still.weights), strict=True)
        assert [np.abs(a - b).max() > 1e-3 for a, b in moved] == [False, False, True, True]

    def test_of_a_rule_that_began_with_none(self):
        """Its steps have no decay to set, and the error says what to do."""
        optimizer = fg.PerWeight("adamw", [fg.Rule("bias", weight_decay=0.0)])
        with pytest.raises(ValueError, match="make it with the decay that it is to have later"):
            optimizer.set("bias", weight_decay=0.1)
        assert optimizer.get("bias") == {"weight_decay": 0.0}

    def test_of_a_rule_that_a_later_one_overrules(self):
        """It would change nothing."""
        rules = [fg.Rule("bias", weight_decay=0.5), fg.Rule(".", weight_decay=0.25)]
        model = push(compiled(fg.PerWeight("adamw", rules)))
        with pytest.raises(ValueError, match="a later rule decides"):
            model.optimizer.set("bias", weight_decay=0.1)
        model.optimizer.set(".", weight_decay=0.125)


@pytest.mark.one_backend
class TestTogether:
    def test_all_or_nothing(self):
        """What cannot be set leaves what could be as it was."""
        rules = [fg.Rule("bias", learning_rate_multiplier=2.0, weight_decay=0.5, trainable=True)]
        optimizer = fg.PerWeight("adamw", rules)
        said = {"learning_rate_multiplier": 2.0, "weight_decay": 0.5, "trainable": True}
        assert optimizer.get("bias") == said
        for bad in ({"learning_rate": 0.1}, {"weight_decay": -1.0}, {"trainable": 1}):
            arguments = {"learning_rate_multiplier": 3.0} | bad
            with pytest.raises((ValueError, TypeError), match="Received"):
                optimizer.set("bias", **arguments)
            assert optimizer.get("bias") == said
        optimizer.set("bias", learning_rate_multiplier=3.0, weight_decay=0.25, trainable=False)
        said = {"learning_rate_multiplier": 3.0, "weight_decay": 0.25, "trainable": False}
        assert optimizer.get("bias") == said

    def test_nothing(self):
        """A call that names no property is a mistake."""
        optimizer = fg.PerWeight("sgd", [fg.Rule("bias", trainable=True)])
        with pytest.raises(ValueError, match=r"such as set\('bias', trainable=False\)"):
            optimizer.set("bias")

    @pytest.mark.parametrize("trainable", [True, False])
    def test_a_multiplier_of_a_rule_that_says_trainable(self, trainable):
        """It is a factor of that, whether the other is given or not."""
        optimizer = fg.PerWeight("sgd", [fg.Rule("bias", trainable=False)])
        optimizer.set("bias", learning_rate_multiplier=0.5, trainable=trainable)
        expected = {"trainable": trainable}
        if trainable:
            expected["learning_rate_multiplier"] = 0.5
        assert optimizer.get("bias") == expected
        again = fg.PerWeight.from_config(optimizer.get_config())
        assert again.get("bias") == expected

    def test_schedules_are_read(self):
        """As they are at the present step."""
        schedule = optimizers.schedules.PolynomialDecay(1.0, 2, 0.0)
        model = compiled(fg.PerWeight("sgd", [fg.Rule("bias", learning_rate=schedule)]))
        assert model.optimizer.get("bias") == {"learning_rate": 1.0}
        push(model, 1)
        assert model.optimizer.get("bias") == {"learning_rate": 0.5}

    def test_an_unknown_rule(self):
        """Reading names the rules, too."""
        with pytest.raises(ValueError, match=r"the rules are \['bias'\]\. Received: 'head'"):
            fg.PerWeight("sgd", [fg.Rule("bias", trainable=True)]).get("head")


class TestDescribe:
    def test_without_a_model(self):
        """Once built, the optimizer knows its weights."""
        model = compiled(fg.PerWeight("sgd", groups()))
        with pytest.raises(ValueError, match="give it a model, or build the optimizer"):
            model.optimizer.describe()
        push(model)
        alone, given = model.optimizer.describe(), model.optimizer.describe(model)
        assert alone.to_dicts() == given.to_dicts()
