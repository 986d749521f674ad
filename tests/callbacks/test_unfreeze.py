"""Unfreeze: weights that join the training at their time, also of a training that broke off."""

import signal
import subprocess
import sys

import keras
import numpy as np
import pytest
from keras import layers, ops, optimizers

import finegrain as fg
from compiling import JIT
from finegrain.callbacks import Unfreeze
from optimizers.contract import (
    ONES,
    OPTIMIZERS,
    X,
    Y,
    assert_bit_equal,
    assert_moved,
    compiled,
    fill,
    fit_ones,
    kernel_and_bias,
    mean_output,
    mlp,
    state,
    train,
    unit_slope_model,
    values,
)

BACKEND = keras.backend.backend()


def slope(rules=(), jit=False, **arguments):
    """A model that SGD moves by minus its rate, 1, at each step."""
    model = unit_slope_model()
    optimizer = fg.PerWeight(optimizers.SGD(1.0, **arguments), rules)
    how = {"jit_compile": JIT} if jit else {"run_eagerly": True}
    model.compile(optimizer, mean_output, **how)
    return model


def three():
    """`mlp()` with a layer between."""
    inputs = keras.Input((3,))
    hidden = layers.Dense(4, activation="tanh", name="encoder")(inputs)
    hidden = layers.Dense(3, activation="tanh", name="middle")(hidden)
    model = keras.Model(inputs, layers.Dense(2, name="head")(hidden))
    fill(model)
    return model


def adam(model=None, jit=False, rules=(), **arguments):
    """A model under Adam."""
    return compiled(fg.PerWeight(OPTIMIZERS["adam"](**arguments), rules), model, jit=jit)


class Note(keras.callbacks.Callback):
    """Keeps what `look(model)` says at the end of each epoch."""

    def __init__(self, look):
        super().__init__()
        self.look = look
        self.seen = []

    def on_epoch_end(self, epoch, logs=None):
        self.seen.append(self.look(self.model))


def steps_of(model):
    """The number of steps that each weight has taken, by path."""
    store = state(model.optimizer)
    return {
        name.partition(":")[0].replace("|", "/"): int(value)
        for name, value in store.items()
        if name.endswith(":step:iterations")
    }


