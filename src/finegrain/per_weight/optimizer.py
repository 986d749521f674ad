"""PerWeight: any Keras optimizer under rules that say how each weight learns.

A step goes through Keras's `Optimizer.apply`, which calls back. What happens, in this order:

1. `apply` builds the optimizer, if it is the first step, and has the rulebook forget what it
   computed for the last one.
2. With `nonfinite="skip"` or `"raise"`, the `Guard` ends the step here if a gradient of a weight
   that moves is not finite.
3. `_what_to_hold` remembers what Keras would move of held weights besides the step.
4. Keras divides the gradients by the loss scale, leaves out weights without one, and accumulates.
   `_backend_apply_gradients` makes gradients of held weights 0 before.
5. `_clip_gradients`: the `Recorder` takes the gradients, the rules' transforms change them in the
   order of the rules, Keras clips them over all weights together.
6. `_backend_update_step`: in each group of the `Partition` that moves now, weight decay, then the
   step of the group's optimizer at the group's rate. The `Recorder` takes the norms.
7. Keras averages the weights, applies their constraints, and counts the step.
8. What was remembered in 3 is put back.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from threading import get_ident
from typing import Any

import keras
import numpy as np
from keras import ops

from finegrain._backend import backend
from finegrain._checks import checked_number
from finegrain._deprecated import warn
from finegrain.per_weight import checkpoint
from finegrain.per_weight.check import Expected, check
from finegrain.per_weight.describe import Description
from finegrain.per_weight.nonfinite import Guard, check_policy, host_int
from finegrain.per_weight.notes import notes
from finegrain.per_weight.partition import FromFile, Partition, Selected, select
from finegrain.per_weight.recorder import Recorder
from finegrain.per_weight.reports import WeightReport, as_float, rates_of_rules, reports
from finegrain.per_weight.rulebook import Rulebook
from finegrain.per_weight.slots import set_state
from finegrain.rules.rule import Rule
from finegrain.rules.template import Template


@keras.saving.register_keras_serializable(package="finegrain")
class PerWeight(keras.optimizers.Optimizer):
    r"""Any Keras optimizer under rules that say how each weight learns.

    The weight $\theta_i$ moves as the given optimizer would move it at the learning rate

    $$\eta_i = \eta \cdot m_i,$$

    where $\eta$ is the base learning rate and $m_i$ the multiplier of the last rule that selects
    the weight (1 when none does); rules may also give it a rate, a weight decay, an optimizer and
    gradient transforms of its own, or hold it where it is. Without rules the weights are bit-equal
    to those of the optimizer alone; with multipliers of 1, too, where operations run one by one
    (PyTorch, eager steps), and else equal to rounding. `learning_rate` is the base
    rate: schedules and callbacks that set it keep the ratios. Clipping (also over the global
    norm), gradient accumulation, loss scaling, weight averaging and constraints are those of the
    given optimizer, over all weights together.

    Args:
        optimizer: A Keras optimizer, not yet built, or its name or config. Its learning rate is
            the base rate.
        rules: A list of `Rule`. For each property the last rule that selects a weight and names
            the property decides.
        nonfinite: What to do when the gradient of a weight that moves is NaN or infinite.
            `"propagate"`: nothing, as Keras does. `"skip"`: drop the whole step, so that weights
            and state stay as they are, and count it in `skipped_steps`. `"raise"`: drop it, and
            raise a `NonFiniteGradientError` that names the weights.
        name: The optimizer's name.

    Raises:
        TypeError: if a rule is not a `Rule`.
        ValueError: if the optimizer is already built or a wrapper itself, if two rules are given
            the same name, or, at build, if a selector selects no weight.
        NonFiniteGradientError: in a step, with `nonfinite="raise"`.

    Example:
    >>> import keras, numpy as np, finegrain as fg
    >>> model = keras.Sequential([
    ...     keras.Input((2,)),
    ...     keras.layers.Dense(2, name="encoder", kernel_initializer="ones"),
    ...     keras.layers.Dense(1, name="head", kernel_initializer="ones")])
    >>> optimizer = fg.PerWeight(keras.optimizers.SGD(0.1), [
    ...     fg.Rule("head", learning_rate_multiplier=100.0),
    ...     fg.Rule("encoder", trainable=False)])
    >>> print(optimizer.describe(model).to_dicts()[2]["learning_rate_multiplier"])
    100.0
    >>> model.compile(optimizer, loss="mse")
    >>> history = model.fit(np.ones((4, 2)), np.ones((4, 1)), verbose=0)
    >>> print(keras.ops.convert_to_numpy(model.get_layer("head").bias))
    [-60.]
    >>> print(keras.ops.convert_to_numpy(model.get_layer("encoder").bias))
    [0. 0.]

    Notes:
        The slots of the weights (momenta and the like) are saved under the weights' paths. A
        checkpoint therefore resumes under other rules and on another backend.

        Under `fit`, where steps run compiled, `nonfinite="raise"` drops the steps in question, and
        `fit` raises at its end, when it has put the model in order; the callback
        `finegrain.callbacks.TerminateOnNonFinite` ends the training at the first of them. In
        steps that you compile yourself, and after `train_on_batch`, ask with
        `raise_if_nonfinite()`. A step that is not compiled raises by itself.

        A rule whose multiplier is 1 changes nothing about the step, which does not even ask
        whether it is 0. To hold its weights later, say `trainable=True` in the rule. Likewise a
        rule whose weight decay is 0 leaves decay out of the step; to let its weights decay later,
        make it with that decay and set 0 until then.

        Steps are counted as Keras counts them: with gradient accumulation, `iterations` counts
        updates, while schedules and rules' schedules are given the number of batches.

        Under mixed precision Keras's `LossScaleOptimizer` looks at the gradients first, those of
        held weights included, drops steps by itself, and counts none here.

    References:
        Su Jianlin, Layer-wise learning rates and free gradients, 2019,
        https://kexue.fm/archives/6418
    """

    def __init__(
        self,
        optimizer: keras.optimizers.Optimizer | str | dict[str, Any],
        rules: Sequence[Rule] = (),
        *,
        nonfinite: str = "propagate",
        name: str | None = None,
    ) -> None:
        if isinstance(optimizer, PerWeight):
            raise ValueError(
                "PerWeight cannot wrap another PerWeight: put all rules into one list. "
                f"Received: optimizer={optimizer!r}"
            )
        template = Template(optimizer)
        check_policy(nonfinite)
        # A base rate that is a number is kept in a variable of our own.
        super().__init__(
            learning_rate=template.learning_rate,
            weight_decay=template.optimizer.weight_decay,
            name=name or "per_weight",
            **template.shared_arguments(),
        )
        self.nonfinite = nonfinite
        self._book = self._rulebook(template, rules)
        self._partition = Partition(self._book, self._var_key)
        self._pending = _Pending()
        self._guard: Guard | None = None
        self._recorder: Recorder | None = None
        self._from_file: FromFile | None = None
        # Numbers of rules that a file has but this optimizer lacks, until a callback brings them.
        self._unclaimed: dict[str, Any] = {}
        # Whether TensorFlow has a graph of the step, which would not know other groups.
        self._is_traced = False

    def __getattr__(self, name: str) -> Any:
        """Return a hyperparameter of the given optimizer, such as `beta_1`."""
        book = self.__dict__.get("_book")
        if book is None or name not in book.template.hyperparameters:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return getattr(book.template.optimizer, name)

    def __setattr__(self, name: str, value: Any) -> None:
        """Set an attribute; set a hyperparameter also in the optimizers of the groups."""
        book = self.__dict__.get("_book")
        if book is not None and name in book.template.hyperparameters:
            book.template.set(name, value)
            self._partition.set_hyperparameter(name, value)
            if name not in self.__dict__:
                return
        super().__setattr__(name, value)

    def __repr__(self) -> str:
        rules = [live.rule for live in self._book.rules]
        shown = ", ".join(map(repr, rules[:3])) + (f", … {len(rules)} in all" * (len(rules) > 3))
        return f"PerWeight({self._book.template!r}, [{shown}])"

    def _rulebook(self, template: Template, rules: Sequence[Rule]) -> Rulebook:
        return Rulebook(template, rules, self._add_numbers, self._current_step, self._base_rate)

    def _add_numbers(self, values: list[float]) -> keras.Variable:
        def initial(shape: Sequence[int], dtype: str) -> Any:
            return ops.convert_to_tensor(values, dtype)

        return self.add_variable((len(values),), initial, dtype="float32", name="rule_numbers")

    def _current_step(self) -> Any:
        return ops.convert_to_tensor(self._iterations)

    def _base_rate(self) -> Any:
        return self._get_current_learning_rate()

    def build(self, variables: Sequence[keras.Variable]) -> None:
        """Build the optimizer: sort `variables` into groups by the rules and create their state.

        If rules from a file do not fit the loaded model, the first call, which `load_model` makes,
        warns and builds nothing, so that the model can be used; the next call raises an error.
        """
        if self.built:
            return
        variables = list(variables)
        problems = self._problems
        selection = select(self._book, variables, self._from_file)
        if self._problems:
            message = (
                f"{self._problems[0]} The rule comes from a file, whose model had other paths."
            )
            cure = "compile the model with a PerWeight of rules that fit."
            if problems:
                raise ValueError(f"{message} Before it trains, {cure}")
            warnings.warn(
                f"{message} The model predicts as it did; before it trains, {cure}", stacklevel=2
            )
            return
        with backend.scope_of(variables):
            self._partition = Partition.of(self._book, self._var_key, variables, selection)
            super().build(variables)
            if self.nonfinite != "propagate":
                self._guard = Guard(self.nonfinite, variables, self._add_counter)

    @property
    def _problems(self) -> list[str]:
        """What rules from a file could not find in the model that was loaded."""
        return [] if self._from_file is None else self._from_file.problems

    def _add_counter(self, name: str, shape: tuple[int, ...]) -> keras.Variable:
        return self.add_variable(
            shape, "zeros", dtype="int32", aggregation="only_first_replica", name=name
        )

    @property
    def variables(self) -> list[keras.Variable]:
        """The optimizer's own variables, then those of its groups and gradient transforms."""
        return (
            list(self._variables)
            + self._partition.variables
            + ([] if self._recorder is None else self._recorder.variables)
        )

    # A step: see the top of this module. Keras calls back by its private hooks, which
    # tests/per_weight/test_keras_hooks.py pins.

    def apply(
        self, grads: Sequence[Any], trainable_variables: Sequence[keras.Variable] | None = None
    ) -> None:
        """Update the weights by one step.

        Args:
            grads: A gradient, or `None`, for each of `trainable_variables`.
            trainable_variables: The weights; by default those that the optimizer was built with.
                The first call builds it.
        """
        weights = None if trainable_variables is None else list(trainable_variables)
        if weights is not None and not self.built:
            self.build(weights)
        self._book.begin_step()
        if self._guard is None:
            self._step(list(grads), weights)
            return
        members = self._trainable_variables if weights is None else weights
        self._check_variables_are_known(members)
        counted = [
            False if self._overwrite_variable_with_gradient(weight) else self._moves(weight)
            for weight in members
        ]
        everything = [*self._trainable_variables, *self.variables]
        self._guard.run(self._step, list(grads), list(members), counted, everything, self)

    def _step(self, grads: list[Any], weights: list[keras.Variable] | None) -> None:
        held = self._what_to_hold()
        super().apply(grads, weights)
        if not any(map(backend.is_compiling, grads)):
            self._partition.hand_out_counts()
        for variable, stays, before in held:
            variable.assign(ops.where(stays, before, ops.convert_to_tensor(variable)))

    def _what_to_hold(self) -> list[tuple[keras.Variable, Any, Any]]:
        """List (variable, whether it stays, its value) of all that Keras moves besides the step.

        Keras applies constraints to all weights, held ones included, and averages them all, so that
        rounding would make the average of a held weight drift.
        """
        weights = self._trainable_variables
        if not self.built or not (self.use_ema or any(w.constraint is not None for w in weights)):
            return []
        averages = self._model_variables_moving_average if self.use_ema else []
        overwritten = bool(averages and self.ema_overwrite_frequency)
        held = []
        for place, weight in enumerate(weights):
            average = averages[place] if averages else None
            touched = overwritten or weight.constraint is not None
            moves = self._moves(weight) if touched or average is not None else None
            if moves is None:
                continue
            stays = ops.logical_not(moves)
            value = ops.copy(ops.convert_to_tensor(weight))
            if touched:
                held.append((weight, stays, value))
            if average is not None:
                before = ops.copy(ops.convert_to_tensor(average))
                held.append((average, ops.logical_and(stays, before == value), before))
        return held

    def _moves(self, weight: keras.Variable) -> Any:
        """Return whether the rules let `weight` move now: `None` for always, a bool or a tensor."""
        return self._partition.moves(weight)

    def _backend_apply_gradients(
        self, grads: Sequence[Any], trainable_variables: Sequence[keras.Variable]
    ) -> None:
        self._book.begin_step()  # also for a wrapper, which calls this instead of `apply`
        weights, grads = list(trainable_variables), list(grads)
        self._is_traced = self._is_traced or backend.is_compiling(self._iterations)
        if self.gradient_accumulation_steps or self._partition.transforms:
            grads = self._without_held(grads, weights)
        with self._pending.step(weights):
            super()._backend_apply_gradients(grads, weights)

    def _clip_gradients(self, grads: Sequence[Any]) -> Sequence[Any]:
        # By now the gradients are accumulated and unscaled.
        step = self._pending.now
        if self._recorder is not None:
            step.gradients = backend.over_replicas(grads)
        changed = self._partition.transform(list(grads), step.weights)
        if self.global_clipnorm:
            changed = self._without_held(changed, step.weights)
        return super()._clip_gradients(changed)

    def _without_held(self, grads: list[Any], weights: list[keras.Variable]) -> list[Any]:
        """Zero the gradients of weights that do not move, so that they touch no other weight's."""
        return [
            _zero_unless(self._moves(weight), gradient)
            for gradient, weight in zip(grads, weights, strict=True)
        ]

    def _apply_weight_decay(self, variables: Sequence[keras.Variable]) -> None:
        """Do nothing here: each group decays its weights at its own learning rate."""

    def _backend_update_step(
        self, grads: Sequence[Any], trainable_variables: Sequence[Any], learning_rate: Any
    ) -> None:
        # By now the gradients are clipped, too, over all weights together.
        recorder = self._recorder
        before = None if recorder is None else recorder.before()
        self._partition.update(grads, list(trainable_variables))
        if recorder is not None:
            step = self._pending.now
            now = ops.convert_to_tensor(self.iterations)
            recorder.record(now, step.gradients, step.weights, before)

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """Move one weight as the optimizer of its group does.

        Args:
            gradient: Its gradient, as `apply` would hand it on: clipped and transformed.
            variable: A weight that the optimizer was built with.
            learning_rate: The rate to use, whatever the rules say of it.
        """
        self._get_variable_index(variable)  # as Keras does: a KeyError for any other weight
        group = self._partition.group_of(variable)
        group.optimizer.update_step(gradient, variable, learning_rate)

    def exclude_from_weight_decay(
        self, var_list: Sequence[Any] | None = None, var_names: Sequence[str] | None = None
    ) -> None:
        """Exclude weights from the weight decay of the given optimizer and of rules' own ones.

        A rule that names `weight_decay` decides for its weights, whatever is excluded here.

        Args:
            var_list: The weights.
            var_names: Parts of the names of weights; a weight of which the name holds any of them
                is excluded.

        Raises:
            ValueError: if the optimizer is built.
        """
        if self.built:
            raise ValueError(
                "`exclude_from_weight_decay` comes before the optimizer is built, that is, before "
                "the first step. Call it on a new optimizer, or give a new one the rule "
                f"Rule(..., weight_decay=0.0). Received: var_list={var_list!r}, "
                f"var_names={var_names!r}"
            )
        for template in self._book.templates():
            template.optimizer.exclude_from_weight_decay(var_list, var_names)

    def set(
        self,
        rule: str,
        *,
        learning_rate_multiplier: float | None = None,
        learning_rate: float | None = None,
        weight_decay: float | None = None,
        trainable: bool | None = None,
    ) -> None:
        """Change what a rule says, also between the steps of `fit`.

        Either all given values are set, or, if an error is raised, none. Nothing is compiled again.
        In a callback under `fit`, reach the optimizer as `self.model.optimizer`. Only numbers that
        the rule named when it was made can change.

        Args:
            rule: The rule's name, or the regular expression that it selects by.
            learning_rate_multiplier: A finite number ≥ 0; with 0 the weights do not move and their
                slots do not advance. A rule that says `trainable` alone takes it as well.
            learning_rate: A finite number ≥ 0: the absolute rate of the rule, or of its optimizer.
            weight_decay: A finite number ≥ 0.
            trainable: Whether the weights move. With True, a rule that held them begins its
                `warm_up`.

        Raises:
            TypeError: if `trainable` is no bool.
            ValueError: if no rule goes by that name, if the rule does not name the property or has
                a schedule for it, if a later rule decides for all its weights, if a value is out of
                range or none is given; if a multiplier is 0 that began with 1 in a rule without
                `trainable`, or a weight decay > 0 that began with 0 (see the notes of the class).

        Example:
        >>> import finegrain as fg
        >>> optimizer = fg.PerWeight("adam", [
        ...     fg.Rule("head", learning_rate_multiplier=1.0, trainable=True)])
        >>> optimizer.set("head", learning_rate_multiplier=10.0, trainable=False)
        >>> optimizer.get("head")
        {'learning_rate_multiplier': 10.0, 'trainable': False}
        """
        given = {
            "learning_rate_multiplier": learning_rate_multiplier,
            "learning_rate": learning_rate,
            "weight_decay": weight_decay,
        }
        values = {n: checked_number(n, value) for n, value in given.items() if value is not None}
        if trainable is not None:
            if not isinstance(trainable, (bool, np.bool_)):
                raise TypeError(
                    f"`trainable` should be True or False. Received: trainable={trainable!r}"
                )
            values["trainable"] = float(trainable)
        if not values:
            raise ValueError(
                f"`set` changes what it is given, such as set({rule!r}, trainable=False). "
                "Received: nothing"
            )
        outcomes = [group.outcome for group in self._partition.groups]
        for number, value in self._book.changes(rule, values, outcomes):
            number.assign(value)

    def get(self, rule: str) -> dict[str, float | bool]:
        """Return the current value of each property of a rule that `set` can change.

        For a schedule, this is its value at the present step.

        Args:
            rule: The rule's name, or the regular expression that it selects by. If several rules
                go by it, the last one is meant, which decides.

        Raises:
            ValueError: if no rule goes by that name.
        """
        return self._book.values_of(rule)

    def set_multiplier(self, rule: str, value: float) -> None:
        """Do what `set(rule, learning_rate_multiplier=value)` does, until the next release."""
        warn("PerWeight.set_multiplier", "`set(rule, learning_rate_multiplier=...)`")
        value = checked_number("learning_rate_multiplier", value)
        self.set(rule, learning_rate_multiplier=value)

    def set_learning_rate(self, rule: str, value: float) -> None:
        """Do what `set(rule, learning_rate=value)` does, until the next release."""
        warn("PerWeight.set_learning_rate", "`set(rule, learning_rate=...)`")
        self.set(rule, learning_rate=checked_number("learning_rate", value))

    def set_trainable(self, rule: str, value: bool) -> None:
        """Do what `set(rule, trainable=value)` does, until the next release."""
        warn("PerWeight.set_trainable", "`set(rule, trainable=...)`")
        self.set(rule, trainable=value)

    def effective_learning_rates(self) -> list[float]:
        """Compute the current rate of each weight that the optimizer was built with; 0 if held."""
        reports = self._reports(self._trainable_variables)
        return [r.effective_learning_rate if r.trainable else 0.0 for r in reports]

    @property
    def skipped_steps(self) -> int:
        """The number of steps that were dropped because a gradient was not finite."""
        guard = self._guard
        return 0 if guard is None else host_int(guard.skipped)

    @property
    def nonfinite_weights(self) -> dict[str, int]:
        """The weights whose gradient was not finite: {path: in how many steps}.

        Counted where `nonfinite` is `"skip"` or `"raise"`, since the optimizer was built.
        """
        guard = self._guard
        return {} if guard is None else guard.concerned()

    @property
    def nonfinite_is_pending(self) -> bool:
        """Whether `raise_if_nonfinite` would raise an error now."""
        guard = self._guard
        return self.nonfinite == "raise" and guard is not None and guard.is_pending

    def raise_if_nonfinite(self) -> None:
        """Raise a `NonFiniteGradientError` if a step was dropped since the last such error.

        Under `fit` there is no need to call it; see the notes of the class.
        """
        if self.nonfinite_is_pending:
            self._guard.raise_pending()  # type: ignore[union-attr]

    def finalize_variable_values(self, var_list: Sequence[keras.Variable]) -> None:
        """Set the weights to their averages at the end of `fit`, if the optimizer averages.

        Then raise an error for dropped steps, as `raise_if_nonfinite` does.
        """
        super().finalize_variable_values(var_list)
        self.raise_if_nonfinite()

    def describe(self, model: keras.Model | None = None) -> Description:
        """Make a table of how each trainable weight learns, before or after training.

        Args:
            model: A built Keras model (or layer). Without one, the weights that the optimizer was
                built with are described.

        Returns:
            A `Description`: rich when printed by rich, plain text under `str`, `to_dicts()` for
            programs.

        Raises:
            TypeError: if `model` is no Keras model or layer.
            ValueError: if there are no weights yet, or a selector selects none.
        """
        weights = self._weights_of(model, "describe")
        selection = select(self._book, weights, self._from_file)
        reports = self._reports(weights, selection)
        lines = notes(self._book, model, weights, selection, reports)
        return Description(reports, notes=lines)

    def check(
        self,
        model: keras.Model | None,
        expected: Expected,
    ) -> None:
        """Raise an error unless weights learn as you expect, for a test of your own.

        Args:
            model: A built Keras model (or layer), or `None` for the weights that the optimizer was
                built with.
            expected: {selector: {property: value}}, or a list of such pairs. A selector has any
                form that a `Rule` takes (a list as a tuple; a variable only in a list of pairs).
                Properties are `learning_rate_multiplier`, `effective_learning_rate` (or
                `learning_rate`), `weight_decay`, `optimizer`, `trainable`, `gradient`, `rules` and
                `dtype`, as in `finegrain.monitoring.WeightReport`. Numbers may differ by 1e-6 of
                themselves. All are about trainable weights; `trainable` also about frozen ones.

        Raises:
            AssertionError: if a weight learns otherwise, with the differences. It is a ValueError,
                too.
            TypeError: if a value or a selector is of a wrong type.
            ValueError: if a selector selects no weight, or a property is unknown.

        Example:
        >>> import keras, finegrain as fg
        >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3, name="head")])
        >>> optimizer = fg.PerWeight(keras.optimizers.AdamW(1e-3, weight_decay=0.01), [
        ...     fg.Rule("bias$", weight_decay=0.0)])
        >>> optimizer.check(model, {
        ...     "kernel$": dict(weight_decay=0.01), "bias$": dict(weight_decay=0.0)})
        >>> try:
        ...     optimizer.check(model, {"head": dict(weight_decay=0.01)})
        ... except AssertionError as error:
        ...     print(str(error).replace(model.name, "model"))
        1 weight does not learn as expected:
        'head'
          weight_decay: expected 0.01
            found 0 for model/head/bias
        """
        weights = self._weights_of(model, "check")
        check(expected, model, weights, self._reports(weights))

    def _weights_of(self, model: Any, method: str) -> Sequence[keras.Variable]:
        """Return the trainable weights of a model, or those that the optimizer was built with."""
        if model is not None and not hasattr(model, "trainable_variables"):
            raise TypeError(
                f"`{method}` takes a Keras model or layer, or "
                f"{'nothing' if method == 'describe' else 'None'}. Received: model={model!r}"
            )
        weights = self._trainable_variables if model is None else model.trainable_variables
        if not weights:
            cure = "give it a model, or build the optimizer: its first step does"
            if model is not None:
                cure = "build it first, for example by calling it on data"
            raise ValueError(
                f"`{method}` needs a model with trainable weights: {cure}. "
                f"Received: model={model!r}"
            )
        return weights

    def _reports(
        self, weights: Sequence[keras.Variable], selection: Sequence[Selected] | None = None
    ) -> list[WeightReport]:
        base = as_float(self._get_current_learning_rate())
        given = self._book.template.learning_rate
        if isinstance(given, float) and np.float32(given) == base:
            base = given
        if selection is None:
            selection = select(self._book, weights, self._from_file)
        return reports(self._book, weights, selection, base, self._partition.learned_rates())

    def _rates_of_rules(self) -> dict[str, list[float]]:
        """Return {rule: the present rates of its weights}; those that are always equal once."""
        learned = self._partition.learned_rates()
        rates, weights = self.effective_learning_rates(), self._trainable_variables
        return rates_of_rules(self._book, weights, self._partition.selection, rates, learned.keys())

    def save_own_variables(self, store: Any) -> None:
        """Write the state into `store`, under the paths of the weights that it serves."""
        checkpoint.save(self, store)

    def load_own_variables(self, store: Any) -> None:
        """Read the state of each weight from `store`, whatever rules it was written under.

        A number of a rule that was changed at run time is restored if the rule still says what it
        said when the file was written; otherwise today's rule decides. State that the file lacks
        keeps its value, with a warning that names it.
        """
        if not self.built and self._problems:
            return  # an earlier call has found that the rules do not fit
        if not self.built:
            warnings.warn(
                f"The saved state is not loaded: optimizer {self.name!r} has no variables for it "
                "yet. Call `optimizer.build(model.trainable_variables)` before loading.",
                stacklevel=2,
            )
            return
        checkpoint.load(self, store)

    def set_weights(self, weights: Sequence[Any]) -> None:
        """Set all state variables, in the order of `variables`."""
        set_state(self, weights)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments that make an equal optimizer, with the numbers as they are now."""
        shared = super().get_config()
        template = self._book.template
        changes = {
            key: shared[key] for key in template.shared_arguments() if key in template.config
        }
        changes["learning_rate"] = shared["learning_rate"]
        return {
            "optimizer": template.serialize(**changes),
            "nonfinite": self.nonfinite,
            "name": self.name,
            **self._config_of_rules(),
        }

    def _config_of_rules(self) -> dict[str, Any]:
        return {
            "rules": checkpoint.rule_configs(self),
            "selection": checkpoint.selection(self),
        }

    def _round(self, optimizer: keras.optimizers.Optimizer) -> PerWeight:
        """Make a `PerWeight` of the same rules around another optimizer that is not yet built."""
        rules = [live.rule for live in self._book.rules]
        other = PerWeight(optimizer, rules, nonfinite=self.nonfinite, name=self.name)
        if self._from_file is not None:
            other._from_file = FromFile(self._from_file.selection)
        return other

    @classmethod
    def from_config(
        cls, config: dict[str, Any], custom_objects: dict[str, Any] | None = None
    ) -> PerWeight:
        """Make the optimizer that `get_config` describes."""
        optimizer = keras.saving.deserialize_keras_object(config["optimizer"], custom_objects)
        rules = [Rule.from_config(rule, custom_objects) for rule in config["rules"]]
        per_weight = cls(optimizer, rules, nonfinite=config["nonfinite"], name=config["name"])
        per_weight._from_file = FromFile(config["selection"])
        return per_weight


class _Pending:
    """The steps that are being taken, by thread, since a strategy's replicas run at once.

    Each carries what Keras does not hand on from one of its hooks to the next.
    """

    def __init__(self) -> None:
        self._of_thread: dict[int, _Step] = {}

    @contextmanager
    def step(self, weights: list[keras.Variable]) -> Iterator[None]:
        """Keep a step of `weights` as `now` while it is taken."""
        self._of_thread[get_ident()] = _Step(weights)
        try:
            yield
        finally:
            del self._of_thread[get_ident()]

    @property
    def now(self) -> _Step:
        """The step of this thread."""
        return self._of_thread[get_ident()]


class _Step:
    """A step that is being taken."""

    def __init__(self, weights: list[keras.Variable]) -> None:
        self.weights = weights
        # The gradients as the loss gave them, if they are recorded.
        self.gradients: list[Any] = []


def _zero_unless(moves: Any, gradient: Any) -> Any:
    if moves is None or moves is True:
        return gradient
    if moves is False:
        return backend.on_values(ops.zeros_like, gradient)
    return backend.on_values(
        lambda values: ops.where(moves, values, ops.zeros_like(values)), gradient
    )
