"""Policies of averaging squared gradients: what the newest one weighs at each step."""

from __future__ import annotations

import math
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops

from finegrain._backend import backend
from finegrain._checks import checked_positive, finite

# Beyond these no average is left. AdaX's moment is settled to 99 % after 48 steps; of Adam's,
# and of a power's at its millionth step, 9 tenths and 1 fourth are the newest gradient's.
LARGEST_ADAX_BETA_2 = 0.1
SMALLEST_ADAM_BETA_2 = 0.1
SMALLEST_EXPONENT = 0.1
LARGEST_MIN_WEIGHT = 0.9

CHECKED_STEPS = (1, 2, 3, 10, 100, 10_000, 887_273, 10_000_000)


class NotMeantError(ValueError):
    """A number that the formula allows, but that nobody can mean.

    The first release accepted it, so it is still restored from a file, with a warning.
    """


class DecayPolicy(ABC):
    r"""A function of the step that gives the weight of the step's squared gradient.

    $$\hat v_t = \hat v_{t-1} + w_t (g_t^2 - \hat v_{t-1}), \qquad w_t = 1 - \hat\beta_t.$$

    With $w_1 = 1$ no other correction is needed: the first squared gradient is the first moment.

    Example:
    >>> from finegrain.optimizers import AdamDecay, DecayPolicy
    >>> isinstance(AdamDecay(0.999), DecayPolicy)
    True
    """

    @abstractmethod
    def __call__(self, step: Any) -> Any:
        """Compute the weight $w_t$ in [0, 1], in float32, of the step or steps $t$, from 1 on."""

    @abstractmethod
    def get_config(self) -> dict[str, Any]:
        """Return the arguments that make an equal policy."""

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> DecayPolicy:
        """Make the policy that `get_config` describes."""
        return cls(**config)

    def __repr__(self) -> str:
        arguments = ", ".join(f"{key}={value!r}" for key, value in self.get_config().items())
        return f"{type(self).__name__}({arguments})"


@keras.saving.register_keras_serializable(package="finegrain")
class AdamDecay(DecayPolicy):
    r"""Adam's policy: an exponential average, with the bias correction in the weights.

    $$w_t = \frac{1 - \beta_2}{1 - \beta_2^t}.$$

    It falls from 1 to $1 - \beta_2$ and stays there.

    Args:
        beta_2: A number in [0.1, 1), near 1: it remembers $1 / (1 - \beta_2)$ steps. (Below 0.1
            more than nine tenths would be the newest squared gradient: no average.)

    Raises:
        ValueError: if it is out of range.

    Example:
    >>> from finegrain.optimizers import AdamDecay
    >>> [round(float(AdamDecay(0.5)(t)), 4) for t in (1, 2, 3)]
    [1.0, 0.6667, 0.5714]

    References:
        Diederik P. Kingma and Jimmy Ba, Adam: A Method for Stochastic Optimization, 2015,
        https://arxiv.org/abs/1412.6980
    """

    def __init__(self, beta_2: float = 0.999) -> None:
        self.beta_2 = checked_positive("beta_2", beta_2)
        if self.beta_2 >= 1:
            raise ValueError(f"`beta_2` should be less than 1. Received: beta_2={beta_2!r}")
        if self.beta_2 < SMALLEST_ADAM_BETA_2:
            raise NotMeantError(
                f"Adam's `beta_2` should be at least {SMALLEST_ADAM_BETA_2}, near 1, such as "
                "0.999: so small, the moment would be little but the newest squared gradient. The "
                "small number is that of AdaX: `AdaX(beta_2=1e-4)` or `AdaXDecay(1e-4)`. "
                f"Received: beta_2={beta_2!r}"
            )

    def __call__(self, step: Any) -> Any:
        """Compute the weight $w_t$ of the step or steps $t$, in float32."""
        k = math.log(self.beta_2)
        return _at_most_one(math.expm1(k) / ops.expm1(k * _float(step)))

    def get_config(self) -> dict[str, Any]:
        """Return the arguments that make an equal policy."""
        return {"beta_2": self.beta_2}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> AdamDecay:
        """Make the policy that `get_config` describes."""
        return _restored(cls, config)


