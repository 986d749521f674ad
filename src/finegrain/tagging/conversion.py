"""Which scheme tags are written in, which spans they mean, and the same spans in another scheme."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import pairwise

from finegrain.tagging.entities import BILOU, BIO, BIOES, BMESO, IOB1, IOE1, IOE2
from finegrain.tagging.files import CorpusError, shortened
from finegrain.tagging.prefixed import OUTSIDE, PrefixScheme, Span, Tag

# The most common first: where two fit, the first is taken.
SCHEMES = (BIO, BIOES, IOB1, BILOU, BMESO, IOE2, IOE1)
_BEGIN, _END, _ALL = "BSU", "ESLU", "BIMESLU"


def spans_of(tags: Sequence[str]) -> list[Span]:
    """Read the spans of one sentence's tags, whatever their scheme and whether they keep to it.

    A span goes on as long as tags have its type, up to a tag that ends one (E, L, S, U) or before
    one that begins one (B, S, U). So tags that keep to a scheme are read as it means them, and all
    others but O are in some span too: I-X after O begins one, as for conlleval.

    Args:
        tags: The names of the tags, such as "B-PER", "I-PER", "O", or "B", "I", "O" without types.

    Returns:
        The spans in their order.

    Raises:
        ValueError: If a tag is neither O nor has one of the prefixes B, I, M, E, S, L, U.

    Example:
        >>> from finegrain.tagging import spans_of
        >>> spans_of(["I-PER", "I-PER", "B-PER", "O", "S-LOC"])
        [Span(label='PER', start=0, end=2), Span(label='PER', start=2, end=3), \
Span(label='LOC', start=4, end=5)]

    References:
        Erik Tjong Kim Sang, conlleval, 2000, https://www.cnts.ua.ac.be/conll2000/chunking/output.html
    """
    unknown = [tag for tag in tags if not is_of_spans(tag)]
    if unknown or isinstance(tags, str):
        raise ValueError(
            "Expected the tags of one sentence, each O or a prefix and a type, such as B-PER. "
            f"Received: {shortened(tags if isinstance(tags, str) else unknown[0])}"
        )
    parts = [OUTSIDE, *map(Tag.of, tags), OUTSIDE]
    cuts = [
        place
        for place, (before, here) in enumerate(pairwise(parts))
        if before.kind != here.kind
        or OUTSIDE in (before, here)
        or before.prefix in _END
        or here.prefix in _BEGIN
    ]
    return [
        Span(parts[start + 1].kind, start, end)
        for start, end in pairwise(cuts)
        if parts[start + 1] != OUTSIDE
    ]


def find_scheme(tags: Iterable[Sequence[str]]) -> PrefixScheme | None:
    """Find the scheme that tags of spans are written in: `BIO`, `BIOES`, `IOB1` or another.

    Where tags fit two schemes, it is the first of `BIO`, `BIOES`, `IOB1`, `BILOU`, `BMESO`, `IOE2`
    and `IOE1`: `BIOES` where B, E and S occur and no span is longer than two, `IOB1` where all tags
    are I or O. The spans are the same in both.

    Args:
        tags: The tags of each sentence, by name.

    Returns:
        The scheme, with all the tags of all types that occur; `None` if these are no tags of spans,
        such as parts of speech, or all O.

    Raises:
        CorpusError: If they are, but keep to none of the schemes. It says where.
        TypeError: If the sentences are no sequences of names.

    Example:
        >>> from finegrain.tagging import find_scheme
        >>> find_scheme([["I-PER", "O"], ["I-LOC", "B-LOC", "I-LOC"]])
        IOB1(['O', 'B-LOC', 'I-LOC', 'B-PER', 'I-PER'])
        >>> print(find_scheme([["DET", "NOUN"]]))
        None
    """
    sentences = _checked(tags)
    names = {tag for sentence in sentences for tag in sentence}
    odd = {tag for tag in names if not is_of_spans(tag)}
    typed = {tag for tag in names - odd if Tag.of(tag).kind}
    if not names - {"O"} or not (typed or {"O", "B"} & names):
        return None
    if odd:
        # Next to O and tags like B-PER an odd one is a mistake; otherwise they are all of another
        # kind, some of which happen to look so.
        if not (typed and "O" in names):
            return None
        raise _odd(sentences, odd)
    prefixes = {Tag.of(tag).prefix for tag in names - {"O"}}
    types = sorted({Tag.of(tag).kind for tag in names - {"O"}})
    candidates = [kind.of_types(types) for kind in SCHEMES if prefixes <= set(kind.prefixes)]
    if not candidates:
        raise _mixed(sentences)
    counts = Counter(pair for sentence in sentences for pair in _pairs(sentence))
    faults = [{pair for pair in counts if not _allows(x, *pair)} for x in candidates]
    scheme, least = min(
        zip(candidates, faults, strict=True), key=lambda both: sum(counts[x] for x in both[1])
    )
    if least:
        raise _forbidden(sentences, scheme, least)
    return scheme


def convert_tags(
    tags: Iterable[Sequence[str]],
    scheme: type[PrefixScheme] | PrefixScheme,
    *,
    repair: bool = False,
) -> list[list[str]]:
    """Write the spans of tags in another scheme.

    What the tags are written in is found, as by `find_scheme`.

    Args:
        tags: The tags of each sentence, by name.
        scheme: What to write: `BIOES`, say, for all types that occur, or a scheme of given types.
        repair: Whether to read tags that keep to no scheme, as `spans_of` does. By default they
            are an error.

    Returns:
        As many tags, by name.

    Raises:
        CorpusError: If tags are not those of spans, or keep to no scheme and should not be
            repaired. It says where.
        TypeError: If the sentences are no sequences of names, or `scheme` is none.
        ValueError: If the scheme lacks a type.

    Example:
        >>> from finegrain.tagging import BIO, BIOES, convert_tags
        >>> convert_tags([["I-PER", "I-PER", "O"], ["I-LOC", "B-LOC"]], BIOES)
        [['B-PER', 'E-PER', 'O'], ['S-LOC', 'S-LOC']]
        >>> convert_tags([["B-PER", "I-LOC"]], BIO, repair=True)
        [['B-PER', 'B-LOC']]
    """
    sentences = _checked(tags)
    odd = {tag for sentence in sentences for tag in sentence if not is_of_spans(tag)}
    if odd:
        raise _odd(sentences, odd)
    if not repair:
        find_scheme(sentences)
    spans = [spans_of(sentence) for sentence in sentences]
    target = scheme_of(scheme, {label for found in spans for label, _, _ in found})
    return [
        target.to_names(target.encode(found, len(sentence)))
        for found, sentence in zip(spans, sentences, strict=True)
    ]


def scheme_of(scheme: type[PrefixScheme] | PrefixScheme, types: Iterable[str]) -> PrefixScheme:
    """Return a scheme that is given, or the one of these types if only its class is.

    Raises:
        TypeError: If it is neither.
    """
    if isinstance(scheme, PrefixScheme):
        return scheme
    if scheme in SCHEMES:
        return scheme.of_types(sorted(types))
    raise TypeError(
        "`scheme` should be a scheme of spans, such as `fg.tagging.BIOES` or "
        f"`fg.tagging.BIOES(['PER', 'LOC'])`. Received: scheme={scheme!r}"
    )


def _checked(tags: Iterable[Sequence[str]]) -> list[list[str]]:
    sentences = [tags] if isinstance(tags, str) else list(tags)
    for number, sentence in enumerate(sentences, start=1):
        names = not isinstance(sentence, str) and isinstance(sentence, Iterable)
        if not names or not all(isinstance(tag, str) for tag in sentence):
            raise TypeError(
                "Expected the tags of sentences, by name, such as [['B-PER', 'O'], ['O']]; put a "
                f"single sentence into a list. Received: sentence {number} is {shortened(sentence)}"
            )
    return [list(sentence) for sentence in sentences]


def is_of_spans(name: str) -> bool:
    """Tell whether a tag may be one of spans, in some scheme."""
    tag = Tag.of(name)
    return name == "O" or (len(tag.prefix) == 1 and tag.prefix in _ALL and str(tag) == name)


Pair = tuple[str | None, str | None]


def _pairs(sentence: Sequence[str]) -> Iterable[Pair]:
    """Return neighbouring tags, with None before the first and after the last."""
    return pairwise([None, *sentence, None]) if sentence else ()


def _allows(scheme: PrefixScheme, before: str | None, here: str | None) -> bool:
    if here is None:
        return before is None or bool(scheme.allowed_end[scheme.numbers[before]])
    if before is None:
        return bool(scheme.allowed_start[scheme.numbers[here]])
    return bool(scheme.allowed[scheme.numbers[before], scheme.numbers[here]])


def _odd(sentences: list[list[str]], odd: set[str]) -> CorpusError:
    number, place = next(
        (number, place)
        for number, sentence in enumerate(sentences, start=1)
        for place, tag in enumerate(sentence, start=1)
        if tag in odd
    )
    return CorpusError(
        "Expected tags of spans: O, or one of the prefixes B, I, M, E, S, L and U with a type, as "
        f"in B-PER. Received: {shortened(sentences[number - 1][place - 1])} in sentence {number}, "
        f"word {place}. Cure: correct the tag"
    )


def _mixed(sentences: list[list[str]]) -> CorpusError:
    seen: dict[str, tuple[str, int, int]] = {}
    for number, sentence in enumerate(sentences, start=1):
        for place, tag in enumerate(sentence, start=1):
            seen.setdefault(Tag.of(tag).prefix, (tag, number, place))
    seen.pop("O", None)
    places = ", ".join(
        f"{tag} in sentence {number}, word {place}" for tag, number, place in seen.values()
    )
    return CorpusError(
        "Expected tags of one scheme: BIO (IOB2), BIOES, IOB1, BILOU, BMESO, IOE2 or IOE1. "
        f"Received: prefixes that no scheme has together: {places}. Cure: {_CURE}"
    )


def _forbidden(sentences: list[list[str]], scheme: PrefixScheme, faults: set[Pair]) -> CorpusError:
    wrong = [
        (number, next(place for place, pair in enumerate(pairs) if pair in faults))
        for number, sentence in enumerate(sentences, start=1)
        if not faults.isdisjoint(pairs := list(_pairs(sentence)))
    ]
    number, place = wrong[0]
    before, here = list(_pairs(sentences[number - 1]))[place]
    if here is None:
        what, place = f"{before} may not end a sentence", place - 1
    elif before is None:
        what = f"{here} may not begin a sentence"
    else:
        what = f"{here} may not follow {before}"
    return CorpusError(
        f"Expected tags of one scheme; they come nearest to {type(scheme).__name__}, where {what}. "
        f"Received: that in sentence {number}, word {place + 1}; {len(wrong)} of {len(sentences)} "
        f"sentences {'has' if len(wrong) == 1 else 'have'} something forbidden. Cure: {_CURE}"
    )


_CURE = (
    "correct the tags, or let `fg.tagging.convert_tags(tags, fg.tagging.BIO, repair=True)` read "
    "them as conlleval does"
)
