"""The recursions of a linear chain in log space, by `keras.ops` alone: right everywhere.

Shapes: B batch, T time, K tags. `steps` are the tensors that the loops walk along, time first:

- `emissions` (T, B, K), zero where masked;
- `transitions` (K, K) [from, to], or (T, B, K, K) where entry t enters position t;
- `valid` (T, B, 1) boolean: the position belongs to the chain;
- `first` (T, B, 1) boolean: it is the chain's first.

A masked position hands on what reached it. Holes, padding on either side and empty chains need
no special case.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from keras import ops

Tensor = Any


class Steps(NamedTuple):
    """What the recursions walk along, time first (shapes in the module's text)."""

    emissions: Tensor
    transitions: Tensor
    valid: Tensor
    first: Tensor

    @property
    def per_step(self) -> bool:
        """Whether each step has transitions of its own."""
        return len(self.transitions.shape) == 4

    def scanned(self) -> tuple[Tensor, ...]:
        """The tensors that change from step to step."""
        shared = (self.emissions, self.valid, self.first)
        return (*shared, self.transitions) if self.per_step else shared

    def transitions_at(self, extra: tuple[Tensor, ...]) -> Tensor:
        """(B, K, K) or (1, K, K): the transitions of one step."""
        return extra[0] if self.per_step else self.transitions[None]


def log_sum_exp(x: Tensor, axis: int) -> Tensor:
    r"""$\log\sum e^x$ along `axis`; all $-\infty$ gives $-\infty$ with gradient zero, never NaN."""
    peak = ops.stop_gradient(ops.max(x, axis=axis, keepdims=True))
    peak = ops.where(ops.isfinite(peak), peak, ops.zeros_like(peak))
    total = ops.sum(ops.exp(x - peak), axis=axis)
    positive = total > 0
    log_total = ops.log(ops.where(positive, total, ops.ones_like(total)))
    minus_infinity = ops.full_like(log_total, float("-inf"))
    return ops.where(positive, log_total + ops.squeeze(peak, axis=axis), minus_infinity)


def log_partition(steps: Steps, start: Tensor, end: Tensor) -> Tensor:
    """(B,): the log of the sum over all tag sequences of exp(score); 0 for an empty chain."""

    def step(alpha: Tensor, inputs: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        emission, valid, first, *extra = inputs
        moves = alpha[:, :, None] + steps.transitions_at(tuple(extra))  # (B, K from, K to)
        arrived = ops.where(first, start[None], log_sum_exp(moves, axis=1))  # (B, K)
        alpha = ops.where(valid, arrived + emission, alpha)
        return alpha, alpha

    alpha, _ = ops.scan(step, ops.zeros_like(steps.emissions[0]), steps.scanned())
    some = ops.any(steps.valid, axis=(0, 2))  # (B,)
    total = log_sum_exp(alpha + end[None], axis=1)
    return ops.where(some, total, ops.zeros_like(total))


def viterbi(steps: Steps, start: Tensor, end: Tensor) -> Tensor:
    """(T, B) int32: the best tag sequence; at masked positions the tag that is carried past."""
    num_tags = steps.emissions.shape[-1]
    itself = ops.arange(num_tags, dtype="int32")[None]  # (1, K)

    def forward(
        carry: tuple[Tensor, Tensor], inputs: tuple[Tensor, ...]
    ) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        best, pointer = carry
        emission, valid, first, *extra = inputs
        moves = best[:, :, None] + steps.transitions_at(tuple(extra))  # (B, K from, K to)
        arrived = ops.where(first, start[None], ops.max(moves, axis=1))
        origin = ops.cast(ops.argmax(moves, axis=1), "int32")
        pointer = ops.where(ops.logical_and(valid, ops.logical_not(first)), origin, itself)
        best = ops.where(valid, arrived + emission, best)
        return (best, pointer), (best, pointer)

    initial = ops.zeros_like(steps.emissions[0])
    carry = (initial, ops.zeros_like(initial, dtype="int32"))
    (best, _), (_, pointers) = ops.scan(forward, carry, steps.scanned())
    last = ops.cast(ops.argmax(best + end[None], axis=1), "int32")  # (B,)

    def backward(tag: Tensor, pointer: Tensor) -> tuple[Tensor, Tensor]:
        previous = ops.take_along_axis(pointer, tag[:, None], axis=1)[:, 0]
        return previous, tag

    _, tags = ops.scan(backward, last, pointers, reverse=True)
    return tags
