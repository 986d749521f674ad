import hashlib

import pytest

from finegrain.demo.manual import manual_corpus, manual_sentences

pytestmark = pytest.mark.one_backend


def bare(sentence):
    return "".join(sentence).lower()


def flat(sentences_by_topic):
    return [words for sentences in sentences_by_topic.values() for words in sentences]


def test_sizes():
    corpus = manual_corpus()
    total = len(corpus.train) + len(corpus.test)
    assert 1_500 < total < 4_000
    assert 0.15 < len(corpus.test) / total <= 0.2
    assert sum(map(len, corpus.train)) > 15_000
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


def test_the_split_is_the_same_everywhere():
    """On every Python version, so that results compare: the text is a file, and so is its order."""
    corpus = manual_corpus()
    lines = "\n".join(" ".join(words) for words in corpus.train + corpus.test)
    assert hashlib.sha256(lines.encode()).hexdigest()[:16] == "cfd2b7936da5fdde"


def test_sentences_keep_to_the_rule():
    for words in flat(manual_sentences()):
        text = " ".join(words)
        assert 4 <= len(words) <= 40, text
        assert text.lstrip("\"'“‘(")[0].isupper(), text
        assert text.rstrip("\"'”’)")[-1] in ".!?", text
        assert words == text.split(), text
        assert text.count("(") == text.count(")"), text
        assert not any(sign in text for sign in ("`", "$", "|", "http", " = ")), text
