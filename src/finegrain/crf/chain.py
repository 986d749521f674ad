"""Chain: the scores of a linear chain, checked, cleaned and shifted.

Shapes here and in all that follows: B batch, T time, K tags.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from keras import ops

Tensor = Any


class Scores(NamedTuple):
    """The scores of a chain: the values that gradients are taken with respect to.

    Attributes:
        emissions: (B, T, K), zero where masked.
        transitions: (K, K) [from, to]; or (B, T, K, K) where entry t enters position t.
        start: (K,) of the first tag.
        end: (K,) of the last tag.
    """

    emissions: Tensor
    transitions: Tensor
    start: Tensor
    end: Tensor

    @property
    def num_tags(self) -> int:
        """The number of tags, K."""
        return self.emissions.shape[2]

    @property
    def per_step(self) -> bool:
        """Whether each step has transitions of its own."""
        return len(self.transitions.shape) == 4


class Chain(NamedTuple):
    """Scores over the positions of a mask.

    Attributes:
        scores: Cleaned scores.
        mask: (B, T) boolean, or None where all positions are valid.
    """

    scores: Scores
    mask: Tensor | None

    @property
    def valid(self) -> Tensor:
        """The mask, (B, T) boolean; all true where the chain has none."""
        if self.mask is None:
            return ops.ones(ops.shape(self.scores.emissions)[:2], dtype="bool")
        return self.mask

    @property
    def place(self) -> Tensor:
        """The number of valid positions up to and including each position, (B, T) int32."""
        return ops.cumsum(ops.cast(self.valid, "int32"), axis=1)

    def shifted(self) -> tuple[Chain, Tensor]:
        """Subtract the largest score of each kind; return the chain and the (B,) sums taken off.

        What remains is at most 0 and mostly small, so sums keep their digits. The shift is a
        constant to gradients: they are the same with it and without.
        """
        emissions, transitions, start, end = self.scores
        peaks = Scores(
            emissions=_peak(emissions, axis=2),  # (B, T, 1)
            transitions=_peak(transitions),
            start=_peak(start),
            end=_peak(end),
        )
        scores = Scores(*(part - peak for part, peak in zip(self.scores, peaks, strict=True)))
        inside = ops.cast(self.valid, emissions.dtype)  # (B, T)
        steps = ops.sum(inside, axis=1)  # (B,)
        some = ops.minimum(steps, 1)
        offset = ops.sum(peaks.emissions[:, :, 0] * inside, axis=1)
        offset = offset + (steps - some) * peaks.transitions + some * (peaks.start + peaks.end)
        return Chain(scores, self.mask), offset


def ends(chain: Chain) -> tuple[Tensor, Tensor]:
    """Mark each chain's first and its last valid position, as two (B, T) boolean tensors."""
    valid, place = chain.valid, chain.place
    return ops.logical_and(valid, place == 1), ops.logical_and(valid, place == place[:, -1:])


def _peak(scores: Tensor, axis: int | None = None) -> Tensor:
    """Find the largest score, a constant to gradients; 0 where all are −inf."""
    peak = ops.max(scores, axis=axis, keepdims=axis is not None, initial=float("-inf"))
    peak = ops.stop_gradient(peak)
    return ops.where(ops.isfinite(peak), peak, ops.zeros_like(peak))


def only(condition: Tensor, x: Tensor) -> Tensor:
    """Return `x` where the condition holds, 0 elsewhere."""
    return ops.where(condition, x, ops.zeros_like(x))
