"""What becomes of steps whose gradients are NaN or infinite, under each policy."""

import re

import keras
import numpy as np
import pytest
from keras import ops, optimizers

import finegrain as fg
from covering import chosen
from optimizers.contract import (
    OPTIMIZERS,
    TRIED,
    X,
    Y,
    apply,
    assert_bit_equal,
    assert_moved,
    groups,
    mean_output,
    mlp,
    random_gradients,
    state,
    two_towers,
    values,
    variables,
)

BACKEND = keras.backend.backend()

MODES = ["eager", "compiled", *(["graph"] if BACKEND == "tensorflow" else [])]
every_mode = pytest.mark.parametrize("mode", MODES)
"""Step by step; compiled by XLA, where there is one; as TensorFlow's graph."""

# Whether `nonfinite="raise"` raises in the step, which no compiled step can.
RAISES_AT_ONCE = {mode: mode == "eager" or BACKEND == "torch" for mode in MODES}

BAD = {"nan": np.nan, "infinite": np.inf, "minus infinite": -np.inf}
every_mode_and_bad = pytest.mark.parametrize(
    ("mode", "bad"),
    [
        *(pytest.param("eager", bad, id=f"eager-{name}") for name, bad in BAD.items()),
        *(pytest.param(mode, np.nan, id=f"{mode}-nan") for mode in MODES[1:]),
    ],
)


def compiled(optimizer, mode, model=None, loss="mse"):
    model = mlp() if model is None else model
    jit = mode == "compiled" and BACKEND != "torch"
    model.compile(optimizer, loss, run_eagerly=mode == "eager", jit_compile=jit)
    return model


def towers(optimizer, mode):
    """Two towers, compiled."""
    return compiled(optimizer, mode, two_towers(), mean_output)


def fit(model, x, y=None, **arguments):
    """Batches of four, in order."""
    y = np.ones((len(X), 1), "float32") if y is None else y
    return model.fit(x, y, batch_size=4, shuffle=False, verbose=0, **arguments)


def poisoned(rows, bad):
    """X with a number that is not finite in each of `rows`."""
    x = X.copy()
    x[rows, 1] = bad
    return x


def with_a_bad_batch(bad):
    """(x, y) of five batches, of which the third has targets that are not finite."""
    y = np.concatenate([Y[:8], np.full((4, 2), bad, "float32"), Y[8:]])
    return np.concatenate([X[:8], X[:4], X[8:]]), y


def assert_same_state(optimizer, other):
    """Both hold the same, but for the count of dropped steps."""
    mine, theirs = state(optimizer), state(other)
    assert mine.keys() == theirs.keys()
    for key, value in mine.items():
        if key != "skipped_steps":
            np.testing.assert_array_equal(value, theirs[key], err_msg=key, strict=True)


