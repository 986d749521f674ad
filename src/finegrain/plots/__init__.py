"""Pictures that explain. They need matplotlib: `pip install matplotlib`."""

from finegrain.plots.decay import decay_policies

__all__ = ["decay_policies"]
