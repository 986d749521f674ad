"""The functions of `lists` on PyTorch: one call for a whole list wherever PyTorch has one.

So its own optimizers do, and it gives the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch as installed

# The stubs of some releases lack its functions of lists.
torch: Any = installed

Tensors = Sequence[Any]


def untracked() -> AbstractContextManager[Any]:
    """Return a context that records no gradients, like that of Keras's own optimizers on torch."""
    return torch.no_grad()


def values(variables: Tensors) -> list[Any]:
    """Return the variables' values, those of half precision in float32."""
    low = (torch.bfloat16, torch.float16)
    held = [variable.value for variable in variables]
    return [x.float() if x.dtype in low else x for x in held]


def copies(variables: Tensors) -> list[Any]:
    """Return copies of the variables' values, those of half precision in float32."""
    return [x.clone() for x in values(variables)]


def like(tensors: Tensors, others: Tensors) -> list[Any]:
    """Cast the tensors to the dtypes of the others."""
    return [x.to(y.dtype) for x, y in zip(tensors, others, strict=True)]


def assign(variables: Tensors, values: Tensors) -> None:
    """Set the variables to the values, in place."""
    torch._foreach_copy_([variable.value for variable in variables], list(values))


def blend(variables: Tensors, tensors: Tensors, keep: float, share: float) -> None:
    """Set the variables to `keep` times themselves plus `share` times the tensors, in place."""
    held = [variable.value for variable in variables]
    if keep != 1:
        torch._foreach_mul_(held, keep)
    torch._foreach_add_(held, tensors, alpha=share)


def accumulate(variables: Tensors, tensors: Tensors, keep: Any) -> None:
    """Set the variables to `keep` times the sum of themselves and the tensors, in place."""
    held = [variable.value for variable in variables]
    torch._foreach_add_(held, tensors)
    torch._foreach_mul_(held, keep)


def sums(a: Tensors, b: Tensors) -> list[Any]:
    """Compute `a + b`."""
    return torch._foreach_add(a, b)


def differences(a: Tensors, b: Tensors) -> list[Any]:
    """Compute `a - b`."""
    return torch._foreach_sub(a, b)


def products(a: Tensors, b: Tensors) -> list[Any]:
    """Compute `a · b`, number by number."""
    return torch._foreach_mul(a, b)


def multiples(a: Tensors, factor: Any) -> list[Any]:
    """Compute `factor · a`."""
    return torch._foreach_mul(a, factor)


def clipped(a: Tensors, limit: float) -> list[Any]:
    """Clip `a` to the range from `-limit` to `limit`."""
    return torch._foreach_clamp_min(torch._foreach_clamp_max(a, limit), -limit)


def exponentials(a: Tensors) -> list[Any]:
    """Compute `exp(a)`."""
    return torch._foreach_exp(a)


def signs(a: Tensors) -> list[Any]:
    """Return the sign of each number: -1, 0 or 1."""
    return torch._foreach_sign(a)


def total(a: Tensors) -> Any:
    """Sum all numbers, to a float32 scalar."""
    return torch.stack([x.sum() for x in a]).sum(dtype=torch.float32)


def dot(a: Tensors, b: Tensors) -> Any:
    """Compute the inner product over all tensors together, a float32 scalar."""
    pairs = zip(a, b, strict=True)
    parts = [torch.dot(x.reshape(-1), y.reshape(-1)) for x, y in pairs]
    return torch.stack(parts).sum(dtype=torch.float32)


def norm(a: Tensors) -> Any:
    """Compute the Euclidean norm over all tensors together, a float32 scalar."""
    return torch.linalg.vector_norm(torch.stack(torch._foreach_norm(a))).float()


def moment_step(
    variables: Tensors,
    gradients: Tensors,
    momentums: Tensors,
    velocities: Tensors,
    *,
    share: float,
    weight: Any,
    rate: Any,
    epsilon: float,
    epsilon_inside: bool,
) -> None:
    """Take one step of a second-moment optimizer, for all weights at once.

    Args:
        variables: The weights.
        gradients: Their gradients.
        momentums: The averages of gradients.
        velocities: The averages of squared gradients.
        share: What a gradient counts in the first average.
        weight: What its square counts in the second.
        rate: The learning rate.
        epsilon: What is added to the root, or under it.
        epsilon_inside: Whether it is under it.
    """
    m, v = ([variable.value for variable in slots] for slots in (momentums, velocities))
    gradients = like(gradients, m)
    torch._foreach_lerp_(m, gradients, share)
    difference = torch._foreach_mul(gradients, gradients)
    torch._foreach_sub_(difference, v)
    torch._foreach_mul_(difference, weight)
    torch._foreach_add_(v, difference)
    if epsilon_inside:
        root = torch._foreach_add(v, epsilon)
        torch._foreach_sqrt_(root)
    else:
        root = torch._foreach_sqrt(v)
        torch._foreach_add_(root, epsilon)
    step = torch._foreach_div(m, root)
    torch._foreach_mul_(step, rate)
    torch._foreach_sub_([variable.value for variable in variables], step)
