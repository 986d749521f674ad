"""Tag schemes of labelled spans: named entities, chunks and their like."""

from __future__ import annotations

from typing import final

import keras

from finegrain.tagging.prefixed import PrefixScheme


@final
@keras.saving.register_keras_serializable(package="finegrain")
class BIO(PrefixScheme):
    """Spans as tags: B-X begins one of type X, I-X goes on with it, O is in none.

    This is IOB2: each span begins with B. The tables are read-only; O comes first unless `labels`
    are all tags in an order of their own. Tags may do without types: `BIO(["O", "B", "I"])` has the
    one type "". All this holds for the other schemes of spans too.

    Args:
        labels: Types, such as ["PER", "LOC"], or all tags, such as ["O", "B-PER", "I-PER"].

    Attributes:
        labels: The names of the tags; a tag's number is its place.
        types: The types of spans.
        numbers: The number of each tag by its name.
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

    prefixes = "BI"
    _opening = "B"
    _inner = "I"
    _closing = "BI"

    def _written(self, length: int, follows: bool, followed: bool) -> str:
        return "B" + "I" * (length - 1)


@final
@keras.saving.register_keras_serializable(package="finegrain")
class BIOES(PrefixScheme):
    """Spans as tags: S-X is one of a single position; others go B-X, I-X, …, E-X; O is in none.

    The tables are read-only; O comes first unless `labels` are all tags in an order of their own.

    Args:
        labels: Types, such as ["PER", "LOC"], or all tags, such as ["O", "S-PER", "B-PER", …].

    Attributes:
        labels: The names of the tags; a tag's number is its place.
        types: The types of spans.
        numbers: The number of each tag by its name.
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

    prefixes = "BIES"
    _opening = "BS"
    _inner = "IE"
    _closing = "ES"

    def _written(self, length: int, follows: bool, followed: bool) -> str:
        return "S" if length == 1 else "B" + "I" * (length - 2) + "E"


@final
@keras.saving.register_keras_serializable(package="finegrain")
class IOB1(PrefixScheme):
    """Spans as tags I-X; B-X begins one that touches another of type X before it; O is in none.

    What CoNLL-2003 was published in. `allowed` has B-X only after a tag of type X; `decode` reads a
    B-X anywhere else as the beginning of a span, which it can only mean.

    Args:
        labels: Types, such as ["PER", "LOC"], or all tags. Attributes and errors: as for `BIO`.

    Example:
        >>> from finegrain.tagging import IOB1
        >>> scheme = IOB1(["PER"])
        >>> scheme.to_names(scheme.encode([("PER", 0, 2), ("PER", 2, 3)], length=4))
        ['I-PER', 'I-PER', 'B-PER', 'O']

    References:
        Erik Tjong Kim Sang, Jorn Veenstra, Representing Text Chunks, 1999,
        https://aclanthology.org/E99-1023/
    """

    prefixes = "BI"
    _opening = "BI"
    _inner = "I"
    _closing = "BI"
    _parting = "B"

    def _written(self, length: int, follows: bool, followed: bool) -> str:
        return ("B" if follows else "I") + "I" * (length - 1)


@final
@keras.saving.register_keras_serializable(package="finegrain")
class IOE1(PrefixScheme):
    """Spans as tags I-X; E-X ends one that touches another of type X after it; O is in none.

    `allowed` has E-X only before a tag of type X; `decode` reads an E-X anywhere else as the end of
    a span, which it can only mean.

    Args:
        labels: Types, such as ["PER", "LOC"], or all tags. Attributes and errors: as for `BIO`.

    Example:
        >>> from finegrain.tagging import IOE1
        >>> scheme = IOE1(["PER"])
        >>> scheme.to_names(scheme.encode([("PER", 0, 2), ("PER", 2, 3)], length=4))
        ['I-PER', 'E-PER', 'I-PER', 'O']

    References:
        Erik Tjong Kim Sang, Jorn Veenstra, Representing Text Chunks, 1999,
        https://aclanthology.org/E99-1023/
    """

    prefixes = "IE"
    _opening = "IE"
    _inner = "IE"
    _outer = "I"
    _closing = "IE"
    _parting = "E"

    def _written(self, length: int, follows: bool, followed: bool) -> str:
        return "I" * (length - 1) + ("E" if followed else "I")


