"""Checks of the numbers that users give as arguments."""

from __future__ import annotations

from numbers import Real
from typing import Any

import numpy as np

from finegrain_reader.numbers import finite


def checked_number(argument: str, value: Any) -> float:
    """Return `value` as a float ≥ 0 that float32 can hold, or raise an error.

    The error says what `argument` may be.

    Raises:
        TypeError: if it is no number.
        ValueError: if it is negative or not finite.
    """
    kind = TypeError if isinstance(value, bool) or not isinstance(value, Real) else ValueError
    number = finite(value)
    if number is None or not 0 <= number <= float(np.finfo(np.float32).max):
        raise kind(f"`{argument}` should be a finite number >= 0. Received: {argument}={value!r}")
    return number


def checked_positive(argument: str, value: Any, *, zero: bool = False) -> float:
    """Return `value` as a finite float > 0 (or ≥ 0, with `zero`), or raise a `ValueError`."""
    number = finite(value)
    if number is None or number < 0 or (number == 0 and not zero):
        raise ValueError(
            f"`{argument}` should be a finite number {'>= 0' if zero else '> 0'}. "
            f"Received: {argument}={value!r}"
        )
    return number
