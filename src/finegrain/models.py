"""Models with a training of their own."""

from finegrain.game.model import Game
from finegrain.gan.model import GAN

__all__ = ["GAN", "Game"]
