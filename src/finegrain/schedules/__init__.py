"""Schedules that multiply a learning rate, for rules and for a whole optimizer, or a gradient.

Each gives a number between 0 and 1 for each step, counted from 0, in steps of the optimizer (with
gradient accumulation: in batches). They compose with each other and with Keras's own:
`WarmUp(100, then=keras.optimizers.schedules.CosineDecay(1.0, 900))`.
"""

from finegrain.schedules.domain_adversarial import DomainAdversarial
from finegrain.schedules.slanted_triangular import SlantedTriangular
from finegrain.schedules.warm_up import Delayed, WarmUp

__all__ = ["Delayed", "DomainAdversarial", "SlantedTriangular", "WarmUp"]
