"""What PerWeight does beyond the optimizer that it wraps."""

import re

import h5py
import keras
import numpy as np
import pytest
from keras import layers, optimizers

import finegrain as fg
from covering import chosen
from optimizers.contract import (
    ONES,
    OPTIMIZERS,
    X,
    Y,
    apply,
    assert_bit_equal,
    assert_moved,
    compiled,
    fill,
    fit_ones,
    groups,
    kernel_and_bias,
    mean_output,
    mlp,
    push,
    random_gradients,
    rule,
    state,
    train,
    unit_slope_model,
    values,
    variables,
)

BACKEND = keras.backend.backend()


def unit_slope(optimizer, **arguments):
    """A compiled model that SGD moves by minus the learning rate at each step."""
    model = unit_slope_model()
    model.compile(optimizer, mean_output, **arguments)
    return model


class TestMultipliers:
    def test_step_of_sgd_by_hand(self):
        """Two points, squared error: each weight moves by −learning rate × multiplier × slope."""
        model = keras.Sequential([keras.Input((2,)), layers.Dense(1, name="head")])
        model.set_weights([np.array([[1.0], [2.0]]), np.array([0.5])])
        model.compile(fg.PerWeight(optimizers.SGD(0.5), [rule("bias", 0.25)]), "mse")
        model.fit(np.array([[1.0, 0.0], [0.0, 1.0]]), np.array([[1.0], [0.5]]), verbose=0)
        # Errors 1.5 − 1 = 0.5 and 2.5 − 0.5 = 2; slopes of the mean square: 0.5, 2, and 2.5.
        kernel, bias = values(model.weights)
        np.testing.assert_allclose(kernel, [[1 - 0.5 * 0.5], [2 - 0.5 * 2]], rtol=1e-6)
        np.testing.assert_allclose(bias, [0.5 - 0.5 * 0.25 * 2.5], rtol=1e-6)

    def test_the_last_rule_wins(self):
        """Of the rules that select a weight the last decides, however specific the others."""
        model = unit_slope(
            fg.PerWeight(optimizers.SGD(0.5), [rule("head/bias", 8), rule("head", 2)])
        )
        fit_ones(model)
        assert kernel_and_bias(model) == [-1, -1]
        model = unit_slope(
            fg.PerWeight(optimizers.SGD(0.5), [rule("head", 2), rule("head/bias", 8)])
        )
        fit_ones(model)
        assert kernel_and_bias(model) == [-1, -4]

    def test_one_multiplier_may_stand_in_several_rules(self):
        """A list of expressions is one rule: any of them selects, and they change together."""
        optimizer = fg.PerWeight(optimizers.SGD(0.5), [rule(["kernel$", "bias$"], 2, name="all")])
        model = unit_slope(optimizer)
        fit_ones(model)
        optimizer.set("all", learning_rate_multiplier=4)
        fit_ones(model)
        assert kernel_and_bias(model) == [-3, -3]

    def test_without_rules(self):
        """No rules: the optimizer itself."""
        model = unit_slope(fg.PerWeight("sgd"))
        fit_ones(model)
        assert kernel_and_bias(model) == [float(np.float32(-0.01))] * 2

    def test_weight_decay_follows_the_multiplier(self):
        """Decoupled decay shrinks a weight by learning rate × multiplier × decay."""
        kernel, bias = variables(kernel=[8.0], bias=[8.0])
        optimizer = fg.PerWeight(optimizers.SGD(0.5, weight_decay=0.5), [rule("bias", 0.5)])
        apply(optimizer, [kernel, bias], [[0.0], [0.0]])
        assert [float(v[0]) for v in values([kernel, bias])] == [6.0, 7.0]

    @pytest.mark.parametrize("by", ["var_names", "var_list"])
    def test_excluded_weights_do_not_decay(self, by):
        """What `exclude_from_weight_decay` was told holds in every group, also in a whole one."""
        weights = variables(kernel=[8.0], bias=[8.0], gain=[8.0], offset=[8.0])
        _, bias, _, offset = weights
        sgd = optimizers.SGD(0.5, weight_decay=0.5)
        if by == "var_names":
            sgd.exclude_from_weight_decay(var_names=["bias", "offset"])
        else:
            sgd.exclude_from_weight_decay(var_list=[bias, offset])
        optimizer = fg.PerWeight(sgd, [rule("bias", 0.5), rule("gain", 0.5), rule("offset", 0.25)])
        apply(optimizer, weights, [[0.0]] * 4)
        assert [float(v[0]) for v in values(weights)] == [6.0, 8.0, 7.0, 8.0]

    def test_schedule_as_base_rate(self):
        """A schedule of the base rate counts the real steps and keeps the ratios."""
        schedule = optimizers.schedules.PiecewiseConstantDecay([0, 1], [0.5, 0.25, 2.0])
        model = unit_slope(fg.PerWeight(optimizers.SGD(schedule), [rule("bias", 0.5)]))
        fit_ones(model, epochs=3)
        assert kernel_and_bias(model) == [-2.75, -1.375]

    def test_callable_as_base_rate(self):
        """A function without arguments may give the base rate."""
        optimizer = fg.PerWeight(optimizers.SGD(_quarter), [rule("bias", 0.5)])
        model = unit_slope(optimizer)
        fit_ones(model, epochs=2)
        assert kernel_and_bias(model) == [-0.5, -0.25]


