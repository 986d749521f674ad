"""Corpora on disk: sentences of words separated by blanks, and CoNLL columns."""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from finegrain import _deprecated


class CorpusError(ValueError):
    """A corpus that cannot be read or written. Its message is one line and names the file."""


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
    sentences = [words for line in _read_lines(path) if (words := line.split())]
    if not sentences:
        raise _empty(path, "sentences, one a line, their words separated by blanks")
    if all(len(words) == 1 for words in sentences):
        raise _error(
            path,
            "words separated by blanks",
            f"one word on every line, {len(sentences)} in all: the text looks unsegmented",
            "put a blank between the words of each sentence",
        )
    return sentences


def read_columns(path: str | os.PathLike[str]) -> list[tuple[list[str], list[str]]]:
    r"""Read CoNLL columns: a token and its tag per line, an empty line after each sentence.

    The first column is the token and the last one the tag; columns between them are ignored.
    Columns are separated by TAB, or by any blanks in a file that has no TAB at all.

    Args:
        path: A text file in UTF-8.

    Returns:
        The sentences, each as its tokens and as many tags.

    Raises:
        CorpusError: If the file is missing, a folder, unreadable, without a token, not UTF-8, or if
            a line has no token or no tag; the message names the line.

    Example:
        >>> import pathlib, tempfile
        >>> file = pathlib.Path(tempfile.mkdtemp()) / "corpus.tsv"
        >>> _ = file.write_text("Ada\tB-PER\nwrote\tO\n\nIt\tO\n", encoding="utf-8")
        >>> from finegrain.tagging import read_columns
        >>> read_columns(file)
        [(['Ada', 'wrote'], ['B-PER', 'O']), (['It'], ['O'])]
    """
    lines = _read_lines(path)
    separator = "\t" if any("\t" in line for line in lines) else None
    sentences: list[tuple[list[str], list[str]]] = []
    tokens: list[str] = []
    tags: list[str] = []
    for number, line in enumerate([*lines, ""], start=1):
        if line.strip():
            columns = line.split(separator)
            token, tag = columns[0], columns[-1].strip()
            if len(columns) < 2 or not token.strip() or not tag:
                raise _error(
                    path,
                    "a token, TAB and a tag on every line that is not empty",
                    f"line {number} with {_shortened(line)}",
                    f"complete or remove line {number}",
                )
            tokens.append(token)
            tags.append(tag)
        elif tokens:
            sentences.append((tokens, tags))
            tokens, tags = [], []
    if not sentences:
        raise _empty(path, "lines of a token, TAB and a tag, an empty line after each sentence")
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
    target = Path(os.path.realpath(path))
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
    try:
        with open(temporary, "x", encoding="utf-8", newline="\n") as file:
            for number, words in enumerate(sentences, start=1):
                line = " ".join(words)
                if isinstance(words, str) or line.split() != list(words):
                    raise ValueError(
                        "Expected sentences of words that are not empty and have no white space in "
                        "them; split them at white space first. "
                        f"Received: sentence {number} is {_shortened(words)}"
                    )
                file.write(line + "\n")
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except OSError as error:
        raise _error(
            path,
            "a file that can be written",
            error.strerror or str(error),
            "create its folder or choose another path",
        ) from error
    finally:
        with suppress(OSError):
            temporary.unlink()


def vocabulary(sentences: Iterable[Iterable[str]]) -> set[str]:
    """Return the set of all words in the sentences; goes with the next release."""
    _deprecated.warn("finegrain.tagging.vocabulary", "set(itertools.chain(*sentences))")
    return {word for words in sentences for word in words}


def _read_lines(path: str | os.PathLike[str]) -> list[str]:
    expected = "a text file in UTF-8"
    try:
        content = Path(path).read_bytes()
    except FileNotFoundError as error:
        raise _error(path, expected, "no such file", "check the path") from error
    except IsADirectoryError as error:
        raise _error(path, expected, "a folder", "name a file in it") from error
    except (OSError, ValueError) as error:
        received = getattr(error, "strerror", None) or str(error)
        cure = "check the path and the permission to read it"
        raise _error(path, expected, received, cure) from error
    try:
        text = content.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        offset = error.start
        line = len(re.split(b"\r\n|\r|\n", content[:offset]))
        raise _error(
            path,
            expected,
            f"byte 0x{content[offset]:02x} at offset {offset}, in line {line}, which is not UTF-8",
            "convert the file to UTF-8, e.g. with iconv",
        ) from error
    # Not `str.splitlines`, which also ends lines at characters that only separate words here.
    return re.split("\r\n|\r|\n", text)


def _error(path: str | os.PathLike[str], expected: str, received: str, cure: str) -> CorpusError:
    return CorpusError(
        f"{os.fspath(path)!r}: expected {expected}. Received: {received}. Cure: {cure}."
    )


def _empty(path: str | os.PathLike[str], expected: str) -> CorpusError:
    return _error(
        path, expected, "an empty file or nothing but white space", "add at least one sentence"
    )


def _shortened(value: object, limit: int = 60) -> str:
    shown = repr(value)
    return shown if len(shown) <= limit else f"{shown[:limit]}…"
