"""Metrics that `model.compile` takes."""

from finegrain.metrics.viterbi_accuracy import ViterbiAccuracy

__all__ = ["ViterbiAccuracy"]
