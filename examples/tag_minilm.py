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

Fewer bits are had as in GGML's format Q4_0, and in the encoder of `bert_crf.py`: of each 32 numbers
that lead to one output, the largest is −8 times a factor of 16 bits, each other one the nearest
multiple of the factor from −8 to 7 (of 3 bits: from −4 to 3).
"""

from __future__ import annotations

import argparse
import itertools
import time
from pathlib import Path
from typing import Any

import keras
import numpy as np
from _texts import minilm

import finegrain as fg

BLOCK = 32  # numbers that share a factor


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
        if weight.path.endswith("/kernel"):
            # Of attention: (in, heads, size), and (heads, size, out) where the heads are joined.
            inputs = -1 if "attention_output" in weight.path else weight.shape[0]
            outputs = weight.shape[-1] if inputs == -1 else -1
        elif weight.path.endswith("token_embedding/embeddings"):
            inputs = None
        else:
            continue
        values = keras.ops.convert_to_numpy(weight.value)
        rows = values if inputs is None else values.reshape(inputs, outputs).T
        new = rounded(rows, bits)
        error += float(np.square(new - rows, dtype="float64").sum())
        norm += float(np.square(rows, dtype="float64").sum())
        weight.assign(new if inputs is None else new.T.reshape(values.shape))
    return (error / norm) ** 0.5


def class_weight(text: str) -> dict[str, float] | None:
    """Read what classes weigh, such as `O=0.3,PER=2`."""
    pairs = (pair.rpartition("=") for pair in text.split(",") if pair)
    return {label: float(weight) for label, _, weight in pairs} or None


def train(arguments: argparse.Namespace, pooling: str, head: str, weights: str, bits: int, seed: int) -> Any:
    """Train one tagger and return its score."""
    backbone, tokenizer = minilm()
    if bits < 32:
        print(f"{bits} bits: an error of {round_matrices(backbone, bits):.1%}")
    tagger = fg.tagging.Tagger(
        arguments.task,
        backbone=backbone,
        tokenizer=tokenizer,
        layers=arguments.layers,
        pooling=pooling,
        crf=head == "crf",
        seed=seed,
    )
    corpus = fg.tagging.read_columns(arguments.train)[: arguments.sentences]
    options = {} if class_weight(weights) is None else {"class_weight": class_weight(weights)}
    tagger.fit(
        corpus, validation=arguments.dev, epochs=arguments.epochs, verbose=arguments.verbose,
        **options,
    )
    return tagger._task.figures(tagger.validation_score)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("train", type=Path)
    parser.add_argument("dev", type=Path)
    parser.add_argument("--task", choices=["spans", "labels"], default="spans")
    parser.add_argument("--pooling", nargs="+", default=["first"])
    parser.add_argument("--head", nargs="+", choices=["crf", "softmax"], default=["crf"])
    parser.add_argument("--weights", nargs="+", default=[""], help="such as O=0.3,person=2")
    parser.add_argument("--bits", nargs="+", type=int, default=[32])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--sentences", type=int, help="of the first corpus, from its beginning")
    parser.add_argument("--verbose", type=int, default=0)
    arguments = parser.parse_args()
    axes = [arguments.pooling, arguments.head, arguments.weights, arguments.bits, arguments.seeds]
    for combination in itertools.product(*axes):
        begin = time.perf_counter()
        figures = train(arguments, *combination)
        shown = ", ".join(f"{name} {value:.4f}" for name, value in figures.items())
        print(*combination, "·", shown, f"({time.perf_counter() - begin:.0f} s)", flush=True)


if __name__ == "__main__":
    main()