class TestReleases:
    @pytest.mark.parametrize("jit", [False, True], ids=["eager", "compiled"])
    @pytest.mark.selected("compiled")
    def test_at_an_epoch(self, jit):
        """By hand: held for two epochs of one step, then at 1/2, 1, 1 of its rate."""
        model = slope([fg.Rule("bias", learning_rate_multiplier=4.0)], jit)
        note = Note(kernel_and_bias)
        fit_ones(model, 5, [Unfreeze({0: "kernel", 2: "bias"}, warm_up=2), note])
        assert note.seen == [[-1, 0], [-2, 0], [-3, -2], [-4, -6], [-5, -10]]

    def test_at_a_step(self):
        """Within an epoch, where it is due."""
        model = slope()
        x = np.ones((6, 1), "float32")
        unfreeze = Unfreeze({4: "bias", 7: "kernel"}, unit="step")
        note = Note(kernel_and_bias)
        model.fit(x, x, batch_size=1, epochs=2, verbose=0, callbacks=[unfreeze, note])
        assert note.seen == [[0, -2], [-5, -8]]

    @pytest.mark.full
    def test_as_rules_that_are_set(self):
        """Weights, slots and bias corrections are those of rules set by hand."""

        class Set(keras.callbacks.Callback):
            def on_epoch_begin(self, epoch, logs=None):
                for when, name in ((1, "middle"), (2, "encoder")):
                    self.model.optimizer.set(name, trainable=epoch >= when)

        rules = [fg.Rule("encoder", trainable=True), fg.Rule("middle", trainable=True)]
        whole = train(adam(three(), rules=rules), epochs=3, callbacks=[Set()])
        model = adam(three())
        train(model, epochs=3, callbacks=[Unfreeze({0: "head", 1: "middle", 2: "encoder"})])
        assert_bit_equal(model, whole)
        steps = steps_of(model)
        assert steps == steps_of(whole)
        assert list(steps.values()) == [4, 4, 8, 8, 12, 12]

    @pytest.mark.one_backend
    @pytest.mark.parametrize(
        "selector",
        [
            "encoder",
            ["encoder/kernel", "encoder/bias"],
            lambda variable: variable.path.startswith("encoder"),
            "layer",
            "variables",
        ],
        ids=["expression", "list", "function", "layer", "variables"],
    )
    def test_selectors(self, selector):
        """Whatever a rule takes."""
        model = adam()
        encoder = model.get_layer("encoder")
        selector = {"layer": encoder, "variables": encoder.weights}.get(
            selector if isinstance(selector, str) else "", selector
        )
        train(model, epochs=2, callbacks=[Unfreeze({1: selector})])
        assert list(steps_of(model).values()) == [4, 4, 8, 8]

    @pytest.mark.one_backend
    def test_the_first_entry_decides(self):
        """The last one may name all, whatever the order in which they are written."""
        model = adam(three())
        train(model, epochs=3, callbacks=[Unfreeze({2: ".", 1: "middle", 0: "head"})])
        assert list(steps_of(model).values()) == [4, 4, 8, 8, 12, 12]

    @pytest.mark.full
    def test_over_the_rules_that_there_are(self):
        """Rates, decays and numbers that were set stay; a rule that holds gives way."""
        rules = [
            fg.Rule("kernel", learning_rate_multiplier=2.0),
            fg.Rule("bias", trainable=False),
        ]
        model = slope(rules)
        fit_ones(model)
        model.optimizer.set("kernel", learning_rate_multiplier=3.0)
        fit_ones(model, 2, [Unfreeze({1: "bias"})])
        assert kernel_and_bias(model) == [-8, -1]

    def test_compiles_nothing(self):
        """The model is traced in the first step only, in two fits."""
        if BACKEND == "torch":
            pytest.skip("nothing is compiled on torch")
        traces = []

        class Traced(layers.Layer):
            def call(self, x):
                traces.append(x)
                return x

        inner = unit_slope_model()
        model = keras.Sequential([*inner.inputs, *inner.layers, Traced()])
        model.compile(fg.PerWeight(optimizers.SGD(1.0)), mean_output, jit_compile=JIT)
        count = Note(lambda model: len(traces))
        unfreeze = Unfreeze({2: "bias"}, warm_up=2)
        fit_ones(model, 4, [unfreeze, count])
        fit_ones(model, 3, [unfreeze, count])
        assert len(set(count.seen)) == 1
        assert kernel_and_bias(model) == [-7, -2]


class Crash(keras.callbacks.Callback):
    """Ends the training as a killed process does."""

    def __init__(self, epoch, batch):
        super().__init__()
        self.at = [epoch, batch]
        self.now = [0, 0]

    def on_epoch_begin(self, epoch, logs=None):
        self.now[0] = epoch

    def on_train_batch_end(self, batch, logs=None):
        if [self.now[0], batch] == self.at:
            raise RuntimeError("power cut")


ENTRIES = {
    "epoch": {0: "head/kernel", 1: "encoder", 3: "head/bias"},
    "step": {3: "encoder", 13: "head/bias"},
}


def resumed(unit):
    """An Unfreeze of which a release falls before the crash, in whose warm-up it is, and after."""
    return Unfreeze(ENTRIES[unit], unit=unit, warm_up=7)


@pytest.fixture(scope="module")
def whole():
    """The weights and history of trainings that nothing interrupts, by unit and compilation."""
    kept = {}

    def get(unit, jit):
        if (unit, jit) not in kept:
            model = adam(jit=jit)
            history = model.fit(
                X, Y, batch_size=4, epochs=5, shuffle=False, verbose=0, callbacks=[resumed(unit)]
            )
            kept[unit, jit] = values(model.weights), history.history["learning_share"]
        return kept[unit, jit]

    return get


def assert_as_whole(model, weights):
    for mine, theirs, start in zip(values(model.weights), weights, mlp().weights, strict=True):
        np.testing.assert_array_equal(mine, theirs)
        assert not np.array_equal(mine, values([start])[0])


every_unit = pytest.mark.parametrize("unit", ["epoch", "step"])


