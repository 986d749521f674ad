"""Extragradient: pairs of steps by hand, games that it solves, and what belongs to each half."""

import keras
import numpy as np
import pytest
from keras import ops, optimizers

import finegrain as fg
from finegrain.optimizers import Extragradient
from optimizers import games
from optimizers.contract import apply, assert_bit_equal, compiled, push, values, variables
from optimizers.games import LIPSCHITZ, AdamInFloat64, SGDInFloat64, fitted, played, radius

START = radius(np.concatenate(games.START))


def stepped(optimizer, gradients, start=(1.0,), **settings):
    """One weight after each step."""
    (weight,) = variables(w=list(start))
    for name, value in settings.items():
        setattr(weight, name, value)
    seen = []
    for gradient in gradients:
        apply(optimizer, [weight], [list(gradient)])
        seen.append(values([weight])[0].tolist())
    return np.array(seen)


class TestByHand:
    def test_two_pairs(self):
        """The second half of each goes from where the first began."""
        seen = stepped(Extragradient(optimizers.SGD(0.5)), [[1.0], [3.0], [-1.0], [2.0]])
        np.testing.assert_allclose(seen.ravel(), [0.5, -0.5, 0.0, -1.5])

    def test_momentum_advances_with_both_halves(self):
        """Velocities −0.1, −0.05 − 0.2, −0.125 + 0.1 and −0.0125 + 0.1."""
        optimizer = Extragradient(optimizers.SGD(0.1, momentum=0.5))
        seen = stepped(optimizer, [[1.0], [2.0], [-1.0], [-1.0]])
        np.testing.assert_allclose(seen.ravel(), [0.9, 0.75, 0.725, 0.8375], rtol=1e-6)

    def test_weight_decay_is_part_of_each_half(self):
        """A pair decays the weight once, from where it began."""
        optimizer = Extragradient(optimizers.SGD(0.5, weight_decay=0.2))
        seen = stepped(optimizer, [[1.0], [3.0]], (2.0,))
        np.testing.assert_allclose(seen.ravel(), [2 * 0.9 - 0.5, 2 * 0.9 - 1.5], rtol=1e-6)

    def test_a_constraint_projects_both_points(self):
        optimizer = Extragradient(optimizers.SGD(0.5))
        seen = stepped(optimizer, [[4.0], [1.0], [4.0]], constraint=keras.constraints.NonNeg())
        np.testing.assert_allclose(seen.ravel(), [0.0, 0.5, 0.0])

    def test_multiplied_weights(self):
        """Round exponentiated gradient it is the mirror prox method."""
        optimizer = Extragradient(fg.optimizers.ExponentiatedGradient(0.1))
        plain = stepped(fg.optimizers.ExponentiatedGradient(0.1), [[1.0]]).ravel()[0]
        seen = stepped(optimizer, [[1.0], [0.0], [1.0], [1.0]]).ravel()
        np.testing.assert_allclose(seen[0], plain, rtol=1e-6)
        assert seen[1] != seen[0]
        assert (seen > 0).all()

    def test_a_weight_without_gradient_goes_back(self):
        """Whichever half lacks it."""
        a, b = variables(a=[1.0], b=[1.0])
        optimizer = Extragradient(optimizers.SGD(0.5))
        optimizer.build([a, b])
        with pytest.warns(UserWarning, match="Gradients do not exist"):
            apply(optimizer, [a, b], [[1.0], None])
        with pytest.warns(UserWarning, match="Gradients do not exist"):
            apply(optimizer, [a, b], [None, [1.0]])
        np.testing.assert_allclose(values([a, b]), [[1.0], [0.5]])
        apply(optimizer, [a, b], [[1.0], [1.0]])
        np.testing.assert_allclose(values([a, b]), [[0.5], [0.0]])

    def test_accumulated_gradients(self):
        """Each half is a real step, by the mean of two gradients."""
        optimizer = Extragradient(optimizers.SGD(0.5, gradient_accumulation_steps=2))
        seen = stepped(optimizer, [[0.0], [2.0], [2.0], [4.0]])
        np.testing.assert_allclose(seen.ravel(), [1.0, 0.5, 0.5, -0.5])

    def test_a_schedule_counts_halves(self):
        schedule = optimizers.schedules.PiecewiseConstantDecay([0, 1], [1.0, 0.5, 0.25])
        optimizer = Extragradient(optimizers.SGD(schedule))
        seen = stepped(optimizer, [[1.0]] * 4)
        np.testing.assert_allclose(seen.ravel(), [0.0, 0.5, 0.25, 0.25])
        assert int(optimizer.iterations) == 4

    def test_the_learning_rate_can_be_set(self):
        optimizer = Extragradient(optimizers.SGD(1.0))
        optimizer.learning_rate = 0.5
        np.testing.assert_allclose(stepped(optimizer, [[1.0], [1.0]]).ravel(), [0.5, 0.5])
        assert float(ops.convert_to_numpy(optimizer.learning_rate)) == 0.5


