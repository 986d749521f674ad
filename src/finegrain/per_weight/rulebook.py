"""Rules at work: their numbers as variables, their schedules at the present step."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from finegrain._backend import backend
from finegrain.rules.rule import Outcome, Rule, outcome_of
from finegrain.rules.template import Template


def both(first: Any, second: Any) -> Any:
    """Return whether both conditions are true; `None` stands for always."""
    if first is None or second is None:
        return second if first is None else first
    if isinstance(first, bool) or isinstance(second, bool):
        if first is False or second is False:
            return False
        return second if isinstance(first, bool) else first
    return ops.logical_and(first, second)


class Numbers:
    """The numbers of all rules, in one variable: each variable slows a compiled program down."""

    def __init__(self) -> None:
        self.configured: list[float] = []
        self.variable: Any = None

    def add(self, property_name: str, configured: float) -> Number:
        """Add a number, before the variable is made."""
        self.configured.append(configured)
        return Number(self, len(self.configured) - 1, property_name, configured)


class Number:
    """A number of a rule that may change while training goes on."""

    def __init__(self, numbers: Numbers, place: int, property_name: str, configured: float) -> None:
        self.numbers = numbers
        self.place = place
        self.property_name = property_name
        self.configured = configured

    def tensor(self) -> Any:
        """Return the current number as a scalar tensor."""
        # As a tensor: an optimizer would track a variable among its attributes as its own.
        return ops.convert_to_tensor(self.numbers.variable)[self.place]

    def read(self) -> float:
        """Read the current number as a float; not inside a compiled step."""
        return float(backend.host_array(self.numbers.variable)[self.place])

    def assign(self, value: float) -> None:
        """Set the number; not inside a compiled step."""
        values = backend.host_array(self.numbers.variable)
        values[self.place] = value
        self.numbers.variable.assign(values)

    def current(self) -> float:
        """Read the current number; if unchanged, as the rule gives it (0.1, not its float32)."""
        value = self.read()
        return self.configured if value == np.float32(self.configured) else value


# The rate of a rule's optimizer, beside the rate that the rule gives.
OWN_RATE = "optimizer_learning_rate"


class LiveRule:
    """A rule at work: its numbers as variables, its schedules at the present step.

    Args:
        rule: The rule.
        key: Its name, unique among the rules.
        step: Gives the present step.
        numbers: Where to keep its numbers.
    """

    def __init__(self, rule: Rule, key: str, step: Callable[[], Any], numbers: Numbers) -> None:
        self.rule = rule
        self.key = key
        self._step = step
        own = None if rule.template is None else rule.template.learning_rate
        given = {
            "learning_rate_multiplier": rule.learning_rate_multiplier,
            # The rate of an optimizer of its own is the rule's, if it gives no other. Where it
            # does, a later rule's multiplier still multiplies the optimizer's own.
            "learning_rate": own if rule.learning_rate is None else rule.learning_rate,
            OWN_RATE: None if rule.learning_rate is None else own,
            "trainable": None if rule.trainable is None else rule.trainable * rule.scale,
            "released_at": None if rule.warm_up is None else rule.released_at,
            "weight_decay": rule.weight_decay if rule.may_decay else None,
        }
        self.numbers = {
            name: numbers.add(name, value)
            for name, value in given.items()
            if isinstance(value, float)
        }

    @property
    def patterns(self) -> list[str]:
        """The regular expressions among what the rule selects by."""
        return [selector for selector in self.rule.selectors if isinstance(selector, str)]

    def value(self, name: str) -> Any:
        """Return the property's current value as a scalar tensor."""
        if name in self.numbers:
            return self.numbers[name].tensor()
        return ops.cast(getattr(self.rule, name)(self._step()), "float32")

    def warmth(self) -> Any:
        """Return the factor that a rule's `warm_up` has come to since the release, or 1.0."""
        if self.rule.warm_up is None:
            return 1.0
        steps = ops.cast(self._step(), "float32") - self.numbers["released_at"].tensor() + 1.0
        return ops.clip(steps / self.rule.warm_up, 0.0, 1.0)

    def release(self) -> list[tuple[Number, float]]:
        """List the (number, value) to assign so that a warm-up begins now."""
        if "released_at" not in self.numbers:
            return []
        return [(self.numbers["released_at"], float(backend.host_array(self._step())))]

    @property
    def own_rate_name(self) -> str:
        """The name that its optimizer's rate has among the numbers, if that rate is a number."""
        return "learning_rate" if self.rule.learning_rate is None else OWN_RATE

    def own_rate(self) -> Any:
        """Return the current learning rate of the rule's optimizer as a scalar tensor."""
        name = self.own_rate_name
        if name in self.numbers:
            return self.numbers[name].tensor()
        rate = self.rule.template.learning_rate  # type: ignore[union-attr]
        if isinstance(rate, keras.optimizers.schedules.LearningRateSchedule):
            return ops.convert_to_tensor(rate(self._step()))
        return ops.convert_to_tensor(rate())

    def may_hold(self, name: str) -> bool:
        """Return whether a step has to ask if the property is 0."""
        return name != "learning_rate_multiplier" or self.rule.may_hold


