"""Schedules: against the formulae in float64, inside a compiled step, in files and configs."""

import keras
import numpy as np
import pytest
from keras import layers, ops, optimizers

import finegrain as fg
from compiling import JIT
from finegrain.schedules import Delayed, DomainAdversarial, SlantedTriangular, WarmUp


def warm_up(n, start=0.0, then=np.ones_like):
    def value(t):
        return (start + (1 - start) * np.minimum(1, t / n)) * then(np.maximum(t - n, 0))

    return value


def cosine(n):
    return lambda t: 0.5 * (1 + np.cos(np.pi * np.minimum(t, n) / n))


def delayed(d, then=np.ones_like):
    return lambda t: np.where(t < d, 0.0, then(np.maximum(t - d, 0)))


def slanted(total, cut, ratio):
    """The article's, with its own divisor; `cut * total` is a whole number."""
    peak = round(total * cut)

    def value(t):
        t = np.minimum(t, total)
        fall = 1 - (t - peak) / (peak * (1 / cut - 1))
        p = np.where(t < peak, t / peak, fall)
        return (1 + p * (ratio - 1)) / ratio

    return value


def domain_adversarial(total, steepness=10.0):
    return lambda t: 2 / (1 + np.exp(-steepness * np.minimum(1, t / total))) - 1


SCHEDULES = {
    "warm-up": (WarmUp(4), warm_up(4)),
    "warm-up-from": (WarmUp(1, start=0.25), warm_up(1, 0.25)),
    "warm-up-then": (
        WarmUp(3, 0.5, then=optimizers.schedules.CosineDecay(1.0, 5)),
        warm_up(3, 0.5, cosine(5)),
    ),
    "warm-up-to": (WarmUp(3, then=0.5), warm_up(3, then=lambda t: np.full_like(t, 0.5))),
    "slanted": (SlantedTriangular(10, cut=0.2, ratio=8), slanted(10, 0.2, 8.0)),
    # 0.29 * 100 is 28.999999999999996 in floats.
    "slanted-rounded": (SlantedTriangular(100, cut=0.29), slanted(100, 0.29, 32.0)),
    "domain-adversarial": (DomainAdversarial(7), domain_adversarial(7)),
    "domain-adversarial-flat": (DomainAdversarial(5, 0.5), domain_adversarial(5, 0.5)),
    "delayed": (Delayed(3), delayed(3)),
    "delayed-0": (Delayed(0, 0.25), delayed(0, lambda t: np.full_like(t, 0.25))),
    "delayed-warm-up": (Delayed(3, WarmUp(4)), delayed(3, warm_up(4))),
    "warm-up-then-delayed": (
        WarmUp(2, 0.5, then=Delayed(3, SlantedTriangular(5, 0.4, 2.0))),
        warm_up(2, 0.5, delayed(3, slanted(5, 0.4, 2.0))),
    ),
}
every_schedule = pytest.mark.parametrize("name", SCHEDULES)
STEPS = 31


@every_schedule
@pytest.mark.selected("warm-up-then-delayed", "slanted-rounded")
def test_the_formula(name):
    """At each step, given as a Python number, a tensor of any integer type, or a float."""
    schedule, expected = SCHEDULES[name]
    expected = expected(np.arange(STEPS, dtype="float64"))
    for of in (int, float, np.int64, lambda t: ops.convert_to_tensor(t, "int32")):
        values = [schedule(of(step)) for step in range(STEPS)]
        assert {keras.backend.standardize_dtype(value.dtype) for value in values} == {"float32"}
        values = [float(value) for value in values]
        np.testing.assert_allclose(values, expected, rtol=1e-6, atol=1e-7)


@every_schedule
@pytest.mark.one_backend
def test_config(name):
    """An equal schedule comes back, also through JSON."""
    schedule = SCHEDULES[name][0]
    text = keras.saving.serialize_keras_object(schedule)
    again = keras.saving.deserialize_keras_object(text)
    assert type(again) is type(schedule)
    assert again.get_config() == schedule.get_config()
    assert [float(again(t)) for t in range(STEPS)] == [float(schedule(t)) for t in range(STEPS)]
    assert repr(again) == repr(schedule) or "keras" in repr(schedule)


def slopes():
    """A model with a kernel for each schedule, whose gradient is 1."""
    inputs = keras.Input((1,))
    outputs = [
        layers.Dense(1, use_bias=False, kernel_initializer="zeros", name=name)(inputs)
        for name in SCHEDULES
    ]
    return keras.Model(inputs, layers.Add()(outputs))


