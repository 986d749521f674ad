"""Transforms that draw random numbers. Their seeds are state, so that a run resumes exactly."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral
from typing import Any

import keras
from keras import ops

from finegrain._checks import checked_positive
from finegrain.gradients.transform import GradientTransform, tensors


def checked_seed(seed: Any) -> int | None:
    """Return the seed as an integer or `None`, or raise an error."""
    if seed is None:
        return None
    if not isinstance(seed, Integral) or isinstance(seed, bool) or int(seed) < 0:
        raise ValueError(f"`seed` should be an integer >= 0 or None. Received: seed={seed!r}")
    return int(seed)


@keras.saving.register_keras_serializable(package="finegrain")
class Noise(GradientTransform):
    r"""Adds Gaussian noise that dies away with the steps $t = 0, 1, \dots$.

    $$g_t \leftarrow g_t + \mathcal{N}(0, \sigma_t^2), \qquad
      \sigma_t^2 = \frac{\sigma^2}{(1 + t)^\gamma}$$

    Args:
        stddev: $\sigma$, the standard deviation at the first step, a finite number ≥ 0.
        decay: $\gamma$, a finite number ≥ 0. With 0 the noise stays.
        seed: An integer ≥ 0, or `None` for a random one.

    Example:
    >>> import keras, numpy as np, finegrain as fg
    >>> weight = keras.Variable(np.zeros(10_000), name="w")
    >>> rule = fg.Rule("w", gradient=fg.gradients.Noise(0.5, seed=1))
    >>> optimizer = fg.PerWeight(keras.optimizers.SGD(1.0), [rule])
    >>> optimizer.apply([keras.ops.zeros(10_000)], [weight])
    >>> print(round(float(np.std(keras.ops.convert_to_numpy(weight))), 1))
    0.5

    References:
        Arvind Neelakantan, Luke Vilnis, Quoc V. Le, Ilya Sutskever, Lukasz Kaiser, Karol Kurach,
        James Martens, Adding gradient noise improves learning for very deep networks, 2015,
        equation 1, https://arxiv.org/abs/1511.06807

    Notes:
        The paper's $\eta$ is $\sigma^2$. The same seed draws other numbers on another backend, and
        the same ones in two rules.
    """

    def __init__(self, stddev: float, decay: float = 0.55, seed: int | None = None) -> None:
        self.stddev = checked_positive("stddev", stddev, zero=True)
        self.decay = checked_positive("decay", decay, zero=True)
        self.seed = checked_seed(seed)

    def build(self, variables: Sequence[keras.Variable]) -> None:
        """Create the step count and the seed."""
        self.step = self.add_variable("step", dtype="int32")
        self.generator = keras.random.SeedGenerator(self.seed)
        self.track("seed", self.generator.state)

    def __call__(
        self, gradients: Sequence[Any], variables: Sequence[keras.Variable]
    ) -> Sequence[Any]:
        """Add the noise of this step to the gradients, and count the step."""
        time = 1.0 + ops.cast(self.step, "float32")
        stddev = self.stddev * ops.power(time, -0.5 * self.decay)
        self.step.assign_add(1)
        noisy = []
        for gradient in tensors(gradients):
            dtype = ops.dtype(gradient)
            noise = keras.random.normal(gradient.shape, dtype=dtype, seed=self.generator)
            noisy.append(gradient + ops.cast(stddev, dtype) * noise)
        return noisy

    def get_config(self) -> dict[str, Any]:
        """Return the arguments that make an equal transform."""
        return {"stddev": self.stddev, "decay": self.decay, "seed": self.seed}


@keras.saving.register_keras_serializable(package="finegrain")
class Dropout(GradientTransform):
    r"""Drops each component of the gradient with some probability, and rescales the others.

    $$g_i \leftarrow \frac{b_i}{1 - p} g_i, \qquad b_i \sim \mathrm{Bernoulli}(1 - p)$$

    For fine-tuning, where it keeps large pretrained models from overfitting (ChildTuning-F).

    Args:
        rate: $p$, the share that is dropped, in [0, 1).
        seed: An integer ≥ 0, or `None` for a random one.

    Example:
    >>> import keras, numpy as np, finegrain as fg
    >>> weight = keras.Variable(np.zeros(1000), name="w")
    >>> rule = fg.Rule("w", gradient=fg.gradients.Dropout(0.75, seed=1))
    >>> optimizer = fg.PerWeight(keras.optimizers.SGD(1.0), [rule])
    >>> optimizer.apply([keras.ops.ones(1000)], [weight])
    >>> print(np.unique(keras.ops.convert_to_numpy(weight)).tolist())
    [-4.0, 0.0]

    References:
        Runxin Xu, Fuli Luo, Zhiyuan Zhang, Chuanqi Tan, Baobao Chang, Songfang Huang, Fei Huang,
        Raise a child in large language model: towards effective and generalizable fine-tuning,
        2021, equation 4, https://arxiv.org/abs/2109.05687

    Notes:
        The same seed drops other components on another backend, and the same ones in two rules.
    """

    def __init__(self, rate: float, seed: int | None = None) -> None:
        self.rate = checked_positive("rate", rate, zero=True)
        if self.rate >= 1:
            raise ValueError(f"`rate` should be in [0, 1). Received: rate={rate!r}")
        self.seed = checked_seed(seed)

    def build(self, variables: Sequence[keras.Variable]) -> None:
        """Create the seed."""
        self.generator = keras.random.SeedGenerator(self.seed)
        self.track("seed", self.generator.state)

    def __call__(
        self, gradients: Sequence[Any], variables: Sequence[keras.Variable]
    ) -> Sequence[Any]:
        """Drop components at random, and rescale the others."""
        thinned = []
        for gradient in tensors(gradients):
            kept = keras.random.uniform(gradient.shape, seed=self.generator) >= self.rate
            # Select, not multiply: a dropped component is 0 even if the gradient is not finite.
            thinned.append(ops.where(kept, gradient / (1 - self.rate), ops.zeros_like(gradient)))
        return thinned

    def get_config(self) -> dict[str, Any]:
        """Return the arguments that make an equal transform."""
        return {"rate": self.rate, "seed": self.seed}
