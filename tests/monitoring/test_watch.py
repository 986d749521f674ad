"""What Watch records, against the same numbers taken by hand."""

import sys

import keras
import numpy as np
import pytest
from keras import optimizers

import finegrain as fg
from compiling import JIT
from optimizers.contract import (
    LEARNING_RATE,
    OPTIMIZERS,
    X,
    Y,
    assert_bit_equal,
    assert_moved,
    groups,
    mlp,
    state,
    values,
)

BACKEND = keras.backend.backend()
NORMS = ["gradient_norm", "update_norm", "weight_norm"]
PATHS = ["encoder/kernel", "encoder/bias", "head/kernel", "head/bias"]


def compiled(optimizer, mode="compiled", **arguments):
    model = mlp()
    jit = mode == "compiled" and JIT
    model.compile(optimizer, "mse", run_eagerly=mode == "eager", jit_compile=jit, **arguments)
    return model


def fit(model, *callbacks, x=X, y=Y, **arguments):
    """Batches of four, in order."""
    arguments = {"batch_size": 4, "shuffle": False, "verbose": 0} | arguments
    return model.fit(x, y, callbacks=list(callbacks), **arguments)


def gradients_by_hand(weights, x, y):
    """Slopes of the mean square of `mlp` in float64."""
    w1, b1, w2, b2 = [np.asarray(w, "float64") for w in weights]
    hidden = np.tanh(x @ w1 + b1)
    outer = 2 * (hidden @ w2 + b2 - y) / y.size
    inner = (outer @ w2.T) * (1 - hidden**2)
    return [x.T @ inner, inner.sum(0), hidden.T @ outer, outer.sum(0)]


def sgd_by_hand(rates, steps=4, decay=0.0, batches=1):
    """For each step the norms of gradients, updates and weights: three arrays (steps, 4)."""
    weights = [np.asarray(w, "float64") for w in values(mlp().weights)]
    rows = [[], [], []]
    for step in range(steps):
        of_batches = [
            gradients_by_hand(weights, X[first : first + 4], Y[first : first + 4])
            for first in [4 * ((step * batches + k) % 4) for k in range(batches)]
        ]
        gradients = [np.mean(parts, axis=0) for parts in zip(*of_batches, strict=True)]
        updates = [
            -rate * (gradient + decay * weight)
            for rate, gradient, weight in zip(rates, gradients, weights, strict=True)
        ]
        weights = [w + u for w, u in zip(weights, updates, strict=True)]
        for row, arrays in zip(rows, (gradients, updates, weights), strict=True):
            row.append([np.linalg.norm(array) for array in arrays])
    return [np.array(row) for row in rows]


def assert_close(watch, gradient, update, weight):
    for quantity, expected in zip(NORMS, (gradient, update, weight), strict=True):
        np.testing.assert_allclose(
            watch.history[quantity], expected, rtol=2e-4, atol=1e-6, err_msg=quantity
        )
    np.testing.assert_allclose(watch.history["update_ratio"], update / weight, rtol=2e-4, atol=1e-6)


RATES = [0.1 * LEARNING_RATE, 2 * LEARNING_RATE, LEARNING_RATE, 2 * LEARNING_RATE]


