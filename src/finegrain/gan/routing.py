"""How the generator's loss is kept from the discriminator's weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from finegrain._deprecated import warn
from finegrain.routing import constant_weights, reverse_gradient, stop_gradient
from finegrain.routing.overlay import Overlay

Tensor = Any
Call = Callable[[Callable[..., Any], Tensor], Tensor]

ROUTINGS = ("constant_weights", "subtraction", "reversal")


def checked_routing(routing: Any, loss: Any) -> str:
    """Return the name of the routing, or raise a `ValueError` if it does not fit the loss."""
    if routing == "frozen":
        warn("GAN(routing='frozen')", "routing='constant_weights'", stacklevel=4)
        routing = "constant_weights"
    if routing not in ROUTINGS:
        raise ValueError(
            f"`routing` should be one of {list(ROUTINGS)}. Received: routing={routing!r}"
        )
    if routing == "reversal" and loss != "wasserstein":
        raise ValueError(
            "routing='reversal' is for loss='wasserstein', where the generator wants the opposite "
            f"of the discriminator; take 'constant_weights' for others. Received: loss={loss!r}"
        )
    return routing


def shown(routing: str, fake: Tensor, generator_weight: float) -> Tensor:
    """Prepare fake samples for the discriminator's own loss: stop or reverse their gradient."""
    return (
        reverse_gradient(fake, generator_weight) if routing == "reversal" else stop_gradient(fake)
    )


def generator_score(
    routing: str, discriminator: keras.layers.Layer, call: Call, fake: Tensor
) -> Tensor | None:
    """Compute the scores that the generator learns from, or return `None` for `"reversal"`.

    With `"reversal"`, the generator learns from the scores of the discriminator's loss. Call this
    before computing those scores, from the same seeds and statistics.

    Args:
        routing: Its name.
        discriminator: The layer.
        call: Calls it, or its form of constant weights, on samples.
        fake: The samples, with their gradient.
    """
    if routing == "constant_weights":
        return call(constant_weights(discriminator), fake)
    if routing == "reversal":
        return None
    # The other call updates the state: with two dropout masks gradients would not cancel.
    with Overlay():
        return call(discriminator, fake)


def generator_loss(
    routing: str, loss: Callable[[Tensor], Tensor], score: Tensor | None, fake_score: Tensor
) -> Tensor:
    """Compute the generator's loss, whose gradient reaches the samples and no discriminator.

    With `"reversal"` the loss is a constant: its gradient comes with the discriminator's loss.

    Args:
        routing: Its name.
        loss: From scores to a scalar.
        score: What `generator_score` gave.
        fake_score: The scores of the same samples as constants.
    """
    if routing == "constant_weights":
        return loss(score)
    value = loss(fake_score)
    constant = ops.stop_gradient(value)
    if routing == "reversal":  # the discriminator's loss brings the gradient
        return constant
    return constant + (loss(score) - value)
