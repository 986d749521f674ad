"""Layers."""

from finegrain.layers.crf import CRF

__all__ = ["CRF"]
