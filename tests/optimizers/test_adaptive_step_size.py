"""AdaptiveStepSize: its formulas by hand, what it learns, and what it goes together with."""

import json

import keras
import numpy as np
import pytest
from keras import ops, optimizers

import drawn
import finegrain as fg
from finegrain.optimizers import AdaptiveStepSize, ProductGains, Scale, SignGains
from optimizers.contract import (
    X,
    Y,
    apply,
    compiled,
    groups,
    mlp,
    push,
    random_gradients,
    train,
    values,
    variables,
)

BACKEND = keras.backend.backend()
RULES = {"scale": Scale, "product": ProductGains, "sign": SignGains}
every_rule = pytest.mark.parametrize("kind", RULES.values(), ids=RULES)


def run(optimizer, gradients, start=(1.0, 1.0)):
    """The weights after each step."""
    (weight,) = variables(w=list(start))
    seen = []
    for gradient in gradients:
        apply(optimizer, [weight], [gradient])
        seen.append(values([weight])[0])
    return np.array(seen, "float64")


def fixed(kind):
    """A rule with which steps are those of the optimizer."""
    return kind(0.0, **({"first_step": None, "max_change": None} if kind is Scale else {}))


def built_fast(optimizer):
    """A compiled model; on TensorFlow without XLA, which takes long for so small a model."""
    model = mlp()
    model.compile(optimizer, "mse", jit_compile=BACKEND == "jax")
    return model


def rate_of(optimizer):
    return float(ops.convert_to_numpy(optimizer.learning_rate))


class TestProduct:
    def test_the_articles_formula(self):
        """ν is the exponential of the sum of products of successive gradients, to the letter."""
        gradients = drawn.generator(0).normal(size=(20, 2))
        theta, nu, previous, expected = np.ones(2), np.ones(2), np.zeros(2), []
        for g in gradients:
            nu = nu * np.exp(0.3 * previous * g)
            theta = theta - 0.05 * nu * g
            previous = g
            expected.append(theta)
        optimizer = AdaptiveStepSize(optimizers.SGD(0.05), ProductGains(0.3))
        np.testing.assert_allclose(run(optimizer, gradients), expected, rtol=1e-5)

    def test_two_steps_by_hand(self):
        """The second step is twice the first of what keeps its sign, and half of what does not."""
        optimizer = AdaptiveStepSize(optimizers.SGD(0.1), ProductGains(np.log(2)))
        seen = run(optimizer, [[1.0, 1.0], [1.0, -1.0]])
        np.testing.assert_allclose(seen, [[0.9, 0.9], [0.7, 0.95]], rtol=1e-6)


class TestSign:
    def test_by_hand(self):
        """Average gradients 0, 0.1, 0.09·1 + … decide by their sign; gains stop at the bound."""
        optimizer = AdaptiveStepSize(
            optimizers.SGD(0.1), SignGains(gain_rate=np.log(2), max_gain=4.0)
        )
        seen = run(optimizer, [[1.0, 1.0], [3.0, -0.5], [2.0, -2.0], [1.0, 1.0]], (2.0, 2.0))
        # Averages of the second: 0, 0.1, 0.04, −0.164, so that its gain would be 1/8 at last.
        steps = 0.1 * np.array([[1, 1], [2 * 3, -0.5 * 0.5], [4 * 2, -2 * 0.25], [4, 0.25]])
        np.testing.assert_allclose(seen, 2 - steps.cumsum(0), rtol=1e-5)


def growths_of(gradients, ways, gain_rate=20):
    """What log ν grows by at each step, by averages that are written out."""
    slopes, norms, growths = [], [], []
    for t, (g, p) in pairs(gradients, ways):
        norm, growth = np.linalg.norm(g), 0.0
        if t > 0:
            slopes.append(cosine(g, p) * norm)
            d = np.array(slopes)
            mean = np.average(d, weights=0.9 ** np.arange(t)[::-1])
            square = np.average(d**2, weights=0.99 ** np.arange(t)[::-1])
            usual = norms[0] ** 2
            for earlier in norms:
                usual = 0.98 * usual + 0.02 * earlier**2
            tolerance = 0.4 * max(1 - square / usual, 0)
            growth = gain_rate / (t + 25) * np.clip(mean / np.sqrt(square) + tolerance, -1, 1)
            excess = norm / (2.25 * np.sqrt(usual))
            if excess > 1:
                growth = min(growth, -np.log(min(excess, 4.0)) / 2)
        norms.append(norm)
        growths.append(growth)
    return growths