class TestAverages:
    def test_of_the_weights_proper(self):
        """After 1 → (0.5) → −0.5 → (0) → −1.5 they are 1, −0.5, −0.5 and −0.75."""
        (weight,) = variables(w=[1.0])
        optimizer = Extragradient(optimizers.SGD(0.5, use_ema=True, ema_momentum=0.75))
        seen = []
        for gradient in [[1.0], [3.0], [-1.0], [2.0]]:
            apply(optimizer, [weight], [gradient])
            seen.append(values(optimizer._model_variables_moving_average)[0].item())
        np.testing.assert_allclose(seen, [1.0, -0.5, -0.5, -0.75])
        optimizer.finalize_variable_values([weight])
        np.testing.assert_allclose(values([weight]), [[-0.75]])

    def test_they_overwrite_at_the_end_of_a_pair(self):
        optimizer = Extragradient(
            optimizers.SGD(0.5, use_ema=True, ema_momentum=0.5, ema_overwrite_frequency=2)
        )
        seen = stepped(optimizer, [[1.0], [3.0], [-1.0], [2.0]])
        # The second pair would lead from −0.5 to −1.5.
        np.testing.assert_allclose(seen.ravel(), [0.5, -0.5, 0.0, -1.0])

    def test_not_within_one(self):
        sgd = optimizers.SGD(0.5, use_ema=True, ema_overwrite_frequency=3)
        with pytest.raises(ValueError, match=r"even, since steps go in pairs.*=3"):
            Extragradient(sgd)


class TestGames:
    @pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
    def test_bilinear(self, share):
        """It converges at every rate below 1/L, as the recurrence does, where descent spirals."""
        rate = share / LIPSCHITZ
        seen = played(Extragradient(optimizers.SGD(rate)), 60)
        expected = games.extragradient(SGDInFloat64(rate), 60)
        np.testing.assert_allclose(seen, expected, atol=1e-5)
        radii = [START, *map(radius, seen[1::2])]
        assert (np.diff(radii) < 0).all()
        spiral = played(optimizers.SGD(rate), 20)
        assert (np.diff([START, *map(radius, spiral)]) > 0).all()

    def test_far_enough_it_is_at_the_equilibrium(self):
        rate, least = 0.9 / LIPSCHITZ, np.linalg.svd(games.A)[1][-1]
        pairs = int(np.ceil(np.log(1e-4) / (0.5 * np.log(1 - (rate * least) ** 2 * 0.19))))
        seen = games.extragradient(SGDInFloat64(rate), 2 * pairs)
        assert radius(seen[-1]) < 1e-3
        # Too many steps to take one by one: `fit` takes some of them.
        np.testing.assert_allclose(
            fitted(Extragradient(optimizers.SGD(rate)), 60), seen[59], atol=1e-5
        )

    def test_dirac_gan(self):
        """Of two weights of one number each: descent leaves the circle that it should shrink."""
        one, start = np.array([[1.0]]), ([1.0], [1.0])
        leaves = radius(played(optimizers.SGD(0.1), 40, one, start)[-1])
        shrinks = radius(played(Extragradient(optimizers.SGD(0.1)), 60, one, start)[-1])
        np.testing.assert_allclose(leaves, np.sqrt(2) * 1.01**20, rtol=1e-4)
        np.testing.assert_allclose(shrinks, np.sqrt(2) * (1 - 0.01 + 0.0001) ** 15, rtol=1e-4)

    def test_extra_adam(self):
        """Algorithm 4: moments and their corrections advance with both halves."""
        seen = played(Extragradient(optimizers.Adam(0.05, beta_1=0.5)), 40)
        expected = games.extragradient(AdamInFloat64(0.05, 0.5), 40)
        np.testing.assert_allclose(seen, expected, atol=1e-4)
        assert np.abs(np.diff(expected, axis=0)).max() > 0.01

    def test_in_fit(self):
        """Compiled, with one loss and a reversed gradient."""
        rate = 0.5 / LIPSCHITZ
        expected = games.extragradient(SGDInFloat64(rate), 40)
        point = fitted(Extragradient(optimizers.SGD(rate)), 40)
        np.testing.assert_allclose(point, expected[-1], atol=1e-5)
        assert radius(point) < 0.9 * START


