"""Transforms that rescale, recentre or drop gradients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from finegrain._checks import finite
from finegrain.gradients.norms import checked_order, config_order, norm
from finegrain.gradients.transform import GradientTransform, tensors


@keras.saving.register_keras_serializable(package="finegrain")
class Scale(GradientTransform):
    r"""Multiplies the gradient: $g \leftarrow c\,g$.

    Under adaptive optimizers such as Adam this changes next to nothing, since they divide by the
    gradient's size; to change how fast weights learn, use `learning_rate_multiplier`.

    Args:
        factor: $c$, a finite number of either sign.

    Example:
    >>> import keras, numpy as np, finegrain as fg
    >>> gradient = fg.gradients.Scale(-2.0)([np.array([1.0, 3.0])], [None])[0]
    >>> print(keras.ops.convert_to_numpy(gradient))
    [-2. -6.]
    """

    def __init__(self, factor: float) -> None:
        number = finite(factor)
        if number is None:
            raise ValueError(f"`factor` should be a finite number. Received: factor={factor!r}")
        self.factor = number

    def __call__(
        self, gradients: Sequence[Any], variables: Sequence[keras.Variable]
    ) -> Sequence[Any]:
        """Multiply the gradients by the factor."""
        return [gradient * self.factor for gradient in tensors(gradients)]

    def get_config(self) -> dict[str, Any]:
        """Return the arguments that make an equal transform."""
        return {"factor": self.factor}


@keras.saving.register_keras_serializable(package="finegrain")
class Zero(GradientTransform):
    r"""Sets the gradient to zero: $g \leftarrow 0$.

    Momentum and weight decay go on moving the weights. To hold them where they are, use
    `Rule(..., trainable=False)`.

    Example:
    >>> import keras, numpy as np, finegrain as fg
    >>> print(keras.ops.convert_to_numpy(fg.gradients.Zero()([np.array([1.0, 3.0])], [None])[0]))
    [0. 0.]
    """

    def __call__(
        self, gradients: Sequence[Any], variables: Sequence[keras.Variable]
    ) -> Sequence[Any]:
        """Return zeros, even where the gradient is NaN."""
        return [ops.zeros_like(gradient) for gradient in tensors(gradients)]


@keras.saving.register_keras_serializable(package="finegrain")
class Normalize(GradientTransform):
    r"""Divides each weight's gradient by its norm: $g \leftarrow g / \lVert g \rVert_p$.

    A gradient of zeros stays zero.

    Args:
        ord: $p$: 1, 2 or `float("inf")`.

    Example:
    >>> import keras, numpy as np, finegrain as fg
    >>> gradients = fg.gradients.Normalize()([np.array([3.0, 4.0]), np.array([0.0])], [None, None])
    >>> print([keras.ops.convert_to_numpy(gradient).round(2) for gradient in gradients])
    [array([0.6, 0.8]...), array([0.]...)]

    References:
        Adams Wei Yu, Lei Huang, Qihang Lin, Ruslan Salakhutdinov, Jaime Carbonell,
        Block-normalized gradient method, 2017, https://arxiv.org/abs/1707.04822
    """

    def __init__(self, ord: float | str = 2) -> None:
        self.ord = checked_order(ord)

    def __call__(
        self, gradients: Sequence[Any], variables: Sequence[keras.Variable]
    ) -> Sequence[Any]:
        """Divide each gradient by its norm; zeros stay zero."""
        normalized = []
        for gradient in tensors(gradients):
            size = norm(gradient, self.ord)
            size = ops.where(size == 0, ops.ones_like(size), size)
            quotient = ops.cast(gradient, size.dtype) / size
            normalized.append(ops.cast(quotient, gradient.dtype))
        return normalized

    def get_config(self) -> dict[str, Any]:
        """Return the arguments that make an equal transform."""
        return {"ord": config_order(self.ord)}


@keras.saving.register_keras_serializable(package="finegrain")
class Sign(GradientTransform):
    r"""Keeps the sign of each component: $g_i \leftarrow \operatorname{sign}(g_i)$; 0 stays 0.

    Example:
    >>> import keras, numpy as np, finegrain as fg
    >>> gradient = fg.gradients.Sign()([np.array([3.0, -0.5, 0.0])], [None])[0]
    >>> print(keras.ops.convert_to_numpy(gradient).tolist())
    [1.0, -1.0, 0.0]

    References:
        Jeremy Bernstein, Yu-Xiang Wang, Kamyar Azizzadenesheli, Anima Anandkumar, signSGD:
        compressed optimisation for non-convex problems, 2018, https://arxiv.org/abs/1802.04434
    """

    def __call__(
        self, gradients: Sequence[Any], variables: Sequence[keras.Variable]
    ) -> Sequence[Any]:
        """Take the sign of each component; NaN stays NaN."""
        return [
            ops.where(ops.isnan(gradient), gradient, ops.sign(gradient))
            for gradient in tensors(gradients)
        ]


@keras.saving.register_keras_serializable(package="finegrain")
class Centralize(GradientTransform):
    r"""Takes the mean off the gradient of each unit, over all axes but the last.

    $$g_{i u} \leftarrow g_{i u} - \frac{1}{n} \sum_{j=1}^{n} g_{j u}$$

    Vectors and scalars (biases, normalization weights) stay as they are.

    Example:
    >>> import keras, numpy as np, finegrain as fg
    >>> gradient = np.array([[1.0, 2.0], [3.0, 8.0]])
    >>> centred = fg.gradients.Centralize()([gradient], [None])[0]
    >>> print(keras.ops.convert_to_numpy(centred).tolist())
    [[-1.0, -3.0], [1.0, 3.0]]

    References:
        Hongwei Yong, Jianqiang Huang, Xiansheng Hua, Lei Zhang, Gradient centralization: a new
        optimization technique for deep neural networks, 2020, equation 1,
        https://arxiv.org/abs/2004.01461
    """

    def __call__(
        self, gradients: Sequence[Any], variables: Sequence[keras.Variable]
    ) -> Sequence[Any]:
        """Subtract the mean of each unit from its gradient; vectors and scalars stay."""
        return [
            gradient - ops.mean(gradient, axis=tuple(range(len(gradient.shape) - 1)), keepdims=True)
            if len(gradient.shape) > 1
            else gradient
            for gradient in tensors(gradients)
        ]
