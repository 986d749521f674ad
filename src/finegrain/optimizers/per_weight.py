"""PerWeight: any Keras optimizer, with its learning rate decided weight by weight."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from finegrain.monitoring.describe import Description, WeightReport
from finegrain.optimizers import checkpoint
from finegrain.optimizers.groups import (
    SHARED_ARGUMENTS,
    Group,
    State,
    check_arguments,
    serialize_optimizer,
)
from finegrain.optimizers.slots import step_state, weight_slots
from finegrain.rules import Rule, check_rules_select, checked_multiplier, rules_of


class _GroupLearningRate:
    """The learning rate of one group: the base rate × its rule's multiplier, at each step."""

    def __init__(self, owner: PerWeight, rule: int | None) -> None:
        self.owner = owner
        self.rule = rule

    def __call__(self) -> Any:
        return self.owner._learning_rate_under(self.rule)


@keras.saving.register_keras_serializable(package="finegrain")
class PerWeight(keras.optimizers.Optimizer):
    r"""Any Keras optimizer under rules that say how fast each weight learns.

    The weight $\theta_i$ moves as the given optimizer would move it at the learning rate

    $$\eta_i = \eta \cdot m_i,$$

    where $\eta$ is the base learning rate and $m_i$ the multiplier of the last rule that selects
    the weight (1 when none does). With all multipliers 1 the weights are bit-equal to those of
    the optimizer alone. `learning_rate` is the base rate: schedules and callbacks that set it
    keep the ratios. Clipping (also over the global norm), gradient accumulation, loss scaling,
    weight averaging and constraints are those of the given optimizer, over all weights together.

    Args:
        optimizer: A Keras optimizer, not yet built, or its name or config. Its learning rate is
            the base rate.
        rules: A list of `Rule`. The last rule that selects a weight decides its multiplier.
        name: The optimizer's name.

    Raises:
        TypeError: if a rule is not a `Rule`.
        ValueError: if the optimizer is already built or a wrapper itself, if two rules share a
            name, or, at build, if an expression selects no weight.

    Example:
    >>> import keras, numpy as np, finegrain as fg
    >>> model = keras.Sequential([
    ...     keras.Input((2,)),
    ...     keras.layers.Dense(2, name="encoder", kernel_initializer="ones"),
    ...     keras.layers.Dense(1, name="head", kernel_initializer="ones")])
    >>> optimizer = fg.PerWeight(
    ...     keras.optimizers.SGD(0.1), [fg.Rule("head", learning_rate_multiplier=100.0)])
    >>> print(optimizer.describe(model).to_dicts()[2]["learning_rate_multiplier"])
    100.0
    >>> model.compile(optimizer, loss="mse")
    >>> history = model.fit(np.ones((4, 2)), np.ones((4, 1)), verbose=0)
    >>> print(keras.ops.convert_to_numpy(model.get_layer("head").bias))
    [-60.]

    Notes:
        The slots of the weights (momenta and the like) are saved under the weights' paths. A
        checkpoint therefore resumes under other rules and on another backend.

    References:
        Su Jianlin, Layer-wise learning rates and free gradients, 2019,
        https://kexue.fm/archives/6418
    """

    def __init__(
        self,
        optimizer: keras.optimizers.Optimizer | str | dict[str, Any],
        rules: Sequence[Rule] = (),
        *,
        name: str | None = None,
    ) -> None:
        template = keras.optimizers.get(optimizer)
        if isinstance(template, PerWeight):
            raise ValueError(
                "PerWeight cannot wrap another PerWeight: put all rules into one list. "
                f"Received: optimizer={optimizer!r}"
            )
        check_arguments(template, rules)
        # Read now: within a TensorFlow graph, where `build` may run, a rate has no value.
        config = template.get_config()
        super().__init__(
            # A base rate that is a number is kept in a variable of our own.
            learning_rate=config["learning_rate"]
            if isinstance(config["learning_rate"], float)
            else template._learning_rate,
            name=name or "per_weight",
            **{key: config.get(key, default) for key, default in SHARED_ARGUMENTS.items()},
        )
        self._state = State(template, config, rules)
        for rule in rules:
            self._state.multipliers.append(
                self.add_variable(
                    (),
                    initializer=keras.initializers.Constant(rule.learning_rate_multiplier),
                    dtype="float32",
                    name=f"multiplier_{len(self._state.multipliers)}",
                )
            )

    def build(self, variables: Sequence[keras.Variable]) -> None:
        """Sorts `variables` into groups by the rules and creates their state."""
        if self.built:
            return
        variables = list(variables)
        self._state.selected = self._select(variables)
        groups: dict[int | None, Group] = {}
        for variable, selected in zip(variables, self._state.selected, strict=True):
            rule = max(selected, default=None)
            if rule not in groups:
                groups[rule] = Group(self._state.group_optimizer(_GroupLearningRate(self, rule)))
            groups[rule].weights.append(variable)
            self._state.group_of[self._var_key(variable)] = groups[rule]
        self._state.groups = list(groups.values())
        super().build(variables)
        for group in self._state.groups:
            group.optimizer.build(group.weights)

    def _select(self, variables: Sequence[keras.Variable]) -> list[tuple[int, ...]]:
        """Indices of the rules that select each of `variables`."""
        saved = self._state.saved_selection
        matches = checkpoint.match_weights(
            [(path, shape) for path, shape, _ in saved], checkpoint.places(variables)
        )
        if len(matches) == len(saved) == len(variables):
            # The model that these rules were saved with: its paths may have changed since.
            return [tuple(saved[matches[index]][2]) for index in range(len(variables))]
        check_rules_select(self._state.rules, variables)
        return [rules_of(self._state.rules, variable) for variable in variables]

    def _learning_rate_under(self, rule: int | None) -> Any:
        # As a tensor: an optimizer would track a variable found among its attributes as its own.
        rate = ops.convert_to_tensor(self._get_current_learning_rate())
        if rule is None:
            return rate
        multiplier = self._state.multipliers[rule]
        return rate * ops.cast(ops.convert_to_tensor(multiplier), rate.dtype)

    @property
    def variables(self) -> list[keras.Variable]:
        """The optimizer's own variables, then those of its groups."""
        own = list(self._variables)
        return own + [v for group in self._state.groups for v in group.optimizer.variables]

    # The two hooks below are Keras's private ones; tests/optimizers/test_keras_hooks.py pins them.

    def _apply_weight_decay(self, variables: Sequence[keras.Variable]) -> None:
        """Does nothing here: each group decays its weights at its own learning rate."""

    def _backend_update_step(
        self, grads: Sequence[Any], trainable_variables: Sequence[Any], learning_rate: Any
    ) -> None:
        # By now the gradients are accumulated, unscaled and clipped over all weights together.
        parts: dict[int, tuple[list[Any], list[Any]]] = {}
        for gradient, variable in zip(grads, trainable_variables, strict=True):
            group = self._state.group_of[self._var_key(variable)]
            gradients, variables = parts.setdefault(id(group), ([], []))
            gradients.append(gradient)
            variables.append(variable)
        for group in self._state.groups:
            optimizer = group.optimizer
            if id(group) in parts:
                gradients, variables = parts[id(group)]
                # Keras's torch optimizers fail on decaying an empty list.
                if any(optimizer._use_weight_decay(variable) for variable in variables):
                    optimizer._apply_weight_decay(variables)
                optimizer._backend_update_step(gradients, variables, optimizer.learning_rate)
            optimizer._iterations.assign_add(1)

    def set_multiplier(self, rule: str, value: float) -> None:
        """Changes a rule's learning-rate multiplier, also between the steps of `fit`.

        Nothing is compiled again. In a callback under `fit`, reach the optimizer as
        `self.model.optimizer`.

        Args:
            rule: The rule's name (by default its regular expression).
            value: A finite number ≥ 0.

        Raises:
            ValueError: if no rule has that name or the value is no multiplier.
        """
        names = [rule.name for rule in self._state.rules]
        if rule not in names:
            raise ValueError(f"No rule has this name; the rules are {names}. Received: {rule!r}")
        self._state.multipliers[names.index(rule)].assign(checked_multiplier(value))

    def _current_multipliers(self) -> list[float]:
        """The rules' own numbers (0.1, not its float32), where they have not been changed."""
        numbers = []
        for rule, variable in zip(self._state.rules, self._state.multipliers, strict=True):
            current = float(ops.convert_to_numpy(variable.value))
            unchanged = current == np.float32(rule.learning_rate_multiplier)
            numbers.append(rule.learning_rate_multiplier if unchanged else current)
        return numbers

    def describe(self, model: keras.Model) -> Description:
        """A table of how each trainable weight of `model` learns, before or after training.

        Args:
            model: A built Keras model (or layer).

        Returns:
            A `Description`: rich when printed by rich, plain text under `str`, `to_dicts()` for
            programs.

        Raises:
            ValueError: if the model has no weights yet, or an expression selects none.
        """
        weights = model.trainable_variables
        if not weights:
            raise ValueError(
                "`describe` needs a model with trainable weights: build it first, for example "
                f"by calling it on data. Received: model={model!r}"
            )
        rules = self._state.rules
        base = float(ops.convert_to_numpy(self._learning_rate_under(None)))
        multipliers = self._current_multipliers()
        reports = []
        for (path, _), weight, selected in zip(
            checkpoint.places(weights), weights, self._select(weights), strict=True
        ):
            multiplier = multipliers[selected[-1]] if selected else 1.0
            reports.append(
                WeightReport(
                    path=path,
                    shape=tuple(weight.shape),
                    parameters=int(np.prod(weight.shape, dtype=np.int64)),
                    optimizer=self._state.template.__class__.__name__,
                    learning_rate_multiplier=multiplier,
                    effective_learning_rate=base * multiplier,
                    weight_decay=self._state.weight_decay(weight),
                    gradient=(),
                    trainable=True,
                    rules=tuple(rules[index].name for index in selected),
                )
            )
        return Description(reports)

    def _named_state(self) -> Iterator[tuple[str, keras.Variable]]:
        """Every state variable under a name that depends on neither grouping nor backend.

        A group's step counts appear under each of its weights: they follow the weights into
        other groups.
        """
        weights = self._trainable_variables
        names = [checkpoint.key(path) for path, _ in checkpoint.places(weights)]
        name_of = dict(zip(map(self._var_key, weights), names, strict=True))
        for index, slot, variable in weight_slots(self, weights):
            yield f"{names[index]}:{slot}", variable
        multipliers = {id(variable) for variable in self._state.multipliers}
        own = [variable for variable in self._variables if id(variable) not in multipliers]
        yield from step_state(self, weights, own)
        for group in self._state.groups:
            members = [name_of[self._var_key(weight)] for weight in group.weights]
            for index, slot, variable in weight_slots(group.optimizer, group.weights):
                yield f"{members[index]}:{slot}", variable
            for name, variable in step_state(
                group.optimizer, group.weights, group.optimizer.variables
            ):
                for member in members:
                    yield f"{member}:step:{name}", variable

    def save_own_variables(self, store: Any) -> None:
        """Writes the state into `store` under the paths of the weights it serves."""
        checkpoint.save(store, self._named_state(), self._trainable_variables)
        for rule, multiplier in zip(self._state.rules, self._state.multipliers, strict=True):
            current = ops.convert_to_numpy(multiplier.value)
            store[_rule_name(rule)] = np.array([rule.learning_rate_multiplier, current], "float32")

    def load_own_variables(self, store: Any) -> None:
        """Reads the state of each weight from `store`, whatever the rules it was written under.

        A multiplier changed at run time is restored when its rule still says what it said when
        the file was written; else the rule of today holds. State that the file lacks keeps its
        value, with a warning that names it.
        """
        if not self.built:
            warnings.warn(
                f"The saved state is not loaded: optimizer {self.name!r} has no variables for it "
                "yet. Call `optimizer.build(model.trainable_variables)` before loading.",
                stacklevel=2,
            )
            return
        filled = checkpoint.load(store, self._named_state(), self._trainable_variables)
        names = set(store.keys())
        for rule, multiplier in zip(self._state.rules, self._state.multipliers, strict=True):
            if _rule_name(rule) in names:
                configured, current = np.asarray(store[_rule_name(rule)])
                if configured == np.float32(rule.learning_rate_multiplier):
                    multiplier.assign(current)
        missing = [name for name, found in filled.items() if not found]
        if missing:
            warnings.warn(
                f"The saved state lacks {len(missing)} of {len(filled)} variables of optimizer "
                f"{self.name!r}; they keep their values: {missing[:5]}"
                f"{' and more' if len(missing) > 5 else ''}. The file may come from another "
                "model or another optimizer.",
                stacklevel=2,
            )

    def set_weights(self, weights: Sequence[Any]) -> None:
        """Sets all state variables, in the order of `variables`."""
        variables = self.variables
        if not self.built or len(weights) != len(variables):
            raise ValueError(
                "`set_weights` takes one array for each of `optimizer.variables` of a built "
                f"optimizer. Received: {len(weights)} arrays for {len(variables)} variables, "
                f"built={self.built}"
            )
        for variable, value in zip(variables, weights, strict=True):
            variable.assign(value)

    def get_config(self) -> dict[str, Any]:
        """The arguments that make an equal optimizer, with the rates as they are now."""
        shared = super().get_config()
        config = dict(self._state.config)
        for key in SHARED_ARGUMENTS:
            if key in config:
                config[key] = shared[key]
        config["learning_rate"] = shared["learning_rate"]
        template = self._state.template.__class__.from_config(config)
        rules = []
        for rule, multiplier in zip(self._state.rules, self._current_multipliers(), strict=True):
            rules.append(rule.get_config() | {"learning_rate_multiplier": multiplier})
        return {
            "optimizer": serialize_optimizer(template),
            "rules": rules,
            "name": self.name,
            "selection": self._selection(),
        }

    def _selection(self) -> list[tuple[str, list[int], list[int]]]:
        if not self.built:
            return self._state.saved_selection
        places = checkpoint.places(self._trainable_variables)
        return [
            (path, shape, list(selected))
            for (path, shape), selected in zip(places, self._state.selected, strict=True)
        ]

    @classmethod
    def from_config(
        cls, config: dict[str, Any], custom_objects: dict[str, Any] | None = None
    ) -> PerWeight:
        """The optimizer that `get_config` describes."""
        optimizer = keras.saving.deserialize_keras_object(config["optimizer"], custom_objects)
        rules = [Rule.from_config(rule) for rule in config["rules"]]
        per_weight = cls(optimizer, rules, name=config["name"])
        per_weight._state.saved_selection = list(config["selection"])
        return per_weight


def _rule_name(rule: Rule) -> str:
    return f"rule:{checkpoint.key(rule.name)}"