def pairs(gradients, ways):
    return enumerate(zip(gradients, ways, strict=True))


def cosine(gradient, way):
    size = np.linalg.norm(gradient) * np.linalg.norm(way)
    return -(gradient @ way) / size if size > 0 else 0.0


def scale_reference(gradients, start, rate, max_change=0.015, **own):
    """The formulas of `Scale` over plain gradient descent, in float64."""
    theta, log, out = np.array(start, "float64"), 0.0, []
    way, ways = 0.0 * theta, []
    gradients = np.asarray(gradients, "float64")
    for t, g in enumerate(gradients):
        ways.append(way)
        growths = growths_of(gradients[: t + 1], ways, **own)
        size = max(np.linalg.norm(theta), 1e-3 * np.sqrt(theta.size))
        unit = np.log(size / (rate * np.linalg.norm(g)))
        log += growths[-1]
        if t == 0:
            log = min(log, unit + np.log(1e-3))
        if max_change:
            log = min(log, unit + np.log(max_change))
        move = -rate * np.exp(log) * g
        way = (1 - 1.5 / (t + 15)) * (way - g)
        theta = theta + move
        out.append(theta)
    return np.array(out), rate * np.exp(log)


def eventful():
    """Gradients agree, turn round, with a small spike, are noise, then two large spikes."""
    random = drawn.generator(3)
    there = random.normal(size=(30, 4)) + 2
    back = random.normal(size=(15, 4)) - 2
    return [
        *there,
        *back[:10],
        -6 * np.ones(4),
        *back[10:],
        *random.normal(size=(30, 4)),
        12 * np.ones(4),
        -1e4 * np.ones(4),
    ]


