"""What each backend does in its own way.

`neutral` says what each name means and how most backends do it; `jax`, `torch` and `tensorflow`
hold what theirs does differently. `backend` has all of the names, for the present backend.
"""

from __future__ import annotations

import importlib
from types import ModuleType, SimpleNamespace
from typing import Any

import keras

from finegrain._backend import neutral
from finegrain._backend.support import has_kernels


def names_of(*modules: ModuleType) -> SimpleNamespace:
    """Collect the names that `neutral` lists, each from the last of `modules` that has it."""
    found = SimpleNamespace()
    for module in modules:
        for name in neutral.__all__:
            if hasattr(module, name):
                setattr(found, name, getattr(module, name))
    return found


_modules = [neutral]
if has_kernels():
    _modules.append(importlib.import_module(f"finegrain._backend.{keras.backend.backend()}"))
backend: Any = names_of(*_modules)
