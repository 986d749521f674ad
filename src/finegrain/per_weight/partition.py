"""How rules sort the weights of a model into groups, each with an optimizer of its own."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import keras
from keras import ops

from finegrain._backend import backend
from finegrain.gradients.transform import GradientTransform, transformed
from finegrain.per_weight.places import match_weights, places
from finegrain.per_weight.rulebook import Rulebook
from finegrain.per_weight.slots import states
from finegrain.rules.rule import Outcome, select_weights
from finegrain.rules.template import DECAYS


class GroupLearningRate:
    """The learning rate of one group, at each step."""

    def __init__(self, book: Rulebook, outcome: Outcome) -> None:
        self.book = book
        self.outcome = outcome
        self._now: Any = None

    def __call__(self) -> Any:
        """Return the learning rate of the group at this step, as a scalar tensor."""
        return self.book.rate(self.outcome) if self._now is None else self._now

    @contextmanager
    def computed_once(self) -> Iterator[None]:
        """Compute the rate once in this context: Keras asks for it at each weight that decays."""
        self._now = self.book.rate(self.outcome)
        try:
            yield
        finally:
            self._now = None


class Group:
    """Weights that one optimizer moves, since the same rules decide how."""

    def __init__(self, book: Rulebook, outcome: Outcome, name: str) -> None:
        self.book = book
        self.outcome = outcome
        self.rate = GroupLearningRate(book, outcome)
        template = book.template_of(outcome)
        # One that can be set takes its place at each step, and 0 would leave it out of the step.
        decay = None if outcome.decay is None else 1.0
        self.optimizer = template.make(self.rate, decay, name=name)
        self.weights: list[keras.Variable] = []
        # The weights given to `exclude_from_weight_decay`.
        self.undecayed: list[keras.Variable] = []
        self.decays: bool | None = None

    def update(self, condition: Any, gradients: list[Any], weights: list[keras.Variable]) -> None:
        """Take one step of the group's optimizer on some of its weights, if `condition` is true."""
        backend.run_if(condition, self._update, (gradients, weights), self._state)

    def _state(self) -> list[keras.Variable]:
        return [*self.weights, *self.optimizer.variables]

    def build(self) -> None:
        """Create the state of the group's optimizer."""
        if self.undecayed:
            self.optimizer.exclude_from_weight_decay(var_list=self.undecayed)
        self.optimizer.build(self.weights)

    def states(self) -> list[dict[str, keras.Variable]]:
        """Return for each weight the state that it depends on: {slot: variable}."""
        return states(self.optimizer, self.weights)

    def _update(self, gradients: list[Any], weights: list[keras.Variable]) -> None:
        optimizer = self.optimizer
        if weights:
            if self.decays is None:
                # Keras's torch optimizers fail on decaying an empty list.
                self.decays = any(map(optimizer._use_weight_decay, self.weights))
            decaying = weights
            if self.decays and len(weights) < len(self.weights):
                decaying = [weight for weight in weights if optimizer._use_weight_decay(weight)]
            with self.rate.computed_once(), self._decay_of_now():
                if self.decays and decaying:
                    optimizer._apply_weight_decay(decaying)
                optimizer._backend_update_step(gradients, weights, optimizer.learning_rate)
        backend.count_one(optimizer._iterations)

    @contextmanager
    def _decay_of_now(self) -> Iterator[None]:
        """Give the optimizer, in this context, the weight decay that its rule has at this step."""
        decay, optimizer = self.book.weight_decay(self.outcome), self.optimizer
        if decay is None:
            yield
            return
        names = [name for name in DECAYS if getattr(optimizer, name, None) is not None]
        before = [getattr(optimizer, name) for name in names]
        try:
            for name in names:
                setattr(optimizer, name, decay)
            yield
        finally:
            for name, value in zip(names, before, strict=True):
                setattr(optimizer, name, value)


class Selected(NamedTuple):
    """What the rules make of one weight."""

    rules: tuple[int, ...]
    """The indices of those that select it."""
    decays: bool
    """Whether a weight decay reaches it."""


