"""Chains for Hypothesis: small, of few distinct shapes, and as nasty as the contract allows.

All scores are multiples of 1/64 below 2·10⁴, so that float32 adds those of a sequence exactly and
the best sequence is the oracle's to the last digit, however large the scores.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from oracle import Counts, EnumeratedChain


class Form(NamedTuple):
    """What the backends compile for: the shapes, and which optional parts there are."""

    batch: int
    time: int
    tags: int
    per_step: bool = False
    boundaries: bool = True
    masked: bool = True


# Few of them, since JAX compiles anew for each.
FORMS = [
    Form(2, 4, 3),
    Form(3, 5, 4),
    Form(2, 4, 2, per_step=True),
    Form(1, 5, 2, per_step=True, boundaries=False),
    Form(2, 3, 3, boundaries=False, masked=False),
    Form(1, 1, 3),
    Form(2, 3, 1),
    Form(1, 0, 2),
]
JUNK_SCORES = [np.nan, np.inf, -np.inf, -100.0, 1e30]
JUNK_TAGS = [-1, -100, 4, 10**6]


class Case(NamedTuple):
    """The arguments of a chain, and tag sequences for it."""

    emissions: np.ndarray
    transitions: np.ndarray
    start: np.ndarray | None
    end: np.ndarray | None
    mask: np.ndarray | None
    tags: np.ndarray

    def parts(self, dtype: str) -> dict[str, Any]:
        """The scores, in `dtype`."""
        scores = self._asdict()
        names = ("emissions", "transitions", "start", "end")
        return {n: None if scores[n] is None else scores[n].astype(dtype) for n in names}

    def oracles(self) -> list[EnumeratedChain]:
        """One oracle for each example."""
        return [
            EnumeratedChain(
                self.emissions[i],
                self.transitions if self.transitions.ndim == 2 else self.transitions[i],
                self.start,
                self.end,
                None if self.mask is None else self.mask[i],
            )
            for i in range(len(self.emissions))
        ]

    def counts(self, each: list[Counts | None]) -> dict[str, np.ndarray]:
        """The examples' counts as gradients of the chain's arguments: shared ones are summed.

        None stands for an example that does not count.
        """
        zeros = self.oracles()[0].expected_counts()
        zeros = Counts(*(np.zeros_like(part) for part in zeros))
        rows = [zeros if row is None else row for row in each]
        per_step = self.transitions.ndim == 4
        found = {
            "emissions": np.stack([row.emissions for row in rows]),
            "transitions": (np.stack if per_step else sum)([row.transitions for row in rows]),
        }
        if self.start is not None:
            found["start"] = sum(row.start for row in rows)
            found["end"] = sum(row.end for row in rows)
        return found

    def valid(self) -> np.ndarray:
        """(batch, time): the positions that exist."""
        return np.ones(self.emissions.shape[:2], bool) if self.mask is None else self.mask

    def linked(self) -> np.ndarray:
        """(batch, time − 1): the steps whose transitions are used: those into a later position."""
        valid = self.valid()
        return (valid & (np.cumsum(valid, axis=1) > 1))[:, 1:]

    def magnitude(self) -> float:
        """A bound on the absolute value of any finite score of a sequence."""
        time = self.emissions.shape[1]
        used = self.emissions[self.valid()]
        moves = self.transitions[self.linked()] if self.transitions.ndim == 4 else self.transitions
        bounds = [_largest(used), _largest(moves), _largest(self.start), _largest(self.end)]
        return float(np.dot(bounds, [time, max(time - 1, 0), 1, 1]))


def _largest(scores: np.ndarray | None) -> float:
    if scores is None:
        return 0.0
    return float(np.max(np.abs(scores), initial=0.0, where=np.isfinite(scores)))


@st.composite
def cases(draw: st.DrawFn, possible_tags: bool = False) -> Case:
    """Any chain of the forms above.

    Args:
        draw: Hypothesis's.
        possible_tags: Whether the tags are one of the chain's possible sequences, where there is
            one; else they are any.
    """
    form = draw(st.sampled_from(FORMS))
    steps = max(form.time - 1, 0)
    square = (form.tags, form.tags)
    unit = draw(st.sampled_from([1 / 64, 1.0, 156.25]))  # up to 1, 64, 10⁴
    forbidden = draw(st.sampled_from([0.0, 0.3, 0.7]))

    def scores(shape: tuple[int, ...], share_forbidden: float) -> np.ndarray:
        whole = draw(hnp.arrays(np.int64, shape, elements=st.integers(-64, 64)))
        fine = draw(hnp.arrays(np.int64, shape, elements=st.integers(-8, 8)))
        values = whole * unit + fine / 64
        if share_forbidden > 0:
            dice = draw(hnp.arrays(np.int64, shape, elements=st.integers(0, 99)))
            values[dice < 100 * share_forbidden] = -np.inf
        return values

    emissions = scores((form.batch, form.time, form.tags), draw(st.sampled_from([0.0, 0.0, 0.2])))
    shape = (form.batch, steps, *square) if form.per_step else square
    transitions = scores(shape, forbidden)
    start = scores((form.tags,), forbidden / 2) if form.boundaries else None
    end = scores((form.tags,), forbidden / 2) if form.boundaries else None
    mask = draw(hnp.arrays(bool, (form.batch, form.time))) if form.masked else None
    shape = (form.batch, form.time)
    tags = draw(hnp.arrays(np.int32, shape, elements=st.integers(0, form.tags - 1)))
    case = Case(emissions, transitions, start, end, mask, tags)
    if possible_tags:
        _make_possible(case, draw(st.integers(0, 10**6)))
    _spoil(case, draw(st.sampled_from(JUNK_SCORES)), draw(st.sampled_from(JUNK_TAGS)))
    return case


def _make_possible(case: Case, which: int) -> None:
    for tags, chain in zip(case.tags, case.oracles(), strict=True):
        possible = np.flatnonzero(chain.scores > -np.inf)
        if len(possible) > 0:
            tags[chain.positions] = chain.sequences[possible[which % len(possible)]]


def _spoil(case: Case, score: float, tag: int) -> None:
    """Puts junk wherever a masked position could be looked at."""
    case.emissions[~case.valid()] = score
    case.tags[~case.valid()] = tag
    if case.transitions.ndim == 4:
        case.transitions[~case.linked()] = score