class Rulebook:
    """All rules at work, and what they come to for a weight.

    Args:
        template: The wrapped optimizer.
        rules: The rules, in order.
        add_variable: Makes a variable of these values.
        step: Gives the present step.
        base_rate: Gives the base learning rate: a variable, or its value at this step.
    """

    def __init__(
        self,
        template: Template,
        rules: Any,
        add_variable: Callable[[list[float]], keras.Variable],
        step: Callable[[], Any],
        base_rate: Callable[[], Any],
    ) -> None:
        self.template = template
        self.base_rate = base_rate
        checked = checked_rules(rules)
        self._numbers = Numbers()
        self.rules = [
            LiveRule(rule, key, step, self._numbers)
            for rule, key in zip(checked, live_keys(checked), strict=True)
        ]
        if self._numbers.configured:
            self._numbers.variable = add_variable(self._numbers.configured)
        # What torch, which runs Python at each step, need not compute again, and its inputs.
        self._memo: dict[tuple[str, Any], Any] = {}
        self._made_from: list[tuple[Any, int]] = []

    def outcome(self, selected: Sequence[int]) -> Outcome:
        """Combine what the rules of these indices say."""
        return outcome_of([live.rule for live in self.rules], selected)

    def template_of(self, outcome: Outcome) -> Template:
        """Return the template of the optimizer that moves weights of this outcome."""
        if outcome.optimizer is None:
            return self.template
        return self.rules[outcome.optimizer].rule.template  # type: ignore[return-value]

    def templates(self) -> list[Template]:
        """List the templates of the wrapped optimizer and of the rules' own optimizers."""
        own = [live.rule.template for live in self.rules]
        return [self.template, *(template for template in own if template is not None)]

    def begin_step(self) -> None:
        """Forget, on torch, what was computed for the last step if anything has changed since."""
        if backend.RUNS_EACH_STEP:
            variables = [
                variable
                for variable in (self.base_rate(), self._numbers.variable)
                if isinstance(variable, keras.Variable)
            ]
            if not backend.unchanged_since(self._made_from, variables):
                self._made_from = backend.versions(variables)
                self._memo.clear()

    def _remembered(self, key: tuple[str, Any], constant: bool, compute: Callable[[], Any]) -> Any:
        """Call `compute`; on torch, reuse its last value if that is made of constants alone."""
        if not constant or not backend.RUNS_EACH_STEP:
            return compute()
        if key not in self._memo:
            self._memo[key] = compute()
        return self._memo[key]

    def rate(self, outcome: Outcome) -> Any:
        """Compute the learning rate of weights of this outcome, as a scalar tensor."""
        own = None if outcome.optimizer is None else self.rules[outcome.optimizer]
        deciding = None if outcome.rate is None else self.rules[outcome.rate]
        switch = None if outcome.trainable is None else self.rules[outcome.trainable]
        absolute = deciding is not None and deciding.rule.learning_rate is not None
        factors = [self.rules[index] for index in outcome.factors]
        warms_up = switch is not None and switch.rule.warm_up is not None

        def compute() -> Any:
            if deciding is not None and absolute:
                rate = deciding.value("learning_rate")
            else:
                rate = ops.convert_to_tensor(self.base_rate()) if own is None else own.own_rate()
                if deciding is not None:
                    rate = rate * ops.cast(deciding.value("learning_rate_multiplier"), rate.dtype)
            for factor in factors:
                rate = rate * ops.cast(factor.value("learning_rate_multiplier"), rate.dtype)
            if switch is not None:
                rate = rate * ops.cast(switch.value("trainable"), rate.dtype)
                if warms_up:
                    rate = rate * ops.cast(switch.warmth(), rate.dtype)
            return rate

        rates = [deciding] if absolute else [own, deciding]
        own_name = "" if own is None else own.own_rate_name
        names = ["learning_rate"] if absolute else [own_name, "learning_rate_multiplier"]
        rates += factors
        names += ["learning_rate_multiplier"] * len(factors)
        constant = all(
            live is None or name in live.numbers for live, name in zip(rates, names, strict=True)
        ) and (absolute or own is not None or isinstance(self.base_rate(), keras.Variable))
        constant = constant and not warms_up
        return self._remembered(("rate", outcome.group), constant, compute)

    def weight_decay(self, outcome: Outcome) -> Any:
        """Return the weight decay that a rule gives: a scalar tensor; on torch a float.

        It is `None` where the rules give none, or 0.
        """
        if outcome.decay is None:
            return None
        live = self.rules[outcome.decay]
        number = live.numbers["weight_decay"]

        def compute() -> Any:
            return number.current() if backend.RUNS_EACH_STEP else number.tensor()

        return self._remembered(("weight_decay", live.key), True, compute)

    def moves(self, outcome: Outcome) -> Any:
        """Return whether weights of this outcome move now: `None` (always), a bool or a tensor."""
        condition = None
        for index in outcome.factors:
            if self.rules[index].may_hold("learning_rate_multiplier"):
                name = "learning_rate_multiplier"
                condition = both(condition, self._is_positive(self.rules[index], name))
        if outcome.rate is not None:
            deciding = self.rules[outcome.rate]
            absolute = deciding.rule.learning_rate is not None
            name = "learning_rate" if absolute else "learning_rate_multiplier"
            if deciding.may_hold(name):
                condition = both(condition, self._is_positive(deciding, name))
        if outcome.trainable is not None:
            condition = both(
                condition, self._is_positive(self.rules[outcome.trainable], "trainable")
            )
        return condition

    def _is_positive(self, live: LiveRule, name: str) -> Any:
        """Return whether a property is > 0: a tensor; for a number on torch a bool.

        On torch the device is asked only after a number has changed, since waiting for an
        accelerator at each step would cost more than the step.
        """

        def compute() -> Any:
            positive = live.value(name) > 0
            is_number = name in live.numbers
            return bool(positive) if is_number and backend.RUNS_EACH_STEP else positive

        return self._remembered((name, live.key), name in live.numbers, compute)

    def numbers(self) -> Iterator[tuple[LiveRule, Number]]:
        """Yield (rule, number) for every number of a rule that may change."""
        for live in self.rules:
            for number in live.numbers.values():
                yield live, number

    def meant_by(self, rule: str) -> list[LiveRule]:
        """Find the rules that have this name, or else those that select by this expression.

        Raises:
            ValueError: if there is none.
        """
        meant = [live for live in self.rules if rule in (live.rule.name, live.key)]
        meant = meant or [live for live in self.rules if rule in live.patterns]
        if not meant:
            names = [live.key for live in self.rules]
            raise ValueError(f"No rule has this name; the rules are {names}. Received: {rule!r}")
        return meant

    def changes(
        self, rule: str, values: dict[str, float], outcomes: Sequence[Outcome]
    ) -> list[tuple[Number, float]]:
        """List the (number, value) to assign so that each rule that goes by `rule` has `values`.

        Args:
            rule: A rule's name, or an expression that it selects by.
            values: The property → its value. A rule that says `trainable` alone takes a multiplier
                as a factor of that.
            outcomes: What the rules come to for the weights, as far as these are known.

        Raises:
            ValueError: if there is no such rule or number, or if it decides for no weight.
        """
        meant = self.meant_by(rule)
        changes: list[tuple[Number, float]] = []
        # The multiplier comes last: of a rule that says `trainable` alone it is the whole factor.
        for name in sorted(values, key="learning_rate_multiplier".__eq__):
            value = values[name]
            found = []
            for live in meant:
                if name in live.numbers:
                    found.append((live, live.numbers[name], value))
                elif name == "learning_rate_multiplier" and "trainable" in live.numbers:
                    factor = value * values.get("trainable", 1.0)
                    found.append((live, live.numbers["trainable"], factor))
            if not found:
                raise ValueError(
                    f"The rule {rule!r} has {_why_not(name, meant)}. "
                    f"Received: {[live.rule for live in meant]}"
                )
            if value == 0 and any(not live.may_hold(n.property_name) for live, n, _ in found):
                raise ValueError(
                    "A rule whose multiplier began at 1, or is cumulative, does not ask at each "
                    f"step whether it is 0. To hold the weights of {rule!r} later, make the rule "
                    f"with `trainable=True`. Received: {[live.rule for live in meant]}, {name}=0"
                )
            if outcomes and not any(self._decides(live, n, outcomes) for live, n, _ in found):
                raise ValueError(
                    f"Setting `{name}` of the rule {rule!r} would change nothing: for each of its "
                    "weights a later rule decides (see `describe`). Set that rule's, or put this "
                    f"rule after it. Received: {[live.rule for live in meant]}"
                )
            for live, number, factor in found:
                changes.append((number, factor))
                if number.property_name == "trainable" and factor > 0 and number.read() == 0:
                    changes += live.release()
        return changes

    def _decides(self, live: LiveRule, number: Number, outcomes: Sequence[Outcome]) -> bool:
        """Return whether the rule's number has a say in how any weight learns."""
        index = self.rules.index(live)
        for outcome in outcomes:
            own_rate = number.property_name == live.own_rate_name and outcome.optimizer == index
            decides = {"trainable": outcome.trainable, "weight_decay": outcome.decay}
            if decides.get(number.property_name, outcome.rate) == index or own_rate:
                return True
            if index in outcome.factors and number.property_name == "learning_rate_multiplier":
                return True
        return False

    def values_of(self, rule: str) -> dict[str, float | bool]:
        """Return what the last of the rules that go by `rule` says now: {property: value}."""
        live = self.meant_by(rule)[-1]
        values: dict[str, float | bool] = {}
        for name in SETTABLE:
            if name in live.numbers:
                values[name] = live.numbers[name].current()
            elif name == "weight_decay" and live.rule.weight_decay is not None:
                values[name] = live.rule.weight_decay
            elif getattr(live.rule, name) is not None:
                values[name] = float(backend.host_array(live.value(name)))
        if "trainable" in values:
            factor = values["trainable"]
            values["trainable"] = factor > 0
            if factor not in (0, 1):
                values["learning_rate_multiplier"] = factor
        return values