def _quarter():
    return 0.25


class TestCallbacks:
    @pytest.mark.selected("epoch-float32", "epoch-and-rate-mixed_float16")
    @pytest.mark.parametrize("policy", ["float32", "mixed_float16"])
    @pytest.mark.parametrize(
        "schedule",
        [
            pytest.param(lambda epoch: [0.5, 0.25][epoch], id="epoch"),
            pytest.param(lambda epoch, lr: lr * [1.0, 0.5][epoch], id="epoch-and-rate"),
        ],
    )
    def test_learning_rate_scheduler(self, schedule, policy):
        """It sets the base rate, so that the ratios stay: also under loss scaling."""
        keras.config.set_dtype_policy(policy)
        model = unit_slope(fg.PerWeight(optimizers.SGD(0.5), [rule("bias", 4)]))
        history = fit_ones(
            model, epochs=2, callbacks=[keras.callbacks.LearningRateScheduler(schedule)]
        )
        assert kernel_and_bias(model) == [-0.75, -3.0]
        assert history["learning_rate"] == [0.5, 0.25]

    def test_reduce_on_plateau(self):
        """It divides the base rate and heeds its floor: the ratios stay."""
        model = unit_slope(fg.PerWeight(optimizers.SGD(1.0), [rule("bias", 4)]))
        plateau = keras.callbacks.ReduceLROnPlateau(
            "loss", factor=0.25, patience=1, min_delta=1e9, min_lr=0.125
        )
        # The rate falls after the second epoch and, to the floor, after the third.
        fit_ones(model, epochs=4, callbacks=[plateau])
        assert kernel_and_bias(model) == [-(1 + 1 + 0.25 + 0.125), -4 * (1 + 1 + 0.25 + 0.125)]

    def test_set_multiplier_between_the_epochs_of_fit(self):
        """A callback changes a multiplier; the next step uses it."""
        optimizer = fg.PerWeight(optimizers.SGD(0.5), [rule("bias", 1, trainable=True)])
        model = unit_slope(optimizer)

        class Change(keras.callbacks.Callback):
            def on_epoch_begin(self, epoch, logs=None):
                self.model.optimizer.set("bias", learning_rate_multiplier=[1, 4, 0][epoch])

        fit_ones(model, epochs=3, callbacks=[Change()])
        assert kernel_and_bias(model) == [-1.5, -2.5]

    @pytest.mark.skipif(BACKEND == "torch", reason="nothing is compiled on torch")
    def test_set_multiplier_between_steps_compiles_nothing(self):
        """The model is traced in the first step only, however often multipliers and rate change."""
        traces = []

        class Traced(layers.Layer):
            def call(self, x):
                traces.append(x)
                return x

        optimizer = fg.PerWeight(optimizers.SGD(0.25), [rule("bias", 1), rule("kernel", 2)])
        model = keras.Sequential([*unit_slope_model().layers, Traced()])
        model.compile(optimizer, mean_output, jit_compile=True)
        after_first_step = []

        class Change(keras.callbacks.Callback):
            def on_train_batch_end(self, batch, logs=None):
                if batch == 0:
                    after_first_step.append(len(traces))
                self.model.optimizer.set("bias", learning_rate_multiplier=2.0 ** -(batch + 1))
                self.model.optimizer.set("kernel", learning_rate_multiplier=0 if batch == 1 else 1)
                self.model.optimizer.learning_rate = 0.5

        model.fit(ONES, ONES, batch_size=1, verbose=0, callbacks=[Change()])
        # Four steps. Kernel: 0.5, 0.5, 0, 0.5. Bias: 0.25, 0.5/2, 0.5/4, 0.5/8.
        assert kernel_and_bias(model) == [-1.5, -0.6875]
        assert len(traces) == after_first_step[0]


