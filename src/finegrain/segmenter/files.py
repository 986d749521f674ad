"""Files that are written whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Gives a path to write to, and puts what was written in the place of `path` at the end.

    Whatever goes wrong before, `path` stays as it was, and nothing is left beside it.
    """
    path = Path(os.path.realpath(path))
    with tempfile.TemporaryDirectory(prefix=f".{path.stem[:80]}-", dir=path.parent) as folder:
        temporary = Path(folder, f"new{path.suffix}")
        yield temporary
        os.replace(temporary, path)
