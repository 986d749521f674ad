"""Backends that finegrain has no derivatives for: they compute values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras

from finegrain._backend.neutral import (
    CHECKS_INDICES,
    COUNTS_TOGETHER,
    RUNS_EACH_STEP,
    UNDOES_FAILED_STEPS,
    anywhere,
    call_if,
    compute_before_updates,
    count_one,
    dense,
    host_array,
    is_compiling,
    is_native_variable,
    is_sparse,
    lists,
    moment_step,
    number_of_replicas,
    on_rows,
    on_values,
    outside_of_graphs,
    over_replicas,
    run_if,
    scope_of,
    snapshot,
    unchanged_since,
    versions,
)
from finegrain._backend.support import WITHOUT_GRADIENTS, no_kernel

Tensor = Any

__all__ = [
    "CHECKS_INDICES",
    "COUNTS_TOGETHER",
    "RUNS_EACH_STEP",
    "UNDOES_FAILED_STEPS",
    "anywhere",
    "call_if",
    "compute_before_updates",
    "count_one",
    "dense",
    "gradient",
    "host_array",
    "is_compiling",
    "is_native_variable",
    "is_sparse",
    "lists",
    "moment_step",
    "number_of_replicas",
    "on_rows",
    "on_values",
    "outside_of_graphs",
    "over_replicas",
    "run_if",
    "scope_of",
    "snapshot",
    "straight_through",
    "unchanged_since",
    "versions",
]


def straight_through(value: Tensor, surrogate: Tensor) -> Tensor:
    """Return `value` where there are no derivatives; else raise an error."""
    if keras.backend.backend() not in WITHOUT_GRADIENTS:
        raise no_kernel("A gradient that is not the function's own")
    return value


def gradient(function: Callable[[Tensor], tuple[Tensor, Any]], x: Tensor) -> tuple[Tensor, Any]:
    """Raise an error: `keras.ops` has no gradients."""
    raise no_kernel("A loss that takes a gradient")
