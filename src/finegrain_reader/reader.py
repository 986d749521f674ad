"""The reader: trained taggers at work, with NumPy and nothing else."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from copy import copy
from pathlib import Path

import numpy as np

from finegrain_reader.dictionary import Dictionary, best_tags_with_words
from finegrain_reader.files import write_model
from finegrain_reader.model import Model
from finegrain_reader.sequences import checked_units, segmented
from finegrain_reader.spans import Span
from finegrain_reader.threads import one_thread
from finegrain_reader.viterbi import SequenceScores, best_tags
from finegrain_reader.windows import MOST_WORDS, WINDOW, Window, stitch, windows

# Sequences are tagged together up to so many units.
_TOGETHER = 50_000


class Reader:
    """A trained tagger or segmenter that needs neither Keras nor a backend, but NumPy alone.

    `load` makes one. What it finds is what the `Tagger` or `Segmenter` of the file finds.

    Args:
        model: The model.

    Example:
    >>> import finegrain as fg
    >>> corpus = [(["Ada", "met", "Bob"], ["B-PER", "O", "B-PER"]),
    ...     (["Bob", "and", "Ada", "left"], ["B-PER", "O", "B-PER", "O"])] * 20
    >>> tagger = fg.tagging.Tagger("spans", width=16, seed=0).fit(corpus, epochs=8, verbose=0)
    >>> tagger.save("names.keras")
    >>> reader = fg.reader.load("names.keras")
    >>> reader.tag(["Ada", "left"])
    ['B-PER', 'O']
    >>> reader.spans(["Bob", "met", "Ada"])
    [Span(label='PER', start=0, end=1), Span(label='PER', start=2, end=3)]
    """

    def __init__(self, model: Model) -> None:
        self._model = model
        self._limit = WINDOW if model.is_of_characters else MOST_WORDS
        self._dictionary: Dictionary | None = None

    @property
    def task(self) -> str:
        """What is tagged: "labels", "spans" or "segment"."""
        return self._model.task

    @property
    def labels(self) -> tuple[str, ...]:
        """The names of the tags."""
        return self._model.labels

    def segment(self, text: str) -> list[str]:
        """Split a text into words that, joined, give the text again, character by character.

        Args:
            text: Any text. Blanks in it separate words and come back as elements of their own.

        Raises:
            TypeError: if the text is no string.
            ValueError: if the file is not that of a segmenter.
        """
        return self.segment_many([text])[0]

    def segment_many(self, texts: Iterable[str]) -> list[list[str]]:
        """Split several texts into words, faster than one at a time.

        Args:
            texts: Any texts; empty ones have no words.

        Raises:
            TypeError: if they are not several texts.
            ValueError: if the file is not that of a segmenter.
        """
        if self.task != "segment":
            raise ValueError(
                "Only a segmenter splits text into words; use `tag` or `spans`. "
                f"Received: a tagger of the task {self.task!r}"
            )
        return segmented(texts, self._tags)

    def tag(self, words: Sequence[str]) -> list[str]:
        """Find the tags of a sentence.

        Args:
            words: The words of a sentence; for `"segment"` a text without blanks.

        Returns:
            The name of a tag for each word.

        Raises:
            TypeError: if a sentence of words is a string.
            ValueError: if it has words for a tagger of single characters.
        """
        return self.tag_many([words])[0]

    def tag_many(self, sentences: Iterable[Sequence[str]]) -> list[list[str]]:
        """Find the tags of several sentences, faster than of one at a time.

        Args:
            sentences: Sentences, as `tag` takes them.
        """
        units = [self._units(words) for words in sentences]
        return [[self.labels[tag] for tag in tags.tolist()] for tags in self._tags(units)]

    def spans(self, words: Sequence[str]) -> list[Span]:
        """Find the spans of a sentence: (label, start, end) of each, in their order.

        Args:
            words: As `tag` takes them. Labels of words have no spans.
        """
        (tags,) = self._tags([self._units(words)])
        tables = self._model.span_tables
        found = [] if tables is None else tables.read(tags)
        return [Span(self._model.types[kind], start, end) for kind, start, end in found]

    def with_words(self, words: Iterable[str] | Mapping[str, float]) -> Reader:
        """Make a segmenter that prefers your words where they fit, as `Segmenter.with_words` does.

        Args:
            words: Words, or a dictionary of words and weights, finite numbers ≥ 0. They come to
                those that the reader has.

        Raises:
            TypeError: if `words` is a string, or a word is none.
            ValueError: if a word is empty or has blanks, a weight is not finite or below 0, or the
                file is not that of a segmenter.
        """
        if self.task != "segment":
            raise ValueError(
                f"Words are for segmenters. Received: a tagger of the task {self.task!r}"
            )
        known = {} if self._dictionary is None else self._dictionary.weights
        other = copy(self)
        other._dictionary = Dictionary(known | Dictionary(words).weights)
        return other

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the model to a `.fg` file, whole or not at all.

        Args:
            path: The file, whose name ends in `.fg`; one that is there is replaced.

        Raises:
            ValueError: if the name does not end in `.fg`, or there is no such folder.
        """
        path = Path(path)
        if path.suffix != ".fg":
            raise ValueError(f"A reader's file name should end in .fg. Received: {path}")
        if not path.parent.is_dir():
            raise ValueError(f"There is no folder {path.parent} to write {path.name} into.")
        write_model(self._model, path)

    def _units(self, words: Sequence[str]) -> Sequence[str]:
        characters = self._model.is_of_characters
        units = checked_units(words, self.task, characters=characters)
        return "".join(units) if characters else units

    def _tags(self, sequences: Sequence[Sequence[str]]) -> list[np.ndarray]:
        """Find the numbers of the tags of sequences, with the user's words where there are any."""
        with one_thread():
            return self._tags_by_one_thread(sequences)

    def _tags_by_one_thread(self, sequences: Sequence[Sequence[str]]) -> list[np.ndarray]:
        result = [np.zeros(0, "int32")] * len(sequences)
        for numbers in _together(sequences):
            matches = {
                number: found
                for number in numbers
                if self._dictionary is not None
                and (found := self._dictionary.matches(str(sequences[number])))
            }
            plain = [number for number in numbers if number not in matches]
            found = self._decoded([sequences[number] for number in plain])
            for number, tags in zip(plain, found, strict=True):
                result[number] = tags
            for number, own in matches.items():
                scores = self._scores(self._windows(sequences[number]))
                result[number] = best_tags_with_words(scores, own)
        return result

    def _decoded(self, sequences: Sequence[Sequence[str]]) -> list[np.ndarray]:
        """Find the numbers of the best tags of sequences that have units."""
        if not sequences:
            return []
        spread = [self._windows(sequence) for sequence in sequences]
        found = iter(self._best([window for own in spread for _, window in own]))
        result = []
        for own in spread:
            if len(own) == 1:
                result.append(next(found))
                continue
            tags = stitch([(window, next(found)) for window, _ in own])
            # Two windows may disagree where their tags meet.
            result.append(
                tags if self._is_allowed(tags) else self._best_of_whole(self._scores(own))
            )
        return result

    def _windows(self, sequence: Sequence[str]) -> list[tuple[Window, Sequence[str]]]:
        """Return the windows of a sequence that fit the model, with what is in them."""
        size = len(sequence)
        if size <= self._limit:
            return [(Window(0, size, 0, size), sequence)]
        found = windows(np.ones(size, "int64"), self._limit)
        return [(window, sequence[window.start : window.end]) for window in found]

    def _best(self, sequences: Sequence[Sequence[str]]) -> list[np.ndarray]:
        """Find the numbers of the best tags of sequences that fit the model."""
        blocks = list(self._model.network.emissions(sequences))
        shifts = np.cumsum([0, *(len(block.emissions) for block in blocks)])
        starts = [block.starts + shift for block, shift in zip(blocks, shifts, strict=False)]
        return best_tags(
            np.concatenate([block.emissions for block in blocks]),
            np.concatenate(starts),
            np.concatenate([block.lengths for block in blocks]),
            self._model.transitions,
            self._model.start,
            self._model.end,
        )

    def _scores(self, spread: Sequence[tuple[Window, Sequence[str]]]) -> SequenceScores:
        """Compute the scores of the tags of a sequence from its windows."""
        found = []
        for block in self._model.network.emissions([sequence for _, sequence in spread]):
            for start, length in zip(block.starts.tolist(), block.lengths.tolist(), strict=True):
                found.append(block.emissions[start : start + length])
        emissions = stitch([(window, own) for (window, _), own in zip(spread, found, strict=True)])
        return SequenceScores(
            emissions, self._model.transitions, self._model.start, self._model.end
        )

    def _best_of_whole(self, scores: SequenceScores) -> np.ndarray:
        begin, size = np.zeros(1, "int64"), np.array([len(scores.emissions)])
        return best_tags(scores.emissions, begin, size, *scores[1:])[0]

    def _is_allowed(self, tags: np.ndarray) -> bool:
        model = self._model
        scores = model.start[tags[0]], model.end[tags[-1]], model.transitions[tags[:-1], tags[1:]]
        return all(np.isfinite(score).all() for score in scores)


def _together(sequences: Sequence[Sequence[str]]) -> Iterator[list[int]]:
    """Yield the numbers of sequences that have units, some sequences at a time."""
    numbers: list[int] = []
    size = 0
    for number, sequence in enumerate(sequences):
        if not len(sequence):
            continue
        if numbers and size + len(sequence) > _TOGETHER:
            yield numbers
            numbers, size = [], 0
        numbers.append(number)
        size += len(sequence)
    if numbers:
        yield numbers
