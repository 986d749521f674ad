"""Tag schemes: how the words of a sentence are written as one tag a character, and read back."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, final

import keras
import numpy as np
from numpy.typing import ArrayLike, NDArray

from finegrain_reader.spans import read_only
from finegrain_reader.words import ALLOWED, SPANS, TAGS


@final
@keras.saving.register_keras_serializable(package="finegrain")
class BMES:
    """Words as character tags: s a word of one character; b, m, e begin, middle and end of others.

    | tag | number | may be followed by |
    |-----|--------|--------------------|
    | s   | 0      | s, b               |
    | b   | 1      | m, e               |
    | m   | 2      | m, e               |
    | e   | 3      | s, b               |

    A sentence begins with s or b and ends with s or e. Characters are Unicode code points, as in
    Python's `str`. The arrays are read-only.

    Example:
        >>> from finegrain.tagging import BMES
        >>> scheme = BMES()
        >>> tags = scheme.encode(["the", "cat", "is", "a", "cat"])
        >>> "".join(scheme.labels[tag] for tag in tags)
        'bmebmebesbme'
        >>> scheme.decode("thecatisacat", tags)
        ['the', 'cat', 'is', 'a', 'cat']
        >>> scheme.allowed.astype(int)
        array([[1, 1, 0, 0],
               [0, 0, 1, 1],
               [0, 0, 1, 1],
               [1, 1, 0, 0]])

    References:
        Nianwen Xue, "Chinese Word Segmentation as Character Tagging", 2003,
        https://aclanthology.org/O03-4002/
    """

    def __init__(self) -> None:
        self.labels = TAGS
        self.types = ("word",)
        allowed, start, end = ALLOWED
        self.allowed = read_only(allowed)
        self.allowed_start = read_only(start)
        self.allowed_end = read_only(end)
        self.spans = SPANS

    def encode(self, words: Sequence[str]) -> NDArray[np.int32]:
        """Write the words of a sentence as one tag number per character.

        Args:
            words: The words of one sentence, none of them empty.

        Returns:
            `(characters,)` array of tag numbers, as long as the words together.

        Raises:
            TypeError: If `words` is a string: it must be cut into words already.
            ValueError: If a word is empty: no tag could stand for it.

        Example:
            >>> from finegrain.tagging import BMES
            >>> BMES().encode(["a", "of", "word"])
            array([0, 1, 3, 1, 2, 2, 3], dtype=int32)
        """
        if isinstance(words, str):
            raise TypeError(
                "Expected a sequence of words, such as ['a', 'word']; use `text.split()` for words "
                f"separated by blanks. Received: words={words!r}"
            )
        lengths = np.array([len(word) for word in words], dtype=np.int64)
        if not lengths.all():
            raise ValueError(
                "Expected words of one character or more; leave out empty words. "
                f"Received: words={list(words)!r}"
            )
        ends = lengths.cumsum() - 1
        starts = ends - lengths + 1
        tags = np.full(lengths.sum(), self.labels.index("m"), dtype=np.int32)
        tags[starts] = self.labels.index("b")
        tags[ends] = self.labels.index("e")
        tags[starts[lengths == 1]] = self.labels.index("s")
        return tags

    def decode(self, text: str, tags: ArrayLike) -> list[str]:
        """Cut a text into words where its tags say so.

        A word begins at the first character, at every s and b, and after every s and e. So any
        tags, even sequences that the scheme forbids, give words that together are exactly `text`.

        Args:
            text: The characters of one sentence.
            tags: `(characters,)` tag numbers, one for each character. A number that is not a tag,
                such as -1, neither begins nor ends a word.

        Returns:
            The words, none of them empty, whose concatenation is `text`.

        Raises:
            ValueError: If there is not exactly one tag a character.

        Example:
            >>> from finegrain.tagging import BMES
            >>> scheme = BMES()
            >>> scheme.decode("abcd", [1, 3, 0, 0])
            ['ab', 'c', 'd']
            >>> scheme.decode("abcd", [2, 1, 2, 1])  # forbidden, still cut: m|bm|b
            ['a', 'bc', 'd']
        """
        tags = np.asarray(tags)
        if tags.shape != (len(text),):
            raise ValueError(
                "Expected one tag for each character of the text; cut padding off first. "
                f"Received: {len(text)} characters and tags of shape {tags.shape}"
            )
        begins = self.allowed_start.nonzero()[0]
        ends = self.allowed_end.nonzero()[0]
        cut_before = np.isin(tags[1:], begins) | np.isin(tags[:-1], ends)
        cuts = [0, *(cut_before.nonzero()[0] + 1).tolist(), len(text)]
        return [text[start:end] for start, end in pairwise(cuts) if start < end]

    def get_config(self) -> dict[str, Any]:
        """Return the arguments that make an equal scheme: none."""
        return {}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> BMES:
        """Make the scheme that `get_config` describes."""
        return cls(**config)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, BMES)

    def __hash__(self) -> int:
        return hash(BMES)

    def __repr__(self) -> str:
        return "BMES()"
