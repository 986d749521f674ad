"""Constraints: which tags may begin, follow one another, and end a sequence."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from keras import ops

Tensor = Any


@dataclass(frozen=True)
class Constraints:
    """Boolean tables of what is allowed.

    Attributes:
        allowed: (tags, tags) [from, to].
        allowed_start: (tags,) for the first tag.
        allowed_end: (tags,) for the last tag.
    """

    allowed: np.ndarray
    allowed_start: np.ndarray
    allowed_end: np.ndarray

    @classmethod
    def of(cls, constraints: Any, num_tags: int | None = None) -> Constraints | None:
        """Make the tables from a tag scheme, an allowed matrix, or what `get_config` returned.

        Args:
            constraints: An object with `allowed`, `allowed_start` and `allowed_end` (a tag
                scheme), a dictionary of these, a boolean (tags, tags) matrix, or None.
            num_tags: The number of tags that the tables should have. Defaults to any.

        Raises:
            ValueError: if the tables are of another size or not boolean, or allow nothing.
        """
        if constraints is None:
            return None
        if isinstance(constraints, dict):
            tables = dict(constraints)
        elif hasattr(constraints, "allowed_start"):
            tables = {name: getattr(constraints, name) for name in cls.__annotations__}
        else:
            tables = {"allowed": constraints}
        if num_tags is None:
            num_tags = len(np.atleast_1d(tables["allowed"]))
        anywhere = np.ones(num_tags, bool)
        tables = {"allowed_start": anywhere, "allowed_end": anywhere} | tables
        shapes = {"allowed": (num_tags,) * 2, "allowed_start": (num_tags,)}
        for name in cls.__annotations__:
            tables[name] = table = np.asarray(tables[name])
            expected = shapes.get(name, (num_tags,))
            if table.dtype != bool or table.shape != expected or not table.any():
                raise ValueError(
                    "`constraints` should be a tag scheme or a boolean matrix [from, to] for "
                    f"{num_tags} tags: `{name}` of shape {expected} with something allowed. "
                    f"Received: {name}={table!r}"
                )
        return cls(**tables)

    def get_config(self) -> dict[str, Any]:
        """Return the tables as nested lists, from which `of` makes equal constraints."""
        return {name: getattr(self, name).tolist() for name in self.__annotations__}

    def apply(
        self, transitions: Tensor, start: Tensor, end: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the scores, with −inf for whatever is not allowed."""
        return (
            forbid(transitions, self.allowed),
            forbid(start, self.allowed_start),
            forbid(end, self.allowed_end),
        )


def forbid(scores: Tensor, allowed: np.ndarray) -> Tensor:
    """Return `scores` where allowed, −inf elsewhere."""
    scores = ops.convert_to_tensor(scores)
    return ops.where(ops.convert_to_tensor(allowed), scores, ops.full_like(scores, -np.inf))
