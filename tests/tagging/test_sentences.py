"""A corpus in every form that it comes in."""

import re

import numpy as np
import pytest

from finegrain.tagging import CorpusError, as_sentences, write_columns

pytestmark = pytest.mark.one_backend

SENTENCES = [(["Ada", "wrote", "it"], ["B-PER", "O", "O"]), (["It", "ran"], ["O", "O"])]
WORDS, TAGS = (list(side) for side in zip(*SENTENCES, strict=True))
ROWS = [{"id": "7", "tokens": words, "ner_tags": tags} for words, tags in SENTENCES]
TOKENS = [list(zip(words, tags, strict=True)) for words, tags in SENTENCES]
FEATURES = [[{"bias": 1.0, "word": x, "word.isupper()": False} for x in words] for words in WORDS]
FORMS = {
    "pairs": SENTENCES,
    "pairs as lists": [[words, tags] for words, tags in SENTENCES],
    "pairs as tuples": [(tuple(words), tuple(tags)) for words, tags in SENTENCES],
    "pairs that are zipped": zip(WORDS, TAGS, strict=True),
    "pairs of arrays": [tuple(map(np.array, pair)) for pair in SENTENCES],
    "tokens": TOKENS,
    "tokens as lists": [[list(token) for token in sentence] for sentence in TOKENS],
    "tokens as tuples": tuple(map(tuple, [*TOKENS, []])),
    "triples": [[(word, "POS", tag) for word, tag in sentence] for sentence in TOKENS],
    "(X, y)": (WORDS, TAGS),
    "(X, y) of tuples": (tuple(map(tuple, WORDS)), TAGS),
    "(X, y) of features": (FEATURES, TAGS),
    "pairs of features": list(zip(FEATURES, TAGS, strict=True)),
    "rows": ROWS,
    "two rows in a tuple": tuple(ROWS),
    "rows that are generated": (row for row in ROWS),
    "columns": {"words": WORDS, "tags": TAGS},
    "with a sentence that is empty": [*SENTENCES, ([], [])],
}


@pytest.mark.parametrize("form", FORMS)
def test_forms(form):
    sentences = as_sentences(FORMS[form])
    assert sentences == SENTENCES
    assert {type(text) for pair in sentences for side in pair for text in side} == {str}


def test_a_file(tmp_path):
    write_columns(tmp_path / "corpus.tsv", SENTENCES)
    assert as_sentences(tmp_path / "corpus.tsv") == SENTENCES
    assert as_sentences(str(tmp_path / "corpus.tsv"), word=-1)[1] == (["O", "O"], ["O", "O"])
    with pytest.raises(CorpusError, match="no such file"):
        as_sentences("nowhere.tsv")


def test_where_words_and_tags_are():
    row = {"words": ["a"], "pos_tags": ["X"], "ner_tags": ["O"], "heads": ["b"]}
    assert as_sentences([row], tag="pos_tags") == [(["a"], ["X"])]
    assert as_sentences([row], word="heads", tag="ner_tags") == [(["b"], ["O"])]
    triples = [[("a", "X", "O"), ("b", "Y", "O"), ("c", "Z", "O")]]
    assert as_sentences(triples, tag=1) == [(["a", "b", "c"], ["X", "Y", "Z"])]
    assert as_sentences(triples, word=1, tag=-1)[0][0] == ["X", "Y", "Z"]
    features = [[{"w": "a", "word.lower()": "b"}]]
    assert as_sentences((features, [["X"]]), word="w") == [(["a"], ["X"])]


