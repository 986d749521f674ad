"""ExponentiatedGradient: its formula, its bounds, what it converges to, and what Keras asks of it.

What it has in common with other optimizers is tested by the tables of `contract.py`.
"""

import json

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from keras import ops

import drawn
import finegrain as fg
from finegrain.optimizers import ExponentiatedGradient
from optimizers.contract import (
    apply,
    assert_bit_equal,
    compiled,
    mlp,
    train,
    values,
    variables,
)

BACKEND = keras.backend.backend()
both_forms = pytest.mark.parametrize("normalize", [False, True])
only_tensorflow = pytest.mark.skipif(
    BACKEND != "tensorflow", reason="only TensorFlow has gradients of chosen rows"
)

LARGEST_FLOAT32 = float(np.finfo(np.float32).max)


def weight_of(value, dtype="float32", name="weight"):
    return keras.Variable(np.asarray(value, "float64"), dtype=dtype, name=name)


def value_of(weight):
    return np.asarray(ops.convert_to_numpy(ops.cast(weight.value, "float32")), "float64")


def step(value, gradient, dtype="float32", **arguments):
    """What one step makes of a weight of this value."""
    weight = weight_of(value, dtype)
    apply(ExponentiatedGradient(**arguments), [weight], [gradient])
    return value_of(weight)


def reference(value, gradient, learning_rate, normalize, max_step=1.0, floor=1e-30):
    """The formula, in float64."""
    value, gradient = np.asarray(value, "float64"), np.asarray(gradient, "float64")
    if normalize:
        value = value / value.sum(-1, keepdims=True)
        gradient = gradient - (value * gradient).sum(-1, keepdims=True)
    value = value * np.exp(np.clip(-learning_rate * gradient, -max_step, max_step))
    if normalize:
        value = value / value.sum(-1, keepdims=True)
    return np.maximum(value, floor)


def positive_mlp(normalized=False):
    """`mlp()` with positive weights, or with rows that are distributions."""
    model = mlp()
    model.set_weights([np.abs(value) + 0.1 for value in model.get_weights()])
    if normalized:
        model.set_weights([v / v.sum(-1, keepdims=True) for v in model.get_weights()])
    return model


def signed_mlp():
    """`mlp()` with weights of both signs."""
    model = mlp()
    model.set_weights([np.cos(10 * value) for value in model.get_weights()])
    return model


@keras.saving.register_keras_serializable(package="test_exponentiated_gradient")
class Mixture(keras.layers.Layer):
    """Averages its inputs by weights that should be a distribution."""

    def build(self, shape):
        self.shares = self.add_weight(
            shape=(2, shape[-1]),
            initializer=keras.initializers.RandomUniform(0.1, 1),
            name="shares",
        )

    def call(self, inputs):
        return ops.matmul(inputs, ops.transpose(self.shares))


def mixture_model():
    """A dense layer, whose weights have both signs, and a mixture of its outputs."""
    inputs = keras.Input((3,))
    hidden = keras.layers.Dense(4, activation="tanh", name="encoder")(inputs)
    return keras.Model(inputs, Mixture(name="mixture")(hidden))


def mixed_optimizer(normalize=True):
    """Adam for what has both signs, exponentiated gradient for the mixture."""
    return fg.PerWeight(
        keras.optimizers.Adam(0.01),
        [fg.Rule("mixture", optimizer=ExponentiatedGradient(0.3, normalize=normalize))],
    )


