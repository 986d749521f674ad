"""Gradient transforms: what happens to a gradient before the optimizer sees it.

And combinations: what makes one gradient of those of several losses.
"""

from finegrain.gradients.clipping import AdaptiveClip, ClipNorm, ClipValue
from finegrain.gradients.combination import GradientCombination, Mean, Sum
from finegrain.gradients.conflicts import MGDA, PCGrad, UPGrad
from finegrain.gradients.function import Function
from finegrain.gradients.randomness import Dropout, Noise
from finegrain.gradients.scaling import Centralize, Normalize, Scale, Sign, Zero
from finegrain.gradients.transform import GradientTransform

__all__ = [
    "MGDA",
    "AdaptiveClip",
    "Centralize",
    "ClipNorm",
    "ClipValue",
    "Dropout",
    "Function",
    "GradientCombination",
    "GradientTransform",
    "Mean",
    "Noise",
    "Normalize",
    "PCGrad",
    "Scale",
    "Sign",
    "Sum",
    "UPGrad",
    "Zero",
]
