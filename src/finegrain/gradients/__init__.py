"""Gradient transforms: what happens to a gradient before the optimizer sees it."""

from finegrain.gradients.clipping import AdaptiveClip, ClipNorm, ClipValue
from finegrain.gradients.function import Function
from finegrain.gradients.randomness import Dropout, Noise
from finegrain.gradients.scaling import Centralize, Normalize, Scale, Sign, Zero
from finegrain.gradients.transform import GradientTransform

__all__ = [
    "AdaptiveClip",
    "Centralize",
    "ClipNorm",
    "ClipValue",
    "Dropout",
    "Function",
    "GradientTransform",
    "Noise",
    "Normalize",
    "Scale",
    "Sign",
    "Zero",
]
