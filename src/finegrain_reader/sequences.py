"""What taggers take: texts, and sequences of words or characters."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np

from finegrain_reader.windows import split_blanks
from finegrain_reader.words import cut


def checked_units(words: Sequence[str], task: str, *, characters: bool) -> Sequence[str]:
    """Return the units of a sequence: a text, or a list of words or characters.

    Args:
        words: What was given.
        task: What is tagged. A text is for `"segment"` alone.
        characters: Whether the tagger takes single characters only.

    Raises:
        TypeError: if it is no sequence of strings, or a text where words are asked for.
        ValueError: if it has words where single characters are asked for.
    """
    if not isinstance(words, Iterable) or (isinstance(words, str) and task != "segment"):
        raise TypeError(
            "A sentence should be a sequence of words, such as ['Ada', 'wrote']: "
            f"use `text.split()` for words separated by blanks. Received: {words!r}"
        )
    words = words if isinstance(words, str) else list(words)
    other = next((word for word in words if not isinstance(word, str)), None)
    if other is not None:
        raise TypeError(f"The words of a sentence should be strings. Received: {other!r}")
    if characters and not isinstance(words, str):
        longer = next((word for word in words if len(word) != 1), None)
        if longer is not None:
            raise ValueError(
                "This tagger was trained on single characters: give it the characters of a "
                f"text one by one. Received: {longer!r}"
            )
    return words


def segmented(
    texts: Iterable[str], find_tags: Callable[[list[str]], Sequence[np.ndarray]]
) -> list[list[str]]:
    """Split texts into words and blanks, which together are the texts.

    Args:
        texts: Any texts.
        find_tags: From texts without blanks to the numbers of the tags of their characters.

    Raises:
        TypeError: if they are not several texts.
    """
    if isinstance(texts, str) or not isinstance(texts, Iterable):
        raise TypeError(
            "Expected several texts, such as ['one', 'two']; `segment` takes a single one. "
            f"Received: texts={texts!r}"
        )
    texts = list(texts)
    for text in texts:
        if not isinstance(text, str):
            raise TypeError(f"A text should be a string. Received: {text!r}")
    pieces = [split_blanks(text) for text in texts]
    runs = [
        text[start:end]
        for text, own in zip(texts, pieces, strict=True)
        for start, end, blank in own
        if not blank
    ]
    words_of_runs = iter(cut(runs, find_tags(runs)))
    result: list[list[str]] = []
    for text, own in zip(texts, pieces, strict=True):
        words: list[str] = []
        for start, end, blank in own:
            words += [text[start:end]] if blank else next(words_of_runs)
        result.append(words)
    return result
