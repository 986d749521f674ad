"""Schemes of labelled spans: what they allow, write and read."""

import itertools
import re

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import drawn
import finegrain as fg
from finegrain.tagging import (
    BILOU,
    BIO,
    BIOES,
    BMES,
    BMESO,
    IOB1,
    IOE1,
    IOE2,
    Span,
    SpanScheme,
    TagScheme,
)

pytestmark = pytest.mark.one_backend

TYPES = ["PER", "LOC"]
KINDS = [BIO, BIOES, IOB1, IOE1, IOE2, BILOU, BMESO]
SCHEMES = [
    *(kind(TYPES) for kind in KINDS),
    BIO(["I-X", "B-X", "O"]),
    BIOES(["S-A", "O", "B-A", "E-A"]),
]
every_scheme = pytest.mark.parametrize("scheme", SCHEMES, ids=repr)
# IOB1 and IOE1 differ where tags are forbidden; there are no names for BMESO.
SEQEVAL = {BIO: "IOB2", BIOES: "IOBES", IOE2: "IOE2", BILOU: "BILOU"}
# A span as an expression over the tags of one type, each written as its prefix.
EXPRESSION = {
    BIO: r"BI*",
    BIOES: r"S|BI*E",
    IOB1: r"[BI]I*",
    IOE1: r"I*E|I+",
    IOE2: r"I*E",
    BILOU: r"U|BI*L",
    BMESO: r"S|BM*E",
}


def read_by_expression(scheme, names):
    """The spans of named tags by regular expressions: each type by itself, all else is a dot."""
    found = []
    for kind in scheme.types:
        text = "".join(name[0] if name.endswith(f"-{kind}") else "." for name in names)
        pattern = EXPRESSION[type(scheme)]
        found += [Span(kind, m.start(), m.end()) for m in re.finditer(pattern, text)]
    return sorted(found, key=lambda span: span.start)


def tags_of(scheme, max_size=9):
    return st.lists(st.integers(0, len(scheme.labels) - 1), max_size=max_size)


def test_labels_of_types():
    assert BIO(TYPES).labels == ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")
    assert BIOES(["X"]).labels == ("O", "B-X", "I-X", "E-X", "S-X")


def test_labels_keep_an_order_of_their_own():
    scheme = BIO(["I-X", "B-X", "O", "B-Y-Z"])
    assert scheme.labels == ("I-X", "B-X", "O", "B-Y-Z")
    assert scheme.types == ("X", "Y-Z")


@every_scheme
def test_is_a_tag_scheme(scheme):
    assert isinstance(scheme, TagScheme)
    assert isinstance(scheme, SpanScheme)
    count = len(scheme.labels)
    assert scheme.allowed.shape == (count, count)
    for table in (scheme.allowed, scheme.allowed_start, scheme.allowed_end):
        assert table.dtype == bool
        assert not table.flags.writeable


def test_what_bio_allows():
    scheme = BIO(TYPES)
    forbidden = {
        (before, here)
        for i, before in enumerate(scheme.labels)
        for j, here in enumerate(scheme.labels)
        if not scheme.allowed[i, j]
    }
    assert forbidden == {
        ("O", "I-PER"),
        ("O", "I-LOC"),
        ("B-PER", "I-LOC"),
        ("I-PER", "I-LOC"),
        ("B-LOC", "I-PER"),
        ("I-LOC", "I-PER"),
    }
    assert scheme.to_names(scheme.allowed_start.nonzero()[0]) == ["O", "B-PER", "B-LOC"]
    assert scheme.allowed_end.all()


def test_what_bioes_allows():
    scheme = BIOES(["X"])
    rows = {
        "O": "O B-X S-X",
        "B-X": "I-X E-X",
        "I-X": "I-X E-X",
        "E-X": "O B-X S-X",
        "S-X": "O B-X S-X",
    }
    for before, after in rows.items():
        allowed = scheme.allowed[scheme.labels.index(before)].nonzero()[0]
        assert scheme.to_names(allowed) == after.split()
    assert scheme.to_names(scheme.allowed_start.nonzero()[0]) == ["O", "B-X", "S-X"]
    assert scheme.to_names(scheme.allowed_end.nonzero()[0]) == ["O", "E-X", "S-X"]


