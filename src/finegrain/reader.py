"""Taggers and segmenters at work without Keras."""

from finegrain_reader import Reader, Span, UnreadableError, load

__all__ = ["Reader", "Span", "UnreadableError", "load"]