class TestNumbers:
    @pytest.mark.selected("compiled")
    @pytest.mark.parametrize("mode", ["eager", "compiled"])
    def test_sgd_by_hand(self, mode):
        """Gradients as the loss gives them, updates with decay, weights after the step."""
        sgd = optimizers.SGD(LEARNING_RATE, weight_decay=0.5, clipnorm=100.0)
        model = compiled(fg.PerWeight(sgd, groups(0.1, 2.0)), mode)
        watch = fg.callbacks.Watch(every=1)
        fit(model, watch)
        assert watch.steps == [0, 1, 2, 3]
        assert watch.paths == PATHS
        assert_close(watch, *sgd_by_hand(RATES, decay=0.5))
        np.testing.assert_allclose(watch.history["learning_rate"], [RATES] * 4, rtol=1e-6)
        assert watch.history["skipped_steps"].tolist() == [0] * 4

    @pytest.mark.full
    def test_gradients_are_taken_before_transforms_and_clipping(self):
        """What the loss gave, also where the step is made of something else."""
        rules = [fg.Rule(".", gradient=fg.gradients.Scale(1e-3))]
        model = compiled(fg.PerWeight(optimizers.SGD(1.0, global_clipnorm=1e-6), rules))
        watch = fg.callbacks.Watch(every=1)
        fit(model, watch, x=X[:4], y=Y[:4])
        np.testing.assert_allclose(
            watch.history["gradient_norm"], sgd_by_hand([0.0] * 4, 1)[0], rtol=2e-4
        )
        # Weights of about 1 are rounded by 6e-8 each.
        assert np.linalg.norm(watch.history["update_norm"]) <= 1.1e-6

    @pytest.mark.full
    @pytest.mark.parametrize("every", [2, 3, 100])
    def test_every(self, every):
        """The first of so many steps; the count goes on from epoch to epoch."""
        model = compiled(fg.PerWeight(optimizers.SGD(LEARNING_RATE)))
        watch = fg.callbacks.Watch(every=every)
        fit(model, watch, epochs=2)
        due = list(range(0, 8, every))
        assert watch.steps == due
        expected = [norms[due] for norms in sgd_by_hand([LEARNING_RATE] * 4, 8)]
        assert_close(watch, *expected)

    @pytest.mark.full
    def test_several_fits(self):
        """One Watch goes on through fits, and one that comes later begins where it comes."""
        model = compiled(fg.PerWeight(optimizers.SGD(LEARNING_RATE)))
        watch, late = fg.callbacks.Watch(every=3), fg.callbacks.Watch(every=2)
        fit(model, watch)
        fit(model)
        fit(model, watch)
        fit(model, late)
        assert watch.steps[:2] == [0, 3]
        assert [step for step in watch.steps if step >= 8] == [9]
        assert late.steps == [12, 14]
        expected = sgd_by_hand([LEARNING_RATE] * 4, 16)
        places = [watch.steps.index(step) for step in (0, 3, 9)]
        for quantity, norms in zip(NORMS, expected, strict=True):
            np.testing.assert_allclose(
                watch.history[quantity][places], norms[[0, 3, 9]], rtol=2e-4, atol=1e-6
            )
            np.testing.assert_allclose(late.history[quantity], norms[[12, 14]], rtol=2e-4)

    @pytest.mark.selected("compiled")
    @pytest.mark.parametrize("mode", ["eager", "compiled"])
    def test_accumulation(self, mode):
        """Real steps are recorded, with the mean gradient."""
        sgd = optimizers.SGD(LEARNING_RATE, gradient_accumulation_steps=2)
        model = compiled(fg.PerWeight(sgd), mode)
        watch = fg.callbacks.Watch(every=1)
        fit(model, watch, epochs=2)
        assert watch.steps == [0, 1, 2, 3]
        assert_close(watch, *sgd_by_hand([LEARNING_RATE] * 4, 4, batches=2))

    @pytest.mark.skipif(BACKEND == "torch", reason="Keras has it on the other backends only")
    def test_several_steps_in_one_execution(self):
        """The last record of each execution is read."""
        model = compiled(fg.PerWeight(optimizers.SGD(LEARNING_RATE)), steps_per_execution=2)
        watch = fg.callbacks.Watch(every=2)
        fit(model, watch, epochs=2)
        assert watch.steps == [0, 2, 4, 6]
        assert_close(watch, *[n[::2] for n in sgd_by_hand([LEARNING_RATE] * 4, 8)])

    @pytest.mark.selected("compiled")
    @pytest.mark.parametrize("mode", ["eager", "compiled"])
    def test_dropped_steps(self, mode):
        """A dropped step is no step: it is not recorded, but counted."""
        optimizer = fg.PerWeight(optimizers.SGD(LEARNING_RATE), nonfinite="skip")
        model = compiled(optimizer, mode)
        watch = fg.callbacks.Watch(every=1)
        bad = np.full((4, 2), np.nan, "float32")
        fit(model, watch, x=np.concatenate([X[:4], X]), y=np.concatenate([bad, Y]))
        assert watch.steps == [0, 1, 2, 3]
        assert_close(watch, *sgd_by_hand([LEARNING_RATE] * 4, 4))
        assert watch.history["skipped_steps"].tolist() == [1] * 4
        assert np.isfinite(watch.history["gradient_norm"]).all()

    def test_loss_scaling(self):
        """Gradients are unscaled, and steps without records are those that Keras dropped."""
        keras.config.set_dtype_policy("mixed_float16")
        model = compiled(fg.PerWeight(optimizers.SGD(LEARNING_RATE)))
        assert isinstance(model.optimizer, optimizers.LossScaleOptimizer)
        watch = fg.callbacks.Watch(every=1)
        fit(model, watch, epochs=3)
        assert watch.steps == list(range(int(np.asarray(values([model.optimizer.iterations])[0]))))
        assert len(watch.steps) >= 8
        np.testing.assert_allclose(
            watch.history["update_norm"],
            LEARNING_RATE * watch.history["gradient_norm"],
            rtol=1e-3,
        )
        assert watch.history["gradient_norm"].max() < 100

    @pytest.mark.full
    def test_held_weights(self):
        """Their gradient counts for 0 or what it is, their update for 0, and their rate for 0."""
        model = compiled(fg.PerWeight(OPTIMIZERS["adam"](), [fg.Rule("head", trainable=False)]))
        watch = fg.callbacks.Watch(every=1)
        fit(model, watch)
        assert (watch.history["update_norm"][:, :2] > 0).all()
        for quantity in ("update_norm", "update_ratio", "learning_rate"):
            assert not watch.history[quantity][:, 2:].any()
        start = [np.linalg.norm(value) for value in values(mlp().weights)]
        np.testing.assert_allclose(watch.history["weight_norm"][:, 2:], [start[2:]] * 4, rtol=1e-6)

    @pytest.mark.full
    def test_a_rate_that_changes(self):
        """The rate is that of the time."""
        model = compiled(fg.PerWeight(optimizers.SGD(0.5), [fg.Rule("head", learning_rate=0.1)]))
        watch = fg.callbacks.Watch(every=4, what="learning_rate")
        scheduler = keras.callbacks.LearningRateScheduler(lambda epoch: [0.5, 0.25][epoch])
        fit(model, scheduler, watch, epochs=2)
        expected = [[0.5, 0.5, 0.1, 0.1], [0.25, 0.25, 0.1, 0.1]]
        np.testing.assert_allclose(watch.history["learning_rate"], expected, rtol=1e-6)


