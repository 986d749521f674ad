"""Unfreeze: weights that join the training at given epochs or steps."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from math import prod
from typing import Any, Literal

import keras

from finegrain._backend import backend
from finegrain.per_weight.exchange import exchange_rules
from finegrain.per_weight.optimizer import PerWeight
from finegrain.per_weight.rulebook import LiveRule
from finegrain.rules.rule import Rule, select_weights
from finegrain.rules.selection import Selector, checked_selectors, label

UNITS = ("epoch", "step")


class Unfreeze(keras.callbacks.Callback):
    r"""Gradual unfreezing: weights that join the training at given epochs or steps of `fit`.

    For a model that is compiled with a `PerWeight`. What an entry names is held from the start,
    with its slots, and released at its time; what no entry names learns from the start. Nothing is
    compiled again, no momentum and no metric is lost, and the optimizer stays the same object. Each
    weight keeps the rate that the rules of the optimizer give it.

    With a warm-up over $n$ steps, a weight that is released at step $t_0$ learns at step $t$ at its
    rate times

    $$\min\left(1, \frac{t - t_0 + 1}{n}\right).$$

    Args:
        schedule: When → what: an epoch or step ≥ 0, counted from 0, and what a `Rule` selects by: a
            regular expression on the weight's path, a layer or model, a variable, a function of a
            variable, or a list of these. What 0 names learns from the start. A weight that several
            entries name is released by the first of them in time.
        unit: `"epoch"`: the number of the epoch, as `fit` counts it from `initial_epoch` on.
            `"step"`: the optimizer's `iterations`, which go on from one `fit` to the next.
        warm_up: An integer ≥ 0: the number of steps $n$ over which what is released reaches its
            rate; 0 for none. What learns from the start is not released, and does not warm up.
        verbose: Whether to print a line for each release (0 or 1).

    Raises:
        TypeError: if an argument is of a wrong type; at the start of `fit`, if the model's
            optimizer is no `PerWeight`.
        ValueError: if a value is out of range; at the start of `fit`, if a selector selects no
            trainable weight, if an entry names only weights that others release earlier, if the
            model is not built (TensorFlow alone does not build it before), or if `fit` is given
            two of these callbacks.

    Example:
    >>> import keras, numpy as np, finegrain as fg
    >>> model = keras.Sequential([
    ...     keras.Input((2,)),
    ...     keras.layers.Dense(4, name="encoder"),
    ...     keras.layers.Dense(1, name="head")])
    >>> model.compile(fg.PerWeight(keras.optimizers.Adam(1e-3)), loss="mse")
    >>> unfreeze = fg.callbacks.Unfreeze({0: "head", 2: "encoder"}, verbose=1)
    >>> x, y = np.ones((8, 2)), np.ones((8, 1))
    >>> history = model.fit(x, y, epochs=4, verbose=0, callbacks=[unfreeze])
    <BLANKLINE>
    Epoch 3: released encoder (2 weights, 12 parameters)
    >>> print([round(share, 2) for share in history.history["learning_share"]])
    [0.29, 0.29, 1.0, 1.0]

    References:
        Jeremy Howard and Sebastian Ruder, Universal Language Model Fine-tuning for Text
        Classification, 2018, https://arxiv.org/abs/1801.06146

    Notes:
        The article releases one layer an epoch, from the last to the first, at once. It has no
        warm-up for what is released, but a triangular rate for all: see
        `finegrain.schedules.SlantedTriangular`.

        What is released, and since when, is state of the optimizer, so that training resumes
        rightly from `BackupAndRestore`, from a saved model and from a file of its weights: give
        `fit` the callback again, and the `initial_epoch`. A `fit` without this callback goes on
        with the weights as they are: held ones stay held. One that begins at epoch 0 again holds
        again what later epochs release.

        The history gains `learning_share`, the share of the trainable parameters that learn at the
        end of the epoch. Printed epochs count from 1, as in Keras's progress bar.

        Statistics that layers gather by themselves, as BatchNormalization does, go on while their
        weights are held: no rule reaches them. `PerWeight.describe` names such layers, and the
        code that stops them. A layer under `layer.trainable = False` has no weights to release.

        Steps are updates of the weights: with gradient accumulation several batches. Under
        `steps_per_execution` a step's release waits for the beginning of an execution; warm-ups
        are exact. Skipped steps (`nonfinite="skip"`, or an overflow in `LossScaleOptimizer`) do
        not count.
    """

    def __init__(
        self,
        schedule: Mapping[int, Selector | Sequence[Selector]],
        *,
        unit: Literal["epoch", "step"] = "epoch",
        warm_up: int = 0,
        verbose: int = 0,
    ) -> None:
        super().__init__()
        if not isinstance(schedule, Mapping):
            raise TypeError(
                "`schedule` should be a dict: when → what to release, such as "
                f'{{0: "head", 1: "encoder"}}. Received: schedule={schedule!r}'
            )
        if not schedule:
            raise ValueError(
                f"`schedule` should name what is released when. Received: schedule={schedule!r}"
            )
        if unit not in UNITS:
            raise ValueError(f'`unit` should be "epoch" or "step". Received: unit={unit!r}')
        self.schedule = {
            _checked_count(f"each key of `schedule` (an {unit})", when): checked_selectors(what)
            for when, what in sorted(schedule.items())
        }
        self.unit = unit
        self.warm_up = _checked_count("`warm_up`", warm_up)
        self.verbose = verbose
        # Batches until now, ahead of the optimizer's count where it has skipped steps.
        self._batches = 0
        self._last_batch = -1
        self._next: float = 0

    def set_model(self, model: Any) -> None:
        """Take the model, and put the rules that hold and release into its optimizer."""
        super().set_model(model)
        optimizer = self._optimizer()
        strategy = getattr(model, "distribute_strategy", None)
        with nullcontext() if strategy is None else strategy.scope():
            if not optimizer.built:
                if not model.built:
                    raise ValueError(
                        "Unfreeze needs the weights of the model, which has none yet: build it "
                        "first, for example by calling it on data. Received: a model that is "
                        f"not built, {model.name!r}"
                    )
                model.optimizer.build(model.trainable_variables)
            changed = self._put_rules(optimizer)
        if changed:
            model.make_train_function(force=True)

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Check that no other Unfreeze has put in its rules since."""
        if self._put_rules(self._optimizer()):
            raise ValueError(
                "`fit` takes one Unfreeze: a second one holds what the first releases. Put all "
                f"entries into one. Received: two, of which one is Unfreeze({self._entries()})"
            )

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Hold and release what the epoch's number, or the step, says."""
        self._last_batch = -1
        if self.unit == "epoch":
            self._hold_and_release(epoch, f"Epoch {epoch + 1}")
        else:
            self._at_step()

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Release what the step says."""
        # Only then: on JAX, `self.model` would fetch all weights from the compiled program.
        if self.unit == "step" and self._batches >= self._next:
            self._at_step()

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Count the batches of the step."""
        self._batches += batch - self._last_batch
        self._last_batch = batch

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Log which share of the trainable parameters learns."""
        if logs is not None:
            optimizer = self._optimizer()
            reports = optimizer._reports(optimizer._trainable_variables)
            learning = sum(report.parameters for report in reports if report.trainable)
            logs["learning_share"] = learning / sum(report.parameters for report in reports)

    def _optimizer(self) -> PerWeight:
        optimizer = getattr(self.model, "optimizer", None)
        inner = getattr(optimizer, "inner_optimizer", optimizer)
        if not isinstance(inner, PerWeight):
            raise TypeError(
                "Unfreeze needs a model compiled with a `PerWeight`, which can hold weights: wrap "
                "your optimizer as `PerWeight(optimizer)`, which changes no step; `PerWeight("
                "AdaptiveStepSize(...))`, not the reverse. "
                f"Received: optimizer={optimizer!r}"
            )
        return inner

    def _rules(self, optimizer: PerWeight) -> list[Rule]:
        """Make the rules: the first in time comes last, and so decides."""
        per_step = optimizer.gradient_accumulation_steps or 1
        return [
            Rule(
                what,
                trainable=when == 0,
                warm_up=self.warm_up * per_step if self.warm_up and when else None,
                name=f"{PREFIX}{self.unit} {when}",
            )
            for when, what in reversed(self.schedule.items())
        ]

    def _put_rules(self, optimizer: PerWeight) -> bool:
        """Put the rules in, in the place of an earlier Unfreeze's; return whether any is new."""
        weights = optimizer._trainable_variables
        rules = self._rules(optimizer)
        chosen = select_weights(rules, weights)
        first = [max(of, default=-1) for of in chosen]
        for index, rule in enumerate(rules):
            if index not in first:
                raise ValueError(
                    f"The entry of Unfreeze at {self.unit} {_when(rule.name)} releases nothing: "
                    "earlier entries release all its weights. Remove it, or name others. "
                    f"Received: {self._entries()}"
                )
        book, partition = optimizer._book, optimizer._partition
        present = [i for i, live in enumerate(book.rules) if NAME.fullmatch(live.key)]
        known = [(book.rules[i].key, book.rules[i].rule.warm_up) for i in present]
        if known == [(rule.name, rule.warm_up) for rule in rules]:
            decided = [
                max((present.index(i) for i in selected.rules if i in present), default=-1)
                for selected in partition.selection
            ]
            if decided == first:
                return False
        exchange_rules(optimizer, [book.rules[i].key for i in present], rules)
        return True

    def _entries(self) -> str:
        """Show the entries as they are written in the dict."""
        shown = [f"{when}: {_labels(what)!r}" for when, what in self.schedule.items()]
        return f"{{{', '.join(shown)}}}"

    def _at_step(self) -> None:
        optimizer = self._optimizer()
        self._batches = int(backend.host_array(optimizer._iterations))
        per_step = optimizer.gradient_accumulation_steps or 1
        step = self._batches // per_step
        self._hold_and_release(step, f"Step {step}")
        later = [when * per_step for when in self.schedule if when > step]
        self._next = min(later, default=float("inf"))

    def _hold_and_release(self, now: int, at: str) -> None:
        """Hold what is to be released later, and release what is held but due."""
        optimizer = self._optimizer()
        for live in optimizer._book.rules:
            if NAME.fullmatch(live.key):
                due = _when(live.key) <= now
                if due != (live.numbers["trainable"].read() > 0):
                    optimizer.set(live.key, trainable=due)
                    if due and self.verbose:
                        self._print(optimizer, live, at)

    def _print(self, optimizer: PerWeight, live: LiveRule, at: str) -> None:
        index = optimizer._book.rules.index(live)
        shapes = [
            weight.shape
            for weight, selected in zip(
                optimizer._trainable_variables, optimizer._partition.selection, strict=True
            )
            if optimizer._book.outcome(selected.rules).trainable == index
        ]
        what = _labels(self.schedule[_when(live.key)])
        count = "1 weight" if len(shapes) == 1 else f"{len(shapes)} weights"
        over = f", warming up over {self.warm_up} steps" if self.warm_up else ""
        released = f"released {what} ({count}, {_short(sum(map(prod, shapes)))} parameters)"
        # Keras's progress bar leaves the cursor at the end of its line.
        sys.stdout.write(f"\n{at}: {released}{over}\n")


PREFIX = "unfreeze at "
NAME = re.compile(rf"{PREFIX}({'|'.join(UNITS)}) \d+")
"""What the rules of an Unfreeze are called, by which another one knows them."""


def _when(name: str) -> int:
    """Return the epoch or step in the name of a rule."""
    return int(name.rpartition(" ")[2])


def _labels(selectors: Sequence[Selector]) -> str:
    return ", ".join(map(label, selectors))


def _checked_count(argument: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{argument} should be an integer >= 0. Received: {value!r}")
    if value < 0:
        raise ValueError(f"{argument} should be an integer >= 0. Received: {value!r}")
    return value


def _short(number: int) -> str:
    """Write a count as people read it: 340, 12.5 k, 1.8 M."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= size:
            return f"{number / size:.1f} {unit}"
    return str(number)
