"""Optimizers."""

from finegrain.optimizers.per_weight import PerWeight

__all__ = ["PerWeight"]
