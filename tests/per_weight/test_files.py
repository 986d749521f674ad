"""Files of models with rules: written before the first step, at other paths, legacy `.h5`."""

import keras
import numpy as np
import pytest
from keras import layers, optimizers

import finegrain as fg
from finegrain.per_weight.places import match_weights
from optimizers.contract import ONES, fill, rule, state, train, values
from optimizers.warned import warned

BACKEND = keras.backend.backend()


@keras.saving.register_keras_serializable(package="finegrain_tests")
class Tagger(keras.Model):
    """A subclassed model; Keras builds it anew when it loads it."""

    def __init__(self, **arguments):
        super().__init__(**arguments)
        self.encoder = layers.Dense(4, name="encoder")
        self.head = layers.Dense(2, name="head")

    def call(self, inputs):
        return self.head(self.encoder(inputs))


@keras.saving.register_keras_serializable(package="finegrain_tests")
class BuildsItself(Tagger):
    """The same with a `build`, whose name Keras counts anew."""

    def build(self, shape):
        self.encoder.build(shape)
        self.head.build((None, 4))
        self.built = True


def sequential():
    return keras.Sequential(
        [keras.Input((3,)), layers.Dense(4, name="encoder"), layers.Dense(2, name="head")],
        name="tagger",
    )


def called(kind):
    model = kind(name="tagger")
    model(np.ones((1, 3), "float32"))
    return model


MODELS = {
    "sequential": sequential,
    "subclassed": lambda: called(Tagger),
    "builds itself": lambda: called(BuildsItself),
}
every_model = pytest.mark.parametrize("kind", MODELS)


@keras.saving.register_keras_serializable(package="finegrain_tests")
def is_bias(variable):
    return variable.name == "bias"


SELECTORS = {
    "layer": lambda model: [rule(model.layers[-1], 3.0)],
    "variable": lambda model: [rule(model.layers[-1].kernel, 3.0)],
    "layers": lambda model: fg.layer_decay(model.layers, 0.5),
    "name": lambda model: [rule("tagger/head", 3.0)],
    "anchored": lambda model: [rule(r"^tagger/(head|encoder)/kernel$", 3.0)],
    "either": lambda model: [rule("tagger/encoder|head/bias", 3.0)],
    "function": lambda model: [fg.Rule(is_bias, trainable=False)],
}


def outcome(model):
    """How each weight learns, by its place in the model."""
    rows = model.optimizer.describe(model).to_dicts()
    return [{key: row[key] for key in row if key not in ("path", "rules")} for row in rows]


class TestBeforeTheFirstStep:
    @pytest.mark.selected(
        "layer-sequential",
        "variable-subclassed",
        "layers-builds itself",
        "name-sequential",
        "anchored-subclassed",
        "either-builds itself",
        "function-sequential",
    )
    @every_model
    @pytest.mark.parametrize("selector", SELECTORS)
    def test_it_loads(self, selector, kind, tmp_path):
        """The rules mean the same weights at the paths that Keras gives them on loading."""
        model = MODELS[kind]()
        model.compile(fg.PerWeight("sgd", SELECTORS[selector](model)), "mse")
        config = model.optimizer.get_config()
        for turn in range(2):  # a file of what was loaded, too
            model.save(tmp_path / f"{turn}.keras")
            again = keras.models.load_model(tmp_path / f"{turn}.keras")
            assert again.optimizer.get_config() == config
            assert outcome(again) == outcome(model)
            model = again

    def test_what_cannot_be_found(self, tmp_path):
        """The model loads, with a warning; to train it is the error."""
        model = sequential()
        model.compile(fg.PerWeight("sgd", [rule("tagger", 3.0)]), "mse", run_eagerly=True)
        model.save(tmp_path / "model.keras")
        with warned(r"'tagger' selects no trainable weight.*compile the model"):
            again = keras.models.load_model(tmp_path / "model.keras")
        x = np.ones((4, 3), "float32")
        np.testing.assert_array_equal(again.predict(x, verbose=0), model.predict(x, verbose=0))
        with pytest.raises(ValueError, match=r"'tagger' selects no trainable weight.*comes from"):
            again.fit(x, np.ones((4, 2)), verbose=0)
        again.compile(fg.PerWeight("sgd", [rule("head", 3.0)]), "mse", run_eagerly=True)
        again.fit(x, np.ones((4, 2)), verbose=0)

    def test_two_weights_that_came_to_one_path(self, tmp_path):
        """Neither is guessed."""
        inputs = keras.Input((3,))
        left, right = (
            keras.Sequential([layers.Dense(3, name="dense")], name=name)
            for name in ("left", "right")
        )
        model = keras.Model(inputs, right(left(inputs)))
        model.compile(fg.PerWeight("sgd", [rule("left/dense", 3.0)]), "mse")
        model.save(tmp_path / "model.keras")
        with warned("'left/dense' selects no trainable weight"):
            keras.models.load_model(tmp_path / "model.keras")


