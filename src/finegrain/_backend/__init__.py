"""What each backend does in its own way: one module for each, with the same names in all.

`backend` is the module of the present backend. What most backends do alike, and what each name
means, stands in `neutral`; `others` serves the backends that have no module of their own.
"""

from __future__ import annotations

import importlib
from typing import Any

import keras

from finegrain._backend.support import has_kernels

_name = keras.backend.backend() if has_kernels() else "others"
backend: Any = importlib.import_module(f"finegrain._backend.{_name}")