@pytest.mark.one_backend
class TestWhat:
    def test_only_some(self):
        """Only what was asked for, in the usual order."""
        watch = fg.callbacks.Watch(every=2, what=["weight_norm", "gradient_norm"])
        fit(compiled(fg.PerWeight("sgd")), watch)
        assert list(watch.history) == ["gradient_norm", "weight_norm"]
        assert watch.history["weight_norm"].shape == (2, 4)

    def test_of_rules(self):
        """All weights of a rule as one vector; those of no rule by themselves."""
        rules = [*groups(0.1, 2.0), fg.Rule("encoder", weight_decay=0.0, name="again")]
        model = compiled(fg.PerWeight(optimizers.SGD(LEARNING_RATE), rules))
        watch = fg.callbacks.Watch(every=1)
        fit(model, watch)
        members = {"encoder": [0, 1], "bias$": [1, 3], "again": [0, 1], "no rule": [2]}
        for quantity in NORMS:
            found = watch.of_rules(quantity)
            assert list(found) == list(members)
            for rule, places in members.items():
                np.testing.assert_allclose(
                    found[rule],
                    np.linalg.norm(watch.history[quantity][:, places], axis=1),
                    rtol=1e-6,
                )
        ratio = watch.of_rules("update_ratio")["bias$"]
        norms = [watch.of_rules(quantity)["bias$"] for quantity in NORMS[1:]]
        np.testing.assert_allclose(ratio, norms[0] / norms[1], rtol=1e-6)
        rates = watch.of_rules("learning_rate")
        np.testing.assert_allclose(rates["encoder"], [np.mean(RATES[:2])] * 4, rtol=1e-6)

    @pytest.mark.parametrize("quantity", ["skipped_steps", "speed", "gradient_norm"])
    def test_of_rules_of_what_was_not_recorded(self, quantity):
        """Only quantities of weights that were asked for."""
        watch = fg.callbacks.Watch(what=["weight_norm", "skipped_steps"])
        with pytest.raises(ValueError, match=f"Received: quantity='{quantity}'"):
            watch.of_rules(quantity)


