"""What a layer refers to without owning it."""

from __future__ import annotations

from typing import Any


class Apart:
    """Holds an object that Keras should not take for a part of the layer which refers to it.

    Keras tracks each layer that an attribute holds, and stores it in files.

    Args:
        value: The object.
    """

    def __init__(self, value: Any) -> None:
        self.value = value