class TestResumes:
    @every_unit
    @pytest.mark.parametrize("jit", [False, True], ids=["eager", "compiled"])
    @pytest.mark.parametrize("first", ["unfreeze", "backup"])
    @pytest.mark.selected("unfreeze-compiled-step", "backup-compiled-epoch")
    def test_after_a_crash(self, unit, jit, first, whole, tmp_path):
        """`BackupAndRestore` goes on from the last epoch, in the middle of a warm-up."""
        weights, shares = whole(unit, jit)

        def callbacks():
            backup = keras.callbacks.BackupAndRestore(str(tmp_path / "backup"))
            both = [resumed(unit), backup]
            return both if first == "unfreeze" else both[::-1]

        with pytest.raises(RuntimeError, match="power cut"):
            train(adam(jit=jit), epochs=5, callbacks=[*callbacks(), Crash(2, 2)])
        again = adam(jit=jit)
        history = again.fit(
            X, Y, batch_size=4, epochs=5, shuffle=False, verbose=0, callbacks=callbacks()
        )
        assert_as_whole(again, weights)
        assert history.history["learning_share"] == shares[2:]

    @every_unit
    @pytest.mark.parametrize("form", ["model", "weights"])
    @pytest.mark.selected("model-epoch")
    def test_from_a_file(self, unit, form, whole, tmp_path):
        """A model, or weights in a new model whose optimizer has no such rules yet."""
        weights, _ = whole(unit, False)
        model = train(adam(), epochs=2, callbacks=[resumed(unit)])
        if form == "model":
            model.save(tmp_path / "model.keras")
            again = keras.models.load_model(tmp_path / "model.keras")
            again.compile(again.optimizer, "mse", run_eagerly=True)
        else:
            model.save_weights(tmp_path / "model.weights.h5")
            again = adam()
            again.optimizer.build(again.trainable_variables)
            again.load_weights(tmp_path / "model.weights.h5")
        for one in (model, again):
            one.fit(
                X,
                Y,
                batch_size=4,
                epochs=5,
                initial_epoch=2,
                shuffle=False,
                verbose=0,
                callbacks=[resumed(unit)],
            )
            assert_as_whole(one, weights)

    @pytest.mark.full
    def test_within_an_epoch(self, tmp_path):
        """Restored from the middle of an epoch, a release of its beginning is not repeated."""
        backup = str(tmp_path / "backup")
        saved, entries = [], {1: "bias"}

        def callbacks():
            return [
                Unfreeze(entries, warm_up=8),
                keras.callbacks.BackupAndRestore(backup, save_freq=6),
            ]

        x = np.ones((4, 1), "float32")
        with pytest.raises(RuntimeError, match="power cut"):
            slope().fit(
                x, x, batch_size=1, epochs=2, verbose=0, callbacks=[*callbacks(), Crash(1, 2)]
            )
        model = slope()
        note = Note(lambda model: saved.append(kernel_and_bias(model)))
        # Keras begins the second epoch again: four steps after the two that are saved.
        model.fit(x, x, batch_size=1, epochs=2, verbose=0, callbacks=[*callbacks(), note])
        assert saved == [[-10, -(1 + 2 + 3 + 4 + 5 + 6) / 8]]

    @pytest.mark.full
    def test_from_an_epoch_after_the_release(self):
        """A new model that begins late has everything that is due, from then on."""
        model = slope()
        model.fit(
            ONES,
            ONES,
            initial_epoch=5,
            epochs=8,
            verbose=0,
            callbacks=[Unfreeze({1: "bias", 6: "kernel"}, warm_up=2)],
        )
        assert kernel_and_bias(model) == [-1.5, -2.5]


KILLED = """
import os, signal, sys
sys.path.insert(0, sys.argv[2])
import keras
from callbacks.test_unfreeze import adam, resumed, train

class Kill(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        if batch == 1 and self.model.optimizer.iterations > 8:
            os.kill(os.getpid(), signal.SIGKILL)

backup = keras.callbacks.BackupAndRestore(sys.argv[1])
train(adam(jit=True), epochs=5, callbacks=[resumed("epoch"), backup, Kill()])
"""


