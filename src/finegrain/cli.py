"""The `finegrain` command, called from Python."""

from finegrain_command import main

__all__ = ["main"]
