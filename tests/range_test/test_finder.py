"""The range test: what it measures, by hand, and that it leaves no trace."""

import random
import re
import warnings
from contextlib import contextmanager

import keras
import numpy as np
import pytest
from keras import ops, optimizers

import drawn
import finegrain as fg
from compiling import JIT

BACKEND = keras.backend.backend()

# What most tests try is too short or too small for a fall: they are about something else.
pytestmark = pytest.mark.filterwarnings(
    "ignore:The loss did not fall:UserWarning", "ignore:The loss still fell:UserWarning"
)

X = drawn.generator(1).normal(size=(22, 3)).astype("float32")
Y = (X @ [[1.0], [-2.0], [0.5]] + drawn.generator(2).normal(size=(22, 1)) / 4).astype("float32")
BASE = 0.01
# Of `find`, on the data in order: batches of 4 rows, and one of 2.
BATCHES = [slice(first, min(first + 4, 22)) for first in range(0, 22, 4)]


def schedule():
    return optimizers.schedules.InverseTimeDecay(BASE, 1, 0.5)


def values(variables):
    return [np.array(ops.convert_to_numpy(variable)) for variable in variables]


def assert_bit_equal(left, right):
    for place, (one, other) in enumerate(zip(left, right, strict=True)):
        assert one.dtype == other.dtype, place
        assert one.tobytes() == other.tobytes(), place


