"""What PerWeight consists of: groups of weights, each with an optimizer of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras

from finegrain.rules import Rule

# What belongs to all weights together stays with PerWeight; its groups run without it.
SHARED_ARGUMENTS: dict[str, Any] = {
    "clipnorm": None,
    "global_clipnorm": None,
    "clipvalue": None,
    "use_ema": False,
    "ema_momentum": 0.99,
    "ema_overwrite_frequency": None,
    "loss_scale_factor": None,
    "gradient_accumulation_steps": None,
}


class Group:
    """The weights whose multiplier one rule (or none) decides, and what moves them."""

    def __init__(self, optimizer: keras.optimizers.Optimizer) -> None:
        self.optimizer = optimizer
        self.weights: list[keras.Variable] = []


class State:
    """What PerWeight keeps out of Keras's sight.

    Keras stores every optimizer that it finds in a list among another optimizer's attributes,
    which would write the groups' state to the file a second time, and its callbacks set the
    learning rates of any attribute called `optimizers` or `inner_optimizer`.
    """

    def __init__(
        self, template: keras.optimizers.Optimizer, config: dict[str, Any], rules: Sequence[Rule]
    ) -> None:
        self.template = template
        self.config = config
        self.rules = list(rules)
        self.multipliers: list[keras.Variable] = []
        self.groups: list[Group] = []
        # (path, shape, indices of the rules that select it) of each weight of a saved model.
        self.saved_selection: list[tuple[str, list[int], list[int]]] = []
        self.selected: list[tuple[int, ...]] = []
        self.group_of: dict[Any, Group] = {}

    def group_optimizer(self, learning_rate: Callable[[], Any]) -> keras.optimizers.Optimizer:
        """A new optimizer like the given one, but for its learning rate and what is shared."""
        config = dict(self.config)
        for key, default in SHARED_ARGUMENTS.items():
            if key in config:
                config[key] = default
        config["learning_rate"] = learning_rate
        optimizer = type(self.template).from_config(config)
        # What `exclude_from_weight_decay` sets is not in the config.
        for attribute in ("_exclude_from_weight_decay", "_exclude_from_weight_decay_pattern"):
            if hasattr(self.template, attribute):
                setattr(optimizer, attribute, getattr(self.template, attribute))
        return optimizer

    def weight_decay(self, weight: keras.Variable) -> float:
        """The share of `weight` that is taken off at each step, per unit of learning rate."""
        decay = self.template.weight_decay
        return float(decay) if decay and self.template._use_weight_decay(weight) else 0.0


def serialize_optimizer(optimizer: keras.optimizers.Optimizer) -> dict[str, Any]:
    """The optimizer as JSON that every backend can read.

    On torch, Keras puts classes of its own in the place of its public ones, and would name them.
    """
    serialized = keras.saving.serialize_keras_object(optimizer)
    kind = type(optimizer)
    if kind.__module__.startswith("keras.src.backend."):
        public = next(k for k in kind.__mro__ if getattr(keras.optimizers, k.__name__, None) is k)
        serialized |= {
            "module": "keras.optimizers",
            "class_name": public.__name__,
            "registered_name": None,
        }
    return serialized


def check_arguments(optimizer: keras.optimizers.Optimizer, rules: Sequence[Rule]) -> None:
    """Raises for an optimizer or rules that PerWeight cannot work with."""
    if hasattr(optimizer, "inner_optimizer") or hasattr(optimizer, "optimizers"):
        raise ValueError(
            "PerWeight takes the optimizer that moves the weights, not a wrapper. To combine them "
            "put PerWeight inside: `LossScaleOptimizer(PerWeight(...))`. "
            f"Received: optimizer={optimizer!r}"
        )
    if optimizer.built:
        raise ValueError(
            "PerWeight takes an optimizer that has not been built: the state of this one would "
            f"be lost. Pass a new one. Received: optimizer={optimizer!r}"
        )
    if not isinstance(rules, Sequence):
        raise TypeError(f"`rules` should be a list of `finegrain.Rule`. Received: rules={rules!r}")
    for rule in rules:
        if not isinstance(rule, Rule):
            raise TypeError(
                f"`rules` should be a list of `finegrain.Rule`. Received: {rule!r} in {rules!r}"
            )
    names = [rule.name for rule in rules]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise ValueError(
            f"Rules should have different names; give one of them `name=`. Received: {repeated}"
        )