class TestScale:
    @pytest.mark.selected("0.5")
    @pytest.mark.parametrize("rate", [1e-4, 0.5])
    def test_the_formulas(self, rate):
        gradients = eventful()
        expected, effective = scale_reference(gradients, np.ones(4), rate)
        optimizer = AdaptiveStepSize(optimizers.SGD(rate))
        np.testing.assert_allclose(run(optimizer, gradients, np.ones(4)), expected, rtol=1e-4)
        np.testing.assert_allclose(rate_of(optimizer), effective, rtol=1e-3)
        assert np.abs(np.diff(expected, axis=0)).max() > 5 * np.abs(expected[0] - 1).max()

    @pytest.mark.full
    def test_the_formulas_without_a_bound(self):
        """A small spike does not hold up a scale that shrinks faster already."""
        own = {"gain_rate": 2, "max_change": None}
        expected, effective = scale_reference(eventful(), np.ones(4), 1e-3, **own)
        optimizer = AdaptiveStepSize(optimizers.SGD(1e-3), Scale(**own))
        np.testing.assert_allclose(run(optimizer, eventful(), np.ones(4)), expected, rtol=1e-4)
        np.testing.assert_allclose(rate_of(optimizer), effective, rtol=1e-3)

    def test_a_spike_halves_the_scale_at_most(self):
        """However large the gradient is."""
        gradients = drawn.generator(4).normal(size=(20, 3))
        optimizer = AdaptiveStepSize(optimizers.Adam(1e-2), Scale(first_step=None, max_change=None))
        (weight,) = variables(w=np.ones(3))
        rates = []
        for gradient in [*gradients, 1e6 * np.ones(3)]:
            apply(optimizer, [weight], [gradient])
            rates.append(rate_of(optimizer))
        np.testing.assert_allclose(rates[-1], rates[-2] / 2, rtol=1e-5)

    def test_an_infinite_gradient_that_is_clipped_leaves_no_trace(self):
        """The step is finite, the raw gradient is none to learn from."""
        clipped = fg.PerWeight(optimizers.SGD(1e-2), [fg.Rule(".", gradient=fg.gradients.Sign())])
        optimizer = AdaptiveStepSize(clipped, Scale(max_change=None))
        random, rates = drawn.generator(4), []
        (weight,) = variables(w=np.ones(3))
        for step in range(40):
            gradient = random.normal(size=3) + 1
            gradient = {10: np.full(3, np.inf), 39: np.full(3, 1e6)}.get(step, gradient)
            apply(optimizer, [weight], [gradient])
            rates.append(rate_of(optimizer))
        assert np.isfinite(values([weight])[0]).all()
        assert rates[10] == rates[9]
        assert rates[38] > 1.2 * rates[10]
        np.testing.assert_allclose(rates[39], rates[38] / 2, rtol=1e-5)

    def test_gradients_after_a_pause(self):
        """Gradients of 0 change nothing, and the first one after them is no spike to fear."""
        optimizer = AdaptiveStepSize(optimizers.SGD(1e-2), Scale(first_step=None, max_change=None))
        (weight,) = variables(w=np.ones(3))
        rates = []
        for gradient in [*np.zeros((5, 3)), *np.ones((10, 3)), *np.zeros((50, 3)), np.ones(3)]:
            apply(optimizer, [weight], [gradient])
            rates.append(rate_of(optimizer))
        assert set(rates[:5]) == {rates[0]}
        assert set(rates[15:65]) == {rates[14]}
        assert rates[14] > 1.5 * rates[0]
        assert rates[65] > 0.49 * rates[64]

    @pytest.mark.full
    def test_learning_rates_of_seven_decades(self):
        """From 1e-6 to 1 a model ends alike, where Adam itself is anything from still to lost."""
        start = float(built_fast("sgd").evaluate(X, Y, verbose=0))
        ends = []
        x, y = np.tile(X, (150, 1)), np.tile(Y, (150, 1))
        for rate in (1e-6, 1e-3, 1.0):
            model = built_fast(AdaptiveStepSize(optimizers.Adam(rate)))
            model.fit(x, y, batch_size=8, verbose=0, shuffle=False)
            ends.append(float(model.evaluate(X, Y, verbose=0)))
        assert max(ends) < 0.35 * start
        assert max(ends) < 1.25 * min(ends)

    @pytest.mark.full
    def test_no_gradient_no_growth(self):
        """Where nothing is to be learned any more, steps do not grow without bound."""
        optimizer = AdaptiveStepSize(optimizers.Adam(0.1))
        before = None
        (weight,) = variables(w=[1.0, 1.0])
        for step in range(120):
            apply(optimizer, [weight], [[1.0, 1.0] if step < 10 else [0.0, 0.0]])
            if step == 80:
                before = rate_of(optimizer)
        assert rate_of(optimizer) < 1.02 * before

    @pytest.mark.full
    def test_it_does_not_freeze_short_of_the_minimum(self):
        """Having overshot, steps shrink, but the way turns with them."""
        (weight,) = variables(w=[2.0, 2.0])
        optimizer = AdaptiveStepSize(optimizers.Adam(0.02))
        for _ in range(500):
            now = values([weight])[0]
            apply(optimizer, [weight], [[2 * (now[0] - 1), 20 * (now[1] - 0.5)]])
        np.testing.assert_allclose(values([weight])[0], [1.0, 0.5], atol=0.01)

    def test_weights_of_zero_move(self):
        seen = run(AdaptiveStepSize(optimizers.SGD(1.0)), [[1.0, 2.0]], (0.0, 0.0))
        np.testing.assert_allclose(np.linalg.norm(seen[0]), 1e-6 * np.sqrt(2), rtol=1e-4)

    @pytest.mark.full
    def test_weight_decay_is_no_part_of_the_signal(self):
        """The scale is that of training without decay, if the gradients are."""
        gradients = drawn.generator(1).normal(size=(40, 3)) + 0.3
        # Without bounds a larger gain would lead weights out of the precision of float32.
        free = {"gain_rate": 2.0, "first_step": None, "max_change": None}
        plain = AdaptiveStepSize(optimizers.SGD(0.1), Scale(**free))
        decayed = AdaptiveStepSize(optimizers.SGD(0.1, weight_decay=0.5), Scale(**free))
        without = run(plain, gradients, np.ones(3))
        with_decay = run(decayed, gradients, np.ones(3))
        np.testing.assert_allclose(rate_of(decayed), rate_of(plain), rtol=1e-4)
        np.testing.assert_allclose(without[0] - with_decay[0], 0.05 * np.ones(3), rtol=1e-4)

    def test_the_first_decay_is_as_small_as_the_first_step(self):
        """A rate of 1 with a weight decay of 0.5 would halve the weights."""
        optimizer = AdaptiveStepSize(optimizers.AdamW(1.0, weight_decay=0.5))
        seen = run(optimizer, [[1.0, -1.0]], (2.0, 2.0))
        # The step is a thousandth of the weights' norm, for each weight 0.002.
        decayed = 2 - 2 * 0.5 * 0.002
        np.testing.assert_allclose(seen[0], [decayed - 0.002, decayed + 0.002], rtol=1e-6)

    @pytest.mark.skipif(BACKEND == "jax", reason="JAX has no float64 by default")
    @every_rule
    def test_weights_of_float64(self, kind):
        weight = keras.Variable(np.ones(3), dtype="float64", name="w")
        optimizer = AdaptiveStepSize(optimizers.SGD(1e-3, weight_decay=0.1), kind())
        for _ in range(3):
            optimizer.apply([ops.ones(3, "float64")], [weight])
        kinds = {keras.backend.standardize_dtype(v.dtype) for v in optimizer._first_slots}
        assert kinds == {"float64"}
        assert (values([weight])[0] < 1).all()


