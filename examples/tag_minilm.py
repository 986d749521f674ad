"""What a choice is worth when a tagger is fine-tuned on all-MiniLM-L6-v2.

Each option takes several values, and each combination is trained from each seed: which sub-words
stand for a word, a CRF or a softmax, what the classes weigh, and how many bits the numbers in the
encoder's matrices had. The scores are those of the second corpus, which also chose the best epoch.

    pip install 'finegrain[pretrained,torch]'
    export KERAS_BACKEND=torch
    python examples/tag_minilm.py train.bio.tsv dev.bio.tsv --pooling first last mean --seeds 0 1
    python examples/tag_minilm.py train.bio.tsv dev.bio.tsv --head crf softmax --weights "" O=0.3
    python examples/tag_minilm.py train.bio.tsv dev.bio.tsv --bits 32 4 3 --seeds 0 1
    python examples/tag_minilm.py train.upos.tsv dev.upos.tsv --task labels --sentences 3000

Matrices are put in fewer bits as in GGML's format Q4_0, and as the encoder of `bert_crf.py` was: of
each 32 numbers that lead to one output, the largest is −8 times a factor of 16 bits, any other the
nearest multiple of the factor from −8 to 7 (of 3 bits: from −4 to 3).
"""

from __future__ import annotations

import argparse
import itertools
import time
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
from _texts import minilm

import finegrain as fg

BLOCK = 32  # numbers that share a factor
FIGURES = {"spans": ("f1", "precision", "recall"), "labels": ("accuracy",)}


def rounded(rows: np.ndarray, bits: int) -> np.ndarray:
    """Give the numbers in the rows of a matrix so many bits."""
    blocks = rows.reshape(-1, BLOCK)
    largest = np.take_along_axis(blocks, np.abs(blocks).argmax(axis=1)[:, None], axis=1)
    low = -(2 ** (bits - 1))
    factors = largest / low
    multiples = np.floor(blocks / np.where(factors == 0, 1, factors) + 0.5)
    kept = factors.astype("float16").astype("float32")
    return (np.clip(multiples, low, -low - 1) * kept).reshape(rows.shape)


def round_matrices(backbone: Any, bits: int) -> float:
    """Round the kernels and the table of sub-words; return the error's share of their norm."""
    error = norm = 0.0
    for weight in backbone.weights:
        table = weight.path == "token_embedding/embeddings"
        kernel = weight.path.startswith("transformer_") and weight.path.endswith("/kernel")
        if not table and not kernel:
            continue
        values = keras.ops.convert_to_numpy(weight.value)
        if table:
            rows = values
        elif "attention_output" in weight.path:  # (heads, channels, outputs)
            rows = values.reshape(-1, values.shape[-1]).T
        else:  # (inputs, outputs), or (inputs, heads, channels)
            rows = values.reshape(len(values), -1).T
        new = rounded(rows, bits)
        error += float(np.square(new - rows, dtype="float64").sum())
        norm += float(np.square(rows, dtype="float64").sum())
        weight.assign((new if table else new.T).reshape(values.shape))
    return (error / norm) ** 0.5


def class_weight(text: str) -> dict[str, float] | None:
    """Read what classes weigh, such as `O=0.3,PER=2`; nothing for all the same."""
    pairs = (pair.rpartition("=") for pair in text.split(",") if pair)
    return {label: float(weight) for label, _, weight in pairs} or None


class Choice(NamedTuple):
    """What one training has of each option."""

    pooling: str
    head: str
    weights: str
    bits: int
    seed: int


def train(arguments: argparse.Namespace, choice: Choice) -> dict[str, float]:
    """Train one tagger and return the figures of its score, and the error of rounded matrices."""
    backbone, tokenizer = minilm()
    error = {} if choice.bits == 32 else {"error": round_matrices(backbone, choice.bits)}
    tagger = fg.tagging.Tagger(
        arguments.task,
        backbone=backbone,
        tokenizer=tokenizer,
        layers=arguments.layers,
        pooling=choice.pooling,
        crf=choice.head == "crf",
        seed=choice.seed,
    )
    tagger.fit(
        fg.tagging.read_columns(arguments.train)[: arguments.sentences],
        validation=arguments.dev,
        epochs=arguments.epochs,
        class_weight=class_weight(choice.weights),
        verbose=0,
    )
    return {
        name: getattr(tagger.validation_score, name) for name in FIGURES[arguments.task]
    } | error


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("train", type=Path, help="tagged sentences, as `Tagger.fit` reads them")
    parser.add_argument("dev", type=Path, help="others, for the scores")
    parser.add_argument("--task", choices=FIGURES, default="spans")
    parser.add_argument("--pooling", nargs="+", default=["first"])
    parser.add_argument("--head", nargs="+", choices=["crf", "softmax"], default=["crf"])
    parser.add_argument("--weights", nargs="+", default=[""], help="such as O=0.3,person=2")
    parser.add_argument("--bits", nargs="+", type=int, default=[32])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--layers", type=int, default=3, help="of the encoder's six")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--sentences", type=int, help="of the first corpus, from its beginning")
    arguments = parser.parse_args()
    values = [arguments.pooling, arguments.head, arguments.weights, arguments.bits, arguments.seeds]
    for choice in itertools.starmap(Choice, itertools.product(*values)):
        begin = time.perf_counter()
        figures = train(arguments, choice)
        chosen = ", ".join(
            f"{name} {'–' if value == '' else value}" for name, value in choice._asdict().items()
        )
        found = ", ".join(f"{name} {value:.4f}" for name, value in figures.items())
        print(f"{chosen}: {found} ({time.perf_counter() - begin:.0f} s)", flush=True)


if __name__ == "__main__":
    main()