class TestFormula:
    def test_one_step_by_hand(self):
        """With rate 1 a gradient of ln 2 halves and one of -ln 2 doubles."""
        log2 = np.log(2.0)
        new = step([1.0, 3.0, 5.0], [log2, -log2, 0.0], learning_rate=1.0)
        np.testing.assert_allclose(new, [0.5, 6.0, 5.0], rtol=1e-6)

    def test_one_normalized_step_by_hand(self):
        """(1/4, 3/4) with the first halved is (1, 6) / 7."""
        new = step([0.25, 0.75], [np.log(2.0), 0.0], learning_rate=1.0, normalize=True)
        np.testing.assert_allclose(new, [1 / 7, 6 / 7], rtol=1e-6)

    def test_each_row_is_a_distribution_of_its_own(self):
        rows = [[0.25, 0.75], [0.5, 0.5]]
        new = step(rows, [[np.log(2.0), 0.0], [0.0, 0.0]], learning_rate=1.0, normalize=True)
        np.testing.assert_allclose(new, [[1 / 7, 6 / 7], [0.5, 0.5]], rtol=1e-6)

    @both_forms
    def test_steps_follow_the_formula(self, normalize):
        random = drawn.generator(3)
        value = random.uniform(0.1, 1.0, size=(2, 3, 4))
        weight = weight_of(value)
        optimizer = ExponentiatedGradient(0.2, normalize=normalize)
        for _ in range(5):
            gradient = random.normal(size=value.shape) * 4
            apply(optimizer, [weight], [gradient])
            value = reference(value, gradient, 0.2, normalize)
        np.testing.assert_allclose(value_of(weight), value, rtol=3e-6)

    def test_without_gradient_no_bit_changes(self):
        value = drawn.generator(0).uniform(1e-3, 9, size=(50,)).astype("float32")
        np.testing.assert_array_equal(step(value, np.zeros(50)), value.astype("float64"))

    @pytest.mark.parametrize("value", [np.ones((2, 4)), [[8.0, 8.0, 8.0, 8.0], [1e-9] * 4]])
    def test_first_step_normalizes(self, value):
        """To the formula only the ratios within a row matter."""
        gradient = [[1.0, 0.5, 0.0, -1.0], [0.0, 0.0, 0.0, 0.0]]
        new = step(value, gradient, normalize=True)
        np.testing.assert_allclose(new, step(np.full((2, 4), 0.25), gradient, normalize=True))
        np.testing.assert_allclose(new[1], 0.25)

    def test_common_gradient_takes_no_share_of_the_bounds(self):
        """In a row only differences count: 1000 in common do not hide those of 0.5."""
        small = np.array([0.25, -0.25, 0.0])
        new = step([0.2, 0.3, 0.5], small + 1000.0, learning_rate=1.0, normalize=True)
        expected = step([0.2, 0.3, 0.5], small, learning_rate=1.0, normalize=True)
        np.testing.assert_allclose(new, expected, rtol=1e-4)
        assert abs(new[0] - 0.2) > 0.01

    def test_in_float64(self):
        """Weights of float64 are moved in float64 (JAX has none by default)."""
        if BACKEND == "jax":
            pytest.skip("JAX keeps float64 as float32 unless told otherwise")
        weight = weight_of([0.2, 0.3, 0.5], "float64")
        optimizer = ExponentiatedGradient(0.5, normalize=True)
        optimizer.apply([ops.convert_to_tensor([1.0, -1.0, 0.25], "float64")], [weight])
        expected = reference([0.2, 0.3, 0.5], [1.0, -1.0, 0.25], 0.5, True)
        np.testing.assert_allclose(ops.convert_to_numpy(weight.value), expected, rtol=1e-14)


