"""What PerWeight consists of: groups of weights, each with an optimizer of its own."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import keras
from keras import ops

from finegrain._backend import backend
from finegrain.gradients.transform import GradientTransform, transformed
from finegrain.per_weight.nonfinite import Guard
from finegrain.per_weight.places import match_weights, places
from finegrain.per_weight.recorder import Recorder
from finegrain.per_weight.rulebook import Rulebook
from finegrain.per_weight.slots import states
from finegrain.rules.rule import Outcome, select_weights


class GroupLearningRate:
    """The learning rate of one group, at each step."""

    def __init__(self, book: Rulebook, outcome: Outcome) -> None:
        self.book = book
        self.outcome = outcome

    def __call__(self) -> Any:
        """A scalar tensor."""
        return self.book.rate(self.outcome)


class Group:
    """Weights that one optimizer moves, since the same rules decide how."""

    def __init__(self, outcome: Outcome, optimizer: keras.optimizers.Optimizer) -> None:
        self.outcome = outcome
        self.optimizer = optimizer
        self.weights: list[keras.Variable] = []
        # Those that `exclude_from_weight_decay` was told of.
        self.undecayed: list[keras.Variable] = []
        self.decays: bool | None = None

    def update(self, condition: Any, gradients: list[Any], weights: list[keras.Variable]) -> None:
        """One step of the group's optimizer on some of its weights, if `condition` holds."""
        backend.run_if(condition, self._update, (gradients, weights), self._state)

    def _state(self) -> list[keras.Variable]:
        return [*self.weights, *self.optimizer.variables]

    def build(self) -> None:
        """Creates the state of the group's optimizer."""
        if self.undecayed:
            self.optimizer.exclude_from_weight_decay(var_list=self.undecayed)
        self.optimizer.build(self.weights)

    def states(self) -> list[dict[str, keras.Variable]]:
        """For each weight the state that it depends on: {slot: variable}."""
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
            if self.decays and decaying:
                optimizer._apply_weight_decay(decaying)
            optimizer._backend_update_step(gradients, weights, optimizer.learning_rate)
        backend.count_one(optimizer._iterations)


class Selected:
    """The rules that select a weight, and whether the wrapped optimizer's decay reaches it."""

    def __init__(self, rules: Sequence[int], decays: bool) -> None:
        self.rules = tuple(rules)
        self.decays = decays


