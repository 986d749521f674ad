"""Taggers and segmenters at work without Keras: NumPy alone, loaded in a fraction of a second.

It stands beside the package `finegrain`, since whatever is imported from there imports Keras where
it is installed. What Keras and this reader have in common is here, and is imported from there.
"""

from __future__ import annotations

import os
from pathlib import Path

from finegrain_reader.files import read_model
from finegrain_reader.model import UnreadableError
from finegrain_reader.reader import Reader
from finegrain_reader.spans import Span

__all__ = ["Reader", "Span", "UnreadableError", "load"]


def load(path: str | os.PathLike[str]) -> Reader:
    """Load a trained tagger or segmenter, to use it without Keras.

    Args:
        path: A `.fg` file, which `finegrain export` or `Reader.save` wrote; or a `.keras` file that
            a `Tagger` or `Segmenter` wrote, if h5py is installed, as it is where Keras is.

    Raises:
        FileNotFoundError: if there is no such file.
        UnreadableError: if it holds what only Keras can compute: a pretrained backbone, or an
            encoder of your own that has layers other than convolutions and LSTMs.
        ValueError: if it holds no tagger.

    Example:
    >>> import finegrain as fg
    >>> from finegrain.reader import load
    >>> corpus = [["the", "cat", "sat"], ["the", "dog", "sat"], ["a", "cat", "ran"]] * 20
    >>> segmenter = fg.tagging.Segmenter(width=16, seed=0).fit(corpus, epochs=12, verbose=0)
    >>> segmenter.save("words.keras")
    >>> load("words.keras").save("words.fg")
    >>> load("words.fg").segment("thedogran")
    ['the', 'dog', 'ran']
    """
    return Reader(read_model(Path(path)))