class TestThatAllWeightsShare:
    def test_global_norm_is_over_all_groups(self):
        """Gradients (3, 0, 0) and (0, 4, 0) have norm 5, also when two groups hold them."""
        weights = variables(left=[0.0, 0, 0], right=[0.0, 0, 0])
        optimizer = fg.PerWeight(optimizers.SGD(1.0, global_clipnorm=1.0), [rule("left", 1)])
        apply(optimizer, weights, [[3.0, 0, 0], [0, 4.0, 0]])
        np.testing.assert_allclose(values(weights), [[-0.6, 0, 0], [0, -0.8, 0]], rtol=1e-6)

    def test_clipping_comes_before_the_multiplier(self):
        """A multiplier does not change what is clipped."""
        weights = variables(left=[0.0], right=[0.0])
        optimizer = fg.PerWeight(optimizers.SGD(1.0, clipvalue=0.5), [rule("left", 8)])
        apply(optimizer, weights, [[3.0], [0.25]])
        assert [float(v[0]) for v in values(weights)] == [-4.0, -0.25]

    def test_accumulation_counts_once(self):
        """Every second call is a step, with the mean gradient, for the groups' counts too."""
        weights = variables(left=[0.0], right=[0.0])
        optimizer = fg.PerWeight(
            optimizers.SGD(1.0, gradient_accumulation_steps=2), [rule("left", 4)]
        )
        seen = []
        for gradient in [1.0, 3.0, 2.0, 2.0, 8.0]:
            apply(optimizer, weights, [[gradient], [gradient]])
            seen.append([float(v[0]) for v in values(weights)])
        assert seen == [[0, 0], [-8, -2], [-8, -2], [-16, -4], [-16, -4]]
        assert int(optimizer.iterations) == 2
        for group in optimizer._partition.groups:
            assert int(group.optimizer.iterations) == 2

    def test_average_is_over_all_weights(self):
        """`finalize_variable_values` sets the averages of the weights of every group."""
        weights = variables(left=[0.0], right=[0.0])
        sgd = optimizers.SGD(1.0, use_ema=True, ema_momentum=0.5)
        optimizer = fg.PerWeight(sgd, [rule("left", 4)])
        for _ in range(2):
            apply(optimizer, weights, [[1.0], [1.0]])
        optimizer.finalize_variable_values(weights)
        assert [float(v[0]) for v in values(weights)] == [-6.0, -1.5]

    def test_constraints_are_applied_once(self):
        """Constrained weights are bit-equal to those of the optimizer alone."""
        models = []
        for wrap in (False, True):
            inputs = keras.Input((3,))
            hidden = layers.Dense(4, kernel_constraint="unit_norm", name="encoder")(inputs)
            model = keras.Model(
                inputs, layers.Dense(2, kernel_constraint="unit_norm", name="head")(hidden)
            )
            fill(model)
            sgd = optimizers.SGD(0.1)
            models.append(train(compiled(fg.PerWeight(sgd, groups()) if wrap else sgd, model)))
        assert_bit_equal(*models)
        kernel = values(models[1].weights)[0]
        np.testing.assert_allclose(np.square(kernel).sum(axis=0), 1, rtol=1e-5)


