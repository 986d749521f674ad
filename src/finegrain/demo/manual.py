"""The embedded corpus: English sentences from Python's own manual.

Every Python installation carries its language reference as plain text, in `pydoc_data.topics`. The
prose of that manual makes a word segmentation corpus that needs no download: remove the blanks of
a sentence and let a tagger find them again.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass

MIN_WORDS, MAX_WORDS = 4, 40


@dataclass(frozen=True)
class ManualCorpus:
    """Sentences of Python's manual, split by topic into training and test sentences.

    Attributes:
        train: Training sentences, each a list of words.
        test: Test sentences, each a list of words.
        train_topics: Names of the manual's topics that `train` was taken from.
        test_topics: Names of the manual's topics that `test` was taken from.
    """

    train: list[list[str]]
    test: list[list[str]]
    train_topics: tuple[str, ...]
    test_topics: tuple[str, ...]


def manual_corpus(test_share: float = 0.2, seed: int = 0) -> ManualCorpus:
    """Split the sentences of Python's manual by topic into training and test sentences.

    Many topics of the manual repeat parts of others: "compound" holds all of "for" and "while". So
    topics that have a sentence in common stay on the same side, and no sentence of a test topic,
    compared with the blanks removed and without regard to case, is ever trained on. Families of
    such topics, in an order drawn with `seed`, go to the test part as long as they fit into it.

    Args:
        test_share: Largest share of the sentences that are held out for the test, strictly
            between 0 and 1.
        seed: Seed of the draw. The same seed gives the same split on the same Python version.

    Returns:
        The training and test sentences with the topics that they come from.

    Raises:
        ValueError: If `test_share` is not between 0 and 1, or too small to hold out any topic.
        RuntimeError: If this Python was installed without its manual.

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
    families = _families(_sentences_by_topic())
    # One draw for each topic, so that the split hardly moves when the families do.
    generator = random.Random(seed)
    draw = {topic: generator.random() for topic in _manual_topics()}
    families.sort(key=lambda family: draw[family[0]])

    budget = test_share * sum(map(len, sentences.values()))
    test_topics: list[str] = []
    for family in families:
        size = sum(len(sentences[topic]) for topic in family if topic in sentences)
        if 0 < size <= budget:
            budget -= size
            test_topics += (topic for topic in family if topic in sentences)
    train_topics = [topic for topic in sentences if topic not in test_topics]
    if not test_topics:
        raise ValueError(
            "`test_share` is too small to hold out a single topic; use a larger one. "
            f"Received: test_share={test_share!r}"
        )
    return ManualCorpus(
        train=[words for topic in train_topics for words in sentences[topic]],
        test=[words for topic in sorted(test_topics) for words in sentences[topic]],
        train_topics=tuple(train_topics),
        test_topics=tuple(sorted(test_topics)),
    )


def manual_sentences() -> dict[str, list[list[str]]]:
    """Return the English sentences of Python's manual, topic by topic.

    The rule that makes a sentence, applied to every topic alike:

    - A paragraph is a run of lines with the same indentation; list markers are taken off. Grammar,
      tables, headings, interactive examples and directives are left out.
    - Its lines are joined, the markup (emphasis, roles, backticks, footnote marks, notes like
      "Changed in version 3.9:") is taken off, and it is cut where a sentence ends.
    - A sentence has 4 to 40 words, begins with a capital letter and ends in a full stop, question
      mark or exclamation mark (quotation marks and parentheses round it do not count); its
      quotation marks and parentheses are paired.
    - Sentences that quote code of several words, such as "a[i] += f(x)", are left out: blanks in
      program text follow other laws than those of English.

    A word is what stands between two blanks, with its punctuation, as in the source. Short
    code such as "__init__()" is quoted as the manual does, and stays. A sentence that stands in
    several topics is given once, under the first of them in alphabetical order.

    Returns:
        Topic names in alphabetical order, each with its sentences in the order of the text; a
        sentence is a list of words. Topics without a sentence of their own are left out. The
        text, and with it the sentences, differs between Python versions.

    Example:
        >>> from finegrain.tagging import manual_sentences
        >>> sentences = manual_sentences()
        >>> print(*sentences["assert"][-1])
        The value for the built-in variable is determined when the interpreter starts.
    """
    seen: set[str] = set()
    result: dict[str, list[list[str]]] = {}
    for topic, sentences in _sentences_by_topic().items():
        fresh = []
        for words in sentences:
            if _key(words) not in seen:
                seen.add(_key(words))
                fresh.append(words)
        if fresh:
            result[topic] = fresh
    return result


