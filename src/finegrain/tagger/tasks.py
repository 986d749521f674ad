"""What a tagger tags: the characters of words, spans of words, or each word by itself."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from finegrain.crf.by_class import SpanScore
from finegrain.crf.schemes import SpanScheme, TagScheme
from finegrain.tagging.conversion import convert_tags, find_scheme, spans_of
from finegrain.tagging.corpus import read_segmented
from finegrain.tagging.entities import BILOU, BIO, BIOES, BMESO
from finegrain.tagging.files import CorpusError
from finegrain.tagging.label_scores import score_labels
from finegrain.tagging.prefixed import OUTSIDE, Tag
from finegrain.tagging.schemes import BMES
from finegrain.tagging.scores import score
from finegrain.tagging.sentences import as_sentences
from finegrain.tagging.span_scores import score_spans
from finegrain_reader.spans import Span
from finegrain_reader.words import cut

Corpus = Any


class Example(NamedTuple):
    """A sequence with its tags.

    Attributes:
        units: Its words, or its characters.
        tags: The name of the tag of each unit.
    """

    units: Sequence[str]
    tags: Sequence[str]


class Task(Protocol):
    """What is tagged: how corpora are read, which tags there are, and how results are scored."""

    name: str

    @property
    def labels(self) -> tuple[str, ...]:
        """The names of the tags; empty before a corpus has told them."""
        ...

    @property
    def scheme(self) -> TagScheme | None:
        """The scheme of the tags; `None` if any may follow any."""
        ...

    def read(self, corpus: Corpus) -> list[Example]:
        """Read a corpus: its sequences that have units."""
        ...

    def learn(self, examples: Sequence[Example]) -> None:
        """Take the tags from a training corpus."""
        ...

    def types(self) -> dict[str, list[str]]:
        """Return the tags of each type of span; none where spans have no types."""
        ...

    def may_cut(self, example: Example) -> np.ndarray:
        """Say for each unit of a sequence whether a piece of it may begin there."""
        ...

    def words(self, examples: Sequence[Example]) -> set[str]:
        """Return the words of sequences."""
        ...

    def spans(self, tags: Sequence[str]) -> list[Span]:
        """Read the spans of a sequence from its tags."""
        ...

    def tags_of(self, span: Span, length: int) -> np.ndarray:
        """Return what holds of the tags of just the sequences that have this span.

        Args:
            span: The span.
            length: Of the sequence.

        Returns:
            (length, tags) boolean: the tags that a unit can have.
        """
        ...

    def score(
        self,
        examples: Sequence[Example],
        predicted: Sequence[Sequence[str]],
        known: Collection[str] | None,
    ) -> Any:
        """Score predicted tags."""
        ...

    def figures(self, score: Any) -> dict[str, float]:
        """Return the figures of a score for the logs; the first is the one that counts."""
        ...

    def get_config(self) -> dict[str, Any]:
        """Return what `from_config` makes an equal task of."""
        ...


class Segmentation:
    """Text without blanks is cut into words: each character is the s, b, m or e of a word."""

    name = "segment"

    def __init__(self) -> None:
        self.scheme = BMES()
        self.labels = self.scheme.labels

    def read(self, corpus: Corpus) -> list[Example]:
        """Read sentences as lists of words, or a file of them."""
        given = read_segmented(corpus) if isinstance(corpus, (str, os.PathLike)) else corpus
        examples: list[Example] = []
        for words in given:
            if isinstance(words, str):
                raise TypeError(
                    "A sentence should be a sequence of words, such as ['the', 'cat']. "
                    f"Received: {words!r}"
                )
            if any(words):
                examples.append(self.example(words))
        return examples

    def example(self, words: Sequence[str]) -> Example:
        """Write a sentence of words as characters and tags."""
        tags = self.scheme.encode(words)
        return Example("".join(words), [self.labels[tag] for tag in tags])

    def learn(self, examples: Sequence[Example]) -> None:
        """Do nothing: the tags are always the same."""

    def types(self) -> dict[str, list[str]]:
        """Return nothing: words have no types."""
        return {}

    def may_cut(self, example: Example) -> np.ndarray:
        """Say for each character whether a word begins there."""
        return np.array([tag in "sb" for tag in example.tags], bool)

    def cut(self, text: Sequence[str], tags: Sequence[str]) -> list[str]:
        """Cut a text into words where its tags say so."""
        numbers = [self.labels.index(tag) for tag in tags]
        return self.scheme.decode("".join(text), numbers)

    def words(self, examples: Sequence[Example]) -> set[str]:
        """Return the words of sentences."""
        return {word for example in examples for word in self.cut(*example)}

    def spans(self, tags: Sequence[str]) -> list[Span]:
        """Read where the words are."""
        numbers = np.array([self.labels.index(tag) for tag in tags], "int32")
        return [Span("word", start, end) for _, start, end in self.scheme.spans.read(numbers)]

    def tags_of(self, span: Span, length: int) -> np.ndarray:
        """Return the tags of the sequences that have this word."""
        written = self.scheme.encode(["x" * (span.end - span.start)])
        return exactly(self.scheme, written, span, length)

    def score(
        self,
        examples: Sequence[Example],
        predicted: Sequence[Sequence[str]],
        known: Collection[str] | None,
    ) -> Any:
        """Score words in SIGHAN's terms."""
        gold = [self.cut(*example) for example in examples]
        numbers = [np.array([self.labels.index(tag) for tag in tags]) for tags in predicted]
        found = cut(["".join(example.units) for example in examples], numbers)
        return score(gold, found, known)

    def figures(self, score: Any) -> dict[str, float]:
        """Return F1, precision and recall."""
        return {"f1": score.f1, "precision": score.precision, "recall": score.recall}

    def get_config(self) -> dict[str, Any]:
        """Return the name."""
        return {"name": self.name}


