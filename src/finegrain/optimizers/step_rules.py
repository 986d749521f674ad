"""The rules by which AdaptiveStepSize learns how large steps should be."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

import keras
from keras import ops

from finegrain._backend import backend
from finegrain._checks import checked_positive, finite

Tensors = Sequence[Any]

# Bound of the exponent: exp of more overflows float32.
LARGEST = 80.0
TINY = 1e-30
# How much of an average a step keeps: of gradients and slopes, of squared slopes and of squared
# gradients.
SMOOTHING, SPREAD, USUAL = 0.9, 0.99, 0.98
# A scale changes by at most gain_rate / (t + DELAY), but for a spike: more than so many times the
# usual gradient.
DELAY, SPIKE = 25.0, 2.25
# The step s counts in the way like (s / t) ** FADING, once t is beyond the first ones.
FADING, FIRST_ONES = 1.5, 15.0


class Step(NamedTuple):
    """What a rule is told of a step: for each weight a tensor, or a variable of the rule's own."""

    taken: Any
    """The number of steps taken before."""
    rate: Any
    """The learning rate."""
    gradients: Tensors
    steps: Tensors
    """The steps of the optimizer at learning rate 1."""
    weights: Tensors
    """The weights before the step."""
    numbers: Tensors
    """The rule's scalars, which it assigns to."""
    first: Tensors
    """The rule's first slot, which it assigns to."""
    second: Tensors
    """The rule's second slot, which it assigns to; empty if it has none."""


class StepSizeRule(ABC):
    r"""A rule for the size $\eta \nu_{t+1}$ of an optimizer's steps $\delta_t$ at learning rate 1.

    A rule has the numbers that its user chose, but no state: the optimizer keeps that, and
    creates it under the names below.

    Attributes:
        numbers: The names of its scalars, which begin with 0.
        slots: The names of its state for each weight, two at most, which begins with 0.

    Example:
    >>> import finegrain as fg
    >>> rule = fg.optimizers.SignGains(max_gain=10.0)
    >>> isinstance(rule, fg.optimizers.StepSizeRule), rule
    (True, SignGains(gain_rate=0.01, max_gain=10.0))
    """

    numbers: ClassVar[tuple[str, ...]] = ()
    slots: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def multiplier(self, numbers: Tensors, first: Tensors) -> Any:
        """Compute the overall factor of the learning rate.

        Args:
            numbers: The rule's scalars, float32, in the order of `numbers`.
            first: Its first slot for each weight, shaped as the weight; `None` for one without.

        Returns:
            A scalar tensor ≥ 0.
        """

    @abstractmethod
    def move(self, step: Step) -> list[Any]:
        """Compute the change of each weight, and update the state.

        Args:
            step: The gradients, the optimizer's steps at rate 1, the weights and the rule's state.

        Returns:
            For each weight a tensor of its shape, which is added to it.
        """

    @abstractmethod
    def get_config(self) -> dict[str, Any]:
        """Return the arguments that make an equal rule."""

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> StepSizeRule:
        """Make the rule that `get_config` describes."""
        return cls(**config)

    def __repr__(self) -> str:
        arguments = ", ".join(f"{key}={value!r}" for key, value in self.get_config().items())
        return f"{type(self).__name__}({arguments})"


class Gains(StepSizeRule):
    """One size for each number of each weight: its log is the first slot.

    Args:
        largest: The bound of the logs.
    """

    def __init__(self, largest: float) -> None:
        self.largest = largest

    def multiplier(self, numbers: Tensors, first: Tensors) -> Any:
        """Compute the geometric mean of all gains, a scalar."""
        gains = [gain for gain in first if gain is not None]
        count = sum(math.prod(gain.shape) for gain in gains)
        return ops.exp(backend.lists.total(backend.lists.values(gains)) / count)

    def move(self, step: Step) -> list[Any]:
        """Compute the change of each weight, in the weight's shape, after updating the gains."""
        lists = backend.lists
        grown = lists.sums(lists.values(step.first), self.growth(step))
        logs = lists.clipped(grown, self.largest)
        lists.assign(step.first, logs)
        sizes = lists.multiples(lists.exponentials(logs), step.rate)
        return lists.products(sizes, step.steps)

    @abstractmethod
    def growth(self, step: Step) -> list[Any]:
        """Compute how much the logs of the gains grow, and assign the second slot.

        Args:
            step: As in `move`.

        Returns:
            For each weight a tensor of its shape.
        """