class TestSkip:
    @pytest.mark.selected("adam", "nadam", "schedule_free_adamw")
    @pytest.mark.parametrize("name", chosen(OPTIMIZERS, TRIED))
    def test_every_optimizer(self, name):
        """A bad step leaves weights, slots and counts as if it had never come."""
        model, other = mlp(), mlp()
        optimizer, without = (
            fg.PerWeight(OPTIMIZERS[name](), groups(0.1, 2.0), nonfinite="skip") for _ in range(2)
        )
        for step, gradients in enumerate(random_gradients(model.weights)):
            if step == 1:
                spoilt = [np.array(ops.convert_to_numpy(g)) for g in gradients]
                spoilt[2][0, 1] = -np.inf
                apply(optimizer, model.weights, spoilt)
            optimizer.apply(gradients, model.weights)
            without.apply(gradients, other.weights)
        assert_moved(model)
        assert_bit_equal(model, other)
        assert_same_state(optimizer, without)
        assert (optimizer.skipped_steps, without.skipped_steps) == (1, 0)
        assert optimizer.nonfinite_weights == {"head/kernel": 1}
        assert int(optimizer.iterations) == 3

    @pytest.mark.selected("eager-nan", "compiled-nan")
    @every_mode_and_bad
    def test_in_fit(self, mode, bad):
        """A run with a bad batch is bit-equal to the run without it."""
        models = [
            compiled(fg.PerWeight(OPTIMIZERS["adam"](), groups(0.1, 2.0), nonfinite="skip"), mode)
            for _ in range(2)
        ]
        fit(models[0], *with_a_bad_batch(bad))
        fit(models[1], X, Y)
        assert_moved(models[0])
        assert_bit_equal(*models)
        assert_same_state(models[0].optimizer, models[1].optimizer)
        assert [m.optimizer.skipped_steps for m in models] == [1, 0]
        assert models[0].optimizer.nonfinite_weights == {w.path: 1 for w in models[0].weights}
        assert models[1].optimizer.nonfinite_weights == {}

    @pytest.mark.selected("adam-eager", f"adam-{MODES[-1]}")
    @every_mode
    @pytest.mark.parametrize("name", ["sgd_momentum", "adam"])
    def test_finite_steps_are_those_of_the_optimizer_alone(self, name, mode):
        """Where nothing is dropped, the policy changes no bit."""
        plain = compiled(OPTIMIZERS[name](), mode)
        guarded = compiled(fg.PerWeight(OPTIMIZERS[name](), nonfinite="skip"), mode)
        for model in (plain, guarded):
            fit(model, X, Y)
        assert_moved(plain)
        # A branch of TensorFlow's is compiled by itself, so that rounding may differ.
        if BACKEND == "tensorflow" and mode != "eager":
            for mine, theirs in zip(values(guarded.weights), values(plain.weights), strict=True):
                np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=1e-6)
        else:
            assert_bit_equal(guarded, plain)

    @pytest.mark.selected(MODES[-1])
    @every_mode
    def test_names_the_weights_and_counts(self, mode):
        """Only what was not finite is named, with the number of steps."""
        model = towers(fg.PerWeight(optimizers.SGD(0.1), nonfinite="skip"), mode)
        assert model.optimizer.nonfinite_weights == {}
        start = values(model.weights)
        fit(model, [poisoned([0], np.inf), poisoned([0, 6, 15], np.nan)])
        assert model.optimizer.skipped_steps == 3
        assert model.optimizer.nonfinite_weights == {"body/kernel": 1, "head/kernel": 3}
        assert int(model.optimizer.iterations) == 1
        # The one step that was taken is that of the third batch.
        for before, now in zip(start, values(model.weights), strict=True):
            np.testing.assert_allclose(
                now[:, 0], before[:, 0] - 0.1 * X[8:12].mean(axis=0), rtol=1e-5, atol=1e-6
            )

    @pytest.mark.selected(MODES[-1])
    @every_mode
    def test_with_accumulation(self, mode):
        """A bad micro-step is dropped, not the sum that was there before it."""
        models = [
            compiled(
                fg.PerWeight(
                    OPTIMIZERS["adam"](gradient_accumulation_steps=2, global_clipnorm=1.0),
                    groups(0.1, 2.0),
                    nonfinite="skip",
                ),
                mode,
            )
            for _ in range(2)
        ]
        x, y = with_a_bad_batch(np.nan)
        # The bad batch comes second here: in the middle of a step.
        fit(models[0], x[4:], y[4:])
        fit(models[1], X[4:], Y[4:])
        for mine, theirs in zip(*(values(m.weights) for m in models), strict=True):
            assert np.isfinite(mine).all()
            np.testing.assert_array_equal(mine, theirs)
        assert not np.array_equal(values(models[0].weights)[0], values(mlp().weights)[0])
        assert_same_state(models[0].optimizer, models[1].optimizer)
        assert models[0].optimizer.skipped_steps == 1
        # Three calls that count: a step and a half.
        assert int(models[0].optimizer._iterations) == 3
        assert state(models[0].optimizer)["encoder|kernel:accumulated_gradients"].any()

    def test_with_averages_and_constraints(self):
        """Averages do not see the dropped step, and constraints neither."""

        def run(bad):
            weights = variables(left=[4.0], right=[1.0])
            weights[0].constraint = keras.constraints.NonNeg()
            sgd = optimizers.SGD(1.0, use_ema=True, ema_momentum=0.5)
            optimizer = fg.PerWeight(sgd, nonfinite="skip")
            for gradient in [1.0, *bad, 1.0, 8.0]:
                apply(optimizer, weights, [[gradient], [1.0]])
            optimizer.finalize_variable_values(weights)
            return [float(v[0]) for v in values(weights)]

        assert run([np.nan, np.inf]) == run([])

    def test_a_constraint_in_a_dropped_step(self):
        """A weight that its constraint would move stays, too, when the step is dropped."""
        weights = variables(left=[-4.0], right=[1.0])
        weights[0].constraint = keras.constraints.NonNeg()
        optimizer = fg.PerWeight(optimizers.SGD(1.0), nonfinite="skip")
        apply(optimizer, weights, [[0.0], [np.nan]])
        assert [float(v[0]) for v in values(weights)] == [-4.0, 1.0]

    @pytest.mark.parametrize("missing", [0, 1, 2])
    def test_missing_gradients(self, missing):
        """`None` is no gradient that is not finite, wherever it stands; the others are checked."""
        weights = variables(a=[0.0], b=[0.0], c=[0.0])
        optimizer = fg.PerWeight(optimizers.SGD(1.0), nonfinite="skip")
        finite = [[1.0], [1.0], [1.0]]
        finite[missing] = None
        with pytest.warns(UserWarning, match="Gradients do not exist"):
            apply(optimizer, weights, finite)
        moved = [float(v[0]) for v in values(weights)]
        assert moved == [0.0 if i == missing else -1.0 for i in range(3)]
        bad = next(i for i in range(3) if i != missing)
        finite[bad] = [np.nan]
        apply_quietly(optimizer, weights, finite)
        assert [float(v[0]) for v in values(weights)] == moved
        assert optimizer.nonfinite_weights == {"abc"[bad]: 1}

    def test_a_part_of_the_weights(self):
        """`apply` with some of the weights, in another order, names the right ones."""
        a, b, c = weights = variables(a=[0.0], b=[0.0], c=[0.0])
        optimizer = fg.PerWeight(optimizers.SGD(1.0), nonfinite="skip")
        optimizer.build(weights)
        apply(optimizer, [c, a], [[np.inf], [1.0]])
        apply(optimizer, [c, b], [[1.0], [1.0]])
        assert [float(v[0]) for v in values(weights)] == [0.0, -1.0, -1.0]
        assert optimizer.nonfinite_weights == {"c": 1}

    def test_gradients_without_weights(self):
        """`apply` takes the weights that the optimizer was built with by itself."""
        weights = variables(a=[0.0], b=[0.0])
        optimizer = fg.PerWeight(optimizers.SGD(1.0), nonfinite="skip")
        optimizer.build(weights)
        apply(optimizer, None, [[1.0], [np.nan]])
        apply(optimizer, None, [[1.0], [2.0]])
        assert [float(v[0]) for v in values(weights)] == [-1.0, -2.0]
        assert optimizer.skipped_steps == 1

    @pytest.mark.full
    @every_mode
    def test_saved_and_resumed(self, mode, tmp_path):
        """The count goes on in a loaded model, which trains as the one that was saved."""
        optimizer = fg.PerWeight(OPTIMIZERS["adam"](), groups(0.1, 2.0), nonfinite="skip")
        model = compiled(optimizer, mode)
        fit(model, *with_a_bad_batch(np.nan))
        model.save(tmp_path / "model.keras")
        loaded = keras.models.load_model(tmp_path / "model.keras")
        assert loaded.optimizer.nonfinite == "skip"
        assert loaded.optimizer.skipped_steps == 1
        assert loaded.optimizer.nonfinite_weights == {}  # counted since it was built
        for one in (model, loaded):
            fit(one, *with_a_bad_batch(np.inf))
        assert_bit_equal(loaded, model)
        assert_same_state(loaded.optimizer, model.optimizer)
        assert [m.optimizer.skipped_steps for m in (model, loaded)] == [2, 2]

    def test_a_file_of_another_policy(self, tmp_path):
        """A file without a count is read without complaint, and the other way round."""
        propagating = compiled(fg.PerWeight("adam"), "eager")
        skipping = compiled(fg.PerWeight("adam", nonfinite="skip"), "eager")
        for model in (propagating, skipping):
            fit(model, X, Y)
            model.save_weights(tmp_path / f"{model.optimizer.nonfinite}.weights.h5")
        skipping.load_weights(tmp_path / "propagate.weights.h5")
        propagating.load_weights(tmp_path / "skip.weights.h5")
        assert_same_state_but_count(propagating.optimizer, skipping.optimizer)

    @pytest.mark.full
    def test_loss_scaling_looks_first(self):
        """In mixed precision Keras drops the step itself, for its scale's sake."""
        keras.config.set_dtype_policy("mixed_float16")
        model = compiled(fg.PerWeight("adam", nonfinite="skip"), "compiled")
        scale = optimizers.LossScaleOptimizer
        assert isinstance(model.optimizer, scale)
        fit(model, *with_a_bad_batch(np.nan))
        inner = model.optimizer.inner_optimizer
        assert inner.skipped_steps == 0
        assert int(inner.iterations) <= 4
        assert all(np.isfinite(value).all() for value in values(model.weights))


