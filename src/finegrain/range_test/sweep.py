"""The training of a range test: a rate for each step, and the loss of each."""

from __future__ import annotations

import math
from typing import Any

import keras
import numpy as np

from finegrain.range_test.dials import Dial, inner_optimizer
from finegrain.range_test.restoring import Randomness, Restoring, draws_for_building
from finegrain.range_test.result import has_diverged


def batches_of_a_step(model: Any) -> int:
    """Return how many batches a rate has to last so that the weights move under each rate."""
    accumulated = inner_optimizer(model.optimizer).gradient_accumulation_steps
    return math.lcm(accumulated or 1, model.steps_per_execution)


class Sweep(keras.callbacks.Callback):
    """Sets the next rate before each step, keeps the loss of each, and ends the training.

    Args:
        model: The model that will be trained.
        dial: Sets the rate.
        planned: The rates.
        divergence: How far the loss may rise; see `find_learning_rate`.
        restoring: What will be put back.
        once: Whether the data can be read only once.
        shown: Whether to show a progress bar.

    Attributes:
        losses: The losses of the steps until now.
        ended: Whether the test has come to its end.
    """

    def __init__(
        self,
        model: Any,
        dial: Dial,
        planned: np.ndarray,
        divergence: float,
        restoring: Restoring,
        once: bool,
        shown: bool,
    ) -> None:
        super().__init__()
        self.losses: list[float] = []
        self.ended = False
        self._dial = dial
        self._planned = planned
        self._divergence = divergence
        self._restoring = restoring
        self._once = once
        self._draws = draws_for_building(model)
        self._bar = None
        if shown:
            names = ["learning_rate", "loss"]
            self._bar = keras.utils.Progbar(len(planned), unit_name="step", stateful_metrics=names)
        self._executions = batches_of_a_step(model) // model.steps_per_execution
        # The losses of the executions at the present rate.
        self._parts: list[float] = []
        self._got_batches = False

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Keep what building the losses has drawn: no later `fit` will draw it again."""
        if self._draws:
            self._restoring.randomness = Randomness()

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Expect batches."""
        self._got_batches = False

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Set the rate, and forget the mean of earlier losses."""
        model = self.model  # which fetches its state from the compiled program
        if not self._parts:
            self._dial.turn(float(self._planned[len(self.losses)]))
        model.reset_metrics()

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Keep the loss, and end the training if it was the last."""
        if "loss" not in (logs or {}):
            raise ValueError(
                "The test reads the loss that `train_step` returns as `loss`. "
                f"Received: {sorted(logs or {})} from {type(self.model).__name__}.train_step"
            )
        self._got_batches = True
        self._parts.append(float(logs["loss"]))  # type: ignore[index]
        if len(self._parts) < self._executions:
            return
        self.losses.append(float(np.mean(self._parts)))
        self._parts = []
        if self._bar is not None:
            shown = [
                ("learning_rate", self._planned[len(self.losses) - 1]),
                ("loss", self.losses[-1]),
            ]
            self._bar.update(len(self.losses), shown)
        self.ended = (
            len(self.losses) == len(self._planned)
            or has_diverged(self.losses, self._divergence)
            or self._gradient_is_not_finite()
        )
        if self.ended:
            self.model.stop_training = True
            if self._bar is not None and len(self.losses) < len(self._planned):
                self._bar.update(len(self.losses), finalize=True)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """End the training if the data have no batch left.

        Of a generator that has ended, Keras would take the first batches again and again.
        """
        if self._once or not self._got_batches:
            self.model.stop_training = True

    def _gradient_is_not_finite(self) -> bool:
        """Return whether `PerWeight` would raise an error at the end of `fit`."""
        # `self.model` fetches the state from the compiled program: only where needed.
        if getattr(inner_optimizer(self._model.optimizer), "nonfinite", None) != "raise":
            return False
        return inner_optimizer(self.model.optimizer).nonfinite_is_pending
