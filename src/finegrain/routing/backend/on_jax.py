"""Derivatives on JAX."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import jax

Tensor = Any


# Not `jax.custom_vjp`, which has no forward mode and so no `jax.hessian`.
@jax.custom_jvp
def straight_through(value: Tensor, surrogate: Tensor) -> Tensor:
    """`value`, with the derivatives of `surrogate`."""
    return value


@straight_through.defjvp
def _(primals: tuple[Tensor, Tensor], tangents: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    # Through `straight_through` again: derivatives of the derivative are the surrogate's as well.
    return straight_through(*primals), tangents[1]


def gradient(function: Callable[[Tensor], tuple[Tensor, Any]], x: Tensor) -> tuple[Tensor, Any]:
    """The gradient of the first output of `function` at `x`, and the second output."""
    return jax.grad(function, has_aux=True)(x)


def compute_before_updates(tensors: Iterable[Tensor], variables: Iterable[Any]) -> None:
    """Nothing to do: a value that was read stays what it was."""