class TestBounds:
    @pytest.mark.parametrize("size", [50.0, 1e30, LARGEST_FLOAT32])
    @pytest.mark.parametrize("max_step", [0.5, 1.0])
    def test_a_huge_gradient_moves_by_the_bound(self, size, max_step):
        new = step([2.0, 2.0, 2.0], [size, -size, 0.0], learning_rate=1.0, max_step=max_step)
        factors = np.exp([-max_step, max_step, 0.0])
        np.testing.assert_allclose(new, 2 * factors, rtol=1e-6)

    def test_a_huge_gradient_leaves_a_row_on_the_simplex(self):
        new = step([0.2, 0.3, 0.5], [LARGEST_FLOAT32, -LARGEST_FLOAT32, 0.0], normalize=True)
        np.testing.assert_allclose(new.sum(), 1.0, rtol=1e-6)
        assert (new > 0.01).all()

    @both_forms
    @pytest.mark.parametrize("floor", [1e-30, 1e-4])
    def test_floor(self, normalize, floor):
        """Where every gradient pushes down, the weight stays at the floor and can come back."""
        weight = weight_of([0.5, 0.5])
        optimizer = ExponentiatedGradient(10.0, normalize=normalize, max_step=10.0, floor=floor)
        optimizer.build([weight])
        for _ in range(20):
            apply(optimizer, [weight], [[5.0, 0.0]])
        np.testing.assert_allclose(value_of(weight)[0], floor, rtol=2e-4)
        for _ in range(20):
            apply(optimizer, [weight], [[-5.0, 0.0]])
        assert value_of(weight)[0] > 0.5

    def test_zero_and_negative_values_of_others_are_lifted(self):
        weight = weight_of([0.5, 0.5, 0.5])
        optimizer = ExponentiatedGradient(floor=1e-6)
        optimizer.build([weight])
        weight.assign(np.array([0.0, -3.0, 1.0], "float32"))
        apply(optimizer, [weight], [[0.0, 0.0, 0.0]])
        np.testing.assert_allclose(value_of(weight), [1e-6, 1e-6, 1.0], rtol=1e-6)

    @both_forms
    def test_nan_is_not_hidden(self, normalize):
        new = step([[0.5, 0.5], [0.5, 0.5]], [[np.nan, 0.0], [0.0, 0.0]], normalize=normalize)
        assert np.isnan(new[0, 0])
        np.testing.assert_array_equal(new[1], 0.5)

    @pytest.mark.full
    @both_forms
    @given(data=st.data())
    def test_always_positive_bounded_and_on_the_simplex(self, normalize, data):
        shape = (2, 3)
        numbers = {"allow_nan": False, "allow_infinity": False, "width": 32}
        value = data.draw(npst.arrays("float32", shape, elements=st.floats(2**-20, 2**20)))
        largest = 2.0**100
        elements = st.floats(-largest, largest, **numbers)
        gradient = data.draw(npst.arrays("float32", shape, elements=elements))
        new = step(value, gradient, learning_rate=0.5, normalize=normalize)
        assert np.isfinite(new).all()
        assert (new > 0).all()
        if normalize:
            np.testing.assert_allclose(new.sum(-1), 1.0, rtol=1e-6)
        else:
            assert (np.abs(np.log(new / value)) <= 1 + 1e-5).all()

    @both_forms
    @pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
    def test_low_precision_keeps_its_dtype_and_stays_positive(self, dtype, normalize):
        weight = weight_of([[0.2, 0.3, 0.5], [0.1, 0.1, 0.8]], dtype)
        optimizer = ExponentiatedGradient(1.0, normalize=normalize)
        for _ in range(100):
            gradient = ops.cast(ops.convert_to_tensor([[1.0, 0.1, 0.0]] * 2), dtype)
            optimizer.apply([gradient], [weight])
        assert keras.backend.standardize_dtype(weight.value.dtype) == dtype
        new = value_of(weight)
        assert (new > 0).all()
        assert np.isfinite(new).all()
        if normalize:
            np.testing.assert_allclose(new.sum(-1), 1.0, rtol=2e-2)

    @pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
    def test_low_precision_rounds_once(self, dtype):
        """The step itself is that of float32."""
        value = value_of(weight_of([0.2, 0.3, 0.5], dtype))
        gradient = [1.0, -0.5, 0.25]
        expected = value_of(weight_of(reference(value, gradient, 0.3, False), dtype))
        np.testing.assert_array_equal(step(value, gradient, dtype, learning_rate=0.3), expected)


@pytest.mark.full
class TestOptima:
    def test_non_negative_least_squares(self):
        """The optimum of scipy's active-set method, with weights of 0 among it."""
        optimize = pytest.importorskip("scipy.optimize")
        random = drawn.generator(1)
        inputs = random.normal(size=(40, 6))
        # Little noise, so that none comes near 0 but those that end there: it would be slow.
        targets = inputs @ [1.0, -1.0, 2.0, 0.5, -0.5, -0.7] + 0.3 * random.normal(size=40)
        optimum, _ = optimize.nnls(inputs, targets)
        np.testing.assert_array_equal(optimum == 0, [0, 1, 0, 0, 1, 1])
        weight = weight_of(np.ones(6))
        optimizer = ExponentiatedGradient(0.3)
        for _ in range(600):
            apply(optimizer, [weight], [inputs.T @ (inputs @ value_of(weight) - targets) / 40])
        np.testing.assert_allclose(value_of(weight), optimum, atol=1e-5)

    def test_mixture_weights_of_greatest_likelihood(self):
        """What EM in float64 converges to."""
        random = drawn.generator(2)
        means = np.array([-3.0, 0.0, 2.0, 9.0])
        sample = random.normal(random.choice(means[:3], size=400, p=[0.6, 0.1, 0.3]))
        densities = np.exp(-((sample[:, None] - means) ** 2) / 2)
        optimum = np.full(4, 0.25)
        for _ in range(5000):
            optimum = optimum * (densities / (densities @ optimum)[:, None]).mean(0)
        # The optimum of a concave function on the simplex: the multiplier is 1 where p > 0.
        multipliers = (densities / (densities @ optimum)[:, None]).mean(0)
        np.testing.assert_allclose(multipliers[:3], 1.0, rtol=1e-9)
        assert multipliers[3] < 1
        weight = weight_of(np.ones(4))
        optimizer = ExponentiatedGradient(2.0, normalize=True)
        for _ in range(300):
            shares = value_of(weight) / value_of(weight).sum()
            apply(optimizer, [weight], [-(densities / (densities @ shares)[:, None]).mean(0)])
        np.testing.assert_allclose(value_of(weight), optimum, atol=2e-6)


