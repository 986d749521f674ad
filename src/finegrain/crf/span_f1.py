"""The F1 of spans: of named entities, chunks or words."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import ops

from finegrain.crf.by_class import SpanScore
from finegrain.crf.checks import check_tags_shape, checked_weight
from finegrain.crf.decoding import decode
from finegrain.crf.loss import as_tags
from finegrain.crf.schemes import SpanScheme

Tensor = Any


@keras.saving.register_keras_serializable(package="finegrain")
class SpanF1(keras.metrics.Metric):
    """The F1 of spans: found where they are, from end to end, and of the right type.

    It counts over batches and is exact over all of them (up to 16 million spans), as seqeval's
    strict mode counts. Positions that are masked or have a negative true tag, such as the later
    pieces of a word, do not exist: a span goes on across them.

    Args:
        scheme: How tags make spans, a `finegrain.tagging.SpanScheme`: `BIO`, `BIOES`, or `BMES`,
            whose spans are words.
        average: "micro" counts spans of all types alike; "macro" is the mean of the F1 of each
            type that occurs; "weighted" is that mean with each type counted as often as it has
            true spans.
        name: The metric's name.
        dtype: Of the result.

    Raises:
        ValueError: if `scheme` does not tell spans, or `average` is neither.

    Example:
    >>> import numpy as np, finegrain as fg
    >>> scheme = fg.tagging.BIO(["PER", "LOC"])
    >>> metric = fg.metrics.SpanF1(scheme)
    >>> true = scheme.to_ids(["B-PER", "I-PER", "O", "B-LOC", "O"])
    >>> found = scheme.to_ids(["B-PER", "I-PER", "O", "B-LOC", "I-LOC"])
    >>> metric.update_state(true[None], found[None])
    >>> print(round(float(metric.result()), 2))
    0.5
    >>> print(metric.report())
                       precision     recall         F1      spans
    LOC                   0.0000     0.0000     0.0000          1
    PER                   1.0000     1.0000     1.0000          1
    <BLANKLINE>
    micro average         0.5000     0.5000     0.5000          2
    macro average         0.5000     0.5000     0.5000          2
    weighted average      0.5000     0.5000     0.5000          2

    References:
        Erik Tjong Kim Sang, Fien De Meulder, Introduction to the CoNLL-2003 Shared Task, 2003,
        https://aclanthology.org/W03-0419/
        Hiroki Nakayama, seqeval, https://github.com/chakki-works/seqeval
    """

    def __init__(
        self,
        scheme: SpanScheme | Any,
        average: str = "micro",
        name: str = "span_f1",
        dtype: Any = None,
    ) -> None:
        super().__init__(name=name, dtype=dtype)
        if isinstance(scheme, dict):  # from a file
            scheme = keras.saving.deserialize_keras_object(scheme)
        if not isinstance(scheme, SpanScheme):
            raise ValueError(
                "`scheme` should be a tag scheme with spans, such as "
                f"`fg.tagging.BIO(['PER', 'LOC'])`. Received: scheme={scheme!r}"
            )
        if average not in ("micro", "macro", "weighted"):
            raise ValueError(
                f'`average` should be "micro", "macro" or "weighted". Received: average={average!r}'
            )
        self.scheme = scheme
        self.average = average
        self._true = self._counter("true")
        self._found = self._counter("found")
        self._right = self._counter("right")

    def _counter(self, name: str) -> Any:
        shape = (len(self.scheme.types),)
        return self.add_variable(shape=shape, initializer="zeros", name=name, dtype="float32")

    def update_state(
        self, y_true: Tensor, y_pred: Tensor, sample_weight: Tensor | None = None
    ) -> None:
        """Count the spans of a batch.

        Args:
            y_true: (batch, time) integer tags, negative where unknown.
            y_pred: (batch, time + tags + 2, tags + 1) potentials, or (batch, time) integer tags,
                negative where masked.
            sample_weight: (batch,), (batch, 1) or a number: what each span of an example counts.
                Defaults to 1.

        Raises:
            ValueError: if shapes do not fit, or there are weights of single positions.
        """
        tags, found = as_tags(y_true), ops.convert_to_tensor(y_pred)
        if "int" in keras.backend.standardize_dtype(found.dtype):
            found = ops.cast(found, "int32")
        else:
            found = decode(found)
        check_tags_shape(tags, found.shape)
        counted = ops.logical_and(found >= 0, tags >= 0)
        order = _front(counted)
        true, mine = (
            self._read(ops.take_along_axis(ops.where(counted, x + 1, 0), order, axis=1))
            for x in (tags, found)
        )
        both = Reading(
            breaks=ops.logical_or(true.breaks, mine.breaks),
            opens=ops.where(true.opens == mine.opens, true.opens, 0),
            closes=ops.logical_and(true.closes, mine.closes),
        )
        weight = None
        if sample_weight is not None:
            weight = checked_weight(sample_weight, tags.shape[:1], "float32")
        for counter, reading in ((self._true, true), (self._found, mine), (self._right, both)):
            counter.assign_add(reading.count(len(self.scheme.types), weight))

    def _read(self, numbers: Tensor) -> Reading:
        """Find the runs in (batch, time) numbers, each 1 + the tag, or 0 after the last tag."""
        tables = self.scheme.spans
        before = ops.pad(numbers, ((0, 0), (1, 0)))  # (B, T + 1)
        here = ops.pad(numbers, ((0, 0), (0, 1)))
        size = len(tables.opens)
        breaks = _look_up(tables.breaks.reshape(-1), before * size + here)
        opens = ops.where(breaks, _look_up(tables.opens, here), 0)
        closes = ops.logical_and(breaks, _look_up(tables.closes, before))
        return Reading(breaks, opens, closes)

    def result(self) -> Tensor:
        """Compute the F1, 0 where there is no span."""
        if self.average == "micro":
            counts = (ops.sum(x) for x in (self._right, self._true, self._found))
            return ops.cast(_f1(*counts), self.dtype)
        of_types = _f1(self._right + 0, self._true + 0, self._found + 0)
        if self.average == "macro":
            weights = ops.cast(self._true + self._found > 0, "float32")
        else:
            weights = self._true + 0
        mean = ops.sum(of_types * weights) / ops.maximum(ops.sum(weights), 1e-30)
        return ops.cast(mean, self.dtype)

    def report(self) -> SpanScore:
        """Return precision, recall and F1 of each type, and their averages, of what was counted.

        It is for reading, after `evaluate` say; a compiled function cannot call it.
        """
        counters = (self._right, self._true, self._found)
        counts = [np.asarray(ops.convert_to_numpy(x), float).tolist() for x in counters]
        return SpanScore.of(self.scheme.types, *counts)

    @property
    def precision(self) -> Tensor:
        """The share of the spans found that are right, over all types; 0 where none is found."""
        return ops.sum(self._right) / ops.maximum(ops.sum(self._found), 1e-30)

    @property
    def recall(self) -> Tensor:
        """The share of the true spans that are found, over all types; 0 where there is none."""
        return ops.sum(self._right) / ops.maximum(ops.sum(self._true), 1e-30)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments that make an equal metric."""
        scheme = keras.saving.serialize_keras_object(self.scheme)
        base = {"name": self.name, "dtype": self.dtype}
        return base | {"scheme": scheme, "average": self.average}