@keras.saving.register_keras_serializable(package="finegrain.optimizers")
class ProductGains(Gains):
    r"""A size for each number, from the product of successive gradients: the article's formula.

    $$\nu_{t+1} = \nu_t \odot \exp(\gamma\, g_{t-1} \odot g_t), \qquad \nu_1 = 1.$$

    Args:
        gain_rate: $\gamma \ge 0$. It has the unit of one by a squared gradient: it fits one
            problem.

    Raises:
        ValueError: if it is negative or not finite.

    Example:
    >>> import keras, finegrain as fg
    >>> weight = keras.Variable([1.0, 1.0], name="w")
    >>> optimizer = fg.optimizers.AdaptiveStepSize(
    ...     keras.optimizers.SGD(0.1), fg.optimizers.ProductGains(0.5))
    >>> for gradient in ([1.0, 1.0], [2.0, -2.0]):
    ...     optimizer.apply([keras.ops.convert_to_tensor(gradient)], [weight])
    >>> print(keras.ops.convert_to_numpy(weight).round(4))
    [0.3563 0.9736]

    References:
        Su Jianlin, Exponentiated gradient descent + meta-learning = adaptive learning rates, 2022,
        https://kexue.fm/archives/8968
    """

    slots = ("log_gain", "previous_gradient")

    def __init__(self, gain_rate: float = 0.01) -> None:
        super().__init__(LARGEST)
        self.gain_rate = checked_positive("gain_rate", gain_rate, zero=True)

    def growth(self, step: Step) -> list[Any]:
        """Compute γ times the product of the last two gradients, and store the new one."""
        lists = backend.lists
        products = lists.products(lists.values(step.second), step.gradients)
        lists.assign(step.second, step.gradients)
        return lists.multiples(products, self.gain_rate)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments that make an equal rule."""
        return {"gain_rate": self.gain_rate}


@keras.saving.register_keras_serializable(package="finegrain.optimizers")
class SignGains(Gains):
    r"""A bounded size for each number, from whether the gradient has the sign of past ones.

    With $\bar g$, the average of past gradients, which keeps 0.9 of itself at each step,

    $$\nu_{t+1} = \operatorname{clip}\bigl(\nu_t \odot \exp(\gamma \operatorname{sign}(\bar g_{t-1})
      \odot \operatorname{sign}(g_t)),\ 1/\text{max\_gain},\ \text{max\_gain}\bigr).$$

    Args:
        gain_rate: $\gamma \ge 0$.
        max_gain: A number > 1.

    Raises:
        ValueError: if an argument is out of range.

    Example:
    >>> import keras, finegrain as fg
    >>> weight = keras.Variable([1.0, 1.0], name="w")
    >>> optimizer = fg.optimizers.AdaptiveStepSize(
    ...     keras.optimizers.SGD(0.1), fg.optimizers.SignGains(0.5))
    >>> for gradient in ([1.0, 1.0], [2.0, -2.0]):
    ...     optimizer.apply([keras.ops.convert_to_tensor(gradient)], [weight])
    >>> print(keras.ops.convert_to_numpy(weight).round(4))
    [0.5703 1.0213]

    References:
        Ehsan Amid, Rohan Anil, Christopher Fifty and Manfred K. Warmuth, Step-size Adaptation Using
        Exponentiated Gradient Updates, 2022, https://arxiv.org/abs/2202.00145
    """

    slots = ("log_gain", "mean_gradient")

    def __init__(self, gain_rate: float = 0.01, max_gain: float = 100.0) -> None:
        self.gain_rate = checked_positive("gain_rate", gain_rate, zero=True)
        self.max_gain = checked_positive("max_gain", max_gain)
        if self.max_gain <= 1:
            raise ValueError(
                f"`max_gain` should be greater than 1. Received: max_gain={max_gain!r}"
            )
        super().__init__(min(math.log(self.max_gain), LARGEST))

    def growth(self, step: Step) -> list[Any]:
        """Compute γ where signs agree, −γ where they differ, else 0, and update the average."""
        lists = backend.lists
        signs = lists.signs(lists.values(step.second)), lists.signs(step.gradients)
        lists.blend(step.second, step.gradients, SMOOTHING, 1 - SMOOTHING)
        return lists.multiples(lists.products(*signs), self.gain_rate)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments that make an equal rule."""
        return {"gain_rate": self.gain_rate, "max_gain": self.max_gain}


