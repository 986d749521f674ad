"""Texts cut into windows and blanks, and put together again without loss."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from finegrain_reader.windows import MARGIN, WINDOW, pieces, split_blanks, stitch, windows

pytestmark = pytest.mark.one_backend

KEPT = WINDOW - 2 * MARGIN
LENGTHS = st.one_of(
    st.integers(0, 5 * WINDOW),
    st.sampled_from(
        [n + d for n in (WINDOW, WINDOW + KEPT, WINDOW + 2 * KEPT) for d in (-1, 0, 1)]
    ),
)


@given(LENGTHS)
@example(0)
@example(100_000)
def test_windows_tile_the_text(length):
    """Kept parts follow one another from start to end; no window is too long or leaves the text."""
    position = 0
    for window in windows(np.ones(length)):
        assert 0 <= window.start <= window.keep_start <= window.keep_end <= window.end <= length
        assert window.end - window.start <= WINDOW
        assert window.keep_start == position
        assert window.keep_end > window.keep_start or length == 0
        position = window.keep_end
    assert position == length


@given(LENGTHS)
def test_kept_positions_have_context(length):
    """What is kept has MARGIN characters of context on either side, or the text's edge."""
    for window in windows(np.ones(length)):
        assert window.start == 0 or window.keep_start - window.start >= MARGIN
        assert window.end == length or window.end - window.keep_end >= MARGIN


@given(
    st.integers(4, 64).flatmap(
        lambda limit: st.tuples(
            st.just(limit), st.lists(st.integers(1, max(limit // 4, 1)), max_size=200)
        )
    )
)
def test_windows_of_words_of_several_positions(drawn):
    """Windows hold whole words of at most `limit` positions, and their kept parts are all words."""
    limit, sizes = drawn
    position = 0
    for window in windows(sizes, limit):
        assert window.keep_start == position
        assert window.start <= window.keep_start <= window.keep_end <= window.end
        assert sum(sizes[window.start : window.end]) <= limit
        margin = limit // 8
        # A word of context may be longer than the rest of the margin.
        assert window.end == len(sizes) or sum(sizes[window.keep_end : window.end]) >= margin
        position = window.keep_end
    assert position == len(sizes)


def test_a_short_text_is_one_window():
    """Nothing is cut that can be tagged at once; one character more makes two windows."""
    assert list(windows([1] * WINDOW)) == [(0, WINDOW, 0, WINDOW)]
    first, second = windows([1] * (WINDOW + 1))
    assert first == (0, WINDOW, 0, WINDOW - MARGIN)
    assert second == (WINDOW - 2 * MARGIN, WINDOW + 1, WINDOW - MARGIN, WINDOW + 1)


@given(LENGTHS)
def test_stitch_gives_each_position_its_tag(length):
    """Tags taken from the windows are those of the whole, where the windows' margins lie."""
    parts = []
    for window in windows(np.ones(length)):
        tags = np.arange(window.start, window.end)
        outside = (tags < window.keep_start) | (tags >= window.keep_end)
        parts.append((window, np.where(outside, -1, tags)))
    np.testing.assert_array_equal(stitch(parts), np.arange(length))


def test_pieces_by_hand():
    """Cuts are made where they may be, as late as they can, and what cannot be cut is left out."""
    assert pieces([1] * 5, [True] * 5, limit=2) == [(0, 2), (2, 4), (4, 5)]
    assert pieces([1] * 5, [True, False, True, False, False], limit=3) == [(0, 2), (2, 5)]
    assert pieces([1] * 6, [True, True, False, False, True, True], limit=2) == [(0, 1), (4, 6)]
    assert pieces([3, 1, 1], [True, True, True], limit=2) == [(1, 3)]
    assert pieces([], [], limit=2) == []


@given(st.lists(st.tuples(st.integers(1, 9), st.booleans()), max_size=60), st.integers(1, 20))
def test_pieces_are_cut_only_where_they_may_be(units, limit):
    """A piece fits, begins where it may, and is left out only where it cannot be made to fit."""
    sizes, may_cut = [size for size, _ in units], [cut for _, cut in units]
    if may_cut:
        may_cut[0] = True
    found = pieces(sizes, may_cut, limit)
    for start, end in found:
        assert may_cut[start]
        assert end == len(units) or may_cut[end]
        assert sum(sizes[start:end]) <= limit
    inside = {n for start, end in found for n in range(start, end)}
    places = [n for n, cut in enumerate(may_cut) if cut]
    for start, end in pairwise([*places, len(units)]):
        fits = sum(sizes[start:end]) <= limit
        assert all((n in inside) == fits for n in range(start, end))


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
