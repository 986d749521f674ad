"""The optimizers that AdaptiveStepSize can wrap: those whose steps can be resized."""

from __future__ import annotations

from typing import Any

import keras

from finegrain._backend import backend
from finegrain.per_weight.optimizer import PerWeight

# Reasons why an optimizer's step cannot be resized.
REFUSED = {
    "Lion": "it moves every weight by the same amount, however small its gradient",
    "Lamb": "it sizes each step by the weight already",
    "Adafactor": "with `relative_step=True` it chooses its learning rate itself",
    "Ftrl": "it computes weights from all gradients, not steps from the last weights",
    "ScheduleFreeAdamW": "it averages the weights, and its steps assume that it moved them",
    "ExponentiatedGradient": "it multiplies weights, so that its steps are no multiples of a rate",
    "AdaptiveStepSize": "its step sizes are learned already",
}


def checked_optimizer(optimizer: Any) -> keras.optimizers.Optimizer:
    """Return the optimizer, if its steps can be resized; else raise an error."""
    found = keras.optimizers.get(optimizer)
    if found is None:
        raise ValueError(
            "AdaptiveStepSize goes round an optimizer, such as keras.optimizers.Adam(1e-3), its "
            f"name or its config. Received: optimizer={optimizer!r}"
        )
    if isinstance(found, PerWeight):
        _refuse_kind(found._book.template.optimizer)
        _refuse_rules(found)
    else:
        _refuse_kind(found)
        if hasattr(found, "inner_optimizer") or hasattr(found, "optimizers"):
            raise ValueError(
                "AdaptiveStepSize takes the optimizer that moves the weights, not a wrapper. Put "
                "it inside: `LossScaleOptimizer(AdaptiveStepSize(...))`. "
                f"Received: optimizer={optimizer!r}"
            )
    if found.built:
        raise ValueError(
            "AdaptiveStepSize takes an optimizer that has not been built: the state of this one "
            f"would be lost. Pass a new one. Received: optimizer={optimizer!r}"
        )
    return found


def _refuse_kind(optimizer: Any) -> None:
    names = {kind.__name__ for kind in type(optimizer).__mro__}
    for name, reason in REFUSED.items():
        if name in names and (name != "Adafactor" or optimizer.relative_step):
            raise ValueError(
                f"AdaptiveStepSize resizes steps, and those of {name} cannot be: {reason}. Take "
                "another optimizer, such as keras.optimizers.Adam(1e-3). "
                f"Received: optimizer={optimizer!r}"
            )


def _refuse_rules(optimizer: PerWeight) -> None:
    rules = [live.rule for live in optimizer._book.rules]
    for rule in rules:
        for name in ("learning_rate", "weight_decay", "template"):
            if getattr(rule, name, None) is not None:
                raise ValueError(
                    f"Round PerWeight, AdaptiveStepSize keeps the ratios of multipliers; a rule's "
                    f"`{name}` stands beside them. Put it inside: "
                    f"PerWeight(AdaptiveStepSize(...), rules). Received: {rule!r}"
                )
    if optimizer.nonfinite != "propagate":
        raise ValueError(
            "Steps that are not finite are dropped as a whole: put AdaptiveStepSize inside, "
            "PerWeight(AdaptiveStepSize(...), rules, nonfinite=...). "
            f"Received: nonfinite={optimizer.nonfinite!r}"
        )


def refuse_replicas() -> None:
    """Raise an error under a TensorFlow strategy of several replicas."""
    replicas = backend.number_of_replicas()
    if replicas > 1:
        raise ValueError(
            "AdaptiveStepSize compares gradients with past steps, and under a TensorFlow strategy "
            "each replica has but a share of the gradient. Train on one device, or with "
            f"keras.distribution on JAX. Received: a strategy of {replicas} replicas"
        )