@pytest.mark.one_backend
class TestPlot:
    def test_what_it_shows(self):
        """A heat map of all weights and steps, and a panel with a line a rule per quantity."""
        model = compiled(fg.PerWeight(optimizers.SGD(LEARNING_RATE), groups(0.1, 2.0)))
        watch = fg.callbacks.Watch(every=1)
        fit(model, watch)
        figure = watch.plot()
        titles = [axes.get_title() for axes in figure.axes]
        assert titles[:1] == ["update ratio of each weight"]
        assert {"gradient norm", "update norm", "weight norm", "learning rate"} <= set(titles)
        assert "skipped steps" not in titles
        image = figure.axes[0].images[0].get_array()
        np.testing.assert_allclose(np.asarray(image), watch.history["update_ratio"].T, rtol=1e-6)
        assert [t.get_text() for t in figure.axes[0].get_yticklabels()] == PATHS
        panel = figure.axes[titles.index("weight norm")]
        lines = {line.get_label(): line.get_ydata() for line in panel.lines}
        of_rules = watch.of_rules("weight_norm")
        assert list(lines) == list(of_rules)
        for rule, line in lines.items():
            np.testing.assert_allclose(line, of_rules[rule])

    def test_dropped_steps(self, tmp_path):
        """They have a panel where there were any."""
        model = compiled(fg.PerWeight("sgd", nonfinite="skip"))
        watch = fg.callbacks.Watch(every=1)
        fit(model, watch, x=np.concatenate([X[:4] * np.nan, X]), y=np.concatenate([Y[:4], Y]))
        figure = watch.plot()
        panel = next(axes for axes in figure.axes if axes.get_title() == "skipped steps")
        assert list(panel.lines[0].get_ydata()) == [1, 1, 1, 1]
        figure.savefig(tmp_path / "watch.png")
        assert (tmp_path / "watch.png").read_bytes().startswith(b"\x89PNG")

    @pytest.mark.parametrize("what", ["learning_rate", "weight_norm", "gradient_norm"])
    def test_one_quantity(self, what):
        """It is in the map and in the only panel."""
        watch = fg.callbacks.Watch(every=2, what=what)
        fit(compiled(fg.PerWeight("sgd")), watch)
        titles = [axes.get_title() for axes in watch.plot().axes]
        name = what.replace("_", " ")
        assert titles == [f"{name} of each weight", name, ""]

    def test_nothing_yet(self):
        """The message says to train."""
        with pytest.raises(ValueError, match="Nothing was recorded yet"):
            fg.callbacks.Watch().plot()


