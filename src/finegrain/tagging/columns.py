"""Corpora in columns: a word a line beside its tag, an empty line after each sentence."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import takewhile
from typing import NamedTuple

from finegrain.tagging.files import (
    CorpusError,
    corpus_error,
    empty_file,
    read_lines,
    shortened,
    write_lines,
)

Sentence = tuple[list[str], list[str]]

# The names that https://universaldependencies.org/format.html gives to the columns.
_CONLLU = ("id", "form", "lemma", "upos", "xpos", "feats", "head", "deprel", "deps", "misc")
_PLUS = re.compile(r"#\s*global\.columns\s*=\s*([^\t]+)")
_FIRST_NUMBER = re.compile(r"1(-\d+)?|0\.\d+")
_DOCUMENT = "-DOCSTART-"


class _Line(NamedTuple):
    number: int
    text: str


class _Layout(NamedTuple):
    """How the lines of a file are read: the names of its columns, if they have some."""

    names: tuple[str, ...]
    tabs: bool

    def split(self, line: str) -> list[str]:
        if self.tabs:
            return [column.strip() for column in line.split("\t")]
        # A word may have a no-break or an ideographic space in it, if blanks are there to separate.
        columns = line.strip(" \t").split(" ")
        return [column for column in columns if column] if len(columns) > 1 else line.split()


def read_columns(
    path: str | os.PathLike[str],
    *,
    word: int | str | None = None,
    tag: int | str | None = None,
) -> list[Sentence]:
    r"""Read columns, such as CoNLL's: a word and its tag a line, an empty line after each sentence.

    The word is the first column and the tag the last, unless you say otherwise. Columns are
    separated by TAB, so that a word may have blanks in it, or by blanks in a file that has no TAB.
    White space round a column is not part of it, and a line of white space is an empty one.

    *CoNLL-U* is known by the ten columns of its first word: there the word is FORM and the tag
    UPOS, and lines of word ranges (1-2) and of empty nodes (1.1) are left out. Columns have names
    there, "form", "upos", "xpos" and so on, and those that `# global.columns =` gives them.

    Comments begin with `#`. They are known as such in CoNLL-U; before the first word of a
    sentence, where TAB separates and a line has none; and where blanks separate, if each sentence
    begins with "# …". Anywhere else "#" is a word. Lines of `-DOCSTART-` are left out.

    Args:
        path: A text file in UTF-8.
        word: The column of the words, by its number from 0, from the end if negative, or by its
            name. Defaults to the first, or FORM.
        tag: The column of the tags, likewise. Defaults to the last, or UPOS.

    Returns:
        The sentences, each as its words and as many tags.

    Raises:
        CorpusError: If the file is missing, a folder, unreadable, without a word, not UTF-8, or if
            a line has no word or no tag; the message names the line.
        TypeError: If a column is neither a number nor a name.

    Example:
        >>> import pathlib, tempfile
        >>> file = pathlib.Path(tempfile.mkdtemp()) / "corpus.tsv"
        >>> _ = file.write_text("Ada\tB-PER\nwrote\tO\n\nIt\tO\n", encoding="utf-8")
        >>> from finegrain.tagging import read_columns
        >>> read_columns(file)
        [(['Ada', 'wrote'], ['B-PER', 'O']), (['It'], ['O'])]
        >>> _ = file.write_text("Ada NNP B-NP B-PER\nwrote VBD B-VP O\n", encoding="utf-8")
        >>> read_columns(file, tag=1)
        [(['Ada', 'wrote'], ['NNP', 'VBD'])]

    References:
        Erik Tjong Kim Sang, Fien De Meulder, Introduction to the CoNLL-2003 Shared Task, 2003,
        https://aclanthology.org/W03-0419/
        CoNLL-U format, https://universaldependencies.org/format.html
    """
    lines = [_Line(number, text) for number, text in enumerate(read_lines(path), start=1)]
    layout = _layout_of(lines)
    word_at = _place(path, layout, "word", word, "form" if layout.names else 0)
    tag_at = _place(path, layout, "tag", tag, "upos" if layout.names else -1)
    blocks = [[(x, layout.split(x.text)) for x in lines] for lines in _sentences(lines, layout)]
    if not blocks:
        raise empty_file(path, "lines of a token, TAB and a tag, an empty line after each sentence")
    if tag is None and not layout.names:
        _drop_empty_ends([columns for block in blocks for _, columns in block])
    sentences = []
    for block in blocks:
        pairs = [_pick(path, layout, *row, word_at, tag_at) for row in block]
        sentences.append(([word for word, _ in pairs], [tag for _, tag in pairs]))
    if layout.names and all(tag == "_" for _, tags in sentences for tag in tags):
        raise corpus_error(
            path,
            f"tags in the column {layout.names[tag_at].upper()}",
            'nothing but "_" there',
            'name the column of the tags, e.g. tag="xpos"',
        )
    return sentences


def write_columns(
    path: str | os.PathLike[str], sentences: Iterable[tuple[Sequence[str], Sequence[str]]]
) -> None:
    r"""Write sentences as lines of a word, TAB and its tag, with an empty line after each sentence.

    The file, in UTF-8, appears complete or not at all. `read_columns` reads the same sentences from
    it, but for those without a word, of which nothing but an empty line is left.

    Args:
        path: The file to write. An existing file is replaced.
        sentences: The sentences, each as its words and as many tags.

    Raises:
        ValueError: If there are not as many tags as words, or if a word or a tag could not be read
            back: it is empty, begins or ends with white space, has TAB or a line end in it, or is
            the word -DOCSTART-.
        CorpusError: If the file cannot be written.

    Example:
        >>> import pathlib, tempfile
        >>> file = pathlib.Path(tempfile.mkdtemp()) / "corpus.tsv"
        >>> from finegrain.tagging import write_columns
        >>> write_columns(file, [(["Ada", "wrote"], ["B-PER", "O"]), (["It"], ["O"])])
        >>> file.read_text(encoding="utf-8")
        'Ada\tB-PER\nwrote\tO\n\nIt\tO\n\n'
    """
    write_lines(path, _written(sentences))


def _written(sentences: Iterable[tuple[Sequence[str], Sequence[str]]]) -> Iterator[str]:
    for number, (words, tags) in enumerate(sentences, start=1):
        if isinstance(words, str) or isinstance(tags, str) or len(words) != len(tags):
            raise ValueError(
                "Expected sentences as pairs of words and as many tags, such as "
                f"(['Ada', 'wrote'], ['B-PER', 'O']). Received: sentence {number} is "
                f"{shortened((words, tags))}"
            )
        for word, tag in zip(words, tags, strict=True):
            for text in (word, tag):
                whole = isinstance(text, str) and text and text == text.strip()
                if not whole or re.search(r"[\t\r\n]", text) or word.split()[:1] == [_DOCUMENT]:
                    raise ValueError(
                        "Expected words and tags that can be read back: not empty, without white "
                        f"space at their ends, TAB and line ends, and no word {_DOCUMENT}. "
                        f"Received: {shortened(text)} in sentence {number}"
                    )
            yield f"{word}\t{tag}"
        yield ""


def _layout_of(lines: list[_Line]) -> _Layout:
    texts = [line.text for line in lines if line.text.strip()]
    rows = [text for text in texts if not text.startswith("#")]
    tabs = any("\t" in text.strip() for text in rows or texts)
    plus = _PLUS.fullmatch(texts[0].strip()) if texts else None
    if plus and rows:
        return _Layout(tuple(plus[1].lower().split()), tabs)
    plain = _Layout((), tabs)
    first = plain.split(rows[0]) if rows else []
    conllu = len(first) == len(_CONLLU) and _FIRST_NUMBER.fullmatch(first[0])
    if conllu and re.fullmatch(r"\d+|_", first[_CONLLU.index("head")]):
        return _Layout(_CONLLU, tabs)
    return plain


def _sentences(lines: list[_Line], layout: _Layout) -> Iterator[list[_Line]]:
    """Yield the lines of words of each sentence."""
    blocks: list[list[_Line]] = [[]]
    for line in lines:
        if not line.text.strip() or line.text.split(maxsplit=1)[0] == _DOCUMENT:
            blocks.append([])
        else:
            blocks[-1].append(line)
    blocks = [block for block in blocks if block]
    if layout.names:
        blocks = [[line for line in block if line.text[0] != "#"] for block in blocks]
        if "id" in layout.names:
            place = layout.names.index("id")
            blocks = [[x for x in block if not _left_out(layout, x, place)] for block in blocks]
    else:
        counts = [_comments_before(block, layout) for block in blocks]
        if layout.tabs or _are_comments(blocks, counts, layout):
            blocks = [block[count:] for block, count in zip(blocks, counts, strict=True)]
    return (block for block in blocks if block)


def _left_out(layout: _Layout, line: _Line, place: int) -> bool:
    """Tell lines of ranges and of empty nodes by their numbers."""
    columns = layout.split(line.text)
    return place < len(columns) and bool(re.fullmatch(r"\d+[-.]\d+", columns[place]))


def _comments_before(block: list[_Line], layout: _Layout) -> int:
    """Count the lines before the first word that may be comments; 0 if there is no word."""

    def may_be(line: _Line) -> bool:
        return line.text.startswith("# ") and not (layout.tabs and "\t" in line.text)

    count = len(list(takewhile(may_be, block)))
    return count if count < len(block) else 0


def _are_comments(blocks: list[list[_Line]], counts: list[int], layout: _Layout) -> bool:
    """Tell comments from words "#" where blanks separate: all sentences have some, without a tag.

    They have none if what would be their tags is nowhere a tag of a word.
    """
    first, other = set(), set()
    for block, count in zip(blocks, counts, strict=True):
        for place, line in enumerate(block):
            (first if place < count else other).add(layout.split(line.text)[-1])
    return all(counts) and not first & other


def _place(
    path: str | os.PathLike[str],
    layout: _Layout,
    argument: str,
    given: int | str | None,
    default: int | str,
) -> int:
    """Return the place of a column that is given by its number or name."""
    column = default if given is None else given
    if isinstance(column, int) and not isinstance(column, bool):
        return column
    if not isinstance(column, str):
        raise TypeError(
            f"`{argument}` should be a column's number, counted from 0, or its name in CoNLL-U. "
            f"Received: {argument}={given!r}"
        )
    if column.lower() not in layout.names:
        names = f"columns named {', '.join(layout.names)}" if layout.names else "without names"
        raise corpus_error(
            path,
            f"a file with a column named {column!r}",
            f"{argument}={given!r} and {'' if layout.names else 'columns '}{names}",
            f"give {argument} a name that is there, or the column's number from 0",
        )
    return layout.names.index(column.lower())


def _drop_empty_ends(rows: list[list[str]]) -> None:
    """Drop the last column while it is empty on every line, as after a TAB at each line's end."""
    while all(len(columns) > 2 and not columns[-1] for columns in rows):
        for columns in rows:
            columns.pop()


def _pick(
    path: str | os.PathLike[str],
    layout: _Layout,
    line: _Line,
    columns: list[str],
    word_at: int,
    tag_at: int,
) -> tuple[str, str]:
    """Return the word and the tag of a line."""
    count = len(columns)
    if count == len(layout.names) if layout.names else count > 1:
        with suppress(IndexError):
            word, tag = columns[word_at], columns[tag_at]
            if word and tag:
                return word, tag
    raise _incomplete(path, layout, line, word_at, tag_at)


def _incomplete(
    path: str | os.PathLike[str], layout: _Layout, line: _Line, word_at: int, tag_at: int
) -> CorpusError:
    if layout.names:
        expected = f"{len(layout.names)} columns separated by TAB on every line of a word"
    elif (word_at, tag_at) == (0, -1):
        expected = "a token, TAB and a tag on every line that is not empty"
    else:
        expected = f"a word in column {word_at} and a tag in column {tag_at} on every line"
    return corpus_error(
        path,
        expected,
        f"line {line.number} with {shortened(line.text)}",
        f"complete or remove line {line.number}",
    )
