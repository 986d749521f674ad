"""Schemes of labelled spans: what they allow, write and read."""

import re

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from finegrain.tagging import BIO, BIOES, BMES, Span, SpanScheme, TagScheme

pytestmark = pytest.mark.one_backend

TYPES = ["PER", "LOC"]
SCHEMES = [BIO(TYPES), BIOES(TYPES), BIO(["I-X", "B-X", "O"]), BIOES(["S-A", "O", "B-A", "E-A"])]
every_scheme = pytest.mark.parametrize("scheme", SCHEMES, ids=repr)
# A span as an expression over the tags of one type, each written as its prefix.
EXPRESSION = {BIO: r"BI*", BIOES: r"S|BI*E"}


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
    kind = seqeval.IOB2 if isinstance(scheme, BIO) else seqeval.IOBES
    entities = seqeval.Entities([names], kind).entities[0]
    assert scheme.decode(names) == [Span(e.tag, e.start, e.end) for e in entities]


@pytest.mark.parametrize("scheme", SCHEMES[:2], ids=repr)
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
@pytest.mark.parametrize("kind", [BIO, BIOES])
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
