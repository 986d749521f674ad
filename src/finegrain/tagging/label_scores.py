"""The score of labels, one a word: of parts of speech and their like."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from finegrain.crf.by_class import ClassScore, table
from finegrain.tagging.files import shortened
from finegrain.tagging.span_scores import check_sentences


class Confusion(NamedTuple):
    """One label predicted for another.

    Attributes:
        gold: The true label.
        predicted: What was predicted.
        times: How often.
    """

    gold: str
    predicted: str
    times: int


@dataclass(frozen=True)
class LabelScore:
    """How well predicted labels match true ones.

    Attributes:
        accuracy: Share of the labels that are right, 0 to 1.
        labels: The score of each label that occurs, by name.
        confusions: What was taken for what, the most frequent first.
        macro: The mean over the labels.
        weighted: The mean over the labels, each counted as often as it is true.
    """

    accuracy: float
    labels: Mapping[str, ClassScore]
    confusions: Sequence[Confusion]

    @property
    def macro(self) -> ClassScore:
        """The mean over the labels."""
        return ClassScore.mean(self.labels.values())

    @property
    def weighted(self) -> ClassScore:
        """The mean over the labels, each counted as often as it is true."""
        return ClassScore.mean(self.labels.values(), weighted=True)

    def to_dict(self) -> dict[str, Any]:
        """Return the scores by name, fit for JSON."""
        return {
            "accuracy": self.accuracy,
            "macro": asdict(self.macro),
            "weighted": asdict(self.weighted),
            "labels": {name: asdict(score) for name, score in self.labels.items()},
            "confusions": [confusion._asdict() for confusion in self.confusions],
        }

    def __str__(self) -> str:
        averages = {"macro average": self.macro, "weighted average": self.weighted}
        return f"{table(self.labels, averages, 'words')}\n\naccuracy {self.accuracy:.4f}"


def score_labels(gold: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]]) -> LabelScore:
    """Score predicted labels against true ones, word by word.

    Args:
        gold: For each sentence its true labels, one a word.
        predicted: The same for what was predicted.

    Returns:
        The score: over all words, and of each label.

    Raises:
        TypeError: If a sentence is no sequence of names.
        ValueError: If there are not as many sentences in both, or as many labels in a sentence.

    Example:
        >>> from finegrain.tagging import score_labels
        >>> gold = [["DET", "NOUN", "VERB"], ["NOUN", "VERB"]]
        >>> predicted = [["DET", "NOUN", "NOUN"], ["NOUN", "VERB"]]
        >>> result = score_labels(gold, predicted)
        >>> print(result)
                           precision     recall         F1      words
        DET                   1.0000     1.0000     1.0000          1
        NOUN                  0.6667     1.0000     0.8000          2
        VERB                  1.0000     0.5000     0.6667          2
        <BLANKLINE>
        macro average         0.8889     0.8333     0.8222          5
        weighted average      0.8667     0.8000     0.7867          5
        <BLANKLINE>
        accuracy 0.8000
        >>> result.confusions
        (Confusion(gold='VERB', predicted='NOUN', times=1),)
    """
    sides = [_listed("gold", gold), _listed("predicted", predicted)]
    check_sentences(sides[0], sides[1])
    pairs = Counter(
        pair for sentences in zip(*sides, strict=True) for pair in zip(*sentences, strict=True)
    )
    true, found = Counter(), Counter()
    for (a, b), count in pairs.items():
        true[a] += count
        found[b] += count
    labels = {x: ClassScore.of(pairs[x, x], true[x], found[x]) for x in sorted(true | found)}
    wrong = [Confusion(a, b, count) for (a, b), count in pairs.items() if a != b]
    return LabelScore(
        accuracy=sum(pairs[x, x] for x in labels) / max(pairs.total(), 1),
        labels=labels,
        confusions=tuple(sorted(wrong, key=lambda x: (-x.times, x.gold, x.predicted))),
    )


def _listed(name: str, sentences: Iterable[Sequence[str]]) -> list[list[str]]:
    listed = []
    for number, sentence in enumerate(sentences, start=1):
        if isinstance(sentence, str) or not all(isinstance(label, str) for label in sentence):
            raise TypeError(
                "Expected the labels of each sentence by name, such as ['DET', 'NOUN']. "
                f"Received: {name} sentence {number} is {shortened(sentence)}"
            )
        listed.append(list(sentence))
    return listed
