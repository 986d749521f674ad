"""Checks of what a chain is made of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from finegrain._backend import backend
from finegrain.crf.chain import Chain, Scores
from finegrain.crf.labels import outside_message

Tensor = Any


def checked_chain(
    emissions: Tensor,
    transitions: Tensor,
    start: Tensor | None,
    end: Tensor | None,
    mask: Tensor | None,
) -> Chain:
    """Check a user's arguments to `LinearChain`, and make a chain of them.

    What stands at masked positions is replaced by zeros, so that it never matters, not even to
    gradients.

    Raises:
        TypeError: if the mask is not boolean or the emissions are not floating point.
        ValueError: if shapes do not fit together.
    """
    emissions = ops.convert_to_tensor(emissions)
    dtype = _computing_dtype(emissions)
    if len(emissions.shape) != 3:
        raise ValueError(
            "`emissions` should have shape (batch, time, tags). "
            f"Received: emissions.shape={tuple(emissions.shape)}"
        )
    num_tags = _static_num_tags(emissions)
    transitions = ops.convert_to_tensor(transitions)
    _check_transitions(transitions, emissions)
    transitions = _cast(transitions, dtype)
    start = _boundary(start, "start", num_tags, dtype)
    end = _boundary(end, "end", num_tags, dtype)
    valid = None if mask is None else _checked_mask(mask, emissions)
    emissions = _cast(emissions, dtype)
    if valid is not None:
        emissions = ops.where(valid[:, :, None], emissions, 0.0)
    time = emissions.shape[1]
    per_step = len(transitions.shape) == 4
    if time == 0:  # Loops need at least one position, which may be masked.
        emissions = ops.pad(emissions, ((0, 0), (0, 1), (0, 0)))
        valid = ops.zeros_like(emissions[:, :, 0], dtype="bool")
    elif per_step:
        transitions = ops.pad(transitions, ((0, 0), (1, 0), (0, 0), (0, 0)))
    if time in (0, 1):  # There is nothing to link.
        transitions = ops.zeros((num_tags, num_tags), dtype=dtype)
    chain = Chain(Scores(emissions, transitions, start, end), valid)
    if valid is None or not chain.scores.per_step:
        return chain
    # Only steps between two positions of the chain exist: none leads out of padding.
    linked = ops.logical_and(valid, chain.place > 1)[:, :, None, None]
    transitions = ops.where(linked, transitions, ops.zeros_like(transitions))
    return Chain(chain.scores._replace(transitions=transitions), valid)


def checked_tags(tags: Tensor, shape: Sequence[Any]) -> Tensor:
    """Check tags for emissions of a (batch, time, tags) shape; return (batch, time) int32 tags.

    A chain without positions gets a masked one instead, and its tags get one to match.

    Raises:
        TypeError: if they are not integers.
        ValueError: if their shape is not that of the mask.
    """
    tags = ops.convert_to_tensor(tags)
    if "int" not in keras.backend.standardize_dtype(tags.dtype):
        raise TypeError(f"`tags` should be integers. Received: tags.dtype={tags.dtype}")
    check_tags_shape(tags, shape[:2])
    tags = _cast(tags, "int32")
    if _only_shapes_matter():
        tags = ops.zeros_like(tags)  # PyTorch's Keras puts ones there, which may be no tags
    return ops.pad(tags, ((0, 0), (0, 1))) if shape[1] == 0 else tags


def _only_shapes_matter() -> bool:
    """Return whether Keras calls this to learn shapes, with made-up values."""
    from keras.src.backend.common.symbolic_scope import in_symbolic_scope

    return in_symbolic_scope()


def refuse_tags_outside(tags: Tensor, chain: Chain) -> Tensor | None:
    """Refuse tags outside [0, K); in a compiled function, mark the sequences that have some.

    The mark is (batch,) boolean; None where the values are known, for then no tag is outside.

    Raises:
        ValueError: if there is one and the values are known by now. A compiled function knows
            them only when nobody can raise an error any more.
    """
    num_tags = chain.scores.num_tags
    outside = ops.logical_and(chain.valid, ops.logical_or(tags < 0, tags >= num_tags))
    if backend.is_compiling(outside):
        return ops.any(outside, axis=1)
    places = np.argwhere(ops.convert_to_numpy(outside))
    if len(places):
        numbers = ops.convert_to_numpy(tags)
        raise ValueError(outside_message(numbers, num_tags, *places[0].tolist()))
    return None


def checked_allowed(allowed: Tensor, shape: Sequence[Any], chain: Chain) -> Tensor:
    """Check (batch, time, tags) booleans for emissions of that shape; make them true where masked.

    Raises:
        TypeError: if they are not boolean.
        ValueError: if their shape is not that of the emissions.
    """
    allowed = ops.convert_to_tensor(allowed)
    if keras.backend.standardize_dtype(allowed.dtype) != "bool":
        raise TypeError(f"`allowed` should be boolean. Received: allowed.dtype={allowed.dtype}")
    if not fits(allowed.shape, shape):
        raise ValueError(
            "`allowed` should have shape (batch, time, tags), here "
            f"{tuple(shape)}. Received: allowed.shape={tuple(allowed.shape)}"
        )
    if shape[1] == 0:
        allowed = ops.pad(allowed, ((0, 0), (0, 1), (0, 0)))
    return ops.logical_or(allowed, ops.logical_not(chain.valid)[:, :, None])


def checked_count(count: Any, name: str) -> int:
    """Check that a count is a positive integer, and return it as an `int`."""
    if isinstance(count, bool) or not isinstance(count, (int, np.integer)) or count < 1:
        raise ValueError(f"`{name}` should be a positive integer. Received: {name}={count!r}")
    return int(count)


def check_tags_shape(tags: Tensor, shape: Sequence[Any]) -> None:
    """Raise an error unless `tags` have that (batch, time) shape, as far as both are known."""
    if not fits(tags.shape, shape):
        raise ValueError(
            f"`tags` should have shape (batch, time), here {tuple(shape)}. "
            f"Received: tags.shape={tuple(tags.shape)}"
        )


def checked_weight(
    sample_weight: Tensor, batch: Sequence[Any], dtype: Any, positions: Any = None
) -> Tensor:
    """Return sample weights as (batch,), a scalar or, if positions may have some, (batch, time).

    Args:
        sample_weight: What a user gave.
        batch: The shape (batch,).
        dtype: Of the result.
        positions: The shape (batch, time), if weights of positions mean something.

    Raises:
        ValueError: if the weights are not one a sequence, or one a position.
    """
    weight = ops.cast(ops.convert_to_tensor(sample_weight), dtype)
    shape = tuple(weight.shape)
    if len(shape) == 2 and shape[1] == 1:
        weight = weight[:, 0]
    if not shape or fits(weight.shape, batch):
        return weight
    if positions is not None:
        if fits(shape, positions):
            return weight
        expected = f"(batch,) or (batch, time), here {tuple(batch)} or {tuple(positions)}"
        cure = "."
    else:
        expected = f"(batch,), here {tuple(batch)}"
        cure = (
            ": what is scored is whole sequences or spans, and no position has a weight of its "
            "own. To leave positions out, give them a negative tag."
        )
    raise ValueError(
        f"`sample_weight` should have shape {expected}{cure} Received: sample_weight.shape={shape}"
    )


def fits(shape: Any, expected: Any) -> bool:
    """Return whether static shapes agree; an unknown or symbolic dimension agrees with any."""
    return len(shape) == len(expected) and not any(
        isinstance(a, int) and isinstance(b, int) and a != b
        for a, b in zip(shape, expected, strict=True)
    )


def _cast(x: Tensor, dtype: str) -> Tensor:
    return x if keras.backend.standardize_dtype(x.dtype) == dtype else ops.cast(x, dtype)


def _static_num_tags(emissions: Tensor) -> int:
    num_tags = emissions.shape[-1]
    if not isinstance(num_tags, int) or num_tags < 1:
        raise ValueError(
            "`emissions` should have a known number of tags, at least 1, as their last size. "
            f"Received: emissions.shape={tuple(emissions.shape)}"
        )
    return num_tags


def _computing_dtype(emissions: Tensor) -> str:
    dtype = keras.backend.standardize_dtype(emissions.dtype)
    if not keras.backend.is_float_dtype(dtype):
        raise TypeError(f"`emissions` should be floating point. Received: emissions.dtype={dtype}")
    return "float32" if dtype in ("float16", "bfloat16") else dtype


def _check_transitions(transitions: Tensor, emissions: Tensor) -> None:
    batch, time, num_tags = emissions.shape
    steps = max(time - 1, 0) if isinstance(time, int) else None
    shared, per_step = (num_tags, num_tags), (batch, steps, num_tags, num_tags)
    if not fits(transitions.shape, shared) and not fits(transitions.shape, per_step):
        raise ValueError(
            "`transitions` should have shape (tags, tags) or (batch, time - 1, tags, tags), here "
            f"{shared} or {per_step}. Received: transitions.shape={tuple(transitions.shape)}"
        )


def _boundary(scores: Tensor | None, name: str, num_tags: int, dtype: str) -> Tensor:
    if scores is None:
        return ops.zeros((num_tags,), dtype=dtype)
    given = _cast(ops.convert_to_tensor(scores), dtype)
    if not fits(given.shape, (num_tags,)):
        raise ValueError(
            f"`{name}` should have shape (tags,), here {(num_tags,)}. "
            f"Received: {name}.shape={tuple(given.shape)}"
        )
    return given


def _checked_mask(mask: Tensor, emissions: Tensor) -> Tensor:
    given = ops.convert_to_tensor(mask)
    if keras.backend.standardize_dtype(given.dtype) != "bool":
        raise TypeError(
            "`mask` should be boolean (compare numbers first, as in `lengths > 0`). "
            f"Received: mask.dtype={given.dtype}"
        )
    if not fits(given.shape, emissions.shape[:2]):
        raise ValueError(
            "`mask` should have shape (batch, time), here "
            f"{tuple(emissions.shape[:2])}. Received: mask.shape={tuple(given.shape)}"
        )
    return given
