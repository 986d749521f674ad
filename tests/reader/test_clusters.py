"""Clusters of characters, which are never cut, beside an implementation of the whole standard."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from finegrain_reader.clusters import clusters

pytestmark = pytest.mark.one_backend

ODD = [
    "e\u0301", "न\u093f", "👩\u200d👩\u200d👧", "👍🏽", "❤\ufe0f", "🇩🇪🇫🇷", "🏴\U000e0067\U000e007f",
    "1\ufe0f\u20e3", "ᄒ\u1161\u11ab", "각\u11a8", "한글", "中\u3099", "a\u200d", "🏳\ufe0f\u200d🌈",
]  # fmt: skip


def inside(text):
    """Where the clusters of the package `regex` are not cut."""
    regex = pytest.importorskip("regex")
    ends, place = set(), 0
    for cluster in regex.findall(r"\X", text):
        place += len(cluster)
        ends.add(place)
    return [place for place in range(1, len(text)) if place not in ends]


@pytest.mark.parametrize("text", ODD)
def test_odd_characters(text):
    """Accents, joiners, flags, tones of skin and syllables belong to what they stand behind."""
    assert clusters(text) == inside(text)
    assert clusters(f"ab{text}中") == inside(f"ab{text}中")


@given(st.lists(st.sampled_from([*"ab中文 ", *{c for text in ODD for c in text}]), max_size=12))
@example([])
@example(["\u0301", "\u0301"])
def test_any_of_them(characters):
    """In any order; a joiner holds what follows only in pictures, where the standard agrees."""
    text = "".join(characters)
    lone = [n for n, c in enumerate(text) if c == "\u200d"]
    expected = inside(text)
    found = clusters(text)
    assert [n for n in found if n - 1 not in lone] == [n for n in expected if n - 1 not in lone]


@given(st.text(st.characters(max_codepoint=0x2FF)))
def test_letters_are_their_own(text):
    """Nothing is joined in text without marks."""
    assert clusters(text) == []
