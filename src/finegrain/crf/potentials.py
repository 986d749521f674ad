"""Potentials: one tensor that carries everything a chain is made of.

A Keras model hands one tensor from its last layer to losses, metrics and `predict`. The CRF layer
puts a whole chain into it, a table of time + tags + 2 rows and tags + 1 columns for each example:

| rows              | columns 0 … tags − 1    | last column |
|-------------------|-------------------------|-------------|
| time              | emissions               | 1 = valid, 0 = masked |
| tags              | transitions [from, to]  | 0           |
| 1                 | start                   | 0           |
| 1                 | end                     | 0           |
"""

from __future__ import annotations

from typing import Any, NamedTuple

from keras import ops

Tensor = Any


class Potentials(NamedTuple):
    """The parts of a chain, as `LinearChain` takes them."""

    emissions: Tensor
    transitions: Tensor
    start: Tensor
    end: Tensor
    mask: Tensor


def pack(
    emissions: Tensor, transitions: Tensor, start: Tensor, end: Tensor, mask: Tensor
) -> Tensor:
    """Pack a chain's parts into one (batch, time + tags + 2, tags + 1) tensor.

    Args:
        emissions: (batch, time, tags).
        transitions: (tags, tags), shared by the batch.
        start: (tags,).
        end: (tags,).
        mask: (batch, time) boolean.
    """
    upper = ops.concatenate([emissions, ops.cast(mask, emissions.dtype)[:, :, None]], axis=2)
    lower = ops.concatenate([transitions, start[None], end[None]], axis=0)
    lower = ops.pad(ops.cast(lower, emissions.dtype), ((0, 0), (0, 1)))
    batch = ops.shape(emissions)[0]
    lower = ops.broadcast_to(lower[None], (batch, *lower.shape))
    return ops.concatenate([upper, lower], axis=1)


def unpack(potentials: Tensor) -> Potentials:
    """Split potentials into the parts that `pack` put together."""
    potentials = ops.convert_to_tensor(potentials)
    num_tags = checked_num_tags(tuple(potentials.shape))
    # Counted from the end: with bounds that are numbers, TensorFlow keeps the static sizes.
    upper, lower = potentials[:, : -num_tags - 2], potentials[:1, -num_tags - 2 :, :num_tags]
    # All examples carry the same scores: take the first's.
    shared = ops.sum(lower, axis=0)
    return Potentials(
        emissions=upper[:, :, :num_tags],
        transitions=shared[:num_tags],
        start=shared[num_tags],
        end=shared[num_tags + 1],
        mask=upper[:, :, num_tags] > 0.5,
    )


def checked_num_tags(shape: tuple[Any, ...]) -> int:
    """Return the number of tags of potentials of that shape.

    Raises:
        ValueError: if potentials cannot have it.
    """
    if len(shape) == 3 and shape[2] is not None and shape[2] >= 2:
        num_tags = shape[2] - 1
        # During an export the time may be a symbol, which cannot be compared.
        if not isinstance(shape[1], int) or shape[1] >= num_tags + 2:
            return num_tags
    raise ValueError(
        "Potentials should have shape (batch, time + tags + 2, tags + 1), as "
        "`finegrain.layers.CRF` puts them out. Is that layer the last one of the model? "
        f"Received: shape={tuple(shape)}"
    )
