"""Sequences cut into pieces that a tagger can take, and put together again without loss."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

WINDOW = 256
"""Most characters that are tagged at once."""

MOST_WORDS = 128
"""Most words that are tagged at once."""

MARGIN = 32
"""Characters on either side of a cut whose tags the neighbouring window decides."""


class Window(NamedTuple):
    """A piece sequence[start:end], of which the tags from keep_start to keep_end are kept."""

    start: int
    end: int
    keep_start: int
    keep_end: int


def windows(sizes: Sequence[int] | np.ndarray, limit: int = WINDOW) -> Iterator[Window]:
    """Yield overlapping windows over a sequence; their kept parts follow one another.

    Args:
        sizes: How many positions each unit of the sequence takes, at most limit / 4.
        limit: Most positions of a window. An eighth of it on either side of a cut is given to both
            windows and kept from the one in which it is further from the end.
    """
    margin = limit // 8
    ends = np.r_[0, np.cumsum(np.asarray(sizes, "int64"))]
    total = len(ends) - 1
    keep_start = left = 0
    while ends[total] - ends[left] > limit:
        end = int(np.searchsorted(ends, ends[left] + limit, "right")) - 1
        keep_end = int(np.searchsorted(ends, ends[end] - margin, "right")) - 1
        yield Window(left, end, keep_start, keep_end)
        keep_start = keep_end
        left = int(np.searchsorted(ends, ends[keep_end] - margin, "left"))
    yield Window(left, total, keep_start, total)


def pieces(
    sizes: Sequence[int] | np.ndarray, may_cut: Sequence[bool] | np.ndarray, limit: int = WINDOW
) -> list[tuple[int, int]]:
    """Cut a sequence into (start, end) pieces of at most `limit` positions, to learn from.

    What lies between two places where it may be cut, and is longer than that, is left out.

    Args:
        sizes: How many positions each unit takes.
        may_cut: For each unit, whether a piece may begin with it.
        limit: Most positions of a piece.
    """
    places = np.flatnonzero(np.asarray(may_cut, bool))
    if not len(places):
        return []
    ends = np.r_[0, np.cumsum(np.asarray(sizes, "int64"))]
    result: list[tuple[int, int]] = []
    for start, end in zip(places.tolist(), [*places[1:].tolist(), len(sizes)], strict=True):
        if ends[end] - ends[start] > limit:
            continue
        if result and result[-1][1] == start and ends[end] - ends[result[-1][0]] <= limit:
            result[-1] = (result[-1][0], end)
        else:
            result.append((start, end))
    return result


def split_blanks(text: str) -> list[tuple[int, int, bool]]:
    """Find the runs of blanks and of other characters in `text`: (start, end, whether blank)."""
    return [
        (match.start(), match.end(), match.group().isspace())
        for match in re.finditer(r"\s+|\S+", text)
    ]


def stitch(parts: Sequence[tuple[Window, np.ndarray]]) -> np.ndarray:
    """Put together what stands for the units of a whole sequence from that of its windows."""
    return np.concatenate(
        [
            part[window.keep_start - window.start : window.keep_end - window.start]
            for window, part in parts
        ]
    )