class TestBuild:
    @pytest.mark.parametrize("bad", [0.0, -0.5, np.nan, np.inf])
    def test_unfit_weights_are_named(self, bad):
        good, unfit = variables(good=[1.0, 2.0], unfit=[1.0, bad])
        with pytest.raises(ValueError, match=r"finite: unfit\. .*RandomUniform\(0\.1, 1\.0\)"):
            ExponentiatedGradient().build([good, unfit])

    def test_path_of_a_layers_weight(self):
        model = keras.Sequential(
            [keras.Input((2,)), keras.layers.Dense(2, name="d", kernel_initializer="ones")]
        )
        model.compile(ExponentiatedGradient(), "mse")
        with pytest.raises(ValueError, match=r"not finite: \w+/d/bias\. "):
            model.fit(np.ones((2, 2)), np.ones((2, 2)), verbose=0)

    def test_in_a_function_that_is_being_compiled(self):
        """The check is made there too, or it is said that it cannot be made."""
        good, unfit = variables(good=[1.0, 2.0], unfit=[1.0, 0.0])
        if BACKEND == "jax":
            import jax

            optimizer = ExponentiatedGradient()

            def build(value):
                with keras.StatelessScope(state_mapping=[(good, value)]):
                    optimizer.build([good])
                return value

            with pytest.raises(ValueError, match=r"call `optimizer\.build\(variables\)` first"):
                jax.jit(build)(good.value)
        elif BACKEND == "tensorflow":
            import tensorflow as tf

            optimizers = [ExponentiatedGradient(), ExponentiatedGradient(1.0)]

            @tf.function
            def build(place):
                optimizers[place].apply([tf.ones(2)], [[unfit, good][place]])

            with pytest.raises(ValueError, match="not finite: unfit"):
                build(0)
            build(1)
            np.testing.assert_allclose(value_of(good), np.exp(-1) * np.array([1, 2]), rtol=1e-6)
        else:
            pytest.skip("torch runs Python at each step")

    def test_weights_read_after_the_optimizer_is_built(self, tmp_path):
        """A model loads although its initializers are of both signs: its own weights are not."""
        model = train(compiled(ExponentiatedGradient(0.01), positive_mlp()))
        model.save(tmp_path / "model.keras")
        loaded = keras.models.load_model(tmp_path / "model.keras")
        assert loaded.optimizer.built
        assert_bit_equal(loaded, model)
        # Outside of that the check is back.
        with pytest.raises(ValueError, match="not finite"):
            ExponentiatedGradient().build(signed_mlp().weights)

    def test_scalar_has_no_axis(self):
        (scalar,) = variables(scalar=0.5)
        with pytest.raises(ValueError, match=r"at least one axis.*scalar of shape \(\)"):
            ExponentiatedGradient(normalize=True).build([scalar])
        apply(ExponentiatedGradient(1.0), [scalar], [1.0])
        np.testing.assert_allclose(value_of(scalar), 0.5 * np.exp(-1), rtol=1e-6)

    def test_floor_too_large_for_a_row(self):
        (row,) = variables(row=[0.25] * 4)
        with pytest.raises(ValueError, match="the 4 weights in each row of row sum to 1"):
            ExponentiatedGradient(normalize=True, floor=0.25).build([row])

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"max_step": 0.0}, "`max_step` should be a finite number > 0"),
            ({"max_step": float("inf")}, "`max_step` should be a finite number > 0"),
            ({"max_step": 81.0}, "`max_step` should be at most 80"),
            ({"floor": 0.0}, "`floor` should be a finite number > 0"),
            ({"floor": 1e-40}, "`floor` should be at least 1e-37"),
            ({"floor": 1.0}, "less than 1"),
            ({"normalize": 1}, "`normalize` should be True or False"),
            ({"weight_decay": 0.01}, "takes no weight decay"),
            ({"learning_rate": 1}, "`learning_rate` should be float"),
        ],
    )
    def test_bad_arguments(self, arguments, message):
        with pytest.raises(ValueError, match=message):
            ExponentiatedGradient(**arguments)

    def test_weight_decay_of_a_rule_is_refused_too(self):
        rule = fg.Rule(".", optimizer=ExponentiatedGradient(), weight_decay=0.1)
        with pytest.raises(ValueError, match="takes no weight decay"):
            fg.PerWeight(keras.optimizers.Adam(), [rule]).build(positive_mlp().weights)


