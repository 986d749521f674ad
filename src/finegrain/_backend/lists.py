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
    """A context in which no gradients are recorded."""
    return nullcontext()


def values(variables: Tensors) -> list[Any]:
    """What the variables hold, which may change when they are assigned to."""
    return [ops.cast(ops.convert_to_tensor(x), precise_dtype(x)) for x in variables]


def copies(variables: Tensors) -> list[Any]:
    """What the variables hold now."""
    return [ops.copy(x) for x in values(variables)]


def like(tensors: Tensors, others: Tensors) -> list[Any]:
    """The tensors in the dtypes of others."""
    return [ops.cast(x, y.dtype) for x, y in zip(tensors, others, strict=True)]


def assign(variables: Tensors, values: Tensors) -> None:
    """Sets the variables, in their own dtypes."""
    for variable, value in zip(variables, values, strict=True):
        variable.assign(ops.cast(value, variable.dtype))


def blend(variables: Tensors, tensors: Tensors, keep: float, share: float) -> None:
    """Sets the variables to `keep` times themselves plus `share` times the tensors."""
    for variable, tensor in zip(variables, tensors, strict=True):
        variable.assign(keep * variable + share * tensor)


def accumulate(variables: Tensors, tensors: Tensors, keep: Any) -> None:
    """Sets the variables to `keep` times the sum of themselves and the tensors."""
    for variable, tensor in zip(variables, tensors, strict=True):
        variable.assign(ops.cast(keep, tensor.dtype) * (variable + tensor))


def sums(a: Tensors, b: Tensors) -> list[Any]:
    """`a + b`."""
    return [x + y for x, y in zip(a, b, strict=True)]


def differences(a: Tensors, b: Tensors) -> list[Any]:
    """`a - b`."""
    return [x - y for x, y in zip(a, b, strict=True)]


def products(a: Tensors, b: Tensors) -> list[Any]:
    """`a · b`, number by number."""
    return [x * y for x, y in zip(a, b, strict=True)]


def multiples(a: Tensors, factor: Any) -> list[Any]:
    """`factor · a`."""
    return [ops.cast(factor, x.dtype) * x for x in a]


def clipped(a: Tensors, limit: float) -> list[Any]:
    """`a` between `-limit` and `limit`."""
    return [ops.clip(x, -limit, limit) for x in a]


def exponentials(a: Tensors) -> list[Any]:
    """`exp(a)`."""
    return [ops.exp(x) for x in a]


def signs(a: Tensors) -> list[Any]:
    """-1, 0 or 1."""
    return [ops.sign(x) for x in a]


def total(a: Tensors) -> Any:
    """The sum of all numbers, a float32 scalar."""
    return sum(ops.cast(ops.sum(x), "float32") for x in a)


def dot(a: Tensors, b: Tensors) -> Any:
    """The inner product over all tensors together, a float32 scalar."""
    return total(products(a, b))


def norm(a: Tensors) -> Any:
    """The Euclidean norm over all tensors together, a float32 scalar."""
    return ops.sqrt(dot(a, a))