class TestAfterSteps:
    @every_model
    def test_the_config_stays(self, kind, tmp_path):
        """Through a load, at whatever paths."""
        model = MODELS[kind]()
        rules = [rule(model.layers[-1], 3.0), fg.Rule(lambda v: v.name == "bias", trainable=False)]
        model.compile(fg.PerWeight("adam", rules), "mse", run_eagerly=True)
        train(model)
        model.save(tmp_path / "model.keras")
        again = keras.models.load_model(tmp_path / "model.keras")
        assert again.optimizer.get_config() == model.optimizer.get_config()
        assert outcome(again) == outcome(model)

    def test_learned_step_sizes_round_rules(self, tmp_path):
        """What rules within AdaptiveStepSize select is in the file as well."""
        model = sequential()
        inner = fg.PerWeight("adam", [rule(model.layers[-1], 3.0), rule("tagger/encoder", 0.5)])
        model.compile(fg.optimizers.AdaptiveStepSize(inner), "mse", run_eagerly=True)
        train(model)
        model.save(tmp_path / "model.keras")
        again = keras.models.load_model(tmp_path / "model.keras")
        for one in (model, again):
            train(one)
        for mine, other in zip(values(again.weights), values(model.weights), strict=True):
            np.testing.assert_array_equal(mine, other)


def noise():
    return fg.gradients.Noise(0.01, seed=1)


OPTIMIZERS = {
    "rules": lambda: fg.PerWeight(
        optimizers.Adam(0.1),
        [
            rule("head", 2.0),
            fg.Rule("bias", optimizer=optimizers.Adam(0.2)),
            fg.Rule("kernel", gradient=[noise(), noise()]),
            fg.Rule(".", gradient=noise()),
        ],
        nonfinite="skip",
    ),
    "averages": lambda: fg.PerWeight(
        optimizers.Adam(0.1, use_ema=True, gradient_accumulation_steps=2), [rule("head", 2.0)]
    ),
    "step sizes in rules": lambda: fg.PerWeight(
        fg.optimizers.AdaptiveStepSize(optimizers.Adam(0.1)), [rule("head", 2.0)]
    ),
    "rules in step sizes": lambda: fg.optimizers.AdaptiveStepSize(
        fg.PerWeight(optimizers.Adam(0.1), [rule("head", 2.0)])
    ),
    "adax": lambda: fg.optimizers.AdaX(0.1),
    "exponentiated gradient": lambda: fg.optimizers.ExponentiatedGradient(0.1),
}


@pytest.mark.full
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_legacy_h5_file(name, tmp_path):
    """It is written, by `ModelCheckpoint` too, and holds what the model was; as with Adam.

    Keras builds the optimizer of a functional model in such a file for no weights at all, so that
    what is loaded can be compiled anew, and not trained on.
    """
    inputs = keras.Input((1,))
    hidden = layers.Dense(2, name="encoder")(inputs)
    model = keras.Model(inputs, layers.Dense(1, name="head")(hidden))
    fill(model)
    model.compile(OPTIMIZERS[name](), keras.losses.MeanSquaredError(), run_eagerly=True)
    checkpoint = keras.callbacks.ModelCheckpoint(str(tmp_path / "model.h5"), save_freq=1, verbose=0)
    model.fit(ONES, ONES, batch_size=2, verbose=0, callbacks=[checkpoint])
    paths = [variable.path for variable in model.optimizer.variables]
    assert len(set(paths)) == len(paths)
    model.save(tmp_path / "model.h5")
    again = keras.models.load_model(tmp_path / "model.h5")
    assert again.optimizer.get_config()["name"] == model.optimizer.get_config()["name"]
    for mine, other in zip(values(again.weights), values(model.weights), strict=True):
        np.testing.assert_array_equal(mine, other)
    # All that the optimizer knows is there, in order.
    model.optimizer.set_weights([np.zeros(v.shape) for v in model.optimizer.variables])
    written = keras.src.legacy.saving.legacy_h5_format.load_optimizer_weights_from_hdf5_group
    import h5py

    with h5py.File(tmp_path / "model.h5") as file:
        arrays = [np.asarray(array) for array in written(file)]
    model.optimizer.set_weights(arrays)
    assert int(model.optimizer.iterations) == (1 if name == "averages" else 2)
    assert any(np.any(value) for key, value in state(model.optimizer).items() if "place" not in key)


class TestMatching:
    """Which saved weight is which, where other weights are trained than were."""

    def test_of_layers_that_keras_counts(self):
        saved = [("net/dense_1/kernel", [4, 2]), ("net/dense_1/bias", [2])]
        today = [
            *[("net_1/dense_2/kernel", [3, 4]), ("net_1/dense_2/bias", [4])],
            *[("net_1/dense_3/kernel", [4, 2]), ("net_1/dense_3/bias", [2])],
        ]
        assert match_weights(saved, today) == {2: 0, 3: 1}
        assert match_weights(today, saved) == {0: 2, 1: 3}

    def test_nothing_is_guessed(self):
        saved = [("net/dense_1/kernel", [4, 4])]
        today = [("net_1/dense_2/kernel", [4, 4]), ("net_1/dense_3/kernel", [4, 4])]
        assert match_weights(saved, today) == {}
