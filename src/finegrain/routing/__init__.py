"""Gradient routing: which loss reaches which weight."""

from finegrain import _deprecated
from finegrain.routing.constant_weights import constant_weights
from finegrain.routing.gradients import (
    inner_gradient_only,
    reverse_gradient,
    scale_gradient,
    stop_gradient,
    straight_through,
)
from finegrain.routing.input_gradient import gradient

__all__ = [
    "constant_weights",
    "gradient",
    "inner_gradient_only",
    "reverse_gradient",
    "scale_gradient",
    "stop_gradient",
    "straight_through",
]

__getattr__ = _deprecated.renamed(__name__, {"frozen": "constant_weights"})
