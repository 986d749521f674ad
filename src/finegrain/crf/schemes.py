"""What a CRF and its metrics need to know of a tag scheme."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from finegrain_reader.spans import SpanTables


@runtime_checkable
class TagScheme(Protocol):
    """What a sequence model needs to know of a tag scheme: its tags and which may follow which.

    Whatever has these four attributes is a tag scheme; there is nothing to inherit.
    """

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the tags. The number of a tag is its place in this tuple."""
        ...

    @property
    def allowed(self) -> NDArray[np.bool_]:
        """`(tags, tags)` array, true at [from, to] where the second tag may follow the first."""
        ...

    @property
    def allowed_start(self) -> NDArray[np.bool_]:
        """`(tags,)` array, true for the tags that a sentence may begin with."""
        ...

    @property
    def allowed_end(self) -> NDArray[np.bool_]:
        """`(tags,)` array, true for the tags that a sentence may end with."""
        ...


@runtime_checkable
class SpanScheme(TagScheme, Protocol):
    """A tag scheme whose tags make spans, such as words or named entities.

    Whatever has these attributes beside those of a `TagScheme` is one.
    """

    @property
    def types(self) -> tuple[str, ...]:
        """The types of spans."""
        ...

    @property
    def spans(self) -> SpanTables:
        """The tables by which spans are read from tags."""
        ...
