"""Tags for sequences from a trained model: in few batch shapes, decoded by a compiled Viterbi."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Any

import keras
import numpy as np

from finegrain.crf.constraints import Constraints
from finegrain.crf.decoding import Decode
from finegrain.crf.linear_chain import LinearChain
from finegrain.crf.potentials import Potentials, unpack
from finegrain.crf.schemes import TagScheme
from finegrain.tagger.batches import Features, with_rows
from finegrain_reader.viterbi import SequenceScores
from finegrain_reader.windows import Window, stitch, windows

# Each pair of a length and a number of rows is compiled once.
_ROWS = 32

# Chains of whole sequences are padded to multiples of this.
_MULTIPLE = 64


class Decoder:
    """A decoder that gives each unit its tag in the best sequence that the scheme allows.

    Sequences that are too long for the model go through it in overlapping windows.

    Args:
        model: From encoded sequences to potentials.
        features: The layer of the model that encodes sequences.
        scheme: The tags; `None` if any may follow any.
        num_tags: How many tags there are.
    """

    def __init__(
        self, model: keras.Model, features: Features, scheme: TagScheme | None, num_tags: int
    ) -> None:
        self.model = model
        self.features = features
        self.constraints = Constraints.of(scheme, num_tags)
        self.num_tags = num_tags
        self._decoding = keras.Model(model.input, Decode(self.constraints)(model.output))

    def tags(self, sequences: Sequence[Sequence[str]]) -> list[np.ndarray]:
        """Find the best tags: one (units,) int32 array a sequence."""
        spread = _Windows(self.features, sequences)
        found: list[np.ndarray] = [np.zeros(0, "int32")] * len(spread.inputs)
        for batch, outputs in self._outputs(self._decoding, spread.inputs):
            for number, row in zip(batch, np.asarray(outputs), strict=False):
                found[number] = row[: len(spread.inputs[number])]
        tags = [stitch(parts) for parts in spread.collect(found)]
        # Two windows may disagree where their tags meet.
        broken = [n for n, sequence in enumerate(tags) if not self._is_allowed(sequence)]
        for number, chain in zip(broken, self.chains([sequences[n] for n in broken]), strict=True):
            tags[number] = chain.best_tags()
        return tags

    def chains(
        self,
        sequences: Sequence[Sequence[str]],
        allowed: Sequence[Sequence[Collection[int] | None] | None] | None = None,
    ) -> list[Chain]:
        """Compute the chain of each sequence, as long as it may be.

        Args:
            sequences: The sequences.
            allowed: For each sequence, if any, for each unit the numbers of the tags that it may
                have; `None` stands for all.
        """
        spread = _Windows(self.features, sequences)
        found = [np.zeros((0, self.num_tags), "float32")] * len(spread.inputs)
        parts: Potentials | None = None
        for batch, outputs in self._outputs(self.model, spread.inputs):
            parts = unpack(outputs)
            emissions = keras.ops.convert_to_numpy(parts.emissions)
            for number, row in zip(batch, emissions, strict=False):
                found[number] = row[: len(spread.inputs[number])]
        if parts is None:
            return [Chain.empty(self.num_tags) for _ in sequences]
        scores = parts.transitions, parts.start, parts.end
        if self.constraints is not None:
            scores = self.constraints.apply(*scores)
        transitions, start, end = (keras.ops.convert_to_numpy(score) for score in scores)
        result = []
        for number, windowed in enumerate(spread.collect(found)):
            emissions = stitch(windowed)
            for unit, tags in enumerate((allowed[number] if allowed else None) or ()):
                if tags is not None:
                    forbidden = np.setdiff1d(np.arange(self.num_tags), list(tags))
                    emissions[unit, forbidden] = -np.inf
            result.append(Chain(emissions, transitions, start, end))
        return result

    def _outputs(
        self, model: keras.Model, sequences: Sequence[Sequence[str]]
    ) -> Iterator[tuple[list[int], Any]]:
        """Yield the model's outputs for sequences that fit it, with their numbers, by length."""
        lengths = self.features.lengths
        waiting: dict[int, list[int]] = {length: [] for length in lengths}
        for number, sequence in enumerate(sequences):
            size = int(self.features.sizes(sequence).sum())
            if size:
                waiting[next(length for length in lengths if size <= length)].append(number)
        for length, numbers in waiting.items():
            for first in range(0, len(numbers), _ROWS):
                batch = numbers[first : first + _ROWS]
                rows = 1 if len(sequences) == 1 else _ROWS
                encoded = self.features.encode([sequences[number] for number in batch], length)
                missing = rows - len(batch)
                padded = keras.tree.map_structure(lambda x, n=missing: with_rows(x, n), encoded)
                yield batch, model.predict_on_batch(padded)

    def _is_allowed(self, tags: np.ndarray) -> bool:
        if self.constraints is None or not len(tags):
            return True
        tables = self.constraints
        return bool(
            tables.allowed_start[tags[0]]
            and tables.allowed_end[tags[-1]]
            and tables.allowed[tags[:-1], tags[1:]].all()
        )