@keras.saving.register_keras_serializable(package="finegrain")
class AdaXDecay(DecayPolicy):
    r"""AdaX's policy: a memory that new gradients change less and less.

    $$w_t = \frac{\beta_2}{(1 + \beta_2)^t - 1}.$$

    It first falls from 1 as $1 / t$ does, then exponentially, from about $1 / \beta_2$ steps on:
    the sum of all weights is finite, and 99 % of what the moment will ever be is settled after
    $4.6 / \beta_2$ steps.

    Args:
        beta_2: A number > 0, small beside 1 and at most 0.1: what is added to 1, where Adam's is
            taken from 1. With 0.1 all but 1 % of the moment is settled for ever after 48
            steps; with 0.999, Adam's, it would be after 7.

    Raises:
        ValueError: if it is out of range.

    Example:
    >>> from finegrain.optimizers import AdaXDecay
    >>> [round(float(AdaXDecay(1e-4)(t)), 6) for t in (1, 2, 1000, 100_000)]
    [1.0, 0.499975, 0.000951, 0.0]

    Notes:
        The quotient is computed as $\mathrm{expm1}(k)\, e^{-kt} / (-\mathrm{expm1}(-kt))$ with
        $k = \log(1 + \beta_2)$, which neither overflows for large $t$ nor cancels for small ones.
        With $\beta_2' = \beta^{-(1 - \beta)} - 1$ it is AdamNX's policy, too.

    References:
        Wenjie Li, Zhaoyang Zhang, Xinjiang Wang and Ping Luo, AdaX: Adaptive Gradient Descent with
        Exponential Long Term Memory, 2020, https://arxiv.org/abs/2004.09740
        Su Jianlin, A brief analysis of the AdaX optimizer, 2020, https://kexue.fm/archives/7387
    """

    def __init__(self, beta_2: float = 1e-4) -> None:
        self.beta_2 = checked_positive("beta_2", beta_2)
        if self.beta_2 > LARGEST_ADAX_BETA_2:
            kind = NotMeantError if self.beta_2 <= 1 else ValueError
            raise kind(
                f"AdaX's `beta_2` should be at most {LARGEST_ADAX_BETA_2}: it is the small number "
                "that is added to 1, such as 1e-4, and after 4.6 / beta_2 steps the second moment "
                "listens to nothing new. What Adam calls beta_2=0.999 is `AdamDecay(0.999)`, the "
                f"policy of `AdaptiveMoments`. Received: beta_2={beta_2!r}"
            )

    def __call__(self, step: Any) -> Any:
        """Compute the weight $w_t$ of the step or steps $t$, in float32."""
        k = math.log1p(self.beta_2)
        exponent = -k * _float(step)
        return _at_most_one(-self.beta_2 * ops.exp(exponent) / ops.expm1(exponent))

    def get_config(self) -> dict[str, Any]:
        """Return the arguments that make an equal policy."""
        return {"beta_2": self.beta_2}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> AdaXDecay:
        """Make the policy that `get_config` describes."""
        return _restored(cls, config)


