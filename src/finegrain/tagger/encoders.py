"""Encoders, which turn the vectors of characters into features that know their neighbourhood."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
from keras import ops

Tensor = Any
Encoder = Callable[[Tensor], Tensor]


@keras.saving.register_keras_serializable(package="finegrain")
class ConvolutionBlock(keras.layers.Layer):
    """A convolution along the text whose outcome does not depend on the padding.

    Masked positions count as zeros, like the positions beyond the edge of the text. Where the input
    has as many channels as the output, it is added to the output.

    Args:
        channels: Number of output channels.
        kernel_size: How many neighbouring positions one output sees.
        dilation: Distance between these positions.
        dropout: Share of the output set to zero in training.
        **kwargs: Keras's own, such as `name`.

    Input and output shape: (batch, time, channels).
    """

    def __init__(
        self,
        channels: int,
        kernel_size: int = 3,
        dilation: int = 1,
        dropout: float = 0.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.channels = channels
        self.kernel_size = kernel_size
        self.dilation = dilation
        self.dropout = dropout
        self.convolution = keras.layers.Conv1D(
            channels,
            kernel_size,
            dilation_rate=dilation,
            padding="same",
            activation="relu",
            name="convolution",
        )
        self.drop = keras.layers.Dropout(dropout, name="dropout")
        self.supports_masking = True

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Create the convolution's weights."""
        self.convolution.build(input_shape)

    def call(
        self, inputs: Tensor, mask: Tensor | None = None, training: bool | None = None
    ) -> Tensor:
        """Compute the features, of shape (batch, time, channels)."""
        if mask is not None:
            inputs = ops.where(mask[:, :, None], inputs, ops.zeros_like(inputs))
        outputs = self.drop(self.convolution(inputs), training=training)
        return outputs + inputs if inputs.shape[-1] == self.channels else outputs

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """Return the shape (batch, time, channels)."""
        return (*input_shape[:-1], self.channels)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments that make an equal layer."""
        return super().get_config() | {
            "channels": self.channels,
            "kernel_size": self.kernel_size,
            "dilation": self.dilation,
            "dropout": self.dropout,
        }


def cnn(width: int, dropout: float) -> Encoder:
    """Make an encoder of four convolutions that together see 8 characters to either side."""

    def encode(x: Tensor) -> Tensor:
        for index, dilation in enumerate((1, 1, 2, 4)):
            name = f"convolution_{index}"
            x = ConvolutionBlock(width, 3, dilation=dilation, dropout=dropout, name=name)(x)
        return x

    return encode


def bilstm(width: int, dropout: float) -> Encoder:
    """Make an encoder with a bidirectional LSTM, which sees the whole text."""

    def encode(x: Tensor) -> Tensor:
        lstm = keras.layers.LSTM(width, return_sequences=True)
        x = keras.layers.Bidirectional(lstm, name="bilstm")(x)
        return keras.layers.Dropout(dropout)(x)

    return encode


ENCODERS: dict[str, Callable[[int, float], Encoder]] = {"cnn": cnn, "bilstm": bilstm}


def get_encoder(encoder: str | Encoder, width: int, dropout: float) -> Encoder:
    """Make the encoder of that name, or return the given layer or model itself.

    Raises:
        ValueError: if there is none of that name.
    """
    if callable(encoder):
        return encoder
    if encoder not in ENCODERS:
        raise ValueError(
            f"`encoder` should be one of {sorted(ENCODERS)}, or a Keras layer or model from "
            "(batch, time, features) to (batch, time, features). "
            f"Received: encoder={encoder!r}"
        )
    return ENCODERS[encoder](width, dropout)
