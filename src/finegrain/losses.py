"""Losses that `model.compile` takes."""

from finegrain.crf.loss import CRFNegativeLogLikelihood

__all__ = ["CRFNegativeLogLikelihood"]
