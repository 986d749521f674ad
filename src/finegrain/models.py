"""Models with a training of their own."""

from finegrain.gan.model import GAN

__all__ = ["GAN"]
