"""Optimizers."""

from finegrain.optimizers.exponentiated_gradient import ExponentiatedGradient
from finegrain.optimizers.nonfinite import NonFiniteGradientError
from finegrain.optimizers.per_weight import PerWeight
from finegrain.optimizers.with_gradients import with_gradients

__all__ = ["ExponentiatedGradient", "NonFiniteGradientError", "PerWeight", "with_gradients"]
