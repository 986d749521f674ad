"""Optimistic: its steps by hand, games that it solves, and what it goes together with."""

import keras
import numpy as np
import pytest
from keras import ops, optimizers

import finegrain as fg
from finegrain.optimizers import Optimistic
from optimizers import games
from optimizers.contract import apply, assert_bit_equal, compiled, push, values, variables
from optimizers.games import LIPSCHITZ, AdamInFloat64, SGDInFloat64, fitted, played, radius

START = radius(np.concatenate(games.START))


def stepped(optimizer, gradients, start=(1.0,)):
    """One weight after each step."""
    (weight,) = variables(w=list(start))
    seen = []
    for gradient in gradients:
        apply(optimizer, [weight], [list(gradient)])
        seen.append(values([weight])[0].tolist())
    return np.array(seen)


class TestByHand:
    def test_three_steps(self):
        """The first is plain; then η (2 g_t − g_{t−1})."""
        seen = stepped(Optimistic(optimizers.SGD(0.5)), [[1.0], [3.0], [-1.0]])
        np.testing.assert_allclose(seen.ravel(), [0.5, -2.0, 0.5])

    def test_equal_gradients_are_plain_descent(self):
        seen = stepped(Optimistic(optimizers.SGD(0.25)), [[1.0]] * 4)
        np.testing.assert_allclose(seen.ravel(), [0.75, 0.5, 0.25, 0.0])

    def test_weight_decay_is_part_of_the_step(self):
        """Steps −0.5 · (1 + 0.2 · 2) and, from 1.3, −0.5 · (1 + 0.2 · 1.3), and their change."""
        seen = stepped(Optimistic(optimizers.SGD(0.5, weight_decay=0.2)), [[1.0], [1.0]], (2.0,))
        np.testing.assert_allclose(seen.ravel(), [1.3, 1.3 - 2 * 0.63 + 0.7], rtol=1e-6)

    def test_a_weight_without_gradient_does_not_move(self):
        """Its last step waits."""
        a, b = variables(a=[1.0], b=[1.0])
        optimizer = Optimistic(optimizers.SGD(0.5))
        apply(optimizer, [a, b], [[1.0], [1.0]])
        with pytest.warns(UserWarning, match="Gradients do not exist"):
            apply(optimizer, [a, b], [None, [1.0]])
        apply(optimizer, [a, b], [[2.0], [1.0]])
        np.testing.assert_allclose(values([a, b]), [[0.5 - 1.5], [-0.5]])

    def test_accumulated_gradients(self):
        optimizer = Optimistic(optimizers.SGD(0.5, gradient_accumulation_steps=2))
        seen = stepped(optimizer, [[0.0], [2.0], [2.0], [4.0]])
        np.testing.assert_allclose(seen.ravel(), [1.0, 0.5, 0.5, -2.0])

    def test_low_precision(self):
        """The last step is kept in float32."""
        weight = keras.Variable([1.0], dtype="bfloat16", name="w")
        optimizer = Optimistic(optimizers.SGD(0.5))
        for gradient in (1.0, 3.0):
            optimizer.apply([ops.full((1,), gradient, "bfloat16")], [weight])
        assert float(ops.convert_to_numpy(ops.cast(weight, "float32"))[0]) == -2.0
        assert keras.backend.standardize_dtype(optimizer._last_steps[0].dtype) == "float32"


class TestGames:
    @pytest.mark.parametrize("share", [0.1, 0.5])
    def test_bilinear(self, share):
        """It converges, as the recurrence does, where descent spirals."""
        rate = share / LIPSCHITZ
        seen = played(Optimistic(optimizers.SGD(rate)), 80)
        expected = games.optimistic(SGDInFloat64(rate), 80)
        np.testing.assert_allclose(seen, expected, atol=1e-5)
        assert radius(seen[-1]) < 0.9 * START
        assert radius(played(optimizers.SGD(rate), 20)[-1]) > START

    def test_dirac_gan(self):
        one, start = np.array([[1.0]]), ([1.0], [1.0])
        seen = played(Optimistic(optimizers.SGD(0.1)), 60, one, start)
        expected = games.optimistic(SGDInFloat64(0.1), 60, lambda at: games.field(at, one), start)
        np.testing.assert_allclose(seen, expected, atol=1e-5)
        assert radius(seen[-1]) < 0.8 * radius(np.concatenate(start))

    def test_optimistic_adam(self):
        seen = played(Optimistic(optimizers.Adam(0.02, beta_1=0.5)), 40)
        expected = games.optimistic(AdamInFloat64(0.02, 0.5), 40)
        np.testing.assert_allclose(seen, expected, atol=1e-4)

    def test_in_fit(self):
        rate = 0.5 / LIPSCHITZ
        expected = games.optimistic(SGDInFloat64(rate), 40)
        point = fitted(Optimistic(optimizers.SGD(rate)), 40)
        np.testing.assert_allclose(point, expected[-1], atol=1e-5)


@pytest.mark.parametrize("rules", [False, True])
def test_a_file_goes_on(rules, tmp_path):
    adam = optimizers.Adam(0.05)
    inner = fg.PerWeight(adam, [fg.Rule("head", learning_rate_multiplier=2.0)])
    model = push(compiled(Optimistic(inner if rules else adam)), 3)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert_bit_equal(push(loaded), push(model))


@pytest.mark.parametrize("round_rules", [False, True])
def test_rules_both_ways(round_rules):
    players = variables(slow=[1.0], fast=[1.0], held=[1.0])
    rules = [fg.Rule("slow", learning_rate_multiplier=0.5), fg.Rule("held", trainable=False)]
    if round_rules:
        optimizer = Optimistic(fg.PerWeight(optimizers.SGD(0.5), rules))
    else:
        optimizer = fg.PerWeight(Optimistic(optimizers.SGD(0.5)), rules)
    for gradient in ([1.0], [3.0]):
        apply(optimizer, players, [gradient] * 3)
    np.testing.assert_allclose(values(players), [[-0.5], [-2.0], [1.0]])


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: Optimistic("sgd"), "optimistic already"),
        (lambda: optimizers.Ftrl(0.1), "from all gradients"),
        (lambda: optimizers.ScheduleFreeAdamW(0.1), "averages of its own"),
        (lambda: fg.optimizers.ExponentiatedGradient(0.1), "might turn negative"),
    ],
)
def test_what_cannot_be_inside(make, reason):
    with pytest.raises(ValueError, match=reason):
        Optimistic(make())
