"""Gradient routing: which loss reaches which weight."""

from finegrain.routing.frozen import frozen
from finegrain.routing.gradients import (
    inner_gradient_only,
    reverse_gradient,
    scale_gradient,
    stop_gradient,
    straight_through,
)

__all__ = [
    "frozen",
    "inner_gradient_only",
    "reverse_gradient",
    "scale_gradient",
    "stop_gradient",
    "straight_through",
]