class Spans:
    """Spans of words are found, such as names: their tags are B-PER, I-PER, O and their like.

    Args:
        scheme: The name of the scheme of the model's tags. By default it is the corpus's own; in
            place of IOB1, IOE1 and IOE2, in which a tag depends on its neighbours, `"BIO"`.
        labels: The tags, if they are known.
    """

    name = "spans"

    def __init__(self, scheme: str | None = None, labels: Sequence[str] = ()) -> None:
        if scheme is not None and scheme not in SCHEMES:
            raise ValueError(
                f"`scheme` should be one of {', '.join(SCHEMES)}. Received: scheme={scheme!r}"
            )
        self.kind = scheme
        self.scheme: Any = SCHEMES[scheme](labels) if scheme and labels else None

    @property
    def labels(self) -> tuple[str, ...]:
        """The names of the tags."""
        return () if self.scheme is None else self.scheme.labels

    def read(self, corpus: Corpus) -> list[Example]:
        """Read sentences of words and tags, whatever scheme of spans these are written in.

        Raises:
            CorpusError: if the tags are not those of spans, or keep to no scheme.
        """
        sentences = as_sentences(corpus)
        found = find_scheme([tags for _, tags in sentences])
        if found is None and any(tag != "O" for _, tags in sentences for tag in tags):
            raise CorpusError(
                "Expected tags of spans, such as B-PER, I-PER and O; for a label at each word, as "
                f"of its part of speech, the task is 'labels'. Received: {sentences[0][1][0]!r}"
            )
        if self.kind is None:
            name = type(found).__name__
            self.kind = name if name in SCHEMES else "BIO"
        tags = convert_tags([tags for _, tags in sentences], SCHEMES[self.kind])
        return [Example(words, own) for (words, _), own in zip(sentences, tags, strict=True)]

    def learn(self, examples: Sequence[Example]) -> None:
        """Take the types of spans from a training corpus.

        Raises:
            CorpusError: if there are no spans.
        """
        types = sorted({span.label for _, tags in examples for span in spans_of(tags)})
        if not types:
            raise CorpusError(
                "Training needs spans, such as B-PER, I-PER. Received: "
                f"{len(examples)} sentences whose words are all tagged O"
            )
        self.scheme = SCHEMES[self.kind or "BIO"](types)

    def types(self) -> dict[str, list[str]]:
        """Return the tags of each type, such as B-PER and I-PER of PER."""
        types: dict[str, list[str]] = {}
        for label in self.labels:
            if (tag := Tag.of(label)) != OUTSIDE:
                types.setdefault(tag.kind, []).append(label)
        return types

    def may_cut(self, example: Example) -> np.ndarray:
        """Say for each word whether it is in no span, or the first of one."""
        inside = np.zeros(len(example.units), bool)
        for span in spans_of(example.tags):
            inside[span.start + 1 : span.end] = True
        return ~inside

    def words(self, examples: Sequence[Example]) -> set[str]:
        """Return the words of sentences."""
        return {word for words, _ in examples for word in words}

    def spans(self, tags: Sequence[str]) -> list[Span]:
        """Read the spans of a sentence."""
        return self.scheme.decode(list(tags)) if len(tags) else []

    def tags_of(self, span: Span, length: int) -> np.ndarray:
        """Return the tags of the sequences that have this span."""
        moved = Span(span.label, 0, span.end - span.start)
        return exactly(self.scheme, self.scheme.encode([moved], moved.end), span, length)

    def score(
        self,
        examples: Sequence[Example],
        predicted: Sequence[Sequence[str]],
        known: Collection[str] | None,
    ) -> SpanScore:
        """Score spans."""
        return score_spans([tags for _, tags in examples], predicted)

    def figures(self, score: SpanScore) -> dict[str, float]:
        """Return F1, precision and recall over all types together."""
        return {"f1": score.f1, "precision": score.precision, "recall": score.recall}

    def get_config(self) -> dict[str, Any]:
        """Return the name, the scheme and its tags."""
        return {"name": self.name, "scheme": self.kind, "labels": list(self.labels)}


