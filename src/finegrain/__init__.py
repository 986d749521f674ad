"""Fine-grained control of learning for Keras 3 on JAX, PyTorch and TensorFlow."""

from finegrain import crf, layers, losses, metrics, monitoring, optimizers, tagging
from finegrain.optimizers.per_weight import PerWeight
from finegrain.rules import Rule

__version__ = "0.1.0"

__all__ = [
    "PerWeight",
    "Rule",
    "crf",
    "layers",
    "losses",
    "metrics",
    "monitoring",
    "optimizers",
    "tagging",
]
