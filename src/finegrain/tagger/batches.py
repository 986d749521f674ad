"""Batches of sentences of similar length, in few shapes, so that little is compiled and padded."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Protocol

import keras
import numpy as np


def bucket_lengths(lengths: Sequence[int], buckets: int = 3, multiple: int = 8) -> list[int]:
    """Find at most `buckets` lengths, multiples of `multiple`, that pad `lengths` the least.

    Dynamic programming over the possible lengths; the cost is the number of padded positions.
    """
    top = math.ceil(max(lengths) / multiple)
    counts = np.bincount([math.ceil(max(n, 1) / multiple) for n in lengths], minlength=top + 1)
    cumulated = np.cumsum(counts)
    # cost[k][j]: positions needed for all sentences of at most j multiples with k buckets.
    cost = np.full((buckets + 1, top + 1), np.inf)
    cost[:, 0] = 0
    origin = np.zeros((buckets + 1, top + 1), int)
    for k in range(1, buckets + 1):
        for j in range(1, top + 1):
            options = cost[k - 1, :j] + (cumulated[j] - cumulated[:j]) * j
            origin[k, j] = int(np.argmin(options))
            cost[k, j] = options[origin[k, j]]
    result, j = [], top
    for k in range(buckets, 0, -1):
        if j == 0:
            break
        result.append(j * multiple)
        j = origin[k, j]
    return sorted(result)


class Features(Protocol):
    """What turns sequences of characters or words into the numbers that a model takes."""

    words: frozenset[str]

    @property
    def lengths(self) -> tuple[int, ...]:
        """The lengths to which sequences are padded when they are tagged, the longest last."""
        ...

    def sizes(self, sequence: Sequence[str]) -> np.ndarray:
        """Return how many positions each unit of a sequence takes."""
        ...

    def encode(self, sequences: Sequence[Sequence[str]], length: int) -> Any:
        """Encode sequences of at most `length` positions: arrays of as many rows."""
        ...


class Batches(keras.utils.PyDataset):
    """Encoded sentences and tags for `fit`: (inputs, tags, weights), shuffled for each epoch.

    The sentences padded to one length fill as few batches as can hold them. These batches all have
    the same number of rows, the least that suffices; empty rows of weight 0 fill up a short one.

    Args:
        features: What encodes the sentences.
        sentences: The sentences, each of characters or words.
        tags: One (length,) array a sentence; negative where it has no tag.
        batch_size: Most rows in a batch.
        seed: Of the shuffling. The batches of an epoch depend on the seed and its number alone;
            Keras's `fit` shuffles their order once more, by its own seed.
        **kwargs: Keras's own: `workers`, `use_multiprocessing`, `max_queue_size`.
    """

    def __init__(
        self,
        features: Features,
        sentences: Sequence[Sequence[str]],
        tags: Sequence[np.ndarray],
        *,
        batch_size: int,
        seed: int,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.batch_size = batch_size
        self.seed = seed
        self.epoch = 0
        lengths = np.array([features.sizes(sentence).sum() for sentence in sentences])
        # The longest that the model takes is no multiple of 8, if a backbone wants two places more.
        longest = features.lengths[-1]
        self.lengths = [min(length, longest) for length in bucket_lengths(lengths.tolist())]
        bucket_of = np.searchsorted(self.lengths, lengths)
        self.buckets: list[tuple[Any, np.ndarray]] = []
        self.rows: list[int] = []
        for index, length in enumerate(self.lengths):
            members = np.flatnonzero(bucket_of == index)
            x = features.encode([sentences[member] for member in members.tolist()], length)
            y = np.full((len(members), length), -1, "int32")
            for place, member in enumerate(members.tolist()):
                y[place, : len(tags[member])] = tags[member]
            self.buckets.append((x, y))
            batches = -(-len(y) // batch_size)
            self.rows.append(-(-len(y) // batches))
        self._shuffle()

    def _shuffle(self) -> None:
        random = np.random.default_rng([self.seed, self.epoch])
        self.order = [
            (index, members)
            for index, ((_, y), rows) in enumerate(zip(self.buckets, self.rows, strict=True))
            for members in np.array_split(random.permutation(len(y)), np.arange(rows, len(y), rows))
        ]
        random.shuffle(self.order)
        # On TensorFlow Keras fixes for the whole training what the first two batches have in
        # common (`PyDatasetAdapter.get_tf_dataset`). So their lengths differ, if any do.
        other = (place for place, (index, _) in enumerate(self.order) if index != self.order[0][0])
        place = next(other, 0)
        if place:
            self.order[1], self.order[place] = self.order[place], self.order[1]

    def go_to_epoch(self, epoch: int) -> None:
        """Put the sentences in the order of that epoch, counted from 0."""
        self.epoch = epoch
        self._shuffle()

    def on_epoch_end(self) -> None:
        """Shuffle the sentences for the next epoch."""
        self.go_to_epoch(self.epoch + 1)

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, batch: int) -> tuple[Any, np.ndarray, np.ndarray]:
        index, members = self.order[batch]
        x, y = self.buckets[index]
        missing = self.rows[index] - len(members)
        weights = np.r_[np.ones(len(members), "float32"), np.zeros(missing, "float32")]
        return (
            keras.tree.map_structure(lambda array: with_rows(array[members], missing), x),
            with_rows(y[members], missing, -1),
            weights,
        )


def with_rows(array: np.ndarray, missing: int, value: int = 0) -> np.ndarray:
    """Add `missing` rows of `value` to an array."""
    width = ((0, missing), *((0, 0),) * (array.ndim - 1))
    return np.pad(array, width, constant_values=value)