class Reading:
    """The ends and beginnings of runs of tags, at each position and after the last.

    Args:
        breaks: (batch, time + 1) boolean: a run ends before, another begins here.
        opens: (batch, time + 1) 1 + the type of a span that begins here; 0 if none.
        closes: (batch, time + 1) boolean: a run ends before as spans may.
    """

    def __init__(self, breaks: Tensor, opens: Tensor, closes: Tensor) -> None:
        self.breaks, self.opens, self.closes = breaks, opens, closes

    def count(self, types: int, weight: Tensor | None) -> Tensor:
        """Count the runs of each type that open and close as spans do, (types,)."""
        order = _front(self.breaks)
        opens = ops.take_along_axis(ops.where(self.breaks, self.opens, 0), order, axis=1)
        closes = ops.take_along_axis(self.closes, order, axis=1)
        # The run that begins at one break ends at the next.
        kind = ops.where(closes[:, 1:], opens[:, :-1], 0)
        spans = ops.one_hot(kind, types + 1, dtype="float32")[:, :, 1:]  # (B, T, types)
        if weight is None:
            return ops.sum(spans, axis=(0, 1))
        return ops.sum(ops.sum(spans, axis=1) * ops.reshape(weight, (-1, 1)), axis=0)


def _f1(right: Tensor, true: Tensor, found: Tensor) -> Tensor:
    return 2 * right / ops.maximum(true + found, 1e-30)


def _front(kept: Tensor) -> Tensor:
    """Find the (batch, time) order that brings the kept positions to the front."""
    time = ops.shape(kept)[1]
    place = ops.arange(time, dtype="int32")[None]
    return ops.argsort(ops.where(kept, place, place + time), axis=1)


def _look_up(table: np.ndarray, numbers: Tensor) -> Tensor:
    return ops.take(ops.convert_to_tensor(table), numbers, axis=0)
