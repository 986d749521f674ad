"""Precision, recall and F1 of each class, and their averages."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class ClassScore:
    """How well what was predicted of a class, or of several, matches what is true.

    Attributes:
        precision: Share of what was predicted that is right, 0 to 1; 0 where nothing was.
        recall: Share of what is true that was found, 0 to 1; 0 where nothing is.
        f1: Harmonic mean of precision and recall, 0 to 1.
        support: How much is true: spans, or words.
    """

    precision: float
    recall: float
    f1: float
    support: float

    @classmethod
    def of(cls, right: float, true: float, predicted: float) -> ClassScore:
        """Compute the shares from counts."""
        return cls(
            precision=right / predicted if predicted else 0.0,
            recall=right / true if true else 0.0,
            f1=2 * right / (true + predicted) if true + predicted else 0.0,
            support=int(true) if float(true).is_integer() else true,
        )

    @classmethod
    def mean(cls, scores: Iterable[ClassScore], weighted: bool = False) -> ClassScore:
        """Average scores, all alike or each by its support; 0 where there is none."""
        scores = list(scores)
        weights = [score.support if weighted else 1.0 for score in scores]
        total = sum(weights)

        def average(name: str) -> float:
            weighed = (getattr(x, name) * w for x, w in zip(scores, weights, strict=True))
            return sum(weighed) / total if total else 0.0

        support = sum(score.support for score in scores)
        return cls(average("precision"), average("recall"), average("f1"), support)


@dataclass(frozen=True)
class SpanScore:
    """How well predicted spans match true ones: each from end to end, and of the right type.

    Attributes:
        types: The score of each type that occurs, by name.
        micro: The score of all spans alike.
        macro: The mean over the types.
        weighted: The mean over the types, each counted as often as it has true spans.
        precision: That of `micro`.
        recall: That of `micro`.
        f1: That of `micro`.
    """

    types: Mapping[str, ClassScore]
    micro: ClassScore

    @classmethod
    def of(
        cls,
        types: Sequence[str],
        right: Sequence[float],
        true: Sequence[float],
        predicted: Sequence[float],
    ) -> SpanScore:
        """Make the score from the counts of each type."""
        counts = sorted(zip(types, right, true, predicted, strict=True))
        of_types = {name: ClassScore.of(r, t, p) for name, r, t, p in counts if t or p}
        return cls(of_types, ClassScore.of(sum(right), sum(true), sum(predicted)))

    @property
    def macro(self) -> ClassScore:
        """The mean over the types."""
        return ClassScore.mean(self.types.values())

    @property
    def weighted(self) -> ClassScore:
        """The mean over the types, each counted as often as it has true spans."""
        return ClassScore.mean(self.types.values(), weighted=True)

    @property
    def precision(self) -> float:
        """The share of the predicted spans that are right."""
        return self.micro.precision

    @property
    def recall(self) -> float:
        """The share of the true spans that were found."""
        return self.micro.recall

    @property
    def f1(self) -> float:
        """The harmonic mean of precision and recall."""
        return self.micro.f1

    def to_dict(self) -> dict[str, Any]:
        """Return the scores by name, fit for JSON."""
        averages = {name: asdict(getattr(self, name)) for name in ("micro", "macro", "weighted")}
        return averages | {"types": {name: asdict(score) for name, score in self.types.items()}}

    def __str__(self) -> str:
        averages = {
            "micro average": self.micro,
            "macro average": self.macro,
            "weighted average": self.weighted,
        }
        return table({name or "(no type)": x for name, x in self.types.items()}, averages, "spans")


def table(
    classes: Mapping[str, ClassScore], averages: Mapping[str, ClassScore], support: str
) -> str:
    """Write scores as aligned lines, an empty one before the averages."""
    width = max(map(len, [*classes, *averages]))

    def line(name: str, score: ClassScore) -> str:
        shares = "".join(f"{share:>11.4f}" for share in (score.precision, score.recall, score.f1))
        count = f"{score.support:,}" if isinstance(score.support, int) else f"{score.support:,.2f}"
        return f"{name:<{width}}{shares}{count:>11}"

    head = f"{'':<{width}}" + "".join(f"{x:>11}" for x in ("precision", "recall", "F1", support))
    lines = [line(name, score) for name, score in classes.items()]
    lines += [""] * bool(lines) + [line(name, score) for name, score in averages.items()]
    return "\n".join([head, *lines])
