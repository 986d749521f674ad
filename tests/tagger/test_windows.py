"""Texts cut into windows and blanks, and put together again without loss."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from finegrain.tagger.windows import MARGIN, WINDOW, split_blanks, stitch, windows

pytestmark = pytest.mark.one_backend

KEPT = WINDOW - 2 * MARGIN
LENGTHS = st.one_of(
    st.integers(0, 5 * WINDOW),
    st.sampled_from(
        [n + d for n in (WINDOW, WINDOW + KEPT, WINDOW + 2 * KEPT) for d in (-1, 0, 1)]
    ),
)


@given(st.integers(0, 1000), LENGTHS)
@example(0, 0)
@example(0, 100_000)
def test_windows_tile_the_text(start, length):
    """Kept parts follow one another from start to end; no window is too long or leaves the text."""
    end = start + length
    position = start
    for window in windows(start, end):
        assert start <= window.start <= window.keep_start <= window.keep_end <= window.end <= end
        assert window.end - window.start <= WINDOW
        assert window.keep_start == position
        assert window.keep_end > window.keep_start or length == 0
        position = window.keep_end
    assert position == end


@given(st.integers(0, 1000), LENGTHS)
def test_kept_positions_have_context(start, length):
    """What is kept has MARGIN characters of context on either side, or the text's edge."""
    end = start + length
    for window in windows(start, end):
        assert window.start == start or window.keep_start - window.start >= MARGIN
        assert window.end == end or window.end - window.keep_end >= MARGIN


def test_a_short_text_is_one_window():
    """Nothing is cut that can be tagged at once; one character more makes two windows."""
    assert list(windows(7, 7 + WINDOW)) == [(7, 7 + WINDOW, 7, 7 + WINDOW)]
    first, second = windows(7, 8 + WINDOW)
    assert first == (7, 7 + WINDOW, 7, 7 + WINDOW - MARGIN)
    assert second == (7 + WINDOW - 2 * MARGIN, 8 + WINDOW, 7 + WINDOW - MARGIN, 8 + WINDOW)


@given(st.integers(0, 1000), LENGTHS)
def test_stitch_gives_each_position_its_tag(start, length):
    """Tags taken from the windows are those of the whole, where the windows' margins lie."""
    whole = np.arange(start, start + length)
    pieces = []
    for window in windows(start, start + length):
        tags = np.arange(window.start, window.end)
        outside = (tags < window.keep_start) | (tags >= window.keep_end)
        pieces.append((window, np.where(outside, -1, tags)))
    np.testing.assert_array_equal(stitch(pieces), whole)


BLANKS = (
    " \t\n\r\x0b\x0c\x1c\x1d\x1e\x1f\x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006"
    "\u2007\u2008\u2009\u200a\u2028\u2029\u202f\u205f\u3000"
)
# They look blank, but Unicode does not count them among white space.
NOT_BLANKS = "\u200b\u200d\ufeff\u2060\u180e\x00"
TEXTS = st.one_of(
    st.text(st.characters()),  # lone surrogates, too
    st.text(st.sampled_from(BLANKS + NOT_BLANKS + "ab👍\u0301")),
)


@given(TEXTS)
@example("")
def test_split_blanks_loses_nothing(text):
    """The runs follow one another, put together they are the text, and blanks alternate."""
    runs = split_blanks(text)
    assert "".join(text[start:end] for start, end, _ in runs) == text
    assert all(end > start for start, end, _ in runs)
    assert [start for start, _, _ in runs] == [0, *(end for _, end, _ in runs)][: len(runs)]
    assert all(a[2] != b[2] for a, b in pairwise(runs))
    for start, end, blank in runs:
        assert all(character.isspace() == blank for character in text[start:end])


def test_every_white_space_parts_words():
    """Any white space of Unicode is a run of its own."""
    assert set(BLANKS) == {chr(code) for code in range(0x110000) if chr(code).isspace()}
    for blank in BLANKS:
        assert split_blanks(f"a{blank}b") == [(0, 1, False), (1, 2, True), (2, 3, False)]
        assert split_blanks(blank * 2) == [(0, 2, True)]


def test_what_only_looks_blank_is_text():
    """Joiners, marks and NUL belong to the words."""
    for character in NOT_BLANKS:
        assert split_blanks(f"a{character}b") == [(0, 3, False)]
