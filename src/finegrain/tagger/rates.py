"""How fast the parts of a tagger's model learn."""

from __future__ import annotations

import keras

from finegrain import recipes
from finegrain._checks import checked_number, checked_positive
from finegrain.per_weight.optimizer import PerWeight
from finegrain.rules.rule import Rule
from finegrain.tagger.backbones import HiddenStates

TRANSITIONS = r"crf/(transitions|start|end)$"


class Rates:
    """Learning rates: of all that is new, of a pretrained backbone's levels, and of the CRF.

    Args:
        learning_rate: Peak rate of the backbone's last block or, without a backbone, of the
            encoder. It warms up and decays along a cosine. `None` for 1e-4 and 2e-3.
        head_multiplier: What stands above a backbone learns at learning rate × this.
        crf_multiplier: The transitions learn at learning rate × this.
        layer_decay: Each block of a backbone learns at the rate of the one above it × this.
        weight_decay: Of a backbone's kernels and embeddings.
    """

    def __init__(
        self,
        learning_rate: float | None,
        *,
        head_multiplier: float,
        crf_multiplier: float,
        layer_decay: float,
        weight_decay: float,
    ) -> None:
        self.learning_rate = (
            None if learning_rate is None else checked_number("learning_rate", learning_rate)
        )
        self.head_multiplier = checked_positive(
            "head_learning_rate_multiplier", head_multiplier, zero=True
        )
        self.crf_multiplier = checked_number("crf_learning_rate_multiplier", crf_multiplier)
        self.layer_decay = checked_positive("layer_decay", layer_decay)
        self.weight_decay = checked_number("weight_decay", weight_decay)

    def to_dict(self) -> dict[str, float | None]:
        """Return the arguments."""
        return dict(vars(self))

    def optimizer(self, model: keras.Model, backbone: HiddenStates | None, steps: int) -> PerWeight:
        """Make the optimizer of a training of so many steps."""
        rate = self.learning_rate
        if rate is None:
            rate = 2e-3 if backbone is None else 1e-4
        schedule = keras.optimizers.schedules.CosineDecay(
            rate * 0.1,
            decay_steps=steps,
            warmup_target=rate,
            warmup_steps=max(steps // (20 if backbone is None else 10), 1),
        )
        transitions = Rule(
            TRANSITIONS, learning_rate_multiplier=self.crf_multiplier, name="transitions"
        )
        has_transitions = any(weight.path.endswith("/transitions") for weight in model.weights)
        rules = [transitions] if has_transitions else []
        if backbone is None:
            return PerWeight(keras.optimizers.Adam(schedule, global_clipnorm=5.0), rules)
        known = {id(weight) for weight in backbone.weights}
        head = [
            layer for layer in model.layers if layer.weights and id(layer.weights[0]) not in known
        ]
        return PerWeight(
            keras.optimizers.AdamW(schedule, weight_decay=self.weight_decay, global_clipnorm=1.0),
            [
                *recipes.layer_decay(backbone.levels(), self.layer_decay),
                *recipes.no_weight_decay(model),
                Rule(head, learning_rate_multiplier=self.head_multiplier, name="head"),
                *rules,
            ],
        )
