"""Progress bars for trainings, one under another."""

from __future__ import annotations

import contextlib
import math
from types import TracebackType
from typing import Any, Self

import keras
from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)


class TrainingProgress:
    """Progress bars, one for each training: the epochs done, and the last one's loss and F1.

    Args:
        console: Where to draw. Where it is no terminal, each epoch prints a line instead.
    """

    def __init__(self, console: Console) -> None:
        self.console = console
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            TextColumn("epoch {task.fields[epoch]}"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[note]}", markup=False),
            console=console,
            disable=not console.is_terminal,
        )

    def bar(self, description: str) -> keras.callbacks.Callback:
        """Add a bar and return the Keras callback that moves it.

        Args:
            description: What is trained.
        """
        task = self._progress.add_task(description, total=None, start=False, epoch=0, note="")
        return _Bar(self, task, description)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._progress.stop()

    def update(self, task: TaskID, description: str, done: float, note: str, whole: bool) -> None:
        """Move a bar to `done` epochs; `whole` says that an epoch has just ended."""
        self._progress.update(task, completed=done, epoch=math.ceil(done), note=note)
        if whole and not self.console.is_terminal:
            line = f"{description}: epoch {done:g}, {note}"
            with contextlib.suppress(OSError):  # such as a full disk: no reason to end a training
                self.console.print(line, highlight=False, markup=False, emoji=False, soft_wrap=True)


class _Bar(keras.callbacks.Callback):
    def __init__(self, progress: TrainingProgress, task: TaskID, description: str) -> None:
        super().__init__()
        self.progress = progress
        self.task = task
        self.description = description
        self.epoch = 0
        self.note = ""

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        self.progress._progress.update(self.task, total=(self.params or {}).get("epochs"))
        self.progress._progress.start_task(self.task)

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self.epoch = epoch

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        steps = (self.params or {}).get("steps")
        if steps:
            done = self.epoch + (batch + 1) / steps
            self.progress.update(self.task, self.description, done, self.note, False)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        values = {key: float(value) for key, value in (logs or {}).items()}
        shown = {
            "loss": values.get("loss"),
            "F1": values.get("val_f1"),
            "accuracy": values.get("val_accuracy"),
        }
        self.note = ", ".join(f"{k} {v:.4f}" for k, v in shown.items() if v is not None)
        self.progress.update(self.task, self.description, epoch + 1, self.note, True)

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        self.progress._progress.stop_task(self.task)
