"""Metrics that `model.compile` takes."""

from finegrain.crf.span_f1 import SpanF1
from finegrain.crf.viterbi_accuracy import ViterbiAccuracy

__all__ = ["SpanF1", "ViterbiAccuracy"]
