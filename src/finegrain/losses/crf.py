"""The negative log-likelihood of a CRF."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from finegrain.crf.checks import check_tags_shape
from finegrain.crf.linear_chain import LinearChain
from finegrain.crf.potentials import unpack

Tensor = Any


@keras.saving.register_keras_serializable(package="finegrain")
class CRFNegativeLogLikelihood(keras.losses.Loss):
    r"""How improbable the true tags are: $-\log p(y)$ for each sequence.

    Args:
        per: `"sequence"` sums over the positions of a sequence; `"tag"` divides that by their
            number, so that long and short sequences weigh the same; `"batch_tag"` divides it by
            their mean number in the batch, so that all positions weigh the same: with the default
            reduction that is the mean over all tags of the batch.
        reduction: Over the batch, as in all Keras losses. The default is the mean over the
            sequences. Sample weights have shape (batch,).
        name: The loss's name.
        dtype: Of the computation; float32 unless it is set.

    Call arguments:
        y_true: (batch, time) integer tags. A position with a negative tag (−1, −100, …) is left
            out of the chain, like a masked one.
        y_pred: (batch, time + tags + 2, tags + 1) potentials, the output of a
            `finegrain.layers.CRF` layer.

    Returns:
        The reduced loss; (batch,) with `reduction=None`. An empty sequence costs 0, an
        impossible one (by constraints) infinitely much.

    Raises:
        ValueError: if `per` is none of these, y_pred is not made of potentials, or a tag is not
            below their number. What is compiled cannot raise that: there the loss is NaN, and
            the sequence moves nothing.

    Example:
    >>> import keras, numpy as np, finegrain as fg
    >>> potentials = fg.layers.CRF(4, use_projection=False)(np.zeros((1, 3, 4), "float32"))
    >>> loss = fg.losses.CRFNegativeLogLikelihood()(np.array([[0, 1, 2]]), potentials)
    >>> print(keras.ops.convert_to_numpy(loss).round(4), round(3 * np.log(4), 4))
    4.1589 4.1589
    """

    def __init__(
        self,
        per: str = "sequence",
        *,
        reduction: str | None = "sum_over_batch_size",
        name: str = "crf_negative_log_likelihood",
        dtype: Any = None,
    ) -> None:
        super().__init__(name=name, reduction=reduction, dtype=dtype)
        if per not in ("sequence", "tag", "batch_tag"):
            raise ValueError(
                f"`per` should be 'sequence', 'tag' or 'batch_tag'. Received: per={per!r}"
            )
        self.per = per

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        """(batch,) negative log-likelihoods."""
        chain, tags = labelled_chain(y_true, y_pred)
        loss = -chain.log_prob(tags)
        if self.per == "sequence":
            return loss
        count = ops.sum(ops.cast(chain.mask, loss.dtype), axis=1)
        if self.per == "batch_tag":
            examples = ops.cast(ops.maximum(ops.shape(count)[0], 1), loss.dtype)
            return loss * (examples / ops.maximum(ops.sum(count), ops.ones_like(examples)))
        return loss / ops.maximum(count, ops.ones_like(count))

    def get_config(self) -> dict[str, Any]:
        """The arguments that make an equal loss."""
        return super().get_config() | {"per": self.per}


def labelled_chain(y_true: Tensor, y_pred: Tensor) -> tuple[LinearChain, Tensor]:
    """The chain over the positions that have a tag, and the (batch, time) int32 tags."""
    parts = unpack(y_pred)
    tags = as_tags(y_true)
    check_tags_shape(tags, parts.mask.shape)
    chain = LinearChain(**parts._replace(mask=ops.logical_and(parts.mask, tags >= 0))._asdict())
    return chain, tags


def as_tags(y_true: Tensor) -> Tensor:
    """(batch, time) int32 tags from what Keras hands on: floats, perhaps (batch, time, 1)."""
    tags = ops.cast(y_true, "int32")
    return tags[:, :, 0] if len(tags.shape) == 3 and tags.shape[2] == 1 else tags
