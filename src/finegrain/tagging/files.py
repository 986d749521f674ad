"""Text files of corpora: read with errors that name the place, written whole or not at all."""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path


class CorpusError(ValueError):
    """A corpus that cannot be read, written or used. Its message is one line and says where."""


def read_lines(path: str | os.PathLike[str]) -> list[str]:
    """Read the lines of a file in UTF-8, without their ends and a byte order mark.

    Raises:
        CorpusError: if the file is missing, a folder, unreadable or not UTF-8.
    """
    expected = "a text file in UTF-8"
    try:
        content = Path(path).read_bytes()
    except FileNotFoundError as error:
        raise corpus_error(path, expected, "no such file", "check the path") from error
    except IsADirectoryError as error:
        raise corpus_error(path, expected, "a folder", "name a file in it") from error
    except (OSError, ValueError) as error:
        received = getattr(error, "strerror", None) or str(error)
        cure = "check the path and the permission to read it"
        raise corpus_error(path, expected, received, cure) from error
    try:
        text = content.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        offset = error.start
        line = len(re.split(b"\r\n|\r|\n", content[:offset]))
        raise corpus_error(
            path,
            expected,
            f"byte 0x{content[offset]:02x} at offset {offset}, in line {line}, which is not UTF-8",
            "convert the file to UTF-8, e.g. with iconv",
        ) from error
    # Not `str.splitlines`, which also ends lines at characters that only separate words here.
    return re.split("\r\n|\r|\n", text)


def write_lines(path: str | os.PathLike[str], lines: Iterable[str]) -> None:
    """Write lines in UTF-8, each ended by LF: all of them, or none if making one raises an error.

    They are written under another name in the same folder, which is then renamed.

    Raises:
        CorpusError: if the file cannot be written.
    """
    target = Path(os.path.realpath(path))
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
    try:
        with open(temporary, "x", encoding="utf-8", newline="\n") as file:
            for line in lines:
                file.write(line + "\n")
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except OSError as error:
        raise corpus_error(
            path,
            "a file that can be written",
            error.strerror or str(error),
            "create its folder or choose another path",
        ) from error
    finally:
        with suppress(OSError):
            temporary.unlink()


def corpus_error(
    path: str | os.PathLike[str], expected: str, received: str, cure: str
) -> CorpusError:
    """Make the error of a file."""
    return CorpusError(
        f"{os.fspath(path)!r}: expected {expected}. Received: {received}. Cure: {cure}."
    )


def empty_file(path: str | os.PathLike[str], expected: str) -> CorpusError:
    """Make the error of a file without a sentence."""
    received = "an empty file or nothing but white space"
    return corpus_error(path, expected, received, "add at least one sentence")


def shortened(value: object, limit: int = 60) -> str:
    """Show a value, or the beginning of a long one."""
    shown = repr(value)
    return shown if len(shown) <= limit else f"{shown[:limit]}…"