def test_two_by_two():
    """Two words and two tags, or two tokens: tuples and lists tell, or nothing does."""
    assert as_sentences([(["a", "b"], ["X", "Y"])]) == [(["a", "b"], ["X", "Y"])]
    assert as_sentences([[("a", "X"), ("b", "Y")]]) == [(["a", "b"], ["X", "Y"])]
    for corpus in ([[["a", "b"], ["X", "Y"]]], [(("a", "b"), ("X", "Y"))]):
        with pytest.raises(ValueError, match="these may be both"):
            as_sentences(corpus)
    pairs = ((["a"], ["X"]), (["b"], ["Y"]))
    with pytest.raises(ValueError, match=r"\(X, y\), or a list of pairs; this may be both"):
        as_sentences(pairs)
    assert as_sentences(list(pairs)) == [(["a"], ["X"]), (["b"], ["Y"])]


@pytest.mark.parametrize(
    ("corpus", "error", "message"),
    [
        (7, TypeError, "Received: 7"),
        ([], ValueError, "no sentence with a word"),
        ([([], [])], ValueError, "no sentence with a word"),
        ([["Ada", "wrote"]], TypeError, "single sentence into a list.*sentence 1 is ['Ada'"),
        (TOKENS[0], TypeError, "single sentence into a list.*sentence 1 is ('Ada', 'B-PER')"),
        ([*SENTENCES, (["a", "b"], ["X"])], ValueError, "2 words and 1 tags in sentence 3: ['a'"),
        (
            [*SENTENCES, (["a", ""], ["X", "X"])],
            ValueError,
            "words that.*Received: '' in sentence 3",
        ),
        ([*SENTENCES, (["a"], [" "])], ValueError, "tags that.*Received: ' ' in sentence 3"),
        ([*SENTENCES, (["a"], [3])], TypeError, "feature.names.*Received: 3 in sentence 3"),
        ([*SENTENCES, ([None], ["X"])], TypeError, "words as text.*Received: None in sentence 3"),
        ([*TOKENS, [("a",)]], ValueError, "2 parts at least.*Received: ('a',) in sentence 3"),
        ([*TOKENS, [("a", None)]], TypeError, "Received: None in sentence 3"),
        ([*SENTENCES, ROWS[0]], TypeError, "sentence 3 is {"),
        ((WORDS, TAGS[:1]), ValueError, "2 sentences of words and 1 of tags"),
        ((WORDS, [["O"] * 3, "OO"]), TypeError, "sequence of tags. Received: 'OO' in sentence 2"),
        (([[{"word.lower()": "ada"}]], [["O"]]), ValueError, "'word.lower()', are not the word"),
        (([[{"word": "a", "text": "b"}]], [["O"]]), ValueError, "give the words in place"),
        (([[["bias", "w=ada"]]], [["O"]]), TypeError, "Received: ['bias', 'w=ada'] in sentence 1"),
        ([{"tokens": ["a"]}], ValueError, "`tag=`. Received: row 1 with the keys 'tokens'"),
        ([ROWS[0] | {"pos_tags": []}], ValueError, "say which by `tag=`. Received: row 1"),
        ([ROWS[0] | {"words": []}], ValueError, "say which by `word=`"),
        ([{"tokens": "Ada", "tags": ["O"]}], TypeError, "key 'tokens'. Received: 'Ada' in row 1"),
    ],
)
def test_refused(corpus, error, message):
    pattern = ".*".join(map(re.escape, message.split(".*")))
    with pytest.raises(error, match=pattern):
        as_sentences(corpus)


@pytest.mark.parametrize(
    ("corpus", "options", "error"),
    [
        (SENTENCES, {"tag": 1}, ValueError),
        ((WORDS, TAGS), {"tag": 1}, ValueError),
        (ROWS, {"tag": "pos_tags"}, ValueError),
        (TOKENS, {"tag": "ner"}, TypeError),
        (TOKENS, {"tag": 2}, ValueError),
        (TOKENS, {"word": -3}, ValueError),
        (TOKENS, {"word": True}, TypeError),
    ],
)
def test_places_that_are_not_there(corpus, options, error):
    (value,) = options.values()
    with pytest.raises(error, match=re.escape(f"{value!r}" if value != 2 and value != -3 else "3")):
        as_sentences(corpus, **options)
