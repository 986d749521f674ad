"""What the commands do that put a trained model to work, without Keras where that can be."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import finegrain_reader
from finegrain_command.backend import load_commands
from finegrain_command.streams import UserError, groups_of_lines, say, standard_output
from finegrain_reader.dictionary import WEIGHT


def load_model(model: Path, kind: Literal["Segmenter", "Tagger"]) -> Any:
    """Load a model: as a reader, or with Keras what only Keras can compute.

    Raises:
        UserError: if the file holds none.
    """
    try:
        return finegrain_reader.load(model)
    except finegrain_reader.UnreadableError as error:
        if model.suffix != ".keras":
            raise UserError(str(error)) from error
        return load_commands().load(model, kind)
    except ValueError as error:
        raise UserError(str(error)) from error


def segment(model: Path, file: Path | None, separator: str, words: Path | None) -> None:
    """Print a file, or standard input, with a separator between the words."""
    segmenter = load_model(model, "Segmenter")
    if isinstance(segmenter, finegrain_reader.Reader) and segmenter.task != "segment":
        raise UserError(
            f"{model} holds a tagger of the task {segmenter.task!r}. Cure: finegrain tag"
        )
    if words is not None:
        segmenter = segmenter.with_words(_weighted_words(words))

    def write(lines: list[str]) -> None:
        for words in segmenter.segment_many(lines):
            parts = words[:1]
            for before, word in pairwise(words):
                # The text's own blanks, the ends of its lines among them, stay as they are.
                apart = before.isspace() or word.isspace()
                parts += [word] if apart else [separator, word]
            sys.stdout.buffer.write("".join(parts).encode())

    _for_lines(file, write)


def _weighted_words(file: Path) -> dict[str, float]:
    """Read a word a line, each with its weight behind a TAB or without."""
    found: dict[str, float] = {}
    try:
        lines = file.read_text("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise UserError(f"{file} is not UTF-8. Cure: convert it, as with iconv") from error
    for number, line in enumerate(lines, start=1):
        word, tab, weight = line.strip().partition("\t")
        if not word:
            continue
        value = None
        with contextlib.suppress(ValueError):
            value = float(weight) if tab else WEIGHT
        if value is None or not 0 <= value < float("inf") or word.split() != [word]:
            raise UserError(
                f"{file}: expected a word, and a weight of 0 or more behind a TAB if it is to have "
                f"one. Received: {line.strip()[:60]!r} in line {number}. Cure: correct that line"
            )
        found[word] = value
    return found


def tag(model: Path, file: Path | None) -> None:
    """Print the words of a file, or of standard input, in a column, and their tags in another."""
    tagger = load_model(model, "Tagger")
    if tagger.task == "segment":
        raise UserError(f"{model} holds a segmenter. Cure: finegrain segment")

    def write(lines: list[str]) -> None:
        sentences = [line.split() for line in lines]
        for words, tags in zip(sentences, tagger.tag_many(sentences), strict=True):
            rows = "".join(f"{word}\t{tag}\n" for word, tag in zip(words, tags, strict=True))
            sys.stdout.buffer.write(f"{rows}\n".encode() if words else b"")

    _for_lines(file, write)


def export(model: Path, out: Path) -> None:
    """Write a model to a file that is read without Keras."""
    try:
        reader = finegrain_reader.load(model)
    except ValueError as error:
        raise UserError(str(error)) from error
    try:
        reader.save(out)
    except OSError as error:
        raise UserError(f"{out} cannot be written: {error.strerror or error}") from error
    say(f"{out} holds the model ({out.stat().st_size / 1e6:.1f} MB). It is used without Keras:")
    call = 'segment("…")' if reader.task == "segment" else 'tag(["…", "…"])'
    say(f'  from finegrain.reader import load; load("{out.name}").{call}')


def _for_lines(file: Path | None, write: Callable[[list[str]], None]) -> None:
    """Write what comes of a file's lines, or standard input's, as they come."""
    with contextlib.ExitStack() as stack:
        # Standard input gets a reader of its own: Python closes the one in `sys` at exit, and
        # aborts if the thread that reads waits in it.
        source = (
            open(0, "rb", closefd=False)  # noqa: SIM115 (never closed)
            if file is None
            else stack.enter_context(file.open("rb"))
        )
        name = "standard input" if file is None else str(file)
        for lines in groups_of_lines(source, name):
            with standard_output():
                write(lines)
