"""Callbacks for `fit`."""

from finegrain.monitoring.terminate_on_non_finite import TerminateOnNonFinite
from finegrain.monitoring.watch import Watch

__all__ = ["TerminateOnNonFinite", "Watch"]
