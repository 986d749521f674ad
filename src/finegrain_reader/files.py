"""The files of readers: a description in JSON and arrays of numbers, written whole or not."""

from __future__ import annotations

import io
import json
import os
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from finegrain_reader.keras_files import read_keras
from finegrain_reader.model import Model, UnreadableError

DESCRIPTION = "description.json"


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


def write_model(model: Model, path: Path) -> None:
    """Write a model to a `.fg` file."""
    with whole_file(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        archive.writestr(DESCRIPTION, json.dumps(model.description))
        for name, array in model.arrays.items():
            content = io.BytesIO()
            np.lib.format.write_array(content, array, allow_pickle=False)
            archive.writestr(f"{name}.npy", content.getvalue())


def is_of_the_reader(path: Path) -> bool:
    """Return whether `write_model` wrote the file."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return DESCRIPTION in archive.namelist()


def read_model(path: Path) -> Model:
    """Read a model from a `.fg` file, or from a `.keras` file of a tagger.

    Raises:
        FileNotFoundError: if there is no such file.
        UnreadableError: if only Keras can compute it, or a newer reader.
        ValueError: if it holds no tagger.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"There is no model file of this name; `finegrain train` makes one. Received: {path}"
        )
    try:
        with zipfile.ZipFile(path) as archive:
            own = DESCRIPTION in archive.namelist()
            return _read_own(archive) if own else read_keras(archive)
    except UnreadableError as error:
        raise UnreadableError(
            f"This reader needs no Keras, but cannot read {path.name}: {error}. Received: {path}"
        ) from error
    except Exception as error:  # a damaged file can make anything fail
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ValueError(
            "A tagger's file is what its `save` or `finegrain train` wrote. "
            f"Received: {path}, which cannot be read as one ({reason})"
        ) from error


def _read_own(archive: zipfile.ZipFile) -> Model:
    arrays = {}
    for name in archive.namelist():
        if name.endswith(".npy"):
            content = io.BytesIO(archive.read(name))
            arrays[name.removesuffix(".npy")] = np.lib.format.read_array(
                content, allow_pickle=False
            )
    return Model(json.loads(archive.read(DESCRIPTION)), arrays)
