"""What holds for each of the library's own optimizers by itself."""

import json

import keras
import numpy as np
import pytest
from keras import ops

from covering import chosen, covering
from optimizers.contract import (
    OWN,
    WITHOUT_WEIGHT_DECAY,
    assert_bit_equal,
    assert_moved,
    compiled,
    mlp,
    push,
    train,
    values,
    variables,
)

BACKEND = keras.backend.backend()
every_optimizer = pytest.mark.parametrize("name", OWN)
some_optimizers = pytest.mark.parametrize(
    "name", chosen(OWN, ["adax", "exponentiated_gradient", "adaptive_step_size"])
)


def minimized(optimizer, gradient, start, steps):
    """Where compiled steps along `gradient`, a function of a tensor, lead."""
    (weight,) = variables(w=start)
    optimizer.build([weight])
    if BACKEND == "jax":
        import jax

        state = [v.value for v in optimizer.variables]

        def step(_, carry):
            (value,), state = carry
            return optimizer.stateless_apply(state, [gradient(value)], [value])

        run = jax.jit(lambda: jax.lax.fori_loop(0, steps, step, ([weight.value], state)))
        return np.asarray(run()[0][0])
    if BACKEND == "tensorflow":
        import tensorflow as tf

        step = tf.function(lambda: optimizer.apply([gradient(tf.identity(weight.value))], [weight]))
        for _ in range(steps):
            step()
        return values([weight])[0]
    for _ in range(steps):
        here = ops.stop_gradient(ops.convert_to_tensor(weight))
        optimizer.apply([gradient(here)], [weight])
    return values([weight])[0]


@some_optimizers
def test_quadratic(name):
    """The minimum of (x − 1)² + 10 (y − 0.5)²."""

    def gradient(x):
        return ops.stack([2 * (x[0] - 1), 20 * (x[1] - 0.5)])

    found = minimized(OWN[name](learning_rate=0.02), gradient, [2.0, 2.0], 800)
    np.testing.assert_allclose(found, [1.0, 0.5], atol=0.02)


@pytest.mark.full
@some_optimizers
def test_rosenbrock(name):
    """Along the bent valley of (1 − x)² + 100 (y − x²)²: most of the way to (1, 1)."""

    def gradient(x):
        a, b = x[0], x[1]
        return ops.stack([2 * (a - 1) - 400 * a * (b - a**2), 200 * (b - a**2)])

    rates = {"exponentiated_gradient": 1e-3, "adaptive_step_size_product": 1e-2}
    optimizer = OWN[name](learning_rate=rates.get(name, 2e-2), global_clipnorm=1.0)
    if name == "exponentiated_gradient":
        optimizer = OWN[name](learning_rate=1e-3)
    x, y = minimized(optimizer, gradient, [0.25, 1.5], 2000)
    assert (1 - x) ** 2 + 100 * (y - x**2) ** 2 < 0.05


@pytest.mark.parametrize(("name", "dtype"), covering(OWN, ["float32", "bfloat16", "float16"]))
def test_dtypes_and_shapes_stay(name, dtype):
    """Of weights and of state, scalars included, at each step; and nothing becomes NaN."""
    shapes = [(), (3,), (2, 3)]
    weights = [
        keras.Variable(np.full(shape, 0.5), dtype=dtype, name=f"w{len(shape)}") for shape in shapes
    ]
    optimizer = OWN[name]()
    optimizer.build(weights)

    def kinds():
        return [
            (keras.backend.standardize_dtype(v.value.dtype), tuple(v.shape))
            for v in [*weights, *optimizer.variables]
        ]

    before = kinds()
    for _ in range(3):
        optimizer.apply([ops.ones(shape, dtype) for shape in shapes], weights)
        assert kinds() == before
    for weight in weights:
        value = ops.convert_to_numpy(ops.cast(weight, "float32"))
        assert np.isfinite(value).all()
        assert (value <= 0.5).all()  # a first step may be less than bfloat16 can tell


@pytest.mark.one_backend
@every_optimizer
def test_config(name):
    """By way of JSON, with all that Keras's own optimizers have."""
    arguments = {"clipnorm": 0.5, "use_ema": True, "gradient_accumulation_steps": 2}
    if name not in WITHOUT_WEIGHT_DECAY:
        arguments["weight_decay"] = 0.125
    optimizer = OWN[name](learning_rate=0.25, name="mine", **arguments)
    config = json.loads(json.dumps(keras.saving.serialize_keras_object(optimizer)))
    again = keras.saving.deserialize_keras_object(config)
    assert again.get_config() == optimizer.get_config()
    assert {key: getattr(again, key) for key in arguments} == arguments


CASES = {
    "plain": {},
    "clipped, accumulated, averaged": {
        "global_clipnorm": 0.5,
        "gradient_accumulation_steps": 3,
        "use_ema": True,
        "ema_momentum": 0.9,
    },
    "schedule": {"learning_rate": keras.optimizers.schedules.ExponentialDecay(0.05, 4, 0.5)},
}


@pytest.mark.selected(
    "adax-plain",
    "adaptive_moments-plain",
    "adaptive_step_size_scale-clipped, accumulated, averaged",
)
@pytest.mark.parametrize(("name", "case"), covering(OWN, CASES, also=[("adax", "plain")]))
def test_save_load_continue(name, case, tmp_path):
    """In `fit`, to the last bit."""
    if BACKEND == "jax" and case != "plain":
        pytest.skip("Keras on JAX goes on from averages that share memory with the weights")
    model = mlp()
    model.compile(OWN[name](**CASES[case]), "mse", jit_compile=BACKEND == "jax")
    train(model)
    if case != "clipped, accumulated, averaged":
        assert_moved(model)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert_bit_equal(loaded, model)
    before = values(model.weights)
    assert_bit_equal(train(loaded), train(model))
    assert not all(map(np.array_equal, before, values(model.weights)))


@pytest.mark.selected("adaptive_moments-mixed_float16", "adaptive_step_size_product-mixed_bfloat16")
@pytest.mark.parametrize(("name", "policy"), covering(OWN, ["mixed_float16", "mixed_bfloat16"]))
def test_mixed_precision(name, policy):
    keras.config.set_dtype_policy(policy)
    model = mlp()
    model.compile(OWN[name](), "mse", jit_compile=BACKEND == "jax")
    train(model, epochs=2)
    assert isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer) == (
        policy == "mixed_float16"
    )
    assert_moved(model)
    assert {weight.dtype for weight in model.weights} == {"float32"}


@pytest.mark.selected("adax")
@some_optimizers
def test_compiled_is_as_step_by_step(name):
    """With constraints and the clipping of values."""
    models = []
    for jit in (False, True):
        model = mlp()
        model.layers[1].kernel.constraint = keras.constraints.MaxNorm(1.0)
        models.append(train(compiled(OWN[name](clipvalue=0.5), model, jit=jit), epochs=2))
    for eager, jitted in zip(*(values(model.weights) for model in models), strict=True):
        np.testing.assert_allclose(jitted, eager, rtol=2e-4, atol=1e-6)


@some_optimizers
def test_set_weights(name):
    """What `variables` hold is all the state there is."""
    model, copy = compiled(OWN[name]()), compiled(OWN[name]())
    push(model)
    copy.set_weights(model.get_weights())
    copy.optimizer.build(copy.trainable_variables)
    copy.optimizer.set_weights(values(model.optimizer.variables))
    assert_bit_equal(push(copy), push(model))
