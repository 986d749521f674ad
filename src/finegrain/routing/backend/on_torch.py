"""Derivatives on PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch

Tensor = torch.Tensor


class _StraightThrough(torch.autograd.Function):
    generate_vmap_rule = True  # for torch.func

    @staticmethod
    def forward(value: Tensor, surrogate: Tensor) -> Tensor:
        return value.view_as(value)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        """Nothing is kept for the backward pass."""

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, Tensor]:
        return None, gradients[0]

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor) -> Tensor:
        return tangents[1].view_as(tangents[1])


def straight_through(value: Tensor, surrogate: Tensor) -> Tensor:
    """`value`, with the derivatives of `surrogate`."""
    return _StraightThrough.apply(value, surrogate)


def gradient(function: Callable[[Tensor], tuple[Tensor, Any]], x: Tensor) -> tuple[Tensor, Any]:
    """The gradient of the first output of `function` at `x`, and the second output."""
    with torch.enable_grad():  # also where an evaluation has switched it off
        if not x.requires_grad:
            x = x.detach().requires_grad_()
        value, rest = function(x)
        (slope,) = torch.autograd.grad(value, x, create_graph=True)
    return slope, rest


def compute_before_updates(tensors: Iterable[Tensor], variables: Iterable[Any]) -> None:
    """Nothing to do: a value that was read stays what it was."""