def apply_quietly(optimizer, weights, gradients):
    """A step in which Keras warns of missing gradients, where it would also be taken."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        apply(optimizer, weights, gradients)


def assert_same_state_but_count(optimizer, other):
    mine, theirs = state(optimizer), state(other)
    assert mine.keys() ^ theirs.keys() == {"skipped_steps"}
    for key in mine.keys() & theirs.keys():
        np.testing.assert_array_equal(mine[key], theirs[key], err_msg=key)


class TestPropagate:
    @pytest.mark.selected(*(f"{mode}-nan" for mode in MODES))
    @every_mode_and_bad
    def test_reaches_the_weights(self, mode, bad):
        """As in Keras: what is not finite spreads, and nothing is counted."""
        model = towers(fg.PerWeight(optimizers.SGD(0.1)), mode)
        fit(model, [X, poisoned([5], bad)])
        body, head = values(model.weights)
        assert np.isfinite(body).all()
        np.testing.assert_array_equal(np.isfinite(head[:, 0]), [True, False, True])
        assert int(model.optimizer.iterations) == 4
        assert model.optimizer.skipped_steps == 0
        assert model.optimizer.nonfinite_weights == {}
        model.optimizer.raise_if_nonfinite()


class TestRaise:
    def model(self, mode):
        return towers(fg.PerWeight(optimizers.SGD(0.1), nonfinite="raise"), mode)

    @pytest.mark.selected("eager-nan", "compiled-nan")
    @every_mode_and_bad
    def test_out_of_fit(self, mode, bad):
        """The error names the weights; they are finite, and the model goes on to be trained."""
        model = self.model(mode)
        with pytest.raises(fg.NonFiniteGradientError, match=r"'head/kernel'") as error:
            fit(model, [X, poisoned([5], bad)], epochs=2)
        assert error.value.paths == ["head/kernel"]
        assert "1 of 2 weights" in str(error.value)
        after = values(model.weights)
        assert all(np.isfinite(value).all() for value in after)
        # Where steps are compiled both epochs end.
        if not (BACKEND == "jax" and mode == "eager"):
            assert model.optimizer.skipped_steps == (1 if RAISES_AT_ONCE[mode] else 2)
        assert np.isfinite(model.predict([X, X], verbose=0)).all()
        assert np.isfinite(model.evaluate([X, X], np.ones((16, 1)), verbose=0))
        history = fit(model, [X, X], epochs=2)
        assert len(history.history["loss"]) == 2
        for before, now in zip(after, values(model.weights), strict=True):
            assert np.isfinite(now).all()
            assert not np.array_equal(before, now)

    @pytest.mark.selected("eager", "compiled")
    @every_mode
    def test_stops_at_the_bad_step(self, mode):
        """Weights and state are those of the steps before it, where need be by the callback."""
        model, other = self.model(mode), self.model(mode)
        callbacks = [] if RAISES_AT_ONCE[mode] else [fg.callbacks.TerminateOnNonFinite()]
        with pytest.raises(fg.NonFiniteGradientError, match=r"'head/kernel'"):
            fit(model, [X, poisoned([9], np.nan)], epochs=20, callbacks=callbacks)
        other.fit([X[:8], X[:8]], np.ones((8, 1)), batch_size=4, shuffle=False, verbose=0)
        assert_bit_equal(model, other)
        assert_same_state(model.optimizer, other.optimizer)
        assert int(model.optimizer.iterations) == 2

    @pytest.mark.skipif(BACKEND == "torch", reason="nothing is compiled on torch")
    def test_through_the_compiled_fit(self):
        """Without the callback `fit` drops such steps to its end, and raises there."""
        model = self.model("compiled")
        with pytest.raises(fg.NonFiniteGradientError, match="as they were before"):
            fit(model, [X, poisoned([0], np.nan)], epochs=3)
        assert int(model.optimizer.iterations) == 9
        assert model.optimizer.skipped_steps == 3

    @pytest.mark.parametrize("policy", ["propagate", "skip"])
    def test_the_callback_beside_another_policy(self, policy):
        """It would have nothing to look at: an error before the first batch."""
        model = towers(fg.PerWeight(optimizers.SGD(0.1), nonfinite=policy), "compiled")
        with pytest.raises(TypeError, match=r'PerWeight\(optimizer, nonfinite="raise"\)'):
            fit(model, [X, X], callbacks=[fg.callbacks.TerminateOnNonFinite()])

    def test_the_callback_under_loss_scaling(self):
        """It finds the optimizer inside Keras's wrapper, which drops such steps first."""
        keras.config.set_dtype_policy("mixed_float16")
        model = self.model("compiled")
        fit(model, [X, poisoned([9], np.nan)], callbacks=[fg.callbacks.TerminateOnNonFinite()])
        assert model.optimizer.inner_optimizer.skipped_steps == 0

    @pytest.mark.selected("compiled")
    @pytest.mark.skipif(BACKEND == "torch", reason="Keras has it on the other backends only")
    @pytest.mark.parametrize("mode", [mode for mode in MODES if mode != "eager"])
    def test_several_steps_in_one_execution(self, mode):
        """So it is when Keras runs several steps at once."""
        model = self.model(mode)
        model.compile(
            model.optimizer, mean_output, steps_per_execution=2, jit_compile=mode == "compiled"
        )
        with pytest.raises(fg.NonFiniteGradientError, match="head/kernel"):
            fit(model, [X, poisoned([5], np.nan)])
        assert all(np.isfinite(value).all() for value in values(model.weights))
        fit(model, [X, X])

    @pytest.mark.selected(MODES[-1])
    @every_mode
    def test_finite_steps_raise_nothing(self, mode):
        """The check by itself is no error."""
        model = self.model(mode)
        fit(model, [X, X])
        model.optimizer.raise_if_nonfinite()
        assert model.optimizer.skipped_steps == 0
        assert int(model.optimizer.iterations) == 4

    @pytest.mark.selected("eager")
    @pytest.mark.parametrize("mode", MODES)
    def test_twice(self, mode):
        """Each bad run raises, also after one that raised."""
        model = self.model(mode)
        for count in (1, 2):
            with pytest.raises(fg.NonFiniteGradientError):
                fit(model, [X, poisoned([13], np.nan)])
            # Keras forgets what a step on JAX counted when it raises inside of it.
            forgotten = BACKEND == "jax" and mode == "eager"
            assert model.optimizer.skipped_steps == (0 if forgotten else count)

    @pytest.mark.selected("eager", MODES[-1])
    @every_mode
    def test_train_on_batch(self, mode):
        """It raises at once where nothing is compiled, else `raise_if_nonfinite` does, once."""
        model = self.model(mode)
        x, y = [X[:4], poisoned([1], np.nan)[:4]], np.ones((4, 1), "float32")
        if mode == "eager" or BACKEND == "torch":
            with pytest.raises(fg.NonFiniteGradientError, match="head/kernel"):
                model.train_on_batch(x, y)
        else:
            model.train_on_batch(x, y)
            with pytest.raises(fg.NonFiniteGradientError, match="head/kernel") as error:
                model.optimizer.raise_if_nonfinite()
            assert error.value.paths == ["head/kernel"]
        model.optimizer.raise_if_nonfinite()
        before = values(model.weights)
        model.train_on_batch([X[:4], X[:4]], y)
        for old, now in zip(before, values(model.weights), strict=True):
            assert np.isfinite(now).all()
            assert not np.array_equal(old, now)

    def test_apply(self):
        """A single step raises, and leaves all as it was; the next one is taken."""
        weights = variables(a=[1.0], b=[2.0])
        optimizer = fg.PerWeight(optimizers.SGD(1.0, momentum=0.5), nonfinite="raise")
        apply(optimizer, weights, [[1.0], [1.0]])
        before = state(optimizer)
        with pytest.raises(fg.NonFiniteGradientError) as error:
            apply(optimizer, weights, [[np.nan], [np.inf]])
        assert error.value.paths == ["a", "b"]
        assert isinstance(error.value, FloatingPointError)
        assert [float(v[0]) for v in values(weights)] == [0.0, 1.0]
        for key, value in before.items():
            if key != "skipped_steps":
                np.testing.assert_array_equal(state(optimizer)[key], value, err_msg=key)
        apply(optimizer, weights, [[1.0], [1.0]])
        assert [float(v[0]) for v in values(weights)] == [-1.5, -0.5]

    def test_the_error_names_its_own_weights(self):
        """A second error names what is wrong then, not what was wrong before."""
        weights = variables(a=[1.0], b=[2.0])
        optimizer = fg.PerWeight(optimizers.SGD(1.0), nonfinite="raise")
        for place, gradients in (("a", [[np.nan], [1.0]]), ("b", [[1.0], [np.nan]])):
            with pytest.raises(fg.NonFiniteGradientError) as error:
                apply(optimizer, weights, gradients)
            assert error.value.paths == [place]

    @pytest.mark.full
    @every_mode
    def test_a_loaded_model(self, mode, tmp_path):
        """Steps dropped before the file was written are no news; later ones are."""
        model = self.model("compiled")
        with pytest.raises(fg.NonFiniteGradientError):
            fit(model, [X, poisoned([5], np.nan)])
        model.save_weights(tmp_path / "model.weights.h5")
        loaded = self.model(mode)
        loaded.optimizer.build(loaded.weights)
        loaded.load_weights(tmp_path / "model.weights.h5")
        fit(loaded, [X, X])
        assert loaded.optimizer.skipped_steps == 1
        with pytest.raises(fg.NonFiniteGradientError):
            fit(loaded, [X, poisoned([5], np.nan)])

    @pytest.mark.full
    def test_validation_data_of_the_next_fit(self):
        """After the error `fit` takes the validation data that it is given."""
        model = self.model("compiled")
        targets = np.ones((16, 1), "float32")
        with pytest.raises(fg.NonFiniteGradientError):
            fit(model, [X, poisoned([15], np.nan)], validation_data=([X, X], targets))
        other = [X + 100.0, X]
        history = fit(model, [X, X], validation_data=(other, targets))
        expected = model.evaluate(other, targets, verbose=0)
        np.testing.assert_allclose(history.history["val_loss"], [expected], rtol=1e-4)

    @pytest.mark.skipif(BACKEND != "jax", reason="JAX's stateless form")
    def test_a_compiled_loop_of_ones_own_on_jax(self):
        """The step is dropped and counted; the loop asks."""
        import jax

        weights = variables(a=[1.0], b=[2.0])
        optimizer = fg.PerWeight(optimizers.SGD(1.0), nonfinite="raise")
        optimizer.build(weights)
        step = jax.jit(optimizer.stateless_apply)
        gradients = [np.array([1.0], "float32"), np.array([np.nan], "float32")]
        own, now = [v.value for v in optimizer.variables], [w.value for w in weights]
        now, own = step(own, gradients, now)
        assert [float(value[0]) for value in now] == [1.0, 2.0]
        for variable, value in zip(optimizer.variables, own, strict=True):
            variable.assign(value)
        with pytest.raises(fg.NonFiniteGradientError, match="'b'"):
            optimizer.raise_if_nonfinite()

    @pytest.mark.skipif(BACKEND != "tensorflow", reason="TensorFlow's functions")
    @pytest.mark.parametrize("jit", [False, True], ids=["graph", "xla"])
    def test_a_compiled_loop_of_ones_own_on_tensorflow(self, jit):
        """So it is on TensorFlow."""
        import tensorflow as tf

        weights = variables(a=[1.0], b=[2.0])
        optimizer = fg.PerWeight(optimizers.SGD(1.0), nonfinite="raise")
        optimizer.build(weights)

        @tf.function(jit_compile=jit)
        def step(a, b):
            optimizer.apply([a, b], weights)

        step(tf.constant([1.0]), tf.constant([np.nan]))
        assert [float(v[0]) for v in values(weights)] == [1.0, 2.0]
        with pytest.raises(fg.NonFiniteGradientError, match="'b'"):
            optimizer.raise_if_nonfinite()
        step(tf.constant([1.0]), tf.constant([1.0]))
        assert [float(v[0]) for v in values(weights)] == [0.0, 1.0]


class TestPolicies:
    @pytest.mark.parametrize("bad", ["ignore", "Skip", None, True, 0])
    def test_unknown(self, bad):
        """The message lists the policies, and what was received."""
        message = r"'propagate', 'skip', 'raise'\. Received: nonfinite=" + re.escape(repr(bad))
        with pytest.raises(ValueError, match=message):
            fg.PerWeight("sgd", nonfinite=bad)

    @pytest.mark.parametrize("policy", ["propagate", "skip", "raise"])
    def test_in_the_config(self, policy):
        """It survives the config."""
        optimizer = fg.PerWeight("sgd", nonfinite=policy)
        assert fg.PerWeight.from_config(optimizer.get_config()).nonfinite == policy

    def test_before_the_first_step(self):
        """An optimizer that is not built has dropped nothing."""
        optimizer = fg.PerWeight("sgd", nonfinite="raise")
        assert optimizer.skipped_steps == 0
        assert optimizer.nonfinite_weights == {}
        optimizer.raise_if_nonfinite()
