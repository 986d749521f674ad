"""SIGHAN's score of a word segmentation."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from itertools import accumulate, pairwise


@dataclass(frozen=True)
class SegmentationScore:
    """How well predicted words match the gold words of the same texts.

    Attributes:
        precision: Share of the predicted words that are right, 0 to 1.
        recall: Share of the gold words that were found, 0 to 1.
        f1: Harmonic mean of precision and recall, 0 to 1.
        oov_rate: Share of the gold words that are out of vocabulary (OOV): not among the training
            words. None without training words to compare with.
        oov_recall: Share of the OOV gold words that were found. None if there are none.
        in_vocabulary_recall: Share of the other gold words that were found. None if there are none.
        gold_words: Number of gold words.
        predicted_words: Number of predicted words.
        correct_words: Number of words that are right.
    """

    precision: float
    recall: float
    f1: float
    oov_rate: float | None
    oov_recall: float | None
    in_vocabulary_recall: float | None
    gold_words: int
    predicted_words: int
    correct_words: int

    def to_dict(self) -> dict[str, float | int | None]:
        """Return the attributes by name, fit for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        parts = [f"F1 {self.f1:.4f}, precision {self.precision:.4f}, recall {self.recall:.4f}"]
        if self.oov_rate is not None:
            recall = "none" if self.oov_recall is None else f"recall {self.oov_recall:.4f}"
            parts.append(f"OOV {recall} ({self.oov_rate:.1%} of {self.gold_words} words)")
        return ", ".join(parts)


def score(
    gold: Sequence[Sequence[str]],
    predicted: Sequence[Sequence[str]],
    training_words: Collection[str] | None = None,
) -> SegmentationScore:
    r"""Score predicted words against gold words as the SIGHAN bakeoffs did.

    A predicted word is right if its span, from its first to its last character in the sentence, is
    also the span of a gold word:

    $$P = \frac{\text{correct}}{\text{predicted}}, \quad
      R = \frac{\text{correct}}{\text{gold}}, \quad
      F_1 = \frac{2 P R}{P + R}.$$

    OOV recall is the recall over the gold words that are not among the training words. Precision,
    recall and F1 are 0 where their denominator is 0.

    Args:
        gold: The true sentences, each a sequence of words.
        predicted: The same sentences as cut by a segmenter.
        training_words: The words known from training, each counted once, for the OOV figures.

    Returns:
        The score over all sentences together.

    Raises:
        TypeError: If a sentence is a string and not a sequence of words, or the training words are.
        ValueError: If there are not as many sentences in both, or if the words of a sentence do not
            make up the same text in both. Sentences and characters are counted from 1.

    Example:
        >>> from finegrain.tagging import score
        >>> gold = [["the", "cat", "sat"], ["on", "a", "mat"]]
        >>> predicted = [["the", "cats", "at"], ["on", "a", "mat"]]
        >>> result = score(gold, predicted, training_words={"the", "on", "a", "mat"})
        >>> print(result)
        F1 0.6667, precision 0.6667, recall 0.6667, OOV recall 0.0000 (33.3% of 6 words)
        >>> result.in_vocabulary_recall
        1.0

    References:
        Richard Sproat and Thomas Emerson, "The First International Chinese Word Segmentation
        Bakeoff", 2003, https://aclanthology.org/W03-1719/
    """
    if len(gold) != len(predicted):
        raise ValueError(
            "Expected as many predicted as gold sentences; predict one for each gold sentence. "
            f"Received: {len(gold)} gold and {len(predicted)} predicted sentences"
        )
    if isinstance(training_words, str):
        raise TypeError(
            "Expected a collection of words, such as {'a', 'word'}. "
            f"Received: training_words={training_words!r}"
        )
    known = None if training_words is None else frozenset(training_words)
    gold_count = predicted_count = correct_count = oov_count = oov_correct_count = 0
    for number, (gold_words, predicted_words) in enumerate(
        zip(gold, predicted, strict=True), start=1
    ):
        _check_same_text(number, gold_words, predicted_words)
        predicted_spans = set(_spans(predicted_words))
        found = [span in predicted_spans for span in _spans(gold_words)]
        gold_count += len(gold_words)
        predicted_count += len(predicted_words)
        correct_count += sum(found)
        if known is not None:
            oov = [word not in known for word in gold_words]
            oov_count += sum(oov)
            oov_correct_count += sum(map(bool.__and__, oov, found))
    return SegmentationScore(
        precision=_quotient(correct_count, predicted_count) or 0.0,
        recall=_quotient(correct_count, gold_count) or 0.0,
        f1=_quotient(2 * correct_count, gold_count + predicted_count) or 0.0,
        oov_rate=None if known is None else _quotient(oov_count, gold_count) or 0.0,
        oov_recall=_quotient(oov_correct_count, oov_count),
        in_vocabulary_recall=None
        if known is None
        else _quotient(correct_count - oov_correct_count, gold_count - oov_count),
        gold_words=gold_count,
        predicted_words=predicted_count,
        correct_words=correct_count,
    )


def _spans(words: Sequence[str]) -> list[tuple[int, int]]:
    return list(pairwise(accumulate(map(len, words), initial=0)))


def _quotient(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _check_same_text(number: int, gold: Sequence[str], predicted: Sequence[str]) -> None:
    for name, words in (("gold", gold), ("predicted", predicted)):
        if isinstance(words, str):
            raise TypeError(
                "Expected each sentence as a sequence of words, such as ['a', 'word']. "
                f"Received: {name} sentence {number} is the string {words[:60]!r}"
            )
        if "" in words:
            raise ValueError(
                "Expected words of one character or more; leave out empty words. "
                f"Received: {name} sentence {number} has an empty word"
            )
    expected, received = "".join(gold), "".join(predicted)
    if expected != received:
        shared = min(len(expected), len(received))
        position = next((i for i in range(shared) if expected[i] != received[i]), shared)
        raise ValueError(
            "Expected the predicted words to make up the text of the gold words; cut the same "
            f"sentences. Received: sentence {number} differs at character {position + 1}: "
            f"gold text {_around(expected, position)}, predicted text {_around(received, position)}"
        )


def _around(text: str, position: int) -> str:
    return repr(text[position : position + 10]) if position < len(text) else "at its end"
