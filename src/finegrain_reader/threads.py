"""One thread for products of matrices."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

_limiting = threading.Lock()


@contextmanager
def one_thread() -> Iterator[None]:
    """Keep NumPy's products of matrices to one thread, if threadpoolctl is installed.

    A reader's matrices are small: two threads save a fifth of the time where nothing else runs, and
    take five times as long where the other core is busy. The limit is that of the process. Of
    several callers at a time the first sets it and takes it back: each of them would take back what
    it had found, the second one the limit of the first.
    """
    controller = _controller()
    if controller is None or not _limiting.acquire(blocking=False):
        yield
        return
    try:
        with controller.limit(limits=1, user_api="blas"):
            yield
    finally:
        _limiting.release()


@cache
def _controller() -> Any:
    try:
        from threadpoolctl import ThreadpoolController
    except ModuleNotFoundError:
        return None
    return ThreadpoolController()