@keras.saving.register_keras_serializable(package="finegrain")
class PowerDecay(DecayPolicy):
    r"""Adafactor's policy: a power of the step.

    $$w_t = t^{-c}.$$

    With $c = 1$ the moment is the mean of all squared gradients. With $c \le 1$ the sum of the
    weights is infinite: however late, the moment still follows the gradients.

    Args:
        exponent: The number $c$ in [0.1, 1]: at step $t$ it remembers some $t^c$ steps.

    Raises:
        ValueError: if it is out of range.

    Example:
    >>> from finegrain.optimizers import PowerDecay
    >>> [round(float(PowerDecay(0.5)(t)), 4) for t in (1, 4, 100)]
    [1.0, 0.5, 0.1]

    References:
        Noam Shazeer and Mitchell Stern, Adafactor: Adaptive Learning Rates with Sublinear Memory
        Cost, 2018, https://arxiv.org/abs/1804.04235
    """

    def __init__(self, exponent: float = 0.8) -> None:
        self.exponent = checked_positive("exponent", exponent)
        if self.exponent > 1:
            raise ValueError(
                "`exponent` should be at most 1: beyond, the moment would soon listen to nothing. "
                f"Received: exponent={exponent!r}"
            )
        if self.exponent < SMALLEST_EXPONENT:
            raise NotMeantError(
                f"`exponent` should be at least {SMALLEST_EXPONENT}, such as Adafactor's 0.8: at "
                "step t the moment remembers t ** exponent steps, so few even after a million. "
                f"Received: exponent={exponent!r}"
            )

    def __call__(self, step: Any) -> Any:
        """Compute the weight $w_t$ of the step or steps $t$, in float32."""
        return ops.power(_float(step), -self.exponent)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments that make an equal policy."""
        return {"exponent": self.exponent}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> PowerDecay:
        """Make the policy that `get_config` describes."""
        return _restored(cls, config)


def _restored(kind: type[Any], config: dict[str, Any]) -> Any:
    """Restore a policy from its config, with a warning if its numbers are refused today."""
    try:
        return kind(**config)
    except NotMeantError as error:
        warn_of(error)
        policy = kind()
        vars(policy).update({name: float(value) for name, value in config.items()})
        return policy


def warn_of(error: NotMeantError) -> None:
    """Warn that a number restored from a file is refused today, and say why."""
    warnings.warn(f"Restored as it was saved, though not to be advised: {error}", stacklevel=3)


def checked_policy(averaging: Any) -> Callable[[Any], Any]:
    """Return `averaging`, if it behaves as a policy at some steps from 1 to ten million."""
    if not callable(averaging) or isinstance(averaging, type):
        raise TypeError(
            "`averaging` should be a policy, such as AdamDecay(0.999), or a function of the step "
            f"that returns a weight in [0, 1]. Received: averaging={averaging!r}"
        )
    for step in CHECKED_STEPS:
        weight = _value(averaging, step)
        if weight is None:
            break
        if not 0 <= weight <= 1 or (step == 1 and abs(weight - 1) > 1e-6):
            rule = "1 at step 1" if step == 1 else "in [0, 1] at each step"
            raise ValueError(
                "`averaging` should give the weight of the step's squared gradient, which is "
                f"{rule}. Received: averaging={averaging!r}, which gives {weight!r} at step {step}"
            )
    return averaging


def checked_min_weight(min_weight: Any) -> float:
    """Return `min_weight` as a float, if it is a number in [0, 0.9]; else raise an error."""
    number = finite(min_weight)
    if number is None or not 0 <= number <= 1:
        raise ValueError(
            "`min_weight` should be a number in [0, 1], such as 1e-5. "
            f"Received: min_weight={min_weight!r}"
        )
    if number > LARGEST_MIN_WEIGHT:
        raise NotMeantError(
            f"`min_weight` should be at most {LARGEST_MIN_WEIGHT}: it is what the newest squared "
            "gradient weighs at least, such as 1e-5, and not what is kept of the past. "
            f"Received: min_weight={min_weight!r}"
        )
    return number


def _value(averaging: Callable[[Any], Any], step: int) -> float | None:
    """Compute the weight at `step`, or return `None` while JAX traces a compiled function."""
    with backend.outside_of_graphs():
        weight = averaging(_float(step))
        if backend.is_compiling(weight):
            return None
        number = np.asarray(ops.convert_to_numpy(weight))
        if number.shape != () or number.dtype.kind not in "fiu":
            raise TypeError(
                "`averaging` should take the step, a float32 scalar, and return a scalar. "
                f"Received: averaging={averaging!r}, which gives {weight!r} at step {step}"
            )
        return float(number)


def _at_most_one(weight: Any) -> Any:
    # Rounding may carry the first one past 1.
    return ops.minimum(weight, 1.0)


def _float(step: Any) -> Any:
    return ops.cast(step, "float32")