class TestKeras:
    @pytest.mark.selected("True")
    @both_forms
    def test_compiled_fit(self, normalize):
        """`fit` moves by the formula, compiled as well as step by step."""
        arguments = {"learning_rate": 0.3, "normalize": normalize}
        start = positive_mlp(normalize)
        fitted = [
            train(compiled(ExponentiatedGradient(**arguments), positive_mlp(normalize), jit=jit))
            for jit in (False, True)
        ]
        everything = (model.get_weights() for model in (start, *fitted))
        for begun, eager, jitted in zip(*everything, strict=True):
            np.testing.assert_allclose(jitted, eager, rtol=1e-5)
            assert (jitted > 0).all()
            assert not np.allclose(begun, jitted, rtol=1e-3)
            if normalize:
                np.testing.assert_allclose(jitted.sum(-1), 1.0, rtol=1e-6)

    def test_only_chosen_weights(self):
        """A rule gives it the mixture, which stays on the simplex; Adam moves what has signs."""
        model = train(compiled(mixed_optimizer(), mixture_model(), jit=True), epochs=5)
        shares = value_of(model.get_layer("mixture").shares)
        assert (shares > 0).all()
        np.testing.assert_allclose(shares.sum(-1), 1.0, rtol=1e-6)
        encoder = value_of(model.get_layer("encoder").kernel)
        assert (encoder < 0).any()
        assert (encoder > 0).any()

    def test_a_rule_for_signed_weights_is_an_error(self):
        optimizer = fg.PerWeight(
            keras.optimizers.Adam(), [fg.Rule("encoder", optimizer=ExponentiatedGradient())]
        )
        with pytest.raises(ValueError, match="encoder/kernel, encoder/bias"):
            optimizer.build(signed_mlp().weights)

    @pytest.mark.parametrize(
        ("arguments", "gradient"),
        [
            ({"clipnorm": 1.0}, [0.6, 0.8]),
            ({"global_clipnorm": 1.0}, [0.6, 0.8]),
            ({"clipvalue": 3.5}, [3.0, 3.5]),
            ({"loss_scale_factor": 2.0}, [1.5, 2.0]),
        ],
    )
    def test_what_is_done_to_gradients_first(self, arguments, gradient):
        expected = reference([1.0, 1.0], gradient, 0.1, False)
        np.testing.assert_allclose(step([1.0, 1.0], [3.0, 4.0], **arguments), expected, rtol=1e-6)

    def test_averages_are_on_the_simplex(self):
        (weight,) = variables(w=[0.2, 0.3, 0.5])
        optimizer = ExponentiatedGradient(1.0, normalize=True, use_ema=True, ema_momentum=0.5)
        apply(optimizer, [weight], [[1.0, 0.0, 0.0]])
        first = value_of(weight)
        apply(optimizer, [weight], [[0.0, 1.0, 0.0]])
        second = value_of(weight)
        optimizer.finalize_variable_values([weight])
        np.testing.assert_allclose(value_of(weight), (first + second) / 2, rtol=1e-6)
        np.testing.assert_allclose(value_of(weight).sum(), 1.0, rtol=1e-6)

    def test_config_round_trip(self):
        arguments = {"normalize": True, "max_step": 0.5, "floor": 1e-8, "clipnorm": 2.0}
        optimizer = ExponentiatedGradient(0.25, **arguments, name="mine")
        config = optimizer.get_config()
        assert {key: config[key] for key in arguments} == arguments
        serialized = keras.saving.serialize_keras_object(optimizer)
        assert serialized["registered_name"] == "finegrain>ExponentiatedGradient"
        again = keras.saving.deserialize_keras_object(json.loads(json.dumps(serialized)))
        assert isinstance(again, ExponentiatedGradient)
        assert again.get_config() == config
        assert config["learning_rate"] == 0.25
        assert config["name"] == "mine"

    def test_no_state_of_its_own(self):
        optimizer = ExponentiatedGradient()
        optimizer.build(positive_mlp().weights)
        assert [variable.name for variable in optimizer.variables] == ["iteration", "learning_rate"]

    @pytest.mark.selected("accumulating")
    @pytest.mark.parametrize("kind", ["alone", "accumulating", "in_a_rule"])
    def test_save_load_continue(self, kind, tmp_path):
        """A model loaded from a file goes on as the one that wrote it, to the last bit."""
        if kind == "in_a_rule":
            model = compiled(mixed_optimizer(), mixture_model(), jit=True)
        else:
            steps = 3 if kind == "accumulating" else None  # four steps an epoch: one is half done
            optimizer = ExponentiatedGradient(normalize=True, gradient_accumulation_steps=steps)
            model = compiled(optimizer, positive_mlp(), jit=True)
        train(model)
        model.save(tmp_path / "model.keras")
        loaded = keras.models.load_model(tmp_path / "model.keras")
        assert_bit_equal(loaded, model)
        before = values(model.weights)
        train(model)
        train(loaded)
        assert_bit_equal(loaded, model)
        assert not all(map(np.array_equal, before, values(model.weights)))


