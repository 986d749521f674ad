"""Tags for texts from a trained model: in few batch shapes, decoded by a compiled Viterbi."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from finegrain.crf.constraints import Constraints
from finegrain.crf.linear_chain import LinearChain
from finegrain.crf.potentials import unpack
from finegrain.crf.schemes import TagScheme
from finegrain.tagger.characters import CharacterFeatures
from finegrain.tagger.windows import WINDOW

# Each pair of a length and a number of rows is compiled once.
_LENGTHS = (64, WINDOW)
_ROWS = 32


class Decoder:
    """A decoder that gives each character its tag in the best sequence that the scheme allows.

    Args:
        model: From encoded characters to potentials.
        features: The layer of the model that encodes characters.
        scheme: The tags.
    """

    def __init__(self, model: keras.Model, features: CharacterFeatures, scheme: TagScheme) -> None:
        self.model = model
        self.features = features
        self._decoding = keras.Model(model.input, _BestTags(scheme)(model.output))

    def tags(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Tag texts of at most WINDOW characters each: one (characters,) int32 array a text."""
        result: list[np.ndarray] = [np.zeros(0, "int32")] * len(texts)
        waiting: dict[int, list[int]] = {length: [] for length in _LENGTHS}
        for number, text in enumerate(texts):
            length = next(length for length in _LENGTHS if len(text) <= length)
            waiting[length].append(number)
        for length, numbers in waiting.items():
            for first in range(0, len(numbers), _ROWS):
                batch = numbers[first : first + _ROWS]
                rows = 1 if len(texts) == 1 else _ROWS
                encoded = self.features.encode([texts[number] for number in batch], length)
                padded = np.pad(encoded, ((0, rows - len(batch)), (0, 0), (0, 0)))
                tags = self._decoding.predict_on_batch(padded)
                for number, row in zip(batch, tags, strict=False):
                    result[number] = row[: len(texts[number])]
        return result


class _BestTags(keras.layers.Layer):
    """The best tags that a scheme allows, from potentials: (batch, time) int32, −1 where masked."""

    def __init__(self, scheme: TagScheme) -> None:
        super().__init__()
        self.constraints = Constraints.of(scheme, len(scheme.labels))

    def compute_output_spec(self, inputs: Any) -> keras.KerasTensor:
        return keras.KerasTensor((inputs.shape[0], None), dtype="int32")

    def call(self, inputs: Any) -> Any:
        parts = unpack(inputs)
        if self.constraints is not None:
            transitions, start, end = self.constraints.apply(
                parts.transitions, parts.start, parts.end
            )
            parts = parts._replace(transitions=transitions, start=start, end=end)
        return LinearChain(**parts._asdict()).mode()[0]
