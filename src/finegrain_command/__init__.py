"""The `finegrain` command: demo, train, segment, tag, export, score.

It stands beside the package `finegrain`, not in it. Whatever is imported from there imports all of
it, and with it Keras and a backend, since Keras finds the classes of a saved file only where they
have been registered: `import finegrain` has to be enough for `keras.models.load_model`. A command
cannot wait for that. Its help and its answer to a wrong call come at once, with any backend or
none, and before Keras is imported it has to settle which backend that is.
"""

from __future__ import annotations

import sys

__all__ = ["main"]


def main() -> None:
    """Run the command and end the process with its exit status; on Ctrl-C, with 130."""
    try:
        from finegrain_command.program import run

        status = run()
    except ModuleNotFoundError as error:
        if error.name != "typer":
            raise
        sys.stderr.write("error: typer is not installed. Cure: pip install typer\n")
        status = 2
    except KeyboardInterrupt:
        status = 130
    sys.exit(status)
