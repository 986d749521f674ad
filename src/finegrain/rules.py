"""Rules: which weights, and what is different about their learning."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from numbers import Real
from typing import Any

import keras
import numpy as np


@keras.saving.register_keras_serializable(package="finegrain")
class Rule:
    """Selects weights and says how they learn.

    A rule sets only what it names. Where several rules select one weight, the last rule that
    names a property decides it.

    Args:
        weights: A regular expression, or a list of them. A weight is selected when `re.search`
            finds one of them in its path: `"crf"` selects `tagger/crf/transitions`, `"bias$"`
            every bias. Paths are those that `variable.path` and `PerWeight.describe` show.
        learning_rate_multiplier: A finite number ≥ 0. The weights learn at base learning rate ×
            multiplier. 0 holds them where they are (except under Ftrl, which divides by the
            rate, and, to rounding, under ScheduleFreeAdamW).
        name: The rule's name in tables and for `PerWeight.set_multiplier`. Defaults to the
            expression itself.

    Raises:
        TypeError: if `weights` is neither a regular expression nor a list of them.
        ValueError: if an expression is empty or malformed, or the multiplier is negative or not
            finite, or the rule sets nothing.

    Example:
    >>> import finegrain as fg
    >>> rule = fg.Rule(["embeddings", "pooler/"], learning_rate_multiplier=0.1)
    >>> rule
    Rule(['embeddings', 'pooler/'], learning_rate_multiplier=0.1)
    >>> rule.name
    'embeddings, pooler/'

    References:
        Su Jianlin, Layer-wise learning rates and free gradients, 2019,
        https://kexue.fm/archives/6418
    """

    def __init__(
        self,
        weights: str | Sequence[str],
        *,
        learning_rate_multiplier: float | None = None,
        name: str | None = None,
    ) -> None:
        self.patterns = _checked_patterns(weights)
        self.weights = weights
        if learning_rate_multiplier is None:
            raise ValueError(
                "A Rule should set something: give `learning_rate_multiplier`. "
                f"Received: Rule({weights!r})"
            )
        if name is not None and not isinstance(name, str):
            raise TypeError(f"A Rule's name should be a string. Received: name={name!r}")
        self.learning_rate_multiplier = checked_multiplier(learning_rate_multiplier)
        self.name = ", ".join(self.patterns) if name is None else name

    def selects(self, variable: keras.Variable) -> bool:
        """Whether the rule speaks of `variable`."""
        return any(re.search(pattern, variable.path) for pattern in self.patterns)

    def get_config(self) -> dict[str, Any]:
        """The arguments that make an equal rule."""
        return {
            "weights": self.weights if isinstance(self.weights, str) else self.patterns,
            "learning_rate_multiplier": self.learning_rate_multiplier,
            "name": self.name,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Rule:
        """The rule that `get_config` describes."""
        return cls(**config)

    def __repr__(self) -> str:
        weights = self.weights if isinstance(self.weights, str) else self.patterns
        return f"Rule({weights!r}, learning_rate_multiplier={self.learning_rate_multiplier})"


def _checked_patterns(weights: str | Sequence[str]) -> list[str]:
    patterns = [weights] if isinstance(weights, str) else weights
    if not isinstance(patterns, (list, tuple)) or not all(isinstance(p, str) for p in patterns):
        raise TypeError(
            "A Rule selects weights by a regular expression or a list of regular expressions, "
            f"as in Rule('crf', ...). Received: weights={weights!r}"
        )
    if not patterns or not all(patterns):
        raise ValueError(
            "A Rule needs at least one regular expression and none of them empty (use '.' for "
            f"all weights). Received: weights={weights!r}"
        )
    for pattern in patterns:
        try:
            re.compile(pattern)
        except re.error as error:
            raise ValueError(
                f"A Rule's expression should be a valid regular expression, but {error}. "
                f"Received: weights={pattern!r}"
            ) from error
    return list(patterns)


def checked_multiplier(value: float) -> float:
    """`value` as a float, or an error that says what a multiplier may be."""
    if not isinstance(value, Real):
        raise TypeError(
            "`learning_rate_multiplier` should be a finite number >= 0. "
            f"Received: learning_rate_multiplier={value!r}"
        )
    multiplier = float(value)
    # Multipliers live in float32; the comparison also refuses NaN.
    if not 0 <= multiplier <= float(np.finfo(np.float32).max):
        raise ValueError(
            "`learning_rate_multiplier` should be a finite number >= 0. "
            f"Received: learning_rate_multiplier={value!r}"
        )
    return multiplier


def rules_of(rules: Sequence[Rule], variable: keras.Variable) -> tuple[int, ...]:
    """Indices of the rules that select `variable`, in order."""
    return tuple(index for index, rule in enumerate(rules) if rule.selects(variable))


def check_rules_select(rules: Sequence[Rule], variables: Iterable[keras.Variable]) -> None:
    """Raises for the first expression that selects none of `variables`: it would do nothing."""
    paths = [variable.path for variable in variables]
    for rule in rules:
        for pattern in rule.patterns:
            if any(re.search(pattern, path) for path in paths):
                continue
            nearest = sorted(paths, key=lambda path: -_similarity(pattern, path))
            raise ValueError(
                f"{rule!r}: the expression {pattern!r} selects no trainable weight. Expressions "
                f"are searched in the weights' paths; the nearest of {len(paths)} are: "
                f"{nearest[:5]}. Correct the expression, remove it, or make its layer trainable "
                "before the optimizer is built."
            )


def _similarity(pattern: str, path: str) -> float:
    return difflib.SequenceMatcher(None, pattern, path).ratio()