@pytest.mark.full
def test_a_killed_process(whole, tmp_path):
    """Killed in the middle of a warm-up, the training goes on to the same weights."""
    root = next(path for path in sys.path if f"{path}/".endswith("/tests/"))
    ended = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path), root],
        capture_output=True,
        check=False,
        timeout=600,
    )
    assert ended.returncode == -signal.SIGKILL, ended.stderr.decode()
    again = adam(jit=True)
    backup = keras.callbacks.BackupAndRestore(str(tmp_path))
    train(again, epochs=5, callbacks=[resumed("epoch"), backup])
    assert_as_whole(again, whole("epoch", True)[0])


class TestSecondFit:
    @pytest.mark.full
    def test_goes_on(self):
        """With `initial_epoch`, in two fits as in one; the optimizer stays as it is."""
        unfreeze = Unfreeze({0: "head", 1: "middle", 3: "encoder"}, warm_up=3)
        one = train(adam(three()), epochs=4, callbacks=[unfreeze])
        two = adam(three())
        optimizer = two.optimizer
        train(two, epochs=2, callbacks=[unfreeze])
        variables = optimizer.variables
        two.fit(
            X,
            Y,
            batch_size=4,
            initial_epoch=2,
            epochs=4,
            shuffle=False,
            verbose=0,
            callbacks=[unfreeze],
        )
        assert_bit_equal(two, one)
        assert two.optimizer is optimizer
        assert list(map(id, optimizer.variables)) == list(map(id, variables))

    @pytest.mark.full
    def test_from_epoch_0(self):
        """It holds once more what later epochs release, which then warms up again."""
        model, unfreeze = slope(), Unfreeze({1: "bias"}, warm_up=2)
        fit_ones(model, 3, [unfreeze])
        assert kernel_and_bias(model) == [-3, -1.5]
        fit_ones(model, 3, [unfreeze])
        assert kernel_and_bias(model) == [-6, -3]

    @pytest.mark.full
    def test_by_steps(self):
        """They go on."""
        model, unfreeze = slope(), Unfreeze({4: "bias"}, unit="step")
        for bias in (0, -2, -5):
            fit_ones(model, 3, [unfreeze])
            assert kernel_and_bias(model)[1] == bias

    @pytest.mark.full
    def test_without(self):
        """What is held stays held."""
        model = slope()
        fit_ones(model, 1, [Unfreeze({1: "bias"})])
        fit_ones(model, 2)
        assert kernel_and_bias(model) == [-3, 0]

    @pytest.mark.full
    def test_with_other_entries(self):
        """They take the place of the former ones, of which nothing is left."""
        model = slope()
        fit_ones(model, 1, [Unfreeze({1: "bias", 2: "kernel"})])
        assert kernel_and_bias(model) == [0, 0]
        fit_ones(model, 2, [Unfreeze({1: "kernel"}, warm_up=4)])
        assert kernel_and_bias(model) == [-0.25, -2]
        assert [live.key for live in model.optimizer._book.rules] == ["unfreeze at epoch 1"]
        assert [v.name for v in model.optimizer.variables].count("rule_numbers") == 1

    @pytest.mark.full
    def test_of_weights_that_have_taken_other_steps(self):
        """Under one rule again, each keeps the step count that corrects its bias."""
        rule = fg.Rule("encoder", trainable=False)
        mine, others = adam(), adam(rules=[rule])
        train(mine, epochs=2, callbacks=[Unfreeze({1: "encoder"})])
        train(mine, epochs=2, callbacks=[Unfreeze({0: "."})])
        train(others)
        others.optimizer.set("encoder", trainable=True)
        train(others, epochs=3)
        assert_bit_equal(mine, others)
        assert list(steps_of(mine).values()) == [12, 12, 16, 16]

    @pytest.mark.full
    def test_of_a_model_from_a_file(self, tmp_path):
        """Its rules are joined, saved with the others, and go on when they are loaded again."""

        def second(model):
            model.compile(model.optimizer, "mse", run_eagerly=True)
            return train(model, epochs=2, callbacks=[Unfreeze({1: lambda w: "encoder" in w.path})])

        rules = [fg.Rule(lambda w: "kernel" in w.path, learning_rate_multiplier=0.5)]
        model = train(adam(rules=rules))
        paths = [tmp_path / "first.keras", tmp_path / "second.keras"]
        model.save(paths[0])
        loaded = second(keras.models.load_model(paths[0]))
        second(model)
        assert_bit_equal(loaded, model)
        loaded.save(paths[1])
        again = keras.models.load_model(paths[1])
        rows = [one.optimizer.describe(one).to_dicts() for one in (model, loaded, again)]
        assert rows[0] == rows[1] == rows[2]
        again.compile(again.optimizer, "mse", run_eagerly=True)
        assert_bit_equal(train(again), train(model))

    @pytest.mark.parametrize("name", ["adam", "adaptive_step_size", "schedule_free_adamw"])
    @pytest.mark.selected("adam")
    def test_after_one_without(self, name):
        """Slots and step counts go on as under rules that were there from the beginning."""

        def model(rules=()):
            return compiled(fg.PerWeight(OPTIMIZERS[name](), rules))

        mine, others = model(), model([fg.Rule("encoder", trainable=True)])
        train(mine)
        train(others)
        train(mine, epochs=2, callbacks=[Unfreeze({1: "encoder"})])
        others.optimizer.set("encoder", trainable=False)
        train(others)
        others.optimizer.set("encoder", trainable=True)
        train(others)
        assert_bit_equal(mine, others)
        assert list(steps_of(mine).values()) == [8, 8, 12, 12]

    def test_compiled_after_one_without(self):
        """The step is traced anew, once: it has other variables."""
        model = slope(jit=True)
        fit_ones(model, 2)
        fit_ones(model, 2, [Unfreeze({1: "bias"})])
        assert kernel_and_bias(model) == [-4, -3]