class Labels:
    """Each word is given a label, such as its part of speech.

    Args:
        labels: The labels, if they are known.
    """

    name = "labels"
    scheme = None

    def __init__(self, labels: Sequence[str] = ()) -> None:
        self.labels = tuple(labels)

    def read(self, corpus: Corpus) -> list[Example]:
        """Read sentences of words and labels."""
        return [Example(words, tags) for words, tags in as_sentences(corpus)]

    def learn(self, examples: Sequence[Example]) -> None:
        """Take the labels from a training corpus."""
        self.labels = tuple(sorted({tag for _, tags in examples for tag in tags}))

    def types(self) -> dict[str, list[str]]:
        """Return nothing: labels of words have no types."""
        return {}

    def may_cut(self, example: Example) -> np.ndarray:
        """Say that a sentence may be cut anywhere."""
        return np.ones(len(example.units), bool)

    def words(self, examples: Sequence[Example]) -> set[str]:
        """Return the words of sentences."""
        return {word for words, _ in examples for word in words}

    def spans(self, tags: Sequence[str]) -> list[Span]:
        """Return no spans: labels of words have none."""
        return []

    def tags_of(self, span: Span, length: int) -> np.ndarray:
        """Raise an error: there are no spans."""
        raise NotImplementedError

    def score(
        self,
        examples: Sequence[Example],
        predicted: Sequence[Sequence[str]],
        known: Collection[str] | None,
    ) -> Any:
        """Score labels."""
        return score_labels([tags for _, tags in examples], predicted)

    def figures(self, score: Any) -> dict[str, float]:
        """Return the accuracy."""
        return {"accuracy": score.accuracy}

    def get_config(self) -> dict[str, Any]:
        """Return the name and the labels."""
        return {"name": self.name, "labels": list(self.labels)}


def exactly(scheme: SpanScheme, written: np.ndarray, span: Span, length: int) -> np.ndarray:
    """Return the tags of the sequences that have just this span: the runs beside it are others.

    Args:
        scheme: The scheme.
        written: The span's own tags.
        span: The span.
        length: Of the sequence.

    Returns:
        (length, tags) boolean: the tags that a unit can have.
    """
    breaks = scheme.spans.breaks[1:, 1:]
    allowed = np.ones((length, len(scheme.labels)), bool)
    allowed[span.start : span.end] = np.arange(len(scheme.labels)) == written[:, None]
    if span.start:
        allowed[span.start - 1] = breaks[:, written[0]]
    if span.end < length:
        allowed[span.end] = breaks[written[-1]]
    return allowed


SCHEMES = {kind.__name__: kind for kind in (BIO, BIOES, BILOU, BMESO)}


def get_task(name: str, scheme: str | None = None, labels: Sequence[str] = ()) -> Task:
    """Make the task of that name.

    Raises:
        ValueError: if there is none, or it takes no such scheme.
    """
    if name == "spans":
        return Spans(scheme, labels)
    if name not in ("labels", "segment"):
        raise ValueError(
            f"`task` should be one of 'labels', 'segment' and 'spans'. Received: task={name!r}"
        )
    if scheme is not None:
        raise ValueError(
            f"A scheme is for the task 'spans'. Received: task={name!r}, scheme={scheme!r}"
        )
    return Labels(labels) if name == "labels" else Segmentation()
