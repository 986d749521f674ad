"""Optimizers."""

from finegrain.optimizers.nonfinite import NonFiniteGradientError
from finegrain.optimizers.per_weight import PerWeight
from finegrain.optimizers.with_gradients import with_gradients

__all__ = ["NonFiniteGradientError", "PerWeight", "with_gradients"]
