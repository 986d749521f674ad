"""How far the probabilities of a tagger's spans can be trusted, and which threshold to take.

    finegrain train train.bio.tsv --task spans --out names.keras
    finegrain train train.bio.tsv --task spans --softmax --out softmax.keras
    python examples/tag_confidence.py dev.bio.tsv names.keras softmax.keras --out confidence.png

For each tagger it prints how many of the spans that it found are right, by their probability; the
precision and the recall of what is left above a threshold; and a temperature for the probabilities,
found on every other sentence and tried on the rest. The picture shows the same. No tagger should
have been trained on the corpus. The guide's is WNUT-17
(https://github.com/leondz/emerging_entities_17).
"""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

import finegrain as fg

EDGES = [0.0, 0.5, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0]
THRESHOLDS = [0.0, 0.5, 0.8, 0.9, 0.95]
console = Console(width=80)


class Found(NamedTuple):
    """The spans that a tagger found: probability, whether right, and the number of the sentence."""

    probabilities: np.ndarray
    right: np.ndarray
    sentences: np.ndarray


def found_spans(tagger: Any, corpus: list[tuple[list[str], list[str]]]) -> tuple[Found, int]:
    """Find the spans of each sentence, and count the true ones."""
    rows, true = [], 0
    analyses = tagger.analyze_many(words for words, _ in corpus)
    for number, ((_, tags), analysis) in enumerate(zip(corpus, analyses, strict=True)):
        own = set(fg.tagging.spans_of(tags))
        true += len(own)
        rows += [(p, span in own, number) for span, p in analysis.spans]
    probabilities, right, sentences = (np.array(column) for column in zip(*rows, strict=True))
    return Found(probabilities, right, sentences), true


def bins(probabilities: np.ndarray) -> list[np.ndarray]:
    """Select the spans of each bin between two `EDGES`, the last with 1 itself."""
    place = np.minimum(np.searchsorted(EDGES, probabilities, side="right"), len(EDGES) - 1)
    return [place == number for number in range(1, len(EDGES))]


def calibration_error(probabilities: np.ndarray, right: np.ndarray) -> float:
    """Compute the mean distance of probability and share right over the bins (ECE)."""
    among = [selected for selected in bins(probabilities) if selected.any()]
    gaps = [abs(right[s].mean() - probabilities[s].mean()) * s.sum() for s in among]
    return float(sum(gaps) / len(probabilities))


def softened(probabilities: np.ndarray, temperature: float) -> np.ndarray:
    """Divide the log-odds of probabilities by a temperature."""
    p = np.clip(probabilities, 1e-6, 1 - 1e-6)
    return 1 / (1 + ((1 - p) / p) ** (1 / temperature))


def best_temperature(probabilities: np.ndarray, right: np.ndarray) -> float:
    """Find the temperature under which what is right is most probable."""

    def loss(temperature: float) -> float:
        p = softened(probabilities, temperature)
        return float(-np.log(np.where(right, p, 1 - p)).mean())

    return float(min(np.geomspace(0.25, 20, 200), key=loss))


def tables(name: str, found: Found, true: int) -> None:
    """Print what a tagger's probabilities are worth."""
    probabilities, right, sentences = found
    reliability = Table(title=f"{name}: spans by their probability")
    for title in ("probability", "spans", "mean", "right"):
        reliability.add_column(title, justify="right")
    for (low, high), selected in zip(itertools.pairwise(EDGES), bins(probabilities), strict=True):
        count = int(selected.sum())
        shares = [f"{x[selected].mean():.1%}" if count else "–" for x in (probabilities, right)]
        reliability.add_row(f"{low:g} – {high:g}", str(count), *shares)
    console.print(reliability)
    thresholds = Table(title=f"{name}: what is left above a threshold ({true} true spans)")
    for title in ("threshold", "spans", "precision", "recall"):
        thresholds.add_column(title, justify="right")
    for threshold in THRESHOLDS:
        left = probabilities >= threshold
        precision = f"{right[left].mean():.3f}" if left.any() else "–"
        recall = f"{right[left].sum() / true:.3f}"
        thresholds.add_row(f"{threshold:g}", str(int(left.sum())), precision, recall)
    console.print(thresholds)
    even = sentences % 2 == 0
    temperature = best_temperature(probabilities[even], right[even])
    other = softened(probabilities[~even], temperature)
    console.print(
        f"{name}: calibration error {calibration_error(probabilities, right):.3f}; "
        f"{calibration_error(probabilities[~even], right[~even]):.3f} on every other sentence, and "
        f"{calibration_error(other, right[~even]):.3f} there at temperature {temperature:.2f}, "
        "found on the rest\n"
    )


def picture(taggers: dict[str, tuple[Found, int]]) -> Figure:
    """Draw the share of right spans by probability, and precision by recall."""
    figure = Figure(figsize=(9.5, 4.0), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot([0, 1], [0, 1], color="0.7", linestyle=":", label="as right as probable")
    for name, (found, true) in taggers.items():
        among = [selected for selected in bins(found.probabilities) if selected.any()]
        left.plot(
            [found.probabilities[s].mean() for s in among],
            [found.right[s].mean() for s in among],
            marker="o",
            label=name,
        )
        order = np.argsort(-found.probabilities)
        hits = np.cumsum(found.right[order])
        counts = np.arange(1, len(order) + 1)
        # Of the surest few the share jumps about.
        right.plot((hits / true)[9:], (hits / counts)[9:], label=name)
    left.set(xlabel="probability of the span", ylabel="share right", xlim=(0, 1), ylim=(0, 1))
    right.set(xlabel="recall", ylabel="precision", xlim=(0, None), ylim=(0, 1))
    for axes in (left, right):
        axes.grid(alpha=0.3)
    left.legend(loc="upper left")
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("corpus", help="tagged sentences that no tagger was trained on")
    parser.add_argument("taggers", nargs="+", type=Path, help=".keras files of the task spans")
    parser.add_argument("--out", type=Path, default=Path("tag_confidence.png"))
    arguments = parser.parse_args()
    corpus = fg.tagging.read_columns(arguments.corpus)
    taggers = {}
    for path in arguments.taggers:
        taggers[path.stem] = found_spans(fg.tagging.Tagger.load(path), corpus)
        tables(path.stem, *taggers[path.stem])
    picture(taggers).savefig(arguments.out, dpi=90)


if __name__ == "__main__":
    main()
