"""The negative log-likelihood of a CRF."""

from __future__ import annotations

from functools import partial
from typing import Any

import keras
import numpy as np
from keras import ops

from finegrain._backend import backend
from finegrain.crf.checks import check_tags_shape, checked_weight
from finegrain.crf.labels import explain
from finegrain.crf.linear_chain import LinearChain
from finegrain.crf.potentials import Potentials, unpack

Tensor = Any

MEANS = ("sum_over_batch_size", "mean")


@keras.saving.register_keras_serializable(package="finegrain")
class CRFNegativeLogLikelihood(keras.losses.Loss):
    r"""How improbable the true tags are: $-\log p(y)$ for each sequence.

    Args:
        per: `"sequence"` sums over the positions of a sequence; `"tag"` divides that by their
            number, so that long and short sequences weigh the same; `"batch_tag"` divides it by
            their mean number in the batch, so that all positions weigh the same: with the default
            reduction that is the mean over all tags of the batch.
        reduction: Over the batch, as in all Keras losses. The default is the mean over the
            sequences.
        on_forbidden: What to do about a sequence whose labels the constraints of the CRF layer
            forbid, so that its loss is infinite: `"raise"` an error that names it, or `"drop"` it
            from the batch. Means are then over the other sequences.
        name: The loss's name.
        dtype: Of the computation; float32 unless it is set.

    Call arguments:
        y_true: (batch, time) integer tags. A position with a negative tag (−1, −100, …) is left
            out of the chain, like a masked one.
        y_pred: (batch, time + tags + 2, tags + 1) potentials, the output of a
            `finegrain.layers.CRF` layer.
        sample_weight: What each sequence counts: (batch,), (batch, 1) or a number. A position has
            no weight of its own, whatever `per` is: the likelihood is that of a whole sequence.

    Output: the reduced loss; (batch,) with `reduction=None`. An empty sequence costs 0.

    Raises:
        ValueError: if an argument is none of these, y_pred is not made of potentials, sample
            weights are not one a sequence, a tag is not below the number of tags, or, with
            `on_forbidden="raise"`, labels are forbidden. The last two name the row, the position
            and the tags; see the notes for compiled steps.

    Example:
    >>> import keras, numpy as np, finegrain as fg
    >>> potentials = fg.layers.CRF(4, use_projection=False)(np.zeros((1, 3, 4), "float32"))
    >>> loss = fg.losses.CRFNegativeLogLikelihood()(np.array([[0, 1, 2]]), potentials)
    >>> print(keras.ops.convert_to_numpy(loss).round(4), round(3 * np.log(4), 4))
    4.1589 4.1589

    Notes:
        In `fit` and `evaluate`, too, wrong labels end the first step that meets them, with the
        same words. Where steps are compiled these are the last lines of the backend's own error:
        `jax.errors.JaxRuntimeError` on JAX, where the weights of a step that failed are lost, as
        after any error inside of it; `tf.errors.InvalidArgumentError` on TensorFlow. Steps that
        XLA compiles on TensorFlow (`jit_compile=True`, which Keras chooses by itself on a GPU)
        cannot call the host: there the loss of such a sequence is NaN, and it moves nothing.
        `finegrain.crf.allowed_sequences` finds forbidden labels before training, and how many
        `"drop"` will drop.

        `fit(class_weight=...)` has no meaning for sequences: Keras would take the place of the
        largest tag in each row for the row's class.
    """

    def __init__(
        self,
        per: str = "sequence",
        *,
        reduction: str | None = "sum_over_batch_size",
        on_forbidden: str = "raise",
        name: str = "crf_negative_log_likelihood",
        dtype: Any = None,
    ) -> None:
        super().__init__(name=name, reduction=reduction, dtype=dtype)
        if per not in ("sequence", "tag", "batch_tag"):
            raise ValueError(
                f"`per` should be 'sequence', 'tag' or 'batch_tag'. Received: per={per!r}"
            )
        if on_forbidden not in ("raise", "drop"):
            raise ValueError(
                "`on_forbidden` should be 'raise' or 'drop'. "
                f"Received: on_forbidden={on_forbidden!r}"
            )
        self.per = per
        self.on_forbidden = on_forbidden

    def __call__(self, y_true: Tensor, y_pred: Tensor, sample_weight: Tensor | None = None) -> Any:
        """Compute the reduced loss."""
        potentials = ops.convert_to_tensor(y_pred, dtype=self.dtype)
        weight = None
        if sample_weight is not None:
            weight = checked_weight(sample_weight, potentials.shape[:1], self.dtype)
        if self.on_forbidden == "drop":
            weight = self._of_the_others(weight, y_true, potentials)
        # Another tensor, which is rid of a mask that a layer around the CRF has attached: (batch,
        # time), where losses are (batch,). The potentials have carried it in themselves.
        return super().__call__(y_true, ops.expand_dims(potentials, 0)[0], weight)

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        """Compute the (batch,) negative log-likelihoods, divided as `per` says."""
        parts, tags = labelled_parts(y_true, y_pred)
        loss = -LinearChain(**parts._asdict()).log_prob(tags)
        impossible = ops.equal(loss, np.inf)
        if self.on_forbidden == "drop":
            # Tags that are none are a mistake all the same; the step knows them as NaN.
            backend.call_if(ops.any(ops.isnan(loss)), _refuse_outside, (tags, *parts))
            loss = ops.where(impossible, ops.zeros_like(loss), loss)
        elif not backend.call_if(
            ops.logical_not(ops.all(ops.isfinite(loss))), _refuse, (tags, *parts)
        ):
            loss = ops.where(impossible, np.nan, loss)
        if self.per == "sequence":
            return loss
        count = ops.sum(ops.cast(parts.mask, loss.dtype), axis=1)
        one = ops.ones_like(count)
        if self.per == "tag":
            return loss / ops.maximum(count, one)
        if self.on_forbidden == "drop":
            one, count = (ops.where(impossible, ops.zeros_like(x), x) for x in (one, count))
        return loss * (ops.sum(one) / ops.maximum(ops.sum(count), 1.0))

    def _of_the_others(self, weight: Tensor | None, y_true: Tensor, y_pred: Tensor) -> Tensor:
        """Set (batch,) sample weights to 0 for forbidden sequences; means are over the others."""
        parts, tags = labelled_parts(y_true, y_pred)
        possible = ops.not_equal(LinearChain(**parts._asdict()).score(tags), -np.inf)
        kept = ops.cast(possible, self.dtype)
        weight = kept if weight is None else weight * kept
        if self.reduction not in MEANS:
            return weight
        return weight * (ops.sum(ops.ones_like(kept)) / ops.maximum(ops.sum(kept), 1.0))

    def get_config(self) -> dict[str, Any]:
        """Return the arguments that make an equal loss."""
        return super().get_config() | {"per": self.per, "on_forbidden": self.on_forbidden}


def labelled_parts(y_true: Tensor, y_pred: Tensor) -> tuple[Potentials, Tensor]:
    """Return the chain's parts, masked where no tag is known, and the (batch, time) int32 tags."""
    parts = unpack(y_pred)
    tags = as_tags(y_true)
    check_tags_shape(tags, parts.mask.shape)
    return parts._replace(mask=ops.logical_and(parts.mask, tags >= 0)), tags


def as_tags(y_true: Tensor) -> Tensor:
    """Make (batch, time) int32 tags of what Keras hands on: floats, perhaps (batch, time, 1)."""
    tags = ops.cast(y_true, "int32")
    return tags[:, :, 0] if len(tags.shape) == 3 and tags.shape[2] == 1 else tags


def _refuse(*arrays: Any, outside_only: bool = False) -> None:
    message = explain(*arrays, outside_only=outside_only)
    if message is not None:
        raise ValueError(message)


_refuse_outside = partial(_refuse, outside_only=True)