class TestWithinAPair:
    def test_it_tells_where_it_is(self):
        (weight,) = variables(w=[1.0])
        optimizer = Extragradient("sgd")
        seen = [optimizer.is_looking_ahead]
        for _ in range(3):
            apply(optimizer, [weight], [[1.0]])
            seen.append(optimizer.is_looking_ahead)
        assert seen == [False, True, False, True]

    @pytest.mark.parametrize("steps", [2, 3])
    @pytest.mark.parametrize("rules", [False, True])
    def test_a_file_goes_on(self, steps, rules, tmp_path):
        """Also one saved between the halves, and round rules."""
        adam = optimizers.Adam(0.05)
        inner = fg.PerWeight(adam, [fg.Rule("head", learning_rate_multiplier=2.0)])
        model = push(compiled(Extragradient(inner if rules else adam)), steps)
        model.save(tmp_path / "model.keras")
        loaded = keras.models.load_model(tmp_path / "model.keras")
        assert loaded.optimizer.is_looking_ahead == (steps == 3)
        assert_bit_equal(push(loaded), push(model))

    def test_a_dropped_second_half_is_taken_again(self):
        """What is not finite changes neither point, and the pair waits."""
        (weight,) = variables(w=[1.0])
        optimizer = fg.PerWeight(Extragradient(optimizers.SGD(0.5)), nonfinite="skip")
        for gradient in ([1.0], [np.nan], [3.0]):
            apply(optimizer, [weight], [gradient])
        np.testing.assert_allclose(values([weight]), [[-0.5]])


class TestRules:
    @pytest.mark.parametrize("round_rules", [False, True])
    def test_both_ways(self, round_rules):
        """Multipliers multiply both halves, and held weights stay."""
        players = variables(slow=[1.0], fast=[1.0], held=[1.0])
        rules = [
            fg.Rule("slow", learning_rate_multiplier=0.5),
            fg.Rule("held", trainable=False),
        ]
        if round_rules:
            optimizer = Extragradient(fg.PerWeight(optimizers.SGD(0.5), rules))
        else:
            optimizer = fg.PerWeight(Extragradient(optimizers.SGD(0.5)), rules)
        for gradient in ([1.0], [3.0]):
            apply(optimizer, players, [gradient] * 3)
        np.testing.assert_allclose(values(players), [[0.25], [-0.5], [1.0]])


class TestRefusals:
    @pytest.mark.parametrize(
        ("make", "reason"),
        [
            (lambda: Extragradient("sgd"), "pairs already"),
            (lambda: optimizers.Ftrl(0.1), "from all gradients"),
            (lambda: optimizers.ScheduleFreeAdamW(0.1), "averages of its own"),
            (lambda: fg.PerWeight(optimizers.Ftrl(0.1)), "from all gradients"),
            (lambda: fg.PerWeight("sgd", nonfinite="skip"), "put Extragradient inside"),
            (lambda: optimizers.LossScaleOptimizer(optimizers.SGD(0.1)), "not a wrapper"),
            (lambda: None, "goes round an optimizer"),
        ],
    )
    def test_what_cannot_be_inside(self, make, reason):
        with pytest.raises(ValueError, match=reason):
            Extragradient(make())

    def test_built(self):
        sgd = optimizers.SGD(0.1)
        sgd.build(variables(w=[1.0]))
        with pytest.raises(ValueError, match="not been built"):
            Extragradient(sgd)

    def test_unknown_arguments(self):
        with pytest.raises(TypeError, match=r"takes no arguments \['momentum'\]"):
            Extragradient("sgd", momentum=0.9)

    def test_a_state_of_other_weights(self):
        """It is refused, where it would be put into the wrong weights."""
        optimizer, other = (Extragradient(fg.PerWeight("sgd")) for _ in "ab")
        optimizer.build(variables(w=[1.0]))
        other.build(variables(w=[1.0, 2.0]))
        store = {}
        other.save_own_variables(store)
        with pytest.raises(ValueError, match="that of other weights"):
            optimizer.load_own_variables(store)


def test_weight_decay_follows_the_optimizer_inside():
    """There is one number, and `exclude_from_weight_decay` is heeded."""
    kernel, bias = variables(kernel=[2.0], bias=[2.0])
    optimizer = Extragradient(optimizers.AdamW(0.5, weight_decay=0.5))
    optimizer.exclude_from_weight_decay(var_names=["bias"])
    optimizer.weight_decay = 0.2
    for _ in range(2):
        apply(optimizer, [kernel, bias], [[0.0], [0.0]])
    np.testing.assert_allclose(values([kernel, bias]), [[1.8], [2.0]], rtol=1e-6)
    assert optimizer.get_config()["weight_decay"] == 0.2
