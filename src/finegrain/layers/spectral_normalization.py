"""SpectralNormalization: a kernel divided by its largest singular value, in every call."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import ops

from finegrain.routing.overlay import Overlay

Tensor = Any

# Iterations before the first step, as many as PyTorch takes.
FIRST_ITERATIONS = 15


@keras.saving.register_keras_serializable(package="finegrain")
class SpectralNormalization(keras.layers.Wrapper):
    r"""Divides a layer's kernel by its spectral norm, in training and in inference.

    The layer computes with $W / \sigma$, where $W$ is the kernel as a matrix of one row for each
    output, and $\sigma$ its largest singular value. It is estimated by power iteration, of which
    each training call takes `power_iterations` steps, and has a gradient through $W$ alone:

    $$u \leftarrow \frac{W v}{\lVert W v \rVert}, \qquad
      v \leftarrow \frac{W^\top u}{\lVert W^\top u \rVert}, \qquad
      \sigma = u^\top W v$$

    So the slope of the layer is at most about 1. The kernel itself is never assigned to: it is what
    the optimizer makes of it.

    Args:
        layer: A Keras layer with a `kernel` or `embeddings`: Dense, EinsumDense, a convolution,
            transposed, depthwise or neither, or Embedding.
        power_iterations: An integer ≥ 1, the steps for each training call.
        **kwargs: Keras's own `name` and `trainable`. All else is the wrapped layer's.

    Input and output: those of the wrapped layer, with its mask.

    Raises:
        TypeError: if `layer` is no Keras layer, or `power_iterations` no integer.
        ValueError: if `power_iterations` is below 1, or, when built, if the layer has no kernel.

    Example:
    >>> import keras, numpy as np, finegrain as fg
    >>> kernel = keras.initializers.Constant(np.diag([1.0, 4.0]))
    >>> layer = fg.layers.SpectralNormalization(
    ...     keras.layers.Dense(2, kernel_initializer=kernel, use_bias=False))
    >>> print(keras.ops.convert_to_numpy(layer(np.ones((1, 2), "float32"))).round(4))
    [[0.25 1.  ]]
    >>> round(layer.sigma(), 4)
    4.0

    References:
        Takeru Miyato, Toshiki Kataoka, Masanori Koyama, Yuichi Yoshida, Spectral normalization for
        generative adversarial networks, 2018, https://arxiv.org/abs/1802.05957

    Notes:
        - `keras.layers.SpectralNormalization` assigns $W / \sigma$ to the kernel in each training
          call, and its inference computes with whatever the kernel is then. On JAX, whose step
          gives back no such assignment, and under `finegrain.routing.constant_weights` that is the
          kernel without $\sigma$: a model other than the trained one.
        - Values and gradients are those of `torch.nn.utils.parametrizations.spectral_norm`, which
          takes the outputs of transposed and of depthwise convolutions for rows. Keras takes the
          last axis of the kernel in each.
        - With a convolution $\sigma$ is that of the matrix, not of the map between images.
        - A frozen layer (`trainable=False`) keeps $u$ and $v$. A kernel of zeros stays as it is.
        - $u$ and $v$ follow the kernel from step to step. After setting it to another one, as from
          a pretrained model, call `restart()`.
    """

    def __init__(self, layer: keras.layers.Layer, power_iterations: int = 1, **kwargs: Any) -> None:
        if not isinstance(layer, keras.layers.Layer):
            raise TypeError(
                "`layer` should be a Keras layer with a kernel, such as keras.layers.Dense(8). "
                f"Received: layer={layer!r} of type {type(layer).__name__}"
            )
        if unknown := sorted(set(kwargs) - {"name", "trainable"}):
            raise TypeError(
                "Beside its own arguments SpectralNormalization takes `name` and `trainable`; give "
                f"all others to the layer that it wraps. Received: {', '.join(unknown)}"
            )
        # Without casts of its own: the wrapped layer casts as it would alone, and σ is computed in
        # the full precision of the kernel.
        super().__init__(layer, dtype=layer.variable_dtype, autocast=False, **kwargs)
        self.power_iterations = _checked_iterations("power_iterations", power_iterations)

    def build(self, input_shape: Any = None) -> None:
        """Build the wrapped layer, and begin the power iteration with its kernel."""
        super().build(input_shape)
        symbolic = keras.KerasTensor(self._kernel().shape, self._kernel().dtype)
        rows, columns = _as_matrix(self.layer, symbolic).shape
        dtype = keras.backend.result_type(symbolic.dtype, "float32")
        start = keras.initializers.RandomNormal(stddev=1.0)

        def first_u(shape: Any, dtype: Any = None) -> Tensor:
            u, v = start(shape, dtype=dtype), start((columns,), dtype=dtype)
            return _iterated(self._matrix(), u, v, FIRST_ITERATIONS)[0]

        def first_v(shape: Any, dtype: Any = None) -> Tensor:
            otherwise = start(shape, dtype=dtype)
            u = ops.convert_to_tensor(self.vector_u)
            return _direction(ops.matmul(u, self._matrix()), otherwise)

        self.vector_u = self.add_weight(
            (rows,), first_u, dtype, trainable=False, autocast=False, name="vector_u"
        )
        self.vector_v = self.add_weight(
            (columns,), first_v, dtype, trainable=False, autocast=False, name="vector_v"
        )

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """Compute the wrapped layer's outputs with the kernel divided by its spectral norm."""
        # Copies: PyTorch writes the next vectors over the variables' own tensors.
        u, v = ops.copy(self.vector_u), ops.copy(self.vector_v)
        matrix = self._matrix()
        if training and self.trainable:
            u, v = _iterated(ops.stop_gradient(matrix), u, v, self.power_iterations)
            self.vector_u.assign(u)
            self.vector_v.assign(v)
        else:
            # Averages of vectors, as `ema_momentum` makes them, are shorter.
            u, v = _direction(u, u), _direction(v, v)
        u, v = ops.stop_gradient(u), ops.stop_gradient(v)
        sigma = _sigma(matrix, u, v)

        def divided(variable: Any, value: Tensor) -> Tensor:
            return ops.cast(ops.cast(value, sigma.dtype) / sigma, value.dtype)

        with Overlay([self._kernel()], divided) as scope:
            outputs = self.layer(inputs)
        scope.forward_losses(self)
        for variable, value in scope.updates():
            variable.assign(value)
        return outputs

    def sigma(self) -> float:
        r"""Compute the present estimate of $\sigma$, by which inference divides the kernel."""
        u, v = (ops.convert_to_tensor(vector) for vector in (self.vector_u, self.vector_v))
        sigma = _sigma(self._matrix(), _direction(u, u), _direction(v, v))
        return float(ops.convert_to_numpy(ops.stop_gradient(sigma)))

    def restart(self, iterations: int = FIRST_ITERATIONS) -> None:
        """Bring $u$ and $v$ to the present kernel, as after loading another one.

        Args:
            iterations: An integer ≥ 1, the steps of power iteration.
        """
        iterations = _checked_iterations("iterations", iterations)
        start = keras.initializers.RandomNormal(stddev=1.0)
        u, v = (
            start(vector.shape, dtype=vector.dtype) for vector in (self.vector_u, self.vector_v)
        )
        u, v = _iterated(ops.stop_gradient(self._matrix()), u, v, iterations)
        self.vector_u.assign(u)
        self.vector_v.assign(v)

    def _kernel(self) -> Any:
        for name in ("kernel", "embeddings"):
            kernel: Any = getattr(self.layer, name, None)
            if isinstance(kernel, keras.Variable) and len(kernel.shape) > 1:
                return kernel
        raise ValueError(
            "SpectralNormalization wraps layers with a `kernel` or `embeddings`, a variable of two "
            "axes or more (Dense, convolutions, Embedding), without LoRA and not quantized. "
            f"Received: layer={self.layer!r}"
        )

    def _matrix(self) -> Tensor:
        return _as_matrix(self.layer, ops.convert_to_tensor(self._kernel()))

    @property
    def supports_masking(self) -> bool:
        """Whether the wrapped layer supports masking."""
        return self.layer.supports_masking

    def compute_mask(self, inputs: Any, previous_mask: Any = None) -> Any:
        """Compute the wrapped layer's mask."""
        return self.layer.compute_mask(inputs, previous_mask)

    def compute_output_shape(self, input_shape: Any) -> Any:
        """Compute the shape of the wrapped layer's output."""
        return self.layer.compute_output_shape(input_shape)

    def compute_output_spec(self, inputs: Any, training: bool | None = None) -> Any:
        """Compute the shape and dtype of the wrapped layer's output."""
        return self.layer.compute_output_spec(inputs)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments that make an equal layer."""
        config = super().get_config() | {"power_iterations": self.power_iterations}
        del config["dtype"]  # the wrapped layer's
        return config


_TRANSPOSED = (
    keras.layers.Conv1DTranspose,
    keras.layers.Conv2DTranspose,
    keras.layers.Conv3DTranspose,
)
_DEPTHWISE = (keras.layers.DepthwiseConv1D, keras.layers.DepthwiseConv2D)


def _as_matrix(layer: keras.layers.Layer, kernel: Tensor) -> Tensor:
    """Reshape the kernel to (rows, columns), a row for each output."""
    if isinstance(layer, keras.layers.Embedding):
        matrix = ops.reshape(kernel, (kernel.shape[0], -1))
    else:
        if isinstance(layer, _TRANSPOSED):  # (…, outputs, inputs)
            kernel = ops.swapaxes(kernel, -1, -2)
        # (…, outputs), or (…, inputs, outputs of each).
        of_outputs = kernel.shape[-2:] if isinstance(layer, _DEPTHWISE) else kernel.shape[-1:]
        matrix = ops.transpose(ops.reshape(kernel, (-1, int(np.prod(of_outputs)))))
    return ops.cast(matrix, keras.backend.result_type(matrix.dtype, "float32"))


def _iterated(matrix: Tensor, u: Tensor, v: Tensor, iterations: int) -> tuple[Tensor, Tensor]:
    """Take steps of power iteration from `v`, (columns,); `u`, (rows,), stands where W v is 0."""
    for _ in range(iterations):
        u = _direction(ops.matmul(matrix, v), u)
        v = _direction(ops.matmul(u, matrix), v)
    return u, v


def _direction(vector: Tensor, otherwise: Tensor) -> Tensor:
    """Scale the vector to length 1, or return the other one for a vector of zeros."""
    length = ops.norm(vector)
    return ops.where(length > 0, vector / ops.where(length > 0, length, 1.0), otherwise)


def _sigma(matrix: Tensor, u: Tensor, v: Tensor) -> Tensor:
    """Compute uᵀWv, a scalar, or 1 where that is 0: a kernel of zeros stays as it is."""
    sigma = ops.sum(u * ops.matmul(matrix, v))
    return ops.where(sigma == 0, ops.ones_like(sigma), sigma)


def _checked_iterations(argument: str, value: Any) -> int:
    expected = f"`{argument}` should be an integer >= 1. Received: {argument}={value!r}"
    if isinstance(value, bool | np.bool_) or not isinstance(value, int | np.integer):
        raise TypeError(expected)
    if value < 1:
        raise ValueError(expected)
    return int(value)
