"""Penalties on the slope of a discriminator."""

from __future__ import annotations

from collections.abc import Callable
from numbers import Real
from typing import Any, NamedTuple

import keras
from keras import ops

from finegrain._backend import backend
from finegrain._checks import checked_number
from finegrain.gan.losses import widened
from finegrain.routing.overlay import Overlay

Tensor = Any

# The usual weight of each kind.
KINDS = {"wgan_gp": 10.0, "r1": 10.0}


class GradientPenalty(NamedTuple):
    r"""A penalty on the slope of the scores.

    $$\text{wgan\_gp:}\quad w\,\mathrm{E}(\lVert\nabla D(\hat x)\rVert - 1)^2, \qquad
      \text{r1:}\quad \tfrac{w}{2}\,\mathrm{E}\lVert\nabla D(x)\rVert^2$$

    Here $x$ is a real sample, and $\hat x$ one drawn between it and a fake one.
    """

    kind: str
    weight: float

    @classmethod
    def of(cls, penalty: Any) -> GradientPenalty | None:
        """Read a penalty given as a kind, a pair of kind and weight, a weight or `None`."""
        if penalty is None:
            return None
        if isinstance(penalty, str) and penalty in KINDS:
            return cls(penalty, KINDS[penalty])
        if isinstance(penalty, list | tuple) and len(penalty) == 2 and penalty[0] in list(KINDS):
            return cls(penalty[0], checked_number("gradient_penalty", penalty[1]))
        if isinstance(penalty, Real):
            return cls("wgan_gp", checked_number("gradient_penalty", penalty))
        raise ValueError(
            f"`gradient_penalty` should be one of {list(KINDS)}, a pair of it and a weight, or a "
            f"weight. Received: gradient_penalty={penalty!r}"
        )

    def __call__(
        self, critic: Callable[[Tensor], Tensor], real: Tensor, fake: Tensor, seed: Any
    ) -> Tensor:
        """Compute the penalty, a scalar that can be differentiated.

        Args:
            critic: From samples to scores.
            real: (batch, …) samples.
            fake: The like of `real`, constant.
            seed: Of where to look between the two.
        """
        at = widened(real)
        if self.kind == "wgan_gp":
            shape = (ops.shape(at)[0],) + (1,) * (len(at.shape) - 1)
            at = at + keras.random.uniform(shape, seed=seed) * (ops.cast(fake, at.dtype) - at)
        slope = _slope(critic, at)
        squared = ops.sum(slope**2, axis=tuple(range(1, len(slope.shape))))
        if self.kind == "r1":
            return self.weight * ops.mean(squared) / 2
        # This gives the root a slope at 0.
        return self.weight * ops.mean((ops.sqrt(squared + 1e-12) - 1) ** 2)


def _slope(critic: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Compute the gradient of the scores with respect to their samples, in the samples' shape."""
    updated: list[Any] = []

    def total(x: Tensor) -> tuple[Tensor, list[Tensor]]:
        with Overlay() as scope:
            scores = critic(x)
        # On JAX a value leaves a traced function only as its output.
        updates = [(v, value) for v, value in scope.updates() if not v.trainable]
        updated.extend(v for v, _ in updates)
        return ops.sum(widened(scores)), [value for _, value in updates]

    slope, values = backend.gradient(total, x)
    for variable, value in zip(updated, values, strict=True):
        variable.assign(value)
    return slope
