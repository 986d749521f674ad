"""What the library should compute, worked out in float64 NumPy by the plainest means.

Nothing here shares a line or an idea with the library: a chain is the list of all its tag
sequences, each scored from the formula, and a probability is a share of their total.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]


class Counts(NamedTuple):
    """How often each score is used: the gradient of a sequence's score, or an expected one."""

    emissions: Array
    transitions: Array
    start: Array
    end: Array

    def __sub__(self, other: Counts) -> Counts:
        return Counts(*(mine - theirs for mine, theirs in zip(self, other, strict=True)))


class EnumeratedChain:
    """One example of a linear chain, by enumeration of the tag sequences of its valid positions.

    Args:
        emissions: (time, tags).
        transitions: (tags, tags) as [from, to], or (time − 1, tags, tags), where entry t leads
            into position t + 1.
        start: (tags,), or None for zeros.
        end: (tags,), or None for zeros.
        mask: (time,) boolean, or None for all true.
    """

    def __init__(
        self,
        emissions: ArrayLike,
        transitions: ArrayLike,
        start: ArrayLike | None = None,
        end: ArrayLike | None = None,
        mask: ArrayLike | None = None,
    ) -> None:
        self.emissions = np.asarray(emissions, np.float64)
        self.transitions = np.asarray(transitions, np.float64)
        time, self.num_tags = self.emissions.shape
        self.start = np.zeros(self.num_tags) if start is None else np.asarray(start, np.float64)
        self.end = np.zeros(self.num_tags) if end is None else np.asarray(end, np.float64)
        mask = np.ones(time, bool) if mask is None else np.asarray(mask, bool)
        self.positions = [t for t in range(time) if mask[t]]
        # One empty sequence where no position is valid.
        every = itertools.product(range(self.num_tags), repeat=len(self.positions))
        self.sequences = [np.array(sequence, int) for sequence in every]
        self.scores = np.array([self._score(sequence) for sequence in self.sequences])

    def score(self, tags: ArrayLike) -> float:
        """The score of (time,) tags; those at masked positions are not looked at."""
        return self._score(np.asarray(tags)[self.positions])

    def log_partition(self) -> float:
        """The log of the sum of exp(score) over all sequences."""
        return log_sum_exp(self.scores)

    def log_prob(self, tags: ArrayLike) -> float:
        """The log-probability of (time,) tags; −inf if they are impossible."""
        score = self.score(tags)
        return score if score == -np.inf else score - self.log_partition()

    def best_score(self) -> float:
        """The score of the most probable sequences."""
        return float(self.scores.max())

    def counts(self, tags: ArrayLike) -> Counts:
        """How often each score is used by (time,) tags: the gradient of `score`."""
        return self._counts(np.asarray(tags)[self.positions])

    def expected_counts(self) -> Counts:
        """How often each score is used on average: the gradient of `log_partition`.

        Zeros where no sequence is possible.
        """
        total = self.log_partition()
        expected = Counts(*(np.zeros_like(part) for part in self._parts()))
        for sequence, score in zip(self.sequences, self.scores, strict=True):
            if score > -np.inf:
                for sums, used in zip(expected, self._counts(sequence), strict=True):
                    sums += np.exp(score - total) * used
        return expected

    def log_prob_gradient(self, tags: ArrayLike) -> Counts:
        """The gradient of `log_prob` of possible (time,) tags: counts less expected counts."""
        return self.counts(tags) - self.expected_counts()

    def _parts(self) -> tuple[Array, Array, Array, Array]:
        return self.emissions, self.transitions, self.start, self.end

    def _links(self, sequence: NDArray[np.int_]) -> list[tuple[int, ...]]:
        """The index into `transitions` of each link between neighbouring valid positions."""
        links = []
        for place in range(1, len(self.positions)):
            pair = int(sequence[place - 1]), int(sequence[place])
            step = (self.positions[place] - 1,) if self.transitions.ndim == 3 else ()
            links.append((*step, *pair))
        return links

    def _score(self, sequence: NDArray[np.int_]) -> float:
        if len(sequence) == 0:
            return 0.0
        total = self.start[sequence[0]] + self.end[sequence[-1]]
        for position, tag in zip(self.positions, sequence, strict=True):
            total += self.emissions[position, tag]
        for link in self._links(sequence):
            total += self.transitions[link]
        return float(total)

    def _counts(self, sequence: NDArray[np.int_]) -> Counts:
        counts = Counts(*(np.zeros_like(part) for part in self._parts()))
        if len(sequence) > 0:
            counts.start[sequence[0]] = 1
            counts.end[sequence[-1]] = 1
        for position, tag in zip(self.positions, sequence, strict=True):
            counts.emissions[position, tag] = 1
        for link in self._links(sequence):
            counts.transitions[link] += 1
        return counts


def log_sum_exp(x: ArrayLike) -> float:
    """The log of the sum of exp(x); −inf where all are."""
    x = np.asarray(x, np.float64)
    peak = x.max()
    return float(peak) if peak == -np.inf else float(peak + np.log(np.exp(x - peak).sum()))


def forward_backward(
    emissions: Array, transitions: Array, start: Array, end: Array
) -> tuple[float, Counts]:
    """The log-partition and expected counts of one long chain, by the float64 recurrence.

    For lengths that enumeration cannot reach; finite scores, (tags, tags) transitions, no mask.
    """
    time = len(emissions)
    alpha = np.empty_like(emissions)  # log-sum of the prefixes that end here, emission included
    beta = np.empty_like(emissions)  # log-sum of what follows here, emission excluded
    alpha[0] = start + emissions[0]
    for t in range(1, time):
        alpha[t] = emissions[t] + _log_sum_exp_0(alpha[t - 1][:, None] + transitions)
    beta[-1] = end
    for t in range(time - 2, -1, -1):
        beta[t] = _log_sum_exp_0((transitions + (emissions[t + 1] + beta[t + 1])).T)
    total = log_sum_exp(alpha[-1] + end)
    marginals = np.exp(alpha + beta - total)
    following = (emissions + beta)[1:, None, :]
    pairs = np.exp(alpha[:-1, :, None] + transitions + following - total)
    return total, Counts(marginals, pairs.sum(0), marginals[0], marginals[-1])


def _log_sum_exp_0(x: Array) -> Array:
    peak = x.max(0)
    return peak + np.log(np.exp(x - peak).sum(0))


def finite_differences(
    function: Callable[..., float], *arguments: ArrayLike, step: float = 1e-5
) -> list[Array]:
    """The gradient of `function` with respect to each array, by central differences."""
    arrays = [np.array(argument, np.float64) for argument in arguments]
    gradients = [np.zeros_like(array) for array in arrays]
    for array, gradient in zip(arrays, gradients, strict=True):
        for index in np.ndindex(array.shape):
            here = array[index]
            array[index] = here + step
            above = function(*arrays)
            array[index] = here - step
            below = function(*arrays)
            array[index] = here
            gradient[index] = (above - below) / (2 * step)
    return gradients
