"""A tagger on a KerasHub BERT with random weights, as somebody fine-tunes one.

    python -m real.bert FOLDER

goes on from the files that `test_bert.py` left in the folder, and leaves what came of it there.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, NamedTuple

import keras
import keras_hub
import numpy as np

import finegrain as fg
from real.terminal import FULL


class Size(NamedTuple):
    """Of the model and its data."""

    layers: int
    heads: int
    width: int
    words: int
    lengths: tuple[int, ...]
    batches: int
    rows: int


SIZE = Size(6, 4, 128, 2000, (24, 48, 96), 12, 16) if FULL else Size(2, 2, 16, 50, (8, 16), 4, 4)
TAGS = 4
RATE = 1e-3
HELD = fg.Rule("token_embedding", trainable=False, name="words")


class Batches(keras.utils.PyDataset):
    """Sentences whose tags follow from their words, in batches of several lengths."""

    def __len__(self) -> int:
        return SIZE.batches

    def __getitem__(self, index: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
        random = np.random.default_rng(index)
        length = SIZE.lengths[index % len(SIZE.lengths)]
        words = random.integers(1, SIZE.words, (SIZE.rows, length)).astype("int32")
        there = np.arange(length) < random.integers(length // 2, length + 1, (SIZE.rows, 1))
        inputs = {
            "token_ids": np.where(there, words, 0).astype("int32"),
            "segment_ids": np.zeros_like(words),
            "padding_mask": there.astype("int32"),
        }
        return inputs, np.where(there, words % TAGS, -1).astype("int32")


def tagger(rules: list[fg.Rule]) -> keras.Model:
    """A compiled model; `rules` come after a decay over the layers, and a faster CRF."""
    backbone = keras_hub.models.BertBackbone(
        vocabulary_size=SIZE.words,
        num_layers=SIZE.layers,
        num_heads=SIZE.heads,
        hidden_dim=SIZE.width,
        intermediate_dim=2 * SIZE.width,
        max_sequence_length=max(SIZE.lengths),
        dropout=0.0,  # Keras keeps the seeds of its masks in no file
    )
    # Not by a call of the backbone, whose pooler no gradient would reach.
    features = backbone.output["sequence_output"]
    model = keras.Model(backbone.input, fg.layers.CRF(TAGS, name="crf")(features))
    optimizer = fg.PerWeight(
        keras.optimizers.AdamW(RATE, weight_decay=0.01, global_clipnorm=1.0),
        [
            *fg.layer_decay(model, 0.8),
            fg.Rule("crf", learning_rate_multiplier=10.0),
            fg.Rule(["bias$", "gamma$", "beta$", "embedding"], weight_decay=0.0),
            *rules,
        ],
    )
    model.compile(
        optimizer,
        loss=fg.losses.CRFNegativeLogLikelihood(per="tag"),
        metrics=[fg.metrics.ViterbiAccuracy()],
    )
    return model


def fit(model: keras.Model, first: int, last: int, **arguments: Any) -> dict[str, list[float]]:
    """The history of the epochs after `first`, up to `last`."""
    return model.fit(
        Batches(), initial_epoch=first, epochs=last, shuffle=False, verbose=0, **arguments
    ).history


def record(path: Path, model: keras.Model) -> None:
    """Writes all weights and slots of `model`."""
    state: dict[str, np.ndarray] = {}
    model.optimizer.save_own_variables(state)
    weights = {f"weight {i}": to_array(weight) for i, weight in enumerate(model.weights)}
    np.savez(path, **weights, **state)


def to_array(variable: keras.Variable) -> np.ndarray:
    """A copy of what it holds."""
    return np.array(keras.ops.convert_to_numpy(variable.value))


def resume(folder: Path) -> None:
    """The second epoch, after a file."""
    model = keras.models.load_model(folder / "bert-1.keras")
    sys.stdout.write(f"{model.optimizer.describe(model)}\n")
    fit(model, 1, 2)
    record(folder / "resumed.npz", model)


def unfreeze(folder: Path) -> None:
    """Rules of today, and the weights and slots of yesterday, when the words were held."""
    model = tagger([])
    model.optimizer.build(model.trainable_variables)
    model.load_weights(folder / "bert-1.weights.h5")
    before = [to_array(weight) for weight in model.trainable_variables]
    inputs, tags = Batches()[0]
    model.train_on_batch(inputs, tags)
    rates = model.optimizer.effective_learning_rates()
    steps = {
        weight.path: (to_array(weight) - old) / rate
        for weight, old, rate in zip(model.trainable_variables, before, rates, strict=True)
    }
    np.savez(folder / "unfrozen.npz", **steps)


if __name__ == "__main__":
    resume(Path(sys.argv[1]))
    unfreeze(Path(sys.argv[1]))
