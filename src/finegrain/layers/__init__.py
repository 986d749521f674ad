"""Layers."""

from finegrain.layers.crf import CRF
from finegrain.layers.set_learning_rate import SetLearningRate

__all__ = ["CRF", "SetLearningRate"]
