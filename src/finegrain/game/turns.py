"""Losses that take turns: each moves its weights at its own steps, and the others rest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras
from keras import ops

from finegrain.per_weight.optimizer import PerWeight
from finegrain.rules.rule import Rule
from finegrain.rules.selection import Weights


@keras.saving.register_keras_serializable(package="finegrain")
class InTurn:
    """A multiplier of learning rates: 1 at the steps of some turns, 0 at those of the others.

    Args:
        turns: Indices of turns, each < `number`.
        number: How many turns there are. Step t is of turn t modulo `number`.
    """

    def __init__(self, turns: Sequence[int], number: int) -> None:
        self.turns, self.number = list(turns), number

    def __call__(self, step: Any) -> Any:
        """Return the multiplier at a step, a scalar."""
        turn = step % self.number
        hits = [ops.cast(ops.equal(turn, own), "float32") for own in self.turns]
        return sum(hits, ops.zeros(()))

    def __repr__(self) -> str:
        return f"InTurn({self.turns}, {self.number})"

    def get_config(self) -> dict[str, Any]:
        """Return the arguments that make an equal multiplier."""
        return {"turns": self.turns, "number": self.number}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> InTurn:
        """Make the multiplier that `get_config` describes."""
        return cls(**config)


def checked_turns(turns: Any, losses: Sequence[str]) -> list[list[str]] | None:
    """Return the losses of each turn, or `None` where all act in each step.

    Raises:
        ValueError: if a loss is in no turn, or a turn has a loss that there is not.
    """
    if turns is None or turns is False:
        return None
    if turns is True:
        turns = [[loss] for loss in losses]
    if not isinstance(turns, list | tuple) or not turns:
        raise ValueError(
            "`turns` should be True, for each loss in its turn, or a list of the losses of each "
            f"turn. Received: turns={turns!r}"
        )
    lists = [[turn] if isinstance(turn, str) else list(turn) for turn in turns]
    named = {loss for turn in lists for loss in turn}
    if not all(lists) or named != set(losses):
        raise ValueError(
            f"Each turn should have a loss of {list(losses)}, and each loss a turn. "
            f"Received: turns={turns!r}"
        )
    return lists


def resting(
    optimizer: Any,
    turns: Sequence[Sequence[str]],
    reach: Mapping[str, Sequence[int]],
    variables: Sequence[keras.Variable],
) -> PerWeight:
    """Make an optimizer that lets weights rest, with their slots, when it is not their turn.

    Args:
        optimizer: What `compile` was given.
        turns: The losses of each turn.
        reach: For each loss, the indices of the variables that it reaches.
        variables: The trainable weights.
    """
    own: dict[tuple[int, ...], list[keras.Variable]] = {}
    for index, variable in enumerate(variables):
        active = tuple(
            turn for turn, losses in enumerate(turns) if any(index in reach[one] for one in losses)
        )
        own.setdefault(active, []).append(variable)
    rules = [
        Rule(
            Weights(weights, " and ".join(f"turn {turn}" for turn in active)),
            learning_rate_multiplier=InTurn(active, len(turns)),
            cumulative=True,
        )
        for active, weights in own.items()
        if len(active) < len(turns)
    ]
    if not isinstance(optimizer, PerWeight):
        return PerWeight(optimizer, rules)
    known = [live.rule for live in optimizer._book.rules]
    if any(isinstance(rule.learning_rate_multiplier, InTurn) for rule in known):
        return optimizer  # from a file
    return PerWeight(
        optimizer._book.template.optimizer, [*known, *rules], nonfinite=optimizer.nonfinite
    )