@keras.saving.register_keras_serializable(package="finegrain.optimizers")
class Scale(StepSizeRule):
    r"""One size for all weights, for training from a learning rate that nobody tuned.

    It grows while gradients agree with the way that the weights have come since the start. With
    this way $p_t = \bigl(1 - \tfrac{1.5}{t + 15}\bigr)(p_{t-1} + \delta_{t-1})$, in which step $k$
    counts about like $(k/t)^{1.5}$, and the slope $d_t = -\langle g_t, p_t \rangle / |p_t|$, over
    all weights together,

    $$\log \nu_{t+1} = \log \nu_t + \frac{\gamma}{t + 25} \operatorname{clip}\Bigl(
      \frac{\langle d \rangle}{\sqrt{\langle d^2 \rangle}} +
      \kappa \Bigl(1 - \frac{\langle d^2 \rangle}{\langle |g|^2 \rangle}\Bigr),\ -1,\ 1\Bigr).$$

    The first term says how much the loss would fall, had the steps so far been larger, relative to
    its own noise. The averages keep 0.9, 0.99 and 0.98 of the past, in this order. Where a gradient
    exceeds 2.25 times the usual one, $\nu$ shrinks instead, by the root of their quotient and at
    most by half. The first step is made so small that training can start from any learning rate.

    Args:
        gain_rate: $\gamma \ge 0$.
        tolerance: $\kappa$ in [0, 1).
        max_change: How large each step may be beside the weights, as a ratio of norms over all of
            them, or `None`.
        first_step: How large the first step may be, in the same way, or `None`.

    Raises:
        ValueError: if an argument is out of range.

    Example:
    >>> import keras, finegrain as fg
    >>> weight = keras.Variable([3.0, 4.0], name="w")
    >>> rule = fg.optimizers.Scale(first_step=0.01)
    >>> optimizer = fg.optimizers.AdaptiveStepSize(keras.optimizers.SGD(1.0), rule)
    >>> optimizer.apply([keras.ops.convert_to_tensor([1.0, 0.0])], [weight])
    >>> print(keras.ops.convert_to_numpy(weight).round(4))  # a hundredth of the norm, 5
    [2.95 4.  ]
    """

    numbers = ("log_scale", "mean_slope", "mean_square_slope", "mean_square_gradient")
    slots = ("way",)

    def __init__(
        self,
        gain_rate: float = 20.0,
        tolerance: float = 0.4,
        *,
        max_change: float | None = 0.015,
        first_step: float | None = 1e-3,
    ) -> None:
        self.gain_rate = checked_positive("gain_rate", gain_rate, zero=True)
        number = finite(tolerance)
        if number is None or not 0 <= number < 1:
            raise ValueError(
                f"`tolerance` should be a number in [0, 1). Received: tolerance={tolerance!r}"
            )
        self.tolerance = number
        self.max_change = None if max_change is None else checked_positive("max_change", max_change)
        self.first_step = None if first_step is None else checked_positive("first_step", first_step)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments that make an equal rule."""
        return {
            "gain_rate": self.gain_rate,
            "tolerance": self.tolerance,
            "max_change": self.max_change,
            "first_step": self.first_step,
        }

    def multiplier(self, numbers: Tensors, first: Tensors) -> Any:
        """Compute the scale, a scalar."""
        return ops.exp(ops.convert_to_tensor(numbers[0]))

    def move(self, step: Step) -> list[Any]:
        """Compute the change of each weight, in the weight's shape, after updating the scale."""
        lists, log_scale = backend.lists, step.numbers[0]
        ways, gradient = lists.values(step.first), lists.norm(step.gradients)
        size = gradient * lists.norm(ways)
        cosine = -lists.dot(step.gradients, ways) / (size + TINY)
        # No slope exists before the second step, or without a gradient.
        known = ops.logical_and(size > 0, ops.isfinite(cosine))
        growth = self._growth(step, gradient, ops.where(known, cosine, 0.0), known)
        log = self._bounded(log_scale + growth, step)
        log_scale.assign(log)
        # Take the step at rate 1: at its own size the way would turn as soon as it shrinks.
        taken = ops.cast(step.taken, "float32")
        lists.accumulate(step.first, step.steps, 1 - FADING / (taken + FIRST_ONES))
        return lists.multiples(step.steps, step.rate * ops.exp(log))

    def _growth(self, step: Step, gradient: Any, cosine: Any, known: Any) -> Any:
        """Compute the growth of the log scale: a share of γ / (t + DELAY), or a drop at a spike.

        Args:
            step: The step.
            gradient: The gradient's norm.
            cosine: That of the angle between the way and the descent; 0 where there is none.
            known: Whether there is one.
        """
        if not self.gain_rate:
            return ops.zeros_like(gradient)
        taken = ops.cast(step.taken, "float32")
        slope = ops.where(known, cosine * gradient, 0.0)
        mean = _averaged(step.numbers[1], slope, SMOOTHING)
        square = _averaged(step.numbers[2], slope * slope, SPREAD)
        # The averages begin at 0, so that their weights do not add up to 1 at first.
        count = ops.maximum(taken, 1.0)
        mean, square = mean / (1 - SMOOTHING**count), square / (1 - SPREAD**count)
        usual = self._usual(step.numbers[3], gradient)
        # Noise has many directions and leaves little along the way. Where that is most of the
        # gradient, weights swing round a minimum, and there is nothing to tolerate.
        tolerance = self.tolerance * ops.maximum(1 - square / (usual * usual + TINY), 0.0)
        share = ops.clip(mean / (ops.sqrt(square) + TINY) + tolerance, -1.0, 1.0)
        growth = ops.where(known, self.gain_rate / (taken + DELAY) * share, 0.0)
        excess = ops.log(gradient / (SPIKE * usual + TINY))
        excess = ops.where(ops.isfinite(gradient), ops.clip(excess, 0.0, math.log(4.0)), 0.0)
        return ops.where(excess > 0, ops.minimum(growth, -excess / 2), growth)

    def _usual(self, mean_square: Any, gradient: Any) -> Any:
        """Compute the usual norm of a gradient before this one, or this one's if it is the first.

        The average then takes in this norm, if it is finite. An infinite one leaves no trace:
        a clipped step may come of it.
        """
        before, now = ops.convert_to_tensor(mean_square), gradient * gradient
        finite = ops.isfinite(now)
        before = ops.where(ops.logical_and(finite, ops.equal(before, 0)), now, before)
        mean_square.assign(ops.where(finite, USUAL * before + (1 - USUAL) * now, before))
        return ops.sqrt(before)

    def _bounded(self, log: Any, step: Step) -> Any:
        """Bound the log of the scale, at the first step and at each, by the norm of the weights."""
        count = sum(math.prod(weight.shape) for weight in step.weights)
        # Let weights of 0 move, too.
        size = ops.maximum(backend.lists.norm(step.weights), 1e-3 * math.sqrt(count))
        unit = ops.log(size / (step.rate * backend.lists.norm(step.steps) + TINY))
        if self.first_step is not None:
            limit = ops.minimum(log, unit + math.log(self.first_step))
            log = ops.where(ops.equal(step.taken, 0), limit, log)
        if self.max_change is not None:
            log = ops.minimum(log, unit + math.log(self.max_change))
        return ops.clip(log, -LARGEST, LARGEST)


