"""Standard input, output and error, whatever the shell has made of them, and errors in one line."""

from __future__ import annotations

import contextlib
import io
import os
import queue
import sys
import threading
from collections.abc import Iterator
from typing import BinaryIO

import typer


class UserError(Exception):
    """Something that the user can mend. Its message is what is said."""


def say(text: str) -> None:
    """Writes a line to standard error, if anybody can read it there."""
    with contextlib.suppress(OSError):
        if sys.stderr is not None:
            sys.stderr.write(f"{text}\n")
            sys.stderr.flush()


@contextlib.contextmanager
def plain_errors() -> Iterator[None]:
    """Turns what the user can mend into one line on standard error and exit status 2."""
    try:
        yield
    except BrokenPipeError:
        raise
    except (OSError, UserError) as error:
        say(f"error: {in_one_line(error)}")
        raise typer.Exit(2) from None


def in_one_line(error: BaseException) -> str:
    """What an error says; of a system's error the file's name first."""
    if isinstance(error, OSError) and error.strerror:
        parts = (error.filename, error.strerror)
        return ": ".join(str(part) for part in parts if part is not None)
    return " ".join(str(error).split()) or type(error).__name__


def open_closed_streams() -> None:
    """Puts something in the place of standard streams that are closed.

    Else the next file to be opened would take that place, and what is meant for the terminal
    would be written into it. Reading and writing fail there, as they should.
    """
    for number, mode in enumerate((os.O_WRONLY, os.O_RDONLY, os.O_WRONLY)):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, mode)
    if sys.stdout is None:
        sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115 (stays open)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


@contextlib.contextmanager
def standard_output() -> Iterator[None]:
    """For what writes to standard output alone: says so where that fails."""
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        give_up_output()
        raise UserError(f"standard output cannot be written: {in_one_line(error)}") from None


def give_up_output() -> None:
    """Drops what waits to be written, which Python would try once more at exit."""
    with contextlib.suppress(OSError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def groups_of_lines(
    source: BinaryIO, name: str = "standard input", most: int = 256
) -> Iterator[list[str]]:
    """The lines of `source` as they come: all that are waiting, at least one, at a time."""
    lines: queue.Queue[str | BaseException | None] = queue.Queue(maxsize=2 * most)

    def read() -> None:
        try:
            for number, line in enumerate(source, start=1):
                try:
                    lines.put(line.decode())
                except UnicodeDecodeError as error:
                    raise UserError(
                        f"line {number}: expected UTF-8. Received: {error.reason} at byte "
                        f"{error.start + 1} of the line. Cure: convert the text to UTF-8."
                    ) from error
            lines.put(None)
        except OSError as error:
            lines.put(UserError(f"{name} cannot be read: {in_one_line(error)}"))
        except BaseException as error:
            lines.put(error)

    threading.Thread(target=read, daemon=True).start()
    while True:
        group = [lines.get()]
        with contextlib.suppress(queue.Empty):
            while len(group) < most and isinstance(group[-1], str):
                group.append(lines.get_nowait())
        *texts, last = group
        if isinstance(last, str):
            texts.append(last)
        if texts:
            yield [text for text in texts if isinstance(text, str)]
        if isinstance(last, BaseException):
            raise last
        if last is None:
            return
