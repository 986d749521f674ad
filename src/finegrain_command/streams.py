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
    """An error that the user can fix. Its message is what the command says."""


def say(text: str) -> None:
    """Write a line to standard error, if anybody can read it there."""
    with contextlib.suppress(OSError):
        if sys.stderr is not None:
            sys.stderr.write(f"{text}\n")
            sys.stderr.flush()


@contextlib.contextmanager
def plain_errors() -> Iterator[None]:
    """Turn an error that the user can fix into one line on standard error and exit status 2."""
    try:
        yield
    except BrokenPipeError:
        raise
    except (OSError, UserError) as error:
        say(f"error: {in_one_line(error)}")
        raise typer.Exit(2) from None


def in_one_line(error: BaseException) -> str:
    """Return the error's message in one line; for a system error, the file's name comes first."""
    if isinstance(error, OSError) and error.strerror:
        parts = (error.filename, error.strerror)
        return ": ".join(str(part) for part in parts if part is not None)
    return " ".join(str(error).split()) or type(error).__name__


def open_closed_streams() -> None:
    """Put the null device in the place of each standard stream that is closed.

    Else the next file to be opened would take that place, and what is meant for the terminal
    would be written into it. Reading standard input and writing to the other two then fail, as
    they should.
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
    """Raise a `UserError` if standard output cannot be written; a broken pipe is passed on.

    For code that writes to standard output alone.
    """
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        give_up_output()
        raise UserError(f"standard output cannot be written: {in_one_line(error)}") from None


def give_up_output() -> None:
    """Drop the output still to be written, which Python would try to write again at exit."""
    with contextlib.suppress(OSError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def groups_of_lines(
    source: BinaryIO, name: str = "standard input", most: int = 256
) -> Iterator[list[str]]:
    """Yield the lines of `source` as they come: each time all that wait, from one to `most`."""
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