class TestMissingGradients:
    @pytest.mark.parametrize("name", ["sgd_momentum", "adamw"])
    def test_of_a_whole_group(self, name):
        """Weights without a gradient stay, the others move as under the optimizer alone."""
        results = []
        for wrap in (False, True):
            model = mlp()
            optimizer = OPTIMIZERS[name]()
            if wrap:
                optimizer = fg.PerWeight(optimizer, groups())
            first, second, third = random_gradients(model.weights)
            for gradients in (first, [None, second[1], None, second[3]], third):
                if gradients[0] is None:
                    before = values(model.weights)
                    with pytest.warns(UserWarning, match=r"do not exist.*encoder/kernel"):
                        optimizer.apply(gradients, model.weights)
                    after = values(model.weights)
                    moved = [not np.array_equal(*pair) for pair in zip(before, after, strict=True)]
                    assert moved == [False, True, False, True]
                else:
                    optimizer.apply(gradients, model.weights)
            results.append(model)
        assert_bit_equal(*results)

    def test_of_all_weights(self):
        """As with any Keras optimizer that is an error."""
        weights = variables(left=[0.0], right=[0.0])
        optimizer = fg.PerWeight("sgd", [rule("left")])
        with pytest.raises(ValueError, match="No gradients provided"):
            apply(optimizer, weights, [None, None])

    def test_apply_takes_a_part_of_the_weights(self):
        """`apply` with some of the weights moves these, in any order."""
        left, middle, right = variables(left=[0.0], middle=[0.0], right=[0.0])
        optimizer = fg.PerWeight(optimizers.SGD(1.0), [rule("left", 2), rule("right", 4)])
        optimizer.build([left, middle, right])
        apply(optimizer, [right, left], [[1.0], [1.0]])
        assert [float(v[0]) for v in values([left, middle, right])] == [-2, 0, -4]

    def test_apply_refuses_weights_it_was_not_built_with(self):
        """As with any Keras optimizer."""
        left, right = variables(left=[0.0], right=[0.0])
        optimizer = fg.PerWeight("sgd", [rule("left")])
        optimizer.build([left])
        with pytest.raises(ValueError, match="Unknown variable"):
            apply(optimizer, [right], [[1.0]])


def assert_same_state(optimizer, other):
    """Both optimizers hold the same, variable by variable in the order of the model."""
    for mine, theirs in zip(values(optimizer.variables), values(other.variables), strict=True):
        np.testing.assert_array_equal(mine, theirs, strict=True)


