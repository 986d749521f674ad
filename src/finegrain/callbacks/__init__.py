"""Callbacks for `fit`."""

from finegrain.callbacks.watch import Watch

__all__ = ["Watch"]
