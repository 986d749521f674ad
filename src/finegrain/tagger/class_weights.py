"""What the labels of a corpus weigh in training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from finegrain._checks import checked_number
from finegrain.crf.loss import CRFNegativeLogLikelihood, labelled_parts
from finegrain.tagger.tasks import Example, Task

Tensor = Any


def label_weights(
    class_weight: Mapping[str, float], task: Task, examples: Sequence[Example]
) -> list[float]:
    """Return what each label of a task weighs, in the order of its labels.

    Args:
        class_weight: Numbers by label, or by type of span for all labels of that type; a label's
            own number goes before that of its type. Labels that have none weigh 1.
        task: The task, which knows its labels.
        examples: What is trained on.

    Raises:
        TypeError: if `class_weight` is no dictionary, or a weight is no number.
        ValueError: if there is no such label or type, a weight is negative or not finite, or every
            label of the examples weighs 0.
    """
    if not isinstance(class_weight, Mapping):
        raise TypeError(
            "`class_weight` should be a dictionary of what labels weigh, such as {'O': 0.3}. "
            f"Received: class_weight={class_weight!r}"
        )
    types = {name: labels for name, labels in task.types().items() if name not in task.labels}
    unknown = [name for name in class_weight if name not in types and name not in task.labels]
    if unknown:
        of_types = f", their types {', '.join(types)}" if types else ""
        raise ValueError(
            "`class_weight` should name labels of the corpus. They are "
            f"{', '.join(task.labels)}{of_types}. Received: {unknown[0]!r}"
        )
    numbers = {
        name: checked_number(f"class_weight[{name!r}]", weight)
        for name, weight in class_weight.items()
    }
    weights = dict.fromkeys(task.labels, 1.0)
    for name, labels in types.items():
        weights |= dict.fromkeys(labels, numbers.get(name, 1.0))
    weights |= {name: number for name, number in numbers.items() if name in task.labels}
    if not any(weights.get(tag, 1.0) for example in examples for tag in example.tags):
        raise ValueError(
            "At least one label of the corpus should weigh more than 0, or there is nothing to "
            f"learn. Received: class_weight={dict(class_weight)!r}"
        )
    return list(weights.values())


@keras.saving.register_keras_serializable(package="finegrain")
class WeightedLikelihood(keras.losses.Loss):
    r"""The negative log-likelihood of sequences whose labels weigh differently.

    Without transitions the likelihood of a sequence is the product of those of its labels, each of
    which can have a weight. That of a chain cannot be taken apart: the whole of it has the mean
    weight of its labels.

    $$-\sum_t w_{y_t} \log p(y_t) \qquad\text{or}\qquad
    -\Big(\frac{1}{n} \sum_t w_{y_t}\Big) \log p(y_1, \ldots, y_n)$$

    Args:
        weights: What each tag weighs, a number ≥ 0.
        per: `"tag"` for the former, which needs a CRF layer without transitions and boundaries;
            `"sequence"` for the latter.
        reduction: Over the batch, as in all Keras losses. By default the mean over the sequences
            by their sample weights, to which the weights of tags do not count.
        name: The loss's name.
        dtype: Of the computation; float32 unless it is set.

    Call arguments:
        y_true: (batch, time) integer tags; negative where there is none.
        y_pred: (batch, time + tags + 2, tags + 1) potentials, the output of a CRF layer.
        sample_weight: (batch,): what each sequence counts besides.
    """

    def __init__(
        self,
        weights: Sequence[float],
        per: str = "sequence",
        *,
        reduction: str | None = "mean_with_sample_weight",
        name: str = "weighted_likelihood",
        dtype: Any = None,
    ) -> None:
        super().__init__(name=name, reduction=reduction, dtype=dtype)
        self.weights = [float(weight) for weight in weights]
        self.per = per
        self.likelihood = CRFNegativeLogLikelihood(reduction=None, dtype=dtype)

    def __call__(self, y_true: Tensor, y_pred: Tensor, sample_weight: Tensor | None = None) -> Any:
        """Compute the reduced loss."""
        potentials = ops.convert_to_tensor(y_pred, dtype=self.dtype)
        # Another tensor, which is rid of a mask over time that a layer around the CRF has attached:
        # losses are (batch,).
        return super().__call__(y_true, ops.expand_dims(potentials, 0)[0], sample_weight)

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        """Compute the (batch,) weighted negative log-likelihoods."""
        parts, tags = labelled_parts(y_true, y_pred)
        known = ops.maximum(tags, 0)
        table = ops.convert_to_tensor(np.array(self.weights), dtype=y_pred.dtype)
        weights = ops.take(table, known) * ops.cast(parts.mask, y_pred.dtype)  # (batch, time)
        if self.per == "tag":
            log_p = ops.log_softmax(parts.emissions, axis=-1)
            log_p = ops.take_along_axis(log_p, known[:, :, None], axis=-1)[:, :, 0]
            return -ops.sum(weights * log_p, axis=1)
        count = ops.sum(ops.cast(parts.mask, y_pred.dtype), axis=1)
        mean = ops.sum(weights, axis=1) / ops.maximum(count, 1.0)
        return mean * self.likelihood.call(y_true, y_pred)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments that make an equal loss."""
        return super().get_config() | {"weights": self.weights, "per": self.per}