SETTABLE = ("learning_rate_multiplier", "learning_rate", "weight_decay", "trainable")
"""The properties of a rule that can be set while training goes on."""


def _why_not(name: str, rules: Sequence[LiveRule]) -> str:
    """Explain why the rules have no number of that name to set, and what can be done."""
    if name == "weight_decay" and any(live.rule.weight_decay == 0 for live in rules):
        return (
            "a weight decay of 0, which leaves decay out of the step: make it with the decay that "
            "it is to have later, and set that to 0 until then"
        )
    if any(getattr(live.rule, name) is not None for live in rules):
        return f"a schedule as `{name}`, which cannot be set"
    numbers = dict.fromkeys(other for live in rules for other in live.numbers)
    others = [other for other in numbers if other in SETTABLE]
    if others:
        former = {"learning_rate": "set_learning_rate", "trainable": "set_trainable"}
        instead = " and ".join(
            f"`{other}` by `set(rule, {other}=...)`"
            + (f" (formerly `{former[other]}`)" if other in former else "")
            for other in others
        )
        return f"no `{name}` to set, but {instead}"
    return (
        f"no `{name}` to set: give it one when it is made, such as the value that changes nothing"
    )


def live_keys(rules: Sequence[Rule]) -> list[str]:
    """Make the rules' names unique by `#2`, `#3`, …: several may go by the same selector.

    Raises:
        ValueError: if two rules were given the same name.
    """
    given = [rule.name for rule in rules if rule.is_named]
    repeated = sorted({name for name in given if given.count(name) > 1})
    if repeated:
        raise ValueError(
            f"Rules should have different names; change one `name=`. Received: {repeated}"
        )
    keys: list[str] = []
    for rule in rules:
        count = 1
        key = rule.name
        while key in keys:
            count += 1
            key = f"{rule.name}#{count}"
        keys.append(key)
    return keys


def checked_rules(rules: Any) -> list[Rule]:
    """Return `rules` as a list, or raise an error that says what they should be."""
    if isinstance(rules, Rule):
        raise TypeError(f"`rules` should be a list of rules: put it in a list. Received: {rules!r}")
    if not isinstance(rules, Sequence) or isinstance(rules, str):
        raise TypeError(f"`rules` should be a list of `finegrain.Rule`. Received: rules={rules!r}")
    for rule in rules:
        if not isinstance(rule, Rule):
            raise TypeError(
                f"`rules` should be a list of `finegrain.Rule`. Received: {rule!r} in {rules!r}"
            )
    return list(rules)
