"""Text cut into pieces that a tagger can take, and put together again without loss."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

WINDOW = 256
"""Most characters that are tagged at once."""

MARGIN = 32
"""Characters on either side of a cut whose tags the neighbouring window decides."""


class Window(NamedTuple):
    """A piece text[start:end], of which the tags from keep_start to keep_end are kept."""

    start: int
    end: int
    keep_start: int
    keep_end: int


def windows(start: int, end: int) -> Iterator[Window]:
    """Yield overlapping windows over text[start:end]; their kept parts follow one another."""
    keep_start = start
    left = start
    while end - left > WINDOW:
        keep_end = left + WINDOW - MARGIN
        yield Window(left, left + WINDOW, keep_start, keep_end)
        keep_start, left = keep_end, keep_end - MARGIN
    yield Window(left, end, keep_start, end)


def split_blanks(text: str) -> list[tuple[int, int, bool]]:
    """Find the runs of blanks and of other characters in `text`: (start, end, whether blank)."""
    return [
        (match.start(), match.end(), match.group().isspace())
        for match in re.finditer(r"\s+|\S+", text)
    ]


def stitch(pieces: list[tuple[Window, np.ndarray]]) -> np.ndarray:
    """Put together the tags of a whole run from those of its windows."""
    return np.concatenate(
        [
            tags[window.keep_start - window.start : window.keep_end - window.start]
            for window, tags in pieces
        ]
    )