class TestResume:
    def lstm(self):
        """A tagger, of which Keras changes the paths of the weights when it loads it."""
        model = keras.Sequential(
            [
                keras.Input((5, 2)),
                layers.Bidirectional(layers.LSTM(2, return_sequences=True), name="both"),
                layers.Dense(1, name="head"),
            ]
        )
        fill(model)
        return model

    def test_bidirectional_model(self, tmp_path):
        """Rules that select by the old paths load, and the run goes on to the last bit."""
        rules = [rule("both/forward", 0.1), rule("sequential.*/head", 2.0)]
        model = compiled(fg.PerWeight("adam", rules), self.lstm())
        push(model)
        model.save(tmp_path / "model.keras")
        loaded = keras.models.load_model(tmp_path / "model.keras")
        paths = [[weight.path for weight in m.weights] for m in (model, loaded)]
        assert paths[0] != paths[1], "Keras keeps the paths: this test has lost its point"
        assert_same_state(loaded.optimizer, model.optimizer)
        for key in ("learning_rate_multiplier", "rules"):
            rows = [m.optimizer.describe(m).to_dicts() for m in (model, loaded)]
            assert [r[key] for r in rows[0]] == [r[key] for r in rows[1]]
        assert_bit_equal(push(loaded), push(model))
        # And a second time, from the file of the model that was itself loaded.
        loaded.save(tmp_path / "again.keras")
        again = keras.models.load_model(tmp_path / "again.keras")
        assert_same_state(again.optimizer, model.optimizer)

    def unnamed(self):
        """A model whose layers Keras names by counting."""
        model = keras.Sequential(
            [keras.Input((3,)), layers.Dense(3, "tanh"), layers.Dense(3), layers.Dense(2)]
        )
        fill(model)
        return model

    def test_layers_named_by_counting(self, tmp_path):
        """A model built again in one process has other paths; each weight finds its state."""
        model, path = self.unnamed(), tmp_path / "model.weights.h5"
        push(compiled(fg.PerWeight("adam", [rule("kernel", 0.1)]), model))
        model.save_weights(path)
        other = compiled(fg.PerWeight("adam", [rule("kernel", 0.1)]), self.unnamed())
        other.optimizer.build(other.trainable_variables)
        assert not {w.path for w in model.weights} & {w.path for w in other.weights}
        other.load_weights(path)
        assert_same_state(other.optimizer, model.optimizer)
        assert_bit_equal(push(other), push(model))

    def test_layers_named_by_counting_from_elsewhere(self, tmp_path):
        """Where one layer had been made before the first model, `dense_1` is another layer."""
        layers.Dense(1)
        model, path = self.unnamed(), tmp_path / "model.weights.h5"
        push(compiled(fg.PerWeight("adam", [rule("kernel", 0.1)]), model))
        model.save_weights(path)
        keras.utils.clear_session(free_memory=False)
        other = compiled(fg.PerWeight("adam", [rule("kernel", 0.1)]), self.unnamed())
        other.optimizer.build(other.trainable_variables)
        assert len({w.path for w in model.weights} & {w.path for w in other.weights}) == 4
        other.load_weights(path)
        assert_same_state(other.optimizer, model.optimizer)

    def twins(self):
        """Two inner models whose layers bear the same names."""

        def inner(name):
            inputs = keras.Input((3,))
            return keras.Model(inputs, layers.Dense(3, name="dense")(inputs), name=name)

        inputs = keras.Input((3,))
        hidden = inner("second")(inner("first")(inputs))
        model = keras.Model(inputs, layers.Dense(2, name="head")(hidden))
        fill(model)
        return model

    def test_weights_of_equal_paths(self, tmp_path):
        """Two weights of one path have each their own state, in a group and in a file."""
        plain = push(compiled(OPTIMIZERS["adam"](), self.twins()))
        rules = [rule("dense/bias")]
        model = push(compiled(fg.PerWeight(OPTIMIZERS["adam"](), rules), self.twins()))
        paths = [weight.path for weight in model.weights]
        assert len(set(paths)) == len(paths) - 2
        assert_bit_equal(model, plain)
        described = [row["path"] for row in model.optimizer.describe(model).to_dicts()]
        assert len(set(described)) == len(described)
        model.save(tmp_path / "model.keras")
        loaded = keras.models.load_model(tmp_path / "model.keras")
        assert_same_state(loaded.optimizer, model.optimizer)
        assert_bit_equal(push(loaded), push(model))

    def test_weights_in_another_order(self):
        """State follows the path, not the place in the list, where the paths are the same."""
        weights, reordered = variables(a=[0.0], b=[0.0]), variables(b=[0.0], a=[0.0])
        written, read = fg.PerWeight("adam"), fg.PerWeight("adam")
        apply(written, weights, [[1.0], [2.0]])
        read.build(reordered)
        read.load_own_variables(state(written))
        for slot in ("momentums", "velocities"):
            for path in ("a", "b"):
                key = f"{path}:{slot}"
                np.testing.assert_array_equal(state(read)[key], state(written)[key], err_msg=key)
        assert state(read)["a:momentums"] != state(read)["b:momentums"]

    def test_the_state_is_in_the_file_once(self, tmp_path):
        """Keras finds no second optimizer to save, and its callbacks none to set rates of."""
        model = push(compiled(fg.PerWeight("adam", groups())))
        assert not hasattr(model.optimizer, "optimizers")
        assert not hasattr(model.optimizer, "inner_optimizer")
        model.save_weights(tmp_path / "model.weights.h5")
        with h5py.File(tmp_path / "model.weights.h5") as file:
            assert list(file["optimizer"]) == ["vars"]
            kernels = [key for key in file["optimizer/vars"] if key.startswith("head|kernel:")]
        # Momentum, velocity, the group's step count, and the place.
        assert len(kernels) == 4

    def test_multiplier_changed_at_run_time(self, tmp_path):
        """It is restored where the rule is as it was; a rule that says something else holds."""
        model = compiled(fg.PerWeight("adam", groups(0.1, 2.0)))
        model.optimizer.build(model.trainable_variables)
        model.optimizer.set("encoder", learning_rate_multiplier=0.5)
        model.optimizer.set("bias$", learning_rate_multiplier=0.5)
        model.save_weights(tmp_path / "model.weights.h5")
        other = compiled(fg.PerWeight("adam", groups(0.1, 3.0)))
        other.optimizer.build(other.trainable_variables)
        other.load_weights(tmp_path / "model.weights.h5")
        rows = other.optimizer.describe(other).to_dicts()
        assert [row["learning_rate_multiplier"] for row in rows] == [0.5, 3.0, 1.0, 3.0]
        model.save(tmp_path / "model.keras")
        loaded = keras.models.load_model(tmp_path / "model.keras")
        rows = loaded.optimizer.describe(loaded).to_dicts()
        assert [row["learning_rate_multiplier"] for row in rows] == [0.5, 0.5, 1.0, 0.5]

    @pytest.mark.filterwarnings("ignore:__array__ implementation")
    def test_state_of_another_model(self):
        """What the file lacks keeps its value, with a warning that names it; the rest loads."""
        one, two = mlp(), mlp()
        written = fg.PerWeight("adam", groups())
        written.apply(random_gradients(one.weights)[0], one.weights)
        store = {k: v for k, v in state(written).items() if not k.startswith("head|kernel")}
        read = fg.PerWeight("adam", groups())
        read.build(two.weights)
        with pytest.warns(UserWarning, match=r"lacks .*head/kernel:momentums") as warned:
            read.load_own_variables(store)
        assert "encoder" not in str(warned[0].message)
        after = state(read)
        for key, value in store.items():
            np.testing.assert_array_equal(after[key], value, err_msg=key)
        assert not after["head|kernel:momentums"].any()

    def test_state_of_a_model_with_other_shapes(self):
        """State whose shape does not fit is not taken."""
        small, large = variables(kernel=[1.0]), variables(kernel=[1.0, 2.0])
        written, read = fg.PerWeight("adam"), fg.PerWeight("adam")
        apply(written, small, [[1.0]])
        read.build(large)
        store = state(written)
        with pytest.warns(UserWarning, match="lacks .*kernel:momentums"):
            read.load_own_variables(store)
        assert not state(read)["kernel:momentums"].any()

    def test_loading_before_build_says_so(self):
        """An optimizer without slots warns, as any Keras optimizer does, that it loads none."""
        model = mlp()
        written = fg.PerWeight("adam", groups())
        written.apply(random_gradients(model.weights)[0], model.weights)
        store = state(written)
        read = fg.PerWeight("adam", groups())
        with pytest.warns(UserWarning, match="'per_weight'"):
            read.load_own_variables(store)

    def test_a_loaded_optimizer_takes_other_weights(self):
        """The selection that a config remembers holds for the model it was made for only."""
        optimizer = fg.PerWeight("adam", groups(0.1, 2.0))
        optimizer.build(mlp().weights)
        again = fg.PerWeight.from_config(optimizer.get_config())
        weights = variables(encoder=[0.0], bias=[0.0], other=[0.0])
        again.build(weights)
        assert [selected.rules for selected in again._partition.selection] == [(0,), (1,), ()]

    def test_set_weights_checks_the_number(self):
        """Too few arrays, or an optimizer without variables yet, is an error."""
        optimizer = fg.PerWeight("adam", groups())
        with pytest.raises(ValueError, match=r"set_weights.*built=False"):
            optimizer.set_weights(values(optimizer.variables))
        optimizer.build(mlp().weights)
        with pytest.raises(ValueError, match=r"Received: 3 arrays for \d+ variables"):
            optimizer.set_weights(values(optimizer.variables)[:3])