class FromFile:
    """Which rules selected which weight when a model was saved.

    Args:
        selection: For each weight its path, its shape, the indices of its rules, and whether it
            decays, in the model's order.
    """

    def __init__(self, selection: Sequence[Sequence[Any]]) -> None:
        self.selection = [tuple(entry) for entry in selection]
        # What the rules did not find in the loaded model.
        self.problems: list[str] = []

    def of(self, variables: Sequence[keras.Variable]) -> list[Selected] | None:
        """Return what the rules made of a loaded model's weights; `None` if these do not match."""
        saved = self.selection
        matches = match_weights([(path, shape) for path, shape, *_ in saved], places(variables))
        if not saved or not len(matches) == len(saved) == len(variables):
            return None
        found = (saved[matches[index]] for index in range(len(variables)))
        return [Selected(tuple(rules), decays) for _, _, rules, decays in found]


def select(
    book: Rulebook, variables: Sequence[keras.Variable], saved: FromFile | None = None
) -> list[Selected]:
    """Find for each of `variables` which rules select it and whether it decays.

    Args:
        book: The rules at work.
        variables: The weights.
        saved: What the file said that the rules come from. It knows the weights whose paths have
            changed since, and takes note of the rules that do not fit, which raise no error then.

    Raises:
        ValueError: if a rule selects none of them.
    """
    if not variables:
        return []  # Keras builds the optimizer of a legacy `.h5` file without weights
    if saved is not None:
        saved.problems = []
        known = saved.of(variables)
        if known is not None:
            # In files of the first release a weight whose rule says 0 counts as one that decays.
            return [
                Selected(rules, decays and not book.outcome(rules).never_decays)
                for rules, decays in known
            ]
    rules = [live.rule for live in book.rules]
    selection = select_weights(rules, variables, None if saved is None else saved.problems)
    result = []
    for variable, selected in zip(variables, selection, strict=True):
        outcome = book.outcome(selected)
        decays = outcome.decay is not None or (
            book.template_of(outcome).decays(variable) and not outcome.never_decays
        )
        result.append(Selected(selected, decays))
    return result


