import sys

import pytest

from finegrain.demo import manual
from finegrain.demo.manual import manual_corpus, manual_sentences

pytestmark = pytest.mark.one_backend


@pytest.fixture
def topics(monkeypatch):
    """Replaces Python's manual by topics of the test's own."""

    def replace(**texts):
        monkeypatch.setattr("pydoc_data.topics.topics", texts)

    return replace


def bare(sentence):
    return "".join(sentence).lower()


def flat(sentences_by_topic):
    return [words for sentences in sentences_by_topic.values() for words in sentences]


def test_sizes():
    corpus = manual_corpus()
    total = len(corpus.train) + len(corpus.test)
    assert 1_500 < total < 4_000
    assert 0.15 < len(corpus.test) / total <= 0.2
    assert sum(map(len, corpus.train)) > 20_000
    assert sum(map(len, corpus.test)) > 4_000
    assert len(corpus.train_topics) > 20
    assert len(corpus.test_topics) > 10


def test_every_sentence_of_the_manual_is_in_one_part_and_once():
    corpus = manual_corpus()
    sentences = [bare(words) for words in corpus.train + corpus.test]
    assert len(set(sentences)) == len(sentences)
    assert sorted(sentences) == sorted(bare(words) for words in flat(manual_sentences()))
    names = corpus.train_topics + corpus.test_topics
    assert sorted(names) == sorted(manual_sentences())


@pytest.mark.parametrize("seed", range(5))
def test_no_sentence_of_a_test_topic_is_trained_on(seed):
    # Seen against the full text of the topics, also where it is repeated in other topics.
    corpus = manual_corpus(seed=seed)
    full = manual._sentences_by_topic()
    held_out = {bare(words) for topic in corpus.test_topics for words in full[topic]}
    trained = {bare(words) for topic in corpus.train_topics for words in full[topic]}
    assert held_out.isdisjoint(trained)
    assert held_out == {bare(words) for words in corpus.test}
    assert trained == {bare(words) for words in corpus.train}


def test_same_seed_same_split_other_seed_other_split():
    assert manual_corpus() == manual_corpus()
    assert manual_corpus(seed=1).test_topics != manual_corpus(seed=2).test_topics


@pytest.mark.parametrize("share", [0.05, 0.5, 0.9])
def test_share_bounds_the_test_part(share):
    corpus = manual_corpus(test_share=share)
    total = len(corpus.train) + len(corpus.test)
    assert 0 < len(corpus.test) <= share * total
    assert corpus.train


@pytest.mark.parametrize("share", [0, 1, -0.1, 20, float("nan")])
def test_share_outside_its_range(share):
    with pytest.raises(ValueError, match=f"strictly between 0 and 1.*test_share={share}"):
        manual_corpus(test_share=share)


def test_share_too_small_for_any_topic():
    with pytest.raises(ValueError, match="too small to hold out a single topic"):
        manual_corpus(test_share=1e-6)


def test_python_without_its_manual(monkeypatch):
    monkeypatch.setitem(sys.modules, "pydoc_data.topics", None)
    with pytest.raises(RuntimeError, match="Install the full standard library"):
        manual_corpus()


def test_sentences_keep_to_the_rule():
    for words in flat(manual_sentences()):
        text = " ".join(words)
        assert 4 <= len(words) <= 40, text
        assert text.lstrip("\"'“‘(")[0].isupper(), text
        assert text.rstrip("\"'”’)")[-1] in ".!?", text
        assert words == text.split(), text
        assert text.count("(") == text.count(")"), text
        assert not any(sign in text for sign in ("::=", ">>>", "`", "+--", "===")), text


def test_repeated_sentence_stands_under_the_first_topic(topics):
    topics(
        b="This sentence is shared. The second one is new here.",
        a="This sentence is\nshared.",
        c="THIS sentence is shared.",
    )
    assert manual_sentences() == {
        "a": [["This", "sentence", "is", "shared."]],
        "b": [["The", "second", "one", "is", "new", "here."]],
    }


def test_topics_with_a_sentence_in_common_stay_together(topics):
    # a and c share nothing, but both share with b; d stands alone.
    topics(
        a="One is in a and b.",
        b="One is in a and b. Two is in b and c.",
        c="Two is in b and c.",
        d="Three is only in d.",
    )
    for seed in range(8):
        corpus = manual_corpus(test_share=0.5, seed=seed)
        assert corpus.test_topics == ("d",)
        assert corpus.train_topics == ("a", "b")


PAGE = """The "with" statement
********************

   with_stmt ::= "with" expression ":" suite
   Grammar is left out here.

The *context* manager’s "__enter__()" is **always** called.  It is non-
virtual, as ``repeat`` and :ref:`here` tell (see section With Statement
Context Managers). [2] Is it not?  "Quoted" sentences count, e.g. The one
before.

1. The first item of a list.

2. The second item goes on
   in another line.

Changed in version 3.1: Support for several managers was added.

Added in version 3.5.

   >>> print("This is a session.")
   This is a session.

+------------+
| Cells of a table. Are left out here. |
+------------+

.. note:: This is a directive here.

A term of the list
   Its definition is further in.

The code "a + b" has blanks.  Too short.  (This one stands in parentheses.)
This (one is not closed. And neither is this).  no capital letter is here.
This has no end
"""


def test_sentences_of_a_page(topics):
    topics(only=PAGE)
    assert [" ".join(words) for words in manual_sentences()["only"]] == [
        'The context manager’s "__enter__()" is always called.',
        "It is non-virtual, as repeat and here tell (see section With Statement Context Managers).",
        '"Quoted" sentences count, e.g. The one before.',
        "The first item of a list.",
        "The second item goes on in another line.",
        "Support for several managers was added.",
        "Its definition is further in.",
        "(This one stands in parentheses.)",
    ]


def test_length_of_a_sentence(topics):
    lengths = {"three": 3, "four": 4, "forty": 40, "more": 41}
    topics(**{name: f"Word {'word ' * (n - 2)}{name}." for name, n in lengths.items()})
    assert {name: len(words[0]) for name, words in manual_sentences().items()} == {
        "four": 4,
        "forty": 40,
    }
