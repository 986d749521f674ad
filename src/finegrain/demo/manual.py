"""The embedded corpus: English sentences of finegrain's own manual.

The prose of the manual and of the docstrings makes a word segmentation corpus that needs no
download: remove the blanks of a sentence and let a tagger find them again. The file beside this
one holds it as it was when it was made, so that a result can be compared with later ones.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from importlib.resources import files


@dataclass(frozen=True)
class ManualCorpus:
    """Sentences of finegrain's manual, split by topic into training and test sentences.

    Attributes:
        train: Training sentences, each a list of words.
        test: Test sentences, each a list of words.
        train_topics: Names of the topics that `train` was taken from.
        test_topics: Names of the topics that `test` was taken from.
    """

    train: list[list[str]]
    test: list[list[str]]
    train_topics: tuple[str, ...]
    test_topics: tuple[str, ...]


def manual_corpus(test_share: float = 0.2, seed: int = 0) -> ManualCorpus:
    """Split the sentences of finegrain's manual by topic into training and test sentences.

    Topics, in an order drawn with `seed`, go to the test part as long as they fit into it.

    Args:
        test_share: Largest share of the sentences that are held out for the test, strictly
            between 0 and 1.
        seed: Seed of the draw. The same seed gives the same split everywhere.

    Returns:
        The training and test sentences with the topics that they come from.

    Raises:
        ValueError: If `test_share` is not between 0 and 1, or too small to hold out any topic.

    Example:
        >>> from finegrain.tagging import manual_corpus
        >>> corpus = manual_corpus()
        >>> set(corpus.train_topics) & set(corpus.test_topics)
        set()
        >>> 0.1 < len(corpus.test) / (len(corpus.train) + len(corpus.test)) <= 0.2
        True
    """
    if not 0.0 < test_share < 1.0:
        raise ValueError(
            "`test_share` must lie strictly between 0 and 1, e.g. 0.2 to hold out a fifth of the "
            f"sentences. Received: test_share={test_share!r}"
        )
    sentences = manual_sentences()
    drawn = list(sentences)
    random.Random(seed).shuffle(drawn)
    budget = test_share * sum(map(len, sentences.values()))
    test_topics: list[str] = []
    for topic in drawn:
        if len(sentences[topic]) <= budget:
            budget -= len(sentences[topic])
            test_topics.append(topic)
    if not test_topics:
        raise ValueError(
            "`test_share` is too small to hold out a single topic; use a larger one. "
            f"Received: test_share={test_share!r}"
        )
    train_topics = [topic for topic in sentences if topic not in test_topics]
    return ManualCorpus(
        train=[words for topic in train_topics for words in sentences[topic]],
        test=[words for topic in sorted(test_topics) for words in sentences[topic]],
        train_topics=tuple(train_topics),
        test_topics=tuple(sorted(test_topics)),
    )


def manual_sentences() -> dict[str, list[list[str]]]:
    """Return the English sentences of finegrain's manual, topic by topic.

    A topic is a page of the manual or the docstrings of a module. A sentence has 4 to 40 words,
    begins with a capital letter and ends in a full stop, question mark or exclamation mark. A word
    is what stands between two blanks, with its punctuation. No sentence stands there twice, also
    not with other blanks or capitals. Sentences with formulas or with code of several words were
    left out: blanks in program text follow other laws than those of English.

    Returns:
        Topic names, each with its sentences in the order of the text; a sentence is a list of
        words.

    Example:
        >>> from finegrain.tagging import manual_sentences
        >>> print(*manual_sentences()["readme"][1])
        Nothing asks for a training loop of your own.
    """
    text = files("finegrain.demo").joinpath("manual.txt").read_text(encoding="utf-8")
    _, *parts = f"\n{text}".split("\n# ")
    result = {}
    for part in parts:
        topic, *sentences = part.splitlines()
        result[topic] = [sentence.split() for sentence in sentences]
    return result
