"""Optimizers."""

from finegrain.optimizers.adaptive_moments import AdaptiveMoments, AdaX
from finegrain.optimizers.adaptive_step_size import AdaptiveStepSize
from finegrain.optimizers.averaging import AdamDecay, AdaXDecay, DecayPolicy, PowerDecay
from finegrain.optimizers.exponentiated_gradient import ExponentiatedGradient
from finegrain.optimizers.extragradient import Extragradient
from finegrain.optimizers.muon import Muon
from finegrain.optimizers.optimistic import Optimistic
from finegrain.optimizers.step_rules import ProductGains, Scale, SignGains, StepSizeRule
from finegrain.per_weight.nonfinite import NonFiniteGradientError
from finegrain.per_weight.optimizer import PerWeight
from finegrain.per_weight.with_gradients import with_gradients

__all__ = [
    "AdaX",
    "AdaXDecay",
    "AdamDecay",
    "AdaptiveMoments",
    "AdaptiveStepSize",
    "DecayPolicy",
    "ExponentiatedGradient",
    "Extragradient",
    "Muon",
    "NonFiniteGradientError",
    "Optimistic",
    "PerWeight",
    "PowerDecay",
    "ProductGains",
    "Scale",
    "SignGains",
    "StepSizeRule",
    "with_gradients",
]
