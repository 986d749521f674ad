"""The score of spans: of named entities, chunks and their like."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from finegrain.crf.by_class import SpanScore
from finegrain.tagging.conversion import scheme_of, spans_of
from finegrain.tagging.files import shortened
from finegrain.tagging.prefixed import PrefixScheme, Span, Tag

Sentence = Sequence[str] | Iterable[tuple[str, int, int]]


def score_spans(
    gold: Sequence[Sentence],
    predicted: Sequence[Sentence],
    scheme: type[PrefixScheme] | PrefixScheme | None = None,
) -> SpanScore:
    """Score predicted spans against true ones: each counts from end to end, and with its type.

    Args:
        gold: For each sentence its true spans, (label, start, end), or its tags, by name.
        predicted: The same for what was predicted.
        scheme: How spans are read from tags. Given a scheme, strictly: tags that it forbids form no
            span. By default as `spans_of` reads them, in any scheme, and leniently where they keep
            to none.

    Returns:
        The score: of each type, and over all of them.

    Raises:
        TypeError: If a sentence is neither spans nor tags, or if `scheme` is none.
        ValueError: If there are not as many sentences in both, or as many tags in a sentence, or if
            tags are not those of spans.

    Example:
        >>> from finegrain.tagging import score_spans
        >>> gold = [["B-PER", "I-PER", "O", "B-LOC"], ["B-LOC", "O"]]
        >>> predicted = [["B-PER", "I-PER", "O", "B-PER"], ["B-LOC", "O"]]
        >>> result = score_spans(gold, predicted)
        >>> print(result)
                           precision     recall         F1      spans
        LOC                   1.0000     0.5000     0.6667          2
        PER                   0.5000     1.0000     0.6667          1
        <BLANKLINE>
        micro average         0.6667     0.6667     0.6667          3
        macro average         0.7500     0.7500     0.6667          3
        weighted average      0.8333     0.6667     0.6667          3
        >>> result.types["LOC"].recall
        0.5

    References:
        Erik Tjong Kim Sang, Fien De Meulder, Introduction to the CoNLL-2003 Shared Task, 2003,
        https://aclanthology.org/W03-0419/
        Hiroki Nakayama, seqeval, https://github.com/chakki-works/seqeval
    """
    sides = [_listed("gold", gold), _listed("predicted", predicted)]
    check_sentences(*sides, labels=all(any(isinstance(x[0], str) for x in s if x) for s in sides))
    if scheme is not None:
        tags = {tag for side in sides for x in side for tag in x if isinstance(tag, str)} - {"O"}
        scheme = scheme_of(scheme, {Tag.of(tag).kind for tag in tags})
    right, true, found = Counter(), Counter(), Counter()
    for pair in zip(*sides, strict=True):
        gold_spans, predicted_spans = (_read(sentence, scheme) for sentence in pair)
        true.update(span.label for span in gold_spans)
        found.update(span.label for span in predicted_spans)
        right.update(span.label for span in gold_spans & predicted_spans)
    types = sorted(true | found)
    return SpanScore.of(types, *([counts[x] for x in types] for counts in (right, true, found)))


def check_sentences(
    gold: Sequence[Sequence[Any]], predicted: Sequence[Sequence[Any]], labels: bool = True
) -> None:
    """Refuse different numbers of sentences, and of labels in a sentence if these are labels."""
    if len(gold) != len(predicted):
        raise ValueError(
            "Expected as many predicted as gold sentences; predict one for each gold sentence. "
            f"Received: {len(gold)} gold and {len(predicted)} predicted sentences"
        )
    for number, (a, b) in enumerate(zip(gold, predicted, strict=True), start=1):
        if labels and len(a) != len(b):
            raise ValueError(
                "Expected as many predicted as gold tags in each sentence; cut padding off first. "
                f"Received: {len(a)} gold and {len(b)} predicted tags in sentence {number}"
            )


def _listed(name: str, sentences: Iterable[Any]) -> list[list[Any]]:
    listed = []
    for number, sentence in enumerate(sentences, start=1):
        items = [sentence] if isinstance(sentence, str) else list(sentence)
        tags = all(isinstance(item, str) for item in items)
        if isinstance(sentence, str) or not (tags or all(map(_is_span, items))):
            raise TypeError(
                "Expected for each sentence its tags, such as ['B-PER', 'O'], or its spans, such "
                f"as [('PER', 0, 1)]. Received: {name} sentence {number} is {shortened(sentence)}"
            )
        listed.append(items)
    return listed


def _is_span(item: Any) -> bool:
    return isinstance(item, tuple) and len(item) == 3 and isinstance(item[0], str)


def _read(sentence: list[Any], scheme: PrefixScheme | None) -> set[Span]:
    if sentence and isinstance(sentence[0], str):
        return set(scheme.decode(sentence) if scheme else spans_of(sentence))
    return {Span(*item) for item in sentence}
