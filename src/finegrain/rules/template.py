"""An optimizer as a pattern, from which others like it are made."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras

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


DECAYS = ("weight_decay", "adam_weight_decay")
"""What optimizers call their weight decay; the second is Muon's, for all but matrices."""


class Template:
    """An optimizer that has not been built, and what it was made with.

    Args:
        optimizer: A Keras optimizer, or its name or config.

    Raises:
        ValueError: if it is a wrapper round other optimizers, or already built.
    """

    def __init__(self, optimizer: keras.optimizers.Optimizer | str | dict[str, Any]) -> None:
        self.optimizer = keras.optimizers.get(optimizer)
        if hasattr(self.optimizer, "inner_optimizer") or hasattr(self.optimizer, "optimizers"):
            raise ValueError(
                "PerWeight and Rule take the optimizer that moves the weights, not a wrapper. Put "
                "PerWeight inside: `LossScaleOptimizer(PerWeight(...))`; and say with rules what "
                f"MultiOptimizer would say. Received: optimizer={optimizer!r}"
            )
        if self.optimizer.built:
            raise ValueError(
                "PerWeight and Rule take an optimizer that has not been built: the state of this "
                f"one would be lost. Pass a new one. Received: optimizer={optimizer!r}"
            )
        if "learning_rate" not in self.optimizer.get_config():
            raise ValueError(
                "PerWeight and Rule take an optimizer with a learning rate of its own, such as "
                f"keras.optimizers.Adam(1e-3). Received: optimizer={optimizer!r}"
            )
        # Read now: within a TensorFlow graph, where weights may be built, a rate has no value.
        self.config: dict[str, Any] = self.optimizer.get_config()

    @property
    def kind(self) -> str:
        """The public name of the optimizer's class."""
        return self.optimizer.__class__.__name__

    @property
    def hyperparameters(self) -> set[str]:
        """The names of the arguments that belong to each weight's step, such as `beta_1`."""
        others = {*SHARED_ARGUMENTS, "learning_rate", "name"}
        return {
            name for name in self.config if name not in others and hasattr(self.optimizer, name)
        }

    def __repr__(self) -> str:
        return f"{self.kind}({self.learning_rate!r})"

    @property
    def learning_rate(self) -> Any:
        """The learning rate as it was given: a float, a schedule or a function."""
        rate = self.config["learning_rate"]
        return rate if isinstance(rate, float) else self.optimizer._learning_rate

    def set(self, name: str, value: Any) -> None:
        """Set one of the hyperparameters."""
        setattr(self.optimizer, name, value)
        self.config[name] = value

    def shared_arguments(self) -> dict[str, Any]:
        """Return the arguments that belong to all weights together, by name."""
        return {key: self.config.get(key, value) for key, value in SHARED_ARGUMENTS.items()}

    def make(
        self,
        learning_rate: Callable[[], Any],
        weight_decay: float | None = None,
        *,
        name: str | None = None,
    ) -> keras.optimizers.Optimizer:
        """Make an optimizer like this one, but for its learning rate and the shared arguments.

        Args:
            learning_rate: Gives the rate at each step.
            weight_decay: Takes the place of its own, with all that was excluded from it.
            name: Its name; by default this one's.
        """
        config = dict(self.config)
        if name is not None and "name" in config:
            config["name"] = name
        config |= {key: value for key, value in SHARED_ARGUMENTS.items() if key in config}
        config["learning_rate"] = learning_rate
        undecayed = "weight_decay" in config and config["weight_decay"] is None
        if undecayed:
            # AdamW takes no `None`, though the attribute may be that.
            config["weight_decay"] = 0.0
        optimizer = type(self.optimizer).from_config(config)
        if undecayed:
            optimizer.weight_decay = None
        if weight_decay is not None:
            for attribute in DECAYS:
                if hasattr(optimizer, attribute):
                    setattr(optimizer, attribute, weight_decay or None)
            return optimizer
        # What `exclude_from_weight_decay` sets is not in the config.
        for attribute in ("_exclude_from_weight_decay", "_exclude_from_weight_decay_pattern"):
            if hasattr(self.optimizer, attribute):
                setattr(optimizer, attribute, getattr(self.optimizer, attribute))
        return optimizer

    def decays(self, weight: keras.Variable) -> bool:
        """Return whether `weight` may decay: `exclude_from_weight_decay` does not exclude it."""
        return self.optimizer._use_weight_decay(weight)

    @property
    def resized(self) -> Any:
        """The optimizer whose steps this one resizes, such as `AdaptiveStepSize`, or `None`."""
        resized = getattr(self.optimizer, "resized", None)
        return None if resized is None else resized()

    def _leaves_to_adamw(self, weight: keras.Variable) -> Any:
        """Return Keras's Muon, if it is at work and leaves `weight` to its AdamW, or `None`."""
        optimizer = self.optimizer if self.resized is None else self.resized
        is_muon = isinstance(optimizer, keras.optimizers.Muon)
        return optimizer if is_muon and optimizer._should_use_adamw(weight) else None

    def mover(self, weight: keras.Variable) -> str:
        """Return the name of the class whose formula moves `weight`."""
        inside = self.resized is None and self._leaves_to_adamw(weight) is not None
        return "AdamW" if inside else self.kind

    def ratio(self, weight: keras.Variable) -> float:
        """Return what the optimizer multiplies its learning rate by where it moves `weight`."""
        muon = self._leaves_to_adamw(weight)
        return 1.0 if muon is None else float(muon.adam_lr_ratio)

    def weight_decay(self, weight: keras.Variable) -> float:
        """Return the share of `weight` that each step takes off, per unit of learning rate."""
        muon = None if self.resized is not None else self._leaves_to_adamw(weight)
        decay = self.optimizer.weight_decay if muon is None else muon.adam_weight_decay
        return float(decay) if decay and self.decays(weight) else 0.0

    def serialize(self, **changes: Any) -> dict[str, Any]:
        """Serialize the optimizer as JSON that every backend can read.

        On torch, Keras puts internal classes in the place of its public ones, and would write
        their names.

        Args:
            **changes: Arguments to replace.
        """
        kind = type(self.optimizer)
        serialized = keras.saving.serialize_keras_object(self.optimizer)
        serialized["config"] = self.config | changes
        # One optimizer may be the pattern of several, which are not one object when loaded.
        serialized.pop("shared_object_id", None)
        if kind.__module__.startswith("keras.src.backend."):
            named = (k for k in kind.__mro__ if getattr(keras.optimizers, k.__name__, None) is k)
            serialized |= {
                "module": "keras.optimizers",
                "class_name": next(named).__name__,
                "registered_name": None,
            }
        return serialized