@pytest.mark.full
@every_rule
@pytest.mark.parametrize(
    "inner",
    [
        lambda: optimizers.Adam(1e-2),
        lambda: optimizers.SGD(1e-2, momentum=0.9),
        lambda: optimizers.AdamW(1e-2, weight_decay=0.1),
        lambda: optimizers.RMSprop(1e-2),
        lambda: fg.optimizers.AdaX(1e-2),
    ],
)
def test_a_gain_rate_of_zero_is_the_optimizer_alone(kind, inner):
    if kind is Scale and BACKEND == "jax":
        pytest.skip("one rule is enough where each operation is compiled")
    model, other = mlp(), mlp()
    wrapped, plain = AdaptiveStepSize(inner(), fixed(kind)), inner()
    for gradients in random_gradients(model.weights, 10):
        wrapped.apply(gradients, model.weights)
        plain.apply(gradients, other.weights)
    for a, b in zip(values(model.weights), values(other.weights), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-6)


class TestLearningRate:
    @pytest.mark.full
    def test_what_is_logged(self):
        model = built_fast(AdaptiveStepSize(optimizers.Adam(1e-6)))
        keep = keras.callbacks.LearningRateScheduler(lambda epoch, rate: rate)
        logged = model.fit(X, Y, batch_size=8, epochs=20, verbose=0, callbacks=[keep]).history
        rates = logged["learning_rate"]
        np.testing.assert_allclose(rates[-1], rate_of(model.optimizer), rtol=1e-6)
        assert rates[-1] > 10 * rates[0]
        assert rates[-1] > 1e-5

    @every_rule
    def test_setting_it_sets_the_effective_rate(self, kind):
        optimizer = AdaptiveStepSize(optimizers.SGD(0.25), kind())
        run(optimizer, [[1.0, 1.0]] * 3)
        optimizer.learning_rate = 0.125
        np.testing.assert_allclose(rate_of(optimizer), 0.125, rtol=1e-6)

    def test_of_gains_it_is_the_geometric_mean(self):
        optimizer = AdaptiveStepSize(optimizers.SGD(0.1), ProductGains(np.log(2)))
        run(optimizer, [[1.0, 1.0], [1.0, 3.0]])
        np.testing.assert_allclose(rate_of(optimizer), 0.1 * 4, rtol=1e-6)

    def test_schedule(self):
        schedule = optimizers.schedules.PiecewiseConstantDecay([1], [0.1, 0.05])
        optimizer = AdaptiveStepSize(optimizers.SGD(schedule), ProductGains(0.0))
        np.testing.assert_allclose(
            run(optimizer, [[1.0, 1.0]] * 3), [[0.9] * 2, [0.8] * 2, [0.75] * 2], rtol=1e-6
        )


