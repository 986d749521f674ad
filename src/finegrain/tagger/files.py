"""Files that are written whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path to write to, then replace `path` with what was written there.

    If anything goes wrong before that, `path` stays as it was, and nothing is left beside it.
    """
    path = Path(os.path.realpath(path))
    with tempfile.TemporaryDirectory(prefix=f".{path.stem[:80]}-", dir=path.parent) as folder:
        temporary = Path(folder, f"new{path.suffix}")
        yield temporary
        os.replace(temporary, path)
