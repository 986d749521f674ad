"""The experiment of `finegrain demo`: what a CRF and its learning rate bring to a tagger.

Three taggers learn to put the blanks back into sentences of finegrain's own manual. They share
corpus, encoder, initial weights, order of sentences and decoding, and differ in what is compared:

- softmax: each character's tag for itself;
- CRF × 1: transitions that learn at the encoder's rate;
- CRF × 100: transitions that learn a hundred times as fast.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter

import keras
import numpy as np
from rich.console import Console

from finegrain.demo.manual import ManualCorpus, manual_corpus
from finegrain.tagger.files import whole_file
from finegrain.tagger.progress import TrainingProgress
from finegrain.tagger.segmenter import Segmenter
from finegrain.tagger.training import Interruption
from finegrain.tagging.schemes import BMES
from finegrain.tagging.scores import SegmentationScore, score

HIGH_MULTIPLIER = 100.0


@dataclass(frozen=True)
class Run:
    """One tagger and its results.

    Attributes:
        name: What sets it apart.
        segmenter: The trained segmenter.
        score: Its score on the held-out topics.
        sentence_counts: (sentences, 3) words right, predicted and true in each test sentence.
        transitions: (tags, tags) [from, to], or None for the softmax.
        seconds: How long it trained, compilation included.
    """

    name: str
    segmenter: Segmenter
    score: SegmentationScore
    sentence_counts: np.ndarray
    transitions: np.ndarray | None
    seconds: float


@dataclass(frozen=True)
class DemoResult:
    """All runs, the corpus, and the files that were written.

    Attributes:
        corpus: What the taggers learned from and were scored on.
        runs: The taggers.
        labels: The tags.
        model_file: The best tagger's file, or None where it could not be written.
        picture_file: The picture, or None where it could not be drawn or written.
        failures: Why "model" or "picture" could not be written.
    """

    corpus: ManualCorpus
    runs: list[Run]
    labels: Sequence[str]
    model_file: Path | None
    picture_file: Path | None
    failures: Mapping[str, str] = field(default_factory=dict)

    @property
    def best(self) -> Run:
        """The run with the highest F1 on the held-out topics."""
        return max(self.runs, key=lambda run: run.score.f1)


def run_demo(out: Path, console: Console, *, epochs: int = 6, seed: int = 0) -> DemoResult:
    """Train and score the three taggers; save the best one and a picture of the transitions.

    Args:
        out: An existing folder for `segmenter.keras` and `transitions.png`.
        console: Where the progress bars go.
        epochs: Passes over the training sentences.
        seed: Of the split into topics, the weights and the order.
    """
    corpus = manual_corpus(seed=seed)
    words = sum(map(len, corpus.train))
    console.print(
        f"Sentences of finegrain's manual: {len(corpus.train)} from {len(corpus.train_topics)} "
        f"topics to learn from ({words:,} words), {len(corpus.test)} from "
        f"{len(corpus.test_topics)} other topics to be scored on. "
        f"Backend: {keras.config.backend()}.",
        highlight=False,
    )
    settings = {
        "softmax": {"crf": False},
        "CRF × 1": {"crf_learning_rate_multiplier": 1.0},
        f"CRF × {HIGH_MULTIPLIER:g}": {"crf_learning_rate_multiplier": HIGH_MULTIPLIER},
    }
    runs = []
    with TrainingProgress(console) as progress, Interruption() as interruption:
        bars = {name: progress.bar(name) for name in settings}
        for name, options in settings.items():
            started = perf_counter()
            segmenter = Segmenter("cnn", seed=seed, **options)
            # A share of the training sentences chooses the epoch, never the test topics.
            segmenter.fit(
                corpus.train,
                epochs=epochs,
                patience=epochs,
                callbacks=[bars[name], interruption],
                verbose=0,
            )
            runs.append(_run(name, segmenter, corpus, perf_counter() - started))
    labels = BMES().labels
    failures: dict[str, str] = {}

    def written(what: str, path: Path, write: Callable[[Path], Path | None]) -> Path | None:
        try:
            return write(path)
        except OSError as error:  # such as a full disk: show the result all the same
            failures[what] = f"{path} cannot be written: {error.strerror or error}"
            return None

    def save(path: Path) -> Path:
        max(runs, key=lambda run: run.score.f1).segmenter.save(path)
        return path

    model_file = written("model", out / "segmenter.keras", save)
    picture_file = written(
        "picture", out / "transitions.png", lambda path: _picture(path, runs, labels)
    )
    return DemoResult(corpus, runs, labels, model_file, picture_file, failures)


def _run(name: str, segmenter: Segmenter, corpus: ManualCorpus, seconds: float) -> Run:
    predicted = segmenter.segment_many(["".join(words) for words in corpus.test])
    training_words = {word for words in corpus.train for word in words}
    each = [score([g], [p]) for g, p in zip(corpus.test, predicted, strict=True)]
    return Run(
        name=name,
        segmenter=segmenter,
        score=score(corpus.test, predicted, training_words),
        sentence_counts=np.array(
            [(s.correct_words, s.predicted_words, s.gold_words) for s in each]
        ),
        transitions=segmenter.transitions,
        seconds=seconds,
    )


def f1_difference(first: Run, second: Run, samples: int = 2000) -> tuple[float, float, float]:
    """Compute F1 of `second` minus F1 of `first`, with a 95 % interval over the test sentences.

    The interval is a paired bootstrap over the choice of test sentences. It does not cover chance
    in training, that is, the seed.

    Returns:
        (difference, lower end, upper end).
    """
    rows = np.random.default_rng(0).integers(
        len(first.sentence_counts), size=(samples, len(first.sentence_counts))
    )

    def f1(counts: np.ndarray) -> np.ndarray:
        right, predicted, gold = np.moveaxis(counts, -1, 0)
        return 2 * right / (predicted + gold)

    resampled = f1(second.sentence_counts[rows].sum(1)) - f1(first.sentence_counts[rows].sum(1))
    low, high = np.quantile(resampled, [0.025, 0.975])
    return second.score.f1 - first.score.f1, float(low), float(high)


def _picture(path: Path, runs: Sequence[Run], labels: Sequence[str]) -> Path | None:
    """Draw the transition matrices to a file; return None where matplotlib is not installed."""
    try:
        from finegrain.monitoring.plots import matrices
    except ModuleNotFoundError:
        return None
    drawn = {run.name: run.transitions for run in runs if run.transitions is not None}
    figure = matrices(drawn, labels, labels, title="Transition scores, from row to column")
    with whole_file(path) as temporary:
        figure.savefig(temporary, dpi=150)
    return path