@contextmanager
def said(pattern):
    """A warning that says this; others, such as Keras's of NumPy, may come beside it."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    assert [one for one in caught if re.search(pattern, str(one.message))]


def everything(model):
    """All numbers of a model."""
    return values([*model.variables, *model.optimizer.variables, *model.metrics_variables])


def chance():
    """A number from each global generator of random numbers."""
    of_numpy = np.random.rand()  # noqa: NPY002 (the one that Keras shuffles by)
    numbers = [random.random(), of_numpy, float(keras.random.uniform(()))]
    if BACKEND == "torch":
        import torch

        numbers.append(float(torch.rand(())))
    if BACKEND == "tensorflow":
        import tensorflow as tf

        numbers.append(float(tf.random.uniform(())))
    return numbers


def linear(optimizer="sgd", eager=True, **arguments):
    """A model whose slopes are easy to write down, begun at fixed weights."""
    dense = keras.layers.Dense(1, kernel_initializer="ones", name="dense")
    model = keras.Sequential([keras.Input((3,)), dense])
    jit = False if eager else JIT
    model.compile(optimizer, "mse", run_eagerly=eager, jit_compile=jit, **arguments)
    return model


def find(model, x=X, y=Y, **arguments):
    given = {"batch_size": 4, "shuffle": False, "steps": 12, "verbose": 0}
    given |= {"start": 1e-6, "end": 1e-1, "smoothing": 0.0}
    return fg.find_learning_rate(model, x, y, **given | arguments)


def losses_by_hand(kernel_rates, bias_rates, batches=1, weights=None):
    """The loss of each step of plain SGD on `linear`, in float64."""
    kernel, bias = np.ones((3, 1)), np.zeros(1)
    losses, taken = [], 0
    for kernel_rate, bias_rate in zip(kernel_rates, bias_rates, strict=True):
        parts, slopes = [], []
        for _ in range(batches):
            rows = BATCHES[taken % len(BATCHES)]
            x, y = X[rows].astype("float64"), Y[rows].astype("float64")
            weight = np.ones((len(x), 1)) if weights is None else weights[rows][:, None]
            error = x @ kernel + bias - y
            parts.append(np.mean(weight * error**2))
            slope = 2 * weight * error / len(x)
            slopes.append((x.T @ slope, slope.sum(0)))
            taken += 1
        losses.append(np.mean(parts))
        kernel = kernel - kernel_rate * np.mean([k for k, _ in slopes], axis=0)
        bias = bias - bias_rate * np.mean([b for _, b in slopes], axis=0)
    return losses


RATES = np.geomspace(1e-6, 1e-1, 12)


class TestLosses:
    @pytest.mark.selected("False")
    @pytest.mark.parametrize("eager", [True, False])
    def test_each_step_has_its_rate_and_its_own_loss(self, eager):
        """Not the mean over the epoch; the data are gone through again."""
        found = find(linear(optimizers.SGD(BASE), eager))
        np.testing.assert_allclose(found.rates, RATES, rtol=1e-12)
        np.testing.assert_allclose(found.losses, losses_by_hand(RATES, RATES), rtol=1e-4)

    def test_under_a_schedule(self):
        """The schedule has no say."""
        found = find(linear(optimizers.SGD(schedule()), eager=False))
        np.testing.assert_allclose(found.losses, losses_by_hand(RATES, RATES), rtol=1e-4)

    def test_with_accumulation(self):
        """A rate lasts for one step of the weights; its loss is the mean of the batches."""
        found = find(linear(optimizers.SGD(BASE, gradient_accumulation_steps=3), eager=False))
        np.testing.assert_allclose(found.losses, losses_by_hand(RATES, RATES, 3), rtol=1e-4)

    @pytest.mark.skipif(BACKEND == "torch", reason="Keras has it on the other backends only")
    def test_with_several_steps_in_one_execution(self):
        """They share a rate."""
        model = linear(optimizers.SGD(BASE), eager=False, steps_per_execution=2)
        found = find(model, steps=11)
        rates = np.geomspace(1e-6, 1e-1, 11)
        each = np.reshape(losses_by_hand(np.repeat(rates, 2), np.repeat(rates, 2)), (11, 2))
        # The third pair of an epoch has batches of four and two rows.
        expected = [
            np.average(pair, weights=[2, 1] if i % 3 == 2 else None) for i, pair in enumerate(each)
        ]
        np.testing.assert_allclose(found.losses, expected, rtol=1e-4)

    @pytest.mark.full
    def test_with_sample_weights(self):
        weights = drawn.generator(3).uniform(0, 2, 22)
        found = find(linear(optimizers.SGD(BASE)), sample_weight=weights)
        expected = losses_by_hand(RATES, RATES, weights=weights)
        np.testing.assert_allclose(found.losses, expected, rtol=1e-4)

    @pytest.mark.selected("number-held")
    @pytest.mark.parametrize(
        "rule",
        [
            fg.Rule("bias", learning_rate_multiplier=2.0, name="it"),
            fg.Rule("bias", learning_rate=0.5, name="it"),
            fg.Rule("bias", trainable=False, name="it"),
            fg.Rule("bias", learning_rate_multiplier=3.0, trainable=True, name="it"),
            fg.Rule("bias", optimizer=optimizers.SGD(0.5), learning_rate_multiplier=4.0, name="it"),
        ],
        ids=["multiplier", "rate", "held", "released", "optimizer"],
    )
    @pytest.mark.parametrize("base", [BASE, schedule], ids=["number", "schedule"])
    def test_of_one_rule(self, rule, base):
        """Its weights learn at the rates of the test, all others as they would."""
        sgd = optimizers.SGD(base() if callable(base) else base)
        model = linear(fg.PerWeight(sgd, [rule]))
        found = find(model, rule="it")
        others = [BASE] * 12 if base == BASE else [BASE / (1 + 0.5 * step) for step in range(12)]
        np.testing.assert_allclose(found.rates, RATES, rtol=1e-12)
        np.testing.assert_allclose(found.losses, losses_by_hand(others, RATES), rtol=1e-4)

    @pytest.mark.full
    def test_of_the_base_rate_under_rules(self):
        """Multipliers keep their ratios, and rates of rules what they are."""
        rules = [fg.Rule("bias", learning_rate_multiplier=0.1)]
        found = find(linear(fg.PerWeight(optimizers.SGD(BASE), rules)))
        np.testing.assert_allclose(found.losses, losses_by_hand(RATES, 0.1 * RATES), rtol=1e-4)
        rules = [fg.Rule("bias", learning_rate=0.02)]
        found = find(linear(fg.PerWeight(optimizers.SGD(BASE), rules)))
        np.testing.assert_allclose(found.losses, losses_by_hand(RATES, [0.02] * 12), rtol=1e-4)

    @pytest.mark.full
    def test_it_ends_when_training_diverges(self):
        """Before the last rate, with the loss that showed it."""
        found = find(linear(optimizers.SGD(BASE)), end=1e4, steps=60)
        assert 20 < len(found.losses) < 60
        assert found.losses[-1] > 10 * found.losses[0]
        assert found.rates.shape == found.losses.shape == found.smoothed.shape
        np.testing.assert_allclose(found.rates, np.geomspace(1e-6, 1e4, 60)[: len(found.rates)])


class TestSuggestion:
    @pytest.mark.full
    def test_is_a_third_of_the_rate_of_the_lowest_loss(self):
        found = find(linear(optimizers.SGD(BASE)), end=10.0, steps=60, smoothing=0.3)
        assert found.suggestion == found.rates[np.argmin(found.smoothed)] / 3
        # The slowest direction of a linear model learns, the fastest does not diverge.
        curvatures = np.linalg.eigvalsh(2 * np.cov(X.T, bias=True))
        assert 0.01 / curvatures.max() < found.suggestion < 2 / curvatures.max()
        assert f"suggestion={found.suggestion:.3g}" in repr(found)

    @pytest.mark.full
    def test_of_a_rule_comes_with_its_multiplier(self):
        rules = [fg.Rule("dense", learning_rate_multiplier=2.0)]
        model = linear(fg.PerWeight(optimizers.SGD(BASE), rules))
        found = find(model, rule="dense", end=10.0, steps=60, batch_size=22)
        assert found.rule == "dense"
        assert found.multiplier == pytest.approx(found.suggestion / BASE, rel=1e-5)
        model.optimizer.set("dense", learning_rate_multiplier=found.multiplier)
        rates = model.optimizer.effective_learning_rates()
        np.testing.assert_allclose(rates, found.suggestion, rtol=1e-5)

    @pytest.mark.full
    def test_there_is_none_if_the_loss_never_falls(self):
        """Which is said, and drawn."""
        model = linear(optimizers.SGD(BASE))
        with said("did not fall at any rate"):
            found = find(model, np.zeros_like(X), np.zeros_like(Y))
        assert found.suggestion is None
        assert found.multiplier is None
        assert found.plot().axes[0].get_title() == "no suggestion: the loss never fell"
        assert "suggestion=None" in repr(found)

    @pytest.mark.full
    def test_a_range_that_ends_too_early_is_said(self):
        with said("still fell at the last rate"):
            found = find(linear(optimizers.SGD(BASE)), X[:4], Y[:4], end=1e-3)
        assert found.suggestion == pytest.approx(1e-3 / 3)

    @pytest.mark.one_backend
    def test_picture(self):
        found = find(linear(optimizers.SGD(BASE)), end=10.0, steps=60, smoothing=0.3)
        (axes,) = found.plot().axes
        assert axes.get_xscale() == "log"
        labels = [line.get_label() for line in axes.lines]
        assert labels == ["loss of the batch", "smoothed", axes.get_title(), "lowest"]
        np.testing.assert_array_equal(axes.lines[0].get_ydata(), found.losses)
        np.testing.assert_array_equal(axes.lines[2].get_xdata(), [found.suggestion] * 2)
        low, high = axes.get_ylim()
        assert low < found.smoothed.min() < found.smoothed[0] < high < found.losses[-1]


def dense(optimizer="adam", eager=False, **arguments):
    """A model with chance, statistics, a metric, and layers to choose from."""
    keras.utils.set_random_seed(3)
    model = keras.Sequential(
        [
            keras.Input((3,)),
            keras.layers.Dense(4, activation="relu", name="encoder"),
            keras.layers.BatchNormalization(),
            keras.layers.Dropout(0.3),
            keras.layers.Dense(1, name="head"),
        ]
    )
    jit = False if eager else JIT
    given = {"loss": "mse", "metrics": ["mae"], "run_eagerly": eager, "jit_compile": jit}
    model.compile(optimizer, **given | arguments)
    return model


def rules():
    return [
        fg.Rule("encoder", trainable=False),
        fg.Rule("head", learning_rate_multiplier=2.0, optimizer=optimizers.SGD(0.1, momentum=0.9)),
    ]


OPTIMIZERS = {
    "adam": lambda: optimizers.Adam(BASE),
    "schedule": lambda: optimizers.Adam(schedule()),
    "callable": lambda: optimizers.SGD(lambda: BASE, momentum=0.9),
    "accumulation": lambda: optimizers.Adam(BASE, gradient_accumulation_steps=3),
    "average": lambda: optimizers.SGD(BASE, use_ema=True, ema_overwrite_frequency=2),
    "loss scale": lambda: optimizers.LossScaleOptimizer(optimizers.Adam(BASE)),
    "loss scale, schedule": lambda: optimizers.LossScaleOptimizer(optimizers.Adam(schedule())),
    "per weight": lambda: fg.PerWeight(optimizers.Adam(BASE), rules()),
    "per weight, schedule": lambda: fg.PerWeight(optimizers.Adam(schedule()), rules()),
    "per weight, raise": lambda: fg.PerWeight(optimizers.SGD(BASE), nonfinite="raise"),
}


def fit(model, **arguments):
    given = {"batch_size": 4, "epochs": 2, "verbose": 0}
    return model.fit(X, Y, **given | arguments).history


class TestNoTrace:
    @pytest.mark.selected("per weight, schedule")
    @pytest.mark.parametrize("name", OPTIMIZERS)
    def test_training_goes_as_without_the_test(self, name):
        """From the first step on, and then again: shuffling, dropout, statistics, slots."""
        outcomes = []
        for tested in (False, True):
            model = dense(optimizer=OPTIMIZERS[name]())
            histories = []
            for _ in range(1 if name == "average" and BACKEND == "jax" else 2):
                if tested:
                    rule = {"rule": "head"} if "per weight" in name and "raise" not in name else {}
                    find(model, shuffle=True, end=10.0, **rule)
                histories.append(fit(model))
            outcomes.append((everything(model), histories, chance()))
        assert outcomes[0][1:] == outcomes[1][1:]
        assert_bit_equal(outcomes[0][0], outcomes[1][0])

    def test_all_is_as_before(self):
        """Weights, slots, metrics, history, flags, generators, rules, and the schedule itself."""
        model = dense(optimizer=OPTIMIZERS["per weight, schedule"]())
        fit(model)
        model.stop_training = True
        optimizer, history, step = model.optimizer, model.history, model.train_function
        kept = optimizer._learning_rate
        before, number = everything(model), len(optimizer.variables)
        keras.utils.set_random_seed(4)
        expected = chance()
        keras.utils.set_random_seed(4)
        find(model, shuffle=True, rule="encoder", end=10.0)
        assert chance() == expected
        find(model, shuffle=True)
        assert_bit_equal(everything(model), before)
        assert model.optimizer is optimizer
        assert optimizer._learning_rate is kept
        assert len(optimizer.variables) == number
        assert model.history is history
        assert model.stop_training is True
        assert model.train_function is step
        assert optimizer.get("encoder") == {"trainable": False}

    @pytest.mark.full
    def test_a_new_model_has_no_history_after(self):
        model = linear()
        find(model)
        assert getattr(model, "history", None) is None
        assert not getattr(model, "stop_training", False)

    @pytest.mark.one_backend
    @pytest.mark.skipif(BACKEND != "torch", reason="of PyTorch's modules")
    def test_modes_of_modules(self):
        model = dense(eager=True)
        model.train()
        model.get_layer("head").eval()
        find(model)
        assert model.training
        assert [layer.training for layer in model.layers] == [True, True, True, False]

    @pytest.mark.full
    @pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
    def test_after_an_interruption(self, error):
        """Of a step that runs eagerly."""
        calls = []

        def loss(y_true, y_pred):
            calls.append(0)
            if len(calls) == 16:
                raise error("enough")
            return ops.mean(ops.square(y_true - y_pred), axis=-1)

        model = dense(optimizer=OPTIMIZERS["schedule"](), eager=True, loss=loss)
        fit(model, epochs=1)
        before, kept = everything(model), model.optimizer._learning_rate
        keras.utils.set_random_seed(4)
        expected = chance()
        keras.utils.set_random_seed(4)
        with pytest.raises(error, match="enough"):
            find(model, shuffle=True, end=1e-3)
        assert len(calls) == 16
        assert chance() == expected
        assert_bit_equal(everything(model), before)
        assert model.optimizer._learning_rate is kept

    def test_after_an_interruption_between_compiled_steps(self):
        """On JAX, the model's state is then out of its variables."""
        model = dense()
        fit(model)
        before = everything(model)

        def batches():
            for rows in BATCHES:
                yield X[rows], Y[rows]
            raise RuntimeError("enough")

        with pytest.raises(Exception, match="enough"):
            find(model, batches(), None, batch_size=None, steps=20)
        assert_bit_equal(everything(model), before)
        fit(model)

    @pytest.mark.full
    def test_beside_unfreezing(self):
        """Test, train, release, test, train: as without the tests."""
        outcomes = []
        for tested in (False, True):
            optimizer = fg.PerWeight(optimizers.SGD(BASE), [fg.Rule("encoder", trainable=False)])
            model = dense(optimizer=optimizer, eager=True)
            for released in (False, True):
                optimizer.set("encoder", trainable=released)
                if tested:
                    find(model, shuffle=True)
                    find(model, shuffle=True, rule="encoder")
                fit(model, epochs=1)
            outcomes.append(everything(model))
        assert_bit_equal(*outcomes)


