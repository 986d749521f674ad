"""Tag schemes of labelled spans: named entities, chunks and their like."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, ClassVar, NamedTuple, Self, final

import keras
import numpy as np
from numpy.typing import ArrayLike, NDArray

from finegrain.crf.schemes import SpanTables, read_only


class Span(NamedTuple):
    """A labelled piece of a sequence.

    Attributes:
        label: What it is, such as "PER".
        start: Its first position.
        end: The position after its last.
    """

    label: str
    start: int
    end: int


class _Prefixed:
    """Tags of a prefix and a type, such as B-PER, and O for what is in no span."""

    _prefixes: ClassVar[str]
    # What a span begins with, goes on with after any but a closing tag, and must end with.
    _opening: ClassVar[str]
    _inner: ClassVar[str]
    _closing: ClassVar[str]

    def __init__(self, labels: Iterable[str]) -> None:
        given = (labels,) if isinstance(labels, str) else tuple(labels)
        self.labels = self._tags(given)
        parts = [tag.partition("-") for tag in self.labels]
        prefixes, kinds = [part[0] for part in parts], [part[2] for part in parts]
        self.types = tuple(dict.fromkeys(kind for kind in kinds if kind))
        opens, closes = self._opens_or_o(prefixes), self._closes_or_o(prefixes)
        goes_on = [[self._goes_on(a, b) for b in parts] for a in parts]
        self.allowed_start = read_only(opens)
        self.allowed_end = read_only(closes)
        self.allowed = read_only(
            [
                [goes_on[a][b] or (closes[a] and opens[b]) for b in range(len(parts))]
                for a in range(len(parts))
            ]
        )
        # Seqeval's strict reading: a run of tags that go on is a span if its ends are right.
        self.spans = SpanTables.of(
            goes_on=goes_on,
            opens=[
                self.types.index(kind) if prefix in self._opening else -1
                for prefix, kind in zip(prefixes, kinds, strict=True)
            ],
            closes=[prefix in self._closing for prefix in prefixes],
        )

    def _tags(self, given: tuple[str, ...]) -> tuple[str, ...]:
        """Make the names of the tags, in order, from types, or check those given."""
        name = type(self).__name__
        prefixes = tuple(f"{prefix}-" for prefix in self._prefixes)
        as_tags = [label == "O" or label.startswith(prefixes) for label in given]
        if not all(isinstance(label, str) and label for label in given) or not given:
            raise ValueError(
                f"Expected types, such as {name}(['PER', 'LOC']), or all tags, such as "
                f"{name}(['O', 'B-PER', 'I-PER']). Received: labels={given!r}"
            )
        if len(set(given)) < len(given):
            raise ValueError(f"Expected each label once. Received: labels={given!r}")
        if not any(as_tags):
            return ("O", *(prefix + kind for kind in given for prefix in prefixes))
        if not all(as_tags) or "O" not in given or set(given) & set(prefixes):
            raise ValueError(
                f"Expected either types, or tags only: O and names with one of the prefixes "
                f"{', '.join(prefixes)}. Received: labels={given!r}"
            )
        return given

    def _opens_or_o(self, prefixes: list[str]) -> list[bool]:
        return [prefix in self._opening or prefix == "O" for prefix in prefixes]

    def _closes_or_o(self, prefixes: list[str]) -> list[bool]:
        return [prefix in self._closing or prefix == "O" for prefix in prefixes]

    def _goes_on(self, before: tuple[str, str, str], here: tuple[str, str, str]) -> bool:
        """Return whether a tag belongs to the span of the tag before."""
        within = before[0] in "BI" and here[0] in self._inner
        return within and before[2] == here[2]

    def encode(self, spans: Iterable[Span | tuple[str, int, int]], length: int) -> NDArray:
        """Write the spans of one sequence as tag numbers.

        Args:
            spans: (label, start, end), in any order, none of them overlapping.
            length: How many positions the sequence has.

        Returns:
            (length,) int32 tag numbers.

        Raises:
            ValueError: if a label is unknown, if spans overlap, are empty or leave the sequence,
                or if a needed tag is not among `labels`.
        """
        tags = [""] * length
        for label, start, end in spans:
            if label not in self.types:
                raise ValueError(
                    f"Expected one of the types {', '.join(self.types)}. Received: {label!r}"
                )
            if not 0 <= start < end <= length or any(tags[start:end]):
                raise ValueError(
                    f"Expected spans of at least one position within {length}, which do not "
                    f"overlap. Received: {Span(label, start, end)}"
                )
            tags[start:end] = [f"{prefix}-{label}" for prefix in self._written(end - start)]
        return self.to_ids([tag or "O" for tag in tags])

    def _written(self, length: int) -> str:
        """Return the prefixes of the tags of a span, one letter for each of `length` positions."""
        raise NotImplementedError

    def decode(self, tags: ArrayLike) -> list[Span]:
        """Read spans from tags, as seqeval does in its strict mode.

        Tags in an order that the scheme forbids form no span: none begins without its first tag.

        Args:
            tags: (length,) tag numbers, or names. Negative numbers are in no span.

        Returns:
            The spans in their order.

        Raises:
            ValueError: if a tag is not one of the scheme's.
        """
        given = np.asarray(tags)
        if given.dtype.kind in "US":
            given = self.to_ids(given.tolist())
        if given.ndim != 1 or (given.size and given.dtype.kind not in "iu"):
            raise ValueError(
                "Expected the tags of one sequence, as numbers or names. "
                f"Received: tags of shape {given.shape} and type {given.dtype}"
            )
        if given.size and given.max() >= len(self.labels):
            raise ValueError(
                f"Expected tag numbers below {len(self.labels)}. Received: {given.max()}"
            )
        return [Span(self.types[kind], start, end) for kind, start, end in self.spans.read(given)]

    def to_ids(self, names: Sequence[str]) -> NDArray[np.int32]:
        """Return the numbers of named tags, (length,) int32.

        Raises:
            ValueError: if a name is not one of `labels`.
        """
        numbers = {label: number for number, label in enumerate(self.labels)}
        unknown = [name for name in names if name not in numbers]
        if unknown:
            raise ValueError(
                f"Expected tags out of {', '.join(self.labels)}. Received: {unknown[0]!r}"
            )
        return np.array([numbers[name] for name in names], dtype=np.int32)

    def to_names(self, tags: ArrayLike) -> list[str]:
        """Return the names of tag numbers, without the negative ones, which padding has."""
        return [self.labels[tag] for tag in np.asarray(tags, dtype=np.int64) if tag >= 0]

    def get_config(self) -> dict[str, Any]:
        """Return the argument that makes an equal scheme."""
        return {"labels": list(self.labels)}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """Make the scheme that `get_config` describes."""
        return cls(**config)

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and other.labels == self.labels

    def __hash__(self) -> int:
        return hash((type(self), self.labels))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({list(self.labels)!r})"


@final
@keras.saving.register_keras_serializable(package="finegrain")
class BIO(_Prefixed):
    """Spans as tags: B-X begins one of type X, I-X goes on with it, O is in none.

    This is IOB2: each span begins with B. The tables are read-only; O comes first unless `labels`
    are all tags in an order of their own.

    Args:
        labels: Types, such as ["PER", "LOC"], or all tags, such as ["O", "B-PER", "I-PER"].

    Attributes:
        labels: The names of the tags; a tag's number is its place.
        types: The types of spans.
        allowed: (tags, tags) boolean, true where the second tag may follow the first.
        allowed_start: (tags,) boolean, true for tags that may come first.
        allowed_end: (tags,) boolean, true for tags that may come last.
        spans: How spans are read from tags, which `finegrain.metrics.SpanF1` needs.

    Raises:
        ValueError: if labels are empty, repeated, or mix types and tags.

    Example:
        >>> from finegrain.tagging import BIO
        >>> scheme = BIO(["PER", "LOC"])
        >>> scheme.labels
        ('O', 'B-PER', 'I-PER', 'B-LOC', 'I-LOC')
        >>> tags = scheme.encode([("PER", 0, 2), ("LOC", 3, 4)], length=5)
        >>> scheme.to_names(tags)
        ['B-PER', 'I-PER', 'O', 'B-LOC', 'O']
        >>> scheme.decode(tags)
        [Span(label='PER', start=0, end=2), Span(label='LOC', start=3, end=4)]

    References:
        Lance Ramshaw, Mitchell Marcus, Text Chunking using Transformation-Based Learning, 1995,
        https://aclanthology.org/W95-0107/
        Hiroki Nakayama, seqeval, strict mode, https://github.com/chakki-works/seqeval
    """

    _prefixes = "BI"
    _opening = "B"
    _inner = "I"
    _closing = "BI"

    def _written(self, length: int) -> str:
        return "B" + "I" * (length - 1)


@final
@keras.saving.register_keras_serializable(package="finegrain")
class BIOES(_Prefixed):
    """Spans as tags: S-X is one of a single position; others go B-X, I-X, …, E-X; O is in none.

    The tables are read-only; O comes first unless `labels` are all tags in an order of their own.

    Args:
        labels: Types, such as ["PER", "LOC"], or all tags, such as ["O", "S-PER", "B-PER", …].

    Attributes:
        labels: The names of the tags; a tag's number is its place.
        types: The types of spans.
        allowed: (tags, tags) boolean, true where the second tag may follow the first.
        allowed_start: (tags,) boolean, true for tags that may come first.
        allowed_end: (tags,) boolean, true for tags that may come last.
        spans: How spans are read from tags, which `finegrain.metrics.SpanF1` needs.

    Raises:
        ValueError: if labels are empty, repeated, or mix types and tags.

    Example:
        >>> from finegrain.tagging import BIOES
        >>> scheme = BIOES(["PER"])
        >>> scheme.to_names(scheme.encode([("PER", 0, 3), ("PER", 4, 5)], length=5))
        ['B-PER', 'I-PER', 'E-PER', 'O', 'S-PER']
        >>> scheme.decode(["B-PER", "I-PER", "O", "S-PER"])  # the first has no end
        [Span(label='PER', start=3, end=4)]

    References:
        Lev Ratinov, Dan Roth, Design Challenges and Misconceptions in Named Entity Recognition,
        2009, https://aclanthology.org/W09-1119/
    """

    _prefixes = "BIES"
    _opening = "BS"
    _inner = "IE"
    _closing = "ES"

    def _written(self, length: int) -> str:
        return "S" if length == 1 else "B" + "I" * (length - 2) + "E"
