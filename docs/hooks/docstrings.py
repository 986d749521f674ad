"""Writes into docstrings the Markdown that their form in the source leaves out."""

import re
from typing import Any

import griffe

# A session, up to the next blank line, that does not yet stand in a fenced block.
SESSION = re.compile(r"(?:^|(?<=\n\n)|(?<=:\n))( *)(>>> .*?)(?=\n\s*\n|\s*\Z)", re.DOTALL)
CALL_ARGUMENTS = re.compile(r"(?<=^Call arguments:\n)(?: {4}.*\n?)+", re.MULTILINE)
ARGUMENT = re.compile(r"^ {4}(\w+):", re.MULTILINE)


class Docstrings(griffe.Extension):
    """An extension that fences the sessions and lists the call arguments of every docstring."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rewrite the docstring of an object when it has been read."""
        if obj.docstring is not None:
            text = SESSION.sub(r"\n\1```pycon\n\1\2\n\1```", obj.docstring.value)
            obj.docstring.value = CALL_ARGUMENTS.sub(
                lambda section: ARGUMENT.sub(r"    - `\1`:", section[0]), text
            )
