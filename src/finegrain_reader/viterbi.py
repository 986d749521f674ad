"""Scores of the tags of sequences, and the best tags by them, in NumPy."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class SequenceScores(NamedTuple):
    """The scores of one sequence, without padding, with −inf for what is not allowed.

    Attributes:
        emissions: (units, tags).
        transitions: (tags, tags) [from, to].
        start: (tags,).
        end: (tags,).
    """

    emissions: np.ndarray
    transitions: np.ndarray
    start: np.ndarray
    end: np.ndarray


def best_tags(
    emissions: np.ndarray,
    starts: np.ndarray,
    lengths: np.ndarray,
    transitions: np.ndarray,
    start: np.ndarray,
    end: np.ndarray,
) -> list[np.ndarray]:
    """Find the best tags of many sequences at once.

    Args:
        emissions: (positions, tags) scores: the sequences lie one behind another in them.
        starts: (sequences,) the first position of each.
        lengths: (sequences,) how long each is, at least 1.
        transitions: (tags, tags) [from, to].
        start: (tags,).
        end: (tags,).

    Returns:
        For each sequence its (length,) int32 tags.

    References:
        G. David Forney, The Viterbi Algorithm, 1973, https://doi.org/10.1109/PROC.1973.9030
    """
    # The longest first: at each place, those that go on are the first ones.
    order = np.argsort(-lengths, kind="stable")
    first, length = starts[order], lengths[order]
    going_on = np.searchsorted(-length, -np.arange(1, length[0] + 1), "right").tolist()
    steps = transitions[:, :, None]
    # For each place (tags, sequences): the best score of what leads to that tag.
    scores = [start[:, None] + emissions[first].T]
    for place, count in enumerate(going_on[1:], 1):
        before = scores[-1][:, None, :count]
        scores.append((before + steps).max(axis=0) + emissions[first[:count] + place].T)
    tags = np.zeros((len(going_on), len(order)), "int32")
    known = 0
    for place in range(len(going_on) - 1, -1, -1):
        count, row = going_on[place], scores[place]
        if known < count:  # sequences that end here
            tags[place, known:count] = (row[:, known:] + end[:, None]).argmax(axis=0)
        if known:
            after = tags[place + 1, :known]
            tags[place, :known] = (row[:, :known] + transitions[:, after]).argmax(axis=0)
        known = count
    columns = np.ascontiguousarray(tags.T)
    found = [columns[0]] * len(order)
    for column, number, size in zip(columns, order.tolist(), length.tolist(), strict=True):
        found[number] = column[:size]
    return found
