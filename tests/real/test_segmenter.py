"""`finegrain train`, `segment` and `score` on the manual, each in a process of its own."""

import itertools
import re

import numpy as np
import pytest

import drawn
import finegrain as fg
from finegrain.tagger.batches import bucket_lengths
from finegrain.tagging import manual_corpus
from real.terminal import BACKEND, FULL, full_only

EPOCHS, SHARE, FLOOR = (4, 1, 0.85) if FULL else (1, 4, 0.3)
"""Epochs; one sentence in how many is trained on; the least word F1 on held-out topics, which comes
out 0.08 higher or more."""

SEED = "3"
"""So that batches of one length come first, by which TensorFlow might take all for such."""

CORPUS = manual_corpus()
TRAINED = CORPUS.train[::SHARE]
# A paragraph in one line, longer than what the model reads at a time, stands last.
BOOK = [*CORPUS.test, [word for sentence in CORPUS.test[:12] for word in sentence]]


@pytest.fixture(scope="module")
def desk(terminal):
    """A terminal in a folder with a model that was trained there, and the texts."""
    for name, sentences in {"corpus": TRAINED, "held-out": BOOK}.items():
        lines = "".join(" ".join(words) + "\n" for words in sentences)
        (terminal.folder / f"{name}.txt").write_text(lines, "utf-8")
    (terminal.folder / "book.txt").write_text(without_blanks(BOOK), "utf-8")
    train(terminal, "words.keras", "--epochs", str(EPOCHS), "--seed", SEED)
    return terminal


def without_blanks(sentences):
    return "".join("".join(words) + "\n" for words in sentences)


def train(terminal, file, *options):
    terminal.run("finegrain", "train", "corpus.txt", "--out", file, *options)


def f1_of(terminal, file):
    """What `finegrain score` says."""
    table = terminal.run("finegrain", "score", file, "held-out.txt")
    row = re.search(rf"^\W*{re.escape(file)}\W+([\d.]+)\W", table, re.M)
    assert row, table
    return float(row[1])


def ends(words):
    """Where words begin and end, in characters without blanks."""
    places = [0]
    for word in words:
        places.append(places[-1] + len(word))
    return set(itertools.pairwise(places))


def test_the_sentences_are_of_several_lengths():
    lengths = [len("".join(words)) for words in TRAINED]
    assert len(bucket_lengths(lengths)) > 1
    assert len(lengths) > 1000 // SHARE


@pytest.mark.skipif(
    BACKEND == "torch" and not FULL, reason="test_cli.py starts the same processes on torch"
)
def test_a_book_is_segmented(desk):
    """No character is lost, and the score is that of the words that come out."""
    text = desk.run("finegrain", "segment", "words.keras", "book.txt")
    assert text.replace(" ", "") == without_blanks(BOOK)
    found = [ends(line.split(" ")) for line in text.splitlines()]
    true = [ends(words) for words in BOOK]
    right = sum(len(mine & theirs) for mine, theirs in zip(found, true, strict=True))
    f1 = 2 * right / (sum(map(len, found)) + sum(map(len, true)))
    assert f1 > FLOOR
    if FULL:  # a process more
        assert f1_of(desk, "words.keras") == pytest.approx(f1, abs=5e-5)


@full_only
def test_a_book_is_segmented_from_a_pipe(desk):
    piped = desk.run("bash", "-c", "finegrain segment words.keras < book.txt | head -n 5")
    assert piped.replace(" ", "") == without_blanks(BOOK[:5])


@full_only
def test_odd_lines_are_cut_with_keras_and_without(desk):
    """A thousand lines of the manual's characters with whatever else a text may hold."""
    random = np.random.default_rng(drawn.seed(0))
    letters = [*without_blanks(BOOK), *"é\u0301\u200d👩👧🇫🇷\0\ud800가北京ａ１ \t\u3000" * 200]
    sizes = np.r_[random.integers(0, 50, size=991), [255, 256, 257, 258, 500, 512, 513, 600, 800]]
    lines = ["".join(random.choice(letters, size=size)) for size in sizes]
    file = desk.folder / "words.keras"
    found = fg.reader.load(file).segment_many(lines)
    assert found == fg.tagging.Segmenter.load(file).segment_many(lines)


@full_only
@pytest.mark.skipif(BACKEND != "torch", reason="the engine is that of the first test")
@pytest.mark.parametrize("options", [["--encoder", "bilstm"], ["--softmax"]], ids=" ".join)
def test_the_other_taggers_learn(desk, options):
    train(desk, "other.keras", "--force", "--epochs", "1", *options)
    assert f1_of(desk, "other.keras") > 0.3
