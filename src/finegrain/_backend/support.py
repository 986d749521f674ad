"""The backends that finegrain has kernels for, and what it says where there is none."""

from __future__ import annotations

import keras

WITH_KERNELS = ("jax", "torch", "tensorflow")

# Keras's backends that compute values and no gradients: they predict, and cannot train.
WITHOUT_GRADIENTS = ("numpy", "openvino")


def has_kernels() -> bool:
    """Return whether Keras runs on a backend that finegrain has kernels for."""
    return keras.backend.backend() in WITH_KERNELS


def no_kernel(what: str) -> NotImplementedError:
    """Make the error for something that `keras.ops` cannot express.

    Args:
        what: What was asked for, with a capital letter: it begins the message.
    """
    backend = keras.backend.backend()
    return NotImplementedError(
        f"{what} works on the backends {', '.join(WITH_KERNELS[:-1])} and {WITH_KERNELS[-1]}. Name "
        f"one of them in the environment, before Keras is imported: KERAS_BACKEND="
        f"{WITH_KERNELS[0]}. Received: KERAS_BACKEND={backend}"
    )
