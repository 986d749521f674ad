"""Dtypes of state."""

from __future__ import annotations

from typing import Any

import keras


def precise_dtype(weight: Any) -> str:
    """The dtype in which a weight's state is kept: float32, or float64 for weights of float64."""
    dtype = keras.backend.standardize_dtype(weight.dtype)
    return "float64" if dtype == "float64" else "float32"
