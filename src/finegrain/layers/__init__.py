"""Layers."""

from finegrain.crf.decoding import Decode
from finegrain.crf.layer import CRF
from finegrain.layers.adaptive_augmentation import AdaptiveAugmentation
from finegrain.layers.conv2d_transpose import Conv2DTranspose
from finegrain.layers.reverse_gradient import ReverseGradient
from finegrain.layers.set_learning_rate import SetLearningRate
from finegrain.layers.spectral_normalization import SpectralNormalization

__all__ = [
    "CRF",
    "AdaptiveAugmentation",
    "Conv2DTranspose",
    "Decode",
    "ReverseGradient",
    "SetLearningRate",
    "SpectralNormalization",
]
