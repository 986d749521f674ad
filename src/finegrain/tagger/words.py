"""Words as vectors: each by itself, by how it begins and ends, and by its shape."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from finegrain.tagger.files import load_words, save_words
from finegrain_reader.vocabulary import FIRST_KNOWN, PADDING, UNKNOWN, VIEWS, Words
from finegrain_reader.windows import MOST_WORDS

Tensor = Any


@keras.saving.register_keras_serializable(package="finegrain")
class WordFeatures(keras.layers.Layer):
    """A layer that embeds each word of a sentence by several views: itself, its ends, its shape.

    The layer knows what words look like, and turns them into the numbers that it takes: a saved
    model needs no vocabulary beside it. What is too rare to be kept is *unknown*, with vectors of
    its own.

    Args:
        known: For each view, what is known of it, with its count in training. A word of count n is
            made unknown in training with probability forgetting / (forgetting + n), in the views
            `"word"` and `"cased"`: the model learns to do without, as it will have to with new
            words.
        dims: For each view, the size of its vectors.
        words: The words of the training corpus. They have no part in the computation: scoring
            tells by them which words of another corpus are new.
        forgetting: See there; 0 never forgets.
        **kwargs: Keras's own, such as `name`.

    Input shape: (batch, time, views) integers, as `encode` makes them.

    Output shape: (batch, time, sum of dims), with a mask (batch, time).

    References:
        Eliyahu Kiperwasser, Yoav Goldberg, Simple and Accurate Dependency Parsing Using
        Bidirectional LSTM Feature Representations, 2016, https://arxiv.org/abs/1603.04351
        (forgetting by count)

    Example:
    >>> from finegrain.tagger.words import WordFeatures
    >>> layer = WordFeatures.of([["Ada", "wrote", "it"], ["Ada", "did", "it"]], min_count=2)
    >>> layer.encode([["Ada", "said"]], 3)[0, :, 0].tolist()
    [2, 1, 0]
    """

    def __init__(
        self,
        known: Mapping[str, Mapping[str, int]],
        dims: Mapping[str, int],
        *,
        words: Iterable[str] = (),
        forgetting: float = 0.5,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.known = {view: dict(counts) for view, counts in known.items()}
        self.dims = dict(dims)
        self.words = frozenset(words)
        self.forgetting = forgetting
        self.seed_generator = keras.random.SeedGenerator()
        self.columns = len(self.known)
        self._words = Words(self.known)

    @classmethod
    def of(
        cls, sentences: Sequence[Sequence[str]], *, min_count: int = 2, **kwargs: Any
    ) -> WordFeatures:
        """Make the layer that knows what occurs at least `min_count` times in `sentences`."""
        words = Counter(word for sentence in sentences for word in sentence)
        known: dict[str, dict[str, int]] = {}
        for name, view in VIEWS.items():
            counts: Counter[str] = Counter()
            for word, count in words.items():
                counts[view(word)] += count
            known[name] = {key: count for key, count in counts.items() if count >= min_count}
        dims = {name: 96 if name == "word" else 32 for name in VIEWS}
        return cls(known, dims, words=words, **kwargs)

    @property
    def lengths(self) -> tuple[int, ...]:
        """The lengths to which sentences are padded when they are tagged."""
        return (16, 32, MOST_WORDS)

    def sizes(self, sentence: Sequence[str]) -> np.ndarray:
        """Return how many positions each word takes: one."""
        return np.ones(len(sentence), "int64")

    def encode(self, sentences: Sequence[Sequence[str]], length: int) -> np.ndarray:
        """Encode sentences as (sentences, length, views) int32, 0 as padding.

        Args:
            sentences: Sentences of at most `length` words.
            length: The number of positions.
        """
        encoded = np.full((len(sentences), length, self.columns), PADDING, "int32")
        for row, sentence in zip(encoded, sentences, strict=True):
            if len(sentence):
                row[: len(sentence)] = self._words.encode(sentence)
        return encoded

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Create the tables of vectors."""
        self.tables = [
            self.add_weight(
                name=f"{view}_table",
                shape=(len(self.known[view]) + FIRST_KNOWN, self.dims[view]),
                initializer="uniform",
            )
            for view in self.known
        ]

    def call(self, inputs: Tensor, training: bool | None = None) -> Tensor:
        """Look up the vectors of (batch, time, views) encoded words."""
        columns = ops.unstack(ops.cast(inputs, "int32"), self.columns, axis=2)
        if training and self.forgetting:
            columns = [
                self._forget(column, view) if view in ("word", "cased") else column
                for view, column in zip(self.known, columns, strict=True)
            ]
        vectors = [
            ops.take(ops.convert_to_tensor(table), column, axis=0)
            for column, table in zip(columns, self.tables, strict=True)
        ]
        return ops.concatenate(vectors, axis=-1)

    def _forget(self, column: Tensor, view: str) -> Tensor:
        counts = np.array(list(self.known[view].values()), "float32")
        known = self.forgetting / (self.forgetting + counts)
        probability = ops.take(np.r_[np.zeros(FIRST_KNOWN, "float32"), known], column, axis=0)
        drawn = keras.random.uniform(ops.shape(column), seed=self.seed_generator)
        return ops.where(drawn < probability, UNKNOWN, column)

    def compute_mask(self, inputs: Tensor, previous_mask: Tensor | None = None) -> Tensor:
        """Compute the mask (batch, time), true where there is a word."""
        return ops.not_equal(inputs[:, :, 0], PADDING)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """Return the shape (batch, time, sum of dims)."""
        return (*input_shape[:2], sum(self.dims.values()))

    def save_assets(self, dir_path: str) -> None:
        """Write the words into the model's file."""
        save_words(dir_path, self.words)

    def load_assets(self, dir_path: str) -> None:
        """Read the words from the model's file."""
        self.words = load_words(dir_path)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments that make an equal layer, except the words, which are an asset."""
        return super().get_config() | {
            "known": self.known,
            "dims": self.dims,
            "forgetting": self.forgetting,
        }
