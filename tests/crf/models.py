"""A toy tagging task that a CRF learns quickly, and the models that tests train on it."""

from typing import Any

import keras
import numpy as np

import drawn
from finegrain.layers import CRF

TAGS, WORDS = 3, 9


def task(examples: int, time: int = 6, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Tokens (examples, time), 0 where there is none, and tags that two tokens decide.

    Some sequences are padded on the right, some on the left, and some have a hole.
    """
    random = drawn.generator(seed)
    tokens = random.integers(1, WORDS + 1, (examples, time)).astype("int32")
    tokens[1::4, time - 2 :] = 0
    tokens[2::4, :2] = 0
    tokens[3::4, time // 2] = 0
    before = np.pad(tokens, ((0, 0), (1, 0)))[:, :-1]
    return tokens, ((tokens // 4 + (before > 6)) % TAGS).astype("int32")


def tagger(units: int = 8, **options: Any) -> keras.Model:
    """An embedding, a bidirectional LSTM and a CRF, as in the documentation."""
    tokens = keras.Input((None,), dtype="int32", name="tokens")
    hidden = keras.layers.Embedding(WORDS + 1, units, mask_zero=True)(tokens)
    lstm = keras.layers.LSTM(units, return_sequences=True)
    hidden = keras.layers.Bidirectional(lstm)(hidden)
    return keras.Model(tokens, CRF(TAGS, name="crf", **options)(hidden))
