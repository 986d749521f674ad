"""ReverseGradient: its gradient, a factor that changes in training, schedules, files."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import drawn
from compiling import JIT
from finegrain.layers import ReverseGradient
from finegrain.schedules import DomainAdversarial, WarmUp
from routing.differentiate import BACKEND, array, differentiate

STEPS = 4
ONES = np.ones((2 * STEPS, 1), "float32")


def value_of(y, outputs):
    return outputs


def model_of(layer):
    """A model whose weight moves by the factor in each step of a rate of 1."""
    below = layers.Dense(1, use_bias=False, kernel_initializer="zeros", name="below")
    model = keras.Sequential([keras.Input((1,)), below, layer])
    model.compile(keras.optimizers.SGD(1.0), loss=value_of, jit_compile=JIT)
    return model


def moved(model):
    return float(array(model.get_layer("below").kernel)[0, 0])


def test_value_and_gradient():
    """The value to the last bit, the gradient times −c."""
    x = drawn.generator(1).normal(size=(3, 2)).astype("float32")
    layer = ReverseGradient(0.5)
    np.testing.assert_array_equal(array(layer(x)), x)
    result = differentiate(lambda x: 3 * layer(x), x)
    np.testing.assert_array_equal(result.inputs, np.full((3, 2), -1.5))


@pytest.mark.parametrize("when", ["begin", "end"])
@pytest.mark.parametrize("how", ["set", "assign"])
def test_factor_of_each_step(when, how):
    """What a callback sets is the factor of the next step, whether it asks for its model or not."""
    layer = ReverseGradient(1.0)
    model = model_of(layer)
    factors = [0.25, -0.5, 2.0, 0.125]

    class Setting(keras.callbacks.Callback):
        def change(self, step):
            if step >= len(factors):
                return
            if how == "set":
                layer.factor = factors[step]
            else:
                layer.factor.assign(factors[step])

        def on_train_batch_begin(self, batch, logs=None):
            if when == "begin":
                self.change(batch)

        def on_train_batch_end(self, batch, logs=None):
            if when == "end":
                self.change(batch + 1)

    if when == "end":
        layer.factor = factors[0]
    model.fit(ONES, ONES, batch_size=2, callbacks=[Setting()], verbose=0)
    assert moved(model) == pytest.approx(sum(factors))
    assert float(array(layer.factor)) == factors[-1]


@pytest.mark.skipif(BACKEND != "jax", reason="other backends have the values at hand")
def test_out_of_reach():
    """From another thread than `fit`'s an error says where to set it."""
    from concurrent.futures import ThreadPoolExecutor

    layer = ReverseGradient()
    model = model_of(layer)
    seen = []

    def change():
        layer.factor = 0.5

    class Elsewhere(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            with ThreadPoolExecutor(1) as pool:
                seen.append(pool.submit(change).exception())

    model.fit(ONES, ONES, batch_size=2, callbacks=[Elsewhere()], verbose=0)
    assert all(isinstance(error, RuntimeError) for error in seen)
    assert "same thread" in str(seen[0])
    assert moved(model) == STEPS


def test_schedule():
    """Each training call takes the next value; others count nothing."""
    schedule = DomainAdversarial(6)
    layer = ReverseGradient(schedule)
    model = model_of(layer)
    model.fit(ONES, ONES, batch_size=2, verbose=0)
    expected = [float(array(schedule(step))) for step in range(STEPS + 2)]
    np.testing.assert_allclose(moved(model), sum(expected[:STEPS]), rtol=1e-5)
    model.predict(ONES, verbose=0)
    model.evaluate(ONES, ONES, verbose=0)
    assert int(array(layer.weights[0])) == STEPS
    model.fit(ONES, ONES, batch_size=4, verbose=0)
    np.testing.assert_allclose(moved(model), sum(expected), rtol=1e-5)
    assert layer.factor is schedule


@pytest.mark.parametrize("factor", [0.75, WarmUp(8, start=0.5)], ids=["number", "schedule"])
def test_saved_and_loaded(factor, tmp_path):
    """The factor of now, or the count, is kept, and training goes on as before."""
    model = model_of(ReverseGradient(factor))
    if factor == 0.75:
        model.layers[-1].factor = 0.25
    model.fit(ONES, ONES, batch_size=2, verbose=0)
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras", compile=False)
    again.compile(keras.optimizers.SGD(1.0), loss=value_of, jit_compile=JIT)
    for one in (model, again):
        one.fit(ONES, ONES, batch_size=2, verbose=0)
    assert moved(again) == moved(model) != 0
    if factor == 0.75:
        assert float(array(again.layers[-1].factor)) == 0.25
    assert again.layers[-1].get_config()["factor"] == model.layers[-1].get_config()["factor"]


def test_symbolic():
    """In a functional model, on structures, with masks, in the inputs' dtype."""
    inputs = keras.Input((3, 2)), keras.Input((1,), dtype="float16")
    layer = ReverseGradient(dtype="float32")
    outputs = layer({"a": layers.Masking()(inputs[0]), "b": inputs[1]})
    assert {name: tuple(x.shape) for name, x in outputs.items()} == {
        "a": (None, 3, 2),
        "b": (None, 1),
    }
    assert outputs["b"].dtype == "float32"
    model = keras.Model(inputs, outputs)
    arrays = np.ones((2, 3, 2), "float32"), np.ones((2, 1), "float16")
    results = model([*arrays])
    assert keras.backend.standardize_dtype(results["b"].dtype) == "float32"
    np.testing.assert_array_equal(array(results["a"]), arrays[0])
    masked = ReverseGradient()
    outputs = masked(layers.Masking()(np.zeros((1, 2, 1), "float32")))
    assert outputs._keras_mask is not None


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision(policy):
    """Half precision passes as it is; the factor stays whole."""
    keras.config.set_dtype_policy(policy)
    layer = ReverseGradient(0.5)
    assert layer.factor.dtype == "float32"
    x = np.ones((2, 2), "float32")
    assert keras.backend.standardize_dtype(layer(x).dtype) == policy.removeprefix("mixed_")
    result = differentiate(lambda x: ops.cast(layer(x), "float32"), x)
    np.testing.assert_array_equal(result.inputs, np.full((2, 2), -0.5))


@pytest.mark.parametrize(
    ("make", "kind", "match"),
    [
        (lambda: ReverseGradient("1"), TypeError, "finite number"),
        (lambda: ReverseGradient(lambda step: 1.0), TypeError, "LearningRateSchedule"),
        (lambda: ReverseGradient(float("nan")), ValueError, "finite"),
        (lambda: ReverseGradient()(np.array([1])), TypeError, "floats"),
        (lambda: setattr(ReverseGradient(), "factor", np.inf), ValueError, "finite"),
        (lambda: setattr(ReverseGradient(WarmUp(1)), "factor", 1.0), TypeError, "schedule"),
    ],
)
def test_bad_arguments(make, kind, match):
    """Errors say what to give."""
    with pytest.raises(kind, match=match):
        make()
