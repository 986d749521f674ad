"""From the tags of characters to words."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain, pairwise

import numpy as np

from finegrain_reader.clusters import clusters
from finegrain_reader.spans import SpanTables

TAGS = ("s", "b", "m", "e")
"""A word of one character; the first, an inner and the last character of another."""

S, B, M, E = range(4)

ALLOWED = (
    [[1, 1, 0, 0], [0, 0, 1, 1], [0, 0, 1, 1], [1, 1, 0, 0]],
    [1, 1, 0, 0],
    [1, 0, 0, 1],
)
"""Which tag may follow which [from, to], which may be the first, which the last of a text."""

# All characters are in some word: a run of tags ends wherever it may.
SPANS = SpanTables.of(
    goes_on=[[not (a in (S, E) or b in (S, B)) for b in range(4)] for a in range(4)],
    opens=[0] * 4,
    closes=[True] * 4,
)
"""How words are read from tags."""

_BEGINS = np.array([tag in "sb" for tag in TAGS])
_ENDS = np.array([tag in "se" for tag in TAGS])


def cut(texts: Sequence[str], tags: Sequence[np.ndarray]) -> list[list[str]]:
    """Cut texts into words by tags that were predicted, but never a cluster of characters.

    Args:
        texts: Texts that are not empty.
        tags: For each, the numbers of the tags of its characters.

    Returns:
        The words of each text, which together are that text.
    """
    if not texts:
        return []
    numbers = np.concatenate(tags)
    starts = np.cumsum([0, *map(len, texts)])
    begins = _BEGINS[numbers]
    begins[1:] |= _ENDS[numbers[:-1]]
    begins[starts[:-1]] = True
    places = np.flatnonzero(begins)
    bounds = np.searchsorted(places, starts).tolist()
    cuts = (places - np.repeat(starts[:-1], np.diff(bounds))).tolist()
    result = []
    for text, (first, last) in zip(texts, pairwise(bounds), strict=True):
        own = cuts[first:last]
        whole = clusters(text)
        if whole:
            own = sorted(set(own).difference(whole))
        result.append([text[start:end] for start, end in pairwise(chain(own, [len(text)]))])
    return result
