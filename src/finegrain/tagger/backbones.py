"""Pretrained encoders: what a backbone takes, how much, and its first blocks alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras

from finegrain.recipes.layer_decay import levels_of_model
from finegrain.recipes.structure import blocks_along_graph, height, weights_of

INPUTS = ("token_ids", "padding_mask", "segment_ids", "position_ids")

LONGEST = 512
"""Most sub-words that a backbone is given which does not say how many it can take."""


@keras.saving.register_keras_serializable(package="finegrain")
class HiddenStates(keras.Model):
    """A model from a backbone's inputs to the hidden states of its last block, or another.

    It shares its layers with the backbone: training it trains the backbone. In a file the backbone
    is described as a whole, by its own class: the layers of several of KerasHub's backbones cannot
    be made again one by one. The weights in the file are those of the blocks that are used.

    Args:
        backbone: A KerasHub backbone.
        layers: The number of that block, from 1; `None` for the backbone's own output.
        **kwargs: Keras's own, such as `name`.

    Raises:
        TypeError: if it is no backbone of one sequence of tokens.
        ValueError: if it has fewer blocks.
    """

    def __init__(self, backbone: Any, layers: int | None = None, **kwargs: Any) -> None:
        inputs = getattr(backbone, "input", None)
        if (
            not isinstance(backbone, keras.Model)
            or not isinstance(inputs, Mapping)
            or not {"token_ids"} <= set(inputs) <= set(INPUTS)
        ):
            takes = f" with the inputs {sorted(inputs)}" if isinstance(inputs, Mapping) else ""
            raise TypeError(
                "`backbone` should be a KerasHub backbone that encodes one text, such as "
                "BertBackbone or RobertaBackbone, and takes `token_ids` and no more than "
                f"{', '.join(INPUTS[1:])} beside them. An encoder with a decoder (T5, BART), or "
                "one of images, has to be replaced by such a one. Received: "
                f"{type(backbone).__name__}{takes}"
            )
        super().__init__(inputs, _hidden_states(backbone, layers), **kwargs)
        self.used_layers = layers
        # Keras would take the backbone itself for a layer of this model.
        self._backbone = lambda: backbone

    def levels(self) -> list[list[Any]]:
        """Sort the layers that are used into levels, the last of which has the last block used."""
        used = {id(weight) for weight in self.weights}
        levels = [
            [part for part in level if any(id(weight) in used for weight in weights_of(part))]
            for level in levels_of_model(self._backbone())
        ]
        levels = [level for level in levels if level]
        if len(levels) > 1 and any(map(height, levels[-2])) and not any(map(height, levels[-1])):
            norm = levels.pop()  # above the last block
            levels[-1] += norm
        return levels

    def get_config(self) -> dict[str, Any]:
        """Return the arguments that make an equal model, and which layers are frozen."""
        return {
            "name": self.name,
            "trainable": self.trainable,
            "backbone": keras.saving.serialize_keras_object(self._backbone()),
            "layers": self.used_layers,
            "frozen": [n for n, layer in enumerate(_inner(self)) if not layer.trainable],
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> HiddenStates:
        """Make the model that `get_config` describes."""
        backbone = keras.saving.deserialize_keras_object(config["backbone"])
        model = cls(backbone, config["layers"], name=config["name"], trainable=config["trainable"])
        for number, layer in enumerate(_inner(model)):  # each before those in it
            layer.trainable = number not in config["frozen"]
        return model


def most_pieces(backbone: Any) -> int:
    """Return how many sub-words a backbone can take at once, special ones included."""
    own = getattr(backbone, "max_sequence_length", None)
    return min(own, LONGEST) if isinstance(own, int) else LONGEST


def _hidden_states(backbone: Any, layers: int | None) -> Any:
    output = backbone.output
    if isinstance(output, Mapping):
        output = output["sequence_output"]
    if layers is None:
        return output
    blocks = blocks_along_graph(backbone)
    if isinstance(layers, bool) or not isinstance(layers, int) or not 1 <= layers <= len(blocks):
        raise ValueError(
            f"`layers` should be a number of the backbone's first blocks, 1 to {len(blocks)}. "
            f"Received: layers={layers!r}"
        )
    return output if layers == len(blocks) else blocks[layers - 1]


def _inner(model: keras.Model) -> list[Any]:
    return list(model._flatten_layers(include_self=False))
