"""Seeing what each weight does."""

from finegrain.per_weight.describe import Description, WeightReport

__all__ = ["Description", "WeightReport"]
