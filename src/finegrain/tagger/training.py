"""Callbacks of a tagger's training: keep the best, go on after a kill, end on Ctrl-C."""

from __future__ import annotations

import hashlib
import json
import signal
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, Self

import keras
import numpy as np
from keras import ops

from finegrain.tagger.files import whole_file


class TrainingDivergedError(ArithmeticError):
    """The loss or a weight is no longer finite: the training cannot lead anywhere."""


class KeepBest(keras.callbacks.Callback):
    """A callback that scores each epoch on validation sentences and keeps the best weights.

    It stops training when the score no longer improves, and adds its figures to the logs, such as
    `val_f1`. However training ends, Ctrl-C included, `restore` brings the best weights back. An
    epoch whose loss or weights are not finite is never the best, and is the last.

    Args:
        score: Scores the model as it is.
        figures: Returns the figures of a score for the logs; the first is the one that counts.
        patience: Epochs without a better score after which training stops.
        on_better: Called after each epoch that is better than all before.
    """

    def __init__(
        self,
        score: Callable[[], Any],
        figures: Callable[[Any], dict[str, float]],
        *,
        patience: int,
        on_better: Callable[[], None],
    ) -> None:
        super().__init__()
        self.score = score
        self.figures = figures
        self.patience = patience
        self.on_better = on_better
        self.best: Any = None
        self.best_epoch = 0
        self.best_is_kept = True
        self.weights: list[np.ndarray] | None = None

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Score the epoch on the validation sentences.

        Raises:
            TrainingDivergedError: if its loss or a weight is not finite.
        """
        weights = values_of(self.model.weights)
        loss = float((logs or {}).get("loss", 0.0))
        if not np.isfinite(loss) or not all(np.isfinite(weight).all() for weight in weights):
            raise TrainingDivergedError(
                f"The training diverged in epoch {epoch + 1}: "
                + (f"its loss is {loss}." if not np.isfinite(loss) else "a weight is not finite.")
            )
        result = self.score()
        if logs is not None:
            logs.update({f"val_{name}": value for name, value in self.figures(result).items()})
        if self.best is None or self._figure(result) > self._figure(self.best):
            self.best, self.best_epoch, self.weights = result, epoch, weights
            self.best_is_kept = False
            self.on_better()
            self.best_is_kept = True
        elif epoch - self.best_epoch >= self.patience:
            self.model.stop_training = True

    def _figure(self, score: Any) -> float:
        return next(iter(self.figures(score).values()))

    def resume(self, model: keras.Model, weights: list[np.ndarray], epoch: int) -> None:
        """Take `weights` for the best so far, which they were after `epoch`, and score them."""
        now = values_of(model.weights)
        assign(model.weights, weights)
        self.best, self.best_epoch, self.weights = self.score(), epoch, weights
        assign(model.weights, now)

    def restore(self) -> bool:
        """Bring the best weights back and return whether there were any."""
        if self.weights is None:
            return False
        assign(self.model.weights, self.weights)
        return True


class Checkpoint(keras.callbacks.Callback):
    """A callback that keeps after each epoch, in a file, what it takes to go on from there.

    These are all variables of the model, the states of its random numbers among them, those of the
    optimizer, and the best weights so far.

    Args:
        path: The file.
        keep_best: What knows the best weights. It has to come before this callback.
        fingerprint: Tells this training from others.
    """

    def __init__(self, path: Path, keep_best: KeepBest, fingerprint: str) -> None:
        super().__init__()
        self.path = path
        self.keep_best = keep_best
        self.fingerprint = fingerprint

    def _parts(self, model: keras.Model) -> dict[str, Sequence[Any]]:
        # What the metrics hold begins anew with each epoch.
        metrics = {id(v) for metric in model.metrics for v in metric.variables}
        return {
            "model": [v for v in model.variables if id(v) not in metrics],
            "optimizer": model.optimizer.variables,
        }

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Write the file, whole or not at all."""
        parts = {name: values_of(found) for name, found in self._parts(self.model).items()}
        parts["best"] = self.keep_best.weights or []
        arrays = {f"{name}_{n}": x for name, found in parts.items() for n, x in enumerate(found)}
        arrays["fingerprint"] = np.array(self.fingerprint)
        arrays["epochs"] = np.array([epoch + 1, self.keep_best.best_epoch])
        with whole_file(self.path) as temporary, open(temporary, "wb") as file:
            np.savez(file, allow_pickle=False, **arrays)

    def resume(self, model: keras.Model) -> int:
        """Bring back what the file holds of this training, and return how many epochs it had.

        A file of another training, or none, is as good as none: the training begins with epoch 0.
        """
        try:
            with open(self.path, "rb") as raw, np.load(raw, allow_pickle=False) as file:
                if str(file["fingerprint"]) != self.fingerprint:
                    return 0
                arrays = dict(file)
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            return 0
        model.optimizer.build(model.trainable_variables)
        for name, variables in self._parts(model).items():
            assign(variables, [arrays[f"{name}_{n}"] for n in range(len(variables))])
        best = [arrays[f"best_{n}"] for n in range(len(model.weights))]
        done, best_epoch = arrays["epochs"].tolist()
        self.keep_best.resume(model, best, best_epoch)
        return done

    def remove(self) -> None:
        """Remove the file of a training that is done."""
        self.path.unlink(missing_ok=True)


def fingerprint(
    options: Any,
    task: Mapping[str, Any],
    train: Sequence[Sequence[Any]],
    held_out: Sequence[Sequence[Any]],
    model: keras.Model,
) -> str:
    """Return what two trainings share that take the same steps, and no others."""
    digest = hashlib.sha256()
    shapes = [list(weight.shape) for weight in model.weights]
    for part in (options, task, shapes, keras.backend.backend(), *train, None, *held_out):
        digest.update(json.dumps(part).encode())
    return digest.hexdigest()


def values_of(variables: Sequence[Any]) -> list[np.ndarray]:
    """Copy the values of variables, those of half precision as float32."""
    # Copies: on torch the arrays would share memory with weights that go on learning.
    arrays = [np.array(ops.convert_to_numpy(variable.value)) for variable in variables]
    return [x.astype("float32") if x.dtype.kind == "V" else x for x in arrays]


def assign(variables: Sequence[Any], values: Sequence[np.ndarray]) -> None:
    """Assign a value to each variable."""
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)


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
