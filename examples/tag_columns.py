"""A BiLSTM-CRF for CoNLL columns: named entities in BIO, parts of speech, or any other tags.

    python examples/tag_columns.py train.bio.tsv dev.bio.tsv      # tags B-X, I-X, O: span F1
    python examples/tag_columns.py train.upos.tsv dev.upos.tsv    # other tags: accuracy

Universal Dependencies have words and their parts of speech (https://universaldependencies.org),
WNUT-17 has named entities (https://github.com/leondz/emerging_entities_17).

Words are known by themselves, by their endings and by their shapes. Out comes the score after each
epoch, and how sure the model is of what it found: the errors among the tags by their marginals.
"""

from __future__ import annotations

import argparse
import collections
import itertools
import re
from typing import Any

import keras
import numpy as np
from rich.console import Console
from rich.table import Table

import finegrain as fg

BATCH, LONGEST, WIDTH = 32, 60, 64
console = Console()


def shape(word: str) -> str:
    """Reduce a word to its kinds of characters in a row, such as Xx, Xx-0 or @x."""
    kinds = re.sub(r"[a-zà-ÿ]+", "x", re.sub(r"[A-ZÀ-Þ]+", "X", re.sub(r"\d+", "0", word)))
    return kinds[:6]


VIEWS = {
    "word": lambda word: re.sub(r"\d", "0", word.lower()),
    "ending": lambda word: word.lower()[-3:],
    "beginning": lambda word: word.lower()[:3],
    "shape": shape,
}


class Vocabulary:
    """Numbers for what was seen twice or more: 0 is padding, 1 unknown."""

    def __init__(self, sentences: list[list[str]]) -> None:
        counts = {name: collections.Counter() for name in VIEWS}
        for words in sentences:
            for name, view in VIEWS.items():
                counts[name].update(map(view, words))
        self.numbers = {
            name: {key: n for n, key in enumerate((k for k, c in count.items() if c > 1), 2)}
            for name, count in counts.items()
        }

    def encode(self, sentences: list[list[str]]) -> dict[str, np.ndarray]:
        encoded = {name: np.zeros((len(sentences), LONGEST), "int32") for name in VIEWS}
        for row, words in enumerate(sentences):
            for name, view in VIEWS.items():
                numbers = [self.numbers[name].get(view(word), 1) for word in words]
                encoded[name][row, : len(words)] = numbers
        return encoded


def model_of(vocabulary: Vocabulary, num_tags: int, scheme: Any) -> keras.Model:
    inputs = {name: keras.Input((LONGEST,), dtype="int32", name=name) for name in VIEWS}
    features = [
        keras.layers.Embedding(len(vocabulary.numbers[name]) + 2, WIDTH, name=f"{name}_vectors")(x)
        for name, x in inputs.items()
    ]
    mask = keras.ops.not_equal(inputs["word"], 0)
    x = keras.layers.Dropout(0.4)(keras.layers.Concatenate()(features))
    x = keras.layers.Bidirectional(keras.layers.LSTM(WIDTH, return_sequences=True))(x, mask=mask)
    x = keras.layers.Dropout(0.4)(x)
    crf = fg.layers.CRF(num_tags, constraints=scheme, name="crf")
    return keras.Model(inputs, crf(x, mask=mask))


def pieces(sentences: list[tuple[list[str], list[str]]]) -> list[tuple[list[str], list[str]]]:
    """Cut sentences into pieces of at most `LONGEST` words; nothing is dropped."""
    return [
        (words[i : i + LONGEST], tags[i : i + LONGEST])
        for words, tags in sentences
        for i in range(0, len(words), LONGEST)
    ]


def surest(y: np.ndarray, potentials: np.ndarray) -> Table:
    """Tabulate how often the best tags are right, by how probable they are."""
    chain = fg.crf.LinearChain.from_potentials(potentials)
    marginals = keras.ops.convert_to_numpy(chain.marginals())
    tags = keras.ops.convert_to_numpy(chain.mode()[0])
    inside = tags >= 0
    sure = np.take_along_axis(marginals, np.maximum(tags, 0)[:, :, None], axis=2)[:, :, 0][inside]
    right = (tags == y)[inside]
    table = Table(title="Best tags by their marginal probability")
    for name in ("probability", "tags", "right"):
        table.add_column(name, justify="right")
    edges = [0.0, 0.5, 0.7, 0.9, 0.99, 1.0 + 1e-6]
    for low, high in itertools.pairwise(edges):
        among = (sure >= low) & (sure < high)
        share = f"{right[among].mean():.1%}" if among.any() else "–"
        table.add_row(f"{low:g} – {min(high, 1):g}", f"{among.sum():,}", share)
    return table


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("train")
    parser.add_argument("test")
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--multiplier", type=float, default=10.0, help="of the CRF's scores")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit", type=int, help="use only so many sentences")
    arguments = parser.parse_args()
    keras.utils.set_random_seed(arguments.seed)
    train, test = (
        pieces(fg.tagging.read_columns(path)[: arguments.limit])
        for path in (arguments.train, arguments.test)
    )
    names = sorted({tag for _, tags in train + test for tag in tags}, key=lambda t: (t != "O", t))
    entities = all(name == "O" or name[:2] in ("B-", "I-") for name in names)
    scheme = fg.tagging.BIO(names) if entities else None
    numbers = {name: number for number, name in enumerate(names)}

    def tags_of(sentences: list[Any]) -> np.ndarray:
        y = np.full((len(sentences), LONGEST), -1, "int32")
        for row, (_, tags) in enumerate(sentences):
            y[row, : len(tags)] = [numbers[tag] for tag in tags]
        return y

    vocabulary = Vocabulary([words for words, _ in train])
    x, y = vocabulary.encode([words for words, _ in train]), tags_of(train)
    x_test, y_test = vocabulary.encode([words for words, _ in test]), tags_of(test)
    model = model_of(vocabulary, len(names), scheme)
    metrics = [fg.metrics.SpanF1(scheme, name="f1")] if scheme else []
    model.compile(
        fg.PerWeight(
            keras.optimizers.Adam(arguments.learning_rate),
            rules=[
                fg.Rule(
                    r"crf/(transitions|start|end)$", learning_rate_multiplier=arguments.multiplier
                )
            ],
        ),
        loss=fg.losses.CRFNegativeLogLikelihood(per="tag"),
        metrics=[fg.metrics.ViterbiAccuracy(name="accuracy"), *metrics],
    )
    model.fit(
        x,
        y,
        batch_size=BATCH,
        epochs=arguments.epochs,
        validation_data=(x_test, y_test),
        verbose=2,
    )
    console.print(surest(y_test, model.predict(x_test, verbose=0)))


if __name__ == "__main__":
    main()
