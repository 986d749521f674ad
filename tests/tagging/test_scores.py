import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finegrain.tagging.scores import score

pytestmark = pytest.mark.one_backend

GOLD = [["the", "cat", "sat"], ["on", "a", "mat"]]
# Right: the, on, a. Wrong: cats, at (for cat, sat) and m, at (for mat).
PREDICTED = [["the", "cats", "at"], ["on", "a", "m", "at"]]


def test_by_hand():
    result = score(GOLD, PREDICTED)
    assert (result.gold_words, result.predicted_words, result.correct_words) == (6, 7, 3)
    assert result.precision == pytest.approx(3 / 7)
    assert result.recall == pytest.approx(3 / 6)
    assert result.f1 == pytest.approx(6 / 13)
    assert (result.oov_rate, result.oov_recall, result.in_vocabulary_recall) == (None,) * 3


def test_out_of_vocabulary_by_hand():
    # Known: the (found), cat (not), a (found). OOV: sat (not), on (found), mat (not).
    result = score(GOLD, PREDICTED, training_words=["the", "cat", "a", "dog"])
    assert result.oov_rate == pytest.approx(3 / 6)
    assert result.oov_recall == pytest.approx(1 / 3)
    assert result.in_vocabulary_recall == pytest.approx(2 / 3)


def test_a_word_counts_at_its_place_not_by_its_letters():
    result = score([["a", "ab"]], [["aa", "b"]])
    assert result.correct_words == 0
    result = score([["a", "aa"]], [["aa", "a"]])
    assert result.correct_words == 0


def test_spans_of_one_sentence_do_not_count_in_another():
    result = score([["ab"], ["c", "d"]], [["a", "b"], ["cd"]])
    assert (result.correct_words, result.precision, result.recall, result.f1) == (0, 0, 0, 0)


def test_all_words_known():
    result = score(GOLD, GOLD, training_words={word for words in GOLD for word in words})
    assert result.oov_rate == 0
    assert result.oov_recall is None
    assert result.in_vocabulary_recall == 1


def test_no_word_known():
    result = score(GOLD, GOLD, training_words=[])
    assert result.oov_rate == 1
    assert result.oov_recall == 1
    assert result.in_vocabulary_recall is None


@pytest.mark.parametrize("sentences", [[], [[]]])
def test_nothing_to_score(sentences):
    result = score(sentences, sentences, training_words={"a"})
    assert (result.precision, result.recall, result.f1, result.oov_rate) == (0, 0, 0, 0)
    assert result.oov_recall is None
    assert result.in_vocabulary_recall is None


def cut(text, cuts):
    edges = [0, *sorted(cut for cut in cuts if 0 < cut < len(text)), len(text)]
    return [text[start:end] for start, end in pairwise(edges) if start < end]


texts_cut_twice = st.lists(
    st.tuples(st.text(max_size=12), st.sets(st.integers(1, 11)), st.sets(st.integers(1, 11))),
    max_size=6,
)


@given(texts_cut_twice)
def test_swapping_the_sides_swaps_precision_and_recall(texts):
    one = [cut(text, cuts) for text, cuts, _ in texts]
    other = [cut(text, cuts) for text, _, cuts in texts]
    there, back = score(one, other), score(other, one)
    assert there.precision == back.recall
    assert there.recall == back.precision
    assert there.f1 == back.f1
    assert there.correct_words == back.correct_words
    both = there.precision + there.recall
    harmonic = 2 * there.precision * there.recall / both if both else 0
    assert there.f1 == pytest.approx(harmonic)


@given(texts_cut_twice)
def test_identical_segmentations_are_perfect(texts):
    sentences = [cut(text, cuts) for text, cuts, _ in texts]
    result = score(sentences, sentences)
    perfect = 1.0 if any(sentences) else 0.0
    assert (result.precision, result.recall, result.f1) == (perfect,) * 3


@given(texts_cut_twice, st.sets(st.text(min_size=1, max_size=2)))
def test_recall_is_the_mean_of_both_recalls_weighted_by_the_oov_rate(texts, known):
    gold = [cut(text, cuts) for text, cuts, _ in texts]
    predicted = [cut(text, cuts) for text, _, cuts in texts]
    result = score(gold, predicted, known)
    mean = result.oov_rate * (result.oov_recall or 0) + (1 - result.oov_rate) * (
        result.in_vocabulary_recall or 0
    )
    assert result.recall == pytest.approx(mean)


def test_different_numbers_of_sentences():
    with pytest.raises(ValueError, match="2 gold and 1 predicted sentences"):
        score(GOLD, PREDICTED[:1])


@pytest.mark.parametrize(
    ("predicted", "position"),
    [
        (["on", "amat"], None),
        (["on", "a", "hat"], "4: gold text 'mat', predicted text 'hat'"),
        (["on", "a", "ma"], "6: gold text 't', predicted text at its end"),
        (["on", "a", "mat", "."], "7: gold text at its end, predicted text '.'"),
        ([], "1: gold text 'onamat', predicted text at its end"),
    ],
)
def test_different_texts(predicted, position):
    if position is None:
        score(GOLD, [GOLD[0], predicted])
    else:
        with pytest.raises(ValueError, match=f"sentence 2 differs at character {position}"):
            score(GOLD, [GOLD[0], predicted])


def test_empty_word():
    with pytest.raises(ValueError, match="predicted sentence 1 has an empty word"):
        score([["ab"]], [["ab", ""]])


def test_strings_in_place_of_words():
    with pytest.raises(TypeError, match="gold sentence 1 is the string 'a b'"):
        score(["a b"], [["a", "b"]])
    with pytest.raises(TypeError, match="training_words='a b'"):
        score([["a"]], [["a"]], training_words="a b")


def test_text_is_one_line():
    assert str(score(GOLD, PREDICTED)) == "F1 0.4615, precision 0.4286, recall 0.5000"
    assert str(score(GOLD, PREDICTED, {"the", "cat", "a"})) == (
        "F1 0.4615, precision 0.4286, recall 0.5000, OOV recall 0.3333 (50.0% of 6 words)"
    )
    assert str(score([["a"]], [["a"]], {"a"})).endswith("OOV none (0.0% of 1 words)")


def test_dictionary_is_fit_for_json():
    values = json.loads(json.dumps(score(GOLD, PREDICTED).to_dict()))
    assert values["gold_words"] == 6
    assert values["oov_recall"] is None
    assert list(values)[:3] == ["precision", "recall", "f1"]
