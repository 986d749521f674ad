"""A layer by itself, with Keras's `predict`."""

from __future__ import annotations

from typing import Any

import keras

from finegrain.game.average import WeightAverage


class Predictor(keras.Model):
    """A model of one layer, for its `predict`: compiled, in batches, without gradients.

    Args:
        layer: A network, or the average of one.
    """

    def __init__(self, layer: keras.layers.Layer) -> None:
        super().__init__(name="predictor")
        self.layer = layer
        if isinstance(layer, WeightAverage):
            self.network = layer.network()  # its weights are read, too
        self.built = True

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """Return what the layer makes of the inputs."""
        # Keras passes a pair from arrays as a tuple, and functional models ask for a list.
        inputs = list(inputs) if isinstance(inputs, tuple) else inputs
        return self.layer(inputs, training=training)
