"""Sentences in pieces that have no half of a span."""

from itertools import chain

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finegrain.tagging import (
    BILOU,
    BIO,
    BIOES,
    BMESO,
    IOB1,
    IOE1,
    IOE2,
    convert_tags,
    cut_sentences,
    spans_of,
)

pytestmark = pytest.mark.one_backend

KINDS = [BIO, BIOES, IOB1, BILOU, BMESO, IOE2, IOE1]


def lengths(tags, longest):
    tags = tags.split()
    return [len(words) for words, _ in cut_sentences([(tags, tags)], longest)]


@pytest.mark.parametrize(
    ("tags", "longest", "expected"),
    [
        ("O O O O O", 2, [2, 2, 1]),
        ("O O O O", 4, [4]),
        ("O O O", 9, [3]),
        ("O B-X I-X I-X O", 3, [1, 3, 1]),
        ("O B-X I-X I-X I-X O O", 2, [1, 4, 2]),
        ("B-X I-X I-X", 1, [3]),
        ("O B-X B-X O", 2, [1, 2, 1]),
        ("O B-X B-Y O", 2, [2, 2]),
        ("D N V D N", 2, [2, 2, 1]),
    ],
)
def test_by_hand(tags, longest, expected):
    assert lengths(tags, longest) == expected


def test_several_sentences():
    sentences = [(["a", "b", "c"], ["X", "Y", "Z"]), ([], []), (("d",), ("X",))]
    assert cut_sentences(iter(sentences), 2) == [
        (["a", "b"], ["X", "Y"]),
        (["c"], ["Z"]),
        (["d"], ["X"]),
    ]


@pytest.mark.parametrize("kind", KINDS)
@given(
    tags=st.lists(st.sampled_from(["O", "B-X", "I-X", "B-Y", "I-Y"]), max_size=12),
    longest=st.integers(1, 5),
)
def test_pieces_keep_to_the_scheme_and_spans_stay_whole(kind, tags, longest):
    scheme = kind(["X", "Y"])
    (tags,) = convert_tags([tags], scheme, repair=True)
    words = [str(place) for place in range(len(tags))]
    pieces = cut_sentences([(words, tags)], longest)
    assert list(chain(*(piece for piece, _ in pieces))) == words
    found, start = [], 0
    for piece, piece_tags in pieces:
        assert convert_tags([piece_tags], scheme, repair=True) == [piece_tags]
        spans = scheme.decode(piece_tags)
        found += [(label, start + a, start + b) for label, a, b in spans]
        start += len(piece)
        if len(piece) > longest:  # nothing but touching spans of one type
            assert len({span.label for span in spans}) == 1
            assert "O" not in piece_tags
    assert found == spans_of(tags)


@pytest.mark.parametrize("longest", [0, -1, 2.0, True, None])
def test_refused(longest):
    with pytest.raises(ValueError, match=f"longest={longest!r}"):
        cut_sentences([], longest)
