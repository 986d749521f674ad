"""Names of the last release: they work, warn, and go with the next one."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Mapping
from typing import Any


def warn(old: str, new: str, stacklevel: int = 3) -> None:
    """Warn that a name goes with the next release, and say what to use instead.

    Args:
        old: What was used.
        new: What to use.
        stacklevel: That of `warnings.warn`, whose caller is to be named.
    """
    warnings.warn(
        f"{old} goes with the next release. Use {new}.", DeprecationWarning, stacklevel=stacklevel
    )


def renamed(package: str, names: Mapping[str, str]) -> Callable[[str], Any]:
    """Make a package's `__getattr__`, which finds names that have changed, and warns.

    Args:
        package: The package's name.
        names: The new name of each old one.
    """

    def get(name: str) -> Any:
        if name not in names:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        warn(f"{package}.{name}", f"{package}.{names[name]}")
        return getattr(sys.modules[package], names[name])

    return get