@every_scheme
@given(data=st.data())
def test_decode_reads_strictly(scheme, data):
    tags = data.draw(tags_of(scheme))
    names = scheme.to_names(tags)
    expected = read_by_expression(scheme, names)
    assert scheme.decode(tags) == expected
    assert scheme.decode(np.array(names, dtype=str)) == expected


@every_scheme
@given(data=st.data())
def test_decode_as_seqeval(scheme, data):
    seqeval = pytest.importorskip("seqeval.scheme")
    names = scheme.to_names(data.draw(tags_of(scheme)))
    if not names:
        return
    kind = getattr(seqeval, SEQEVAL.get(type(scheme), ""), None)
    if kind is None:
        return
    entities = seqeval.Entities([names], kind).entities[0]
    assert scheme.decode(names) == [Span(e.tag, e.start, e.end) for e in entities]


def span_sets(length, start=0):
    """All ways to have spans of two types in a sequence."""
    if start >= length:
        yield []
        return
    yield from span_sets(length, start + 1)
    for end in range(start + 1, length + 1):
        for kind in TYPES:
            for rest in span_sets(length, end):
                yield [Span(kind, start, end), *rest]


@pytest.mark.parametrize("kind", KINDS)
def test_allowed_is_what_some_spans_are_written_as(kind):
    """All sequences of up to four tags of two types: each allowed one is written for its spans."""
    scheme = kind(TYPES)
    for length in range(1, 5):
        written = {}
        for spans in span_sets(length):
            tags = scheme.encode(spans, length)
            assert scheme.decode(tags) == spans
            written[tuple(tags.tolist())] = spans
        every = np.array(list(itertools.product(range(len(scheme.labels)), repeat=length)))
        allowed = scheme.allowed_start[every[:, 0]] & scheme.allowed_end[every[:, -1]]
        allowed &= scheme.allowed[every[:, :-1], every[:, 1:]].all(axis=1)
        assert set(map(tuple, every[allowed].tolist())) == set(written)


@pytest.mark.parametrize("kind", KINDS)
def test_a_crf_decodes_what_is_allowed(kind):
    """Whatever the scores, decoded tags are those of some spans."""
    scheme = kind(TYPES)
    layer = fg.layers.CRF(len(scheme.labels), constraints=scheme)
    tags = keras.ops.convert_to_numpy(
        fg.crf.decode(layer(drawn.generator(1).normal(size=(20, 6, 4)).astype("float32")))
    )
    assert fg.crf.allowed_sequences(tags, scheme).all()
    for row in tags:
        spans = scheme.decode(row)
        assert scheme.encode(spans, 6).tolist() == row.tolist()


