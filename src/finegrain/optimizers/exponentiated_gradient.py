"""ExponentiatedGradient: weights that stay positive, moved by factors instead of summands."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from finegrain._backend import backend
from finegrain._checks import checked_positive

# exp of more would overflow float32; less than this floor would leave its normal numbers.
LARGEST_STEP = 80.0
SMALLEST_FLOOR = 1e-37
# Some chips take smaller numbers for 0. The other dtypes reach as far as float32.
SMALLEST_NORMAL_FLOAT16 = float(np.finfo(np.float16).smallest_normal)


@keras.saving.register_keras_serializable(package="finegrain")
class ExponentiatedGradient(keras.optimizers.Optimizer):
    r"""Exponentiated gradient: weights that stay positive, or on the simplex.

    A weight $\theta > 0$ with gradient $g$ is multiplied,

    $$\theta \leftarrow \max\bigl(\theta \cdot e^{s},\ \text{floor}\bigr), \qquad
      s = \operatorname{clip}(-\eta g,\ -c,\ c),$$

    where $\eta$ is the learning rate and $c$ is `max_step`. It is for weights that are positive by
    their meaning (rates, scales, non-negative factors) and, with `normalize=True`, for
    probabilities. Weights of both signs, such as the kernels and biases of most layers, belong to
    another optimizer: give this one its weights by a `Rule` of `PerWeight`. The learning rate is
    relative: 0.1 times a gradient of 1 takes off a tenth, whatever the weight's size.

    With `normalize=True` each row along the last axis is a probability distribution $p$,

    $$p_i \leftarrow \frac{p_i\, e^{s_i}}{\sum_j p_j\, e^{s_j}}, \qquad
      s_i = \operatorname{clip}\Bigl(-\eta \bigl(g_i - \textstyle\sum_j p_j g_j\bigr),\ -c,\ c
      \Bigr).$$

    The mean gradient cancels in the quotient; it is taken off first so that a large one that is
    common to the whole row does not use up the bounds.

    Args:
        learning_rate: A float, a Keras `LearningRateSchedule` or a function without arguments.
        normalize: Whether each row along the last axis stays on the simplex: its weights sum to
            1 after each step, up to rounding. The first step puts rows there that have another
            sum: to the formula only their ratios matter, so that `"ones"` begins as the uniform
            distribution.
        max_step: The bound $c$ of the exponent, a number in (0, 80]: no step multiplies a weight
            by more than $e^c$ or less than $e^{-c}$ (before the sum is brought back to 1),
            however large the gradient.
        floor: A number in [1e-37, 1), below which no weight falls, so that none underflows to 0,
            from where no factor could bring it back. For weights of float16 it is at least
            6.1e-5, the smallest normal number of this dtype.
        weight_decay: `None` or 0 only (see the notes).
        clipnorm: The largest norm of each weight's gradient.
        clipvalue: The largest absolute value of each number in a gradient.
        global_clipnorm: The largest norm of all gradients together.
        use_ema: Whether to average the weights over time, as in every Keras optimizer. Averages
            stay positive, and on the simplex.
        ema_momentum: The share that the average keeps at each step, in [0, 1].
        ema_overwrite_frequency: After how many steps the average overwrites the weights.
        loss_scale_factor: The factor that the loss, and so the gradients, were multiplied by.
        gradient_accumulation_steps: The number of steps, at least 2, over which gradients are
            averaged before the weights move.
        name: The optimizer's name.

    Raises:
        ValueError: if an argument is out of range; at build, if a weight has zero, negative or
            non-finite values, if `normalize=True` meets a scalar or rows too long for `floor`, if
            a rule gives these weights weight decay, or if the weights cannot be read, since it is
            built inside a compiled function.

    Example:
    >>> import keras, numpy as np, finegrain as fg
    >>> weight = keras.Variable([0.2, 0.3, 0.5], name="mixture")
    >>> optimizer = fg.optimizers.ExponentiatedGradient(learning_rate=1.0, normalize=True)
    >>> gradient = keras.ops.convert_to_tensor(np.log([2.0, 1.0, 1.0]).astype("float32"))
    >>> optimizer.apply([gradient], [weight])
    >>> print(keras.ops.convert_to_numpy(weight).round(4))
    [0.1111 0.3333 0.5556]

    In a model, for the weights that are meant to be positive only:

    >>> optimizer = fg.PerWeight(keras.optimizers.Adam(1e-3), [
    ...     fg.Rule("mixture", optimizer=fg.optimizers.ExponentiatedGradient(0.05))])

    Notes:
        A weight of 0 would stay 0 for ever and a negative one would never become positive, hence
        the error at build. Weights are read once, when the optimizer is built, and not while Keras
        loads a model, where their values arrive later. Values below `floor`, 0 and negative ones
        too, that others assign after that are lifted to `floor` by the next step. NaN in a
        gradient makes its weights NaN.

        Weight decay is refused. Decay multiplies as the step itself does: here it would not be the
        L2 penalty that the name promises, but (to first order) an L1 penalty, on the simplex one
        without any effect. Where smaller weights are wanted, give the layer a regularizer, whose
        gradient enters the exponent.

        Steps are computed in float32 (float64 for weights of float64) and rounded to the weight's
        dtype once. In bfloat16, with 8 bits, factors that differ from 1 by less than 0.2 % are
        lost in rounding.

        Rows of an embedding that a batch did not look up stay as they are on TensorFlow, where
        the gradient is sparse. On the other backends their gradient is 0, which moves none either,
        but `normalize=True` brings their sum to 1, too.

        The paper calls the form with `normalize=True` EG and the other EGU. The bounds on the step
        and the floor are not in it: they take effect only on steps that its theory excludes.

    References:
        Jyrki Kivinen and Manfred K. Warmuth, Exponentiated Gradient versus Gradient Descent for
        Linear Predictors, 1997, https://doi.org/10.1006/inco.1996.2612
    """

    def __init__(
        self,
        learning_rate: Any = 0.1,
        normalize: bool = False,
        max_step: float = 1.0,
        floor: float = 1e-30,
        *,
        weight_decay: float | None = None,
        clipnorm: float | None = None,
        clipvalue: float | None = None,
        global_clipnorm: float | None = None,
        use_ema: bool = False,
        ema_momentum: float = 0.99,
        ema_overwrite_frequency: int | None = None,
        loss_scale_factor: float | None = None,
        gradient_accumulation_steps: int | None = None,
        name: str | None = "exponentiated_gradient",
    ) -> None:
        super().__init__(
            learning_rate=learning_rate,
            clipnorm=clipnorm,
            clipvalue=clipvalue,
            global_clipnorm=global_clipnorm,
            use_ema=use_ema,
            ema_momentum=ema_momentum,
            ema_overwrite_frequency=ema_overwrite_frequency,
            loss_scale_factor=loss_scale_factor,
            gradient_accumulation_steps=gradient_accumulation_steps,
            name=name,
        )
        _refuse_weight_decay(weight_decay)
        if not isinstance(normalize, (bool, np.bool_)):
            raise ValueError(
                f"`normalize` should be True or False. Received: normalize={normalize!r}"
            )
        self.normalize = bool(normalize)
        self.max_step = checked_positive("max_step", max_step)
        if self.max_step > LARGEST_STEP:
            raise ValueError(
                f"`max_step` should be at most {LARGEST_STEP:g}: it bounds an exponent, and exp of "
                f"more overflows. Received: max_step={max_step!r}"
            )
        self.floor = checked_positive("floor", floor)
        if not SMALLEST_FLOOR <= self.floor < 1:
            raise ValueError(
                f"`floor` should be at least {SMALLEST_FLOOR:g}, which float32 can hold, and less "
                f"than 1. Received: floor={floor!r}"
            )

    def build(self, variables: Sequence[keras.Variable]) -> None:
        """Build the optimizer, which has no slots: check that all `variables` are positive."""
        if self.built:
            return
        variables = list(variables)
        # A rule of PerWeight sets it after construction.
        _refuse_weight_decay(self.weight_decay)
        moved = [v for v in variables if not self._overwrite_variable_with_gradient(v)]
        if self.normalize:
            for variable in moved:
                self._check_rows(variable)
        if not _values_arrive_later():
            unfit = [_path(variable) for variable in moved if not _is_positive(variable)]
            if unfit:
                raise ValueError(
                    "ExponentiatedGradient multiplies weights, and these have values that are "
                    f"zero, negative or not finite: {', '.join(unfit)}. Give them a positive "
                    "initializer, such as keras.initializers.RandomUniform(0.1, 1.0); or, if they "
                    "are not meant to be positive, let another optimizer move them: "
                    "PerWeight(Adam(), [Rule(positive_weights, optimizer=ExponentiatedGradient())])"
                )
        super().build(variables)

    def _check_rows(self, variable: keras.Variable) -> None:
        shape = tuple(variable.shape)
        if not shape:
            raise ValueError(
                "`normalize=True` is for weights with at least one axis, along which they sum to "
                f"1. Received: {_path(variable)} of shape ()"
            )
        if shape[-1] * self._floor_of(variable) >= 1:
            raise ValueError(
                f"`floor` is too large: the {shape[-1]} weights in each row of {_path(variable)} "
                f"sum to 1. Received: floor={self._floor_of(variable)!r}"
            )

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """Multiply one weight by its factors."""
        floor = self._floor_of(variable)
        if self.normalize and len(variable.shape) == 1:
            gradient = backend.dense(gradient)  # its rows are its numbers, which sum to 1 together

        def moved(weights: Any, gradient: Any) -> Any:
            return self._moved(weights, gradient, learning_rate, floor)

        self.assign(variable, backend.on_rows(moved, gradient, variable))

    def _moved(self, weights: Any, gradient: Any, learning_rate: Any, floor: float) -> Any:
        """Compute the new values of `weights` after a step, in the dtype of `weights`."""
        dtype = keras.backend.standardize_dtype(weights.dtype)
        precise = "float64" if dtype == "float64" else "float32"
        weights = ops.cast(weights, precise)
        gradient = ops.cast(gradient, precise)
        if self.normalize:
            weights = _normalized(_at_least(floor, weights))
            gradient = gradient - ops.sum(weights * gradient, axis=-1, keepdims=True)
        step = ops.clip(-ops.cast(learning_rate, precise) * gradient, -self.max_step, self.max_step)
        moved = weights * ops.exp(step)
        if self.normalize:
            moved = _normalized(_at_least(floor, _normalized(moved)))
        else:
            moved = _at_least(floor, moved)
        return ops.cast(moved, dtype)

    def _floor_of(self, variable: Any) -> float:
        if keras.backend.standardize_dtype(variable.dtype) == "float16":
            return max(self.floor, SMALLEST_NORMAL_FLOAT16)
        return self.floor

    def get_config(self) -> dict[str, Any]:
        """Return the arguments that make an equal optimizer."""
        return super().get_config() | {
            "normalize": self.normalize,
            "max_step": self.max_step,
            "floor": self.floor,
        }


def _at_least(floor: float, weights: Any) -> Any:
    # ops.maximum would turn float64 into float32 on torch.
    return ops.clip(weights, floor, math.inf)


def _normalized(weights: Any) -> Any:
    return weights / ops.sum(weights, axis=-1, keepdims=True)


def _refuse_weight_decay(weight_decay: Any) -> None:
    if weight_decay:
        raise ValueError(
            "ExponentiatedGradient takes no weight decay: on weights that are multiplied it would "
            "be another penalty than the one of this name (an L1 penalty, and none on the "
            "simplex). Give the layer a regularizer instead. "
            f"Received: weight_decay={weight_decay!r}"
        )


def _path(variable: Any) -> str:
    return getattr(variable, "path", variable.name)


def _values_arrive_later() -> bool:
    """Return whether Keras is loading a model: it builds optimizers before it reads weights."""
    from keras.src.backend.common import global_state

    return global_state.get_global_attribute("shared_objects/id_to_obj_map") is not None


def _is_positive(variable: Any) -> bool:
    """Return whether all values are finite and > 0. Only the answer leaves the device."""
    with backend.outside_of_graphs():
        value = ops.convert_to_tensor(variable)
        answer = ops.all(ops.logical_and(value > 0, ops.isfinite(value)))
        if not backend.is_compiling(answer):
            return bool(answer)
    raise ValueError(
        "ExponentiatedGradient should be built outside of the compiled function, where it can "
        "see whether the weights are positive: call `optimizer.build(variables)` first. "
        f"Received: {_path(variable)} inside a function that JAX is tracing"
    )
