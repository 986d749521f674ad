"""Models with a training of their own."""

from finegrain.models.gan import GAN

__all__ = ["GAN"]
