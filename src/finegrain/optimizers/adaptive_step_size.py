"""AdaptiveStepSize: step sizes that are learned while the weights are, round any optimizer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from finegrain._backend import backend
from finegrain.optimizers.resizable import checked_optimizer, refuse_replicas
from finegrain.optimizers.step_rules import (
    FIRST_STEP,
    MAX_CHANGE,
    MAX_GAIN,
    Step,
    StepSizes,
    rule_of,
)
from finegrain.per_weight.checkpoint import load_in_order
from finegrain.per_weight.optimizer import PerWeight
from finegrain.per_weight.slots import add_precise_slot, set_state
from finegrain.rules.template import Template


@keras.saving.register_keras_serializable(package="finegrain")
class AdaptiveStepSize(keras.optimizers.Optimizer):
    r"""Step sizes that are learned by exponentiated gradient, round any Keras optimizer.

    With $\delta_t$, the step that the given optimizer takes at learning rate 1, weights move by

    $$\theta_{t+1} = \theta_t + \eta\, \nu_{t+1} \odot \delta_t,$$

    where $\eta$ is its learning rate. What $\nu$ is depends on `mode`. With the gradient $g_t$:

    `"product"`, one number for each weight, in the words of the article:

    $$\nu_{t+1} = \nu_t \odot \exp(\gamma\, g_{t-1} \odot g_t), \qquad \nu_1 = 1.$$

    `"sign"`, the same without the gradient's unit, and bounded: $\bar g$ is the average of past
    gradients, of which each step keeps 0.9,

    $$\nu_{t+1} = \operatorname{clip}\bigl(\nu_t \odot \exp(\gamma \operatorname{sign}(\bar g_{t-1})
      \odot \operatorname{sign}(g_t)),\ 1/\text{max\_gain},\ \text{max\_gain}\bigr).$$

    `"scale"`, one number for all weights, for training from a learning rate that nobody tuned: it
    grows while gradients agree with the way that the weights have come since the start. With this
    way $p_t = \bigl(1 - \tfrac{1.5}{t + 15}\bigr)(p_{t-1} + \delta_{t-1})$, in which step $k$
    counts about like $(k/t)^{1.5}$, and the slope $d_t = -\langle g_t, p_t \rangle / |p_t|$, over
    all weights together,

    $$\log \nu_{t+1} = \log \nu_t + \frac{\gamma}{t + 25} \operatorname{clip}\Bigl(
      \frac{\langle d \rangle}{\sqrt{\langle d^2 \rangle}} +
      \kappa \Bigl(1 - \frac{\langle d^2 \rangle}{\langle |g|^2 \rangle}\Bigr),\ -1,\ 1\Bigr).$$

    The first term is by how much the loss would fall, had the steps so far been larger, beside its
    own noise. Averages keep 0.9, 0.99 and 0.98 of the past, in this order. At a gradient of more
    than 2.25 usual ones $\nu$ shrinks instead, by the root of what is more, at most by half. With
    `estimator="drift"` it is $\gamma\,(c_t + \kappa)$ that is added, where $p_t$ is the distance
    from a slow average of the weights and $c_t = d_t / |g_t|$. The first step is made so small
    that any learning rate does for a start.

    Args:
        optimizer: A Keras optimizer, not yet built, or its name or config, or `PerWeight`. Its
            learning rate is $\eta$; its clipping, accumulation and averaging those of the whole.
        mode: `"scale"`, `"product"` or `"sign"`.
        gain_rate: The number $\gamma \ge 0$. By default 20 for `"scale"`, 0.1 for it with
            `"drift"`, and 0.01 for the others. That of `"product"` has the unit of one by a squared
            gradient: it fits one problem.
        estimator: For `"scale"`, `"alignment"` or `"drift"`.
        memory: For `"drift"`, how much of the distance a step keeps, in [0, 1): 0.99 by default.
        tolerance: For `"scale"`, $\kappa$ in [0, 1): 0.4 by default, 0.02 for `"drift"`.
        max_change: For `"alignment"`, how large each step may be beside the weights, as a ratio of
            norms over all of them, or `None`.
        first_step: For `"scale"`, how large the first step may be, in the same way, or `None`.
        max_gain: For `"sign"`, a number > 1.
        name: The optimizer's name.
        **kwargs: `learning_rate`, `weight_decay` and the arguments that all Keras optimizers have,
            in the place of those of `optimizer`.

    Raises:
        ValueError: if an argument is out of range, or another mode's, or if the step of `optimizer`
            cannot be resized; at build, under a TensorFlow strategy of several replicas.

    Example:
    >>> import keras, finegrain as fg
    >>> weight = keras.Variable([1.0, 1.0], name="w")
    >>> optimizer = fg.optimizers.AdaptiveStepSize(
    ...     keras.optimizers.SGD(0.1), mode="product", gain_rate=0.5)
    >>> for gradient in ([1.0, 1.0], [2.0, -2.0]):
    ...     optimizer.apply([keras.ops.convert_to_tensor(gradient)], [weight])
    >>> print(keras.ops.convert_to_numpy(weight).round(4))
    [0.3563 0.9736]

    Notes:
        `learning_rate` is the effective one, $\eta \nu$, as callbacks log it; where $\nu$ has a
        number for each weight, its geometric mean stands for it. Setting `learning_rate` sets the
        effective one, from which learning goes on. A schedule multiplies $\nu$.

        Weight decay is decoupled, takes the effective rate, and is no part of $\delta$ and $p$.

        The given optimizer runs at a learning rate of 1. For Keras's SGD with momentum this is the
        form in which the momentum knows no rate; it differs from its own under a schedule.

        In `PerWeight` each group learns a scale of its own; `learning_rate` is then the base rate,
        and `describe` and `effective_learning_rates` give each weight's effective one. Round
        `PerWeight` there is one for all, and multipliers keep the ratios.

        The article derives `"product"` for SGD without momentum; with other optimizers its signal
        is not the derivative by the step size. The default scale was chosen by measurement; see
        the guide, which also says where it loses to a tuned rate.

        State: for `"scale"` the way $p$, as large as the weights, for the others twice as much;
        float32, whatever the dtype of the weights. On TensorFlow sparse gradients are made dense
        for it.

    References:
        Su Jianlin, Exponentiated gradient descent + meta-learning = adaptive learning rates, 2022,
        https://kexue.fm/archives/8968
        Ehsan Amid, Rohan Anil, Christopher Fifty and Manfred K. Warmuth, Step-size Adaptation Using
        Exponentiated Gradient Updates, 2022, https://arxiv.org/abs/2202.00145
    """

    def __init__(
        self,
        optimizer: keras.optimizers.Optimizer | str | dict[str, Any],
        mode: str = "scale",
        *,
        gain_rate: float | None = None,
        estimator: str = "alignment",
        memory: float | None = None,
        tolerance: float | None = None,
        max_change: float | None = MAX_CHANGE,
        first_step: float | None = FIRST_STEP,
        max_gain: float = MAX_GAIN,
        name: str | None = "adaptive_step_size",
        **kwargs: Any,
    ) -> None:
        optimizer = checked_optimizer(optimizer)
        if isinstance(optimizer, PerWeight):
            template = optimizer._book.template
        else:
            template = Template(optimizer)
        arguments = template.shared_arguments() | {
            "learning_rate": template.learning_rate,
            "weight_decay": template.optimizer.weight_decay,
        }
        unknown = sorted(set(kwargs) - set(arguments))
        if unknown:
            raise TypeError(f"AdaptiveStepSize takes no arguments {unknown}. Received: {kwargs!r}")
        super().__init__(name=name, **arguments | kwargs)
        # What `exclude_from_weight_decay` was told is not in a config.
        for attribute in ("_exclude_from_weight_decay", "_exclude_from_weight_decay_pattern"):
            if hasattr(template.optimizer, attribute):
                setattr(self, attribute, getattr(template.optimizer, attribute))
        self.mode = mode
        self.arguments = {
            "gain_rate": gain_rate,
            "estimator": estimator,
            "memory": memory,
            "tolerance": tolerance,
            "max_change": max_change,
            "first_step": first_step,
            "max_gain": max_gain,
        }
        lists = backend.lists
        rule = rule_of(mode, lists=lists, **self.arguments)
        self._state = _State(optimizer, self._at_rate_one(optimizer, template), rule, lists)

    def _at_rate_one(self, optimizer: Any, template: Template) -> Any:
        """A new optimizer like the given one, without what belongs to the whole."""
        name = f"{self.name}_{template.config.get('name', template.kind)}"
        inner = template.make(_one, weight_decay=0.0, name=name)
        return optimizer._round(inner) if isinstance(optimizer, PerWeight) else inner

    def build(self, variables: Sequence[keras.Variable]) -> None:
        """Creates the state of the given optimizer and of the step sizes of `variables`."""
        if self.built:
            return
        refuse_replicas()
        variables = list(variables)
        self._state.inner.build(variables)
        if not self._state.inner.built:
            return  # its rules come from a file and do not fit, as it has said
        super().build(variables)
        rule = self._state.rule
        self._numbers = [
            self.add_variable((), dtype="float32", aggregation="only_first_replica", name=number)
            for number in rule.numbers
        ]
        slots = [[add_precise_slot(self, v, slot) for v in variables] for slot in rule.slots]
        self._first_slots, self._second_slots = [*slots, [], []][:2]

    @property
    def variables(self) -> list[keras.Variable]:
        """The optimizer's own variables, then those of the given one."""
        return [*self._variables, *self._state.inner.variables]

    def _get_current_learning_rate(self) -> Any:
        rate = super()._get_current_learning_rate()
        return ops.convert_to_tensor(rate) * self.multiplier

    @property
    def multiplier(self) -> Any:
        """What the learning rate is multiplied by now: a scalar tensor, 1 before the first step."""
        if not self.built:
            return ops.ones((), "float32")
        return self._state.rule.multiplier(self._numbers, self._first_slots)

    @property
    def learning_rate(self) -> Any:
        """The effective learning rate; setting it sets the base rate that makes it so."""
        return self._get_current_learning_rate()

    @learning_rate.setter
    def learning_rate(self, learning_rate: Any) -> None:
        if self.built and not callable(learning_rate):
            learning_rate = learning_rate / float(backend.host_array(self.multiplier))
        keras.optimizers.Optimizer.learning_rate.fset(self, learning_rate)

    def _backend_update_step(
        self, grads: Sequence[Any], trainable_variables: Sequence[Any], learning_rate: Any
    ) -> None:
        variables, state = list(trainable_variables), self._state
        inner, lists = state.inner, state.lists
        with lists.untracked():
            before = lists.copies(variables)
            taken = ops.copy(ops.convert_to_tensor(inner._iterations))
            if isinstance(inner, PerWeight):
                inner._book.begin_step()
            inner._backend_apply_gradients(list(grads), variables)
            backend.count_one(inner._iterations)
            indices = [self._get_variable_index(variable) for variable in variables]
            moves = state.rule.move(
                Step(
                    taken=taken,
                    rate=ops.cast(super()._get_current_learning_rate(), "float32"),
                    gradients=lists.like([backend.dense(gradient) for gradient in grads], before),
                    steps=lists.differences(lists.values(variables), before),
                    weights=before,
                    numbers=self._numbers,
                    first=[self._first_slots[i] for i in indices],
                    second=[self._second_slots[i] for i in indices] if self._second_slots else [],
                )
            )
            if self.weight_decay is not None:
                before = self._decayed(variables, before)
            lists.assign(variables, lists.sums(before, moves))

    def _decayed(self, variables: list[Any], before: list[Any]) -> list[Any]:
        """The weights after weight decay, at the rate that the step has just got."""
        lists = self._state.lists
        lists.assign(variables, before)
        decaying = [variable for variable in variables if self._use_weight_decay(variable)]
        if decaying:
            super()._apply_weight_decay(decaying)
        return lists.copies(variables)

    def _apply_weight_decay(self, variables: Sequence[Any]) -> None:
        """Does nothing here: weights decay when the size of the step is known."""

    def set_weights(self, weights: Sequence[Any]) -> None:
        """Sets all state variables, in the order of `variables`."""
        set_state(self, weights)

    def save_own_variables(self, store: Any) -> None:
        """Writes the state into `store`; that of a `PerWeight` under its weights' paths."""
        inner = self._state.inner
        if not isinstance(inner, PerWeight):
            super().save_own_variables(store)
            return
        for place, variable in enumerate(self._variables):
            store[str(place)] = backend.host_array(variable)
        given: dict[str, Any] = {}
        inner.save_own_variables(given)
        for name, array in given.items():
            store[f"{_GIVEN}{name}"] = array

    def load_own_variables(self, store: Any) -> None:
        """Reads what `save_own_variables` wrote, on whichever backend.

        Raises:
            ValueError: if it was written for other weights.
        """
        inner = self._state.inner
        if not isinstance(inner, PerWeight) or not self.built:
            super().load_own_variables(store)
            return
        names = list(store.keys())
        numbered = [store[str(place)] for place in range(sum(map(str.isdigit, names)))]
        own, rest = numbered[: len(self._variables)], numbered[len(self._variables) :]
        if [np.shape(array) for array in own] != [tuple(v.shape) for v in self._variables]:
            raise ValueError(
                f"The saved state of optimizer {self.name!r} is that of other weights or another "
                f"mode. Received: arrays of the shapes {[np.shape(array) for array in own]}"
            )
        for variable, array in zip(self._variables, own, strict=True):
            variable.assign(array)
        given = {n.removeprefix(_GIVEN): store[n] for n in names if n.startswith(_GIVEN)}
        if given:
            inner.load_own_variables(given)
        else:
            load_in_order(inner, rest)

    def get_config(self) -> dict[str, Any]:
        """The arguments that make an equal optimizer."""
        given, inner = self._state.given, self._state.inner
        if isinstance(given, PerWeight):
            optimizer = keras.saving.serialize_keras_object(given)
            # What is known of the weights, and may have changed since, is with the one at work.
            optimizer["config"] |= inner._config_of_rules()
        else:
            optimizer = Template(given).serialize()
        return super().get_config() | {
            "optimizer": optimizer,
            "mode": self.mode,
            **self.arguments,
        }

    @classmethod
    def from_config(
        cls, config: dict[str, Any], custom_objects: dict[str, Any] | None = None
    ) -> AdaptiveStepSize:
        """The optimizer that `get_config` describes."""
        config = dict(config)
        # PerWeight may make it while TensorFlow traces a step, where rates have no value.
        with backend.outside_of_graphs():
            config["optimizer"] = keras.saving.deserialize_keras_object(
                config["optimizer"], custom_objects
            )
            return super().from_config(config, custom_objects)


class _State:
    """What Keras would save a second time, if it saw it."""

    def __init__(self, given: Any, inner: Any, rule: StepSizes, lists: Any) -> None:
        self.given = given
        self.inner = inner
        self.rule = rule
        self.lists = lists


# Begins the names of a PerWeight's state in a store.
_GIVEN = "given:"


def _one() -> float:
    return 1.0
