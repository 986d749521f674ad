"""Packages that are only needed for some things: what is said where one is missing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def needs(package: str, what: str, instead: str = "") -> Iterator[None]:
    """Make a failed import inside this context say what to install.

    Args:
        package: The package's name, to import and to install.
        what: What needs it; begins the message.
        instead: What else can be done, to end it.

    Raises:
        ModuleNotFoundError: if that package is missing. That others are, which it imports itself,
            is left as it is.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] != package:
            raise
        raise ModuleNotFoundError(
            f"{what} needs {package}, which is not installed: pip install {package}"
            f"{f', or {instead}' if instead else ''}.",
            name=error.name,
        ) from error
