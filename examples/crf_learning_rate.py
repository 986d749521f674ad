"""How fast must a CRF learn? A pretrained encoder, fine-tuned with its CRF at several multipliers.

The experiment of Su Jianlin, "The learning rate of your CRF layer may be too small"
(https://kexue.fm/archives/7196), on word segmentation: a character encoder is trained as a softmax
tagger until it fits; then it is fine-tuned at a small rate, as one does with a large pretrained
encoder, under a CRF whose transitions start at zero and learn at 1, 10, 100 and 1000 times that
rate. Decoding follows what was learned, without constraints.

    python examples/crf_learning_rate.py                      # sentences of finegrain's own manual
    python examples/crf_learning_rate.py train.txt dev.txt    # segmented text, a sentence a line
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import keras
import numpy as np
from rich.console import Console
from rich.table import Table

import finegrain as fg

MULTIPLIERS = (1.0, 10.0, 100.0, 1000.0)
BATCH, LONGEST, WIDTH = 32, 120, 128
SCHEME = fg.tagging.BMES()
console = Console()


def encoded(sentences: list[list[str]], characters: dict[str, int]) -> tuple[Any, Any]:
    """Encode characters as numbers, 0 where padded and 1 if unknown, and tags, −1 where padded."""
    rows = [words for words in sentences if 0 < sum(map(len, words)) <= LONGEST]
    x = np.zeros((len(rows), LONGEST), "int32")
    y = np.full((len(rows), LONGEST), -1, "int32")
    for row, words in enumerate(rows):
        text = "".join(words)
        x[row, : len(text)] = [characters.get(character, 1) for character in text]
        y[row, : len(text)] = SCHEME.encode(words)
    return x, y


def tagger(num_characters: int, use_transitions: bool) -> keras.Model:
    """Make a tagger: embedded characters, three convolutions, a CRF or a softmax per position."""
    tokens = keras.Input((LONGEST,), dtype="int32")
    mask = keras.ops.not_equal(tokens, 0)
    x = keras.layers.Embedding(num_characters, WIDTH, name="characters")(tokens)
    for index in range(3):
        x = keras.layers.Dropout(0.3)(x)
        x = keras.layers.Conv1D(WIDTH, 3, padding="same", activation="relu", name=f"conv_{index}")(
            x
        )
    crf = fg.layers.CRF(
        len(SCHEME.labels),
        use_transitions=use_transitions,
        use_boundaries=use_transitions,
        name="crf",
    )
    return keras.Model(tokens, crf(x, mask=mask))


def compiled(model: keras.Model, learning_rate: float, multiplier: float = 1.0) -> keras.Model:
    rules = []
    if multiplier != 1:
        fast = r"crf/(transitions|start|end)$"
        rules.append(fg.Rule(fast, learning_rate_multiplier=multiplier))
    model.compile(
        fg.PerWeight(keras.optimizers.Adam(learning_rate), rules=rules),
        loss=fg.losses.CRFNegativeLogLikelihood(),
        metrics=[fg.metrics.SpanF1(SCHEME, name="f1")],
    )
    return model


def contrast(transitions: np.ndarray) -> float:
    """Compute the mean score of pairs of tags that spell words, less that of the other pairs."""
    return float(transitions[SCHEME.allowed].mean() - transitions[~SCHEME.allowed].mean())


def illegal(tags: np.ndarray) -> float:
    """Compute the share of decoded pairs of neighbouring tags that cannot spell words."""
    before, after = tags[:, :-1], tags[:, 1:]
    inside = after >= 0
    return float((~SCHEME.allowed[before[inside], after[inside]]).mean())


def experiment(
    train: list[list[str]], test: list[list[str]], arguments: argparse.Namespace, seed: int
) -> dict[str, Any]:
    """Measure F1 on the test sentences before fine-tuning and after each of its epochs.

    Each multiplier has a fine-tuning of its own.
    """
    keras.utils.set_random_seed(seed)
    found = sorted({character for words in train for word in words for character in word})
    characters = {character: number for number, character in enumerate(found, 2)}
    x, y = encoded(train, characters)
    x_test, y_test = encoded(test, characters)
    softmax = compiled(tagger(len(characters) + 2, use_transitions=False), 2e-3)
    softmax.fit(x, y, batch_size=BATCH, epochs=arguments.pretrain, verbose=0)
    results: dict[str, Any] = {"softmax": evaluated(softmax, x_test, y_test)}
    console.print(f"pretrained as a softmax: {results['softmax']}")
    pretrained = {weight.path: keras.ops.convert_to_numpy(weight) for weight in softmax.weights}
    results["crf"] = {}
    for multiplier in arguments.multipliers:
        keras.utils.set_random_seed(seed + 1)
        model = tagger(len(characters) + 2, use_transitions=True)
        for weight in model.weights:  # the layers have the same names
            if weight.path in pretrained:
                weight.assign(pretrained[weight.path])
        compiled(model, arguments.learning_rate, multiplier)
        epochs = []
        for _ in range(arguments.epochs):
            model.fit(x, y, batch_size=BATCH, epochs=1, verbose=0)
            epochs.append(evaluated(model, x_test, y_test))
        transitions = keras.ops.convert_to_numpy(model.get_layer("crf").transitions.value)
        results["crf"][f"{multiplier:g}"] = {
            "epochs": epochs,
            "transitions": transitions.tolist(),
            "contrast": contrast(transitions),
        }
        console.print(f"× {multiplier:g}: contrast {contrast(transitions):.2f}, {epochs[-1]}")
    return results


def evaluated(model: keras.Model, x: np.ndarray, y: np.ndarray) -> dict[str, float]:
    potentials = model.predict(x, batch_size=128, verbose=0)
    tags = keras.ops.convert_to_numpy(fg.crf.decode(potentials))
    metric = fg.metrics.SpanF1(SCHEME)
    metric.update_state(y, tags)
    return {"f1": float(keras.ops.convert_to_numpy(metric.result())), "illegal": illegal(tags)}


def show(results: list[dict[str, Any]], title: str) -> None:
    """Print the table of means over the seeds."""
    table = Table(title=title)
    epochs = len(next(iter(results[0]["crf"].values()))["epochs"])
    for name in ("transitions learn at", "legal − illegal", "illegal pairs decoded"):
        table.add_column(name, justify="right")
    for epoch in range(epochs):
        table.add_column(f"F1, epoch {epoch + 1}", justify="right")
    softmax = [result["softmax"] for result in results]
    table.add_row("softmax", "", mean(softmax, "illegal", "{:.2%}"), mean(softmax, "f1", "{:.4f}"))
    for name in results[0]["crf"]:
        runs = [result["crf"][name] for result in results]
        table.add_row(
            f"× {name}",
            mean(runs, "contrast", "{:.2f}"),
            mean([run["epochs"][-1] for run in runs], "illegal", "{:.2%}"),
            *(mean([run["epochs"][e] for run in runs], "f1", "{:.4f}") for e in range(epochs)),
        )
    console.print(table)


def mean(rows: list[dict[str, Any]], key: str, form: str) -> str:
    return form.format(np.mean([row[key] for row in rows]))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("train", nargs="?", help="segmented sentences, blanks between words")
    parser.add_argument("test", nargs="?", help="segmented sentences to be scored on")
    parser.add_argument("--learning-rate", type=float, default=1e-4, help="of the fine-tuning")
    parser.add_argument("--multipliers", type=float, nargs="+", default=MULTIPLIERS)
    parser.add_argument("--pretrain", type=int, default=4, help="epochs of the softmax tagger")
    parser.add_argument("--epochs", type=int, default=4, help="epochs of each fine-tuning")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--limit", type=int, help="use only so many sentences")
    parser.add_argument("--out", type=Path, default=Path("crf_learning_rate"))
    arguments = parser.parse_args()
    if arguments.train:
        if not arguments.test:
            parser.error("sentences to be scored on are missing: give a second file")
        train = fg.tagging.read_segmented(arguments.train)
        test = fg.tagging.read_segmented(arguments.test)
        name = Path(arguments.train).name
    else:
        corpus = fg.tagging.manual_corpus()
        train, test, name = corpus.train, corpus.test, "finegrain's manual"
    train, test = train[: arguments.limit], test[: arguments.limit]
    results = [experiment(train, test, arguments, seed) for seed in arguments.seeds]
    show(results, f"{name}: words found, {len(arguments.seeds)} seed(s)")
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    try:
        from finegrain.monitoring.plots import matrices
    except ImportError:
        console.print("The picture needs matplotlib: pip install matplotlib")
        return
    tables = {f"× {n}": np.array(run["transitions"]) for n, run in results[0]["crf"].items()}
    figure = matrices(tables, SCHEME.labels, SCHEME.labels, title=f"Transitions, {name}")
    figure.savefig(arguments.out / "transitions.png", dpi=110)
    console.print(f"Kept in {arguments.out}: results.json, transitions.png")


if __name__ == "__main__":
    main()
