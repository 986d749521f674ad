"""AdaptiveMoments and AdaX against Keras's Adam and the published recurrence in float64."""

import json
import math
import warnings

import keras
import numpy as np
import pytest
from keras import ops

import drawn
import finegrain as fg
from finegrain.optimizers import AdamDecay, AdaptiveMoments, AdaX, AdaXDecay, PowerDecay
from optimizers.contract import apply, compiled, mlp, state, train, values, variables

BACKEND = keras.backend.backend()


def gradients_of(steps, size=5):
    """Noise of several scales round a slope, so that each weight goes some way."""
    random = drawn.generator(1)
    return (random.normal(0.2, size=(steps, size)) * [1, 0.1, 3, 1, 10]).astype("float32")


def published_adax(theta, gradients, rate, beta_1=0.9, beta_2=1e-4, epsilon=1e-12):
    """The article's recurrence, in float64."""
    theta, m, v = np.array(theta, "float64"), 0.0, 0.0
    for t, g in enumerate(np.asarray(gradients, "float64"), 1):
        m = beta_1 * m + (1 - beta_1) * g
        v = (1 + beta_2) * v + beta_2 * g**2
        theta = theta - rate * m / np.sqrt(v / ((1 + beta_2) ** t - 1) + epsilon)
    return theta


def stepper(optimizer, weight):
    """A compiled step."""
    optimizer.build([weight])
    if BACKEND == "jax":
        import jax

        step = jax.jit(optimizer.stateless_apply)
        held = [[v.value for v in optimizer.variables], [weight.value]]

        def run(gradient):
            held[1], held[0] = step(held[0], [gradient], held[1])
            return held[1][0]

        return run
    if BACKEND == "tensorflow":
        import tensorflow as tf

        compiled_step = tf.function(lambda g: optimizer.apply([g], [weight]))

        def run(gradient):
            compiled_step(tf.constant(gradient))
            return weight.value

        return run

    def run(gradient):
        optimizer.apply([ops.convert_to_tensor(gradient)], [weight])
        return weight.value

    return run


@pytest.mark.parametrize("decay", [None, 0.05])
def test_adam_and_adamw(decay):
    """With Adam's policy it is Keras's Adam, and AdamW with weight decay, over 1,000 steps."""
    mine, theirs = variables(mine=np.zeros(5)), variables(theirs=np.zeros(5))
    reference = (
        keras.optimizers.Adam(1e-3, epsilon=1e-12)
        if decay is None
        else keras.optimizers.AdamW(1e-3, weight_decay=decay, epsilon=1e-12)
    )
    one = stepper(AdaptiveMoments(1e-3, epsilon=1e-12, weight_decay=decay), mine[0])
    other = stepper(reference, theirs[0])
    for gradient in gradients_of(1000):
        a, b = one(gradient), other(gradient)
    assert np.abs(ops.convert_to_numpy(b)).min() > 1e-3
    # Keras takes β₂ᵗ of 0.999 in float32, which is off by 1.3e-8 and its correction by half of that
    # over 1 − β₂: 6.4e-6 of the way from 0. The rest is rounding.
    np.testing.assert_allclose(
        ops.convert_to_numpy(a), ops.convert_to_numpy(b), rtol=8e-6, atol=1e-6
    )


@pytest.mark.full
def test_adax_is_the_published_recurrence():
    """Over 10,000 steps, in float64."""
    (weight,) = variables(w=np.ones(5))
    step, gradients = stepper(AdaX(1e-4), weight), gradients_of(10_000)
    for gradient in gradients:
        now = step(gradient)
    expected = published_adax(np.ones(5), gradients, 1e-4)
    assert np.abs(expected - 1).min() > 1e-3
    np.testing.assert_allclose(ops.convert_to_numpy(now), expected, atol=2e-5)


@pytest.mark.parametrize("step", [1, 887_273, 7_100_000, 10**8])
@pytest.mark.parametrize("beta_2", [1e-4, 1e-7])
def test_a_step_at_any_time(step, beta_2):
    """What the recurrence gives in exact arithmetic, where as published it is no number."""
    (weight,) = variables(w=[1.0, 1.0])
    optimizer = AdaX(0.1, beta_2=beta_2)
    optimizer.build([weight])
    before = np.array([4.0, 0.25]) if step > 1 else np.zeros(2)
    optimizer._iterations.assign(step - 1)
    optimizer._velocities[0].assign(before)
    apply(optimizer, [weight], [[10.0, -1.0]])
    gradient = np.array([10.0, -1.0])
    growth = step * math.log1p(beta_2)
    w = beta_2 / math.expm1(growth) if growth < 700 else 0.0
    v = before + w * (gradient**2 - before)
    np.testing.assert_allclose(values(optimizer._velocities)[0], v, rtol=1e-6)
    expected = 1 - 0.1 * 0.1 * gradient / np.sqrt(v + 1e-12)
    np.testing.assert_allclose(values([weight])[0], expected, rtol=1e-6)
    assert int(optimizer.iterations) == step


def test_min_weight():
    """The newest gradient weighs at least so much, however late."""
    (weight,) = variables(w=[1.0])
    optimizer = AdaX(0.1, min_weight=0.25)
    optimizer.build([weight])
    optimizer._iterations.assign(10**6)
    apply(optimizer, [weight], [[2.0]])
    np.testing.assert_allclose(values(optimizer._velocities)[0], [1.0])