class TestBesideOthers:
    @pytest.mark.full
    def test_gradient_accumulation(self):
        """Steps are updates: there are four, and the bias takes the last two, at 1/2 and 1."""
        for unit in ("epoch", "step"):
            model = slope(gradient_accumulation_steps=2)
            x = np.ones((4, 1), "float32")
            unfreeze = Unfreeze({1 if unit == "epoch" else 2: "bias"}, unit=unit, warm_up=2)
            model.fit(x, x, batch_size=1, epochs=2, verbose=0, callbacks=[unfreeze])
            assert kernel_and_bias(model) == [-4, -1.5]

    def test_loss_scaling(self):
        """In mixed precision, with a step that overflows and does not count."""
        keras.config.set_dtype_policy("mixed_float16")
        model = unit_slope_model()
        inner = fg.PerWeight(optimizers.SGD(1.0))
        scaled = optimizers.LossScaleOptimizer(inner, initial_scale=2.0**14)
        model.compile(scaled, lambda y, p: ops.mean(p) * 4.0, run_eagerly=True)
        x = np.ones((8, 1), "float32")
        unfreeze = Unfreeze({2: "bias"}, unit="step", warm_up=2)
        model.fit(x, x, batch_size=2, verbose=0, callbacks=[unfreeze])
        # 2**14 * 4 is beyond float16: the first step is dropped.
        assert int(inner.iterations) == 3
        assert kernel_and_bias(model) == [-12, -2]

    def test_skipped_steps(self):
        """They do not count, so that the release comes when the optimizer has taken its steps."""
        model = unit_slope_model()
        inner = fg.PerWeight(optimizers.SGD(1.0), nonfinite="skip")
        model.compile(inner, mean_output, run_eagerly=True)
        x = np.array([[1], [np.nan], [1], [1], [1]], "float32")
        unfreeze = Unfreeze({2: "bias"}, unit="step")
        model.fit(x, x, batch_size=1, shuffle=False, verbose=0, callbacks=[unfreeze])
        assert kernel_and_bias(model) == [-4, -2]
        assert inner.skipped_steps == 1

    def test_steps_per_execution(self):
        """A release waits for the next execution; the warm-up within it is exact."""
        if BACKEND == "torch":
            pytest.skip("on torch Keras takes one step an execution")
        model = unit_slope_model()
        model.compile(
            fg.PerWeight(optimizers.SGD(1.0)), mean_output, steps_per_execution=3, jit_compile=JIT
        )
        x = np.ones((9, 1), "float32")
        unfreeze = Unfreeze({2: "bias"}, unit="step", warm_up=4)
        model.fit(x, x, batch_size=1, verbose=0, callbacks=[unfreeze])
        assert kernel_and_bias(model) == [-9, -(0.25 + 0.5 + 0.75 + 3)]

    @pytest.mark.full
    def test_watch(self):
        """It shows the rates, and does not mind the order."""
        for order in (1, -1):
            model, watch = slope(), fg.callbacks.Watch(every=1)
            callbacks = [Unfreeze({1: "bias"}, warm_up=2), watch][::order]
            fit_ones(model, 4, callbacks)
            rates = watch.history["learning_rate"][:, 1]
            # As they are after the step: that of the next one.
            np.testing.assert_allclose(rates, [0, 1, 1, 1])
            assert set(watch.rules) == {"unfreeze at epoch 1", "no rule"}

    @pytest.mark.full
    def test_a_scale_for_each_group(self):
        """AdaptiveStepSize learns one for each, and parts of a group begin with its own."""
        model = compiled(fg.PerWeight(OPTIMIZERS["adaptive_step_size"]()))
        train(model, epochs=3, callbacks=[Unfreeze({1: "encoder"}, warm_up=2)])
        assert_moved(model)
        assert list(steps_of(model).values()) == [8, 8, 12, 12]

    @pytest.mark.full
    def test_gradient_transforms(self):
        """They go on, in their order."""
        rules = [fg.Rule(".", gradient=fg.gradients.ClipNorm(0.5, per="rule"), name="clip")]
        model = slope(rules)
        fit_ones(model, 2, [Unfreeze({1: "bias"})])
        kernel, bias = kernel_and_bias(model)
        np.testing.assert_allclose([kernel, bias], [-0.5 - 0.125**0.5, -(0.125**0.5)], rtol=1e-6)

    @pytest.mark.full
    def test_batch_normalization(self):
        """Statistics go on while weights are held, as the docstring says."""
        inputs = keras.Input((3,))
        hidden = layers.BatchNormalization(name="norm")(inputs)
        model = keras.Model(inputs, layers.Dense(2, name="head")(hidden))
        adam(model)
        before = dict(zip([w.name for w in model.weights], values(model.weights), strict=False))
        train(model, callbacks=[Unfreeze({1: "norm"})])
        after = {w.name: v for w, v in zip(model.weights, values(model.weights), strict=True)}
        np.testing.assert_array_equal(before["gamma"], after["gamma"])
        assert not np.array_equal(before["moving_mean"], after["moving_mean"])


