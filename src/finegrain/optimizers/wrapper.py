"""Wrapper: what optimizers share that take the steps of another one and make of them their own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras

from finegrain._apart import Apart
from finegrain._backend import backend
from finegrain.per_weight.optimizer import PerWeight
from finegrain.per_weight.slots import seen_states, set_state
from finegrain.rules.template import Template

# Begins the names of a PerWeight's state in a store.
_GIVEN = "given:"


class Wrapper(keras.optimizers.Optimizer):
    """An optimizer that goes round another one.

    The optimizer that it was given is a pattern: the one at work inside is made like it, and
    does what belongs to each weight's step, weight decay included, at the rate of the whole.
    Clipping, accumulation, loss scaling and averaging are done once, by the whole.

    A subclass defines `_backend_update_step`, which calls `_take_step`, and makes its own state in
    `_add_state`, as attributes: lists parallel to the weights, or single variables.

    Args:
        optimizer: A Keras optimizer, not yet built, or its name or config, or `PerWeight`.
        refused: The optimizers that cannot be inside: {class name: reason}.
        name: The optimizer's name.
        kwargs: `learning_rate`, `weight_decay` and the arguments that all Keras optimizers have,
            in the place of those of `optimizer`.

    Raises:
        TypeError: if an argument is unknown.
        ValueError: if `optimizer` cannot be inside; at build, under a TensorFlow strategy of
            several replicas.
    """

    def __init__(
        self,
        optimizer: keras.optimizers.Optimizer | str | dict[str, Any],
        refused: Mapping[str, str],
        name: str | None,
        kwargs: dict[str, Any],
    ) -> None:
        kind = type(self).__name__
        given = _checked(optimizer, refused, kind)
        rules = isinstance(given, PerWeight)
        template = given._book.template if rules else Template(given)
        arguments = template.shared_arguments() | {"learning_rate": template.learning_rate}
        unknown = sorted(set(kwargs) - {*arguments, "weight_decay"})
        if unknown:
            raise TypeError(f"{kind} takes no arguments {unknown}. Received: {kwargs!r}")
        decay = {"weight_decay": kwargs["weight_decay"]} if "weight_decay" in kwargs else {}
        others = {key: value for key, value in kwargs.items() if key != "weight_decay"}
        super().__init__(name=name, **arguments | others)
        # What `exclude_from_weight_decay` was told is not in a config.
        for attribute in ("_exclude_from_weight_decay", "_exclude_from_weight_decay_pattern"):
            if hasattr(template.optimizer, attribute):
                setattr(self, attribute, getattr(template.optimizer, attribute))

        def rate() -> Any:
            return self._get_current_learning_rate()

        inner_name = f"{self.name}_{template.config.get('name', template.kind)}"
        inner: Any = template.make(rate, name=inner_name)
        for attribute, value in decay.items():
            setattr(inner, attribute, value)
        self._given = Apart(given)
        self._inner = Apart(given._round(inner) if rules else inner)

    @property
    def weight_decay(self) -> Any:
        """The weight decay of the optimizer inside, per unit of learning rate, or `None`."""
        return self._inner.value.weight_decay if "_inner" in self.__dict__ else None

    @weight_decay.setter
    def weight_decay(self, value: Any) -> None:
        if "_inner" in self.__dict__:  # Keras sets it first
            self._inner.value.weight_decay = value

    def build(self, variables: Sequence[keras.Variable]) -> None:
        """Build the optimizer inside, and create the state of this one for `variables`."""
        if self.built:
            return
        kind, replicas = type(self).__name__, backend.number_of_replicas()
        if replicas > 1:
            raise ValueError(
                f"{kind} keeps weights or steps of the past, and under a TensorFlow strategy each "
                "replica would keep its own. Train on one device, or with keras.distribution on "
                f"JAX. Received: a strategy of {replicas} replicas"
            )
        variables = list(variables)
        self._inner.value.build(variables)
        if not self._inner.value.built:
            return  # its rules come from a file and do not fit, as it has said
        super().build(variables)
        self._add_state(variables)

    def _add_state(self, variables: Sequence[keras.Variable]) -> None:
        """Create the subclass's own state."""
        raise NotImplementedError

    def _compute_first(self, gradients: Sequence[Any]) -> None:
        """Have all gradients computed before any weight moves.

        In a game those of one player depend on the weights of the other, and moved ones would make
        another method of it.
        """
        dense = [backend.dense(gradient) for gradient in gradients]
        backend.compute_before_updates(dense, self._trainable_variables)

    def _take_step(self, gradients: list[Any], variables: list[Any]) -> None:
        """Move `variables` as the optimizer inside does, and decay them."""
        inner = self._inner.value
        if isinstance(inner, PerWeight):
            inner._backend_apply_gradients(gradients, variables)
        else:
            # Keras's torch optimizers fail on decaying an empty list.
            decaying = [variable for variable in variables if self._use_weight_decay(variable)]
            if decaying:
                inner._apply_weight_decay(decaying)
            inner._backend_update_step(gradients, variables, inner.learning_rate)
        backend.count_one(inner._iterations)

    def _apply_weight_decay(self, variables: Sequence[Any]) -> None:
        """Do nothing: weight decay is a part of the step inside."""

    def exclude_from_weight_decay(
        self, var_list: Sequence[Any] | None = None, var_names: Sequence[str] | None = None
    ) -> None:
        """Exclude weights from weight decay, as in every Keras optimizer; before the first step.

        Args:
            var_list: The weights.
            var_names: Parts of the names of weights.
        """
        if isinstance(self._inner.value, PerWeight):
            self._inner.value.exclude_from_weight_decay(var_list, var_names)
        else:
            super().exclude_from_weight_decay(var_list, var_names)

    @property
    def variables(self) -> list[keras.Variable]:
        """The optimizer's own variables, then those of the one inside."""
        return [*self._variables, *self._inner.value.variables]

    def set_weights(self, weights: Sequence[Any]) -> None:
        """Set all state variables, in the order of `variables`."""
        set_state(self, weights)

    def states(self, weights: Sequence[keras.Variable]) -> list[dict[str, keras.Variable]]:
        """Find the state that each of `weights` depends on, for `PerWeight`: {slot: variable}."""
        inner, count = self._inner.value, len(self._variables)
        own = seen_states(self, weights, self._variables)
        others = seen_states(inner, weights, inner.variables, prefix="inner_", first=count)
        return [mine | other for mine, other in zip(own, others, strict=True)]

    def save_own_variables(self, store: Any) -> None:
        """Write the state into `store`; that of a `PerWeight` under its weights' paths."""
        if not isinstance(self._inner.value, PerWeight):
            super().save_own_variables(store)
            return
        for place, variable in enumerate(self._variables):
            store[str(place)] = backend.host_array(variable)
        state: dict[str, Any] = {}
        self._inner.value.save_own_variables(state)
        for name, array in state.items():
            store[f"{_GIVEN}{name}"] = array

    def load_own_variables(self, store: Any) -> None:
        """Read the state that `save_own_variables` wrote, on any backend.

        Raises:
            ValueError: if it was written for other weights.
        """
        if not isinstance(self._inner.value, PerWeight) or not self.built:
            super().load_own_variables(store)
            return
        names = list(store.keys())
        saved = [store[str(place)] for place in range(sum(map(str.isdigit, names)))]
        shapes = [tuple(array.shape) for array in saved]
        if shapes != [tuple(variable.shape) for variable in self._variables]:
            raise ValueError(
                f"The saved state of optimizer {self.name!r} is that of other weights. "
                f"Received: arrays of the shapes {shapes}"
            )
        for variable, array in zip(self._variables, saved, strict=True):
            variable.assign(array)
        given = {n.removeprefix(_GIVEN): store[n] for n in names if n.startswith(_GIVEN)}
        self._inner.value.load_own_variables(given)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments that make an equal optimizer."""
        given = self._given.value
        if isinstance(given, PerWeight):
            optimizer = keras.saving.serialize_keras_object(given)
            # What is known of the weights, and may have changed since, is with the one at work.
            optimizer["config"] |= self._inner.value._config_of_rules()
        else:
            optimizer = Template(given).serialize()
        return super().get_config() | {"optimizer": optimizer}

    @classmethod
    def from_config(
        cls, config: dict[str, Any], custom_objects: dict[str, Any] | None = None
    ) -> Any:
        """Make the optimizer that `get_config` describes."""
        # PerWeight may make it while TensorFlow traces a step, where rates have no value.
        with backend.outside_of_graphs():
            optimizer = keras.saving.deserialize_keras_object(config["optimizer"], custom_objects)
            return super().from_config(config | {"optimizer": optimizer}, custom_objects)


def _checked(optimizer: Any, refused: Mapping[str, str], kind: str) -> Any:
    """Return the optimizer, if it can be inside; else raise an error."""
    found = keras.optimizers.get(optimizer)
    if found is None:
        raise ValueError(
            f"{kind} goes round an optimizer, such as keras.optimizers.Adam(1e-3), its name or its "
            f"config. Received: optimizer={optimizer!r}"
        )
    if hasattr(found, "inner_optimizer") or hasattr(found, "optimizers"):
        raise ValueError(
            f"{kind} takes the optimizer that moves the weights, not a wrapper. Put it inside: "
            f"`LossScaleOptimizer({kind}(...))`. Received: optimizer={optimizer!r}"
        )
    if found.built:
        raise ValueError(
            f"{kind} takes an optimizer that has not been built: the state of this one would be "
            f"lost. Pass a new one. Received: optimizer={optimizer!r}"
        )
    if isinstance(found, PerWeight) and found.nonfinite != "propagate":
        raise ValueError(
            f"Steps that are not finite are dropped as a whole: put {kind} inside, "
            f"PerWeight({kind}(...), rules, nonfinite=...). Received: nonfinite={found.nonfinite!r}"
        )
    moving = [t.optimizer for t in found._book.templates()] if isinstance(found, PerWeight) else []
    for mover in moving or [found]:
        for name in {base.__name__ for base in type(mover).__mro__} & set(refused):
            raise ValueError(
                f"{kind} cannot go round {name}: {refused[name]}. Take another optimizer, such as "
                f"keras.optimizers.Adam(1e-3). Received: optimizer={optimizer!r}"
            )
    return found
