"""Words as sub-words: how the words of a sentence are told to a pretrained encoder, and back."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Any

import keras
import numpy as np
from keras import ops

from finegrain.tagger.backbones import INPUTS
from finegrain.tagger.files import load_words, save_words

Tensor = Any

POOLINGS = ("first", "last", "mean")

MOST_PIECES = 16
"""Most sub-words of one word that the encoder sees; those of a long address say nothing more."""

SPECIAL = 2
"""Most sub-words that a tokenizer puts around a sentence."""

# What tokenizers call the piece that stands for what they do not know.
_UNKNOWN = ("unk_token", "oov_token", "unknown_token")
_UNKNOWN_NAMES = ("[UNK]", "<unk>", "<|endoftext|>")
_WORD_START = "▁"  # SentencePiece's mark of a blank


@keras.saving.register_keras_serializable(package="finegrain")
class Subwords(keras.layers.Layer):
    """A layer that knows a tokenizer, and makes one vector a word of an encoder's sub-words.

    Every word is tokenized by itself, as words of a running text are, and has at least one
    sub-word: one that the tokenizer drops altogether is an unknown one. So no tag can shift.

    Args:
        tokenizer: A KerasHub tokenizer, or another Keras layer that turns a list of strings into
            lists of numbers, and has `start_token_id` and `end_token_id`.
        pooling: Which sub-words of a word make its vector: its `"first"`, its `"last"`, or the
            `"mean"` of all.
        inputs: What the encoder takes, of `token_ids`, `padding_mask`, `segment_ids` and
            `position_ids`.
        limit: Most sub-words of a sentence that the encoder can take, without the special ones.
        characters: Whether the units are the characters of a text without blanks, and not words.
        words: The words of the training corpus. They have no part in the computation: scoring
            tells by them which words of another corpus are new.
        **kwargs: Keras's own, such as `name`.

    Input shapes: hidden states (batch, pieces, width), and (batch, words, 2) integers, as `encode`
    makes them: the place of a word's first sub-word and how many it has, 0 where there is no word.

    Output shape: (batch, words, width), with a mask (batch, words).

    References:
        Jacob Devlin, Ming-Wei Chang, Kenton Lee, Kristina Toutanova, BERT: Pre-training of deep
        bidirectional transformers for language understanding, 2018, section 5.3 (the first
        sub-word), https://arxiv.org/abs/1810.04805
    """

    def __init__(
        self,
        tokenizer: Any,
        pooling: str = "first",
        *,
        inputs: Sequence[str] = INPUTS,
        limit: int = 510,
        characters: bool = False,
        words: Iterable[str] = (),
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.tokenizer = tokenizer
        self.pooling = pooling
        self.inputs = tuple(inputs)
        self.limit = limit
        self.characters = characters
        self.words = frozenset(words)
        self._known: dict[str, list[int]] = {}

    @property
    def lengths(self) -> tuple[int, ...]:
        """The lengths to which sentences are padded when they are tagged."""
        return (*(n for n in (14, 30, 62, 126, 254) if n < self.limit), self.limit)

    def sizes(self, words: Sequence[str]) -> np.ndarray:
        """Count the sub-words of each word, (words,)."""
        return np.array([len(pieces) for pieces in self._pieces(words)], "int64")

    def encode(self, sentences: Sequence[Sequence[str]], length: int) -> dict[str, np.ndarray]:
        """Encode sentences of at most `length` sub-words each.

        Args:
            sentences: Sentences of words.
            length: The number of sub-words, without those that begin and end a sentence.

        Returns:
            The `inputs`, each (sentences, length + 2) int32, and `words`, (sentences, length, 2)
            int32.
        """
        padding = getattr(self.tokenizer, "pad_token_id", None) or 0
        start, end = special_tokens(self.tokenizer)
        tokens = np.full((len(sentences), length + SPECIAL), padding, "int32")
        mask = np.zeros_like(tokens)
        words = np.zeros((len(sentences), length, 2), "int32")
        for row, sentence in enumerate(sentences):
            pieces = self._pieces(sentence)
            flat = [piece for word in pieces for piece in word]
            line = [*start, *flat, *end]
            tokens[row, : len(line)] = line
            mask[row, : len(line)] = 1
            counts = np.array([len(word) for word in pieces], "int32")
            words[row, : len(counts), 0] = len(start) + np.cumsum(counts) - counts
            words[row, : len(counts), 1] = counts
        places = np.broadcast_to(np.arange(length + SPECIAL, dtype="int32"), tokens.shape)
        values = (tokens, mask, np.zeros_like(tokens), places)
        told = {name: x for name, x in zip(INPUTS, values, strict=True) if name in self.inputs}
        return told | {"words": words}

    def _pieces(self, words: Sequence[str]) -> list[list[int]]:
        """Return the sub-words of each word, at least one and not more than a window can take."""
        marked = [
            f" {word}" if index and not self.characters and self._joins_blanks else word
            for index, word in enumerate(words)
        ]
        new = [word for word in dict.fromkeys(marked) if word not in self._known]
        if new:
            for word, pieces in zip(new, _lists(self.tokenizer(new)), strict=True):
                self._known[word] = self._checked(pieces)
        result = [self._known[word] for word in marked]
        if len(self._known) > 1_000_000:  # a stream of ever new words
            self._known.clear()
        return result

    def _checked(self, pieces: list[int]) -> list[int]:
        if self.characters and len(pieces) > 1 and self._is_word_start(pieces[0]):
            pieces = pieces[1:]
        most = max(min(MOST_PIECES, self.limit // 4), 1)
        return pieces[:most] or [unknown_token(self.tokenizer)]

    @cached_property
    def _joins_blanks(self) -> bool:
        """Whether the blank before a word has to be told, as a part of the word's first piece.

        So it is of byte-level tokenizers, and of SentencePiece's where they put none before a text
        themselves (Gemma's).
        """
        # KerasHub's classes, which need not be imported to be known.
        classes = {base.__name__ for base in type(self.tokenizer).__mro__}
        if "SentencePieceTokenizer" not in classes:
            return "BytePairTokenizer" in classes
        found = _lists(self.tokenizer(["a", " a"]))
        names = (_name(self.tokenizer, pieces[0]) if pieces else "" for pieces in found)
        return [name.startswith(_WORD_START) for name in names] == [False, True]

    def _is_word_start(self, piece: int) -> bool:
        return _name(self.tokenizer, piece) == _WORD_START

    def build(self, input_shape: Any) -> None:
        """Create nothing: a tokenizer has no weights."""

    def call(self, inputs: Sequence[Tensor]) -> Tensor:
        """Pool the hidden states of each word's sub-words."""
        hidden, words = inputs
        words = ops.cast(words, "int32")
        first, count = words[:, :, 0], words[:, :, 1]
        if self.pooling == "mean":
            # Differences of running sums, which need every digit.
            sums = ops.cumsum(ops.cast(hidden, "float32"), axis=1)
            sums = ops.pad(sums, ((0, 0), (1, 0), (0, 0)))
            total = _take(sums, first + count) - _take(sums, first)
            mean = total / ops.cast(ops.maximum(count, 1), "float32")[:, :, None]
            return ops.cast(mean, hidden.dtype)
        place = first if self.pooling == "first" else first + ops.maximum(count, 1) - 1
        return _take(hidden, place)

    def compute_mask(self, inputs: Any, previous_mask: Any = None) -> Tensor:
        """Compute the mask (batch, words), true where there is a word."""
        return ops.cast(inputs[1], "int32")[:, :, 1] > 0

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, ...]:
        """Return the shape (batch, words, width)."""
        hidden, words = input_shape
        return (hidden[0], words[1], hidden[2])

    def save_assets(self, dir_path: str) -> None:
        """Write the words into the model's file."""
        save_words(dir_path, self.words)

    def load_assets(self, dir_path: str) -> None:
        """Read the words from the model's file."""
        self.words = load_words(dir_path)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments that make an equal layer, except the words, which are an asset."""
        return super().get_config() | {
            "tokenizer": keras.saving.serialize_keras_object(self.tokenizer),
            "pooling": self.pooling,
            "inputs": list(self.inputs),
            "limit": self.limit,
            "characters": self.characters,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Subwords:
        """Make the layer that `get_config` describes."""
        tokenizer = keras.saving.deserialize_keras_object(config["tokenizer"])
        return cls(**(config | {"tokenizer": tokenizer}))


def special_tokens(tokenizer: Any) -> tuple[list[int], list[int]]:
    """Return the numbers that begin and end a sentence: none or one each."""
    ids = (getattr(tokenizer, f"{name}_token_id", None) for name in ("start", "end"))
    start, end = ([] if number is None else [int(number)] for number in ids)
    return start, end


def unknown_token(tokenizer: Any) -> int:
    """Return the number of the sub-word that stands for what the tokenizer does not know.

    Raises:
        ValueError: if it has none.
    """
    names = [getattr(tokenizer, name, None) for name in _UNKNOWN]
    for name in (*filter(None, names), *_UNKNOWN_NAMES):
        try:
            number = tokenizer.token_to_id(name)
        except (AttributeError, KeyError, ValueError):
            continue
        if number is not None:
            return int(number)
    raise ValueError(
        "The tokenizer drops a word altogether and has no piece for what it does not know, such "
        f"as {', '.join(_UNKNOWN_NAMES)}. Received: tokenizer={type(tokenizer).__name__}"
    )


def checked_tokenizer(tokenizer: Any) -> Any:
    """Return `tokenizer`, or raise a TypeError if it cannot be one."""
    if not isinstance(tokenizer, keras.layers.Layer):
        raise TypeError(
            "`tokenizer` should be the tokenizer of the backbone, such as "
            "`keras_hub.tokenizers.Tokenizer.from_preset(preset)` makes it. "
            f"Received: tokenizer={tokenizer!r}"
        )
    return tokenizer


def checked_pooling(pooling: str) -> str:
    """Return `pooling`, or raise a ValueError if there is none of that name."""
    if pooling not in POOLINGS:
        raise ValueError(f"`pooling` should be one of {POOLINGS}. Received: pooling={pooling!r}")
    return pooling


def _name(tokenizer: Any, piece: int) -> str:
    name = getattr(tokenizer, "id_to_token", None)
    return "" if name is None else str(name(piece))


def _lists(ragged: Any) -> list[list[int]]:
    rows = ragged.to_list() if hasattr(ragged, "to_list") else ragged
    return [[int(piece) for piece in np.asarray(row).reshape(-1)] for row in rows]


def _take(states: Tensor, place: Tensor) -> Tensor:
    """Take (batch, words, width) of (batch, pieces, width) at (batch, words)."""
    return ops.take_along_axis(states, place[:, :, None], axis=1)
