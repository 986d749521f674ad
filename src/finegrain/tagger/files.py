"""A tagger's files, which are written whole or not at all."""

from __future__ import annotations

import json
import os
import traceback
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import keras

from finegrain.crf.constraints import Constraints
from finegrain.tagger.tasks import Task
from finegrain_reader.files import is_of_the_reader, whole_file
from finegrain_reader.keras_files import DESCRIPTION


def checked_path(path: str | os.PathLike[str]) -> Path:
    """Return `path`, or raise a ValueError if no model can be written there."""
    path = Path(path)
    if path.suffix != ".keras":
        raise ValueError(f"A model's file name should end in .keras. Received: {path}")
    if not path.parent.is_dir():
        raise ValueError(f"There is no folder {path.parent} to write {path.name} into.")
    return path


def check_can_be_saved(model: keras.Model) -> None:
    """Raise a ValueError if a part of a model cannot tell what it takes to make it again."""
    try:
        json.dumps(keras.saving.serialize_keras_object(model))
    except Exception as error:  # parts of any class may fail at it in any way
        failed = traceback.extract_tb(error.__traceback__)[-1]
        raise ValueError(
            "The tagger cannot be written to a file: the `get_config` of a layer, backbone or "
            f"tokenizer of its model fails ({type(error).__name__}: {error}; in "
            f"{failed.filename}, line {failed.lineno}). Cure: mend that class, take another "
            "version of the package it comes from, or train without `save_to`."
        ) from error


def write_tagger(model: keras.Model, task: Task, path: Path) -> None:
    """Write a model, and beside it what it tags, to a `.keras` file."""
    check_can_be_saved(model)
    config = task.get_config()
    scheme: Any = task.scheme
    if scheme is not None:
        # For readers that do not know the scheme.
        tables = {name: getattr(scheme, name) for name in Constraints.__annotations__}
        tables |= scheme.spans._asdict()
        config["tables"] = {name: table.tolist() for name, table in tables.items()}
        config["tables"]["types"] = scheme.types
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
    if is_of_the_reader(path):
        raise ValueError(
            "A `.fg` file has no Keras model in it: `finegrain segment`, `finegrain tag` and "
            "`finegrain.reader.load` take it; give here the `.keras` file that it was exported "
            f"from. Received: {path}"
        )
    with tagger_errors(path):
        model = keras.models.load_model(path, safe_mode=True, compile=False)
        with zipfile.ZipFile(path) as archive:
            if DESCRIPTION not in archive.namelist():
                return model, {"name": "segment"}
            config = json.loads(archive.read(DESCRIPTION))
        if not isinstance(config, dict) or "name" not in config:
            raise ValueError(f"what it says of its task is {config!r}")
        config.pop("tables", None)
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
