"""Fine-grained control of learning for Keras 3 on JAX, PyTorch and TensorFlow."""

import importlib as _importlib
import typing as _typing

from finegrain import reader

try:
    _importlib.import_module("keras")  # before all else: it may be missing
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
    from finegrain.per_weight.nonfinite import NonFiniteGradientError
    from finegrain.per_weight.optimizer import PerWeight
    from finegrain.per_weight.with_gradients import with_gradients
    from finegrain.range_test.finder import find_learning_rate
    from finegrain.recipes.layer_decay import layer_decay
    from finegrain.rules.rule import Rule
except ModuleNotFoundError as _error:
    # `finegrain.reader` has to work without Keras: the error waits until something else is used.
    if _error.name == "keras":
        _cure = (
            "Keras is not installed. Install it and a backend, such as by `pip install keras jax`"
        )
    elif _error.name in ("jax", "torch", "tensorflow", "openvino"):
        _cure = (
            f"Keras is set to the backend {_error.name!r}, which is not installed. Install it, "
            f"such as by `pip install {_error.name}`, or name an installed one in the environment: "
            "KERAS_BACKEND=jax (or torch, or tensorflow)"
        )
    else:
        raise
    _missing = _error.name

    def __getattr__(name: str) -> _typing.Any:
        if name.startswith("__"):
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        raise ModuleNotFoundError(
            f"{_cure}. Without it only `finegrain.reader` works.", name=_missing
        )


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
    "reader",
    "recipes",
    "routing",
    "schedules",
    "tagging",
    "with_gradients",
]
