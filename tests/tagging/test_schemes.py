from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from finegrain.crf.schemes import SpanScheme, TagScheme
from finegrain.tagging.schemes import BMES

pytestmark = pytest.mark.one_backend

scheme = BMES()
S, B, M, E = range(4)
sentences = st.lists(st.text(min_size=1, max_size=6), max_size=12)


def test_labels_number_the_tags():
    assert scheme.labels == ("s", "b", "m", "e")


def test_is_a_tag_scheme():
    assert isinstance(scheme, TagScheme)
    assert isinstance(scheme, SpanScheme)
    assert not isinstance(object(), TagScheme)


def test_encode_by_hand():
    tags = scheme.encode(["a", "of", "the", "word"])
    assert tags.tolist() == [S, B, E, B, M, E, B, M, M, E]
    assert tags.dtype == np.int32


def test_encode_of_nothing():
    tags = scheme.encode([])
    assert tags.shape == (0,)
    assert tags.dtype == np.int32


def test_a_character_is_a_code_point():
    # An emoji outside the basic plane is one, a letter with a combining accent two.
    assert scheme.encode(["😀", "e\u0301"]).tolist() == [S, B, E]


def test_encode_refuses_an_empty_word():
    with pytest.raises(ValueError, match=r"leave out empty words.*\['a', ''\]"):
        scheme.encode(["a", ""])


def test_encode_refuses_a_string():
    with pytest.raises(TypeError, match=r"text\.split\(\).*words='two words'"):
        scheme.encode("two words")


@given(sentences)
def test_decode_inverts_encode(words):
    assert scheme.decode("".join(words), scheme.encode(words)) == words


@given(sentences.filter(bool))
def test_encoded_tags_keep_to_what_is_allowed(words):
    tags = scheme.encode(words)
    assert scheme.allowed_start[tags[0]]
    assert scheme.allowed_end[tags[-1]]
    assert scheme.allowed[tags[:-1], tags[1:]].all()


def test_every_allowed_sequence_of_four_tags_encodes_its_own_words():
    # 2^(n-1) ways to cut n characters, so as many sequences must be allowed: none more, none less.
    allowed = [
        tags
        for tags in np.ndindex(4, 4, 4, 4)
        if scheme.allowed_start[tags[0]]
        and scheme.allowed_end[tags[-1]]
        and all(scheme.allowed[pair] for pair in pairwise(tags))
    ]
    assert len(allowed) == 2**3
    for tags in allowed:
        assert tuple(scheme.encode(scheme.decode("wxyz", tags))) == tags


@given(st.data())
def test_decoded_words_make_up_the_text_whatever_the_tags(data):
    text = data.draw(st.text(max_size=30))
    tags = data.draw(st.lists(st.integers(-1, 5), min_size=len(text), max_size=len(text)))
    words = scheme.decode(text, tags)
    assert "".join(words) == text
    assert all(words)


@pytest.mark.parametrize(
    ("tags", "words"),
    [
        ([M, M, M, M], ["abcd"]),
        ([E, E, E, E], ["a", "b", "c", "d"]),
        ([B, B, B, B], ["a", "b", "c", "d"]),
        ([M, E, M, M], ["ab", "cd"]),
        ([M, M, S, M], ["ab", "c", "d"]),
        ([-1, -1, B, -1], ["ab", "cd"]),
    ],
)
def test_decode_of_forbidden_tags(tags, words):
    assert scheme.decode("abcd", tags) == words


def test_decode_of_nothing():
    assert scheme.decode("", []) == []


@pytest.mark.parametrize("tags", [[], [S, S], [S, S, S, S], [[S, S, S]]])
def test_decode_wants_a_tag_a_character(tags):
    with pytest.raises(ValueError, match="3 characters and tags of shape"):
        scheme.decode("abc", tags)


def test_arrays_are_boolean_and_cannot_be_written():
    for array in (scheme.allowed, scheme.allowed_start, scheme.allowed_end):
        assert array.dtype == bool
        with pytest.raises(ValueError, match="read-only"):
            array[0] = False


def test_config_round_trip_and_equality():
    twin = BMES.from_config(scheme.get_config())
    assert twin == scheme
    assert hash(twin) == hash(scheme)
    assert scheme != "BMES()"
    assert repr(scheme) == "BMES()"
