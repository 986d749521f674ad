"""Tags of a prefix and a type, such as B-PER: what all schemes of labelled spans share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from finegrain_reader.spans import Span, SpanTables, read_only


class Tag(NamedTuple):
    """The name of a tag in its parts."""

    prefix: str
    kind: str

    @classmethod
    def of(cls, name: str) -> Tag:
        """Take a name apart at its first hyphen; what has none is a prefix without a type."""
        prefix, _, kind = name.partition("-")
        return cls(prefix, kind)

    def __str__(self) -> str:
        return f"{self.prefix}-{self.kind}" if self.kind else self.prefix


OUTSIDE = Tag("O", "")


class PrefixScheme(ABC):
    """What `BIO`, `BIOES` and the like share: tags of a prefix and a type, such as B-PER, and O.

    O is for what is in no span. Tags may do without types and be prefixes only, B, I and O: their
    type is "".

    Args:
        labels: Types, such as ["PER", "LOC"], or all tags, such as ["O", "B-PER", "I-PER"].

    Attributes:
        labels: The names of the tags; a tag's number is its place.
        numbers: The number of each tag by its name.
        types: The types of spans.
        allowed: (tags, tags) boolean, true where the second tag may follow the first.
        allowed_start: (tags,) boolean, true for tags that may come first.
        allowed_end: (tags,) boolean, true for tags that may come last.
        spans: How spans are read from tags, which `finegrain.metrics.SpanF1` needs.

    Raises:
        ValueError: if labels are empty, repeated, or mix types and tags.
    """

    prefixes: ClassVar[str]
    """The letters that tags begin with."""

    # What a span may begin with, what goes on with it and after which tags, what it may end with.
    _opening: ClassVar[str]
    _inner: ClassVar[str]
    _outer: ClassVar[str] = "BI"
    _closing: ClassVar[str]
    # A tag that stands only where two spans of one type touch: the first of the second (B), or the
    # last of the first (E).
    _parting: ClassVar[str] = ""

    def __init__(self, labels: Iterable[str]) -> None:
        given = (labels,) if isinstance(labels, str) else tuple(labels)
        self.labels = self._tags(given)
        self.numbers = {label: number for number, label in enumerate(self.labels)}
        parts = [Tag.of(label) for label in self.labels]
        self.types = tuple(dict.fromkeys(tag.kind for tag in parts if tag != OUTSIDE))
        self.allowed_start = read_only([self._borders(OUTSIDE, tag) for tag in parts])
        self.allowed_end = read_only([self._borders(tag, OUTSIDE) for tag in parts])
        goes_on = [[self._goes_on(a, b) for b in parts] for a in parts]
        self.allowed = read_only(
            [
                [self._goes_on(before, here) or self._borders(before, here) for here in parts]
                for before in parts
            ]
        )
        # Seqeval's strict reading: a run of tags that go on is a span if its ends are right.
        self.spans = SpanTables.of(
            goes_on=goes_on,
            opens=[
                self.types.index(tag.kind) if tag.prefix in self._opening else -1 for tag in parts
            ],
            closes=[tag.prefix in self._closing for tag in parts],
        )

    @classmethod
    def of_types(cls, types: Iterable[str]) -> Self:
        """Make the scheme with all tags of some types.

        Unlike the constructor it takes any name for one: "B-", and "" for tags without types.
        """
        return cls(["O", *(str(Tag(prefix, kind)) for kind in types for prefix in cls.prefixes)])

    def _tags(self, given: tuple[str, ...]) -> tuple[str, ...]:
        """Make the names of the tags, in order, from types, or check those given."""
        name = type(self).__name__
        if not all(isinstance(label, str) and label for label in given) or not given:
            tags = [f"{prefix}-PER" for prefix in self.prefixes]
            raise ValueError(
                f"Expected types, such as {name}(['PER', 'LOC']), or all tags, such as "
                f"{name}({['O', *tags]}). Received: labels={given!r}"
            )
        if len(set(given)) < len(given):
            raise ValueError(f"Expected each label once. Received: labels={given!r}")
        hyphened = tuple(f"{prefix}-" for prefix in self.prefixes)
        # Without O, single letters are types.
        bare = set(self.prefixes) if "O" in given else set()
        as_tags = [x == "O" or x.startswith(hyphened) or x in bare for x in given]
        if not any(as_tags):
            return ("O", *(prefix + kind for kind in given for prefix in hyphened))
        if not all(as_tags) or "O" not in given or set(given) & set(hyphened):
            raise ValueError(
                f"Expected either types, or tags only: O and names with one of the prefixes "
                f"{', '.join(hyphened)}. Received: labels={given!r}"
            )
        return given

    def _goes_on(self, before: Tag, here: Tag) -> bool:
        """Return whether a tag belongs to the span of the tag before."""
        within = before.prefix in self._outer and here.prefix in self._inner
        return within and before.kind == here.kind

    def _borders(self, before: Tag, here: Tag) -> bool:
        """Return whether a span may end, or begin, or none may be, between two tags."""
        closes = before == OUTSIDE or before.prefix in self._closing
        opens = here == OUTSIDE or here.prefix in self._opening
        touch = OUTSIDE not in (before, here) and before.kind == here.kind
        parts = (here.prefix == "B" and "B" in self._parting) or (
            before.prefix == "E" and "E" in self._parting
        )
        return closes and opens and (touch or not parts)

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
        spans = [Span(*span) for span in spans]
        starts, ends = {(x.label, x.start) for x in spans}, {(x.label, x.end) for x in spans}
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
            touching = (label, start) in ends, (label, end) in starts
            tags[start:end] = [str(Tag(x, label)) for x in self._written(end - start, *touching)]
        return self.to_ids([tag or "O" for tag in tags])

    @abstractmethod
    def _written(self, length: int, follows: bool, followed: bool) -> str:
        """Return the prefixes of the tags of a span, a letter for each position.

        Args:
            length: How many positions.
            follows: Whether a span of the same type ends where this one begins.
            followed: Whether one begins where this one ends.
        """

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
        unknown = [name for name in names if name not in self.numbers]
        if unknown:
            raise ValueError(
                f"Expected tags out of {', '.join(self.labels)}. Received: {unknown[0]!r}"
            )
        return np.array([self.numbers[name] for name in names], dtype=np.int32)

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
