"""Taggers without pretraining beside sklearn-crfsuite: entity F1 on WNUT-17, and the seconds.

sklearn-crfsuite has the features and options of its own tutorial, but for the part of speech, which
WNUT-17 does not have. `Tagger` has its defaults and no features by hand; it holds 5 % of the
sentences out to choose the epoch by, and never sees the development part. All are scored on that
part by `score_spans`, one after another on one thread. Needs `pip install '.[bench]'`.

    python benchmarks/crfsuite.py --show         # what is kept
    python benchmarks/crfsuite.py --data data    # reads data/wnut17/train.bio.tsv and dev.bio.tsv
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

from _common import Run, benchmark, table, versions
from _data import MissingDataError, files

SIZES = [1000, 3394]
SEEDS = (0, 1, 2)
PEER = "sklearn-crfsuite"

Sentences = Sequence[Sequence[str]]
# From training words and tags, and words to tag, to their tags and the seconds of both.
Method = Callable[[Sentences, Sentences, Sentences], tuple[list[list[str]], float, float]]


def features(words: Sequence[str], place: int) -> dict[str, Any]:
    """Make the features of a word: itself, its ends, its case, and the same of its neighbours."""
    word = words[place]
    found: dict[str, Any] = {
        "bias": 1.0,
        "lower": word.lower(),
        "ending_3": word[-3:],
        "ending_2": word[-2:],
        "upper": word.isupper(),
        "title": word.istitle(),
        "digit": word.isdigit(),
    }
    for name, other in (("before", place - 1), ("after", place + 1)):
        if not 0 <= other < len(words):
            found[f"{name}:none"] = True
            continue
        found |= {
            f"{name}:lower": words[other].lower(),
            f"{name}:title": words[other].istitle(),
            f"{name}:upper": words[other].isupper(),
        }
    return found


def timed(run: Callable[[], Any]) -> tuple[Any, float]:
    """Run something, and return its outcome and the seconds of CPU that it took."""
    begin = time.process_time()
    outcome = run()
    return outcome, time.process_time() - begin


def crfsuite(
    words: Sentences, tags: Sentences, new: Sentences
) -> tuple[list[list[str]], float, float]:
    """Train and apply sklearn-crfsuite; its features are made within the time."""
    import sklearn_crfsuite

    def encode(sentences: Sentences) -> list[list[dict[str, Any]]]:
        return [[features(sentence, n) for n in range(len(sentence))] for sentence in sentences]

    crf = sklearn_crfsuite.CRF(
        algorithm="lbfgs", c1=0.1, c2=0.1, max_iterations=100, all_possible_transitions=True
    )
    _, training = timed(lambda: crf.fit(encode(words), tags))
    found, tagging = timed(lambda: crf.predict(encode(new)))
    return [list(sentence) for sentence in found], training, tagging


def tagger(encoder: str, seed: int) -> Method:
    """Make what trains and applies a tagger with its defaults."""

    def run(
        words: Sentences, tags: Sentences, new: Sentences
    ) -> tuple[list[list[str]], float, float]:
        import finegrain as fg

        own = fg.tagging.Tagger("spans", encoder, seed=seed)
        _, training = timed(lambda: own.fit((list(words), list(tags)), verbose=0))
        own.tag_many(new[:64])  # compiled, as a tagger that runs for long is
        found, tagging = timed(lambda: own.tag_many(new))
        return found, training, tagging

    return run


def methods(seeds: Sequence[int]) -> dict[str, list[Method]]:
    own = {f'Tagger("spans", "{encoder}")': encoder for encoder in ("cnn", "bilstm")}
    seeded = {name: [tagger(encoder, seed) for seed in seeds] for name, encoder in own.items()}
    return {PEER: [crfsuite], **seeded}


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure score and seconds of each method, size and seed on the present backend."""
    import keras

    import finegrain as fg

    backend = keras.backend.backend()
    if backend == "torch":
        import torch

        torch.set_num_threads(1)
    seeds = [0] if arguments.quick else arguments.seeds
    result: dict[str, Any] = {"versions": versions("keras", backend, PEER), "seeds": seeds}
    try:
        paths = files(arguments.data, "wnut17", "train.bio.tsv", "dev.bio.tsv")
    except MissingDataError as error:
        print(f"Nothing is measured: {error}.")
        return result
    train, dev = (fg.tagging.read_columns(path) for path in paths)
    for size in [100] if arguments.quick else SIZES:
        for name, seeded in methods(seeds).items():
            found = []
            for method in seeded:
                words, tags = zip(*train[:size], strict=True)
                predicted, training, tagging = method(words, tags, [words for words, _ in dev])
                score = fg.tagging.score_spans([tags for _, tags in dev], predicted)
                found.append(
                    {
                        "f1": score.f1,
                        "precision": score.precision,
                        "recall": score.recall,
                        "training": training,
                        "tagging": tagging / len(dev),
                    }
                )
                print(f"{size} {name}: {found[-1]}", flush=True)
            result[f"{size}/{name}"] = found
    return result


