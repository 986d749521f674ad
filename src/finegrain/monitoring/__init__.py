"""Seeing what each weight does."""

from finegrain.per_weight.describe import Description
from finegrain.per_weight.reports import WeightReport

__all__ = ["Description", "WeightReport"]
