"""Characters as vectors: each character with the pairs it forms with its neighbours."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

import keras
import numpy as np
from keras import ops

from finegrain.tagger.files import load_words, save_words
from finegrain_reader.kinds import kinds_of
from finegrain_reader.vocabulary import (
    EDGE,
    FIRST_KNOWN,
    NARROW,
    PADDING,
    UNKNOWN,
    Characters,
    code_points,
)
from finegrain_reader.windows import WINDOW

Tensor = Any


@keras.saving.register_keras_serializable(package="finegrain")
class CharacterFeatures(keras.layers.Layer):
    r"""A layer that embeds each character of a text with its left and right character pair.

    The layer knows its characters and pairs, and turns text into the numbers that it takes: a
    saved model needs no vocabulary beside it. Everything else is *unknown*, which has vectors of
    its own; they are trained by the characters and pairs too rare to be kept. Of a new pair the
    layer may know the kind, such as a Chinese character with a small letter behind it: so a tagger
    learns from its corpus what becomes of Latin words and numbers that it has never seen.

    Args:
        characters: The known characters.
        pairs: The known pairs of neighbouring characters; a NUL stands for the text's edge. A pair
            of the code points in `kinds.py` is a kind of pairs, and stands for those not known.
        words: The words of the training corpus. They have no part in the computation: scoring
            tells by them which words of another corpus are new.
        character_dim: Size of a character's vector.
        pair_dim: Size of a pair's vector.
        pair_counts: How often each of the pairs occurs in training; for a kind, how many pairs of
            that kind. A pair of count n is forgotten in training with probability forgetting /
            (forgetting + n), so that its kind is all that is left, and that may be forgotten in
            turn: the model learns to do without rare pairs, as it will have to with new ones.
        forgetting: See there; 0 never forgets.
        half_width: Whether letters and digits of full width (Ａ, １) are read as those of ASCII.
            `of` makes layers that do.
        **kwargs: Keras's own, such as `name`.

    Input shape: (batch, time, 3) integers, as `encode` makes them.

    Output shape: (batch, time, character_dim + 2 · pair_dim), with a mask (batch, time).

    References:
        Eliyahu Kiperwasser, Yoav Goldberg, Simple and Accurate Dependency Parsing Using
        Bidirectional LSTM Feature Representations, 2016, https://arxiv.org/abs/1603.04351
        (forgetting by count, there of words)

    Example:
    >>> from finegrain.tagger.characters import CharacterFeatures
    >>> layer = CharacterFeatures.of([["ab", "a"], ["ab"]], min_count=2)
    >>> layer.characters, layer.pairs
    ('ab', ['\x00a', 'ab', '\ufdd5\ufdd0', '\ufdd5\ufdd5'])
    >>> layer.encode(["abz"], 4)[0].tolist()
    [[2, 2, 3], [3, 3, 5], [1, 5, 4], [0, 0, 0]]
    """

    def __init__(
        self,
        characters: str,
        pairs: Sequence[str],
        words: Iterable[str] = (),
        *,
        character_dim: int = 64,
        pair_dim: int = 48,
        pair_counts: Sequence[int] | None = None,
        forgetting: float = 1.0,
        half_width: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.characters = "".join(sorted(set(characters)))
        counts = [0] * len(pairs) if pair_counts is None else pair_counts
        by_pair = dict(sorted(zip(pairs, counts, strict=True)))
        self.pairs = list(by_pair)
        self.pair_counts = list(by_pair.values()) if pair_counts is not None else None
        self.words = frozenset(words)
        self.character_dim = character_dim
        self.pair_dim = pair_dim
        self.forgetting = forgetting
        self.half_width = half_width
        self.seed_generator = keras.random.SeedGenerator()
        self._numbers = Characters(self.characters, self.pairs, half_width=half_width)
        of_kind = self._numbers.kinds_of_known_pairs()
        self._number_when_forgotten = np.r_[PADDING, UNKNOWN, of_kind].astype("int32")

    @classmethod
    def of(
        cls,
        sentences: Sequence[Sequence[str]],
        *,
        words: Iterable[str] | None = None,
        min_count: int = 2,
        **kwargs: Any,
    ) -> CharacterFeatures:
        """Make the layer that knows what occurs at least `min_count` times in `sentences`.

        Of pairs it knows the kinds, too, if there are as many different pairs of them.

        Args:
            sentences: Lists of words, or texts.
            words: The words; by default those that the sentences are lists of.
            min_count: See there.
            **kwargs: Arguments of the layer.
        """
        characters: Counter[str] = Counter()
        pairs: Counter[str] = Counter()
        for sentence in sentences:
            # Lone surrogates stay unknown: side by side, JSON would make one character of two.
            text = re.sub(r"[\ud800-\udfff]", chr(EDGE), "".join(sentence)).translate(NARROW)
            characters.update(text)
            edged = f"{chr(EDGE)}{text}{chr(EDGE)}"
            pairs.update(map("".join, pairwise(edged)))
        # In an epoch a pair of any count is forgotten, or too rare, about once. So a kind is
        # trained as often as there are different pairs of it, which makes this its count.
        codes = code_points("".join(pairs))
        kinds = "".join(map(chr, kinds_of(codes)))
        pairs |= Counter(map("".join, zip(kinds[::2], kinds[1::2], strict=True)))
        known = {pair: count for pair, count in pairs.items() if count >= min_count}
        return cls(
            "".join(c for c, count in characters.items() if count >= min_count),
            list(known),
            {word for sentence in sentences for word in sentence} if words is None else words,
            pair_counts=list(known.values()),
            half_width=True,
            **kwargs,
        )

    columns = 3

    @property
    def lengths(self) -> tuple[int, ...]:
        """The lengths to which texts are padded when they are tagged."""
        return (64, WINDOW)

    def sizes(self, text: Sequence[str]) -> np.ndarray:
        """Return how many positions each character takes: one."""
        return np.ones(len(text), "int64")

    def encode(self, texts: Sequence[Sequence[str]], length: int) -> np.ndarray:
        """Encode texts as (texts, length, 3) int32: character, left pair, right pair; 0 as padding.

        A pair that is not known has the number of its kind, if that is known.

        Args:
            texts: Texts of at most `length` characters, as strings or lists of characters.
            length: The number of positions.
        """
        encoded = np.full((len(texts), length, 3), PADDING, "int32")
        given = [(number, "".join(text)) for number, text in enumerate(texts) if len(text)]
        if not given:
            return encoded
        rows = np.array([number for number, _ in given])
        own = self._numbers.encode([text for _, text in given])
        row = np.repeat(rows, own.lengths)
        place = own.positions - np.repeat(own.starts, own.lengths)
        encoded[row, place, 0] = own.characters[own.positions]
        encoded[row, place, 1] = own.pairs[own.positions]
        encoded[row, place, 2] = own.pairs[own.positions + 1]
        return encoded

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Create the tables of vectors."""

        def table(name: str, rows: int, width: int) -> Any:
            return self.add_weight(
                name=name, shape=(rows + FIRST_KNOWN, width), initializer="uniform"
            )

        self.character_table = table("character_table", len(self.characters), self.character_dim)
        self.left_table = table("left_table", len(self.pairs), self.pair_dim)
        self.right_table = table("right_table", len(self.pairs), self.pair_dim)

    def call(self, inputs: Tensor, training: bool | None = None) -> Tensor:
        """Look up the vectors of (batch, time, 3) encoded characters."""
        characters, left, right = ops.unstack(ops.cast(inputs, "int32"), 3, axis=2)
        if training and self.pair_counts and self.forgetting:
            left, right = self._forget(left), self._forget(right)
        columns = (characters, left, right)
        tables = (self.character_table, self.left_table, self.right_table)
        vectors = [
            ops.take(ops.convert_to_tensor(table), column, axis=0)
            for column, table in zip(columns, tables, strict=True)
        ]
        return ops.concatenate(vectors, axis=-1)

    def _forget(self, pairs: Tensor) -> Tensor:
        counts = np.array(self.pair_counts, "float32")
        known = self.forgetting / (self.forgetting + counts)
        once = np.r_[np.zeros(FIRST_KNOWN, "float32"), known]
        twice = once * once[self._number_when_forgotten]  # the kind is forgotten, too
        drawn = keras.random.uniform(ops.shape(pairs), seed=self.seed_generator)
        kinds = ops.take(self._number_when_forgotten, pairs, axis=0)
        kinds = ops.where(drawn < ops.take(twice, pairs, axis=0), UNKNOWN, kinds)
        return ops.where(drawn < ops.take(once, pairs, axis=0), kinds, pairs)

    def compute_mask(self, inputs: Tensor, previous_mask: Tensor | None = None) -> Tensor:
        """Compute the mask (batch, time), true where there is a character."""
        return ops.not_equal(inputs[:, :, 0], PADDING)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """Return the shape (batch, time, character_dim + 2 · pair_dim)."""
        return (*input_shape[:2], self.character_dim + 2 * self.pair_dim)

    def save_assets(self, dir_path: str) -> None:
        """Write the words into the model's file."""
        save_words(dir_path, self.words)

    def load_assets(self, dir_path: str) -> None:
        """Read the words from the model's file."""
        self.words = load_words(dir_path)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments that make an equal layer, except the words, which are an asset."""
        return super().get_config() | {
            "characters": self.characters,
            "pairs": self.pairs,
            "character_dim": self.character_dim,
            "pair_dim": self.pair_dim,
            "pair_counts": self.pair_counts,
            "forgetting": self.forgetting,
            "half_width": self.half_width,
        }