def _averaged(average: Any, value: Any, keep: float) -> Any:
    """Update `average` in place with `value`, and return its new value."""
    value = keep * ops.convert_to_tensor(average) + (1 - keep) * value
    average.assign(value)
    return value


# The first release's names of the rules, with the arguments that each took.
_FORMER: dict[str, tuple[type[StepSizeRule], tuple[str, ...]]] = {
    "scale": (Scale, ("gain_rate", "tolerance", "max_change", "first_step")),
    "product": (ProductGains, ("gain_rate",)),
    "sign": (SignGains, ("gain_rate", "max_gain")),
}
FORMER_ARGUMENTS = (
    "mode",
    "gain_rate",
    "estimator",
    "memory",
    "tolerance",
    "max_change",
    "first_step",
    "max_gain",
)


def former_rule(arguments: dict[str, Any]) -> StepSizeRule:
    """Make the rule that the arguments of the first release meant.

    `estimator="drift"` is gone: it gives `Scale()`, with the `first_step` that was passed.
    """
    mode = arguments.get("mode", "scale")
    if not isinstance(mode, str) or mode not in _FORMER:
        raise ValueError(
            f"`mode` should be one of {', '.join(map(repr, _FORMER))}. Received: mode={mode!r}"
        )
    kind, names = _FORMER[mode]
    if arguments.get("estimator") == "drift":
        names = ("first_step",)
    keeps_none = ("max_change", "first_step")
    return kind(
        **{
            name: arguments[name]
            for name in names
            if name in arguments and (arguments[name] is not None or name in keeps_none)
        }
    )
