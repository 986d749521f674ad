"""Pictures that explain. They need matplotlib: `pip install matplotlib`."""

from finegrain.monitoring.decay_plot import decay_policies

__all__ = ["decay_policies"]
