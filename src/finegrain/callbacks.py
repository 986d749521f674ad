"""Callbacks for `fit`."""

from finegrain.monitoring.watch import Watch

__all__ = ["Watch"]
