"""Arithmetic on lists of tensors, one of each weight: what the rules of step sizes are made of.

Tensors are in float32, or float64 for weights of float64. Factors are scalars: numbers, or
tensors of float32. `foreach` has the same functions.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from keras import ops

from finegrain._backend.dtypes import precise_dtype

Tensors = Sequence[Any]


def untracked() -> AbstractContextManager[Any]:
    """Return a context in which no gradients are recorded."""
    return nullcontext()


def values(variables: Tensors) -> list[Any]:
    """Return the variables' values, which may change when the variables are assigned to."""
    return [ops.cast(ops.convert_to_tensor(x), precise_dtype(x)) for x in variables]


def copies(variables: Tensors) -> list[Any]:
    """Return copies of the variables' values, which later assignments leave alone."""
    return [ops.copy(x) for x in values(variables)]


def like(tensors: Tensors, others: Tensors) -> list[Any]:
    """Cast the tensors to the dtypes of the others."""
    return [ops.cast(x, y.dtype) for x, y in zip(tensors, others, strict=True)]


def assign(variables: Tensors, values: Tensors) -> None:
    """Set the variables to the values, cast to the variables' own dtypes."""
    for variable, value in zip(variables, values, strict=True):
        variable.assign(ops.cast(value, variable.dtype))


def blend(variables: Tensors, tensors: Tensors, keep: float, share: float) -> None:
    """Set the variables to `keep` times themselves plus `share` times the tensors."""
    for variable, tensor in zip(variables, tensors, strict=True):
        variable.assign(keep * variable + share * tensor)


def accumulate(variables: Tensors, tensors: Tensors, keep: Any) -> None:
    """Set the variables to `keep` times the sum of themselves and the tensors."""
    for variable, tensor in zip(variables, tensors, strict=True):
        variable.assign(ops.cast(keep, tensor.dtype) * (variable + tensor))


def sums(a: Tensors, b: Tensors) -> list[Any]:
    """Compute `a + b`."""
    return [x + y for x, y in zip(a, b, strict=True)]


def differences(a: Tensors, b: Tensors) -> list[Any]:
    """Compute `a - b`."""
    return [x - y for x, y in zip(a, b, strict=True)]


def products(a: Tensors, b: Tensors) -> list[Any]:
    """Compute `a · b`, number by number."""
    return [x * y for x, y in zip(a, b, strict=True)]


def multiples(a: Tensors, factor: Any) -> list[Any]:
    """Compute `factor · a`."""
    return [ops.cast(factor, x.dtype) * x for x in a]


def clipped(a: Tensors, limit: float) -> list[Any]:
    """Clip `a` to the range from `-limit` to `limit`."""
    return [ops.clip(x, -limit, limit) for x in a]


def exponentials(a: Tensors) -> list[Any]:
    """Compute `exp(a)`."""
    return [ops.exp(x) for x in a]


def signs(a: Tensors) -> list[Any]:
    """Return the sign of each number: -1, 0 or 1."""
    return [ops.sign(x) for x in a]


def total(a: Tensors) -> Any:
    """Sum all numbers, to a float32 scalar."""
    return sum(ops.cast(ops.sum(x), "float32") for x in a)


def dot(a: Tensors, b: Tensors) -> Any:
    """Compute the inner product over all tensors together, a float32 scalar."""
    return total(products(a, b))


def norm(a: Tensors) -> Any:
    """Compute the Euclidean norm over all tensors together, a float32 scalar."""
    return ops.sqrt(dot(a, a))
