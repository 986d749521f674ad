"""Penalties on the slope of a discriminator."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from numbers import Real
from typing import Any

import keras
import numpy as np
from keras import ops

from finegrain._batch import along_batch, batch_size
from finegrain._checks import checked_number
from finegrain.gan.losses import first, widened
from finegrain.routing import stop_gradient
from finegrain.routing.input_gradient import gradient
from finegrain.routing.overlay import Overlay

Tensor = Any

PLACES = ("real", "fake", "between")


@keras.saving.register_keras_serializable(package="finegrain")
class GradientPenalty:
    r"""A penalty on the slope of a critic's scores.

    $$w\,\mathrm{E}\big(\lVert\nabla D(x)\rVert - s\big)^2$$

    R1 and R2 have $s = 0$ and are taken at real and at fake samples, that of WGAN-GP has $s = 1$
    and is taken at points drawn between the two.

    Args:
        at: `"real"`, `"fake"` or `"between"`: where the slope is taken.
        weight: $w \geq 0$. The literature's $\gamma$ of R1 and R2 is $2w$.
        slope: $s \geq 0$, the slope that costs nothing.
        every: Take the penalty at every so many steps only, times as much ("lazy").

    Raises:
        ValueError: for another place, or a number out of its range.

    Example:
    >>> import keras, numpy as np, finegrain as fg
    >>> def critic(x):
    ...     return 3 * x[:, :1]
    >>> penalty = fg.losses.GradientPenalty("real", weight=0.5)
    >>> x = np.ones((4, 2), "float32")
    >>> print(float(penalty(critic, x, x)))  # 0.5 · 3²
    4.5

    References:
        - Ishaan Gulrajani et al., Improved training of Wasserstein GANs, 2017,
          https://arxiv.org/abs/1704.00028
        - Lars Mescheder, Andreas Geiger, Sebastian Nowozin, Which training methods for GANs do
          actually converge?, 2018, https://arxiv.org/abs/1801.04406
        - Tero Karras et al., Analyzing and improving the image quality of StyleGAN, 2020,
          https://arxiv.org/abs/1912.04958 (lazy regularization)
    """

    def __init__(
        self, at: str = "real", weight: float = 5.0, slope: float = 0.0, every: int = 1
    ) -> None:
        if at not in PLACES:
            raise ValueError(f"`at` should be one of {list(PLACES)}. Received: at={at!r}")
        if isinstance(every, bool) or not isinstance(every, int | np.integer) or every < 1:
            raise ValueError(f"`every` should be an integer >= 1. Received: every={every!r}")
        self.at = at
        self.weight = checked_number("weight", weight)
        self.slope = checked_number("slope", slope)
        self.every = int(every)

    @classmethod
    def of(cls, penalty: Any) -> GradientPenalty | Callable[..., Any]:
        r"""Read a penalty given by its name, as a pair of name and weight, or by itself.

        The weight of `"r1"` and `"r2"` is $\gamma$, so that the penalty is $\gamma / 2$ times the
        mean square of the slope.
        """
        name, weight = penalty if isinstance(penalty, list | tuple) else (penalty, 10.0)
        if isinstance(name, str) and name in ("r1", "r2", "wgan_gp"):
            weight = checked_number(f"penalty {name!r}", weight)
            if name == "wgan_gp":
                return cls("between", weight, slope=1.0)
            return cls("real" if name == "r1" else "fake", weight / 2)
        if callable(penalty) and not isinstance(penalty, type):
            return penalty
        raise ValueError(
            "A penalty should be 'r1', 'r2' or 'wgan_gp', a pair of such a name and a weight, a "
            "finegrain.losses.GradientPenalty, or a function of (critic, real, fake). "
            f"Received: {penalty!r}"
        )

    def __call__(
        self,
        critic: Any,
        real: Any,
        fake: Any,
        *,
        seed: Any = None,
        step: Any = None,
        states: Sequence[Any] | None = None,
    ) -> Tensor:
        """Compute the penalty, a scalar that can be differentiated.

        Args:
            critic: From samples to scores; of several outputs the first are the scores.
            real: (batch, …) samples, or a dict, list or tuple of these.
            fake: The like of `real`. No gradient reaches them.
            seed: A `keras.random.SeedGenerator`, of where to look between the two.
            step: How many steps were taken before; needed where not every step counts.
            states: The variables that calls of `critic` may assign to; those of the layer, if it
                is one.
        """
        if self.every == 1:
            return self._value(critic, real, fake, seed)
        if step is None:
            raise ValueError(
                "A penalty at every so many steps needs to know the `step`. "
                f"Received: step=None, every={self.every}"
            )
        if states is None and isinstance(critic, keras.layers.Layer):
            states = critic.non_trainable_variables
        assigned: list[Any] = [*(states or ()), *([seed.state] if seed is not None else [])]

        def taken() -> tuple[Tensor, list[Tensor]]:
            with Overlay(assigned) as scope:
                value = self.every * self._value(critic, real, fake, seed)
            return value, [scope.get_current_value(state) for state in assigned]

        def skipped() -> tuple[Tensor, list[Tensor]]:
            with Overlay(assigned) as scope:
                values = [scope.get_current_value(state) for state in assigned]
            return ops.zeros((), "float32"), values

        value, values = ops.cond(ops.equal(step % self.every, 0), taken, skipped)
        for state, new in zip(assigned, values, strict=True):
            state.assign(new)
        return value

    def _value(self, critic: Any, real: Any, fake: Any, seed: Any) -> Tensor:
        x, y = widened(real), stop_gradient(widened(fake))
        if self.at == "fake":
            x = y
        elif self.at == "between":
            share = keras.random.uniform((batch_size(x),), seed=seed)
            x = keras.tree.map_structure(functools.partial(_between, share), x, y)
        slopes = keras.tree.flatten(gradient(lambda at: first(critic(at)), x))
        squared = sum(ops.sum(part**2, axis=tuple(range(1, len(part.shape)))) for part in slopes)
        if self.slope == 0:
            return self.weight * ops.mean(squared)
        # This gives the root a slope at 0.
        return self.weight * ops.mean((ops.sqrt(squared + 1e-12) - self.slope) ** 2)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments that make an equal penalty."""
        return {"at": self.at, "weight": self.weight, "slope": self.slope, "every": self.every}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> GradientPenalty:
        """Make the penalty that `get_config` describes."""
        return cls(**config)


def _between(share: Tensor, x: Tensor, y: Tensor) -> Tensor:
    return x + ops.cast(along_batch(share, x), x.dtype) * (ops.cast(y, x.dtype) - x)


def checked_penalties(penalties: Any, deprecated: Any) -> list[Any]:
    """Return a list of penalties, of `penalties` and of the former `gradient_penalty`."""
    if penalties is None:
        penalties = []
    is_pair = (
        isinstance(penalties, tuple) and len(penalties) == 2 and isinstance(penalties[1], Real)
    )
    if is_pair or isinstance(penalties, str) or callable(penalties):
        penalties = [penalties]
    if not isinstance(penalties, list | tuple):
        raise ValueError(f"`penalties` should be a list. Received: penalties={penalties!r}")
    found = [GradientPenalty.of(one) for one in penalties]
    if deprecated is not None:
        is_weight = isinstance(deprecated, Real) and not isinstance(deprecated, bool)
        found.append(GradientPenalty.of(("wgan_gp", deprecated) if is_weight else deprecated))
    return found
