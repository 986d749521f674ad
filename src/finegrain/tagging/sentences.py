"""A corpus of tagged sentences in any of the forms that it comes in."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence, Sized
from typing import Any

from finegrain.tagging.columns import Sentence, read_columns
from finegrain.tagging.files import shortened

# What the rows of data sets, and dictionaries of features, call words and tags.
_WORDS = ("tokens", "words")
_TAGS = ("tags", "ner_tags", "pos_tags", "chunk_tags", "labels", "upos", "xpos")
_WORD = ("word", "token", "text", "form")
_EXPECTED = (
    "Expected a corpus: the path of a file, pairs of words and tags, sentences of tokens such as "
    "('Ada', 'B-PER'), (X, y), or rows such as {'tokens': …, 'ner_tags': …}; put a single sentence "
    "into a list."
)


def as_sentences(
    corpus: Any, *, word: int | str | None = None, tag: int | str | None = None
) -> list[Sentence]:
    """Return a corpus as pairs of words and tags, whatever the form it comes in.

    | Form | Example |
    |------|---------|
    | a file of columns, as `read_columns` reads it | `"train.conllu"` |
    | pairs of words and tags | `[(["Ada", "wrote"], ["B-PER", "O"]), …]` |
    | sentences of tokens: a word first, its tag last | `[[("Ada", "NNP", "B-PER"), …], …]` |
    | words and tags apart, as a tuple | `([["Ada", "wrote"], …], [["B-PER", "O"], …])` |
    | rows, or columns, of a data set | `[{"tokens": ["Ada", …], "ner_tags": ["B-PER", …]}, …]` |

    (X, y) is a tuple; all the other forms are lists or other iterables. In X a word may also be a
    dictionary of features, if one of them is the word itself: "word", "token", "text" or "form".
    Sentences without a word are left out.

    Args:
        corpus: The corpus.
        word: Where the words are: the column of a file (see `read_columns`), the place in a token,
            the key in a row or in a dictionary of features. By default it is found.
        tag: Where the tags are, likewise.

    Returns:
        The sentences, each as its words and as many tags.

    Raises:
        CorpusError: If a file cannot be read.
        TypeError: If something is of another type than it should be, such as numbers for tags.
        ValueError: If a sentence has not as many tags as words, if a word or a tag is empty, if
            nothing tells where they are, or if there is no sentence.

    Example:
        >>> from finegrain.tagging import as_sentences
        >>> as_sentences([[("Ada", "NNP", "B-PER"), ("wrote", "VBD", "O")]])
        [(['Ada', 'wrote'], ['B-PER', 'O'])]
        >>> as_sentences(([["Ada", "wrote"], ["It"]], [["B-PER", "O"], ["O"]]))
        [(['Ada', 'wrote'], ['B-PER', 'O']), (['It'], ['O'])]
        >>> row = {"tokens": ["It"], "pos_tags": ["PRON"], "ner_tags": ["O"]}
        >>> as_sentences([row], tag="pos_tags")
        [(['It'], ['PRON'])]
    """
    if isinstance(corpus, str | os.PathLike):
        return read_columns(corpus, word=word, tag=tag)
    if isinstance(corpus, Mapping):
        pairs = _zipped(*_cells(corpus, "the corpus", word, tag))
    elif _is_apart(corpus):
        _refuse(tag)
        pairs = _zipped(*corpus)
    elif isinstance(corpus, Iterable):
        pairs = _pairs(list(corpus), word, tag)
    else:
        raise TypeError(f"{_EXPECTED} Received: {shortened(corpus)}")
    sentences = [_checked(number, *pair, word) for number, pair in enumerate(pairs, start=1)]
    sentences = [sentence for sentence in sentences if sentence[0]]
    if not sentences:
        raise ValueError(f"{_EXPECTED} Received: no sentence with a word in it")
    return sentences


def _is_apart(corpus: Any) -> bool:
    """Tell whether a corpus is (X, y)."""
    if not (isinstance(corpus, tuple) and len(corpus) == 2 and all(map(_is_sequence, corpus))):
        return False
    if all(isinstance(side, tuple) and len(side) == 2 for side in corpus):
        raise ValueError(
            "Expected a tuple (X, y), or a list of pairs; this may be both, so write X and y, or "
            f"the corpus, as lists. Received: {shortened(corpus)}"
        )
    return True


def _zipped(words: Any, tags: Any) -> list[tuple[Any, Any]]:
    if len(words) != len(tags):
        raise ValueError(
            "Expected as many sentences of tags as of words. "
            f"Received: {len(words)} sentences of words and {len(tags)} of tags"
        )
    return list(zip(words, tags, strict=True))


def _pairs(items: list[Any], word: Any, tag: Any) -> list[tuple[Any, Any]]:
    """Return the words and the tags of each item: a row, a pair, or a sentence of tokens."""
    if all(isinstance(item, Mapping) for item in items):
        return [_cells(item, f"row {n}", word, tag) for n, item in enumerate(items, start=1)]
    for number, item in enumerate(items, start=1):
        if not (_is_sequence(item) and all(map(_is_sequence, item))):
            raise TypeError(f"{_EXPECTED} Received: sentence {number} is {shortened(item)}")
    if _are_tokens(items):
        return [_columns(n, x, word, tag) for n, x in enumerate(items, start=1)]
    _refuse(tag)
    return items


def _are_tokens(items: list[Any]) -> bool:
    """Tell sentences of tokens from pairs of words and tags."""
    if any(len(item) != 2 for item in items):
        return True
    parts = [part for item in items for part in item]
    same_width = len({len(part) for part in parts}) == 1
    strings = all(isinstance(text, str) for part in parts for text in part)
    if not (same_width and strings and len(parts[0]) > 1):
        return False
    # All are two by the same number: tuples tell.
    of_items = all(isinstance(item, tuple) for item in items)
    of_parts = all(isinstance(part, tuple) for part in parts)
    if of_items == of_parts:
        raise ValueError(
            "Expected pairs such as (['Ada', 'wrote'], ['B-PER', 'O']) or sentences such as "
            "[('Ada', 'B-PER'), ('wrote', 'O')]; these may be both, so use tuples and lists as "
            f"shown here. Received: {shortened(items[0])}"
        )
    return of_parts


def _columns(number: int, tokens: Sequence[Any], word: Any, tag: Any) -> tuple[Any, Any]:
    """Return the words and the tags of a sentence of tokens."""
    places = {"word": 0 if word is None else word, "tag": -1 if tag is None else tag}
    for argument, place in places.items():
        if isinstance(place, bool) or not isinstance(place, int):
            raise TypeError(
                f"`{argument}` should be a place in a token, counted from 0. "
                f"Received: {argument}={place!r}"
            )
    least = max(2, *(place + 1 if place >= 0 else -place for place in places.values()))
    for token in tokens:
        if len(token) < least:
            raise ValueError(
                f"Expected tokens of {least} parts at least, such as ('Ada', 'B-PER'). "
                f"Received: {shortened(token)} in sentence {number}"
            )
    return [x[places["word"]] for x in tokens], [x[places["tag"]] for x in tokens]


def _refuse(tag: Any) -> None:
    if tag is not None:
        raise ValueError(
            "Expected no `tag` for a corpus whose tags are apart from its words already. "
            f"Received: tag={tag!r}"
        )


def _cells(row: Mapping[str, Any], name: str, word: Any, tag: Any) -> tuple[Any, Any]:
    """Return the words and the tags of a row, or of all rows of a data set."""
    return _cell(row, name, "word", word, _WORDS), _cell(row, name, "tag", tag, _TAGS)


def _cell(row: Mapping[str, Any], name: str, argument: str, key: Any, usual: Sequence[str]) -> Any:
    keys = [x for x in usual if x in row] if key is None else [key]
    if len(keys) != 1 or keys[0] not in row:
        expected = f"one of the keys {', '.join(usual)}" if key is None else f"the key {key!r}"
        raise ValueError(
            f"Expected {expected} in each row; say which by `{argument}=`. "
            f"Received: {name} with the keys {', '.join(map(repr, row))}"
        )
    if not _is_sequence(row[keys[0]]):
        raise TypeError(
            f"Expected a sequence at the key {keys[0]!r}. Received: {shortened(row[keys[0]])} in "
            f"{name}"
        )
    return row[keys[0]]


def _checked(number: int, words: Any, tags: Any, key: Any) -> Sentence:
    for name, sequence in (("words", words), ("tags", tags)):
        if not _is_sequence(sequence):
            raise TypeError(
                f"Expected a sequence of {name}. "
                f"Received: {shortened(sequence)} in sentence {number}"
            )
    if len(words) != len(tags):
        raise ValueError(
            "Expected as many tags as words in each sentence. "
            f"Received: {len(words)} words and {len(tags)} tags in sentence {number}: "
            f"{shortened(list(words))}"
        )
    words = [_word(x, number, key) for x in words]
    for tag in tags:
        if not isinstance(tag, str):
            raise TypeError(
                "Expected tags by name; numbers stand for names that the data set knows, such as "
                "`dataset.features['ner_tags'].feature.names` of Hugging Face. "
                f"Received: {shortened(tag)} in sentence {number}"
            )
    for name, texts in (("words", words), ("tags", tags)):
        empty = [text for text in texts if not text.strip()]
        if empty:
            raise ValueError(
                f"Expected {name} that are not empty; leave out empty ones. "
                f"Received: {shortened(empty[0])} in sentence {number}"
            )
    return [str(word) for word in words], [str(tag) for tag in tags]


def _word(word: Any, number: int, key: Any) -> str:
    """Return a word, or that of a dictionary of features."""
    if isinstance(word, Mapping):
        keys = [x for x in _WORD if isinstance(word.get(x), str)] if key is None else [key]
        if len(keys) != 1 or keys[0] not in word:
            raise ValueError(
                "Expected words, or features of which one is the word, at one of the keys "
                f"{', '.join(_WORD)} or at `word=`. Others, such as 'word.lower()', are not the "
                "word: give the words in place of the features. "
                f"Received: {shortened(word)} in sentence {number}"
            )
        word = word[keys[0]]
    if not isinstance(word, str):
        raise TypeError(
            "Expected words as text; give the words in place of their features. "
            f"Received: {shortened(word)} in sentence {number}"
        )
    return word


def _is_sequence(value: Any) -> bool:
    """Tell what has a length and items that are no letters or keys: lists, tuples, arrays."""
    if isinstance(value, str | bytes | Mapping):
        return False
    return isinstance(value, Iterable) and isinstance(value, Sized)
