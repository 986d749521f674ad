"""Decay policies: their formulas at any step, and what is refused."""

import math

import numpy as np
import pytest
from keras import ops

from finegrain.optimizers import AdamDecay, AdaptiveMoments, AdaXDecay, DecayPolicy, PowerDecay

STEPS = [1, 2, 3, 10, 1000, 50_000, 400_000, 887_272, 887_273, 7_098_182, 7_100_000, 10**8]


def exact(policy, step):
    """The weight in float64, without overflow."""
    if isinstance(policy, AdamDecay):
        return (1 - policy.beta_2) / -math.expm1(step * math.log(policy.beta_2))
    if isinstance(policy, AdaXDecay):
        growth = step * math.log1p(policy.beta_2)
        return policy.beta_2 / math.expm1(growth) if growth < 700 else 0.0
    return float(step) ** -policy.exponent


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize(
    "policy",
    [AdamDecay(0.999), AdamDecay(0.5), AdaXDecay(1e-4), AdaXDecay(1e-7), PowerDecay(0.8)],
    ids=repr,
)
def test_weight_at_any_step(policy, step):
    """Right to 1e-5 where float32 can hold it, and 0 beyond; between 0 and 1 always."""
    weight = float(ops.convert_to_numpy(policy(step)))
    np.testing.assert_allclose(weight, exact(policy, step), rtol=1e-5, atol=1e-37)
    assert 0 <= weight <= 1


@pytest.mark.parametrize("beta_2", [1e-2, 1e-4, 1e-5, 1e-6, 1e-7])
@pytest.mark.parametrize("step", [1, 2, 10, 1000])
def test_small_beta_2_does_not_cancel(beta_2, step):
    """(1 + beta_2)^t − 1 in float32 would be wrong by up to 19 %."""
    weight = float(ops.convert_to_numpy(AdaXDecay(beta_2)(step)))
    np.testing.assert_allclose(weight, exact(AdaXDecay(beta_2), step), rtol=1e-6)


def test_the_articles_beta_hats():
    """β̂ of Adam, AdaX and AdaFactor as the article writes them."""
    for t in (1, 2, 5, 100):
        adam = 0.999 * (1 - 0.999 ** (t - 1)) / (1 - 0.999**t)
        adax = 1 - 1e-4 / ((1 + 1e-4) ** t - 1)
        for policy, beta_hat in [
            (AdamDecay(0.999), adam),
            (AdaXDecay(1e-4), adax),
            (PowerDecay(0.8), 1 - t**-0.8),
        ]:
            np.testing.assert_allclose(
                1 - float(ops.convert_to_numpy(policy(t))), beta_hat, atol=2e-6
            )


def test_sum_of_the_weights():
    """AdaX's sum is finite, log-like up to 1 / beta_2; a power's is not: it goes on to grow."""
    steps = np.arange(1, 200_001, dtype="float32")
    adax = ops.convert_to_numpy(AdaXDecay(1e-4)(steps)).astype("float64").cumsum()
    power = ops.convert_to_numpy(PowerDecay(0.8)(steps)).astype("float64").cumsum()
    assert adax[-1] - adax[99_999] < 1e-4
    assert power[-1] - power[99_999] > 5


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: AdamDecay(1.0), "`beta_2` should be less than 1"),
        (lambda: AdamDecay(0.0), "`beta_2` should be a finite number > 0"),
        (lambda: AdamDecay(1e-4), r"Adam's `beta_2` should be at least 0\.1.*AdaXDecay\(1e-4\)"),
        (lambda: AdaXDecay(0.999), r"AdaX's `beta_2` .* at most 0\.1.*AdamDecay\(0\.999\)"),
        (lambda: AdaXDecay(1.1), r"AdaX's `beta_2` should be at most 0\.1"),
        (lambda: AdaXDecay(-1e-4), "`beta_2` should be a finite number > 0"),
        (lambda: PowerDecay(1.5), "`exponent` should be at most 1"),
        (lambda: PowerDecay(1e-4), r"`exponent` should be at least 0\.1.*Adafactor's 0\.8"),
        (lambda: PowerDecay("0.8"), "`exponent` should be a finite number > 0"),
    ],
)
def test_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(("beta_2", "settled"), [(1e-4, 46_054), (0.1, 48), (0.999, 6.65)])
def test_when_adax_is_settled(beta_2, settled):
    """All but 1 % of what the moment will ever be, at the border and beyond it."""
    assert math.log(100) / math.log1p(beta_2) == pytest.approx(settled, rel=0.01)


def test_the_border_of_adax():
    """The same by the weights: what is kept of the moment to the end."""
    beta_2, settled = 0.1, 48
    w = ops.convert_to_numpy(AdaXDecay(beta_2)(np.arange(1, 2_000, dtype="float32")))
    kept = np.prod(1 - w[settled:].astype("float64"))
    np.testing.assert_allclose(1 - kept, 0.01, atol=1e-3)


@pytest.mark.parametrize(
    ("kind", "config"),
    [
        (AdaXDecay, {"beta_2": 0.999}),
        (AdamDecay, {"beta_2": 1e-4}),
        (PowerDecay, {"exponent": 0.01}),
    ],
)
def test_what_the_first_release_saved(kind, config):
    """Numbers that are refused by now come back from files, with a warning; impossible ones not."""
    with pytest.warns(UserWarning, match="Restored as it was saved"):
        policy = kind.from_config(config)
    assert policy.get_config() == config
    assert 0 < float(policy(3)) < 1
    with pytest.raises(ValueError, match="should be"):
        kind.from_config(dict.fromkeys(config, 2.0))


@pytest.mark.parametrize(
    ("decay", "rule"),
    [
        (lambda t: 0.5 + 0 * t, "1 at step 1"),
        (lambda t: 2 - t, r"in \[0, 1\] at each step"),
        (lambda t: t, r"in \[0, 1\] at each step"),
        (lambda t: t * np.nan, "1 at step 1"),
    ],
)
def test_functions_that_give_no_weights(decay, rule):
    with pytest.raises(ValueError, match=rule):
        AdaptiveMoments(averaging=decay)


class Half(DecayPolicy):
    """A policy of a user's own, which forgets that the first weight is 1."""

    def __call__(self, step):
        return 0.5 + 0 * step

    def get_config(self):
        return {}


def test_policies_of_a_users_own_are_checked():
    with pytest.raises(ValueError, match="1 at step 1"):
        AdaptiveMoments(averaging=Half())


@pytest.mark.parametrize("decay", [0.999, "adam", AdamDecay])
def test_what_is_no_function(decay):
    with pytest.raises(TypeError, match="should be a policy, such as AdamDecay"):
        AdaptiveMoments(averaging=decay)


@pytest.mark.parametrize("decay", [lambda t: [1.0, 1.0], lambda t: "1", lambda t: t > 0])
def test_functions_that_give_no_scalars(decay):
    with pytest.raises(TypeError, match="and return a scalar"):
        AdaptiveMoments(averaging=decay)


def test_a_function_may_give_a_number():
    assert AdaptiveMoments(averaging=lambda t: 1.0).averaging(3) == 1.0