@pytest.mark.one_backend
class TestTensorBoard:
    def test_file(self, tmp_path):
        """TensorBoard reads back what is in memory, per weight and per rule."""
        accumulator = pytest.importorskip(
            "tensorboard.backend.event_processing.event_accumulator",
            exc_type=ImportError,
        )
        model = compiled(fg.PerWeight(optimizers.SGD(LEARNING_RATE), groups(0.1, 2.0)))
        watch = fg.callbacks.Watch(tmp_path / "logs", every=2)
        fit(model, watch, epochs=2)
        events = accumulator.EventAccumulator(str(tmp_path / "logs"))
        events.Reload()
        tags = set(events.Tags()["scalars"])
        quantities = [*NORMS, "update_ratio", "learning_rate"]
        rules = ["encoder", "bias$", "no rule"]
        assert tags == (
            {f"{quantity}/{path}" for quantity in quantities for path in PATHS}
            | {f"rule_{quantity}/{rule}" for quantity in quantities for rule in rules}
            | {"skipped_steps"}
        )
        for quantity in quantities:
            for place, path in enumerate(PATHS):
                found = events.Scalars(f"{quantity}/{path}")
                assert [event.step for event in found] == [0, 2, 4, 6]
                np.testing.assert_allclose(
                    [event.value for event in found],
                    watch.history[quantity][:, place],
                    rtol=1e-6,
                )
            np.testing.assert_allclose(
                [event.value for event in events.Scalars(f"rule_{quantity}/bias$")],
                watch.of_rules(quantity)["bias$"],
                rtol=1e-6,
            )

    def test_not_installed(self, tmp_path, monkeypatch):
        """The message says what to install, or to leave out."""
        monkeypatch.setitem(sys.modules, "tensorboard.summary.writer.event_file_writer", None)
        watch = fg.callbacks.Watch(tmp_path / "logs")
        with pytest.raises(ModuleNotFoundError, match="pip install tensorboard, or leave") as error:
            fit(compiled(fg.PerWeight("sgd")), watch)
        assert "leave `log_dir` out" in str(error.value)

    def test_plot_without_matplotlib(self, monkeypatch):
        """So does that of the picture."""
        watch = fg.callbacks.Watch()
        watch.steps.append(0)
        for name in ("matplotlib.colors", "matplotlib.figure"):
            monkeypatch.setitem(sys.modules, name, None)
        monkeypatch.delitem(sys.modules, "finegrain.monitoring.plots", raising=False)
        with pytest.raises(ModuleNotFoundError, match=r"A picture .*pip install matplotlib"):
            watch.plot()


@pytest.mark.one_backend
class TestErrors:
    @pytest.mark.parametrize("bad", [0, -1, 1.5, True, "2", None])
    def test_every(self, bad):
        """An integer > 0."""
        with pytest.raises(ValueError, match=r"`every`.*Received: every="):
            fg.callbacks.Watch(every=bad)

    @pytest.mark.parametrize("bad", ["speed", ["weight_norm", "speed"], []])
    def test_what(self, bad):
        """Some of the quantities, at least one."""
        with pytest.raises(ValueError, match=r"`what` should be some of gradient_norm"):
            fg.callbacks.Watch(what=bad)

    def test_another_optimizer(self):
        """The message says how to wrap it."""
        with pytest.raises(TypeError, match=r"wrap yours as `PerWeight\(optimizer\)`"):
            fit(compiled(optimizers.SGD()), fg.callbacks.Watch())

    def test_another_model(self):
        """Records of two models do not mix."""
        watch = fg.callbacks.Watch(every=1)
        fit(compiled(fg.PerWeight("sgd")), watch)
        other = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, name="other")])
        other.compile(fg.PerWeight("sgd"), "mse")
        with pytest.raises(ValueError, match="records of another model"):
            fit(other, watch)


class TestUndisturbed:
    @pytest.mark.selected("compiled")
    @pytest.mark.parametrize("mode", ["eager", "compiled"])
    def test_training_is_the_same(self, mode):
        """Step by step to the last bit; compiled, XLA may round otherwise what it also records."""
        models = [
            compiled(fg.PerWeight(OPTIMIZERS["adam"](), groups(0.1, 2.0)), mode) for _ in "ab"
        ]
        fit(models[0], epochs=2)
        fit(models[1], fg.callbacks.Watch(every=2), epochs=2)
        assert_moved(models[0])
        if mode == "eager" or BACKEND == "torch":
            assert_bit_equal(*models)
        for mine, theirs in zip(*(values(m.weights) for m in models), strict=True):
            np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=1e-6)

    @pytest.mark.full
    def test_files_are_the_same(self, tmp_path):
        """What was recorded is no state: a watched model saves and goes on as another."""
        model = compiled(fg.PerWeight(OPTIMIZERS["adam"](), groups(0.1, 2.0)))
        fit(model, fg.callbacks.Watch(every=1))
        assert not any("norm" in key or "record" in key for key in state(model.optimizer))
        model.save(tmp_path / "model.keras")
        loaded = keras.models.load_model(tmp_path / "model.keras")
        watch = fg.callbacks.Watch(every=2)
        fit(loaded, watch)
        assert watch.steps == [4, 6]
