"""AdaptiveStepSize: step sizes of any optimizer, learned along with the weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from finegrain._apart import Apart
from finegrain._backend import backend
from finegrain._deprecated import warn
from finegrain.optimizers.resizable import checked_optimizer, refuse_replicas
from finegrain.optimizers.step_rules import (
    FORMER_ARGUMENTS,
    Scale,
    Step,
    StepSizeRule,
    former_rule,
)
from finegrain.per_weight.checkpoint import load_in_order
from finegrain.per_weight.optimizer import PerWeight
from finegrain.per_weight.slots import add_precise_slot, seen_states, set_state
from finegrain.rules.template import Template


@keras.saving.register_keras_serializable(package="finegrain")
class AdaptiveStepSize(keras.optimizers.Optimizer):
    r"""A wrapper that learns the step sizes of any Keras optimizer by exponentiated gradient.

    Where the given optimizer would take the step $\delta_t$ at learning rate 1, weights move by

    $$\theta_{t+1} = \theta_t + \eta\, \nu_{t+1} \odot \delta_t,$$

    where $\eta$ is its learning rate. The rule says what $\nu$ is: `Scale` learns one number for
    all weights, so that it hardly matters which learning rate training starts from;
    `ProductGains` (the article's formula) and `SignGains` learn one for each number of each weight.

    Args:
        optimizer: A Keras optimizer, not yet built, or its name or config, or `PerWeight`. Its
            learning rate is $\eta$; its clipping, accumulation and averaging those of the whole.
        rule: A `StepSizeRule`; `Scale()` by default.
        name: The optimizer's name.
        **kwargs: `learning_rate`, `weight_decay` and the arguments that all Keras optimizers have,
            in the place of those of `optimizer`.

    Raises:
        TypeError: if `rule` is none.
        ValueError: if the step of `optimizer` cannot be resized; at build, under a TensorFlow
            strategy of several replicas.

    Example:
    >>> import keras, finegrain as fg
    >>> weight = keras.Variable([3.0, 4.0], name="w")
    >>> optimizer = fg.optimizers.AdaptiveStepSize(keras.optimizers.SGD(1.0))
    >>> optimizer.apply([keras.ops.convert_to_tensor([1.0, 0.0])], [weight])
    >>> print(keras.ops.convert_to_numpy(weight).round(4))  # the first step is bounded
    [2.995 4.   ]

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

    # Whether it comes from a file of the estimator "drift", which is gone.
    _was_drift = False

    def __init__(
        self,
        optimizer: keras.optimizers.Optimizer | str | dict[str, Any],
        rule: StepSizeRule | None = None,
        *,
        name: str | None = "adaptive_step_size",
        **kwargs: Any,
    ) -> None:
        former = {name: kwargs.pop(name) for name in FORMER_ARGUMENTS if name in kwargs}
        if isinstance(rule, str):
            former["mode"], rule = rule, None
        if former:
            rule = former_rule(former)
            warn(f"AdaptiveStepSize({', '.join(f'{n}=...' for n in former)})", f"rule={rule!r}")
        rule = Scale() if rule is None else rule
        if not isinstance(rule, StepSizeRule):
            raise TypeError(
                "`rule` should be a rule of step sizes, such as finegrain.optimizers.Scale(). "
                f"Received: rule={rule!r}"
            )
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
        self.rule = rule
        self._given = Apart(optimizer)
        self._inner = Apart(self._at_rate_one(optimizer, template))

    def _at_rate_one(self, optimizer: Any, template: Template) -> Any:
        """Make one like `optimizer`, at learning rate 1, without what belongs to the whole.

        Weight decay, clipping, accumulation and averaging are done once, by the whole.
        """
        name = f"{self.name}_{template.config.get('name', template.kind)}"
        inner = template.make(_one, weight_decay=0.0, name=name)
        return optimizer._round(inner) if isinstance(optimizer, PerWeight) else inner

    def build(self, variables: Sequence[keras.Variable]) -> None:
        """Build the given optimizer, and create the state of the step sizes of `variables`."""
        if self.built:
            return
        refuse_replicas()
        variables = list(variables)
        self._inner.value.build(variables)
        if not self._inner.value.built:
            return  # its rules come from a file and do not fit, as it has said
        super().build(variables)
        rule = self.rule
        self._numbers = [
            self.add_variable((), dtype="float32", aggregation="only_first_replica", name=number)
            for number in rule.numbers
        ]
        slots = [[add_precise_slot(self, v, slot) for v in variables] for slot in rule.slots]
        self._first_slots, self._second_slots = [*slots, [], []][:2]

    @property
    def variables(self) -> list[keras.Variable]:
        """The optimizer's own variables, then those of the given one."""
        return [*self._variables, *self._inner.value.variables]

    def resized(self) -> Any:
        """Return the optimizer whose steps it resizes, as it was given."""
        return self._given.value  # as a property Keras would save it

    def _get_current_learning_rate(self) -> Any:
        rate = super()._get_current_learning_rate()
        return ops.convert_to_tensor(rate) * self.multiplier

    @property
    def multiplier(self) -> Any:
        """The current factor of the learning rate: a scalar tensor, 1 before the first step."""
        if not self.built:
            return ops.ones((), "float32")
        return self.rule.multiplier(self._numbers, self._first_slots)

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
        variables, lists = list(trainable_variables), backend.lists
        inner = self._inner.value
        with lists.untracked():
            before = lists.copies(variables)
            taken = ops.copy(ops.convert_to_tensor(inner._iterations))
            inner._backend_apply_gradients(list(grads), variables)
            backend.count_one(inner._iterations)
            indices = [self._get_variable_index(variable) for variable in variables]
            moves = self.rule.move(
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
        """Restore `before`, decay the weights at the rate just learned, and return copies."""
        lists = backend.lists
        lists.assign(variables, before)
        decaying = [variable for variable in variables if self._use_weight_decay(variable)]
        if decaying:
            super()._apply_weight_decay(decaying)
        return lists.copies(variables)

    def _apply_weight_decay(self, variables: Sequence[Any]) -> None:
        """Do nothing: weights decay later, once the size of the step is known."""

    def set_weights(self, weights: Sequence[Any]) -> None:
        """Set all state variables, in the order of `variables`."""
        set_state(self, weights)

    def states(self, weights: Sequence[keras.Variable]) -> list[dict[str, keras.Variable]]:
        """Find the state that each of `weights` depends on, for `PerWeight`: {slot: variable}."""
        names = {id(number): number.name for number in self._numbers}
        inner = self._inner.value
        own = seen_states(self, weights, self._variables, names=names)
        others = seen_states(
            inner, weights, inner.variables, prefix="inner_", first=len(self._variables)
        )
        return [mine | other for mine, other in zip(own, others, strict=True)]

    def save_own_variables(self, store: Any) -> None:
        """Write the state into `store`; that of a `PerWeight` under its weights' paths."""
        inner = self._inner.value
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
        """Read the state that `save_own_variables` wrote, on any backend.

        Raises:
            ValueError: if it was written for other weights.
        """
        inner = self._inner.value
        if self.built and self._was_drift:
            # Only once: from now on the rule's own state is saved.
            self._was_drift, store = False, self._with_averages(store)
        if not isinstance(inner, PerWeight) or not self.built:
            super().load_own_variables(store)
            return
        numbered = _numbered(store)
        own, rest = numbered[: len(self._variables)], numbered[len(self._variables) :]
        if [np.shape(array) for array in own] != [tuple(v.shape) for v in self._variables]:
            raise ValueError(
                f"The saved state of optimizer {self.name!r} is that of other weights or another "
                f"rule. Received: arrays of the shapes {[np.shape(array) for array in own]}"
            )
        for variable, array in zip(self._variables, own, strict=True):
            variable.assign(array)
        given = {n.removeprefix(_GIVEN): store[n] for n in store.keys() if n.startswith(_GIVEN)}  # noqa: SIM118
        if given:
            inner.load_own_variables(given)
        else:
            load_in_order(inner, rest)

    def _with_averages(self, store: Any) -> dict[str, Any]:
        """Convert the saved state of the estimator "drift", so that averages and way begin anew.

        That estimator had no averages, and its way was a different one.
        """
        own = [backend.host_array(variable) for variable in self._variables]
        saved = _numbered(store)
        scale = next(i for i, v in enumerate(self._variables) if v is self._numbers[0])
        own[: scale + 1] = saved[: scale + 1]
        rest = saved[scale + 1 + len(self._first_slots) :]
        return {str(place): array for place, array in enumerate([*own, *rest])}

    def get_config(self) -> dict[str, Any]:
        """Return the arguments that make an equal optimizer."""
        given, inner = self._given.value, self._inner.value
        if isinstance(given, PerWeight):
            optimizer = keras.saving.serialize_keras_object(given)
            # What is known of the weights, and may have changed since, is with the one at work.
            optimizer["config"] |= inner._config_of_rules()
        else:
            optimizer = Template(given).serialize()
        return super().get_config() | {
            "optimizer": optimizer,
            "rule": keras.saving.serialize_keras_object(self.rule),
        }

    @classmethod
    def from_config(
        cls, config: dict[str, Any], custom_objects: dict[str, Any] | None = None
    ) -> AdaptiveStepSize:
        """Make the optimizer that `get_config` describes."""
        config = dict(config)
        # PerWeight may make it while TensorFlow traces a step, where rates have no value.
        with backend.outside_of_graphs():
            for name in ("optimizer", "rule"):
                if name in config:
                    config[name] = keras.saving.deserialize_keras_object(
                        config[name], custom_objects
                    )
            former = {name: config.pop(name) for name in FORMER_ARGUMENTS if name in config}
            if former:  # a file of the first release
                config["rule"] = former_rule(former)
            optimizer = super().from_config(config, custom_objects)
        optimizer._was_drift = former.get("estimator") == "drift"
        return optimizer


# Begins the names of a PerWeight's state in a store.
_GIVEN = "given:"


def _numbered(store: Any) -> list[Any]:
    """Read the arrays that `store` has under numbers, in the order of the numbers."""
    return [store[str(place)] for place in range(sum(map(str.isdigit, store.keys())))]


def _one() -> float:
    return 1.0