class _Windows:
    """The windows of several sequences, and which belong together."""

    def __init__(self, features: Features, sequences: Sequence[Sequence[str]]) -> None:
        limit = features.lengths[-1]
        self.windows = [list(windows(features.sizes(sequence), limit)) for sequence in sequences]
        self.inputs = [
            sequence[window.start : window.end]
            for sequence, own in zip(sequences, self.windows, strict=True)
            for window in own
        ]

    def collect(self, found: Sequence[np.ndarray]) -> Iterator[list[tuple[Window, np.ndarray]]]:
        """Yield the windows of each sequence, each with what was found for it."""
        waiting = iter(found)
        for own in self.windows:
            yield [(window, next(waiting)) for window in own]


class Chain(SequenceScores):
    """The scores of one sequence, and the distribution over its tags that they make."""

    __slots__ = ()

    @classmethod
    def empty(cls, num_tags: int) -> Chain:
        """Make the chain of a sequence without units."""
        zeros = np.zeros(num_tags, "float32")
        return cls(zeros[None][:0], np.zeros((num_tags, num_tags), "float32"), zeros, zeros)

    def distribution(self, copies: int = 1) -> LinearChain:
        """Return the distribution over the tags of `copies` of the sequence, padded at the end."""
        missing = -len(self.emissions) % _MULTIPLE
        emissions = with_rows(self.emissions, missing)[None].repeat(copies, axis=0)
        mask = np.arange(emissions.shape[1])[None].repeat(copies, axis=0) < len(self.emissions)
        return LinearChain(emissions, self.transitions, start=self.start, end=self.end, mask=mask)

    def best_tags(self) -> np.ndarray:
        """Find the best tags, (units,) int32."""
        if not len(self.emissions):
            return np.zeros(0, "int32")
        return self._numpy(self.distribution().mode()[0])[0, : len(self.emissions)]

    def is_possible(self) -> bool:
        """Return whether any sequence of tags is allowed."""
        if not len(self.emissions):
            return True
        return bool(np.isfinite(self._numpy(self.distribution().log_partition())[0]))

    def marginals(self) -> np.ndarray:
        """Compute the probability of each tag of each unit, (units, tags)."""
        if not len(self.emissions):
            return self.emissions
        return self._numpy(self.distribution().marginals())[0, : len(self.emissions)]

    def n_best(self, n: int) -> list[tuple[np.ndarray, float]]:
        """Find the best tag sequences, at most `n`, best first, each with its probability."""
        if not len(self.emissions):
            return [(np.zeros(0, "int32"), 1.0)]
        chain = self.distribution()
        tags, scores = (self._numpy(x)[0] for x in chain.top_k(n))
        whole = self._numpy(chain.log_partition())[0]
        possible = np.isfinite(scores)
        probabilities = np.exp(np.minimum(scores[possible] - whole, 0.0))
        rows = tags[possible, : len(self.emissions)]
        return list(zip(rows, probabilities.tolist(), strict=True))

    def probabilities(self, sets: Sequence[np.ndarray]) -> list[float]:
        """Compute the probability of each of several sets of tag sequences.

        Args:
            sets: For each set, (units, tags) booleans: the tags that a unit has in it.
        """
        if not sets:
            return []
        missing = -len(self.emissions) % _MULTIPLE
        allowed = np.stack([with_rows(one, missing, 1) for one in sets])
        copies = 1 << (len(sets) - 1).bit_length()  # in few shapes: each is compiled once
        allowed = with_rows(allowed, copies - len(sets), 1)
        logarithms = self._numpy(self.distribution(copies).log_prob_partial(allowed))
        return np.exp(np.minimum(logarithms[: len(sets)], 0.0)).tolist()

    @staticmethod
    def _numpy(x: Any) -> np.ndarray:
        return keras.ops.convert_to_numpy(x)
