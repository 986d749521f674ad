"""Callbacks for `fit`."""

from finegrain.callbacks.terminate_on_non_finite import TerminateOnNonFinite
from finegrain.callbacks.watch import Watch

__all__ = ["TerminateOnNonFinite", "Watch"]
