"""Callbacks for `fit`."""

from finegrain.monitoring.learning_rates import LearningRates
from finegrain.monitoring.terminate_on_non_finite import TerminateOnNonFinite
from finegrain.monitoring.watch import Watch
from finegrain.per_weight.unfreeze import Unfreeze

__all__ = ["LearningRates", "TerminateOnNonFinite", "Unfreeze", "Watch"]