@final
@keras.saving.register_keras_serializable(package="finegrain")
class IOE2(PrefixScheme):
    """Spans as tags: E-X ends one of type X, I-X comes before in it, O is in none.

    The mirror image of `BIO`: each span ends with E.

    Args:
        labels: Types, such as ["PER", "LOC"], or all tags. Attributes and errors: as for `BIO`.

    Example:
        >>> from finegrain.tagging import IOE2
        >>> scheme = IOE2(["PER"])
        >>> scheme.to_names(scheme.encode([("PER", 0, 2), ("PER", 2, 3)], length=4))
        ['I-PER', 'E-PER', 'E-PER', 'O']

    References:
        Erik Tjong Kim Sang, Jorn Veenstra, Representing Text Chunks, 1999,
        https://aclanthology.org/E99-1023/
    """

    prefixes = "IE"
    _opening = "IE"
    _inner = "IE"
    _outer = "I"
    _closing = "E"

    def _written(self, length: int, follows: bool, followed: bool) -> str:
        return "I" * (length - 1) + "E"


@final
@keras.saving.register_keras_serializable(package="finegrain")
class BILOU(PrefixScheme):
    """Spans as tags: U-X is one of a single position; others go B-X, I-X, …, L-X; O is in none.

    `BIOES` in other letters: U (unit) is S, and L (last) is E.

    Args:
        labels: Types, such as ["PER", "LOC"], or all tags. Attributes and errors: as for `BIO`.

    Example:
        >>> from finegrain.tagging import BILOU
        >>> scheme = BILOU(["PER"])
        >>> scheme.to_names(scheme.encode([("PER", 0, 3), ("PER", 4, 5)], length=5))
        ['B-PER', 'I-PER', 'L-PER', 'O', 'U-PER']

    References:
        Lev Ratinov, Dan Roth, Design Challenges and Misconceptions in Named Entity Recognition,
        2009, https://aclanthology.org/W09-1119/
    """

    prefixes = "BILU"
    _opening = "BU"
    _inner = "IL"
    _closing = "LU"

    def _written(self, length: int, follows: bool, followed: bool) -> str:
        return "U" if length == 1 else "B" + "I" * (length - 2) + "L"


@final
@keras.saving.register_keras_serializable(package="finegrain")
class BMESO(PrefixScheme):
    """Spans as tags: S-X is one of a single position; others go B-X, M-X, …, E-X; O is in none.

    `BIOES` with M (middle) for I, as Chinese named entities are often tagged. It is not `BMES`,
    which cuts text into words: its tags have neither types nor O, and it encodes words, not spans.

    Args:
        labels: Types, such as ["PER", "LOC"], or all tags. Attributes and errors: as for `BIO`.

    Example:
        >>> from finegrain.tagging import BMESO
        >>> scheme = BMESO(["LOC"])
        >>> scheme.to_names(scheme.encode([("LOC", 0, 3), ("LOC", 4, 5)], length=5))
        ['B-LOC', 'M-LOC', 'E-LOC', 'O', 'S-LOC']

    References:
        Yue Zhang, Jie Yang, Chinese NER Using Lattice LSTM, 2018,
        https://aclanthology.org/P18-1144/
    """

    prefixes = "BMES"
    _opening = "BS"
    _inner = "ME"
    _outer = "BM"
    _closing = "ES"

    def _written(self, length: int, follows: bool, followed: bool) -> str:
        return "S" if length == 1 else "B" + "M" * (length - 2) + "E"