# One sentence of spans, by hand in each scheme: two of one type touch, one of another follows.
BY_HAND = {
    BIO: "B-X I-X I-X B-X B-Y I-Y O B-X",
    BIOES: "B-X I-X E-X S-X B-Y E-Y O S-X",
    IOB1: "I-X I-X I-X B-X I-Y I-Y O I-X",
    IOE1: "I-X I-X E-X I-X I-Y I-Y O I-X",
    IOE2: "I-X I-X E-X E-X I-Y E-Y O E-X",
    BILOU: "B-X I-X L-X U-X B-Y L-Y O U-X",
    BMESO: "B-X M-X E-X S-X B-Y E-Y O S-X",
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("types", [["X", "Y"], ["Y", "X"]])
def test_by_hand(kind, types):
    scheme = kind(types)
    spans = [("X", 0, 3), ("X", 3, 4), ("Y", 4, 6), ("X", 7, 8)]
    assert scheme.to_names(scheme.encode(spans[::-1], 8)) == BY_HAND[kind].split()
    assert scheme.decode(BY_HAND[kind].split()) == spans


@pytest.mark.parametrize("kind", KINDS)
def test_tags_without_types(kind):
    """B, I and O alone: one type, whose name is empty."""
    scheme = kind(["O", *kind.prefixes])
    assert (scheme.types, scheme) == (("",), kind.of_types([""]))
    spans = [Span("", 0, 3), Span("", 3, 4), Span("", 5, 6)]
    expected = [tag[0] for tag in BY_HAND[kind].split()]
    tags = scheme.to_names(scheme.encode(spans, 6))
    assert tags == [*expected[:4], *expected[6:]]
    assert scheme.decode(tags) == spans
    assert scheme.allowed_start[0]
    parting = {IOB1: "B", IOE1: "E"}.get(kind)
    if parting:  # not between O and a span
        number = scheme.labels.index(parting)
        assert not (scheme.allowed_start if kind is IOB1 else scheme.allowed_end)[number]
        assert not (scheme.allowed[0, number] if kind is IOB1 else scheme.allowed[number, 0])


def test_letters_without_o_are_types():
    assert BIO(["B", "I"]).types == ("B", "I")
    assert BIO.of_types(["B-", ""]).labels == ("O", "B-B-", "I-B-", "B", "I")


@pytest.mark.parametrize("kind", KINDS)
def test_labels_name_the_scheme_in_errors(kind):
    with pytest.raises(ValueError, match=rf"{kind.__name__}\(\['O', '{kind.prefixes[0]}-PER'"):
        kind([])


@pytest.mark.parametrize("scheme", SCHEMES[:7], ids=repr)
@given(data=st.data())
def test_encode_inverts_decode(scheme, data):
    spans, position = [], 0
    for label, gap, length in data.draw(
        st.lists(st.tuples(st.sampled_from(TYPES), st.integers(0, 2), st.integers(1, 3)))
    ):
        spans.append(Span(label, position + gap, position + gap + length))
        position = spans[-1].end
    tags = scheme.encode(spans, position + 1)
    assert tags.dtype == np.int32
    assert scheme.decode(tags) == spans
    assert scheme.allowed_start[tags[0]]
    assert scheme.allowed_end[tags[-1]]
    assert scheme.allowed[tags[:-1], tags[1:]].all()


def test_negative_tags_are_in_no_span():
    scheme = BIO(["X"])
    assert scheme.decode([1, -1, 2, 1, 2, -100]) == [Span("X", 0, 1), Span("X", 3, 5)]
    assert scheme.to_names([0, -1, 1]) == ["O", "B-X"]


@pytest.mark.parametrize(
    ("labels", "received"),
    [([], r"\(\)"), (["A", "A"], "'A', 'A'"), (["O", "A"], "'O', 'A'"), ([""], "''")],
)
@pytest.mark.parametrize("kind", KINDS)
def test_labels_refused(kind, labels, received):
    with pytest.raises(ValueError, match=received):
        kind(labels)


@pytest.mark.parametrize("labels", [["B-X", "I-X"], ["O", "B-"], ["O", "B-X", "X"]])
def test_tags_refused(labels):
    with pytest.raises(ValueError, match="either types, or tags only"):
        BIO(labels)


@pytest.mark.parametrize(
    ("spans", "received"),
    [
        ([("ORG", 0, 1)], "'ORG'"),
        ([("PER", 0, 2), ("LOC", 1, 3)], r"Span\(label='LOC', start=1, end=3\)"),
        ([("PER", 1, 1)], "start=1, end=1"),
        ([("PER", 2, 5)], "start=2, end=5"),
        ([("PER", -1, 1)], "start=-1"),
    ],
)
def test_spans_refused(spans, received):
    with pytest.raises(ValueError, match=received):
        BIO(TYPES).encode(spans, 4)


def test_encode_without_a_tag_for_it():
    with pytest.raises(ValueError, match="'I-A'"):
        BIOES(["S-A", "O", "B-A", "E-A"]).encode([("A", 0, 3)], 3)


@pytest.mark.parametrize(
    ("tags", "received"),
    [([0, 9], "9"), (["O", "B-ORG"], "'B-ORG'"), ([[0]], r"\(1, 1\)"), ([0.5], "float64")],
)
def test_tags_that_are_none(tags, received):
    with pytest.raises(ValueError, match=received):
        BIO(TYPES).decode(tags)


@pytest.mark.parametrize("scheme", [*SCHEMES, BMES()], ids=repr)
def test_goes_through_a_file(scheme):
    """Schemes are equal by kind and labels, and Keras saves them."""
    config = keras.saving.serialize_keras_object(scheme)
    again = keras.saving.deserialize_keras_object(config)
    assert again == scheme
    assert hash(again) == hash(scheme)
    assert again == eval(repr(scheme))
    assert scheme != BIO(["other"])
    assert BIO(TYPES) != BIOES(TYPES)


@given(st.lists(st.integers(0, 3), max_size=8))
def test_words_are_spans(tags):
    """The spans of BMES are the words that it cuts a text into."""
    scheme, text = BMES(), "abcdefgh"[: len(tags)]
    cuts = [text[start:end] for _, start, end in scheme.spans.read(np.array(tags, np.int64))]
    assert cuts == scheme.decode(text, tags)
