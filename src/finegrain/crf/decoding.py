"""Decoding: potentials to the best tags, by a function and by the last layer of a served model."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from finegrain.crf.constraints import Constraints
from finegrain.crf.linear_chain import LinearChain
from finegrain.crf.potentials import checked_num_tags, unpack

Tensor = Any


def decode(potentials: Tensor, constraints: Any = None) -> Tensor:
    """Find the best tags from what a model with a CRF layer predicted.

    Of a symbolic tensor, such as `model.output`, it makes a symbolic one, by a layer `Decode`:
    the model that ends there can be saved and exported.

    Args:
        potentials: (batch, time + tags + 2, tags + 1), the output of a `finegrain.layers.CRF`
            layer, as a tensor, as the array that `model.predict` returns, or as a symbolic tensor.
        constraints: Which tag may follow which, as in `finegrain.layers.Decode`. Defaults to no
            others than those that the potentials carry.

    Returns:
        (batch, time) int32 tags, −1 where masked.

    Raises:
        ValueError: if the shape is not that of potentials, or the constraints are for another
            number of tags.

    Example:
    >>> import numpy as np, keras, finegrain as fg
    >>> layer = fg.layers.CRF(2, use_projection=False)
    >>> potentials = layer(np.array([[[0.0, 1.0], [2.0, 0.0]]], "float32"))
    >>> potentials.shape[1:] == (2 + 2 + 2, 2 + 1)
    True
    >>> print(keras.ops.convert_to_numpy(fg.crf.decode(potentials)))
    [[1 0]]
    """
    if isinstance(potentials, keras.KerasTensor):
        return Decode(constraints)(potentials)
    parts = unpack(potentials)
    tables = Constraints.of(constraints, parts.emissions.shape[2])
    if tables is not None:
        transitions, start, end = tables.apply(parts.transitions, parts.start, parts.end)
        parts = parts._replace(transitions=transitions, start=start, end=end)
    return LinearChain(**parts._asdict()).mode()[0]


@keras.saving.register_keras_serializable(package="finegrain")
class Decode(keras.layers.Layer):
    """Viterbi decoding as the last layer of a model that is to be served: it puts out tags.

    Train a model that ends in a `finegrain.layers.CRF` layer, on its potentials. What predicts is
    the same model with this layer behind it: it shares the weights, has none of its own, and
    hands on no gradient. `model.export` takes it along, so that whoever serves the model needs
    neither Keras nor a decoder.

    Args:
        constraints: Which tag may follow which: a tag scheme (such as `finegrain.tagging.BIO`) or
            a boolean (tags, tags) matrix [from, to]. They are added to those of the CRF layer, for
            a model that was trained without. Defaults to none.
        **kwargs: Keras's own, such as `name`.

    Input shape: (batch, time + tags + 2, tags + 1) potentials, which carry the mask.

    Output shape: (batch, time), int32: tags, −1 where masked.

    Raises:
        ValueError: for constraints that are no tables or allow nothing, and, in a call, for inputs
            that are no potentials or have another number of tags than the constraints.

    Example:
    >>> import keras, numpy as np, finegrain as fg
    >>> scores = keras.Input((None, 2))
    >>> tagger = keras.Model(scores, fg.layers.CRF(2, use_projection=False)(scores))
    >>> server = keras.Model(scores, fg.layers.Decode()(tagger.output))
    >>> print(server.predict(np.array([[[0.0, 1.0], [2.0, 0.0]]]), verbose=0))
    [[1 0]]
    >>> apart = np.array([[True, False], [True, True]])  # 1 may not follow 0.
    >>> server = keras.Model(scores, fg.layers.Decode(apart)(tagger.output))
    >>> print(server.predict(np.array([[[2.0, 0.0], [0.0, 1.0]]]), verbose=0))
    [[0 0]]

    References:
        G. David Forney, The Viterbi Algorithm, 1973, https://doi.org/10.1109/PROC.1973.9030
    """

    def __init__(self, constraints: Any = None, **kwargs: Any) -> None:
        # Half precision would make unequal sequences equal.
        super().__init__(autocast=False, **kwargs)
        self.constraints = Constraints.of(constraints)
        self.supports_masking = True

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Check that these are potentials, and of as many tags as the constraints have."""
        num_tags = checked_num_tags(input_shape)
        if self.constraints is not None:
            Constraints.of(self.constraints, num_tags)

    def call(self, inputs: Tensor) -> Tensor:
        """Find the best tags.

        Args:
            inputs: (batch, time + tags + 2, tags + 1) potentials.

        Returns:
            (batch, time) int32 tags, −1 where masked.
        """
        return decode(ops.stop_gradient(inputs), self.constraints)

    def compute_mask(self, inputs: Tensor, previous_mask: Tensor | None = None) -> None:
        """Return None: masked positions have the tag −1."""

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """Compute the output shape, (batch, time)."""
        num_tags = checked_num_tags(input_shape)
        batch, rows, _ = input_shape
        return (batch, None if rows is None else rows - num_tags - 2)

    def compute_output_spec(self, inputs: Any) -> keras.KerasTensor:
        """Compute the shape and the dtype of the tags."""
        return keras.KerasTensor(self.compute_output_shape(tuple(inputs.shape)), dtype="int32")

    def get_config(self) -> dict[str, Any]:
        """Return the arguments that make an equal layer."""
        constraints = None if self.constraints is None else self.constraints.get_config()
        return super().get_config() | {"constraints": constraints}