class TestWhatItSays:
    @pytest.mark.one_backend
    def test_history(self):
        """The share of the parameters that learn, in the history."""
        history = fit_ones(slope(), 3, [Unfreeze({1: "bias"})])
        assert history["learning_share"] == [0.5, 1.0, 1.0]

    @pytest.mark.one_backend
    def test_lines(self, capsys):
        """One for each release, and none for what learns from the start."""
        model = adam(three())
        entries = {0: "head", 1: ["middle/kernel", "middle/bias"], 2: "encoder/bias"}
        train(model, epochs=4, callbacks=[Unfreeze(entries, verbose=1, warm_up=5)])
        assert capsys.readouterr().out.split("\n") == [
            "",
            "Epoch 2: released middle/kernel, middle/bias (2 weights, 15 parameters), "
            "warming up over 5 steps",
            "",
            "Epoch 3: released encoder/bias (1 weight, 4 parameters), warming up over 5 steps",
            "",
        ]
        train(adam(), callbacks=[Unfreeze({2: "encoder"}, unit="step", verbose=1)])
        assert capsys.readouterr().out == "\nStep 2: released encoder (2 weights, 16 parameters)\n"

    @pytest.mark.one_backend
    def test_large_numbers(self):
        """Are rounded."""
        from finegrain.per_weight.unfreeze import _short

        shown = [_short(number) for number in (999, 12_540, 1_800_000, 7_000_000_000)]
        assert shown == ["999", "12.5 k", "1.8 M", "7.0 G"]


