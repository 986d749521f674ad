"""Warnings of the library's own, among those that Keras's use of NumPy brings."""

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def warned(*patterns: str) -> Iterator[None]:
    """Expects just one UserWarning for each of `patterns`, in their order."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.filterwarnings("always", category=UserWarning)
        yield
    messages = [str(w.message) for w in caught if issubclass(w.category, UserWarning)]
    assert len(messages) == len(patterns), messages
    for pattern, message in zip(patterns, messages, strict=True):
        assert re.search(pattern, message, re.DOTALL), message
