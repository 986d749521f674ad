"""Schemes found from tags, spans read from any tags, and tags written in another scheme."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finegrain.tagging import (
    BILOU,
    BIO,
    BIOES,
    BMES,
    BMESO,
    IOB1,
    IOE1,
    IOE2,
    CorpusError,
    Span,
    convert_tags,
    find_scheme,
    spans_of,
)

pytestmark = pytest.mark.one_backend

KINDS = [BIO, BIOES, IOB1, BILOU, BMESO, IOE2, IOE1]


@st.composite
def spans_and_length(draw, types=("A", "B-x", "")):
    """Spans of one sentence, and its length."""
    spans, position = [], 0
    steps = st.tuples(st.sampled_from(types), st.integers(0, 2), st.integers(1, 4))
    for label, gap, length in draw(st.lists(steps, max_size=5)):
        spans.append(Span(label, position + gap, position + gap + length))
        position = spans[-1].end
    return spans, position + draw(st.integers(0, 2))


def written(kind, corpus):
    scheme = kind.of_types(["A", "B-x", ""])
    return [scheme.to_names(scheme.encode(spans, length)) for spans, length in corpus]


@pytest.mark.parametrize("kind", KINDS)
@given(sentence=spans_and_length())
def test_spans_of_the_tags_of_any_scheme(kind, sentence):
    (tags,) = written(kind, [sentence])
    assert spans_of(tags) == sentence[0]


# What conlleval makes of tags that keep to no scheme, worked out by its rules for where chunks
# begin and end.
CONLLEVAL = {
    "I-A I-A": "A02",
    "O I-A B-A": "A12 A23",
    "B-A I-B": "A01 B12",
    "E-A E-A": "A01 A12",
    "B-A O I-A": "A01 A23",
    "S-A I-A": "A01 A12",
    "B-A E-A I-A": "A02 A23",
    "I-A S-A": "A01 A12",
    "B-A B-A I-A E-A E-A": "A01 A14 A45",
    "B I O I": "02 34",
}


@pytest.mark.parametrize("tags", CONLLEVAL)
def test_spans_of_forbidden_tags(tags):
    expected = [Span(x[:-2], int(x[-2]), int(x[-1])) for x in CONLLEVAL[tags].split()]
    assert spans_of(tags.split()) == expected


@pytest.mark.parametrize("tags", [["O", "NOUN"], ["B-"], ["O-X"], ["b-X"], ["BI-X"], [""], "BIO"])
def test_tags_of_no_spans(tags):
    with pytest.raises(ValueError, match=re.escape(repr(tags if tags == "BIO" else tags[-1]))):
        spans_of(tags)


# The same spans by hand in each scheme, which make it the only one that fits.
FOUND = {
    BIO: "B-X I-X I-X B-X O|B-Y",
    BIOES: "B-X I-X E-X S-X O|S-Y",
    IOB1: "I-X I-X I-X B-X O|I-Y",
    BILOU: "B-X I-X L-X U-X O|U-Y",
    BMESO: "B-X M-X E-X S-X O|S-Y",
    IOE2: "I-X I-X E-X E-X O|E-Y",
    IOE1: "I-X I-X E-X I-X O|I-Y",
}
FOUND = {kind: [x.split() for x in tags.split("|")] for kind, tags in FOUND.items()}


@pytest.mark.parametrize("kind", KINDS)
def test_find_and_convert(kind):
    assert find_scheme(FOUND[kind]) == kind(["X", "Y"])
    assert find_scheme(FOUND[kind][::-1]) == kind(["X", "Y"])
    for other in KINDS:
        assert convert_tags(FOUND[kind], other) == FOUND[other]


@pytest.mark.parametrize("kind", KINDS)
@given(corpus=st.lists(spans_and_length(), max_size=3))
def test_found_is_what_it_was_written_in_or_means_the_same(kind, corpus):
    # The O tells that single letters are tags of spans.
    corpus = [*corpus, ([], 1)]
    tags = written(kind, corpus)
    scheme = find_scheme(tags)
    if scheme is None:
        assert not any(spans for spans, _ in corpus)
        return
    assert KINDS.index(type(scheme)) <= KINDS.index(kind)
    for sentence, (spans, _) in zip(tags, corpus, strict=True):
        assert scheme.decode(sentence) == spans


@pytest.mark.parametrize(
    ("tags", "kind"),
    [(["B-X E-X O S-X"], BIOES), (["I-X O I-Y"], IOB1), (["B-X O", "B-X"], BIO)],
)
def test_where_two_schemes_fit_the_common_one_is_found(tags, kind):
    assert isinstance(find_scheme([x.split() for x in tags]), kind)


@pytest.mark.parametrize(
    "tags",
    [
        [],
        [[]],
        [["O", "O"]],
        [["DET", "NOUN"], ["O"]],
        [["NN-HL", "B-x"]],
        [["I", "E", "X"]],
        [["S", "E"]],
        [["s", "b", "e"]],
    ],
)
def test_no_scheme(tags):
    """Parts of speech, some of them named like tags of spans; nothing but O; nothing."""
    assert find_scheme(tags) is None


def test_tags_without_types():
    assert find_scheme([["O", "B", "I"]]) == BIO(["O", "B", "I"])
    assert find_scheme([["B", "M", "E", "S"]]) == BMESO(["O", "B", "M", "E", "S"])
    assert convert_tags([["B", "I", "O"]], BIOES) == [["B", "E", "O"]]


@pytest.mark.parametrize(
    ("tags", "message"),
    [
        # Under BIO one sentence is wrong, under IOB1 two.
        (
            "B-X O|O I-Y|B-X",
            r"to BIO, where I-Y may not follow O.*sentence 2, word 2; 1 of 3",
        ),
        ("B-X I-Y|B-X|B-X", r"BIO, where I-Y may not follow B-X.*sentence 1, word 2; 1 of 3.*has"),
        ("O|I-X O|B-X B-X I-X", r"BIO, where I-X may not begin a sentence.*sentence 2, word 1;"),
        ("S-X|O B-X", r"BIOES, where B-X may not end a sentence.*sentence 2, word 2;"),
        ("S-X O|B-X|B-X", r"BIOES, where .*sentence 2, word 1; 2 of 3 sentences have"),
        ("B-X I-X L-X|O S-Y", r"B-X in sentence 1, word 1, I-X in.*S-Y in sentence 2, word 2"),
        ("B-X O|O _", r"Received: '_' in sentence 2, word 2"),
    ],
)
def test_tags_of_no_scheme_are_an_error_that_says_where(tags, message):
    sentences = [sentence.split() for sentence in tags.split("|")]
    with pytest.raises(CorpusError, match=message) as caught:
        find_scheme(sentences)
    assert "Cure: " in str(caught.value)
    assert "\n" not in str(caught.value)
    with pytest.raises(CorpusError, match=message):
        convert_tags(sentences, BIO)
    if "'_'" not in message:
        repaired = convert_tags(sentences, BIO, repair=True)
        assert isinstance(find_scheme(repaired), BIO)
        assert list(map(spans_of, repaired)) == list(map(spans_of, sentences))


@given(st.lists(st.lists(st.sampled_from([f"{p}-{t}" for p in "BIMESLU" for t in "XY"] + ["O"]))))
def test_repaired_tags_keep_to_the_scheme(tags):
    for kind in KINDS:
        scheme = kind(["X", "Y"])
        repaired = convert_tags(tags, scheme, repair=True)
        for sentence, before in zip(repaired, tags, strict=True):
            assert scheme.decode(sentence) == spans_of(before)


def test_a_scheme_of_given_types():
    assert convert_tags([["B-X"]], BIOES(["Y", "X"])) == [["S-X"]]
    with pytest.raises(ValueError, match=r"one of the types Y\. Received: 'X'"):
        convert_tags([["B-X"]], BIOES(["Y"]))
    assert convert_tags([["O"], []], BIOES) == [["O"], []]


@pytest.mark.parametrize("tags", [["B-X", "O"], "B-X", [None], [[1, 2]], [["O"], "O"]])
def test_what_is_no_list_of_sentences(tags):
    for function in (find_scheme, lambda tags: convert_tags(tags, BIO, repair=True)):
        with pytest.raises(TypeError, match="put a single sentence into a list"):
            function(tags)


@pytest.mark.parametrize("scheme", ["BIO", BMES, BMES(), None, dict])
def test_what_is_no_scheme_of_spans(scheme):
    with pytest.raises(TypeError, match="`scheme` should be a scheme of spans"):
        convert_tags([["O"]], scheme)


def test_parts_of_speech_are_not_converted():
    with pytest.raises(CorpusError, match="'DET' in sentence 1, word 1"):
        convert_tags([["DET", "NOUN"]], BIO)
