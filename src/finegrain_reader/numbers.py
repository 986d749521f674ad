"""Numbers that users give."""

from __future__ import annotations

import math
from numbers import Real
from typing import Any

import numpy as np


def finite(value: Any) -> float | None:
    """Return `value` as a float if it is a finite real number, NumPy's included; else `None`."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, Real):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None
