"""A user's terminal: programs run in a folder of its own, and see nothing of the tests."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import keras
import pytest

import elsewhere

SIZES = ("small", "full", "off")
SIZE = os.environ.get("FINEGRAIN_REAL", "small")
FULL = SIZE == "full"

BACKEND = keras.backend.backend()
PATIENCE = 600  # seconds until a program that does not end is ended

full_only = pytest.mark.skipif(not FULL, reason="with FINEGRAIN_REAL=full only")


class Terminal:
    """Runs programs in `folder`, with an empty home and the backend of this run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        home = folder / "home"
        home.mkdir()
        environment = elsewhere.environment(BACKEND)
        environment.pop("JAX_COMPILATION_CACHE_DIR", None)  # a user has none
        own = {"PATH": str(Path(sys.executable).parent), "PYTHONPATH": environment["PYTHONPATH"]}
        self.environment = environment | {
            "HOME": str(home),
            "KERAS_HOME": str(home / ".keras"),
            **{
                name: os.pathsep.join(filter(None, [first, os.environ.get(name)]))
                for name, first in own.items()
            },
        }

    def run(self, *command: str | Path, stdin: str = "") -> str:
        """What the program printed; the test fails if it warned or did not end well."""
        done = subprocess.run(
            [str(part) for part in command],
            input=stdin,
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            timeout=PATIENCE,
            encoding="utf-8",
            check=False,
        )
        said = f"{done.stdout}\n{done.stderr}"
        assert done.returncode == 0, said
        assert not re.search(r"\w*Warning\b|^Traceback ", done.stderr, re.M), said
        return done.stdout

    def python(self, *arguments: str | Path) -> str:
        """What Python printed."""
        return self.run(sys.executable, *arguments)
