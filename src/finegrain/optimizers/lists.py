"""Arithmetic on lists of tensors, one of each weight; on torch one call for a whole list.

`of_backend()` gives the functions of the present backend. `Neutral` works on each; `Foreach` has
torch's operations on lists, which its own optimizers are made of, and gives the same.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import keras
from keras import ops

from finegrain.optimizers.slots import precise_dtype

Tensors = Sequence[Any]


class Lists(ABC):
    """What the rules of step sizes are made of.

    Tensors are in float32, or float64 for weights of float64. Factors are scalars: numbers, or
    tensors of float32.
    """

    def untracked(self) -> AbstractContextManager[Any]:
        """A context in which no gradients are recorded."""
        return nullcontext()

    @abstractmethod
    def values(self, variables: Tensors) -> list[Any]:
        """What the variables hold, which may change when they are assigned to."""

    @abstractmethod
    def copies(self, variables: Tensors) -> list[Any]:
        """What the variables hold now."""

    @abstractmethod
    def like(self, tensors: Tensors, others: Tensors) -> list[Any]:
        """The tensors in the dtypes of others."""

    @abstractmethod
    def assign(self, variables: Tensors, values: Tensors) -> None:
        """Sets the variables, in their own dtypes."""

    @abstractmethod
    def blend(self, variables: Tensors, tensors: Tensors, keep: float, share: float) -> None:
        """Sets the variables to `keep` times themselves plus `share` times the tensors."""

    @abstractmethod
    def accumulate(self, variables: Tensors, tensors: Tensors, keep: Any) -> None:
        """Sets the variables to `keep` times the sum of themselves and the tensors."""

    @abstractmethod
    def sums(self, a: Tensors, b: Tensors) -> list[Any]:
        """`a + b`."""

    @abstractmethod
    def differences(self, a: Tensors, b: Tensors) -> list[Any]:
        """`a - b`."""

    @abstractmethod
    def products(self, a: Tensors, b: Tensors) -> list[Any]:
        """`a · b`, number by number."""

    @abstractmethod
    def multiples(self, a: Tensors, factor: Any) -> list[Any]:
        """`factor · a`."""

    @abstractmethod
    def clipped(self, a: Tensors, limit: float) -> list[Any]:
        """`a` between `-limit` and `limit`."""

    @abstractmethod
    def exponentials(self, a: Tensors) -> list[Any]:
        """`exp(a)`."""

    @abstractmethod
    def signs(self, a: Tensors) -> list[Any]:
        """-1, 0 or 1."""

    @abstractmethod
    def total(self, a: Tensors) -> Any:
        """The sum of all numbers, a float32 scalar."""

    @abstractmethod
    def dot(self, a: Tensors, b: Tensors) -> Any:
        """The inner product over all tensors together, a float32 scalar."""

    @abstractmethod
    def norm(self, a: Tensors) -> Any:
        """The Euclidean norm over all tensors together, a float32 scalar."""


class Neutral(Lists):
    """Tensor by tensor, on any backend."""

    def values(self, variables: Tensors) -> list[Any]:
        """What they hold."""
        return [ops.cast(ops.convert_to_tensor(x), precise_dtype(x)) for x in variables]

    def copies(self, variables: Tensors) -> list[Any]:
        """What they hold now."""
        return [ops.copy(x) for x in self.values(variables)]

    def like(self, tensors: Tensors, others: Tensors) -> list[Any]:
        """In the dtypes of others."""
        return [ops.cast(x, y.dtype) for x, y in zip(tensors, others, strict=True)]

    def assign(self, variables: Tensors, values: Tensors) -> None:
        """Sets the variables."""
        for variable, value in zip(variables, values, strict=True):
            variable.assign(ops.cast(value, variable.dtype))

    def blend(self, variables: Tensors, tensors: Tensors, keep: float, share: float) -> None:
        """Sets the variables to a mixture."""
        for variable, tensor in zip(variables, tensors, strict=True):
            variable.assign(keep * variable + share * tensor)

    def accumulate(self, variables: Tensors, tensors: Tensors, keep: Any) -> None:
        """Sets the variables to a share of the sums."""
        for variable, tensor in zip(variables, tensors, strict=True):
            variable.assign(ops.cast(keep, tensor.dtype) * (variable + tensor))

    def sums(self, a: Tensors, b: Tensors) -> list[Any]:
        """`a + b`."""
        return [x + y for x, y in zip(a, b, strict=True)]

    def differences(self, a: Tensors, b: Tensors) -> list[Any]:
        """`a - b`."""
        return [x - y for x, y in zip(a, b, strict=True)]

    def products(self, a: Tensors, b: Tensors) -> list[Any]:
        """`a · b`."""
        return [x * y for x, y in zip(a, b, strict=True)]

    def multiples(self, a: Tensors, factor: Any) -> list[Any]:
        """`factor · a`."""
        return [ops.cast(factor, x.dtype) * x for x in a]

    def clipped(self, a: Tensors, limit: float) -> list[Any]:
        """`a` between the limits."""
        return [ops.clip(x, -limit, limit) for x in a]

    def exponentials(self, a: Tensors) -> list[Any]:
        """`exp(a)`."""
        return [ops.exp(x) for x in a]

    def signs(self, a: Tensors) -> list[Any]:
        """-1, 0 or 1."""
        return [ops.sign(x) for x in a]

    def total(self, a: Tensors) -> Any:
        """The sum of all numbers."""
        return sum(ops.cast(ops.sum(x), "float32") for x in a)

    def dot(self, a: Tensors, b: Tensors) -> Any:
        """The inner product."""
        return self.total(self.products(a, b))

    def norm(self, a: Tensors) -> Any:
        """The norm."""
        return ops.sqrt(self.dot(a, a))


class Foreach(Lists):
    """On torch: one call for the whole list wherever torch has one."""

    def __init__(self) -> None:
        import torch

        # The stubs of some releases lack these functions.
        self.torch: Any = torch

    def untracked(self) -> AbstractContextManager[Any]:
        """As Keras's own optimizers work on torch."""
        return self.torch.no_grad()

    def values(self, variables: Tensors) -> list[Any]:
        """What they hold."""
        low = (self.torch.bfloat16, self.torch.float16)
        held = [variable.value for variable in variables]
        return [x.float() if x.dtype in low else x for x in held]

    def copies(self, variables: Tensors) -> list[Any]:
        """What they hold now."""
        return [x.clone() for x in self.values(variables)]

    def like(self, tensors: Tensors, others: Tensors) -> list[Any]:
        """In the dtypes of others."""
        return [x.to(y.dtype) for x, y in zip(tensors, others, strict=True)]

    def assign(self, variables: Tensors, values: Tensors) -> None:
        """Sets the variables, in place."""
        self.torch._foreach_copy_([variable.value for variable in variables], list(values))

    def blend(self, variables: Tensors, tensors: Tensors, keep: float, share: float) -> None:
        """Sets the variables to a mixture, in place."""
        held = [variable.value for variable in variables]
        if keep != 1:
            self.torch._foreach_mul_(held, keep)
        self.torch._foreach_add_(held, tensors, alpha=share)

    def accumulate(self, variables: Tensors, tensors: Tensors, keep: Any) -> None:
        """Sets the variables to a share of the sums, in place."""
        held = [variable.value for variable in variables]
        self.torch._foreach_add_(held, tensors)
        self.torch._foreach_mul_(held, keep)

    def sums(self, a: Tensors, b: Tensors) -> list[Any]:
        """`a + b`."""
        return self.torch._foreach_add(a, b)

    def differences(self, a: Tensors, b: Tensors) -> list[Any]:
        """`a - b`."""
        return self.torch._foreach_sub(a, b)

    def products(self, a: Tensors, b: Tensors) -> list[Any]:
        """`a · b`."""
        return self.torch._foreach_mul(a, b)

    def multiples(self, a: Tensors, factor: Any) -> list[Any]:
        """`factor · a`."""
        return self.torch._foreach_mul(a, factor)

    def clipped(self, a: Tensors, limit: float) -> list[Any]:
        """`a` between the limits."""
        return self.torch._foreach_clamp_min(self.torch._foreach_clamp_max(a, limit), -limit)

    def exponentials(self, a: Tensors) -> list[Any]:
        """`exp(a)`."""
        return self.torch._foreach_exp(a)

    def signs(self, a: Tensors) -> list[Any]:
        """-1, 0 or 1."""
        return self.torch._foreach_sign(a)

    def total(self, a: Tensors) -> Any:
        """The sum of all numbers."""
        return self.torch.stack([x.sum() for x in a]).sum(dtype=self.torch.float32)

    def dot(self, a: Tensors, b: Tensors) -> Any:
        """The inner product."""
        pairs = zip(a, b, strict=True)
        parts = [self.torch.dot(x.reshape(-1), y.reshape(-1)) for x, y in pairs]
        return self.torch.stack(parts).sum(dtype=self.torch.float32)

    def norm(self, a: Tensors) -> Any:
        """The norm."""
        return self.torch.linalg.vector_norm(self.torch.stack(self.torch._foreach_norm(a))).float()


def of_backend() -> Lists:
    """The arithmetic of the present backend."""
    return Foreach() if keras.backend.backend() == "torch" else Neutral()
