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


class Step(NamedTuple):
    """One position: emission (B, K), valid and first (B, 1), transitions (B or 1, K, K)."""

    emission: Tensor
    valid: Tensor
    first: Tensor
    transitions: Tensor


class Steps(NamedTuple):
    """What the recursions walk along, time first (shapes in the module's text)."""

    num_tags: int
    emissions: Tensor
    transitions: Tensor
    valid: Tensor
    first: Tensor

    @property
    def _per_step(self) -> bool:
        return len(self.transitions.shape) == 4

    def packed(self) -> Tensor:
        """(T, B, K + 2) or, with transitions of each step, (T, B, K + 2 + K²).

        One tensor, because `keras.ops.scan` on TensorFlow (Keras 3.15) takes no second one where
        the time is unknown to the graph.
        """
        dtype = self.emissions.dtype
        parts = [self.emissions, ops.cast(self.valid, dtype), ops.cast(self.first, dtype)]
        if self._per_step:
            rows = ops.shape(self.emissions)[:2]
            parts.append(ops.reshape(self.transitions, (*rows, self.num_tags**2)))
        return ops.concatenate(parts, axis=2)

    def unpack(self, packed: Tensor) -> Step:
        """The parts of one step of `packed`."""
        num_tags = self.num_tags
        transitions = self.transitions[None]
        if self._per_step:
            transitions = ops.reshape(packed[:, num_tags + 2 :], (-1, num_tags, num_tags))
        return Step(
            emission=packed[:, :num_tags],
            valid=packed[:, num_tags, None] > 0.5,
            first=packed[:, num_tags + 1, None] > 0.5,
            transitions=transitions,
        )


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

    def forward(alpha: Tensor, packed: Tensor) -> tuple[Tensor, Tensor]:
        step = steps.unpack(packed)
        moves = alpha[:, :, None] + step.transitions  # (B, K from, K to)
        arrived = ops.where(step.first, start[None], log_sum_exp(moves, axis=1))  # (B, K)
        alpha = ops.where(step.valid, arrived + step.emission, alpha)
        return alpha, alpha

    alpha, _ = ops.scan(forward, ops.zeros_like(steps.emissions[0]), steps.packed())
    some = ops.any(steps.valid[:, :, 0], axis=0)  # (B,)
    total = log_sum_exp(alpha + end[None], axis=1)
    return ops.where(some, total, ops.zeros_like(total))


def viterbi(steps: Steps, start: Tensor, end: Tensor) -> Tensor:
    """(T, B) int32: the best tag sequence; at masked positions the tag that is carried past."""
    itself = ops.arange(steps.num_tags, dtype="int32")[None]  # (1, K)

    def forward(
        carry: tuple[Tensor, Tensor], packed: Tensor
    ) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        best, pointer = carry
        step = steps.unpack(packed)
        moves = best[:, :, None] + step.transitions  # (B, K from, K to)
        arrived = ops.where(step.first, start[None], ops.max(moves, axis=1))
        origin = ops.cast(ops.argmax(moves, axis=1), "int32")
        linked = ops.logical_and(step.valid, ops.logical_not(step.first))
        pointer = ops.where(linked, origin, itself)
        best = ops.where(step.valid, arrived + step.emission, best)
        return (best, pointer), (best, pointer)

    initial = ops.zeros_like(steps.emissions[0])
    carry = (initial, ops.zeros_like(initial, dtype="int32"))
    (best, _), (_, pointers) = ops.scan(forward, carry, steps.packed())
    last = ops.cast(ops.argmax(best + end[None], axis=1), "int32")  # (B,)

    def backward(tag: Tensor, pointer: Tensor) -> tuple[Tensor, Tensor]:
        previous = ops.take_along_axis(pointer, tag[:, None], axis=1)[:, 0]
        return previous, tag

    _, tags = ops.scan(backward, last, pointers, reverse=True)
    return tags