class TestTogether:
    @every_rule
    def test_in_per_weight(self, kind):
        """Each group learns its own step size; multipliers multiply it."""
        slow, fast = variables(slow=[1.0], fast=[1.0])
        rules = [fg.Rule("slow", learning_rate_multiplier=0.5)]
        inner = AdaptiveStepSize(optimizers.SGD(0.1), fixed(kind))
        apply(fg.PerWeight(inner, rules), [slow, fast], [[1.0], [1.0]])
        np.testing.assert_allclose([*values([slow, fast])], [[0.95], [0.9]], rtol=1e-6)

    def test_per_weight_reports_what_was_learned(self):
        """Rates of groups are effective ones; the base rate stays that of the whole."""
        model = mlp()
        rules = [fg.Rule("head", learning_rate_multiplier=0.5)]
        optimizer = fg.PerWeight(AdaptiveStepSize(optimizers.SGD(0.1)), rules)
        optimizer.build(model.weights)
        np.testing.assert_allclose(optimizer.effective_learning_rates(), [0.1, 0.1, 0.05, 0.05])
        for gradients in random_gradients(model.weights, 5):
            optimizer.apply(gradients, model.weights)
        expected = [rate_of(group.optimizer) for group in optimizer._partition.groups for _ in "kb"]
        assert expected[0] != expected[2] != 0.05
        np.testing.assert_allclose(optimizer.effective_learning_rates(), expected, rtol=1e-6)
        described = [row["effective_learning_rate"] for row in optimizer.describe(model).to_dicts()]
        assert described == optimizer.effective_learning_rates()
        np.testing.assert_allclose(rate_of(optimizer), 0.1)

    def test_in_per_weight_resumes_under_other_rules(self, tmp_path):
        rules = [fg.Rule("head/kernel", learning_rate_multiplier=1.0)]
        model = push(
            compiled(fg.PerWeight(AdaptiveStepSize(optimizers.Adam(0.01), SignGains()), groups()))
        )
        model.save_weights(tmp_path / "model.weights.h5")
        resumed = compiled(
            fg.PerWeight(AdaptiveStepSize(optimizers.Adam(0.01), SignGains()), rules)
        )
        resumed.optimizer.build(resumed.trainable_variables)
        resumed.load_weights(tmp_path / "model.weights.h5")
        for a, b in zip(values(push(resumed).weights), values(push(model).weights), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-6)

    @every_rule
    def test_round_per_weight(self, kind):
        """One step size for all; multipliers, transforms and held weights are kept."""
        a, b, c = variables(a=[1.0], b=[1.0], c=[1.0])
        inner = fg.PerWeight(
            optimizers.SGD(0.1, clipvalue=2.0),
            [
                fg.Rule("a", learning_rate_multiplier=0.5),
                fg.Rule("b", gradient=fg.gradients.Scale(2.0)),
                fg.Rule("c", trainable=False),
            ],
        )
        optimizer = AdaptiveStepSize(inner, fixed(kind))
        apply(optimizer, [a, b, c], [[5.0], [1.0], [1.0]])
        np.testing.assert_allclose(values([a, b, c]), [[0.9], [0.8], [1.0]], rtol=1e-6)

    @pytest.mark.parametrize("inside", [True, False])
    def test_weight_decay_with_per_weight(self, inside):
        """Of AdamW, which cannot be made without one: at the rate that the step has got."""
        a, b = variables(a=[2.0, 2.0], b=[2.0, 2.0])
        adamw = optimizers.AdamW(1.0, weight_decay=0.5)
        if inside:
            rules = [fg.Rule("b", weight_decay=0.0)]
            optimizer = fg.PerWeight(AdaptiveStepSize(adamw), rules)
        else:
            adamw.exclude_from_weight_decay(var_list=[b])
            optimizer = AdaptiveStepSize(fg.PerWeight(adamw))
        apply(optimizer, [a, b], [[1.0, 1.0], [1.0, 1.0]])
        step = 2e-3  # a thousandth of the norm
        np.testing.assert_allclose(values([a])[0], 2 - 2 * 0.5 * step - step, rtol=1e-6)
        np.testing.assert_allclose(values([b])[0], 2 - step, rtol=1e-6)

    @pytest.mark.full
    def test_round_per_weight_in_fit(self, tmp_path):
        optimizer = AdaptiveStepSize(fg.PerWeight(optimizers.Adam(1e-6), groups(0.1, 2.0)))
        model = train(compiled(optimizer, jit=True), epochs=20)
        assert rate_of(model.optimizer) > 1e-5
        model.save(tmp_path / "model.keras")
        loaded = keras.models.load_model(tmp_path / "model.keras")
        assert isinstance(loaded.optimizer, AdaptiveStepSize)
        for mine, theirs in zip(
            values(train(loaded).weights), values(train(model).weights), strict=True
        ):
            np.testing.assert_array_equal(mine, theirs)

    @pytest.mark.full
    @every_rule
    def test_loss_scaling_changes_nothing(self, kind):
        models = [mlp(), mlp()]
        plain = AdaptiveStepSize(optimizers.Adam(1e-3), kind())
        scaled = optimizers.LossScaleOptimizer(
            AdaptiveStepSize(optimizers.Adam(1e-3), kind()), initial_scale=8.0
        )
        for model, optimizer in zip(models, (plain, scaled), strict=True):
            model.compile(optimizer, "mse", jit_compile=BACKEND == "jax")
            train(model, epochs=3)
        for a, b in zip(*(values(model.weights) for model in models), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)

    @every_rule
    def test_accumulation(self, kind):
        """Two halves are a whole: step sizes are learned at real steps, from the mean gradient."""
        random = drawn.generator(5)
        halves = random.normal(size=(12, 2)) + 1
        whole = run(AdaptiveStepSize(optimizers.Adam(0.1), kind()), halves.reshape(6, 2, 2).mean(1))
        optimizer = AdaptiveStepSize(optimizers.Adam(0.1, gradient_accumulation_steps=2), kind())
        np.testing.assert_allclose(run(optimizer, halves)[1::2], whole, rtol=1e-5)

    def test_averaging_is_of_the_whole(self):
        optimizer = AdaptiveStepSize(
            optimizers.SGD(0.1, use_ema=True, ema_momentum=0.5), SignGains()
        )
        (weight,) = variables(w=[1.0])
        for _ in range(2):
            apply(optimizer, [weight], [[1.0]])
        now = values([weight])[0]
        optimizer.finalize_variable_values([weight])
        np.testing.assert_allclose(values([weight])[0], (0.9 + now) / 2, rtol=1e-6)

    @pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
    def test_state_is_precise_whatever_the_weights(self, dtype):
        weight = keras.Variable(np.ones(3), dtype=dtype, name="w")
        optimizer = AdaptiveStepSize(optimizers.SGD(1e-3))
        for _ in range(60):
            optimizer.apply([ops.cast(ops.ones(3), dtype)], [weight])
        assert keras.backend.standardize_dtype(weight.dtype) == dtype
        state = [*optimizer._first_slots, *optimizer._numbers]
        assert {keras.backend.standardize_dtype(v.dtype) for v in state} == {"float32"}
        assert float(ops.convert_to_numpy(ops.cast(weight, "float32"))[0]) < 0.9

    @pytest.mark.skipif(BACKEND != "tensorflow", reason="only TensorFlow has sparse gradients")
    @every_rule
    def test_sparse_gradients(self, kind):
        import tensorflow as tf

        sparse, full = variables(sparse=np.ones((4, 3)), full=np.ones((4, 3)))
        slices = tf.IndexedSlices(tf.ones((3, 3)), tf.constant([2, 0, 2]), tf.constant([4, 3]))
        both = [AdaptiveStepSize(optimizers.SGD(0.1), kind()) for _ in range(2)]
        for _ in range(3):
            both[0].apply([slices], [sparse])
            both[1].apply([tf.convert_to_tensor(slices)], [full])
        np.testing.assert_allclose(*values([sparse, full]), rtol=1e-6)
        assert np.abs(values([sparse])[0][2] - 1).max() > 1e-4