@only_tensorflow
class TestSparseGradients:
    """Of an embedding TensorFlow gives the gradients of the rows that were looked up."""

    TABLE = np.array([[0.2, 0.3, 0.5], [0.1, 0.1, 0.8], [0.4, 0.4, 0.4], [0.7, 0.2, 0.1]])
    INDICES = (2, 0, 2, 0, 0)
    VALUES = drawn.generator(4).normal(size=(5, 3))

    def sparse(self):
        import tensorflow as tf

        values = tf.constant(self.VALUES, tf.float32)
        return tf.IndexedSlices(values, tf.constant(self.INDICES), tf.constant([4, 3]))

    @both_forms
    @pytest.mark.parametrize("way", ["eager", "graph", "xla"])
    def test_rows(self, normalize, way):
        """Rows looked up several times move by their sum, the others by no bit."""
        import tensorflow as tf

        weight = weight_of(self.TABLE)
        untouched = value_of(weight)[[1, 3]]
        optimizer = ExponentiatedGradient(0.3, normalize=normalize)
        optimizer.build([weight])

        def run():
            optimizer.apply([self.sparse()], [weight])

        {"eager": run, "graph": tf.function(run), "xla": tf.function(run, jit_compile=True)}[way]()
        gradient = np.zeros_like(self.TABLE)
        np.add.at(gradient, list(self.INDICES), self.VALUES)
        expected = reference(self.TABLE, gradient, 0.3, normalize)
        np.testing.assert_allclose(value_of(weight)[[0, 2]], expected[[0, 2]], rtol=1e-6)
        np.testing.assert_array_equal(value_of(weight)[[1, 3]], untouched)

    def test_a_single_row_is_normalized_as_a_whole(self):
        """Of a vector the axis that sums to 1 is the one that is looked up along."""
        import tensorflow as tf

        weight = weight_of([0.25, 0.25, 0.5])
        gradient = tf.IndexedSlices(tf.constant([1.0, 1.0]), tf.constant([0, 0]), tf.constant([3]))
        ExponentiatedGradient(0.1, normalize=True).apply([gradient], [weight])
        expected = reference([0.25, 0.25, 0.5], [2.0, 0.0, 0.0], 0.1, True)
        np.testing.assert_allclose(value_of(weight), expected, rtol=1e-6)

    @pytest.mark.parametrize("arguments", [{"clipnorm": 0.5}, {"gradient_accumulation_steps": 2}])
    def test_with_what_is_done_to_gradients_first(self, arguments):
        weight = weight_of(self.TABLE)
        optimizer = ExponentiatedGradient(0.3, **arguments)
        for _ in range(2):
            optimizer.apply([self.sparse()], [weight])
        np.testing.assert_allclose(value_of(weight)[[1, 3]], self.TABLE[[1, 3]], rtol=1e-6)
        assert not np.allclose(value_of(weight)[[0, 2]], self.TABLE[[0, 2]])


def test_embedding_in_fit():
    """An embedding of positive rows: those that no batch looks up stay as they are."""
    initializer = keras.initializers.RandomUniform(0.1, 1.0, seed=drawn.seed(1))
    model = keras.Sequential(
        [keras.Input((2,), dtype="int32"), keras.layers.Embedding(5, 3, initializer)]
    )
    before = values(model.weights)[0]
    model.compile(ExponentiatedGradient(0.3), "mse")
    x = np.array([[0, 2], [2, 2], [4, 0], [0, 0]])
    model.fit(x, np.zeros((4, 2, 3)), batch_size=2, verbose=0)
    after = values(model.weights)[0]
    np.testing.assert_array_equal(after[[1, 3]], before[[1, 3]])
    assert (after[[0, 2, 4]] < before[[0, 2, 4]]).all()
