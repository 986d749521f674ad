"""A tagger's files, which are written whole or not at all."""

from __future__ import annotations

import json
import os
import tempfile
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import keras

DESCRIPTION = "tagger.json"
"""What a tagger's file holds beside Keras's model: the task and its tags."""


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


def checked_path(path: str | os.PathLike[str]) -> Path:
    """Return `path`, or raise a ValueError if no model can be written there."""
    path = Path(path)
    if path.suffix != ".keras":
        raise ValueError(f"A model's file name should end in .keras. Received: {path}")
    if not path.parent.is_dir():
        raise ValueError(f"There is no folder {path.parent} to write {path.name} into.")
    return path


def write_tagger(model: keras.Model, config: Mapping[str, Any], path: Path) -> None:
    """Write a model, and beside it what it tags, to a `.keras` file."""
    with whole_file(path) as temporary:
        model.save(temporary)
        with zipfile.ZipFile(temporary, "a") as archive:
            archive.writestr(DESCRIPTION, json.dumps(config))


def read_tagger(path: Path) -> tuple[keras.Model, dict[str, Any]]:
    """Read what `write_tagger` wrote. A file without a description is a segmenter's.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it holds no tagger.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"There is no model file of this name; `finegrain train` makes one. Received: {path}"
        )
    with tagger_errors(path):
        model = keras.models.load_model(path, safe_mode=True)
        with zipfile.ZipFile(path) as archive:
            if DESCRIPTION not in archive.namelist():
                return model, {"name": "segment"}
            config = json.loads(archive.read(DESCRIPTION))
        if not isinstance(config, dict) or "name" not in config:
            raise ValueError(f"what it says of its task is {config!r}")
        return model, config


@contextmanager
def tagger_errors(path: Path) -> Iterator[None]:
    """Turn whatever goes wrong inside into a ValueError: a damaged file can make anything fail."""
    try:
        yield
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ValueError(
            "A tagger's file is what its `save` or `finegrain train` wrote. "
            f"Received: {path}, which cannot be read as one ({reason})"
        ) from error


def save_words(folder: str, words: Iterable[str]) -> None:
    """Write words into the assets of a layer."""
    with open(os.path.join(folder, "words.json"), "w", encoding="utf-8") as file:
        json.dump(sorted(words), file)


def load_words(folder: str) -> frozenset[str]:
    """Read words from the assets of a layer."""
    with open(os.path.join(folder, "words.json"), encoding="utf-8") as file:
        return frozenset(json.load(file))