@pytest.mark.parametrize(("inside", "root"), [(False, 2.0 + 0.5), (True, math.sqrt(4.0 + 0.5))])
@pytest.mark.parametrize("corrected", [False, True])
def test_first_step_by_hand(inside, root, corrected):
    (weight,) = variables(w=[1.0])
    optimizer = AdaptiveMoments(
        0.1, 0.75, PowerDecay(0.5), 0.5, corrected, epsilon_inside=inside, weight_decay=0.5
    )
    apply(optimizer, [weight], [[2.0]])
    momentum = 2.0 if corrected else 0.25 * 2.0
    np.testing.assert_allclose(values([weight])[0], 1 - 0.05 - 0.1 * momentum / root, rtol=1e-6)


def test_a_function_as_policy():
    """A running mean of the squares."""
    (weight,) = variables(w=[1.0])
    optimizer = AdaptiveMoments(averaging=lambda step: 1 / step)
    for gradient in (1.0, 2.0, 4.0):
        apply(optimizer, [weight], [[gradient]])
    np.testing.assert_allclose(values(optimizer._velocities)[0], [7.0], rtol=1e-6)


@pytest.mark.selected("bfloat16-AdaX", "float16-AdaptiveMoments")
@pytest.mark.parametrize("make", [AdaptiveMoments, AdaX])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_low_precision_weights_have_precise_moments(make, dtype):
    """Many small squares add up in float32, and the weight keeps its dtype and moves."""
    weight = keras.Variable(np.ones(3), dtype=dtype, name="w")
    optimizer = make(0.01)
    for _ in range(300):
        optimizer.apply([ops.cast(ops.ones(3), dtype)], [weight])
    assert keras.backend.standardize_dtype(weight.dtype) == dtype
    assert {keras.backend.standardize_dtype(v.dtype) for v in optimizer._velocities} == {"float32"}
    np.testing.assert_allclose(values(optimizer._velocities)[0], 1.0, rtol=1e-5)
    assert (np.asarray(ops.convert_to_numpy(ops.cast(weight, "float32"))) < -0.5).all()


def test_compiled_fit_equals_steps():
    eager, jitted = (train(compiled(AdaX(0.01), jit=jit), epochs=2) for jit in (False, True))
    for a, b, start in zip(
        *map(values, (eager.weights, jitted.weights, mlp().weights)), strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
        assert np.abs(a - start).max() > 1e-3


@pytest.mark.skipif(BACKEND != "tensorflow", reason="only TensorFlow has sparse gradients")
@pytest.mark.parametrize("jit", [False, True])
def test_sparse_gradients(jit):
    """Rows that were looked up twice count twice, others decay: as with the dense gradient."""
    import tensorflow as tf

    table = np.arange(12.0).reshape(4, 3)
    sparse, full = variables(sparse=table, full=table)
    optimizers = [AdaX(0.1, clipnorm=5.0), AdaX(0.1, clipnorm=5.0)]
    for one, weight in zip(optimizers, (sparse, full), strict=True):
        one.build([weight])
    slices = tf.IndexedSlices(tf.ones((3, 3)), tf.constant([2, 0, 2]), tf.constant([4, 3]))

    @tf.function(jit_compile=jit)
    def step():
        optimizers[0].apply([slices], [sparse])

    for _ in range(3):
        step()
        optimizers[1].apply([tf.convert_to_tensor(slices)], [full])
    np.testing.assert_allclose(*values([sparse, full]), rtol=1e-6)
    np.testing.assert_array_equal(values([sparse])[0][[1, 3]], table[[1, 3]])


def test_config():
    """Policies, registered functions and AdaX's own arguments come back, also through JSON."""
    for optimizer in [
        AdaptiveMoments(0.25, 0.5, AdaXDecay(1e-3), 1e-5, False, min_weight=1e-5, clipnorm=1.0),
        AdaX(0.25, 0.5, 1e-3, 0.05, epsilon=1e-6, min_weight=1e-4, name="mine"),
    ]:
        config = json.loads(json.dumps(keras.saving.serialize_keras_object(optimizer)))
        again = keras.saving.deserialize_keras_object(config)
        assert type(again) is type(optimizer)
        assert again.get_config() == optimizer.get_config()
        assert repr(again.averaging) == "AdaXDecay(beta_2=0.001)"
    assert again.get_config()["beta_2"] == 1e-3
    assert "decay" not in again.get_config()


def test_state_is_saved_as_float32():
    optimizer = AdaX()
    optimizer.build(mlp().weights)
    assert len(state(optimizer)) == 2 + 2 * 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"beta_1": 1.0}, r"`beta_1` should be a number in \[0, 1\)"),
        ({"epsilon": 0.0}, "`epsilon` should be a finite number > 0"),
        ({"min_weight": 2.0}, r"`min_weight` should be a number in \[0, 1\]"),
        ({"min_weight": 0.999}, r"`min_weight` should be at most 0\.9"),
    ],
)
@pytest.mark.parametrize("make", [AdaptiveMoments, AdaX])
def test_arguments(make, arguments, message):
    with pytest.raises(ValueError, match=message):
        make(**arguments)


@pytest.mark.parametrize("beta_2", [0.9, 0.999, 1.0])
def test_adams_beta_2_is_refused_by_adax(beta_2):
    """It would be deaf after seven steps. Files that have it can still be read."""
    with pytest.raises(ValueError, match=r"AdaX's `beta_2` .* such as 1e-4.*Received: beta_2="):
        AdaX(beta_2=beta_2)
    config = AdaX(0.5).get_config() | {"beta_2": beta_2, "min_weight": 0.95}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        again = AdaX.from_config(config)
    told = [str(one.message) for one in caught]
    assert [text.startswith("Restored as it was saved") for text in told] == [True, True]
    assert again.get_config() == config


def test_adam_is_the_default():
    assert repr(AdaptiveMoments().averaging) == repr(AdamDecay(0.999))
    assert fg.optimizers.AdaX().weight_decay is None
