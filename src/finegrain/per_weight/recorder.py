"""Norms of gradients, updates and weights, taken inside the compiled step every so many steps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from finegrain._backend import backend

QUANTITIES = ("gradient_norm", "update_norm", "weight_norm")


class Recorder:
    """Keeps the last recorded norms of each weight in variables.

    Args:
        weights: The optimizer's weights.
        every: After how many real steps to record again.
        step: How many real steps were taken until now.
    """

    def __init__(self, weights: Sequence[keras.Variable], every: int, step: int) -> None:
        self.weights = list(weights)

        def variable(name: str, shape: tuple[int, ...], value: float, dtype: str) -> keras.Variable:
            return keras.Variable(
                keras.initializers.Constant(value),
                shape=shape,
                dtype=dtype,
                trainable=False,
                aggregation="only_first_replica",
                name=name,
            )

        self.norms = variable("norms", (len(QUANTITIES), len(self.weights)), np.nan, "float32")
        self.recorded = variable("recorded_step", (), -1, "int32")
        self.every = variable("record_every", (), every, "int32")
        self._interval = every
        self._host_step = step

    @property
    def variables(self) -> list[keras.Variable]:
        """The state."""
        return [self.norms, self.recorded, self.every]

    def set_interval(self, every: int, step: int) -> None:
        """Record once every `every` steps from now on."""
        self.every.assign(every)
        self._interval = every
        self._host_step = step

    def before(self) -> list[Any] | None:
        """Return the values of the weights before the step; `None` if they will not be needed."""
        if backend.RUNS_EACH_STEP and self._host_step % self._interval:
            return None
        return backend.snapshot(self.weights)

    def record(
        self,
        step: Any,
        gradients: Sequence[Any],
        members: Sequence[keras.Variable],
        before: list[Any] | None,
    ) -> None:
        """Record the norms of the step that was just taken, if it is due.

        Args:
            step: How many real steps were taken before it.
            gradients: The gradients as the loss gave them.
            members: Their weights.
            before: What `before()` returned.
        """
        gradient_of = {id(weight): g for weight, g in zip(members, gradients, strict=True)}

        def norms() -> Any:
            rows: list[list[Any]] = [[], [], []]
            for weight, old in zip(self.weights, before or [], strict=True):
                gradient = gradient_of.get(id(weight))
                new = ops.convert_to_tensor(weight)
                rows[0].append(np.nan if gradient is None else _norm(backend.dense(gradient)))
                rows[1].append(_norm(new - old))
                rows[2].append(_norm(new))
            return ops.stack([ops.stack([ops.cast(n, "float32") for n in row]) for row in rows])

        if backend.RUNS_EACH_STEP:
            self._host_step += 1
            if before is not None:
                self.norms.assign(norms())
                self.recorded.assign(step)
            return
        due = ops.equal(step % ops.convert_to_tensor(self.every), 0)
        self.norms.assign(ops.cond(due, norms, lambda: ops.convert_to_tensor(self.norms)))
        self.recorded.assign(ops.where(due, step, ops.convert_to_tensor(self.recorded)))


def _norm(values: Any) -> Any:
    return ops.sqrt(ops.sum(ops.square(ops.cast(values, "float32"))))
