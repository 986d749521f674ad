"""Labels that no sequence can have: where they are, and how to report them.

All of it is NumPy: it runs on the host, where something is found.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from finegrain.crf.constraints import Constraints

# How many tags of a sequence an error shows.
SHOWN = 40


class Places(NamedTuple):
    """(batch, time) booleans: where labels do what is forbidden.

    Attributes:
        start: The first position's tag may not begin a sequence.
        move: The position's tag may not follow the one at the valid position before.
        end: The last position's tag may not end a sequence.
        emission: The position's tag has the score −inf there.
    """

    start: np.ndarray
    move: np.ndarray
    end: np.ndarray
    emission: np.ndarray

    @property
    def anywhere(self) -> np.ndarray:
        """The four together, (batch, time) boolean."""
        return self.start | self.move | self.end | self.emission


def allowed_sequences(tags: Any, constraints: Any, mask: Any = None) -> np.ndarray:
    """Say which tag sequences the constraints of a CRF allow, to check labels before training.

    `finegrain.losses.CRFNegativeLogLikelihood` refuses the others, or drops them.

    Args:
        tags: (batch, time) integers; a negative one is left out of its sequence.
        constraints: As `finegrain.layers.CRF` takes them: a tag scheme, such as
            `finegrain.tagging.BMES()`, or a boolean (tags, tags) matrix [from, to].
        mask: (batch, time) boolean, true where the position belongs to the sequence. Defaults
            to all true.

    Returns:
        (batch,) boolean. An empty sequence is allowed.

    Raises:
        ValueError: if shapes do not fit, or a tag is not below the number of tags.

    Example:
    >>> import numpy as np, finegrain as fg
    >>> scheme = fg.tagging.BMES()
    >>> tags = np.array([[1, 2, 3], [1, 0, 0], [0, 1, -1]])  # bme, bss, sb
    >>> print(fg.crf.allowed_sequences(tags, scheme))
    [ True False False]
    """
    labels = np.asarray(tags)
    if labels.ndim != 2 or labels.dtype.kind not in "iu":
        raise ValueError(
            "`tags` should be integers of shape (batch, time): pad shorter sequences with −1. "
            f"Received: tags.shape={labels.shape}, tags.dtype={labels.dtype}"
        )
    valid = labels >= 0
    if mask is not None:
        given = np.asarray(mask)
        if given.shape != labels.shape or given.dtype != bool:
            raise ValueError(
                f"`mask` should be boolean of the shape of `tags`, {labels.shape}. "
                f"Received: mask.shape={given.shape}, mask.dtype={given.dtype}"
            )
        valid &= given
    tables = Constraints.of(constraints, _count(constraints))
    if tables is None:
        raise ValueError(
            "`constraints` should be a tag scheme or a boolean matrix [from, to]. Received: "
            "constraints=None"
        )
    outside = _outside(labels, valid, len(tables.allowed))
    if outside is not None:
        raise ValueError(outside)
    places = _forbidden(
        labels, valid, tables.allowed, tables.allowed_start, tables.allowed_end, None
    )
    return np.logical_not(np.any(places.anywhere, axis=1))


def explain(
    tags: np.ndarray,
    emissions: np.ndarray,
    transitions: np.ndarray,
    start: np.ndarray,
    end: np.ndarray,
    mask: np.ndarray,
    outside_only: bool = False,
) -> str | None:
    """Describe the first impossible labels of a batch in a sentence or two, if there are any.

    Return `None` where none are found.

    Args:
        tags: (batch, time) integers.
        emissions: (batch, time, tags).
        transitions: (tags, tags) [from, to].
        start: (tags,).
        end: (tags,).
        mask: (batch, time) boolean: the positions that count.
        outside_only: Whether to look for tags that are none, and not for what is forbidden.
    """
    outside = _outside(tags, mask, emissions.shape[2])
    if outside is not None or outside_only:
        return outside
    allowed = [scores != -np.inf for scores in (transitions, start, end, emissions)]
    places = _forbidden(tags, mask, *allowed)
    rows = np.flatnonzero(places.anywhere.any(axis=1))
    if not len(rows):
        return None
    row = int(rows[0])
    time = int(np.argmax(places.anywhere[row]))
    tag = int(tags[row, time])
    if places.start[row, time]:
        why = f"tag {tag} may not begin a sequence"
    elif places.move[row, time]:
        before = int(tags[row, :time][mask[row, :time]][-1])
        why = f"tag {tag} may not follow tag {before}"
    elif places.emission[row, time]:
        why = f"tag {tag} has the score −inf there"
    else:
        why = f"tag {tag} may not end a sequence"
    return (
        f"The labels of {len(rows)} of the {len(tags)} sequences of a batch are forbidden by the "
        "constraints of the CRF layer, so that their loss is infinite; in the first of them, "
        f"{why}, at position {time}. Mend the labels or the constraints, give what is unknown the "
        "tag −1, or leave such sequences out by `on_forbidden='drop'`; "
        "`fg.crf.allowed_sequences(tags, constraints)` finds them all before training. Received: "
        f"tags[{row}]={_shown(tags[row])}"
    )


def _forbidden(
    tags: np.ndarray,
    valid: np.ndarray,
    allowed: np.ndarray,
    allowed_start: np.ndarray,
    allowed_end: np.ndarray,
    allowed_emissions: np.ndarray | None,
) -> Places:
    nothing = np.zeros_like(valid)
    if not valid.any():
        return Places(nothing, nothing, nothing, nothing)
    latest = np.maximum.accumulate(np.where(valid, np.arange(valid.shape[1]), -1), axis=1)
    before = np.pad(latest, ((0, 0), (1, 0)), constant_values=-1)[:, :-1]
    first = valid & (before < 0)
    last = valid & (np.arange(valid.shape[1]) == latest[:, -1:])
    here = np.where(valid, tags, 0)
    there = np.take_along_axis(here, np.maximum(before, 0), axis=1)
    emission = nothing
    if allowed_emissions is not None:
        fits = np.take_along_axis(allowed_emissions, here[:, :, None], axis=2)[:, :, 0]
        emission = valid & ~fits
    return Places(
        start=first & ~allowed_start[here],
        move=valid & ~first & ~allowed[there, here],
        end=last & ~allowed_end[here],
        emission=emission,
    )


def _outside(tags: np.ndarray, valid: np.ndarray, num_tags: int) -> str | None:
    places = np.argwhere(valid & ((tags < 0) | (tags >= num_tags)))
    return None if not len(places) else outside_message(tags, num_tags, *places[0].tolist())


def outside_message(tags: np.ndarray, num_tags: int, row: int, time: int) -> str:
    """Write the error message for a tag outside [0, `num_tags`)."""
    return (
        f"`tags` should be in [0, {num_tags}) at all positions of the mask; mask those without "
        "a tag. (In the labels of a loss, negative tags are left out by themselves.) "
        f"Received: tags[{row}, {time}]={int(tags[row, time])}"
    )


def _count(constraints: Any) -> int:
    tables = constraints.get("allowed") if isinstance(constraints, dict) else constraints
    return len(np.atleast_1d(np.asarray(getattr(tables, "allowed", tables))))


def _shown(tags: np.ndarray) -> str:
    numbers = ", ".join(map(str, tags[:SHOWN].tolist()))
    return f"[{numbers}{', …' if len(tags) > SHOWN else ''}]"
