"""Spans, and how they are read from tags."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray


class Span(NamedTuple):
    """A labelled piece of a sequence.

    Attributes:
        label: What it is, such as "PER".
        start: Its first position.
        end: The position after its last.
    """

    label: str
    start: int
    end: int


def read_only(values: Any, dtype: Any = bool) -> NDArray[Any]:
    """Copy values into a read-only array."""
    array = np.array(values, dtype=dtype)
    array.flags.writeable = False
    return array


class SpanTables(NamedTuple):
    """Tables to read spans from tags: a run of connected tags is a span if its ends are right.

    In all tables number 0 stands for a position outside the sequence and number n + 1 for tag n.

    Attributes:
        breaks: (tags + 1, tags + 1) boolean [before, here]: whether a run ends between the two.
        opens: (tags + 1,) int32: 1 + the type of span whose first tag this is; 0 if none.
        closes: (tags + 1,) boolean: whether it may be the last tag of a span.
    """

    breaks: NDArray[np.bool_]
    opens: NDArray[np.int32]
    closes: NDArray[np.bool_]

    @classmethod
    def of(cls, goes_on: Any, opens: Any, closes: Any) -> SpanTables:
        """Make the tables from what holds for each tag.

        Args:
            goes_on: (tags, tags) boolean [before, here]: whether both are in the same run.
            opens: (tags,) the type of span whose first tag this is; −1 if none.
            closes: (tags,) boolean: whether it may be the last tag of a span.
        """
        cuts = np.pad(~np.array(goes_on, bool), ((1, 0), (1, 0)), constant_values=True)
        return cls(
            breaks=read_only(cuts),
            opens=read_only(np.pad(np.array(opens) + 1, (1, 0)), np.int32),
            closes=read_only(np.pad(np.array(closes, bool), (1, 0))),
        )

    def read(self, tags: NDArray[Any]) -> Iterator[tuple[int, int, int]]:
        """Yield (type, start, end) of each span in (length,) tag numbers, negative if outside."""
        numbers = np.pad(np.maximum(np.asarray(tags, np.int64) + 1, 0), 1)
        cuts = self.breaks[numbers[:-1], numbers[1:]].nonzero()[0]
        for start, end in pairwise(cuts.tolist()):
            kind = int(self.opens[numbers[start + 1]])
            if kind and self.closes[numbers[end]]:
                yield kind - 1, start, end
