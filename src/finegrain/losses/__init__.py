"""Losses that `model.compile` takes."""

from finegrain.losses.crf import CRFNegativeLogLikelihood

__all__ = ["CRFNegativeLogLikelihood"]