class Batches(keras.utils.PyDataset):
    def __len__(self):
        return len(BATCHES)

    def __getitem__(self, place):
        return X[BATCHES[place]], Y[BATCHES[place]]


class TestData:
    def test_datasets(self):
        """Of Keras and of the backends: the same batches, the same losses."""
        found = [find(linear(optimizers.SGD(BASE)), Batches(), None, batch_size=None)]
        if BACKEND == "torch":
            from torch import tensor
            from torch.utils.data import DataLoader, TensorDataset

            data = DataLoader(TensorDataset(tensor(X), tensor(Y)), batch_size=4)
            found.append(find(linear(optimizers.SGD(BASE)), data, None, batch_size=None))
        if BACKEND == "tensorflow":
            import tensorflow as tf

            data = tf.data.Dataset.from_tensor_slices((X, Y)).batch(4)
            found.append(find(linear(optimizers.SGD(BASE)), data, None, batch_size=None))
        for each in found:
            np.testing.assert_allclose(each.losses, losses_by_hand(RATES, RATES), rtol=1e-4)

    def test_generators(self):
        """One without end is read as far as the test goes; one that ends is an error."""

        def batches(epochs):
            for _ in range(epochs):
                for rows in BATCHES:
                    yield X[rows], Y[rows]

        found = find(linear(optimizers.SGD(BASE)), batches(100), None, batch_size=None)
        np.testing.assert_allclose(found.losses, losses_by_hand(RATES, RATES), rtol=1e-4)
        with (
            said("ran out of data"),
            pytest.raises(ValueError, match=r"ended after 6 of 12 steps.*x=generator"),
        ):
            find(linear(optimizers.SGD(BASE)), batches(1), None, batch_size=None)

    @pytest.mark.full
    def test_dictionaries(self):
        inputs = {"a": keras.Input((2,), name="a"), "b": keras.Input((1,), name="b")}
        together = keras.layers.Concatenate()([inputs["a"], inputs["b"]])
        outputs = keras.layers.Dense(1, kernel_initializer="ones")(together)
        model = keras.Model(inputs, outputs)
        model.compile(optimizers.SGD(BASE), "mse", run_eagerly=True)
        found = find(model, {"a": X[:, :2], "b": X[:, 2:]})
        np.testing.assert_allclose(found.losses, losses_by_hand(RATES, RATES), rtol=1e-4)

    @pytest.mark.one_backend
    def test_progress(self, capsys):
        """A bar that counts the steps and shows the rate, or nothing."""
        find(linear(optimizers.SGD(BASE)))
        assert capsys.readouterr().out == ""
        find(linear(optimizers.SGD(BASE)), verbose=1)
        assert "12/12" in (shown := capsys.readouterr().out)
        assert "learning_rate" in shown


