"""Transforms that bound gradients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from finegrain._checks import checked_positive
from finegrain.gradients.norms import (
    checked_order,
    config_order,
    joint_norm,
    norm,
    scaled,
    unit_axes,
)
from finegrain.gradients.transform import GradientTransform, tensors


@keras.saving.register_keras_serializable(package="finegrain")
class ClipValue(GradientTransform):
    r"""Clips each component: $g_i \leftarrow \min(\max(g_i, -c), c)$.

    Args:
        limit: $c$, a finite number > 0.

    Example:
    >>> import keras, numpy as np, finegrain as fg
    >>> clip = fg.gradients.ClipValue(0.5)
    >>> print(keras.ops.convert_to_numpy(clip([np.array([3.0, 0.25, -1.0])], [None])[0]))
    [ 0.5   0.25 -0.5 ]

    References:
        Ian Goodfellow, Yoshua Bengio, Aaron Courville, Deep learning, 2016, section 10.11.1,
        https://www.deeplearningbook.org/contents/rnn.html
    """

    def __init__(self, limit: float) -> None:
        self.limit = checked_positive("limit", limit)

    def __call__(
        self, gradients: Sequence[Any], variables: Sequence[keras.Variable]
    ) -> Sequence[Any]:
        """Clip each component of the gradients."""
        return [
            ops.cast(ops.clip(gradient, -self.limit, self.limit), gradient.dtype)
            for gradient in tensors(gradients)
        ]

    def get_config(self) -> dict[str, Any]:
        """Return the arguments that make an equal transform."""
        return {"limit": self.limit}


@keras.saving.register_keras_serializable(package="finegrain")
class ClipNorm(GradientTransform):
    r"""Scales down gradients whose norm is too large, keeping their direction.

    $$g \leftarrow g \cdot \min\Big(1, \frac{c}{\lVert g \rVert_p}\Big)$$

    Args:
        max_norm: $c$, a finite number > 0.
        ord: $p$: 1, 2 or `float("inf")`.
        per: `"weight"`: each weight's gradient has a norm of its own. `"rule"`: the gradients of
            all weights of the rule are one long vector.

    Example:
    >>> import keras, numpy as np, finegrain as fg
    >>> gradients = [np.array([3.0, 0.0]), np.array([4.0])]
    >>> for per in ("weight", "rule"):
    ...     clip = fg.gradients.ClipNorm(1.0, per=per)
    ...     clipped = clip(gradients, [None, None])
    ...     print([keras.ops.convert_to_numpy(gradient).round(2) for gradient in clipped])
    [array([1., 0.]...), array([1.]...)]
    [array([0.6, 0. ]...), array([0.8]...)]

    References:
        Razvan Pascanu, Tomas Mikolov, Yoshua Bengio, On the difficulty of training recurrent
        neural networks, 2013, https://arxiv.org/abs/1211.5063
    """

    def __init__(self, max_norm: float, ord: float | str = 2, per: str = "weight") -> None:
        self.max_norm = checked_positive("max_norm", max_norm)
        self.ord = checked_order(ord)
        if per not in ("weight", "rule"):
            raise ValueError(f"`per` should be 'weight' or 'rule'. Received: per={per!r}")
        self.per = per

    def __call__(
        self, gradients: Sequence[Any], variables: Sequence[keras.Variable]
    ) -> Sequence[Any]:
        """Scale down gradients whose norm, alone or jointly, exceeds `max_norm`."""
        gradients = tensors(gradients)
        if self.per == "rule":
            scales = [self._scale(joint_norm(gradients, self.ord))] * len(gradients)
        else:
            scales = [self._scale(norm(gradient, self.ord)) for gradient in gradients]
        return [scaled(gradient, scale) for gradient, scale in zip(gradients, scales, strict=True)]

    def _scale(self, size: Any) -> Any:
        # A NaN norm must stay visible: the scale becomes NaN.
        return ops.where(size <= self.max_norm, ops.ones_like(size), self.max_norm / size)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments that make an equal transform."""
        return {"max_norm": self.max_norm, "ord": config_order(self.ord), "per": self.per}


@keras.saving.register_keras_serializable(package="finegrain")
class AdaptiveClip(GradientTransform):
    r"""Clips the gradient of each unit by the size of the unit's weights.

    $$g_u \leftarrow g_u \cdot \min\Big(1, \lambda
        \frac{\max(\lVert w_u \rVert_2, \epsilon)}{\lVert g_u \rVert_2}\Big)$$

    A unit $u$ is one index of the weight's last axis (a column of a dense kernel, a filter of a
    convolution); a vector is one unit.

    Args:
        ratio: $\lambda$, a finite number > 0; the paper uses 0.01 to 0.16.
        epsilon: $\epsilon$, a finite number > 0, which lets weights of 0 move.

    Example:
    >>> import keras, numpy as np, finegrain as fg
    >>> kernel = keras.Variable([[3.0, 0.0], [4.0, 0.1]])
    >>> gradient = np.array([[3.0, 0.0], [4.0, 0.001]], "float32")
    >>> clipped = fg.gradients.AdaptiveClip(0.1)([gradient], [kernel])[0]
    >>> print(keras.ops.convert_to_numpy(clipped).round(4).tolist())
    [[0.30000001192092896, 0.0], [0.4000000059604645, 0.0010000000474974513]]

    References:
        Andrew Brock, Soham De, Samuel L. Smith, Karen Simonyan, High-performance large-scale
        image recognition without normalization, 2021, equation 3, https://arxiv.org/abs/2102.06171

    Notes:
        The paper's units are rows of kernels stored as (out, in); Keras stores (in, out), where
        the same units are the columns. The paper leaves the last layer out: select by rule. Where
        the last axis is no unit (depthwise convolutions, the kernels of attention heads), "unit"
        means one index of that axis all the same.
    """

    def __init__(self, ratio: float, epsilon: float = 1e-3) -> None:
        self.ratio = checked_positive("ratio", ratio)
        self.epsilon = checked_positive("epsilon", epsilon)

    def __call__(
        self, gradients: Sequence[Any], variables: Sequence[keras.Variable]
    ) -> Sequence[Any]:
        """Scale down the gradient of each unit for which it is too large."""
        clipped = []
        for gradient, variable in zip(tensors(gradients), variables, strict=True):
            axes = unit_axes(len(gradient.shape))
            weight = ops.convert_to_tensor(variable)
            limit = self.ratio * ops.maximum(norm(weight, 2, axes, keepdims=True), self.epsilon)
            size = norm(gradient, 2, axes, keepdims=True)
            scale = ops.where(size <= limit, ops.ones_like(size), limit / size)
            clipped.append(scaled(gradient, scale))
        return clipped

    def get_config(self) -> dict[str, Any]:
        """Return the arguments that make an equal transform."""
        return {"ratio": self.ratio, "epsilon": self.epsilon}