@pytest.mark.one_backend
class TestErrors:
    @pytest.mark.parametrize(
        ("arguments", "error", "message"),
        [
            ((["head"],), TypeError, "should be a dict: when → what"),
            (({},), ValueError, "should name what is released when"),
            (({-1: "head"},), ValueError, r"each key of `schedule` \(an epoch\) .* >= 0"),
            (({1.0: "head"},), TypeError, r"an integer >= 0\. Received: 1\.0"),
            (({1: ""},), ValueError, "no regular expression may be empty"),
            (({1: 3},), TypeError, "selects weights by a regular expression"),
            (({1: "("},), ValueError, "should be a valid regular expression"),
        ],
    )
    def test_of_the_schedule(self, arguments, error, message):
        """Before any training."""
        with pytest.raises(error, match=message):
            Unfreeze(*arguments)

    @pytest.mark.parametrize(
        ("arguments", "error", "message"),
        [
            ({"unit": "batch"}, ValueError, '"epoch" or "step". Received: unit=\'batch\''),
            ({"warm_up": -1}, ValueError, "`warm_up` should be an integer >= 0. Received: -1"),
            ({"warm_up": 0.5}, TypeError, "`warm_up` should be an integer >= 0. Received: 0.5"),
        ],
    )
    def test_of_the_other_arguments(self, arguments, error, message):
        """Before any training."""
        with pytest.raises(error, match=message):
            Unfreeze({1: "head"}, **arguments)

    def test_another_optimizer(self):
        """The error says how to wrap it."""
        model = compiled(optimizers.Adam())
        with pytest.raises(TypeError, match="wrap your optimizer as `PerWeight"):
            train(model, callbacks=[Unfreeze({1: "head"})])
        model = compiled(fg.optimizers.AdaptiveStepSize(fg.PerWeight("adam")))
        with pytest.raises(TypeError, match=r"AdaptiveStepSize.*not the reverse"):
            train(model, callbacks=[Unfreeze({1: "head"})])

    def test_a_selector_that_selects_nothing(self):
        """The error names the nearest weights, and nothing has changed."""
        model = adam()
        with pytest.raises(ValueError, match=r"this model's 4 trainable weights are: \['encoder/"):
            train(model, callbacks=[Unfreeze({0: "head", 1: "encodr"})])
        assert model.optimizer._book.rules == []
        assert_bit_equal(train(model), train(adam()))

    def test_a_layer_that_keras_freezes(self):
        """It has nothing to release; other entries leave it alone."""
        model = three()
        model.get_layer("encoder").trainable = False
        adam(model)
        frozen = values(model.get_layer("encoder").weights)
        with pytest.raises(ValueError, match="has no trainable weight: set `trainable = True`"):
            train(model, callbacks=[Unfreeze({1: model.get_layer("encoder")})])
        with pytest.raises(ValueError, match="'encoder' selects no trainable weight"):
            train(model, callbacks=[Unfreeze({1: "encoder"})])
        history = model.fit(
            X, Y, epochs=2, verbose=0, callbacks=[Unfreeze({0: "head", 1: "."})]
        ).history
        np.testing.assert_allclose(history["learning_share"], [8 / 23, 1])
        for before, now in zip(frozen, model.get_layer("encoder").weights, strict=True):
            np.testing.assert_array_equal(before, values([now])[0])

    def test_an_entry_for_nothing(self):
        """Its weights are all released earlier."""
        with pytest.raises(ValueError, match="at epoch 2 releases nothing: earlier entries"):
            train(adam(), callbacks=[Unfreeze({0: ".", 2: "head"})])

    def test_two_at_once(self):
        """One would hold what the other releases."""
        with pytest.raises(ValueError, match="takes one Unfreeze"):
            train(adam(), callbacks=[Unfreeze({1: "head"}), Unfreeze({1: "encoder"})])

    def test_a_model_without_weights(self):
        """Where Keras does not build it before it trains."""
        model = keras.Sequential([layers.Dense(1)])
        model.compile(fg.PerWeight("sgd"), "mse")
        with pytest.raises(ValueError, match="build it first, for example by calling it on data"):
            Unfreeze({1: "dense"}).set_model(model)