class TestErrors:
    def test_a_rule_that_selects_nothing(self):
        """The message has the expression, the nearest paths first, and the cure."""
        model = mlp()
        optimizer = fg.PerWeight("sgd", [rule("encoder"), rule(["head", "haed/kernel"])])
        with pytest.raises(ValueError, match="'haed/kernel' selects no trainable weight") as error:
            optimizer.build(model.weights)
        nearest = re.search(
            r"nearest of this model's 4 trainable weights are: \['([^']*)'", str(error.value)
        )
        assert nearest is not None
        assert nearest[1] == "head/kernel"
        assert "Correct the selector" in str(error.value)
        with pytest.raises(ValueError, match="'haed/kernel' selects no trainable weight"):
            optimizer.describe(model)

    def test_a_rule_for_weights_that_are_not_trained(self):
        """They are not the optimizer's: the message says that too."""
        model = mlp()
        model.get_layer("encoder").trainable = False
        optimizer = fg.PerWeight("sgd", [rule("encoder")])
        with pytest.raises(ValueError, match="make its layer trainable"):
            train(compiled(optimizer, model))

    @pytest.mark.parametrize("bad", ["encoder", ("encoder", 0.1), None])
    def test_a_rule_that_is_none(self, bad):
        """What is no Rule is named."""
        with pytest.raises(TypeError, match=re.escape(f"Received: {bad!r} in ")):
            fg.PerWeight("sgd", [rule("head"), bad])

    def test_a_built_optimizer(self):
        """Its state would be lost."""
        sgd = optimizers.SGD()
        sgd.build(mlp().weights)
        with pytest.raises(ValueError, match=r"has not been built.*Pass a new one"):
            fg.PerWeight(sgd)

    @pytest.mark.parametrize(
        "wrapper",
        [
            optimizers.LossScaleOptimizer,
            lambda sgd: optimizers.MultiOptimizer(optimizers.OptimizerMap(sgd, {})),
        ],
        ids=["LossScaleOptimizer", "MultiOptimizer"],
    )
    def test_a_wrapper_inside(self, wrapper):
        """The message shows the right order."""
        with pytest.raises(ValueError, match=r"LossScaleOptimizer\(PerWeight\(\.\.\.\)\)"):
            fg.PerWeight(wrapper(optimizers.SGD()))

    def test_per_weight_inside(self):
        """One list of rules does it."""
        with pytest.raises(ValueError, match="all rules into one list"):
            fg.PerWeight(fg.PerWeight("sgd"))

    def test_rules_of_one_name(self):
        """The message names the name, and `name=` as the cure."""
        rules = [rule("head", 1, "a"), rule("encoder", 1), rule("head", 2, "a")]
        with pytest.raises(ValueError, match=r"`name=`\. Received: \['a'\]"):
            fg.PerWeight("sgd", rules)
        fg.PerWeight("sgd", [*rules[:2], rule("head", 2, name="other")])

    def test_rules_that_select_alike(self):
        """Rules without a name of their own may select by the same expression."""
        optimizer = fg.PerWeight(
            optimizers.SGD(0.5), [rule("head", 2), fg.Rule("head", weight_decay=0.5)]
        )
        model = unit_slope(optimizer)
        fit_ones(model)
        assert kernel_and_bias(model) == [-1, -1]
        fit_ones(model)
        assert kernel_and_bias(model) == [-1.5, -1.5]

    def test_set_multiplier_of_no_rule(self):
        """The message lists the names that there are."""
        optimizer = fg.PerWeight("sgd", [rule("head"), rule("bias", name="offsets")])
        with pytest.raises(ValueError, match=r"\['head', 'offsets'\]\. Received: 'kernel'"):
            optimizer.set("kernel", learning_rate_multiplier=2.0)

    @pytest.mark.parametrize("bad", [-1.0, float("nan"), float("inf"), "fast", [1.0, 2.0]])
    def test_set_multiplier_to_nonsense(self, bad):
        """A number that is finite and not negative, or an error that leaves all as it was."""
        optimizer = fg.PerWeight(optimizers.SGD(0.5), [rule("head", 0.5)])
        with pytest.raises((ValueError, TypeError), match=r"finite number >= 0.*Received"):
            optimizer.set("head", learning_rate_multiplier=bad)
        assert optimizer.get_config()["rules"][0]["learning_rate_multiplier"] == 0.5

    def test_multiplier_too_large_for_float32(self):
        """What is finite as a Python float only is no finite multiplier."""
        with pytest.raises(ValueError, match="finite number"):
            fg.PerWeight("sgd", [rule("head", 1e39)])

    def test_describe_of_a_model_without_weights(self):
        """It says that the model has to be built."""
        model = keras.Sequential([layers.Dense(1)])
        with pytest.raises(ValueError, match="build it first"):
            fg.PerWeight("sgd").describe(model)


