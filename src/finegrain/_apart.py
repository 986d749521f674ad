"""What an object of Keras refers to without owning it."""

from __future__ import annotations

from typing import Any


class Apart:
    """Holds an object that Keras should not take for a part of what refers to it.

    Keras tracks each layer that an attribute of a layer holds, and stores in a file what any
    attribute or property shows.

    Args:
        value: The object.
    """

    def __init__(self, value: Any) -> None:
        self.value = value
