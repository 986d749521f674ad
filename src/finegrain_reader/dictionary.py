"""A user's words, which a segmenter prefers where they fit."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np

from finegrain_reader.numbers import finite
from finegrain_reader.viterbi import SequenceScores
from finegrain_reader.words import B, E, M, S

WEIGHT = 5.0
"""What a user's word adds to the score of a segmentation that has it: odds of e⁵ to 1 for it."""


class Match(NamedTuple):
    """A word at text[start:end], and what it adds to a segmentation that has it."""

    start: int
    end: int
    weight: float


class Dictionary:
    """Words with weights, and where they are in a text.

    Args:
        words: Words, or words with weights: finite numbers ≥ 0.

    Raises:
        TypeError: if `words` is a string, or a word is none.
        ValueError: if a word is empty or has blanks, or a weight is not finite or below 0.
    """

    def __init__(self, words: Iterable[str] | Mapping[str, float]) -> None:
        if isinstance(words, str) or not isinstance(words, Iterable):
            raise TypeError(
                f"`words` should be several words, such as ['word']. Received: words={words!r}"
            )
        weights = words if isinstance(words, Mapping) else dict.fromkeys(words, WEIGHT)
        self.weights: dict[str, float] = {}
        for word, weight in weights.items():
            if not isinstance(word, str):
                raise TypeError(f"The words should be strings. Received: {word!r}")
            if not word or word.split() != [word]:
                raise ValueError(f"A word should have characters, no blanks. Received: {word!r}")
            number = finite(weight)
            if number is None or number < 0:
                raise ValueError(
                    f"A word's weight should be a finite number >= 0. Received: {word!r}: "
                    f"{weight!r}"
                )
            self.weights[word] = number
        self._lengths = sorted({len(word) for word in self.weights})
        self._first = frozenset(word[0] for word in self.weights)

    def matches(self, text: str) -> list[Match]:
        """Find where the words are in a text, by where they begin; they may overlap."""
        found = []
        for start, first in enumerate(text):
            if first not in self._first:
                continue
            for length in self._lengths:
                word = text[start : start + length]
                if len(word) == length and word in self.weights:
                    found.append(Match(start, start + length, self.weights[word]))
        return found


def best_tags_with_words(chain: SequenceScores, matches: Iterable[Match]) -> np.ndarray:
    """Find the best tags of a text where each word of `matches` adds its weight if it is there.

    Viterbi decoding in which a word is one step more, from the character before it to its last.

    Args:
        chain: The scores of the tags s, b, m, e of each character.
        matches: The words in the text.

    Returns:
        (characters,) int32.

    References:
        Sunita Sarawagi, William W. Cohen, Semi-Markov Conditional Random Fields for Information
        Extraction, 2004, https://papers.nips.cc/paper/2648 (steps of several positions)
    """
    emissions, transitions = chain.emissions.astype("float64"), chain.transitions.tolist()
    start, end = chain.start.tolist(), chain.end.tolist()
    ending: dict[int, list[Match]] = {}
    for match in matches:
        if match.end == match.start + 1:
            emissions[match.start, S] += match.weight
        else:
            ending.setdefault(match.end - 1, []).append(match)
    rows = emissions.tolist()
    scores: list[list[float]] = []
    # For each place and tag: the place before the step, the tag there, and whether it is a word.
    origins: list[list[tuple[int, int, bool]]] = []

    def arrive(place: int, tag: int) -> tuple[float, int]:
        """Return the best score before a tag, and the tag that it comes from."""
        if place == 0:
            return start[tag], -1
        before = scores[place - 1]
        return max((before[old] + transitions[old][tag], -old) for old in range(4))

    for place, row in enumerate(rows):
        own, from_where = [], []
        for tag in range(4):
            score, old = arrive(place, tag)
            own.append(score + row[tag])
            from_where.append((place - 1, abs(old), False))
        for match in ending.get(place, ()):
            score, old = arrive(match.start, B)
            score += match.weight + rows[match.start][B]
            tag = B
            for inner in range(match.start + 1, place):
                score += transitions[tag][M] + rows[inner][M]
                tag = M
            score += transitions[tag][E] + row[E]
            if score > own[E]:
                own[E], from_where[E] = score, (match.start - 1, abs(old), True)
        scores.append(own)
        origins.append(from_where)
    tags = np.zeros(len(rows), "int32")
    place, tag = (
        len(rows) - 1,
        max(range(4), key=lambda tag: scores[-1][tag] + end[tag]) if rows else 0,
    )
    while place >= 0:
        before, old, is_word = origins[place][tag]
        tags[place] = tag
        if is_word:
            tags[before + 1] = B
            tags[before + 2 : place] = M
        place, tag = before, old
    return tags
