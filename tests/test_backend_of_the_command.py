"""The backend that the command takes: what is asked for, else what is there; mistakes in a line."""

import json
import os
import shlex
import subprocess
import sys

import pytest

from finegrain_command.backend import _configured, chosen
from finegrain_command.streams import UserError

pytestmark = pytest.mark.one_backend

COMMAND = [sys.executable, "-m", "finegrain_command"]


@pytest.mark.parametrize(
    ("asked", "configured", "installed", "taken"),
    [
        ("torch", "jax", ["jax", "torch"], "torch"),
        (None, "torch", ["jax", "torch"], "torch"),
        ("", "torch", ["jax", "torch"], "torch"),
        (None, "tensorflow", ["torch"], "torch"),  # Keras names it by itself
        (None, "nonsense", ["torch", "tensorflow"], "torch"),
        (None, None, ["jax", "torch", "tensorflow"], "jax"),
    ],
)
def test_the_backend_that_is_taken(asked, configured, installed, taken):
    """KERAS_BACKEND comes first, then Keras's settings if they can be met, then what is there."""
    assert chosen(asked, configured, installed) == taken


@pytest.mark.parametrize(
    ("asked", "installed", "named"),
    [
        ("foo", ["torch"], ["KERAS_BACKEND=foo", "jax, torch or tensorflow", "=torch"]),
        ("foo", [], ["KERAS_BACKEND=foo", "export KERAS_BACKEND=jax"]),
        ("numpy", ["torch"], ["KERAS_BACKEND=numpy", "export KERAS_BACKEND=torch"]),
        ("jax", ["torch"], ["pip install jax", "export KERAS_BACKEND=torch"]),
        ("jax", [], ["pip install jax", "KERAS_BACKEND"]),
        (None, [], ["pip install jax", "KERAS_BACKEND"]),
    ],
)
def test_a_backend_that_cannot_be_taken(asked, installed, named):
    """The error names KERAS_BACKEND and the cure, in a line."""
    with pytest.raises(UserError) as caught:
        chosen(asked, None, installed)
    for part in named:
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)


def test_without_typer():
    """An optimizer library needs none; the command says so in a line."""
    code = "import sys; sys.modules['typer'] = None; import finegrain_command as c; c.main()"
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 2
    assert ended.stderr == "error: typer is not installed. Cure: pip install typer\n"


@pytest.mark.parametrize(
    ("content", "backend"),
    [('{"backend": "torch"}', "torch"), ("{}", None), ("[]", None), ("{", None), (None, None)],
)
def test_settings_of_keras(tmp_path, content, backend):
    """Settings that are missing or damaged name no backend."""
    file = tmp_path / "keras.json"
    if content is not None:
        file.write_text(content)
    assert _configured(file) == backend


@pytest.fixture
def run(tmp_path):
    """Runs the command where these modules stand in for backends and Keras, before all others."""

    def call(line, modules, **environment):
        for name, source in modules.items():
            (tmp_path / "modules" / name).mkdir(parents=True)
            (tmp_path / "modules" / name / "__init__.py").write_text(source)
        kept = {k: v for k, v in os.environ.items() if k not in ("KERAS_BACKEND", "KERAS_HOME")}
        paths = os.pathsep.join([str(tmp_path / "modules"), *sys.path])
        return subprocess.run(
            f"{shlex.join(COMMAND)} {line}",
            shell=True,
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env=kept | {"HOME": str(tmp_path), "PYTHONPATH": paths} | environment,
        )

    return call


BROKEN = "raise RuntimeError('no such\\nlibrary')"


@pytest.mark.parametrize("line", ["--help", "", "train --help"])
@pytest.mark.parametrize("backend", ["", "foo", "numpy", "jax"])
def test_help_needs_neither_keras_nor_a_backend(run, line, backend):
    """With any backend, broken or unknown, help comes, and it names KERAS_BACKEND."""
    result = run(line, {"keras": BROKEN, "jax": BROKEN}, KERAS_BACKEND=backend)
    assert result.returncode == (0 if line else 2)  # without a command, as for a wrong call
    assert "KERAS_BACKEND" in result.stdout + result.stderr
    assert "Traceback" not in result.stderr


def test_a_backend_that_cannot_be_imported(run):
    """It is one line of error that names KERAS_BACKEND, with status 2."""
    result = run("score m.keras c.txt", {"keras": BROKEN}, KERAS_BACKEND="torch")
    assert result.returncode == 2
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: Keras cannot be loaded with KERAS_BACKEND=torch (RuntimeError: ")


def test_the_backend_is_settled_before_keras_is_imported(run, tmp_path):
    """What Keras's settings name is taken and said; Keras finds it in KERAS_BACKEND."""
    (tmp_path / ".keras").mkdir()
    (tmp_path / ".keras" / "keras.json").write_text(json.dumps({"backend": "torch"}))
    keras = "import os; raise RuntimeError(os.environ['KERAS_BACKEND'])"
    result = run("score m.keras c.txt", {"keras": keras})
    said, error = result.stderr.splitlines()
    assert said.startswith("KERAS_BACKEND is not set: taking torch, which ")
    assert "(RuntimeError: torch)" in error


def test_ctrl_c_during_the_import(run):
    """Ctrl-C ends the command with status 130 and without a word, whatever becomes of it."""
    keras = """
import os, signal
try:
    os.kill(os.getpid(), signal.SIGINT)
except BaseException:
    pass
raise RuntimeError("swallowed")
"""
    result = run("score m.keras c.txt", {"keras": keras}, KERAS_BACKEND="torch")
    assert (result.returncode, result.stdout, result.stderr) == (130, "", "")
