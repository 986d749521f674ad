"""Fine-grained control of learning for Keras 3 on JAX, PyTorch and TensorFlow."""

try:
    from finegrain import (
        callbacks,
        crf,
        gradients,
        layers,
        losses,
        metrics,
        models,
        monitoring,
        optimizers,
        plots,
        recipes,
        routing,
        schedules,
        tagging,
    )
except ModuleNotFoundError as error:
    if error.name not in ("jax", "torch", "tensorflow", "openvino"):
        raise
    raise ModuleNotFoundError(
        f"Keras is set to the backend {error.name!r}, which is not installed. Install it, such as "
        f"by `pip install {error.name}`, or name an installed one in the environment: "
        "KERAS_BACKEND=jax (or torch, or tensorflow).",
        name=error.name,
    ) from error

from finegrain.per_weight.nonfinite import NonFiniteGradientError
from finegrain.per_weight.optimizer import PerWeight
from finegrain.per_weight.with_gradients import with_gradients
from finegrain.range_test.finder import find_learning_rate
from finegrain.recipes.layer_decay import layer_decay
from finegrain.rules.rule import Rule

__version__ = "0.1.0"

__all__ = [
    "NonFiniteGradientError",
    "PerWeight",
    "Rule",
    "callbacks",
    "crf",
    "find_learning_rate",
    "gradients",
    "layer_decay",
    "layers",
    "losses",
    "metrics",
    "models",
    "monitoring",
    "optimizers",
    "plots",
    "recipes",
    "routing",
    "schedules",
    "tagging",
    "with_gradients",
]