class State:
    """What PerWeight keeps out of Keras's sight.

    Keras stores every optimizer that it finds in a list among another optimizer's attributes,
    which would write the groups' state to the file a second time, and its callbacks set the
    learning rates of any attribute called `optimizers` or `inner_optimizer`.

    Args:
        book: The rules at work.
        key: What identifies a weight.
    """

    def __init__(self, book: Rulebook, key: Callable[[Any], Any]) -> None:
        self.book = book
        self.key = key
        self.groups: list[Group] = []
        self.group_of: dict[Any, Group] = {}
        # The transforms in the order in which they apply, each with its rule's key and place.
        self.transforms: list[tuple[str, int, GradientTransform]] = []
        # What each weight was found to be: the rules that select it, whether it decays.
        self.selection: list[Selected] = []
        # The same of a saved model, with the places of its weights; `None` if it is not from one.
        self.saved_selection: list[tuple[str, list[int], list[int], bool]] | None = None
        # What rules from a file could not find in the model that was loaded.
        self.problems: list[str] = []
        # Whether TensorFlow has a graph of the step, which would not know other groups.
        self.is_traced = False
        # The weights of the step that is being taken.
        self.stepping: list[keras.Variable] = []
        # On JAX, the step counts of all groups.
        self.counts: keras.Variable | None = None
        # The weights of the last step, and their places by group.
        # The names of the groups' optimizers.
        self._names: set[str] = set()
        self._parted: list[int] = []
        self._parts: list[list[int]] = []
        # Set while something watches the weights, which sees the gradients as the loss gave them.
        self.recorder: Recorder | None = None
        # By thread: under a TensorFlow strategy each replica takes its steps in one of its own.
        self.raw_gradients: dict[int, list[Any]] = {}
        # Set where steps with gradients that are not finite are dropped.
        self.guard: Guard | None = None

    def select(self, variables: Sequence[keras.Variable]) -> list[Selected]:
        """What the rules make of each of `variables`."""
        if not variables:
            return []  # Keras builds the optimizer of a legacy `.h5` file so
        book, saved = self.book, self.saved_selection or []
        self.problems = []
        matches = match_weights([(path, shape) for path, shape, *_ in saved], places(variables))
        if saved and len(matches) == len(saved) == len(variables):
            # The model that these rules were saved with: its paths may have changed since.
            return [Selected(*saved[matches[index]][2:]) for index in range(len(variables))]
        result = []
        rules = [live.rule for live in book.rules]
        problems = None if self.saved_selection is None else self.problems
        selection = select_weights(rules, variables, problems)
        for variable, selected in zip(variables, selection, strict=True):
            outcome = book.outcome(selected)
            decays = outcome.weight_decay is not None or book.template_of(outcome).decays(variable)
            result.append(Selected(selected, decays))
        return result

    def part(self, variables: Sequence[keras.Variable], selection: Sequence[Selected]) -> None:
        """Sorts `variables` into groups by what the rules say of them."""
        self.selection = list(selection)
        groups: dict[Any, Group] = {}
        for variable, selected in zip(variables, self.selection, strict=True):
            outcome = self.book.outcome(selected.rules)
            if outcome.group not in groups:
                groups[outcome.group] = self._new_group(outcome)
            group = groups[outcome.group]
            group.weights.append(variable)
            if not selected.decays:
                group.undecayed.append(variable)
            self.group_of[self.key(variable)] = group
        self.groups = list(groups.values())
        self.book.outcomes = [group.outcome for group in self.groups]
        for index, live in enumerate(self.book.rules):
            members = [
                variable
                for variable, selected in zip(variables, self.selection, strict=True)
                if index in selected.rules
            ]
            for place, transform in enumerate(live.rule.gradient):
                with keras.name_scope(f"rule_{index}_gradient_{place}"):
                    self.transforms.append((live.key, place, transform.bound_to(members)))

    def _new_group(self, outcome: Outcome) -> Group:
        """A group without weights, whose variables no other has the names of."""
        template = self.book.template_of(outcome)
        given = name = template.config.get("name", template.kind)
        count = 0
        while name in self._names:
            count += 1
            name = f"{given}_{count}"
        self._names.add(name)
        rate = GroupLearningRate(self.book, outcome)
        return Group(outcome, template.make(rate, outcome.weight_decay, name=name))

    def build_groups(self) -> None:
        """Creates the state of the groups' optimizers."""
        for group in self.groups:
            group.build()
        self._make_counts()

    def _make_counts(self) -> None:
        if backend.COUNTS_TOGETHER:
            self.counts = keras.Variable(
                "zeros", shape=(len(self.groups),), dtype="int32", trainable=False, name="counts"
            )

    def split(self, steps: Mapping[Any, Hashable]) -> None:
        """Parts each group by what its weights have behind them; all keep the state they have.

        One optimizer corrects the bias of all its slots by one step count. Weights that were held
        or not trained while others of their group learned need a count of their own.

        Args:
            steps: For the key of each weight, what is equal for weights that can share a count.
        """
        groups: list[Group] = []
        for group in self.groups:
            parts: dict[Hashable, list[int]] = {}
            for place, weight in enumerate(group.weights):
                parts.setdefault(steps[self.key(weight)], []).append(place)
            if len(parts) == 1:
                groups.append(group)
                continue
            with backend.scope_of(group.weights):
                groups += [self._part_of(group, places) for places in parts.values()]
        if len(groups) == len(self.groups):
            return
        self.hand_out_counts()
        self.groups = groups
        self.group_of = {self.key(w): group for group in groups for w in group.weights}
        self._parted, self._parts = [], []
        self._make_counts()
        self.collect_counts()
        if self.is_traced:
            warnings.warn(
                "The state that is loaded parts the weights into other groups than the training "
                "step was traced with. Compile the model again, with this optimizer, before it "
                "trains on: model.compile(model.optimizer, ...).",
                stacklevel=2,
            )

    def _part_of(self, group: Group, places: Sequence[int]) -> Group:
        """A group of some of a group's weights, with their state."""
        part = self._new_group(group.outcome)
        part.weights = [group.weights[place] for place in places]
        excluded = set(map(self.key, group.undecayed))
        part.undecayed = [weight for weight in part.weights if self.key(weight) in excluded]
        part.build()
        old = group.states()
        for place, new in zip(places, part.states(), strict=True):
            for slot, variable in new.items():
                variable.assign(old[place][slot])
        return part

    def set_hyperparameter(self, name: str, value: Any) -> None:
        """Sets an argument of the wrapped optimizer, for all weights that it moves."""
        template = self.book.template
        template.set(name, value)
        for group in self.groups:
            decided = name == "weight_decay" and group.outcome.weight_decay is not None
            if group.outcome.optimizer is None and not decided:
                setattr(group.optimizer, name, value)
                group.decays = None

    def parts_of(self, variables: Sequence[Any]) -> list[list[int]]:
        """For each group, the places of its weights among `variables`."""
        weights = list(map(id, variables))
        if weights != self._parted:
            place_of = {id(group): place for place, group in enumerate(self.groups)}
            self._parts = [[] for _ in self.groups]
            for place, variable in enumerate(variables):
                group = self.group_of[self.key(variable)]
                self._parts[place_of[id(group)]].append(place)
            self._parted = weights
        return self._parts

    def group_variables(self) -> list[keras.Variable]:
        """The state of the groups' optimizers."""
        if self.counts is None:
            return [v for group in self.groups for v in group.optimizer.variables]
        counts = {id(group.optimizer._iterations) for group in self.groups}
        own = [v for group in self.groups for v in group.optimizer.variables]
        return [self.counts, *(v for v in own if id(v) not in counts)]

    def hand_out_counts(self) -> None:
        """Lets each group's optimizer know its own step count."""
        if self.counts is not None:
            counts = ops.convert_to_tensor(self.counts)
            for place, group in enumerate(self.groups):
                iterations = group.optimizer._iterations
                iterations.assign(ops.cast(counts[place], iterations.dtype))

    def collect_counts(self) -> None:
        """Takes the step counts of the groups' optimizers together."""
        if self.counts is not None:
            counts = [ops.convert_to_tensor(g.optimizer._iterations) for g in self.groups]
            self.counts.assign(ops.stack(counts))

    def transform(self, gradients: list[Any]) -> list[Any]:
        """What the rules' transforms make of the gradients of the step's weights."""
        place_of = {self.key(weight): place for place, weight in enumerate(self.stepping)}
        for _, _, transform in self.transforms:
            members = [w for w in transform.weights if self.key(w) in place_of]
            if not members:
                continue
            places = [place_of[self.key(weight)] for weight in members]
            own = [backend.dense(gradients[place]) for place in places]
            for place, result in zip(places, transformed(transform, own, members), strict=True):
                gradients[place] = result
        return gradients

    def watch(self, weights: Sequence[keras.Variable], every: int, step: int) -> bool:
        """Has every so many steps recorded: whether a compiled step has to be compiled anew."""
        if self.recorder is not None:
            self.recorder.set_interval(every, step)
            return False
        self.recorder = Recorder(weights, every, step)
        return True

    def learned_rates(self) -> dict[Any, float]:
        """By group, what an optimizer that learns its step size multiplies its rate by."""
        return {
            group.outcome.group: float(backend.host_array(group.optimizer.multiplier))
            for group in self.groups
            if hasattr(group.optimizer, "multiplier")
        }

    def weights_of_rules(self) -> dict[str, list[int]]:
        """Rule → indices of its weights; those that no rule selects are under `"no rule"`."""
        members: dict[str, list[int]] = {live.key: [] for live in self.book.rules}
        for index, selected in enumerate(self.selection):
            for rule in selected.rules:
                members[self.book.rules[rule].key].append(index)
            if not selected.rules:
                members.setdefault("no rule", []).append(index)
        return members
