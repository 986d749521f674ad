"""How the generator's loss is kept from the discriminator's weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from finegrain.overlay import Overlay
from finegrain.routing import frozen, inner_gradient_only, reverse_gradient, stop_gradient

Tensor = Any
Call = Callable[[Callable[..., Any], Tensor], Tensor]

ROUTINGS = ("frozen", "subtraction", "reversal")


def checked_routing(routing: Any, loss: Any) -> str:
    """The name of a routing that fits the loss, or a `ValueError`."""
    if routing not in ROUTINGS:
        raise ValueError(
            f"`routing` should be one of {list(ROUTINGS)}. Received: routing={routing!r}"
        )
    if routing == "reversal" and loss != "wasserstein":
        raise ValueError(
            "routing='reversal' is for loss='wasserstein', where the generator wants the opposite "
            f"of the discriminator; take 'frozen' for others. Received: loss={loss!r}"
        )
    return routing


def shown(routing: str, fake: Tensor, generator_weight: float) -> Tensor:
    """Fake samples as the discriminator's own loss sees them."""
    return (
        reverse_gradient(fake, generator_weight) if routing == "reversal" else stop_gradient(fake)
    )


def generator_loss(
    routing: str,
    loss: Callable[[Tensor], Tensor],
    discriminator: keras.layers.Layer,
    call: Call,
    fake: Tensor,
    fake_score: Tensor,
) -> Tensor:
    """The generator's loss, whose gradient reaches the fake samples and no discriminator.

    Args:
        routing: Its name.
        loss: From scores to a scalar.
        discriminator: The layer.
        call: Calls it, or its frozen form, on samples.
        fake: The samples, with their gradient.
        fake_score: Their scores, as the discriminator's loss has them.
    """
    if routing == "frozen":
        return loss(call(frozen(discriminator), fake))
    value = ops.stop_gradient(loss(fake_score))
    if routing == "reversal":  # the gradient comes with that of the discriminator's loss
        return value
    scopes = []

    def judged(samples: Tensor) -> Tensor:
        # Both times from the same seeds: with two dropout masks the gradients would not cancel.
        with Overlay() as scope:
            score = call(discriminator, samples)
        scopes.append(scope)
        return loss(score)

    difference = inner_gradient_only(judged, fake)
    scopes[0].assign_statistics()
    return value + difference
