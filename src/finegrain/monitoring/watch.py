"""Watch: what each weight did while the model trained."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from finegrain._backend import backend
from finegrain._extras import needs
from finegrain.per_weight.optimizer import PerWeight
from finegrain.per_weight.recorder import Recorder

if TYPE_CHECKING:
    from matplotlib.figure import Figure

QUANTITIES = (
    "gradient_norm",
    "update_norm",
    "weight_norm",
    "update_ratio",
    "learning_rate",
    "skipped_steps",
)


class Watch(keras.callbacks.Callback):
    r"""Records, every so many steps of `fit`, what each weight and each rule's weights do.

    The norms are taken inside the compiled step, so that steps between records cost next to
    nothing. All norms are Euclidean, $\lVert \cdot \rVert_2$, over all numbers of a weight, or of
    all weights that a rule selects.

    Args:
        log_dir: A folder for TensorBoard (`pip install tensorboard`), or `None` to
            keep the records in memory only.
        every: Record the first of so many steps (real ones: an accumulated step counts once).
        what: Which quantities, of: `"gradient_norm"` (of the loss's gradient, before transforms
            and clipping), `"update_norm"` (of what the step changed, weight decay included),
            `"weight_norm"` (after the step), `"update_ratio"` (update norm / weight norm),
            `"learning_rate"` (the weight's own, now), `"skipped_steps"` (how many steps were
            dropped until now since gradients were not finite).

    Attributes:
        steps: The recorded steps, counted as `optimizer.iterations` before the step.
        paths: The paths of the weights, in the model's order.
        history: Quantity → array of shape (records, weights); `"skipped_steps"` → (records,).

    Raises:
        ValueError: if `every` is no integer > 0 or a quantity is unknown.
        TypeError: at the start of `fit`, if the model's optimizer is not a `PerWeight`.

    Example:
    >>> import keras, numpy as np, finegrain as fg
    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, name="head")])
    >>> model.compile(fg.PerWeight(keras.optimizers.SGD(0.5)), loss="mse")
    >>> watch = fg.callbacks.Watch(every=2)
    >>> x, y = np.ones((8, 2)), np.ones((8, 1))
    >>> history = model.fit(x, y, batch_size=2, verbose=0, callbacks=[watch])
    >>> print(watch.steps, watch.history["learning_rate"].tolist())
    [0, 2] [[0.5, 0.5], [0.5, 0.5]]
    """

    def __init__(
        self,
        log_dir: str | os.PathLike[str] | None = None,
        every: int = 50,
        what: Sequence[str] = QUANTITIES,
    ) -> None:
        super().__init__()
        if not isinstance(every, int) or isinstance(every, bool) or every < 1:
            raise ValueError(f"`every` should be an integer > 0. Received: every={every!r}")
        what = [what] if isinstance(what, str) else list(what)
        unknown = [quantity for quantity in what if quantity not in QUANTITIES]
        if unknown or not what:
            raise ValueError(
                f"`what` should be some of {', '.join(QUANTITIES)}. Received: what={what!r}"
            )
        self.log_dir = None if log_dir is None else Path(log_dir)
        self.every = every
        self.what = tuple(quantity for quantity in QUANTITIES if quantity in what)
        self.steps: list[int] = []
        self.paths: list[str] = []
        self.rules: dict[str, list[int]] = {}
        self._records: dict[str, list[Any]] = {quantity: [] for quantity in QUANTITIES}
        self._writer: Any = None
        self._micro_steps = 0
        self._last_batch = -1

    @property
    def history(self) -> dict[str, np.ndarray]:
        """Quantity → array of shape (records, weights); `"skipped_steps"` → (records,)."""
        return {quantity: np.array(self._records[quantity]) for quantity in self.what}

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Make the optimizer record norms, and open TensorBoard's file if there is a `log_dir`."""
        model = self.model
        optimizer = _per_weight(model)
        strategy = getattr(model, "distribute_strategy", None)
        with nullcontext() if strategy is None else strategy.scope():
            if not optimizer.built:
                model.optimizer.build(model.trainable_variables)
            weights = optimizer._trainable_variables
            step = int(backend.host_array(optimizer.iterations))
            recorder = optimizer._recorder
            if recorder is None:
                optimizer._recorder = Recorder(weights, self.every, step)
            else:
                recorder.set_interval(self.every, step)
        if recorder is None:
            model.make_train_function(force=True)
        paths = [row.path for row in optimizer._reports(weights)]
        if self.paths and self.paths != paths:
            raise ValueError(
                "This Watch has records of another model; make a new one. "
                f"Received: a model with the weights {paths[:5]}, records of {self.paths[:5]}"
            )
        self.paths = paths
        self.rules = optimizer._partition.weights_of_rules()
        self._micro_steps = int(backend.host_array(optimizer._iterations))
        if self.log_dir is not None and self._writer is None:
            self._writer = _event_writer(self.log_dir)

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Start counting batches anew."""
        self._last_batch = -1

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Read the norms, if a step was recorded."""
        self._micro_steps += batch - self._last_batch
        self._last_batch = batch
        # `self.model` would fetch all weights from the compiled program: only where needed.
        accumulated = _per_weight(self._model).gradient_accumulation_steps or 1
        last = (self._micro_steps // accumulated - 1) // self.every * self.every
        if last >= 0 and (not self.steps or last > self.steps[-1]):
            self._read(_per_weight(self.model))

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Write what is left to TensorBoard's file, and close it."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _read(self, optimizer: PerWeight) -> None:
        recorder = optimizer._recorder
        step = -1 if recorder is None else int(backend.host_array(recorder.recorded))
        # Where steps were dropped, the count of batches runs ahead of that of steps.
        if recorder is None or step < 0 or (self.steps and step <= self.steps[-1]):
            return
        gradient, update, weight = backend.host_array(recorder.norms)
        record = {
            "gradient_norm": gradient,
            "update_norm": update,
            "weight_norm": weight,
            "update_ratio": _ratio(update, weight),
            "learning_rate": np.array(optimizer.effective_learning_rates()),
            "skipped_steps": optimizer.skipped_steps,
        }
        self.steps.append(step)
        for quantity, values in record.items():
            self._records[quantity].append(values)
        if self._writer is not None:
            self._write(step, record)

    def _write(self, step: int, record: dict[str, Any]) -> None:
        scalars = {}
        for quantity in self.what:
            if quantity == "skipped_steps":
                scalars[quantity] = record[quantity]
                continue
            for path, value in zip(self.paths, record[quantity], strict=True):
                scalars[f"{quantity}/{path}"] = value
            for rule, members in self.rules.items():
                scalars[f"rule_{quantity}/{rule}"] = _together(quantity, record, members)
        self._writer.write(step, scalars)

    def of_rules(self, quantity: str) -> dict[str, np.ndarray]:
        """Compute a quantity for each rule's weights together, and for those that no rule selects.

        Args:
            quantity: One of those recorded per weight. Norms are of all the weights as one
                vector; learning rates are averaged.

        Returns:
            The rule's name → array (records,).
        """
        if quantity not in self.what or quantity == "skipped_steps":
            raise ValueError(
                "`quantity` should be one that was recorded per weight. "
                f"Received: quantity={quantity!r}"
            )
        records = [
            dict(zip(self._records, row, strict=True))
            for row in zip(*self._records.values(), strict=True)
        ]
        return {
            rule: np.array([_together(quantity, record, members) for record in records])
            for rule, members in self.rules.items()
        }

    def plot(self) -> Figure:
        """Draw the records: weights × steps as a heat map, and a line per rule and quantity.

        Needs matplotlib: `pip install matplotlib`.

        Returns:
            The figure, not attached to any window: `figure.savefig("name.png")`.

        Raises:
            ModuleNotFoundError: without matplotlib.
            ValueError: if nothing was recorded yet.
        """
        if not self.steps:
            raise ValueError(
                "Nothing was recorded yet: give this Watch to `fit(..., callbacks=[watch])` first. "
                f"Received: every={self.every}, steps=[]"
            )
        from finegrain.monitoring.plots import watched

        shown = [quantity for quantity in self.what if quantity != "skipped_steps"]
        shown = shown or list(QUANTITIES[:1])
        map_of = "update_ratio" if "update_ratio" in shown else shown[0]
        return watched(
            self.steps,
            self.paths,
            (map_of, np.array(self._records[map_of])),
            {quantity: self.of_rules(quantity) for quantity in shown if quantity in self.what},
            self._records["skipped_steps"] if "skipped_steps" in self.what else [],
        )


def _per_weight(model: Any) -> PerWeight:
    optimizer = getattr(model, "optimizer", None)
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    if not isinstance(inner, PerWeight):
        raise TypeError(
            "Watch needs a model compiled with a `PerWeight` optimizer: wrap yours as "
            f"`PerWeight(optimizer)`, which changes no step. Received: optimizer={optimizer!r}"
        )
    return inner


def _ratio(update: np.ndarray, weight: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(update == 0, 0.0, update / weight)


def _together(quantity: str, record: dict[str, Any], members: Sequence[int]) -> float:
    if quantity == "learning_rate":
        return float(np.mean(record[quantity][members]))
    if quantity == "update_ratio":
        norms = [np.array([_together(q, record, members)]) for q in ("update_norm", "weight_norm")]
        return float(_ratio(*norms)[0])
    return float(np.sqrt(np.nansum(np.square(record[quantity][members], dtype="float64"))))


class _EventWriter:
    """TensorBoard's event file, by TensorBoard's own writer."""

    def __init__(self, log_dir: Path) -> None:
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        log_dir.mkdir(parents=True, exist_ok=True)
        self._file = EventFileWriter(str(log_dir))

    def write(self, step: int, scalars: dict[str, float]) -> None:
        import time

        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        values = [Summary.Value(tag=tag, simple_value=value) for tag, value in scalars.items()]
        event = Event(wall_time=time.time(), step=step, summary=Summary(value=values))
        self._file.add_event(event)

    def close(self) -> None:
        self._file.close()


def _event_writer(log_dir: Path) -> _EventWriter:
    instead = f"leave `log_dir` out to keep the records in memory. Received: log_dir='{log_dir}'"
    with needs("tensorboard", "A Watch with a `log_dir`", instead):
        return _EventWriter(log_dir)