class TestErrors:
    @pytest.mark.one_backend
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"start": 0.0}, "`start` should be a finite number > 0"),
            ({"start": 1.0, "end": 1.0}, r"`start` should be below `end`.*start=1.0, end=1.0"),
            ({"end": np.inf}, "`end` should be a finite number > 0"),
            ({"steps": 9}, "`steps` should be an integer >= 10. Received: steps=9"),
            ({"steps": True}, "`steps` should be an integer"),
            ({"smoothing": -1.0}, "`smoothing` should be a finite number >= 0"),
            ({"divergence": 0.0}, "`divergence` should be a finite number > 0"),
        ],
    )
    def test_arguments(self, arguments, message):
        with pytest.raises(ValueError, match=message):
            find(linear(), **arguments)

    @pytest.mark.one_backend
    def test_models(self):
        with pytest.raises(TypeError, match="should be a Keras model"):
            fg.find_learning_rate(keras.layers.Dense(1), X, Y)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="should be compiled"):
            find(keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)]))
        model = keras.Sequential([keras.layers.Dense(1)])
        model.compile("sgd", "mse")
        with pytest.raises(ValueError, match="should be built"):
            find(model)

    @pytest.mark.one_backend
    def test_optimizers(self):
        adaptive = fg.optimizers.AdaptiveStepSize(optimizers.SGD(BASE))
        with pytest.raises(ValueError, match="AdaptiveStepSize learns its rate"):
            find(linear(adaptive))
        with pytest.raises(ValueError, match="AdaptiveStepSize learns its rate"):
            find(linear(fg.PerWeight(fg.optimizers.AdaptiveStepSize(optimizers.SGD(BASE)))))
        with pytest.raises(TypeError, match=r"compiled with `PerWeight`.*rule='dense'"):
            find(linear(), rule="dense")

    @pytest.mark.one_backend
    def test_rules(self):
        held = fg.Rule("bias", learning_rate_multiplier=2.0, trainable=False)
        model = linear(fg.PerWeight("sgd", [held]))
        with pytest.raises(ValueError, match="moves no weight now"):
            find(model, rule="bias")
        assert model.optimizer.get("bias") == {
            "learning_rate_multiplier": 2.0,
            "trainable": False,
        }
        with pytest.raises(ValueError, match="No rule has this name"):
            find(model, rule="head")
        scheduled = fg.Rule("bias", learning_rate=schedule())
        with pytest.raises(ValueError, match="a schedule as `learning_rate`"):
            find(linear(fg.PerWeight("sgd", [scheduled])), rule="bias")

    @pytest.mark.selected("propagate")
    @pytest.mark.parametrize("nonfinite", ["propagate", "raise"])
    def test_data_that_are_not_finite(self, nonfinite):
        model = linear(fg.PerWeight("sgd", nonfinite=nonfinite), eager=False)
        before = everything(model)
        with pytest.raises(ValueError, match="look for NaN"):
            find(model, X, np.full_like(Y, np.nan))
        assert_bit_equal(everything(model)[:2], before[:2])

    @pytest.mark.full
    def test_gradients_that_stop_being_finite_end_the_test(self):
        """Where `PerWeight` would raise an error, the test ends instead."""
        model = linear(fg.PerWeight(optimizers.SGD(BASE), nonfinite="raise"), eager=False)
        found = find(model, end=1e38, steps=60, divergence=1e30, batch_size=22)
        assert found.suggestion is not None
        assert len(found.losses) < 60
        assert not model.optimizer.nonfinite_is_pending
        assert model.optimizer.skipped_steps == 0

    @pytest.mark.full
    def test_a_loss_by_another_name(self):
        class Nameless(keras.Model):
            def __init__(self):
                super().__init__()
                self.dense = keras.layers.Dense(1)

            def call(self, x):
                return self.dense(x)

            def train_step(self, *state_and_data):
                if BACKEND == "jax":
                    return {"cost": ops.zeros(())}, state_and_data[0]
                return {"cost": ops.zeros(())}

        model = Nameless()
        model(X)
        model.compile("sgd", "mse", run_eagerly=True)
        with pytest.raises(ValueError, match=r"returns as `loss`.*\['cost'\].*Nameless"):
            find(model)


@pytest.mark.one_backend
def test_no_examples():
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    with pytest.raises(ValueError, match="`x` should hold examples"):
        fg.find_learning_rate(model, np.ones((0, 2)), np.ones((0, 1)), verbose=0)
