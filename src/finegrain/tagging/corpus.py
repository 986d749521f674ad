"""Corpora of segmented text: a sentence a line, its words separated by blanks."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence

from finegrain import _deprecated
from finegrain.tagging.files import corpus_error, empty_file, read_lines, shortened, write_lines


def read_segmented(path: str | os.PathLike[str]) -> list[list[str]]:
    r"""Read a corpus of one sentence per line, its words separated by blanks.

    Any Unicode white space separates words, including the ideographic space (U+3000). Lines end in
    LF, CR LF or CR; lines without a word are skipped, and so is a byte order mark.

    Args:
        path: A text file in UTF-8.

    Returns:
        The sentences, each a list of one word or more.

    Raises:
        CorpusError: If the file is missing, a folder, unreadable, without a word, not UTF-8, or if
            no line has two words, so that nothing tells where a word ends.

    Example:
        >>> import pathlib, tempfile
        >>> file = pathlib.Path(tempfile.mkdtemp()) / "corpus.txt"
        >>> _ = file.write_text("the cat sat\n\non a mat\n", encoding="utf-8")
        >>> from finegrain.tagging import read_segmented
        >>> read_segmented(file)
        [['the', 'cat', 'sat'], ['on', 'a', 'mat']]
    """
    sentences = [words for line in read_lines(path) if (words := line.split())]
    if not sentences:
        raise empty_file(path, "sentences, one a line, their words separated by blanks")
    if all(len(words) == 1 for words in sentences):
        raise corpus_error(
            path,
            "words separated by blanks",
            f"one word on every line, {len(sentences)} in all: the text looks unsegmented",
            "put a blank between the words of each sentence",
        )
    return sentences


def write_segmented(path: str | os.PathLike[str], sentences: Iterable[Sequence[str]]) -> None:
    r"""Write sentences one per line, their words separated by one blank, in UTF-8.

    The file appears complete or not at all: it is written under another name in the same folder
    and then renamed. A sentence without a word becomes an empty line, which reading skips.

    Args:
        path: The file to write. An existing file is replaced.
        sentences: The sentences, each a sequence of words.

    Raises:
        ValueError: If a word is empty or has white space in it, and so could not be read back.
        CorpusError: If the file cannot be written.

    Example:
        >>> import pathlib, tempfile
        >>> file = pathlib.Path(tempfile.mkdtemp()) / "corpus.txt"
        >>> from finegrain.tagging import write_segmented
        >>> write_segmented(file, [["the", "cat"], ["sat"]])
        >>> file.read_text(encoding="utf-8")
        'the cat\nsat\n'
    """
    write_lines(path, _lines(sentences))


def _lines(sentences: Iterable[Sequence[str]]) -> Iterator[str]:
    for number, words in enumerate(sentences, start=1):
        line = " ".join(words)
        if isinstance(words, str) or line.split() != list(words):
            raise ValueError(
                "Expected sentences of words that are not empty and have no white space in "
                "them; split them at white space first. "
                f"Received: sentence {number} is {shortened(words)}"
            )
        yield line


def vocabulary(sentences: Iterable[Iterable[str]]) -> set[str]:
    """Return the set of all words in the sentences; goes with the next release."""
    _deprecated.warn("finegrain.tagging.vocabulary", "set(itertools.chain(*sentences))")
    return {word for words in sentences for word in words}
