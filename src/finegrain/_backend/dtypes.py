"""Dtypes of state."""

from __future__ import annotations

from typing import Any

import keras


def precise_dtype(weight: Any) -> str:
    """Return the dtype of a weight's state: float64 for weights of float64, else float32."""
    dtype = keras.backend.standardize_dtype(weight.dtype)
    return "float64" if dtype == "float64" else "float32"