def page(run: Run) -> str:
    """Format the tables as a page of the docs."""
    parts = [
        "# Taggers beside sklearn-crfsuite\n\n"
        "Names in WNUT-17, scored on its development part: 1,009 sentences, most of whose names "
        "are in no training sentence. sklearn-crfsuite has the features and options of its "
        "tutorial, without parts of speech, which this corpus lacks; `Tagger` has its defaults, "
        "and holds 5 % of the training sentences out to choose the epoch by. Neither is "
        "pretrained. Of `Tagger` means over seeds, with the lowest and the highest F1 in "
        "brackets. Seconds are those of CPU, on one thread, one after another: of training with "
        "all that is made and compiled for it, and of tagging, features and all, in milliseconds "
        "a sentence.\n\n" + run.source(f"benchmarks/crfsuite.py{seeds_of(run)}")
    ]
    for backend, result in run.results.items():
        keys = [key for key in result if "/" in key]
        for size in dict.fromkeys(key.partition("/")[0] for key in keys):
            rows = []
            for key in keys:
                if key.startswith(f"{size}/"):
                    rows.append(row(key.partition("/")[2], result[key]))
            header = ["", "F1", "precision", "recall", "training, s", "tagging, ms"]
            parts.append(
                f"\n## {int(size):,} training sentences, {backend}\n\n" + table(header, rows)
            )
    used = {k: v for result in run.results.values() for k, v in result["versions"].items()}
    parts.append("\n" + ", ".join(f"{k} {v}" for k, v in used.items()) + ".\n")
    return "".join(parts)


def seeds_of(run: Run) -> str:
    """Say by which argument other seeds than the usual ones were asked for."""
    asked = {tuple(result["seeds"]) for result in run.results.values()} - {SEEDS}
    return f" --seeds {' '.join(map(str, asked.pop()))}" if asked else ""


def row(name: str, found: Sequence[dict[str, float]]) -> list[str]:
    """Format the means over the seeds."""
    mean = {key: statistics.fmean(one[key] for one in found) for key in found[0]}
    scores = [one["f1"] for one in found]
    spread = f" ({min(scores):.3f} – {max(scores):.3f})" if len(found) > 1 else ""
    return [
        name if name == PEER else f"`{name}`",
        f"{mean['f1']:.3f}{spread}",
        f"{mean['precision']:.3f}",
        f"{mean['recall']:.3f}",
        f"{mean['training']:.0f}",
        f"{1000 * mean['tagging']:.2f}",
    ]


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seeds", nargs="+", type=int, default=list(SEEDS))
    parser.set_defaults(backends=["jax"])  # on one thread the LSTM takes PyTorch ten times as long


if __name__ == "__main__":
    benchmark(__file__, measure, page, add)
