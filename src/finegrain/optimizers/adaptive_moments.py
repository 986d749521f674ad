"""AdaptiveMoments: Adam, AdaX and their kin, which differ in how they average squared gradients."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import keras
from keras import ops

from finegrain._backend import backend
from finegrain._checks import checked_positive, finite
from finegrain._deprecated import warn
from finegrain.optimizers.averaging import (
    AdamDecay,
    AdaXDecay,
    NotMeantError,
    checked_min_weight,
    checked_policy,
    warn_of,
)
from finegrain.per_weight.slots import add_precise_slot, precise_dtype


@keras.saving.register_keras_serializable(package="finegrain")
class AdaptiveMoments(keras.optimizers.Optimizer):
    r"""Adam with any policy of averaging: momentum over the root of averaged squared gradients.

    $$m_t = m_{t-1} + (1 - \beta_1)(g_t - m_{t-1}), \qquad
      \hat v_t = \hat v_{t-1} + w_t (g_t^2 - \hat v_{t-1}),$$

    $$\theta_t = \theta_{t-1} - \eta\, \frac{m_t}{1 - \beta_1^t}
      \Big/ \bigl(\sqrt{\hat v_t} + \epsilon\bigr).$$

    The policy $w_t = 1 - \hat\beta_t$ determines the optimizer: `AdamDecay` gives Adam (with
    `weight_decay`, AdamW), `AdaXDecay` gives AdaX, and `PowerDecay` averages as Adafactor does.

    Args:
        learning_rate: A float, a Keras `LearningRateSchedule` or a function without arguments.
        beta_1: How much of the momentum a step keeps, in [0, 1).
        averaging: How squared gradients are averaged: a policy, `AdamDecay(0.999)` by default; or
            a function that takes the step (a float32 scalar tensor, 1 at first) and returns the
            weight of the newest one in [0, 1], 1 at the first step.
        epsilon: A number > 0, of the unit of a gradient (of its square, with `epsilon_inside`).
        momentum_correction: Whether the momentum is divided by $1 - \beta_1^t$. Without, the first
            steps are small: a tenth of the learning rate at the first, with $\beta_1$ = 0.9.
        epsilon_inside: Whether the divisor is $\sqrt{\hat v_t + \epsilon}$, as the paper of AdaX
            has it.
        min_weight: A number in [0, 0.9] that $w_t$ does not fall below. With 1e-5 a policy
            that would listen to nothing in the end keeps a memory of some 100,000 steps.
        weight_decay: Decoupled weight decay, per unit of learning rate, or `None`.
        name: The optimizer's name.
        **kwargs: Arguments that all Keras optimizers have: `clipnorm`, `clipvalue`,
            `global_clipnorm`, `use_ema`, `ema_momentum`, `ema_overwrite_frequency`,
            `loss_scale_factor`, `gradient_accumulation_steps`.

    Raises:
        TypeError: if `averaging` is no function, or gives no scalars.
        ValueError: if an argument is out of range, or `averaging` gives no weights.

    Example:
    >>> import keras, finegrain as fg
    >>> weight = keras.Variable([1.0, 1.0], name="w")
    >>> averaging = fg.optimizers.PowerDecay(0.8)
    >>> optimizer = fg.optimizers.AdaptiveMoments(0.1, averaging=averaging)
    >>> for gradient in ([1.0, 4.0], [1.0, -4.0]):
    ...     optimizer.apply([keras.ops.convert_to_tensor(gradient)], [weight])
    >>> print(keras.ops.convert_to_numpy(weight).round(4))
    [0.8    0.9053]

    Notes:
        Keras's Adam adds its $\epsilon$ to the root of the average before that is corrected, so
        that there it weighs $1 / \sqrt{1 - \beta_2^t}$ times as much as here, 31 times at the
        first step. Where $\epsilon$ is small beside the gradients, the two agree.

        Both moments are kept, and steps computed, in float32 (float64 for weights of float64),
        whatever the dtype of the weights: in bfloat16 an average with weights below 1/256 would
        not move at all. The step count is an integer. On TensorFlow the rows of an embedding that
        a batch did not look up have a gradient of 0 and move by their momentum, as on the others.

    References:
        Su Jianlin, A brief analysis of the AdaX optimizer, 2020, https://kexue.fm/archives/7387
        Diederik P. Kingma and Jimmy Ba, Adam: A Method for Stochastic Optimization, 2015,
        https://arxiv.org/abs/1412.6980
    """

    def __init__(
        self,
        learning_rate: Any = 0.001,
        beta_1: float = 0.9,
        averaging: Callable[[Any], Any] | None = None,
        epsilon: float = 1e-7,
        momentum_correction: bool = True,
        *,
        epsilon_inside: bool = False,
        min_weight: float = 0.0,
        weight_decay: float | None = None,
        name: str | None = "adaptive_moments",
        **kwargs: Any,
    ) -> None:
        if "decay" in kwargs:
            warn("AdaptiveMoments(decay=...)", "averaging=...")
            averaging = kwargs.pop("decay")
        super().__init__(
            learning_rate=learning_rate, weight_decay=weight_decay, name=name, **kwargs
        )
        number = finite(beta_1)
        if number is None or not 0 <= number < 1:
            raise ValueError(f"`beta_1` should be a number in [0, 1). Received: beta_1={beta_1!r}")
        self.beta_1 = number
        self.averaging = checked_policy(AdamDecay() if averaging is None else averaging)
        self.epsilon = checked_positive("epsilon", epsilon)
        self.momentum_correction = bool(momentum_correction)
        self.epsilon_inside = bool(epsilon_inside)
        self.min_weight = checked_min_weight(min_weight)

    def __getattr__(self, name: str) -> Any:
        """Return the policy under its former name."""
        if name != "decay":
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        warn("AdaptiveMoments.decay", "averaging")
        return self.averaging

    def build(self, variables: Sequence[keras.Variable]) -> None:
        """Build the optimizer: create the two moments of each of `variables`."""
        if self.built:
            return
        super().build(variables)
        self._momentums = [add_precise_slot(self, v, "momentum") for v in variables]
        self._velocities = [add_precise_slot(self, v, "velocity") for v in variables]

    def _weight_and_rate(self, learning_rate: Any) -> tuple[Any, Any]:
        """Compute the policy's weight and the corrected momentum's rate, both float32 scalars."""
        step = ops.cast(self.iterations + 1, "float32")
        weight = ops.cast(self.averaging(step), "float32")
        if self.min_weight:
            weight = ops.maximum(weight, self.min_weight)
        rate = ops.cast(learning_rate, "float32")
        if self.momentum_correction and self.beta_1:
            rate = rate / -ops.expm1(math.log(self.beta_1) * step)
        return weight, rate

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """Update one weight and its two moments."""
        index = self._get_variable_index(variable)
        momentum, velocity = self._momentums[index], self._velocities[index]
        dtype = precise_dtype(variable)
        weight, rate = (ops.cast(x, dtype) for x in self._weight_and_rate(learning_rate))
        gradient = ops.cast(backend.dense(gradient), dtype)
        m = momentum + (1 - self.beta_1) * (gradient - momentum)
        v = velocity + weight * (ops.square(gradient) - velocity)
        root = ops.sqrt(v + self.epsilon) if self.epsilon_inside else ops.sqrt(v) + self.epsilon
        self.assign(momentum, m)
        self.assign(velocity, v)
        moved = ops.cast(variable, dtype) - rate * m / root
        self.assign(variable, ops.cast(moved, variable.dtype))

    def _backend_update_step(
        self, grads: Sequence[Any], trainable_variables: Sequence[Any], learning_rate: Any
    ) -> None:
        if backend.moment_step is None:
            super()._backend_update_step(grads, trainable_variables, learning_rate)
            return
        # `update_step` of all weights, each of its operations one call for them all.
        indices = [self._get_variable_index(variable) for variable in trainable_variables]
        with backend.lists.untracked():
            weight, rate = self._weight_and_rate(learning_rate)
            backend.moment_step(
                trainable_variables,
                grads,
                [self._momentums[index] for index in indices],
                [self._velocities[index] for index in indices],
                share=1 - self.beta_1,
                weight=weight,
                rate=rate,
                epsilon=self.epsilon,
                epsilon_inside=self.epsilon_inside,
            )

    def get_config(self) -> dict[str, Any]:
        """Return the arguments that make an equal optimizer."""
        return super().get_config() | {
            "beta_1": self.beta_1,
            "averaging": keras.saving.serialize_keras_object(self.averaging),
            "epsilon": self.epsilon,
            "momentum_correction": self.momentum_correction,
            "epsilon_inside": self.epsilon_inside,
            "min_weight": self.min_weight,
        }

    @classmethod
    def from_config(
        cls, config: dict[str, Any], custom_objects: dict[str, Any] | None = None
    ) -> AdaptiveMoments:
        """Make the optimizer that `get_config` describes."""
        config = dict(config)
        if "decay" in config:  # as the first release called it
            config["averaging"] = config.pop("decay")
        if isinstance(config.get("averaging"), dict):
            config["averaging"] = keras.saving.deserialize_keras_object(
                config["averaging"], custom_objects
            )
        # Restore what the first release accepted, even where it is refused today.
        min_weight = config.pop("min_weight", 0.0)
        optimizer = super().from_config(config, custom_objects)
        try:
            optimizer.min_weight = checked_min_weight(min_weight)
        except NotMeantError as error:
            warn_of(error)
            optimizer.min_weight = float(min_weight)
        return optimizer


@keras.saving.register_keras_serializable(package="finegrain")
class AdaX(AdaptiveMoments):
    r"""AdaX: Adam with a long memory of squared gradients.

    $$m_t = \beta_1 m_{t-1} + (1 - \beta_1) g_t, \qquad
      v_t = (1 + \beta_2) v_{t-1} + \beta_2 g_t^2,$$

    $$\theta_t = \theta_{t-1} - \eta\, m_t \Big/
      \sqrt{\frac{v_t}{(1 + \beta_2)^t - 1} + \epsilon}.$$

    It is computed as `AdaptiveMoments` with `AdaXDecay`, which is mathematically the same and
    stays accurate at any step. With `weight_decay` it is AdaX-W.

    Args:
        learning_rate: A float, a Keras `LearningRateSchedule` or a function without arguments.
            The paper's code takes 5e-3 with a weight decay of 5e-2.
        beta_1: How much of the momentum a step keeps, in [0, 1).
        beta_2: The number, small beside 1, by which the memory grows, in (0, 0.1]. It is not
            Adam's: 0.999 would settle the second moment for ever after seven steps.
        weight_decay: Decoupled weight decay, per unit of learning rate, or `None`.
        epsilon: A number > 0, of the unit of a squared gradient.
        min_weight: A number in [0, 0.9] that the weight of the newest squared gradient does not
            fall below.
        name: The optimizer's name.
        **kwargs: Arguments that all Keras optimizers have, such as `clipnorm`.

    Raises:
        ValueError: if an argument is out of range.

    Example:
    >>> import keras, finegrain as fg
    >>> weight = keras.Variable([1.0, 1.0], name="w")
    >>> optimizer = fg.optimizers.AdaX(0.1)
    >>> for gradient in ([1.0, 4.0], [1.0, -4.0]):
    ...     optimizer.apply([keras.ops.convert_to_tensor(gradient)], [weight])
    >>> print(keras.ops.convert_to_numpy(weight).round(4))
    [0.971 0.991]

    Notes:
        The recurrence as published overflows float32 at step 887,273 (with the default $\beta_2$;
        earlier where gradients are large), after which weights freeze or jump. The momentum is
        not corrected, so that training begins with some ten smaller steps.

        After some $5 / \beta_2$ steps the second moment listens to nothing new; `min_weight` keeps
        it open where training is long or its data change.

    References:
        Wenjie Li, Zhaoyang Zhang, Xinjiang Wang and Ping Luo, AdaX: Adaptive Gradient Descent with
        Exponential Long Term Memory, 2020, https://arxiv.org/abs/2004.09740
        Su Jianlin, A brief analysis of the AdaX optimizer, 2020, https://kexue.fm/archives/7387
    """

    def __init__(
        self,
        learning_rate: Any = 0.001,
        beta_1: float = 0.9,
        beta_2: float | AdaXDecay = 1e-4,
        weight_decay: float | None = None,
        *,
        epsilon: float = 1e-12,
        min_weight: float = 0.0,
        name: str | None = "adax",
        **kwargs: Any,
    ) -> None:
        policy = beta_2 if isinstance(beta_2, AdaXDecay) else AdaXDecay(beta_2)
        super().__init__(
            learning_rate,
            beta_1,
            policy,
            epsilon,
            momentum_correction=False,
            epsilon_inside=True,
            min_weight=min_weight,
            weight_decay=weight_decay,
            name=name,
            **kwargs,
        )
        self.beta_2 = policy.beta_2

    def get_config(self) -> dict[str, Any]:
        """Return the arguments that make an equal optimizer."""
        config = super().get_config()
        for fixed in ("averaging", "momentum_correction", "epsilon_inside"):
            del config[fixed]
        return config | {"beta_2": self.beta_2}

    @classmethod
    def from_config(
        cls, config: dict[str, Any], custom_objects: dict[str, Any] | None = None
    ) -> AdaX:
        """Make the optimizer that `get_config` describes."""
        config = dict(config)
        if "beta_2" in config:
            config["beta_2"] = AdaXDecay.from_config({"beta_2": config["beta_2"]})
        return super().from_config(config, custom_objects)
