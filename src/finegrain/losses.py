"""Losses that `model.compile` takes, and penalties that are a part of others."""

from finegrain.crf.loss import CRFNegativeLogLikelihood
from finegrain.gan.penalty import GradientPenalty

__all__ = ["CRFNegativeLogLikelihood", "GradientPenalty"]
