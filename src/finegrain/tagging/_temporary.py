from dataclasses import dataclass

from finegrain.tagging.columns import read_columns


@dataclass
class SpanScore:
    f1: float
    precision: float
    recall: float


@dataclass
class LabelScore:
    accuracy: float


def as_sentences(corpus):
    return (
        read_columns(corpus) if isinstance(corpus, str) or hasattr(corpus, "__fspath__") else corpus
    )


def score_spans(gold, predicted):
    g = p = r = 0
    for a, b in zip(gold, predicted):
        g += len(a)
        p += len(b)
        r += len(set(a) & set(b))
    return SpanScore(2 * r / max(g + p, 1), r / max(p, 1), r / max(g, 1))


def score_labels(gold, predicted):
    n = c = 0
    for a, b in zip(gold, predicted):
        n += len(a)
        c += sum(x == y for x, y in zip(a, b))
    return LabelScore(c / n)
