"""Callbacks of a segmenter's training: keep the best model, end when Ctrl-C says so."""

from __future__ import annotations

import signal
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any, Self

import keras
import numpy as np
from keras import ops

from finegrain.tagging.scores import SegmentationScore, score


class TrainingDivergedError(ArithmeticError):
    """The loss or a weight is no longer finite: the training cannot lead anywhere."""


class KeepBest(keras.callbacks.Callback):
    """A callback that scores each epoch on validation sentences and keeps the best weights.

    It stops training when F1 no longer improves, and adds `val_precision`, `val_recall` and
    `val_f1` to the logs. However training ends, Ctrl-C included, `restore` brings the best weights
    back. An epoch whose loss or weights are not finite is never the best, and is the last.

    Args:
        sentences: Validation sentences as lists of words.
        segment_many: Turns texts into lists of words with the model as it is.
        patience: Epochs without a better F1 after which training stops.
        on_better: Called after each epoch that is better than all before.
    """

    def __init__(
        self,
        sentences: Sequence[Sequence[str]],
        segment_many: Callable[[Sequence[str]], list[list[str]]],
        *,
        patience: int,
        on_better: Callable[[], None],
    ) -> None:
        super().__init__()
        self.sentences = sentences
        self.segment_many = segment_many
        self.patience = patience
        self.on_better = on_better
        self.best: SegmentationScore | None = None
        self.best_epoch = 0
        self.best_is_kept = True
        self._weights: list[np.ndarray] | None = None

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Score the epoch on the validation sentences.

        Raises:
            TrainingDivergedError: if its loss or a weight is not finite.
        """
        # Copies: on torch the arrays would share memory with weights that go on learning.
        weights = [np.array(ops.convert_to_numpy(weight.value)) for weight in self.model.weights]
        loss = float((logs or {}).get("loss", 0.0))
        if not np.isfinite(loss) or not all(np.isfinite(weight).all() for weight in weights):
            raise TrainingDivergedError(
                f"The training diverged in epoch {epoch + 1}: "
                + (f"its loss is {loss}." if not np.isfinite(loss) else "a weight is not finite.")
            )
        predicted = self.segment_many(["".join(words) for words in self.sentences])
        result = score(self.sentences, predicted)
        if logs is not None:
            logs["val_precision"] = result.precision
            logs["val_recall"] = result.recall
            logs["val_f1"] = result.f1
        if self.best is None or result.f1 > self.best.f1:
            self.best, self.best_epoch = result, epoch
            self._weights = weights
            self.best_is_kept = False
            self.on_better()
            self.best_is_kept = True
        elif epoch - self.best_epoch >= self.patience:
            self.model.stop_training = True

    def restore(self) -> bool:
        """Bring the best weights back and return whether there were any."""
        if self._weights is None:
            return False
        for weight, value in zip(self.model.weights, self._weights, strict=True):
            weight.assign(value)
        return True


class Interruption(keras.callbacks.Callback):
    """A context manager, and a callback within it, that makes sure that Ctrl-C ends a training.

    A KeyboardInterrupt that comes while NumPy waits for an array of JAX is swallowed there. So
    the signal is remembered, and raised again at the end of the step. Works in the main thread.
    """

    def __init__(self) -> None:
        super().__init__()
        self._interrupted = False
        self._previous: Any = None

    def __enter__(self) -> Self:
        self._previous = signal.signal(signal.SIGINT, self._on_signal)
        return self

    def __exit__(self, *_: object) -> None:
        signal.signal(signal.SIGINT, self._previous)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._interrupted = True
        raise KeyboardInterrupt

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Raise KeyboardInterrupt if one has been swallowed."""
        if self._interrupted:
            raise KeyboardInterrupt