def test_training_moves_all_weights_of_the_models_used_here():
    """The data give every weight of the shared model a gradient."""
    assert_moved(train(compiled(optimizers.SGD(0.1)), X, Y))


class TestModels:
    """Models that optimizers trip over."""

    def trained(self, make, optimizer, jit):
        model = make()
        fill(model)
        model.compile(optimizer, "mse", jit_compile=jit and BACKEND != "torch")
        tokens = np.array([[1, 1, 2], [3, 1, 0], [5, 5, 5], [2, 4, 1]])
        model.fit(tokens, np.ones((4, 1)), batch_size=2, epochs=2, shuffle=False, verbose=0)
        return model

    def lookup(self):
        """An embedding, whose gradients are sparse on TensorFlow: rows repeated, rows left out."""
        tokens = keras.Input((3,), dtype="int32")
        rows = layers.Flatten()(layers.Embedding(7, 2, name="lookup")(tokens))
        return keras.Model(tokens, layers.Dense(1, name="head")(rows))

    def shared(self):
        """A layer that is called twice, inside a nested model of another name."""
        tokens = keras.Input((3,), dtype="int32")
        inner_input = keras.Input((6,))
        twice = layers.Dense(6, activation="tanh", name="twice")
        inner = keras.Model(inner_input, twice(twice(inner_input)), name="nested")
        rows = layers.Flatten()(layers.Embedding(7, 2, name="lookup")(tokens))
        return keras.Model(tokens, layers.Dense(1, name="head")(inner(rows)), name="renamed")

    @pytest.mark.selected("lookup-adam-True", "shared-adam-False")
    @pytest.mark.parametrize("jit", [False, True])
    @pytest.mark.parametrize("name", chosen(["sgd_momentum", "adam", "adagrad"], ["adam"]))
    @pytest.mark.parametrize("kind", ["lookup", "shared"])
    def test_like_the_optimizer_alone(self, kind, name, jit):
        """Groups of multiplier 1 learn as the optimizer alone does, sparse gradients or not."""
        rules = [rule("lookup"), rule("bias")]
        plain = self.trained(getattr(self, kind), OPTIMIZERS[name](), jit)
        grouped = self.trained(getattr(self, kind), fg.PerWeight(OPTIMIZERS[name](), rules), jit)
        for mine, theirs in zip(values(grouped.weights), values(plain.weights), strict=True):
            np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=1e-6)
            assert np.abs(mine).max() > 0

    @pytest.mark.selected("True-global norm")
    @pytest.mark.parametrize("arguments", [{}, {"global_clipnorm": 0.1}], ids=["", "global norm"])
    @pytest.mark.parametrize("jit", [False, True])
    def test_a_held_embedding(self, jit, arguments):
        """It stays, and its sparse gradient is no part of the global norm."""
        head_only = self.lookup()
        fill(head_only)
        head_only.get_layer("lookup").trainable = False
        start = values(head_only.get_layer("lookup").weights)
        plain = self.trained(lambda: head_only, optimizers.SGD(0.1, **arguments), jit)
        held = self.trained(
            self.lookup,
            fg.PerWeight(optimizers.SGD(0.1, **arguments), [fg.Rule("lookup", trainable=False)]),
            jit,
        )
        np.testing.assert_array_equal(values(held.get_layer("lookup").weights)[0], start[0])
        for mine, theirs in zip(values(held.weights), values(plain.weights), strict=True):
            np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=1e-6)

    def test_renaming_the_model(self):
        """A rule that names a layer selects it under a model of any name, nested or not."""
        model = self.shared()
        rows = fg.PerWeight("sgd", [rule(model.get_layer("nested"), 3)]).describe(model).to_dicts()
        assert [row["path"] for row in rows if row["rules"]] == ["twice/kernel", "twice/bias"]
        assert [r["learning_rate_multiplier"] for r in rows if r["rules"]] == [3.0, 3.0]
