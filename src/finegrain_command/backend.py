"""Which backend the command's Keras takes: the one asked for, else the first that is installed."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType

from finegrain_command.streams import UserError, in_one_line, say

BACKENDS = ("jax", "torch", "tensorflow")


def chosen(asked: str | None, configured: str | None, installed: Sequence[str]) -> str:
    """Choose the backend: the one asked for, else the configured one, else the first installed.

    Args:
        asked: What KERAS_BACKEND says, if anything.
        configured: What Keras's own settings say, if anything. Keras writes them by itself, so
            that a backend named there may be nobody's choice, and need not be installed.
        installed: The backends that are installed, the preferred one first.

    Raises:
        UserError: if the backend asked for is unknown or not installed, or if none is.
    """
    if asked and asked not in BACKENDS:
        other = f"export KERAS_BACKEND={installed[0] if installed else BACKENDS[0]}"
        raise UserError(
            f"KERAS_BACKEND should be {', '.join(BACKENDS[:-1])} or {BACKENDS[-1]}. "
            f"Received: KERAS_BACKEND={asked}. Cure: {other}"
        )
    if asked and asked not in installed:
        other = f", or export KERAS_BACKEND={installed[0]}" if installed else ""
        raise UserError(
            f"KERAS_BACKEND asks for {asked}, which is not installed. "
            f"Cure: pip install {asked}{other}"
        )
    if not installed:
        raise UserError(
            "Keras needs a backend, and none is installed. Cure: pip install jax (or torch, or "
            "tensorflow); KERAS_BACKEND chooses among several"
        )
    if asked:
        return asked
    return configured if configured is not None and configured in installed else installed[0]


def settle_backend() -> None:
    """Set KERAS_BACKEND to an installed backend, and say which if nobody had set it."""
    if "keras" in sys.modules:  # Keras has its backend already, as under `python -m finegrain`
        return
    asked = os.environ.get("KERAS_BACKEND")
    settings = _settings_file()
    configured = _configured(settings)
    backend = chosen(asked, configured, list(filter(_is_installed, BACKENDS)))
    if not asked:
        named = f", which {settings} names" if backend == configured else ""
        say(f"KERAS_BACKEND is not set: taking {backend}{named}.")
    os.environ["KERAS_BACKEND"] = backend
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # quiet TensorFlow's messages at import


def load_commands() -> ModuleType:
    """Settle the backend, then import and return the module `commands`.

    Raises:
        UserError: if there is no backend to take, or it cannot be imported.
    """
    settle_backend()
    with ends_at_once():
        try:
            from finegrain_command import commands
        except Exception as error:
            raise UserError(
                f"Keras cannot be loaded with KERAS_BACKEND={os.environ.get('KERAS_BACKEND')} "
                f"({type(error).__name__}: {in_one_line(error)}). Cure: install that backend "
                "anew, or let KERAS_BACKEND name another"
            ) from error
    return commands


@contextlib.contextmanager
def ends_at_once() -> Iterator[None]:
    """Let Ctrl-C end the process at once, with status 130, where nothing is half done.

    A KeyboardInterrupt would not always arrive: some libraries drop or wrap an exception that is
    raised while they are imported, and so does NumPy while it waits for an array of JAX.
    """
    if (
        threading.current_thread() is not threading.main_thread()
        or signal.getsignal(signal.SIGINT) is not signal.default_int_handler
    ):
        yield
        return
    signal.signal(signal.SIGINT, lambda *_: os._exit(130))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _is_installed(name: str) -> bool:
    # An empty folder, as uninstalling may leave it, has a spec as well, but no origin.
    spec = importlib.util.find_spec(name)
    return spec is not None and spec.origin is not None


def _settings_file() -> Path:
    """Return the path where Keras looks for its settings (keras/src/backend/config.py)."""
    home = os.path.expanduser("~")
    folder = Path(home if os.access(home, os.W_OK) else "/tmp", ".keras")
    return Path(os.environ.get("KERAS_HOME", folder), "keras.json").expanduser()


def _configured(settings: Path) -> str | None:
    try:
        return json.loads(settings.read_text(encoding="utf-8"))["backend"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
