"""Conv2DTranspose: Keras's transposed convolution, with a gradient that is fast on JAX."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from finegrain._backend import backend

Tensor = Any


@keras.saving.register_keras_serializable(package="finegrain")
class Conv2DTranspose(keras.layers.Conv2DTranspose):
    r"""Computes Keras's transposed convolution, with a gradient that is fast on JAX.

    It is the transpose $T$ of the convolution $S$ with these strides, from outputs $y$ to inputs
    $x$, and takes its gradients from it:

    $$\langle S(y, k), x \rangle = \langle y, T(x, k) \rangle = \langle k, K(y, x) \rangle$$

    On a CPU, XLA computes the kernel's gradient $K$ of $S$ many times as fast as the one that JAX
    derives from $T$. Outputs, gradients, weights and arguments are Keras's. On other backends the
    computation is, too.

    Args:
        filters: An integer ≥ 1: how many channels the outputs have.
        kernel_size: An integer, or one for each of two axes.
        strides: The like: how many times as large the outputs are.
        padding: `"valid"` or `"same"`.
        **kwargs: All others are those of `keras.layers.Conv2DTranspose`, and so are these.

    Input: (batch, height, width, channels) floats, or (batch, channels, height, width) with
    `data_format="channels_first"`. Output: the like, larger by the strides.

    Raises:
        ValueError: as Keras's layer.

    Example:
    >>> import keras, numpy as np, finegrain as fg
    >>> layer = fg.layers.Conv2DTranspose(3, 4, strides=2, padding="same")
    >>> images = layer(np.ones((1, 7, 7, 8), "float32"))
    >>> tuple(images.shape)
    (1, 14, 14, 3)
    >>> keras_layer = keras.layers.Conv2DTranspose(3, 4, strides=2, padding="same")
    >>> keras_layer.build((None, 7, 7, 8))
    >>> keras_layer.set_weights(layer.get_weights())

    Notes:
        On JAX the layer has derivatives of any order by reverse mode, as penalties take them, and
        none by forward mode (`jax.jvp`, `jax.hessian`).
    """

    def __init__(
        self,
        filters: int,
        kernel_size: int | tuple[int, int],
        strides: int | tuple[int, int] = (1, 1),
        padding: str = "valid",
        **kwargs: Any,
    ) -> None:
        super().__init__(filters, kernel_size, strides, padding, **kwargs)

    def call(self, inputs: Any) -> Any:
        """Compute the transposed convolution, add the bias and apply the activation."""
        outputs = backend.conv_transpose(
            inputs,
            ops.convert_to_tensor(self.kernel),
            strides=tuple(self.strides),
            padding=self.padding,
            output_padding=self.output_padding,
            dilation_rate=tuple(self.dilation_rate),
            data_format=self.data_format,
        )
        if self.use_bias:
            last = self.data_format == "channels_last"
            shape = (1, 1, 1, self.filters) if last else (1, self.filters, 1, 1)
            outputs = ops.add(outputs, ops.reshape(self.bias, shape))
        return outputs if self.activation is None else self.activation(outputs)
