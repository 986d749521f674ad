"""Scripts under another backend, in a process that serves all tests: starting one takes longest."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

import finegrain

# What scripts print goes where errors go: answers have the pipe for themselves.
SERVER = """
import json, os, sys, traceback
answers = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)
import keras
for line in sys.stdin:
    script, *arguments = json.loads(line)
    sys.argv = ["-c", *arguments]
    keras.utils.clear_session(free_memory=False)
    try:
        exec(compile(script, "script", "exec"), {"__name__": "__main__"})
        answer = ""
    except BaseException:
        answer = traceback.format_exc()
    print(json.dumps(answer), file=answers, flush=True)
"""


class Elsewhere:
    """Runs scripts under other backends, one process for each."""

    def __init__(self) -> None:
        self.servers: dict[str, subprocess.Popen[str]] = {}

    def __call__(self, backend: str, script: str, *arguments: Any) -> None:
        """Runs a script, or skips the test where the backend is this one or not installed."""
        if backend == keras.backend.backend():
            pytest.skip("the backend of this run")
        if importlib.util.find_spec(backend) is None:
            pytest.skip(f"{backend} is not installed")
        if backend not in self.servers:
            self.servers[backend] = self._start(backend)
        server = self.servers[backend]
        assert server.stdin is not None
        assert server.stdout is not None
        print(json.dumps([script, *map(str, arguments)]), file=server.stdin, flush=True)
        line = server.stdout.readline()
        assert line, f"the process of {backend} has ended"
        answer = json.loads(line)
        assert not answer, answer

    def close(self) -> None:
        """Ends the processes."""
        for server in self.servers.values():
            server.communicate()

    @staticmethod
    def _start(backend: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-c", SERVER],
            env=environment(backend),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )


def on_devices(module: str, devices: int, folder: Path) -> list[np.ndarray]:
    """What `python -m module devices file` writes to the file, on JAX with so many devices."""
    file = folder / f"{devices}.npz"
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
    done = subprocess.run(
        [sys.executable, "-m", module, str(devices), str(file)],
        env=environment("jax") | {"XLA_FLAGS": flags},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return list(np.load(file).values())


def environment(backend: str) -> dict[str, str]:
    """Where a process of another backend finds finegrain and what tests share."""
    paths = [Path(finegrain.__file__).parents[1], Path(__file__).parent]
    return os.environ | {
        "KERAS_BACKEND": backend,
        "PYTHONPATH": os.pathsep.join(map(str, paths)),
        "TF_CPP_MIN_LOG_LEVEL": "3",
    }
