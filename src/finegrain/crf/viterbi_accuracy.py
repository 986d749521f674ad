"""The share of tags that decoding gets right."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from finegrain.crf.checks import check_tags_shape, checked_weight
from finegrain.crf.decoding import decode
from finegrain.crf.loss import as_tags

Tensor = Any


@keras.saving.register_keras_serializable(package="finegrain")
class ViterbiAccuracy(keras.metrics.Mean):
    """The share of positions whose tag in the most probable sequence is the true one.

    Masked positions and those with a negative tag do not count. Sample weights have shape
    (batch,), (batch, 1) or (batch, time), or are one number.

    Args:
        name: The metric's name.
        dtype: Of the result.

    Example:
    >>> import numpy as np, finegrain as fg
    >>> scores = np.array([[[0.0, 1.0], [2.0, 0.0], [0.0, 3.0]]], "float32")
    >>> potentials = fg.layers.CRF(2, use_projection=False)(scores)
    >>> metric = fg.metrics.ViterbiAccuracy()
    >>> metric.update_state(np.array([[1, 1, -1]]), potentials)
    >>> print(float(metric.result()))
    0.5
    """

    def __init__(self, name: str = "viterbi_accuracy", dtype: Any = None) -> None:
        super().__init__(name=name, dtype=dtype)

    def update_state(
        self, y_true: Tensor, y_pred: Tensor, sample_weight: Tensor | None = None
    ) -> None:
        """Count the positions of a batch.

        Args:
            y_true: (batch, time) integer tags, negative where unknown.
            y_pred: (batch, time + tags + 2, tags + 1) potentials.
            sample_weight: (batch,), (batch, 1), (batch, time) or a number.

        Raises:
            ValueError: if shapes do not fit.
        """
        tags = as_tags(y_true)
        decoded = decode(y_pred)
        check_tags_shape(tags, decoded.shape)
        counted = ops.cast(ops.logical_and(decoded >= 0, tags >= 0), self.dtype)
        if sample_weight is not None:
            shape = tags.shape
            weight = checked_weight(sample_weight, shape[:1], self.dtype, positions=shape)
            counted = counted * (weight[:, None] if len(weight.shape) == 1 else weight)
        super().update_state(ops.cast(decoded == tags, self.dtype), sample_weight=counted)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments that make an equal metric."""
        return {"name": self.name, "dtype": self.dtype}