def mean_output(y_true, y_pred):
    return ops.mean(y_pred, axis=-1)


def test_in_compiled_fit_and_in_a_file(tmp_path):
    """As multipliers in rules, for some steps, saved, loaded, and for some more."""
    model = slopes()
    rules = [
        fg.Rule(f"^{name}/", learning_rate_multiplier=schedule)
        for name, (schedule, _) in SCHEDULES.items()
    ]
    model.compile(fg.PerWeight(optimizers.SGD(1.0), rules), mean_output, jit_compile=JIT)
    ones = np.ones((STEPS, 1), "float32")
    model.fit(ones[:6], ones[:6], batch_size=1, verbose=0)
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras", {"mean_output": mean_output})
    again.fit(ones[6:], ones[6:], batch_size=1, verbose=0)
    for name, (_, expected) in SCHEDULES.items():
        steps = expected(np.arange(STEPS, dtype="float64"))
        for of, until in ((model, 6), (again, STEPS)):
            kernel = -float(of.get_layer(name).get_weights()[0][0, 0])
            np.testing.assert_allclose(kernel, steps[:until].sum(), rtol=1e-5, err_msg=name)


def test_as_the_rate_of_an_optimizer():
    """What follows need not be a multiplier."""
    schedule = WarmUp(2, then=optimizers.schedules.CosineDecay(0.5, 4))
    weight = keras.Variable([0.0])
    optimizer = optimizers.SGD(schedule)
    for _ in range(4):
        optimizer.apply([ops.ones((1,))], [weight])
    expected = 0.5 * warm_up(2, then=cosine(4))(np.arange(4.0)).sum()
    np.testing.assert_allclose(ops.convert_to_numpy(weight), [-expected], rtol=1e-6)


def test_far_out():
    """Steps beyond 2^24, which float32 does not know one by one."""
    late = 2**24
    assert float(Delayed(late + 1)(ops.convert_to_tensor(late, "int32"))) == 0.0
    assert float(Delayed(late + 1, WarmUp(2))(ops.convert_to_tensor(late + 2, "int32"))) == 0.5
    triangle = SlantedTriangular(late + 3, cut=0.0, ratio=1e30)
    last = float(triangle(ops.convert_to_tensor(late + 2, "int32")))
    np.testing.assert_allclose(last, 1 / (late + 3), rtol=1e-6)


@pytest.mark.one_backend
@pytest.mark.parametrize(("cut", "expected"), [(0.0, [1.0, 0.75, 0.5]), (1.0, [0.5, 0.75, 0.5])])
def test_triangles_of_one_side(cut, expected):
    """That only fall, or only rise."""
    schedule = SlantedTriangular(2, cut=cut, ratio=2.0)
    assert [float(schedule(step)) for step in range(3)] == expected


@pytest.mark.one_backend
@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: WarmUp(0), ValueError, r"`steps` should be an integer >= 1. Received: steps=0"),
        (lambda: WarmUp(2.5), TypeError, r"`steps` should be an integer >= 1. .*2\.5"),
        (lambda: WarmUp(True), TypeError, "Received: steps=True"),
        (lambda: WarmUp(2**31), ValueError, "Received: steps=2147483648"),
        (lambda: WarmUp(2, start=1.5), ValueError, r"`start` should be .* between 0 and 1"),
        (lambda: WarmUp(2, start="0"), TypeError, "`start` should be .* between 0 and 1"),
        (lambda: WarmUp(2, start=np.nan), ValueError, "Received: start=nan"),
        (lambda: WarmUp(2, then=-1.0), ValueError, "`then` should be a finite number >= 0"),
        (lambda: WarmUp(2, then=lambda step: 1.0), TypeError, "cannot be saved with the model"),
        (lambda: Delayed(-1), ValueError, "`step` should be an integer >= 0. Received: step=-1"),
        (lambda: Delayed(1, "cosine"), TypeError, "`schedule` should be a finite number >= 0"),
        (lambda: SlantedTriangular(0), ValueError, "Received: total=0"),
        (lambda: SlantedTriangular(9, cut=-0.1), ValueError, "Received: cut=-0.1"),
        (lambda: SlantedTriangular(9, ratio=0.5), ValueError, "number >= 1. Received: ratio=0.5"),
        (lambda: SlantedTriangular(9, ratio="32"), TypeError, "Received: ratio='32'"),
    ],
)
def test_errors(make, error, message):
    """Bad values are refused where they are given."""
    with pytest.raises(error, match=message):
        make()
