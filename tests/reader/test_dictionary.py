"""A user's words: the best segmentation with their weights, by enumeration, and what they do."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from finegrain.tagger.decoding import Chain
from finegrain.tagging import BMES, Segmenter
from finegrain_reader.dictionary import WEIGHT, Dictionary, Match, best_tags_with_words

pytestmark = pytest.mark.one_backend
SCHEME = BMES()


def chain_of(length, seed):
    random = np.random.default_rng(seed)
    emissions, transitions, start, end = (
        random.normal(size=shape) * 2 for shape in ((length, 4), (4, 4), 4, 4)
    )
    return Chain(
        emissions.astype("float32"),
        np.where(SCHEME.allowed, transitions, -np.inf),
        np.where(SCHEME.allowed_start, start, -np.inf),
        np.where(SCHEME.allowed_end, end, -np.inf),
    )


def best_of_all(chain, matches):
    """The best of all segmentations, each with the weights of the words that it has."""
    length = len(chain.emissions)
    best, found = -np.inf, None
    for cuts in itertools.product([False, True], repeat=length - 1):
        ends = [0, *(n + 1 for n, cut in enumerate(cuts) if cut), length]
        words = list(itertools.pairwise(ends))
        tags = SCHEME.encode(["x" * (end - start) for start, end in words])
        score = chain.start[tags[0]] + chain.end[tags[-1]]
        score += chain.emissions[np.arange(length), tags].astype("float64").sum()
        score += chain.transitions[tags[:-1], tags[1:]].sum()
        score += sum(match.weight for match in matches if (match.start, match.end) in words)
        if score > best:
            best, found = score, tags
    return found


@given(
    st.integers(1, 7).flatmap(
        lambda length: st.tuples(
            st.just(length),
            st.integers(0, 10_000),
            st.lists(
                st.tuples(st.integers(0, length - 1), st.integers(1, 4), st.floats(0, 6)),
                max_size=5,
                unique_by=lambda drawn: drawn[:2],
            ),
        )
    )
)
def test_the_best_of_all_segmentations(drawn):
    """Words may overlap, and be of one character."""
    length, seed, words = drawn
    matches = [
        Match(start, start + size, weight)
        for start, size, weight in words
        if start + size <= length
    ]
    chain = chain_of(length, seed)
    np.testing.assert_array_equal(best_tags_with_words(chain, matches), best_of_all(chain, matches))


def test_nothing():
    """A text without characters has no tags, and one without matches its own best ones."""
    assert best_tags_with_words(Chain.empty(4), []).shape == (0,)
    chain = chain_of(6, 0)
    np.testing.assert_array_equal(best_tags_with_words(chain, []), chain.best_tags())


def test_matches():
    """Words are found wherever they are, overlapping ones too."""
    dictionary = Dictionary({"ab": 1.0, "b": 2.0, "bab": 3.0})
    assert dictionary.matches("abab") == [
        (0, 2, 1.0), (1, 2, 2.0), (1, 4, 3.0), (2, 4, 1.0), (3, 4, 2.0)
    ]  # fmt: skip
    assert Dictionary(["a"]).weights == {"a": WEIGHT}
    assert dictionary.matches("") == []


@pytest.mark.parametrize(
    ("words", "error", "match"),
    [
        ("word", TypeError, "several words"),
        (None, TypeError, "several words"),
        ([1], TypeError, "should be strings. Received: 1"),
        ([""], ValueError, "no blanks. Received: ''"),
        (["a b"], ValueError, "no blanks. Received: 'a b'"),
        ({"a": float("inf")}, ValueError, "finite number >= 0. Received: 'a': inf"),
        ({"a": "much"}, ValueError, "finite number >= 0. Received: 'a': 'much'"),
        ({"a": -1}, ValueError, "finite number >= 0. Received: 'a': -1"),
    ],
)
def test_what_is_no_word(words, error, match):
    with pytest.raises(error, match=match.replace(".", r"\.")):
        Dictionary(words)


@pytest.fixture(scope="module")
def segmenter():
    corpus = [["the", "cat", "sat"], ["the", "dog", "sat"], ["a", "cat", "ran"]] * 20
    return Segmenter(width=8, learning_rate=0.02, seed=0).fit(
        corpus, validation=corpus[:6], epochs=4, verbose=0
    )


def test_words_of_a_user(segmenter):
    """They are found where they fit; the segmenter that one has stays as it is."""
    text = "thecatsat the dogran"
    plain = segmenter.segment(text)
    assert plain == ["the", "cat", "sat", " ", "the", " ", "dog", "ran"]
    other = segmenter.with_words({"thecat": 50.0})
    assert other.segment(text) == ["thecat", "sat", " ", "the", " ", "dog", "ran"]
    assert segmenter.segment(text) == plain
    both = other.with_words({"dogran": 50.0})
    assert both.segment_many([text, ""]) == [
        ["thecat", "sat", " ", "the", " ", "dogran"],
        [],
    ]
    assert "".join(both.segment("thecat" * 100)) == "thecat" * 100
    assert both.segment("thecat" * 100) == ["thecat"] * 100
