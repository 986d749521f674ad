"""Seeing what each weight does."""

from finegrain.monitoring.describe import Description, WeightReport

__all__ = ["Description", "WeightReport"]
