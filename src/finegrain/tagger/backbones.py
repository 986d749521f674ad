"""Pretrained encoders: what a backbone takes, how much, and its first blocks alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras

from finegrain.recipes.structure import blocks_along_graph

INPUTS = ("token_ids", "padding_mask", "segment_ids")

LONGEST = 512
"""Most sub-words that a backbone is given which does not say how many it can take."""


def hidden_states_model(backbone: Any, layers: int | None) -> keras.Model:
    """Make the model from a backbone's inputs to the hidden states of its last block, or another.

    Args:
        backbone: A KerasHub backbone.
        layers: The number of that block, from 1; `None` for the backbone's own output.

    The model shares its layers with the backbone: training it trains the backbone.

    Raises:
        TypeError: if it is no backbone of one sequence of tokens.
        ValueError: if it has fewer blocks.
    """
    inputs = getattr(backbone, "input", None)
    if (
        not isinstance(backbone, keras.Model)
        or not isinstance(inputs, Mapping)
        or not {"token_ids"} <= set(inputs) <= set(INPUTS)
    ):
        received = sorted(inputs) if isinstance(inputs, Mapping) else type(backbone).__name__
        raise TypeError(
            "`backbone` should be a KerasHub backbone that encodes one text, such as BertBackbone "
            f"or RobertaBackbone, with the inputs {', '.join(INPUTS)} or some of them. "
            f"Received: {received}"
        )
    output = backbone.output
    if isinstance(output, Mapping):
        output = output["sequence_output"]
    elif layers is None:
        # As a model of its own class it comes back from a file, which not all do in pieces.
        return backbone
    if layers is not None:
        blocks = blocks_along_graph(backbone)
        if (
            isinstance(layers, bool)
            or not isinstance(layers, int)
            or not 1 <= layers <= len(blocks)
        ):
            raise ValueError(
                f"`layers` should be a number of the backbone's first blocks, 1 to {len(blocks)}. "
                f"Received: layers={layers!r}"
            )
        if layers < len(blocks):
            output = blocks[layers - 1]
    return keras.Model(inputs, output, name=backbone.name)


def most_pieces(backbone: Any) -> int:
    """Return how many sub-words a backbone can take at once, special ones included."""
    own = getattr(backbone, "max_sequence_length", None)
    return min(own, LONGEST) if isinstance(own, int) else LONGEST
