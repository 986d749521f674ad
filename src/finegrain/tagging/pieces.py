"""Long sentences in pieces, none of which has half a span."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise

from finegrain.tagging.columns import Sentence
from finegrain.tagging.conversion import is_of_spans, spans_of


def cut_sentences(
    sentences: Iterable[tuple[Sequence[str], Sequence[str]]], longest: int
) -> list[Sentence]:
    """Cut sentences into pieces of at most so many words, never inside a span.

    Pieces are as long as they may be. A span of more words than that stays whole, and its piece is
    longer. The tags of each piece keep to the scheme that they kept to before; so no cut is
    between touching spans of one type, which IOB1 and IOE1 tell by each other. Where tags are not
    those of spans, but parts of speech say, a cut may be anywhere.

    Args:
        sentences: Pairs of words and as many tags.
        longest: Most words of a piece, 1 or more.

    Returns:
        The pieces in their order, which make up the sentences.

    Raises:
        ValueError: If `longest` is not a positive integer.

    Example:
        >>> from finegrain.tagging import cut_sentences
        >>> words, tags = "to New York and back".split(), "O B-LOC I-LOC O O".split()
        >>> for piece in cut_sentences([(words, tags)], longest=2):
        ...     print(piece)
        (['to'], ['O'])
        (['New', 'York'], ['B-LOC', 'I-LOC'])
        (['and', 'back'], ['O', 'O'])
    """
    if isinstance(longest, bool) or not isinstance(longest, int) or longest < 1:
        raise ValueError(
            f"`longest` should be a positive number of words. Received: longest={longest!r}"
        )
    pieces = []
    for words, tags in sentences:
        for start, end in pairwise([0, *_ends(tags, longest)]):
            pieces.append((list(words[start:end]), list(tags[start:end])))
    return pieces


def _ends(tags: Sequence[str], longest: int) -> list[int]:
    """Return where the pieces of a sentence end: as late as may be."""
    ends, start, latest = [], 0, 0
    for place in _places(tags):
        if place - start > longest and latest > start:
            ends.append(latest)
            start = latest
        latest = place
        if place - start >= longest:
            ends.append(place)
            start = place
    return ends if start == len(tags) else [*ends, len(tags)]


def _places(tags: Sequence[str]) -> list[int]:
    """Return where a cut may be, the end included."""
    spans = spans_of(tags) if all(map(is_of_spans, tags)) else []
    inside = {place for span in spans for place in range(span.start + 1, span.end)}
    inside |= {b.start for a, b in pairwise(spans) if a.end == b.start and a.label == b.label}
    return [place for place in range(1, len(tags) + 1) if place not in inside]
