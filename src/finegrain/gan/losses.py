"""Losses of the discriminator and the generator, of scores."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
from keras import ops

Tensor = Any
Pair = tuple[Callable[..., Any], Callable[..., Any]]

# Pairs of the discriminator's loss, of (real, fake) scores, and the generator's, of fake scores.
LOSSES: dict[str, Pair] = {
    "hinge": (
        lambda real, fake: ops.mean(ops.relu(1 - real)) + ops.mean(ops.relu(1 + fake)),
        lambda fake: -ops.mean(fake),
    ),
    "non_saturating": (
        lambda real, fake: ops.mean(ops.softplus(-real)) + ops.mean(ops.softplus(fake)),
        lambda fake: ops.mean(ops.softplus(-fake)),
    ),
    "least_squares": (
        lambda real, fake: (ops.mean((real - 1) ** 2) + ops.mean(fake**2)) / 2,
        lambda fake: ops.mean((fake - 1) ** 2) / 2,
    ),
    "wasserstein": (
        lambda real, fake: ops.mean(fake) - ops.mean(real),
        lambda fake: -ops.mean(fake),
    ),
}

REVERSED_HINGE = "reversed_hinge"
"""The hinge loss in the source's sign, of models that were saved with it: real scores are low."""

_REVERSED_HINGE: Pair = (
    lambda real, fake: ops.mean(ops.relu(1 + real)) + ops.mean(ops.relu(1 - fake)),
    ops.mean,
)


def get_losses(loss: Any) -> Pair:
    """Find the pair of loss functions by its name, or return the pair that was given."""
    if isinstance(loss, str) and loss in LOSSES:
        return LOSSES[loss]
    if loss == REVERSED_HINGE:
        return _REVERSED_HINGE
    if isinstance(loss, list | tuple) and len(loss) == 2 and all(map(callable, loss)):
        return loss[0], loss[1]
    raise ValueError(
        f"`loss` should be one of {list(LOSSES)} or a pair of functions: the discriminator's loss "
        f"of (real scores, fake scores), the generator's of fake scores. Received: loss={loss!r}"
    )


def widened(x: Any) -> Tensor:
    """Cast `x` to float32 unless it is float64: losses of scores outgrow half precision."""
    x = ops.convert_to_tensor(x)
    dtype = keras.backend.standardize_dtype(x.dtype)
    return x if dtype in ("float32", "float64") else ops.cast(x, "float32")
