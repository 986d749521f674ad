"""Rules, which select weights and say how they learn."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import ops

from finegrain import _deprecated
from finegrain._checks import checked_number
from finegrain.gradients.function import as_transforms
from finegrain.gradients.transform import GradientTransform
from finegrain.rules.selection import (
    Selector,
    Weights,
    checked_selectors,
    exactly,
    is_variable,
    label,
    no_weight_selected,
    portable,
    select,
    select_moved,
    weight_path,
)
from finegrain.rules.template import SHARED_ARGUMENTS, Template

Rate = float | keras.optimizers.schedules.LearningRateSchedule | Callable[[Any], Any]
Transforms = GradientTransform | Callable[..., Any] | Sequence[Any]


@keras.saving.register_keras_serializable(package="finegrain")
class Rule:
    r"""Selects weights and says how they learn.

    A rule sets only what it names. Several rules may select one weight: for each property the
    last rule that names it decides. `learning_rate_multiplier` and `learning_rate` are two ways
    to say one property, the rate; a `cumulative` multiplier does not replace what the rules before
    it say of the rate, but multiplies it. Of gradient transforms, those of all rules apply, in
    order.

    Args:
        weights: A regular expression, which `re.search` should find in the weight's path
            (`"crf"` selects `tagger/crf/transitions`, `"bias$"` every bias); a layer or model; a
            variable; a function of a variable that returns a bool; or a list of these, of which
            any selects.
        learning_rate_multiplier: A finite number ≥ 0, or a schedule: a Keras
            `LearningRateSchedule` or a function from the step (a scalar tensor, 0 at the first)
            to such a number. The weights learn at base learning rate × multiplier.
        learning_rate: The rate itself, a number or a schedule in the same forms, which the base
            learning rate and the callbacks that set it do not touch.
        weight_decay: A finite number ≥ 0, the share of the weight that each step takes off, per
            unit of the weight's learning rate. 0 for none.
        gradient: A gradient transform of `finegrain.gradients`, any function that takes
            `(gradients, variables)` or `(gradients)` and returns as many gradients, or a list of
            these.
        optimizer: A Keras optimizer (not yet built), or its name or config, that moves these
            weights at its own learning rate (× `learning_rate_multiplier`, where a rule gives
            one). The base rate does not touch it.
        trainable: `False` holds the weights where they are: their slots do not advance, and their
            gradients count neither in the global norm nor as non-finite.
            `PerWeight.set` releases them. A multiplier or rate of 0 does the same.
            Statistics that a layer gathers by itself, as BatchNormalization does, go on: unlike
            `layer.trainable = False`, no rule reaches them (`PerWeight.describe` names them).
        cumulative: Whether `learning_rate_multiplier` multiplies the rate that the rules before
            this one give, so that several can be put together: a decay over the layers, a warm-up,
            a factor for the head. Otherwise it takes their place. While training goes on a
            cumulative number can be set to any other, but for 0.
        warm_up: An integer $n$ ≥ 1, for a rule that says `trainable`: what is released at step
            $t_0$ learns at step $t$ at its rate × $\min(1, (t - t_0 + 1) / n)$. Steps are counted
            as for schedules.
        name: The rule's name in tables and for `PerWeight.set`. Defaults to what it
            selects by.

    Raises:
        TypeError: if an argument is of a wrong type.
        ValueError: if a value is out of range, if the rule sets nothing, or if it contradicts
            itself: both rates, a rate of 0 with `trainable=True`, `cumulative` without a
            multiplier, or `warm_up` without `trainable`.

    Example:
    >>> import keras, finegrain as fg
    >>> rule = fg.Rule(["embeddings", "pooler/"], learning_rate_multiplier=0.1)
    >>> rule
    Rule(['embeddings', 'pooler/'], learning_rate_multiplier=0.1)
    >>> rule.name
    'embeddings, pooler/'
    >>> head = keras.layers.Dense(2, name="head")
    >>> fg.Rule(head, optimizer=keras.optimizers.Muon(1e-3), weight_decay=0.0)
    Rule('head', weight_decay=0.0, optimizer=Muon)

    References:
        Su Jianlin, Layer-wise learning rates and free gradients, 2019,
        https://kexue.fm/archives/6418
    """

    def __init__(
        self,
        weights: Selector | Sequence[Selector],
        *,
        learning_rate_multiplier: Rate | None = None,
        learning_rate: Rate | None = None,
        weight_decay: float | None = None,
        gradient: Transforms | None = None,
        optimizer: keras.optimizers.Optimizer | str | dict[str, Any] | None = None,
        trainable: bool | None = None,
        cumulative: bool = False,
        warm_up: int | None = None,
        name: str | None = None,
    ) -> None:
        self.selectors = checked_selectors(weights)
        if name is not None and not isinstance(name, str):
            raise TypeError(f"A Rule's name should be a string. Received: name={name!r}")
        self.is_named = name is not None
        self.name = ", ".join(map(label, self.selectors)) if name is None else name
        if learning_rate_multiplier is not None and learning_rate is not None:
            raise ValueError(
                "A Rule takes `learning_rate_multiplier` or `learning_rate`, not both: they "
                "contradict each other. Received: learning_rate_multiplier="
                f"{learning_rate_multiplier!r}, learning_rate={learning_rate!r}"
            )
        self.learning_rate_multiplier = checked_rate(
            "learning_rate_multiplier", learning_rate_multiplier
        )
        self.learning_rate = checked_rate("learning_rate", learning_rate)
        self.weight_decay = (
            None if weight_decay is None else checked_number("weight_decay", weight_decay)
        )
        self.gradient = as_transforms(gradient)
        self.template = None if optimizer is None else _own_template(optimizer)
        if trainable is not None and not isinstance(trainable, (bool, np.bool_)):
            raise TypeError(f"`trainable` should be True or False. Received: {trainable!r}")
        self.trainable = None if trainable is None else bool(trainable)
        if not isinstance(cumulative, (bool, np.bool_)):
            raise TypeError(f"`cumulative` should be True or False. Received: {cumulative!r}")
        self.cumulative = bool(cumulative)
        if self.cumulative and self.learning_rate_multiplier is None:
            raise ValueError(
                "A cumulative Rule multiplies the rate that earlier rules give: say by what, with "
                f"`learning_rate_multiplier`. Received: Rule({weights!r}, cumulative=True)"
            )
        # Whether a multiplier that becomes 0 holds the weights. One that is 1 is left out of the
        # step, which a rule that never holds should not change, and so is a cumulative number:
        # there are many, and each condition makes the step longer to compile.
        factor = self.cumulative and isinstance(self.learning_rate_multiplier, float)
        never = self.learning_rate_multiplier == 1.0 or (factor and self.learning_rate_multiplier)
        self.may_hold = trainable is not None or not never
        # Whether the step has a weight decay that can be set: not if it is 0 from the beginning.
        self.may_decay = bool(self.weight_decay)
        # What setting a multiplier has made of a rule that says `trainable` only.
        self.scale = 1.0
        self.warm_up = None if warm_up is None else _checked_warm_up(warm_up, self.trainable)
        # The step at which its weights were released last; only a rule that warms up asks.
        self.released_at = 0.0
        if self.trainable and 0.0 in (self.learning_rate_multiplier, self.learning_rate):
            raise ValueError(
                "A Rule with `trainable=True` and a learning rate of 0 contradicts itself: leave "
                f"one of them out. Received: {self!r}"
            )
        if not self._named():
            raise ValueError(
                "A Rule should set something: give `learning_rate_multiplier`, `learning_rate`, "
                "`weight_decay`, `gradient`, `optimizer` or `trainable`. "
                f"Received: Rule({weights!r})"
            )

    @property
    def optimizer(self) -> keras.optimizers.Optimizer | None:
        """The optimizer that the rule gives its weights, or `None` if it gives them none."""
        return None if self.template is None else self.template.optimizer

    def selects(self, variable: keras.Variable) -> bool:
        """Return whether the rule selects `variable`; goes with the next release."""
        _deprecated.warn("Rule.selects", "PerWeight.describe(model), which shows what rules select")
        return any(select(selector, [variable])[0] for selector in self.selectors)

    def selecting(self, variables: Sequence[keras.Variable]) -> Rule:
        """Return the rule; if it selects by a function, a copy with the paths of `variables`."""
        known = (str, keras.layers.Layer, Weights)
        if all(isinstance(s, known) or is_variable(s) for s in self.selectors):
            return self
        rule = copy.copy(self)
        rule.selectors = [exactly([weight_path(variable) for variable in variables])]
        return rule

    def _named(self) -> dict[str, Any]:
        """Return the properties that the rule sets, by name, in the form that people read."""
        kind = None if self.template is None else self.template.kind
        transforms = [transform.label for transform in self.gradient]
        properties = {
            "learning_rate_multiplier": self.learning_rate_multiplier,
            "learning_rate": self.learning_rate,
            "weight_decay": self.weight_decay,
            "gradient": f"[{', '.join(transforms)}]" if transforms else None,
            "optimizer": kind,
            "trainable": self.trainable,
            "cumulative": self.cumulative or None,
            "warm_up": self.warm_up,
        }
        return {key: value for key, value in properties.items() if value is not None}

    def get_config(self) -> dict[str, Any]:
        """Return the arguments that make an equal rule; layers and variables are exact paths."""
        serialize = keras.saving.serialize_keras_object
        return {
            "weights": [portable(selector) for selector in self.selectors],
            "learning_rate_multiplier": _serialized_rate(self.learning_rate_multiplier),
            "learning_rate": _serialized_rate(self.learning_rate),
            "weight_decay": self.weight_decay,
            "gradient": [serialize(transform) for transform in self.gradient],
            "optimizer": None if self.template is None else self.template.serialize(),
            "trainable": self.trainable,
            "cumulative": self.cumulative,
            "warm_up": self.warm_up,
            "name": self.name if self.is_named else None,
            # The default name, which exact paths would not reveal.
            "label": self.name,
            # What the present numbers do not tell: they may have changed.
            "may_hold": self.may_hold,
            "may_decay": self.may_decay,
            "scale": self.scale,
            "released_at": self.released_at,
        }

    @classmethod
    def from_config(
        cls, config: dict[str, Any], custom_objects: dict[str, Any] | None = None
    ) -> Rule:
        """Make the rule that `get_config` describes."""

        def restored(value: Any) -> Any:
            if isinstance(value, dict):
                return keras.saving.deserialize_keras_object(value, custom_objects)
            return value

        kept = ("label", "may_hold", "may_decay", "scale", "warm_up", "released_at")
        arguments = {key: restored(value) for key, value in config.items() if key not in kept}
        for key in ("weights", "gradient"):
            if isinstance(arguments.get(key), (list, tuple)):
                arguments[key] = [restored(item) for item in arguments[key]]
        trainable = arguments.pop("trainable", None)
        rates = (arguments.get("learning_rate_multiplier"), arguments.get("learning_rate"))
        if trainable and 0.0 in rates:
            # Its rate held it from the start: `trainable` as an argument would contradict that.
            rule = cls(**arguments)
            rule.trainable = trainable
        else:
            rule = cls(**arguments, trainable=trainable)
        # Files of the first release hold only the label.
        rule.name = config.get("label", rule.name)
        rule.may_hold = config.get("may_hold", rule.may_hold)
        rule.may_decay = config.get("may_decay", rule.may_decay)
        rule.scale = config.get("scale", rule.scale)
        rule.warm_up = config.get("warm_up", rule.warm_up)
        rule.released_at = config.get("released_at", rule.released_at)
        return rule

    def __repr__(self) -> str:
        labels = [label(selector) for selector in self.selectors]
        what = repr(labels[0] if len(labels) == 1 else labels)
        return ", ".join([f"Rule({what}", *(f"{k}={v}" for k, v in self._named().items())]) + ")"


def _checked_warm_up(steps: Any, trainable: bool | None) -> int:
    """Return over how many steps a rule warms up, or raise an error."""
    if isinstance(steps, bool) or not isinstance(steps, (int, np.integer)):
        raise TypeError(f"`warm_up` should be an integer >= 1. Received: warm_up={steps!r}")
    if steps < 1:
        raise ValueError(
            "`warm_up` should be an integer >= 1; leave it out for none. "
            f"Received: warm_up={steps!r}"
        )
    if trainable is None:
        raise ValueError(
            "`warm_up` begins when weights are released: give the rule `trainable=False`, or True "
            f"for those that learn from the first step. Received: warm_up={steps!r}, trainable=None"
        )
    return int(steps)


def checked_rate(argument: str, value: Any) -> Any:
    """Check a rate and return it: a number, a schedule (tried at step 0) or `None`."""
    if value is None or not callable(value):
        return None if value is None else checked_number(argument, value)
    try:
        result = value(ops.convert_to_tensor(0, dtype="int32"))
        if isinstance(result, (str, bytes)):
            raise TypeError(f"{result!r} is no number")
        first = np.asarray(ops.convert_to_numpy(result), dtype="float64")
    except Exception as error:
        raise ValueError(
            f"`{argument}` as a schedule should take the step, a scalar tensor, and return a "
            f"finite number >= 0, but at step 0 it failed: {error!r}. "
            f"Received: {argument}={value!r}"
        ) from error
    if first.shape != () or not np.isfinite(first) or first < 0:
        raise ValueError(
            f"`{argument}` as a schedule should return a finite number >= 0. "
            f"Received: {argument}={value!r}, which at step 0 gives {first}"
        )
    return value


def _own_template(optimizer: Any) -> Template:
    template = Template(optimizer)
    shared = template.shared_arguments()
    given = {key: value for key, value in shared.items() if value != SHARED_ARGUMENTS[key]}
    if given:
        raise ValueError(
            f"{', '.join(given)}: these belong to all weights together. Set them on the optimizer "
            "that PerWeight wraps, or clip these weights with `gradient=ClipNorm(...)`. "
            f"Received: optimizer={template.kind} with {given}"
        )
    return template


def _serialized_rate(rate: Any) -> Any:
    return keras.saving.serialize_keras_object(rate) if callable(rate) else rate


@dataclass(frozen=True)
class Outcome:
    """What the rules say of one weight: for each property the index of the rule that decides.

    Attributes:
        rules: All rules that select the weight, in order.
        rate: The rule that names the multiplier or the rate.
        factors: The rules after it whose multipliers multiply that, in order.
        optimizer: The rule that names the optimizer.
        trainable: The rule that names `trainable`.
        decay: The rule that names a weight decay which can be set.
        weight_decay: The weight decay that a rule names; with 0, and no `decay`, there is none.
    """

    rules: tuple[int, ...]
    rate: int | None
    factors: tuple[int, ...]
    optimizer: int | None
    trainable: int | None
    decay: int | None
    weight_decay: float | None

    @property
    def group(self) -> tuple[Any, ...]:
        """What the weights of one group, which one optimizer moves, have in common."""
        return (self.optimizer, self.rate, self.factors, self.trainable, self.decay)

    @property
    def never_decays(self) -> bool:
        """Whether a rule says 0 from the beginning."""
        return self.weight_decay == 0 and self.decay is None


def outcome_of(rules: Sequence[Rule], selected: Sequence[int]) -> Outcome:
    """Find the rule that decides each property of a weight, among those at indices `selected`."""
    rate = optimizer = trainable = decay = weight_decay = None
    factors: tuple[int, ...] = ()
    for index in selected:
        rule = rules[index]
        if rule.cumulative:
            factors += (index,)
        elif rule.learning_rate_multiplier is not None or rule.learning_rate is not None:
            rate, factors = index, ()
        if rule.template is not None:
            optimizer = index
        if rule.trainable is not None:
            trainable = index
        if rule.weight_decay is not None:
            weight_decay = rule.weight_decay
            decay = index if rule.may_decay else None
    return Outcome(tuple(selected), rate, factors, optimizer, trainable, decay, weight_decay)


def select_weights(
    rules: Sequence[Rule],
    variables: Sequence[keras.Variable],
    problems: list[str] | None = None,
) -> list[tuple[int, ...]]:
    """Find the indices of the rules that select each of `variables`, in order.

    Args:
        rules: The rules.
        variables: The weights.
        problems: For rules that come from a file. Their selectors may then mean weights whose
            paths Keras has shortened since, and what is wrong is written here, not raised.

    Raises:
        ValueError: for the first selector that means none of them: it would do nothing.
    """
    variables = list(variables)
    selected: list[list[int]] = [[] for _ in variables]
    for index, rule in enumerate(rules):
        means = [False] * len(variables)
        for selector in rule.selectors:
            found = select(selector, variables)
            if problems is not None and isinstance(selector, str):
                found = select_moved(selector, variables, found)
            if not any(found):
                problem = f"{rule!r}: {no_weight_selected(selector, variables)}"
                if problems is None:
                    raise ValueError(problem)
                problems.append(problem)
            means = [a or b for a, b in zip(means, found, strict=True)]
        for position, meant in enumerate(means):
            if meant:
                selected[position].append(index)
    return [tuple(indices) for indices in selected]