def _sentences_by_topic() -> dict[str, list[list[str]]]:
    """Find all sentences of each topic in their order, also those that other topics repeat."""
    return {
        topic: [
            sentence.split()
            for paragraph in _paragraphs(text)
            if _is_prose(paragraph)
            for sentence in _split(_plain(paragraph))
            if _is_sentence(sentence)
        ]
        for topic, text in _manual_topics().items()
    }


def _manual_topics() -> dict[str, str]:
    """Read the manual's text by topic, in alphabetical order."""
    try:
        from pydoc_data.topics import topics
    except ImportError as error:
        raise RuntimeError(
            "Expected Python's manual in the standard module `pydoc_data.topics`, but this Python "
            "was installed without it. Install the full standard library, or use a corpus file."
        ) from error
    return dict(sorted(topics.items()))


def _key(words: list[str]) -> str:
    return "".join(words).casefold()


def _families(sentences: dict[str, list[list[str]]]) -> list[list[str]]:
    """Group topics that are linked by a sentence in common, directly or through other topics."""
    families: list[tuple[list[str], set[str]]] = []
    for topic, topic_sentences in sentences.items():
        names, keys = [topic], {_key(words) for words in topic_sentences}
        apart = []
        for other_names, other_keys in families:
            if keys.isdisjoint(other_keys):
                apart.append((other_names, other_keys))
            else:
                names, keys = other_names + names, keys | other_keys
        families = [*apart, (names, keys)]
    return [names for names, _ in families]


_LIST_MARKER = re.compile(r"\s*(?:[*•-]|\d+[.)]|[IVX]+\.|\([a-z\d]\)|\[\d+\])\s+")


def _paragraphs(text: str) -> Iterator[list[str]]:
    """Yield paragraphs, the lines of one indentation; a list marker opens one and is taken off."""
    for block in re.split(r"\n\s*\n", text):
        lines: list[str] = []
        indentation = -1
        for line in filter(str.strip, block.split("\n")):
            marker = _LIST_MARKER.match(line)
            start = marker.end() if marker else len(line) - len(line.lstrip())
            if lines and (marker or start != indentation):
                yield lines
                lines = []
            lines.append(line[start:].rstrip())
            indentation = start
        if lines:
            yield lines


# Underlines, table rules and rows, prompts, grammar, reStructuredText directives.
_NOT_PROSE = re.compile(r"[=*~^#_+-]{3}[\s=*~^#_+-]*$|[|+]|>>>|\.\.( |\.)|.*::=|\(Pdb\)")


def _is_prose(paragraph: list[str]) -> bool:
    return not any(map(_NOT_PROSE.match, paragraph))


_VERSION_NOTE = re.compile(
    r"(?:New|Added|Changed|Deprecated|Removed)[\w-]* (?:in|since) version [^:]*(?::\s|$)"
)
# What stands between straight quotes is literal; asterisks, backticks and marks elsewhere are not.
_MARKUP = re.compile(r'("[^"]*")|:\w+:(?=`)|`+_*|\*+| \[\d+\](?!\w)')


def _plain(paragraph: list[str]) -> str:
    """Join the lines, also where a word is broken at its hyphen, and take the markup off."""
    text = re.sub(r"(?<=\w-)\n", "", "\n".join(paragraph))
    text = _VERSION_NOTE.sub("", " ".join(text.split()), count=1)
    return _MARKUP.sub(lambda match: match[1] or "", text)


_SENTENCE_END = re.compile(
    r"""(?<=[.!?])(?<![Ee]\.g\.)(?<![Ii]\.e\.)(?<!cf\.)(?<!vs\.)(["'”’)]*)\s+(?![a-z])"""
)


def _split(text: str) -> Iterator[str]:
    """Cut the text after each stop and its closing marks, unless a lower-case letter follows."""
    start = 0
    for end in _SENTENCE_END.finditer(text):
        yield text[start : end.end(1)]
        start = end.end()
    yield text[start:]


def _is_sentence(text: str) -> bool:
    core = text.strip("\"'“”‘’()")
    return (
        MIN_WORDS <= len(text.split()) <= MAX_WORDS
        and core[:1].isupper()
        and core[-1:] in tuple(".!?")
        and text.count('"') % 2 == 0
        and all(text.count(opening) == text.count(closing) for opening, closing in ("()", "“”"))
        and not any(" " in literal for literal in re.findall(r'"([^"]*)"', text))
    )