class Partition:
    """The groups of an optimizer's weights, and the transforms of their gradients.

    It does not change: building the optimizer makes another, and so does splitting its groups.
    All groups have their state.

    Args:
        book: The rules at work.
        key: What identifies a weight.
        selection: What the rules make of each weight.
        groups: The groups.
        transforms: The transforms in the order in which they apply, each with its rule's key and
            its place in the rule.
    """

    def __init__(
        self,
        book: Rulebook,
        key: Callable[[Any], Any],
        selection: Sequence[Selected] = (),
        groups: Sequence[Group] = (),
        transforms: Sequence[tuple[str, int, GradientTransform]] = (),
    ) -> None:
        self.book = book
        self.key = key
        self.selection = tuple(selection)
        self.groups = tuple(groups)
        self.transforms = tuple(transforms)
        self._group_of = {key(weight): group for group in groups for weight in group.weights}
        # The step counts of all groups, where one variable is faster than many.
        self.counts: keras.Variable | None = None
        if groups and backend.COUNTS_TOGETHER:
            self.counts = keras.Variable(
                "zeros", shape=(len(groups),), dtype="int32", trainable=False, name="counts"
            )
        # The last answer of `places_in`, and the variables that it was about.
        self._asked: list[int] = []
        self._answer: list[list[int]] = []

    @classmethod
    def of(
        cls,
        book: Rulebook,
        key: Callable[[Any], Any],
        variables: Sequence[keras.Variable],
        selection: Sequence[Selected],
    ) -> Partition:
        """Sort `variables` into groups by what the rules say of them, and create their state."""
        groups: dict[Any, Group] = {}
        taken: set[str] = set()
        for variable, selected in zip(variables, selection, strict=True):
            outcome = book.outcome(selected.rules)
            if outcome.group not in groups:
                groups[outcome.group] = _new_group(book, outcome, taken)
            group = groups[outcome.group]
            group.weights.append(variable)
            if not selected.decays:
                group.undecayed.append(variable)
        transforms = []
        for index, live in enumerate(book.rules):
            members = [
                variable
                for variable, selected in zip(variables, selection, strict=True)
                if index in selected.rules
            ]
            for place, transform in enumerate(live.rule.gradient):
                with keras.name_scope(f"rule_{index}_gradient_{place}"):
                    transforms.append((live.key, place, transform.bound_to(members)))
        for group in groups.values():
            group.build()
        return cls(book, key, selection, list(groups.values()), transforms)

    def split(self, steps: Mapping[Any, Hashable]) -> Partition:
        """Split each group by the steps that its weights have taken; all keep their state.

        One optimizer corrects the bias of all its slots by one step count. Weights that were held
        or not trained while others of their group learned need a count of their own.

        Args:
            steps: For the key of each weight, what is equal for weights that can share a count.
        """
        self.hand_out_counts()
        taken = {group.optimizer.name for group in self.groups}
        groups: list[Group] = []
        for group in self.groups:
            parts: dict[Hashable, list[int]] = {}
            for place, weight in enumerate(group.weights):
                parts.setdefault(steps[self.key(weight)], []).append(place)
            if len(parts) == 1:
                groups.append(group)
                continue
            with backend.scope_of(group.weights):
                groups += [
                    _part_of(group, places, taken, self.book, group.outcome)
                    for places in parts.values()
                ]
        if len(groups) == len(self.groups):
            return self
        parted = Partition(self.book, self.key, self.selection, groups, self.transforms)
        parted.collect_counts()
        return parted

    def under(
        self, book: Rulebook, selection: Sequence[Selected], variables: Sequence[keras.Variable]
    ) -> Partition:
        """Sort the weights into groups by other rules; they keep their state and step counts.

        Args:
            book: The other rules, which have the gradient transforms of today's.
            selection: What these make of each weight.
            variables: The weights, in the same order.
        """
        self.hand_out_counts()
        # Weights of two groups may have taken different steps, so that they stay apart.
        place_of = {
            self.key(weight): place
            for group in self.groups
            for place, weight in enumerate(group.weights)
        }
        parts: dict[Hashable, tuple[Group, Outcome, list[int]]] = {}
        for variable, selected in zip(variables, selection, strict=True):
            outcome, group = book.outcome(selected.rules), self.group_of(variable)
            part = parts.setdefault((outcome.group, id(group)), (group, outcome, []))
            part[2].append(place_of[self.key(variable)])
        taken: set[str] = set()
        with backend.scope_of(variables):
            groups = [
                _part_of(group, places, taken, book, outcome)
                for group, outcome, places in parts.values()
            ]
            other = Partition(book, self.key, selection, groups, self.transforms)
        other.collect_counts()
        return other

    def group_of(self, weight: Any) -> Group:
        """Find the group of a weight.

        Raises:
            KeyError: for a weight that the optimizer was not built with.
        """
        return self._group_of[self.key(weight)]

    def moves(self, weight: Any) -> Any:
        """Return whether the rules let a weight move now: `None` for always, a bool or a tensor."""
        group = self._group_of.get(self.key(weight))
        return None if group is None else self.book.moves(group.outcome)

    def places_in(self, variables: Sequence[Any]) -> list[list[int]]:
        """Find, for each group, the places of its weights among `variables`."""
        asked = list(map(id, variables))
        if asked != self._asked:
            place_of = {id(group): place for place, group in enumerate(self.groups)}
            self._answer = [[] for _ in self.groups]
            for place, variable in enumerate(variables):
                self._answer[place_of[id(self.group_of(variable))]].append(place)
            self._asked = asked
        return self._answer

    def transform(self, gradients: list[Any], weights: Sequence[Any]) -> list[Any]:
        """Apply the rules' transforms to the gradients of some weights, in place; return them."""
        place_of = {self.key(weight): place for place, weight in enumerate(weights)}
        for _, _, transform in self.transforms:
            members = [w for w in transform.weights if self.key(w) in place_of]
            if not members:
                continue
            places = [place_of[self.key(weight)] for weight in members]
            own = [backend.dense(gradients[place]) for place in places]
            for place, result in zip(places, transformed(transform, own, members), strict=True):
                gradients[place] = result
        return gradients

    def update(self, gradients: Sequence[Any], weights: Sequence[Any]) -> None:
        """Move the weights of each group whose rules let them move now."""
        self.hand_out_counts()
        for group, own in zip(self.groups, self.places_in(weights), strict=True):
            group.update(
                self.book.moves(group.outcome),
                [gradients[place] for place in own],
                [weights[place] for place in own],
            )
        self.collect_counts()

    @property
    def variables(self) -> list[keras.Variable]:
        """The state of the groups' optimizers, then that of the transforms."""
        of_groups = [v for group in self.groups for v in group.optimizer.variables]
        if self.counts is not None:
            apart = {id(group.optimizer._iterations) for group in self.groups}
            of_groups = [self.counts, *(v for v in of_groups if id(v) not in apart)]
        return of_groups + self.transform_variables

    @property
    def transform_variables(self) -> list[keras.Variable]:
        """The state of the transforms."""
        return [v for *_, transform in self.transforms for _, v, _ in transform.state]

    def hand_out_counts(self) -> None:
        """Give each group's optimizer its own step count from `counts`, where that keeps them."""
        if self.counts is not None:
            counts = ops.convert_to_tensor(self.counts)
            for place, group in enumerate(self.groups):
                iterations = group.optimizer._iterations
                iterations.assign(ops.cast(counts[place], iterations.dtype))

    def collect_counts(self) -> None:
        """Put the step counts of the groups' optimizers together, where `counts` keeps them."""
        if self.counts is not None:
            counts = [ops.convert_to_tensor(g.optimizer._iterations) for g in self.groups]
            self.counts.assign(ops.stack(counts))

    def set_hyperparameter(self, name: str, value: Any) -> None:
        """Set an argument of the wrapped optimizer in the groups that it moves."""
        for group in self.groups:
            decided = name == "weight_decay" and group.outcome.decay is not None
            if group.outcome.optimizer is None and not decided:
                setattr(group.optimizer, name, value)
                group.decays = None

    def learned_rates(self) -> dict[Any, float]:
        """Return {group: learned factor of its rate} for optimizers that learn their step size."""
        return {
            group.outcome.group: float(backend.host_array(group.optimizer.multiplier))
            for group in self.groups
            if hasattr(group.optimizer, "multiplier")
        }

    def weights_of_rules(self) -> dict[str, list[int]]:
        """Map each rule to the indices of its weights, `"no rule"` to those that none selects."""
        members: dict[str, list[int]] = {live.key: [] for live in self.book.rules}
        for index, selected in enumerate(self.selection):
            for rule in selected.rules:
                members[self.book.rules[rule].key].append(index)
            if not selected.rules:
                members.setdefault("no rule", []).append(index)
        return members


def _part_of(
    group: Group, places: Sequence[int], taken: set[str], book: Rulebook, outcome: Outcome
) -> Group:
    """Make a group of some of a group's weights, with their state, under an outcome of `book`."""
    part = _new_group(book, outcome, taken)
    part.weights = [group.weights[place] for place in places]
    excluded = set(map(id, group.undecayed))
    part.undecayed = [weight for weight in part.weights if id(weight) in excluded]
    part.build()
    old = group.states()
    for place, new in zip(places, part.states(), strict=True):
        for slot, variable in new.items():
            variable.assign(old[place][slot])
    return part


def _new_group(book: Rulebook, outcome: Outcome, taken: set[str]) -> Group:
    """Make a group without weights, whose optimizer has a name that is not taken yet."""
    template = book.template_of(outcome)
    given = name = template.config.get("name", template.kind)
    count = 0
    while name in taken:
        count += 1
        name = f"{given}_{count}"
    taken.add(name)
    return Group(book, outcome, name)
