"""Batches of sentences of similar length, in few shapes, so that little is compiled and padded."""

from __future__ import annotations

import math
from collections.abc import Sequence

import keras
import numpy as np


def bucket_lengths(lengths: Sequence[int], buckets: int = 3, multiple: int = 8) -> list[int]:
    """At most `buckets` lengths, multiples of `multiple`, that pad `lengths` little.

    Dynamic programming over the possible lengths; cost is the number of padded positions.
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


class Batches(keras.utils.PyDataset):
    """Encoded sentences and tags for `fit`: (inputs, tags, weights), shuffled for each epoch.

    Every batch is full: where sentences run out, empty rows of weight 0 take their place.

    Args:
        inputs: One (length, features) array a sentence.
        tags: One (length,) array a sentence; negative where it has no tag.
        batch_size: Rows in each batch.
        seed: Of the shuffling. The batches of an epoch depend on the seed and its number alone;
            Keras's `fit` shuffles their order once more, by its own seed.
    """

    def __init__(
        self,
        inputs: Sequence[np.ndarray],
        tags: Sequence[np.ndarray],
        *,
        batch_size: int,
        seed: int,
    ) -> None:
        super().__init__()
        self.batch_size = batch_size
        self.seed = seed
        self.epoch = 0
        lengths = np.array([len(row) for row in tags])
        self.lengths = bucket_lengths(lengths.tolist())
        bucket_of = np.searchsorted(self.lengths, lengths)
        self.buckets: list[tuple[np.ndarray, np.ndarray]] = []
        for index, length in enumerate(self.lengths):
            rows = np.flatnonzero(bucket_of == index)
            x = np.zeros((len(rows), length, inputs[0].shape[1]), "int32")
            y = np.full((len(rows), length), -1, "int32")
            for place, row in enumerate(rows.tolist()):
                x[place, : lengths[row]] = inputs[row]
                y[place, : lengths[row]] = tags[row]
            self.buckets.append((x, y))
        self._shuffle()

    def _shuffle(self) -> None:
        random = np.random.default_rng([self.seed, self.epoch])
        self.order = [
            (index, rows)
            for index, (x, _) in enumerate(self.buckets)
            for rows in np.array_split(
                random.permutation(len(x)),
                np.arange(self.batch_size, len(x), self.batch_size),
            )
            if len(rows)
        ]
        random.shuffle(self.order)

    def on_epoch_end(self) -> None:
        """Shuffles for the next epoch."""
        self.epoch += 1
        self._shuffle()

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, batch: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        index, rows = self.order[batch]
        x, y = (array[rows] for array in self.buckets[index])
        missing = self.batch_size - len(rows)
        weights = np.r_[np.ones(len(rows), "float32"), np.zeros(missing, "float32")]
        return (
            np.pad(x, ((0, missing), (0, 0), (0, 0))),
            np.pad(y, ((0, missing), (0, 0)), constant_values=-1),
            weights,
        )