class TestRefused:
    @pytest.mark.parametrize(
        ("make", "reason"),
        [
            (lambda: None, "goes round an optimizer"),
            (lambda: optimizers.Lion(1e-3), "moves every weight by the same amount"),
            (lambda: optimizers.Lamb(1e-3), "sizes each step by the weight"),
            (lambda: optimizers.Adafactor(1e-3), "relative_step"),
            (lambda: optimizers.Ftrl(1e-3), "computes weights from all gradients"),
            (lambda: optimizers.ScheduleFreeAdamW(1e-3), "averages the weights"),
            (lambda: fg.optimizers.ExponentiatedGradient(1e-3), "multiplies weights"),
            (lambda: AdaptiveStepSize("adam"), "are learned already"),
            (lambda: fg.PerWeight(optimizers.Lion(1e-3)), "moves every weight by the same amount"),
            (lambda: fg.PerWeight(AdaptiveStepSize("adam")), "are learned already"),
            (lambda: optimizers.LossScaleOptimizer(optimizers.Adam()), "not a wrapper"),
            (lambda: fg.PerWeight("adam", [fg.Rule(".", learning_rate=0.1)]), "Put it inside"),
            (lambda: fg.PerWeight("adam", [fg.Rule(".", weight_decay=0.1)]), "Put it inside"),
            (lambda: fg.PerWeight("adam", nonfinite="skip"), "put AdaptiveStepSize inside"),
        ],
    )
    def test_optimizers(self, make, reason):
        with pytest.raises(ValueError, match=reason):
            AdaptiveStepSize(make())

    def test_an_optimizer_that_is_built(self):
        adam = optimizers.Adam()
        adam.build(mlp().weights)
        with pytest.raises(ValueError, match="has not been built"):
            AdaptiveStepSize(adam)

    @pytest.mark.parametrize(
        ("make", "message"),
        [
            (lambda: Scale(-1.0), "`gain_rate` should be a finite number >= 0"),
            (lambda: Scale(tolerance=-0.1), r"`tolerance` should be a number in \[0, 1\)"),
            (lambda: Scale(tolerance=1), r"`tolerance` should be a number in \[0, 1\)"),
            (lambda: Scale(first_step=0.0), "`first_step` should be a finite number > 0"),
            (lambda: Scale(max_change=0.0), "`max_change` should be a finite number > 0"),
            (lambda: ProductGains(np.inf), "`gain_rate` should be a finite number >= 0"),
            (lambda: SignGains(max_gain=1.0), "`max_gain` should be greater than 1"),
        ],
    )
    def test_numbers(self, make, message):
        with pytest.raises(ValueError, match=message):
            make()

    @pytest.mark.parametrize("rule", [Scale, 20.0, {}])
    def test_what_is_no_rule(self, rule):
        with pytest.raises(TypeError, match=r"such as finegrain\.optimizers\.Scale\(\)"):
            AdaptiveStepSize("sgd", rule)

    def test_unknown_arguments(self):
        with pytest.raises(TypeError, match="takes no arguments"):
            AdaptiveStepSize("sgd", momentum=0.9)

    def test_adafactor_with_a_rate_of_its_own(self):
        AdaptiveStepSize(optimizers.Adafactor(1e-3, relative_step=False))


@every_rule
def test_config(kind):
    optimizer = AdaptiveStepSize(
        optimizers.AdamW(0.25, weight_decay=0.1, clipnorm=2.0), kind(0.5), name="mine"
    )
    config = json.loads(json.dumps(keras.saving.serialize_keras_object(optimizer)))
    again = keras.saving.deserialize_keras_object(config)
    assert again.get_config() == optimizer.get_config()
    assert (again.weight_decay, again.clipnorm) == (0.1, 2.0)
    assert repr(again.rule) == repr(kind(0.5))
    assert again._inner.value.clipnorm is None
    assert again._inner.value.weight_decay is None
