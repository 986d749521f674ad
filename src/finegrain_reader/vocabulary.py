"""Characters and words as numbers, which stand for the rows of tables of vectors."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from finegrain_reader.kinds import kinds_of, script_as_lower

PADDING, UNKNOWN, FIRST_KNOWN = 0, 1, 2

EDGE = 0
"""The code point that stands before the first and after the last character of a text."""

NARROW = {
    code: code - 0xFEE0
    for first, last in ("０９", "ＡＺ", "ａｚ")
    for code in range(ord(first), ord(last) + 1)
}
"""Letters and digits of full width, as Chinese and Japanese text has them, and those of ASCII."""

_WIDE, _NARROWED = (np.array(list(codes), "uint64") for codes in (NARROW, NARROW.values()))


class EncodedTexts(NamedTuple):
    """Texts one behind another, with masked positions before, between and after them.

    Attributes:
        starts: (texts,) the first position of each.
        lengths: (texts,) of each in characters.
        positions: (characters,) the position of each character.
        characters: (positions,) the numbers of characters; `PADDING` where masked.
        pairs: (positions + 1,) the numbers of the pairs of each position and the one before it;
            `PADDING` where both are masked.
    """

    starts: np.ndarray
    lengths: np.ndarray
    positions: np.ndarray
    characters: np.ndarray
    pairs: np.ndarray


class Characters:
    """The numbers of known characters and of known pairs of neighbours.

    Args:
        characters: The known characters, sorted.
        pairs: The known pairs, sorted; a NUL stands for the text's edge. A pair of the code points
            in `kinds.py` is a kind of pairs, and stands for those not known.
        half_width: Whether letters and digits of full width are read as those of ASCII.
    """

    def __init__(self, characters: str, pairs: Sequence[str], *, half_width: bool) -> None:
        self.half_width = half_width
        self._characters = code_points(characters)
        codes = code_points("".join(pairs)).reshape(-1, 2)
        self._pairs = _pair_keys(codes[:, 0], codes[:, 1])

    def encode(self, texts: Sequence[str], gap: int = 1) -> EncodedTexts:
        """Encode texts that are not empty, with `gap` masked positions between them, at least 1."""
        lengths = np.array([len(text) for text in texts], "int64")
        ends = np.cumsum(lengths + gap)
        starts = gap + np.r_[0, ends[:-1]]
        positions = np.arange(lengths.sum()) + np.repeat(
            gap * np.arange(1, 1 + len(texts)), lengths
        )
        codes = code_points("".join(texts))
        if self.half_width:
            wide = np.flatnonzero((codes >= _WIDE[0]) & (codes <= _WIDE[-1]))
            place = np.minimum(np.searchsorted(_WIDE, codes[wide]), len(_WIDE) - 1)
            codes[wide] = np.where(_WIDE[place] == codes[wide], _NARROWED[place], codes[wide])
        total = int(ends[-1]) + gap
        characters = np.full(total, PADDING, "int32")
        characters[positions] = _look_up(self._characters, codes)
        placed = np.full(total + 2, EDGE, "uint64")
        placed[positions + 1] = codes
        pairs = self._pair_numbers(placed[:-1], placed[1:]).astype("int32")
        masked = np.ones(total + 2, bool)
        masked[positions + 1] = False
        pairs[masked[:-1] & masked[1:]] = PADDING
        return EncodedTexts(starts, lengths, positions, characters, pairs)

    def kinds_of_known_pairs(self) -> np.ndarray:
        """Find the number of the kind of each known pair; UNKNOWN where that is not known."""
        return self._kind_numbers(self._pairs >> np.uint64(32), self._pairs & np.uint64(0xFFFFFFFF))

    def _pair_numbers(self, left: np.ndarray, right: np.ndarray) -> np.ndarray:
        """Find the number of each pair of code points, or of its kind where it is not known."""
        numbers = _look_up(self._pairs, _pair_keys(left, right))
        new = np.flatnonzero(numbers == UNKNOWN)
        numbers[new] = self._kind_numbers(left[new], right[new])
        return numbers

    def _kind_numbers(self, left: np.ndarray, right: np.ndarray) -> np.ndarray:
        """Find the number of the kind of each pair; UNKNOWN where it is not known either."""
        kinds = kinds_of(np.stack([left, right]))
        numbers = _look_up(self._pairs, _pair_keys(*kinds))
        foreign = _look_up(self._pairs, _pair_keys(*script_as_lower(kinds)))
        return np.where(numbers == UNKNOWN, foreign, numbers)


def code_points(text: str) -> np.ndarray:
    """Return the code points of a text, (characters,) uint64."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4").astype("uint64")


def _pair_keys(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    return (left.astype("uint64") << np.uint64(32)) | right.astype("uint64")


def _look_up(known: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """Find each key's index in the sorted `known`, counted from FIRST_KNOWN; UNKNOWN if absent."""
    if not len(known):
        return np.full(len(keys), UNKNOWN)
    index = np.minimum(np.searchsorted(known, keys), len(known) - 1)
    return np.where(known[index] == keys, index + FIRST_KNOWN, UNKNOWN)


def shape(word: str) -> str:
    """Reduce a word to its kinds of characters in a row, such as Xx, Xx-0 or @x."""
    runs = re.sub(r"[^\W\d_]+", lambda letters: _case(letters.group()), word)
    return re.sub(r"\d+", "0", runs)[:6]


def _case(letters: str) -> str:
    kinds = ["X" if letter.isupper() else "x" for letter in letters]
    return "".join(kind for n, kind in enumerate(kinds) if n == 0 or kinds[n - 1] != kind)


def _lower(word: str) -> str:
    return re.sub(r"\d", "0", word.lower())


VIEWS: dict[str, Callable[[str], str]] = {
    "word": _lower,
    "cased": lambda word: word,
    "ending_4": lambda word: _lower(word)[-4:],
    "ending_3": lambda word: _lower(word)[-3:],
    "ending_2": lambda word: _lower(word)[-2:],
    "beginning_3": lambda word: _lower(word)[:3],
    "beginning_1": lambda word: word[:1],
    "shape": shape,
}
"""What is looked at of a word, by name."""


class Words:
    """The numbers of known words, in several views.

    Args:
        known: For each view, what is known, in the order of its numbers.
    """

    def __init__(self, known: Mapping[str, Iterable[str]]) -> None:
        self._numbers = {
            view: {key: number for number, key in enumerate(keys, FIRST_KNOWN)}
            for view, keys in known.items()
        }
        self._encoded: dict[str, list[int]] = {}

    def encode(self, words: Iterable[str]) -> list[list[int]]:
        """Encode words: the number of each in every view."""
        return [self._encode(word) for word in words]

    def _encode(self, word: str) -> list[int]:
        if word not in self._encoded:
            if len(self._encoded) > 1_000_000:  # a stream of ever new words
                self._encoded.clear()
            self._encoded[word] = [
                numbers.get(VIEWS[view](word), UNKNOWN) for view, numbers in self._numbers.items()
            ]
        return self._encoded[word]
