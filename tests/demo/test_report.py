"""What the demo says: tables with labels, and sentences that keep to the numbers."""

import io
import re
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from finegrain.demo.manual import ManualCorpus
from finegrain.demo.report import observations, print_report, score_table, transition_table
from finegrain.demo.run import DemoResult, Run
from finegrain.tagging.scores import SegmentationScore

pytestmark = pytest.mark.one_backend

LABELS = ("s", "b", "m", "e")
# Row 1 spells words only by m and e (2 and 3), row 0 only by s and b, and so on.
ALLOWED = {(0, 0), (0, 1), (1, 2), (1, 3), (2, 2), (2, 3), (3, 0), (3, 1)}
NUMBERS = np.arange(16).reshape(4, 4) / 8 - 1
# What spells words has 1, what does not −1.
ORDERED = np.where([[(i, j) in ALLOWED for j in range(4)] for i in range(4)], 1.0, -1.0)


def a_score(f1, oov_recall=0.5, gold_words=1234):
    """A score with these numbers."""
    return SegmentationScore(
        precision=f1 + 0.01,
        recall=f1 - 0.01,
        f1=f1,
        oov_rate=0.1,
        oov_recall=oov_recall,
        in_vocabulary_recall=None,
        gold_words=gold_words,
        predicted_words=1000,
        correct_words=900,
    )


def a_run(name, right, transitions=None):
    """A run that finds `right` of ten words in each sentence."""
    counts = np.array([(n, 10, 10) for n in right])
    f1 = counts[:, 0].sum() / (10 * len(counts))
    return Run(name, None, a_score(f1), counts, transitions, 12.4)


WORSE = [7, 6, 8, 7] * 10
BETTER = [9, 9, 10, 9] * 10
SHUFFLED = [8, 7, 7, 6] * 9 + [8, 7, 7, 7]  # about as good as WORSE, on other sentences


def a_result(softmax, slow, fast, *, matrices=(ORDERED, NUMBERS), picture=Path("out/t.png")):
    """Three runs that find as many of ten words in each sentence."""
    runs = [
        a_run("softmax", softmax),
        a_run("CRF × 1", slow, matrices[0]),
        a_run("CRF × 100", fast, matrices[1]),
    ]
    corpus = ManualCorpus([], [], (), ())
    return DemoResult(corpus, runs, LABELS, Path("out/segmenter.keras"), picture)


def printed(*things, width=80):
    """What a console of this width that is no terminal shows of them."""
    console = Console(file=io.StringIO(), width=width, color_system=None)
    for thing in things:
        console.print(thing)
    return console.file.getvalue()


def report(result, width=80):
    """The printed report."""
    console = Console(file=io.StringIO(), width=width, color_system=None)
    print_report(result, console)
    return console.file.getvalue()


def rows_of(text, first):
    """The cells of the printed rows, from the one that begins with `first`."""
    lines = [line.strip(" │┃") for line in text.splitlines()]
    lines = [re.split(r"\s*[│┃]\s*|\s{2,}", line) for line in lines if re.search(r"\w", line)]
    return lines[[line[0] for line in lines].index(first) :]


def test_score_table():
    """A line a tagger with F1, precision, recall, OOV recall, words and seconds, in this order."""
    scores = {"softmax": a_score(0.9), "CRF": a_score(0.95, oov_recall=None, gold_words=12)}
    table = score_table(scores, {"softmax": 3.6, "CRF": 100.0})
    heading, first, second = rows_of(printed(table), "tagger")
    assert heading == ["tagger", "F1", "precision", "recall", "OOV recall", "words", "seconds"]
    assert first == ["softmax", "0.9000", "0.9100", "0.8900", "0.5000", "1,234", "4"]
    assert second == ["CRF", "0.9500", "0.9600", "0.9400", "–", "12", "100"]


def test_score_table_without_seconds():
    """Scoring alone tells no time."""
    assert "seconds" not in printed(score_table({"CRF": a_score(0.9)}))


def test_score_table_of_a_name_with_brackets():
    """A file's name is shown as it is."""
    assert "model[v2].keras" in printed(score_table({"model[v2].keras": a_score(0.9)}))


def test_transition_table_has_labels_on_rows_and_columns():
    """Columns bear the labels of the tag that follows, rows of the tag before; numbers fit."""
    text = printed(transition_table("CRF × 1", NUMBERS, LABELS))
    assert "CRF × 1" in text.splitlines()[0]
    heading = next(line.split() for line in text.splitlines()[1:] if line.strip())
    assert heading[-4:] == list(LABELS)
    for label, values, row in zip(LABELS, NUMBERS, rows_of(text, "s")[-4:], strict=True):
        assert row == [label, *(f"{value:.2f}" for value in values)]


def test_what_spells_no_word_is_dim():
    """On a terminal exactly the transitions that the scheme forbids are dim."""
    console = Console(file=io.StringIO(), force_terminal=True, color_system="standard", width=80)
    dim = [
        segment.text.strip()
        for segment in console.render(transition_table("", NUMBERS, LABELS))
        if segment.style is not None and segment.style.dim and segment.text.strip()
    ]
    assert dim == [
        f"{NUMBERS[i, j]:.2f}" for i in range(4) for j in range(4) if (i, j) not in ALLOWED
    ]


