"""Metrics that `model.compile` takes."""

from finegrain.metrics.span_f1 import SpanF1
from finegrain.metrics.viterbi_accuracy import ViterbiAccuracy

__all__ = ["SpanF1", "ViterbiAccuracy"]
