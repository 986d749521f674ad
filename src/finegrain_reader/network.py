"""The model of a tagger in NumPy: features, convolutions and LSTMs, and the scores of the tags.

Sequences lie one behind another in arrays of (positions, channels), with masked positions of zeros
between them, as many as a convolution sees to either side. So one product of matrices serves them
all, and nothing is padded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from finegrain_reader.vocabulary import PADDING, Characters, EncodedTexts, Words


class Layout(NamedTuple):
    """Where sequences lie in an array of positions.

    Attributes:
        starts: (sequences,) the first position of each.
        lengths: (sequences,) how long each is, at least 1.
        masked: The positions that are in none.
    """

    starts: np.ndarray
    lengths: np.ndarray
    masked: np.ndarray

    @classmethod
    def of(cls, starts: np.ndarray, lengths: np.ndarray, size: int) -> Layout:
        """Find the masked ones of `size` positions."""
        steps = np.zeros(size + 1, "int32")
        steps[starts] += 1
        steps[starts + lengths] -= 1
        return cls(starts, lengths, np.flatnonzero(np.cumsum(steps[:-1]) == 0))


class Layer(Protocol):
    """A layer: from (positions, channels) to as many positions, with zeros where masked."""

    reach: int
    """How many positions it sees to either side within a sequence; zeros must be there."""

    def __call__(self, x: np.ndarray, layout: Layout) -> np.ndarray:
        """Compute the outputs. The inputs may be overwritten."""
        ...


class Convolution:
    """A convolution with ReLU, which is added to its inputs if they have as many channels.

    Args:
        kernel: (places, inputs, channels).
        bias: (channels,).
        dilation: Distance between the places.
    """

    def __init__(self, kernel: np.ndarray, bias: np.ndarray, dilation: int) -> None:
        size, inputs, channels = kernel.shape
        self.dilation = dilation
        self.kernel = kernel
        self.bias = bias
        # Keras's "same" padding: of an even number, the larger half comes after.
        whole = (size - 1) * dilation
        self.offsets = [place * dilation - whole // 2 for place in range(size)]
        self.reach = whole - whole // 2
        self.residual = inputs == channels
        self._side_by_side = np.ascontiguousarray(kernel.transpose(1, 0, 2).reshape(inputs, -1))

    def __call__(self, x: np.ndarray, layout: Layout) -> np.ndarray:
        """Compute the outputs."""
        channels = len(self.bias)
        # One product for all places of the kernel; its columns are then moved to where they belong.
        products = x @ self._side_by_side
        out = np.repeat(self.bias[None], len(x), axis=0)
        for place, offset in enumerate(self.offsets):
            add_moved(out, products[:, place * channels : (place + 1) * channels], offset)
        np.maximum(out, 0, out=out)
        if self.residual:
            out += x
        out[layout.masked] = 0
        return out


def add_moved(out: np.ndarray, rows: np.ndarray, offset: int) -> None:
    """Add to each row of `out` that of `rows` which is `offset` further on, where there is one."""
    if abs(offset) >= len(out):
        return
    if offset < 0:
        out[-offset:] += rows[:offset]
    elif offset > 0:
        out[:-offset] += rows[offset:]
    else:
        out += rows


class LSTM:
    """Keras's LSTM that returns the whole sequence, in one direction.

    Args:
        kernel: (inputs, 4 · units): of the input, forget, cell and output gates.
        recurrent_kernel: (units, 4 · units).
        bias: (4 · units,).
        backwards: Whether it reads from the end.
    """

    reach = 0

    def __init__(
        self, kernel: np.ndarray, recurrent_kernel: np.ndarray, bias: np.ndarray, *, backwards: bool
    ) -> None:
        self.kernel = kernel
        self.recurrent_kernel = recurrent_kernel
        self.bias = bias
        self.backwards = backwards

    def __call__(self, x: np.ndarray, layout: Layout) -> np.ndarray:
        """Compute the outputs."""
        units = len(self.recurrent_kernel)
        gates = x @ self.kernel
        gates += self.bias
        out = np.zeros((len(x), units), x.dtype)
        order = np.argsort(-layout.lengths, kind="stable")
        starts, lengths = layout.starts[order], layout.lengths[order]
        first = starts + lengths - 1 if self.backwards else starts
        step = -1 if self.backwards else 1
        hidden = np.zeros((len(order), units), x.dtype)
        cell = np.zeros_like(hidden)
        for place, count in enumerate(
            np.searchsorted(-lengths, -np.arange(1, lengths[0] + 1), "right").tolist()
        ):
            rows = first[:count] + step * place
            hidden, cell = hidden[:count], cell[:count]
            now = hidden @ self.recurrent_kernel
            now += gates[rows]
            enter, forget, output = (
                _sigmoid(now[:, gate * units : (gate + 1) * units]) for gate in (0, 1, 3)
            )
            cell = forget * cell + enter * np.tanh(now[:, 2 * units : 3 * units])
            hidden = output * np.tanh(cell)
            out[rows] = hidden
        return out


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 0.5 * (np.tanh(0.5 * x) + 1)  # does not overflow


class Both:
    """Two layers side by side on the same inputs.

    Args:
        forward: One, and
        backward: the other.
    """

    reach = 0

    def __init__(self, forward: LSTM, backward: LSTM) -> None:
        self.layers = (forward, backward)

    def __call__(self, x: np.ndarray, layout: Layout) -> np.ndarray:
        """Compute the outputs."""
        return np.concatenate([layer(x, layout) for layer in self.layers], axis=1)


class WordFeatures:
    """The vectors of words.

    Args:
        words: Their numbers.
        tables: For each view, (known + 2, channels).
    """

    def __init__(self, words: Words, tables: Sequence[np.ndarray]) -> None:
        self.words = words
        self.tables = tables

    def __call__(self, sentences: Sequence[Sequence[str]], gap: int) -> tuple[np.ndarray, Layout]:
        """Return the vectors of sentences that have words, (positions, channels)."""
        gap = max(gap, 1)
        lengths = np.array([len(sentence) for sentence in sentences], "int64")
        ends = np.cumsum(lengths + gap)
        layout = Layout.of(gap + np.r_[0, ends[:-1]], lengths, int(ends[-1]) + gap)
        numbers = np.zeros((int(ends[-1]) + gap, len(self.tables)), "int64")
        for start, sentence in zip(layout.starts.tolist(), sentences, strict=True):
            numbers[start : start + len(sentence)] = self.words.encode(sentence)
        vectors = [table[column] for table, column in zip(self.tables, numbers.T, strict=True)]
        x = np.concatenate(vectors, axis=1)
        x[layout.masked] = 0
        return x, layout


class CharacterFeatures:
    """The vectors of characters, each with the pairs that it forms with its neighbours.

    Args:
        characters: Their numbers.
        tables: Of characters, left and right pairs: (known + 2, channels) each.
    """

    def __init__(self, characters: Characters, tables: Sequence[np.ndarray]) -> None:
        self.characters = characters
        self.tables = tables

    def __call__(self, texts: Sequence[str], gap: int) -> tuple[np.ndarray, Layout]:
        """Return the vectors of texts that are not empty, (positions, channels)."""
        encoded, layout = encode(self.characters, texts, gap)
        columns = (encoded.characters, encoded.pairs[:-1], encoded.pairs[1:])
        x = np.concatenate([t[column] for t, column in zip(self.tables, columns, strict=True)], 1)
        x[layout.masked] = 0
        return x, layout


def encode(characters: Characters, texts: Sequence[str], gap: int) -> tuple[EncodedTexts, Layout]:
    """Return the numbers of texts that are not empty, and where these lie."""
    encoded = characters.encode(texts, max(gap, 1))
    return encoded, Layout.of(encoded.starts, encoded.lengths, len(encoded.characters))


class ConvolvedCharacters:
    """The vectors of characters behind a first convolution, which is linear but for its ReLU.

    So what a character, or a pair, adds to the outputs near it is its vector times the kernel. It
    is computed when it is met for the first time, and looked up from then on.

    Args:
        features: The vectors of characters.
        convolution: The convolution, of dilation 1 and without a residual connection.
    """

    def __init__(self, features: CharacterFeatures, convolution: Convolution) -> None:
        self.characters = features.characters
        self.bias = convolution.bias
        self._offsets = convolution.offsets
        characters, left, right = features.tables
        ends = np.cumsum([characters.shape[1], left.shape[1]])
        of_character, of_left, of_right = np.split(convolution.kernel, ends, axis=1)
        self._characters = _Products(len(characters), characters.take, of_character)
        # A pair is the left one of its second character and the right one of its first, one place
        # before. The pair at the edge of a text is but one of them: number p of n is that of a pair
        # within a text, n + p at its beginning, 2n + p at its end.
        self._known = len(left)
        as_left = np.pad(of_left, ((0, 1), (0, 0), (0, 0)))
        as_right = np.pad(of_right, ((1, 0), (0, 0), (0, 0)))

        def vectors(numbers: np.ndarray, axis: int) -> np.ndarray:
            part, pair = np.divmod(numbers, self._known)
            is_left, is_right = (part != 2)[:, None], (part != 1)[:, None]
            return np.concatenate([left[pair] * is_left, right[pair] * is_right], axis=1)

        kernel = np.concatenate([as_left, as_right], axis=1)
        self._pairs = _Products(3 * self._known, vectors, kernel)

    def __call__(self, texts: Sequence[str], gap: int) -> tuple[np.ndarray, Layout]:
        """Return the outputs for texts that are not empty, (positions, channels)."""
        encoded, layout = encode(self.characters, texts, max(gap, len(self._offsets)))
        encoded.pairs[encoded.starts] += self._known
        encoded.pairs[encoded.starts + encoded.lengths] += 2 * self._known
        out = np.repeat(self.bias[None], len(encoded.characters), axis=0)
        products = self._characters(encoded.characters)
        for place, offset in enumerate(self._offsets):
            add_moved(out, products[:, place], offset)
        products = self._pairs(encoded.pairs)
        for place, offset in enumerate([*self._offsets, self._offsets[-1] + 1]):
            if offset < 1:
                add_moved(out, products[:-1, place], offset)
            else:
                add_moved(out, products[1:, place], offset - 1)
        np.maximum(out, 0, out=out)
        out[layout.masked] = 0
        return out, layout


class _Products:
    """The products of vectors and a kernel, each computed when it is needed first.

    Args:
        size: How many vectors there are. Number `PADDING` stands for zeros.
        vectors: From numbers and the axis 0 to vectors, (numbers, inputs).
        kernel: (places, inputs, channels).
    """

    def __init__(
        self, size: int, vectors: Callable[[np.ndarray, int], np.ndarray], kernel: np.ndarray
    ) -> None:
        places, inputs, channels = kernel.shape
        self._vectors = vectors
        self._kernel = np.ascontiguousarray(kernel.transpose(1, 0, 2).reshape(inputs, -1))
        self._products = np.empty((size, places, channels), kernel.dtype)
        self._products[PADDING] = 0
        self._is_known = np.zeros(size, bool)
        self._is_known[PADDING] = True

    def __call__(self, numbers: np.ndarray) -> np.ndarray:
        """Look up the products of rows: (numbers, places, channels)."""
        new = numbers[~self._is_known[numbers]]
        if len(new):
            new = np.unique(new)
            products = self._vectors(new, 0) @ self._kernel
            self._products[new] = products.reshape(len(new), *self._products.shape[1:])
            self._is_known[new] = True
        return self._products.take(numbers, axis=0)


class Network:
    """A tagger's model: from sequences to the scores of their tags.

    Args:
        features: What gives sequences vectors.
        layers: What is behind, in order.
        kernel: (channels, tags) of the head, and
        bias: (tags,) of it.
    """

    def __init__(
        self,
        features: WordFeatures | CharacterFeatures,
        layers: Sequence[Layer],
        kernel: np.ndarray,
        bias: np.ndarray,
    ) -> None:
        self.features: Callable[[Any, int], tuple[np.ndarray, Layout]] = features
        self.layers = list(layers)
        self.kernel = kernel
        self.bias = bias
        first = layers[0] if layers else None
        if (
            isinstance(features, CharacterFeatures)
            and isinstance(first, Convolution)
            and first.dilation == 1
            and not first.residual
        ):
            self.features = ConvolvedCharacters(features, first)
            del self.layers[0]
        self._gap = max((layer.reach for layer in layers), default=1)
        recurrent = any(not isinstance(layer, Convolution) for layer in layers)
        # Convolutions are quickest while all that they need fits into the cache, LSTMs with many
        # sequences at a time.
        self._positions = 16_384 if recurrent else 768

    def emissions(self, sequences: Sequence[Sequence[str]]) -> Iterator[EmissionBlock]:
        """Yield the scores of the tags of sequences that have units, some sequences at a time."""
        first = size = 0
        for number, sequence in enumerate(sequences):
            if size and size + len(sequence) > self._positions:
                yield self._block(sequences[first:number])
                first, size = number, 0
            size += len(sequence)
        if size:
            yield self._block(sequences[first:])

    def _block(self, sequences: Sequence[Sequence[str]]) -> EmissionBlock:
        x, layout = self.features(sequences, self._gap)
        for layer in self.layers:
            x = layer(x, layout)
        return EmissionBlock(x @ self.kernel + self.bias, layout.starts, layout.lengths)


class EmissionBlock(NamedTuple):
    """The scores of the tags of some sequences.

    Attributes:
        emissions: (positions, tags).
        starts: (sequences,) the first position of each.
        lengths: (sequences,) how long each is.
    """

    emissions: np.ndarray
    starts: np.ndarray
    lengths: np.ndarray