def test_transition_table_with_forbidden_scores():
    """Constraints put −∞ into the matrix, and the table shows it."""
    table = np.where(ORDERED > 0, 0.5, -np.inf)
    text = printed(transition_table("constrained", table, LABELS))
    assert text.count("-inf") == 8
    assert text.count("0.50") == 8


@pytest.mark.parametrize(
    ("softmax", "slow", "fast", "verdicts"),
    [
        (WORSE, BETTER, BETTER, ["better", "better", "no difference"]),
        (BETTER, WORSE, WORSE, ["worse", "worse", "no difference"]),
        (WORSE, SHUFFLED, BETTER, ["no difference", "better", "better"]),
        (WORSE, BETTER, SHUFFLED, ["better", "no difference", "worse"]),
    ],
)
def test_observations_say_what_the_interval_says(softmax, slow, fast, verdicts):
    """Better or worse where the interval leaves 0 out, no difference where it holds 0."""
    lines = observations(a_result(softmax, slow, fast))[:3]
    pairs = [("CRF × 1", "softmax"), ("CRF × 100", "softmax"), ("CRF × 100", "CRF × 1")]
    for line, (second, first), verdict in zip(lines, pairs, verdicts, strict=True):
        assert line.startswith(f"{second} against {first}: F1 ")
        numbers = re.search(r"F1 (\S+) \(95 % interval over sentences (\S+) to (\S+)\)", line)
        difference, low, high = map(float, numbers.groups())
        assert low <= difference <= high
        said = line.rpartition(": ")[2]
        assert said.startswith(verdict)
        assert (verdict == "no difference") == (low <= 0 <= high)
        if verdict != "no difference":
            assert (verdict == "better") == (difference > 0)


def test_observations_count_the_pairs_in_order():
    """Each row has two scores that spell words and two that do not: 16 pairs, all, half, none."""
    half = ORDERED * np.array([1, 1, -1, -1])[:, None]
    for matrix, ordered in ((ORDERED, 16), (half, 8), (-ORDERED, 0), (np.zeros((4, 4)), 0)):
        lines = observations(a_result(WORSE, WORSE, WORSE, matrices=(matrix, NUMBERS)))
        assert len(lines) == 5
        assert lines[3].startswith(f"CRF × 1: {ordered} of 16 pairs")
    assert "scores from -1.00 to 0.88" in lines[4]


def test_report():
    """The report has both tables, both matrices, what was observed, the files and what is next."""
    text = report(a_result(WORSE, BETTER, SHUFFLED))
    order = [
        "Words found",
        "softmax",
        "Transition scores",
        "Observed:",
        "CRF × 1 against softmax",
        "Model of the best tagger (CRF × 1): out/segmenter.keras",
        "Picture of the transitions: out/t.png",
        "Next:",
        "finegrain segment out/segmenter.keras",
        "finegrain train",
        "finegrain score",
    ]
    places = [text.index(part) for part in order]
    assert places == sorted(places)
    matrices = text[places[2] : places[3]]
    assert matrices.count("CRF × 100") == 1
    assert len(re.findall(r"\bs\s+b\s+m\s+e\b", matrices)) == 2
    assert all(len(line) <= 80 for line in text.splitlines())


def test_report_without_a_picture():
    """Where none could be drawn the report says what to install."""
    text = report(a_result(WORSE, BETTER, BETTER, picture=None))
    assert "Picture of" not in text
    assert "pip install matplotlib" in text


def test_report_of_what_could_not_be_written():
    """It stands in the place of the file's name, and nothing is said to go on with."""
    whole = a_result(WORSE, BETTER, BETTER)
    failures = {"model": "m.keras cannot be written: full", "picture": "t.png: full"}
    text = report(DemoResult(whole.corpus, whole.runs, LABELS, None, None, failures))
    for line in ("Words found", "Observed:", *failures.values()):
        assert line in text
    assert "Next:" not in text
    assert "matplotlib" not in text


def test_commands_to_type_next_are_as_a_shell_takes_them():
    """The command is named as it was called; a path with a blank is quoted."""
    whole = a_result(WORSE, BETTER, BETTER)
    result = DemoResult(whole.corpus, whole.runs, LABELS, Path("my demo/m.keras"), None)
    console = Console(file=io.StringIO(), width=80)
    print_report(result, console, ".venv/bin/finegrain")
    lines = console.file.getvalue().splitlines()
    assert "  echo thisworksforanytext | .venv/bin/finegrain segment 'my demo/m.keras'" in lines
    assert "  .venv/bin/finegrain train YOUR_CORPUS --out your.keras" in lines


def test_commands_to_type_next_are_not_broken():
    """A long path stands whole in its line, fit to be copied."""
    result = a_result(WORSE, BETTER, BETTER)
    file = Path("a_folder_with_a_long_name/" * 4 + "segmenter.keras")
    result = DemoResult(result.corpus, result.runs, LABELS, file, None)
    lines = report(result).splitlines()
    assert f"  echo thisworksforanytext | finegrain segment {file}" in lines


def test_report_of_a_path_with_brackets():
    """A path is shown as it is."""
    result = a_result(WORSE, BETTER, BETTER)
    file = Path("out[v2]/segmenter.keras")
    text = report(DemoResult(result.corpus, result.runs, LABELS, file, None))
    assert text.count("out[v2]/segmenter.keras") == 2
