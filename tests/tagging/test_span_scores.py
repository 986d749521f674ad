"""Precision, recall and F1 of spans, for each type and on average."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finegrain.tagging import BILOU, BIO, BIOES, IOE2, Span, score_spans

pytestmark = pytest.mark.one_backend

GOLD = [["B-A", "I-A", "O", "B-A", "B-B", "O"], ["B-A", "O", "B-B"]]
PREDICTED = [["B-A", "I-A", "O", "B-B", "B-B", "O"], ["B-C", "O", "B-B"]]


def test_by_hand():
    score = score_spans(GOLD, PREDICTED)
    assert {name: (x.precision, x.recall, x.support) for name, x in score.types.items()} == {
        "A": (1, 1 / 3, 3),
        "B": (2 / 3, 1, 2),
        "C": (0, 0, 0),
    }
    assert [x.f1 for x in score.types.values()] == pytest.approx([0.5, 0.8, 0])
    assert (score.precision, score.recall, score.f1) == pytest.approx((3 / 5, 3 / 5, 3 / 5))
    assert score.macro.precision == pytest.approx((1 + 2 / 3) / 3)
    assert score.macro.f1 == pytest.approx(1.3 / 3)
    assert score.weighted.precision == pytest.approx((3 * 1 + 2 * 2 / 3) / 5)
    assert score.weighted.recall == pytest.approx(score.recall)
    assert score.weighted.f1 == pytest.approx((3 * 0.5 + 2 * 0.8) / 5)
    assert [x.support for x in (score.micro, score.macro, score.weighted)] == [5, 5, 5]


def test_spans_or_tags():
    """Spans, in any order and as plain tuples, score as the tags that they are written as."""
    scheme = BIO(["A", "B", "C"])
    spans = [[scheme.decode(tags)[::-1] for tags in side] for side in (GOLD, PREDICTED)]
    assert score_spans(*spans) == score_spans(GOLD, PREDICTED)
    plain = [[tuple(span) for span in sentence] for sentence in spans[0]]
    assert score_spans(plain, PREDICTED) == score_spans(GOLD, PREDICTED)
    # No spans in a sentence is not a missing tag.
    assert score_spans([[Span("A", 0, 1)], []], [["B-A", "O"], ["O"]]).f1 == 1


def test_strictly_and_leniently():
    """I-A after O begins a span, but not where the scheme decides."""
    gold, predicted = [["O", "B-A", "I-A"]], [["O", "I-A", "I-A"]]
    assert score_spans(gold, predicted).f1 == 1
    assert score_spans(gold, predicted, BIO).f1 == 0
    assert score_spans(gold, predicted, BIO(["A"])).f1 == 0
    with pytest.raises(ValueError, match="'B-A'"):
        score_spans(gold, predicted, BIO(["B"]))
    with pytest.raises(ValueError, match="'S-A'"):
        score_spans([["S-A"]], [["I-A"]], BIOES(["B"]))


def test_what_is_no_scheme():
    with pytest.raises(TypeError, match="scheme='BIO'"):
        score_spans(GOLD, PREDICTED, "BIO")


def test_two_schemes():
    assert score_spans([["B-A", "I-A", "O"]], [["B-A", "E-A", "O"]]).f1 == 1


# `classification_report(gold, predicted, mode="strict", scheme=…, digits=4)` of seqeval 1.2.2,
# for tags drawn at random.
SEQEVAL = [
    (
        BIO,
        "O B-B I-B B-A B-B I-B B-B B-B I-B|O O B-B I-B B-B I-B B-B",
        "O B-A I-B I-B B-B I-B B-B B-B O|B-A O B-B I-B B-B I-B B-B",
        {
            "A": (0.0000, 0.0000, 0.0000, 1),
            "B": (0.8333, 0.7143, 0.7692, 7),
            "micro": (0.6250, 0.6250, 0.6250, 8),
            "macro": (0.4167, 0.3571, 0.3846, 8),
            "weighted": (0.7292, 0.6250, 0.6731, 8),
        },
    ),
    (
        BIOES,
        "B-B E-B B-B I-B E-B B-A E-A B-A E-A|O B-A E-A O O S-B S-A",
        "B-B E-B B-B I-B E-B B-A E-A S-A E-A|O B-A E-A O O S-A S-A",
        {
            "A": (0.6000, 0.7500, 0.6667, 4),
            "B": (1.0000, 0.6667, 0.8000, 3),
            "micro": (0.7143, 0.7143, 0.7143, 7),
            "macro": (0.8000, 0.7083, 0.7333, 7),
            "weighted": (0.7714, 0.7143, 0.7238, 7),
        },
    ),
    (
        IOE2,
        "I-A E-A O E-A I-B E-B O O E-B|I-A I-A E-A I-B E-B I-B E-B",
        "I-B E-A I-B E-A I-B E-B O E-B E-B|I-A I-A E-A I-B E-B I-B E-B",
        {
            "A": (0.6667, 0.6667, 0.6667, 3),
            "B": (0.8000, 1.0000, 0.8889, 4),
            "micro": (0.7500, 0.8571, 0.8000, 7),
            "macro": (0.7333, 0.8333, 0.7778, 7),
            "weighted": (0.7429, 0.8571, 0.7937, 7),
        },
    ),
    (
        BILOU,
        "B-B L-B B-B L-B U-A U-B O B-B L-B|B-A L-A B-A L-A O B-A L-A",
        "B-B L-B B-B U-A U-A U-B O B-B L-B|B-A L-A B-A L-B I-A B-A L-A",
        {
            "A": (0.7500, 0.7500, 0.7500, 4),
            "B": (1.0000, 0.7500, 0.8571, 4),
            "micro": (0.8571, 0.7500, 0.8000, 8),
            "macro": (0.8750, 0.7500, 0.8036, 8),
            "weighted": (0.8750, 0.7500, 0.8036, 8),
        },
    ),
]


@pytest.mark.parametrize(("kind", "gold", "predicted", "rows"), SEQEVAL)
def test_as_seqeval_once_reported(kind, gold, predicted, rows):
    sides = [[x.split() for x in side.split("|")] for side in (gold, predicted)]
    score = score_spans(*sides, kind)
    found = score.types | {name: getattr(score, name) for name in ("micro", "macro", "weighted")}
    assert set(found) == set(rows)
    for name, row in rows.items():
        x = found[name]
        assert (x.precision, x.recall, x.f1, x.support) == pytest.approx(row, abs=1e-4)


def test_nothing_to_score():
    for sides in (([], []), ([[]], [[]]), ([["O"]], [["O"]])):
        score = score_spans(*sides)
        assert not score.types
        assert {score.f1, score.macro.f1, score.weighted.recall, score.micro.support} == {0}
        assert str(score).splitlines()[1].startswith("micro average")


spans = st.lists(
    st.builds(Span, st.sampled_from("AB"), st.integers(0, 3), st.integers(4, 5)), unique=True
)


@given(st.lists(st.tuples(spans, spans), max_size=4))
def test_swapping_the_sides_swaps_precision_and_recall(sentences):
    gold, predicted = [a for a, _ in sentences], [b for _, b in sentences]
    there, back = score_spans(gold, predicted), score_spans(predicted, gold)
    assert there.types.keys() == back.types.keys()
    for x, y in [(there.micro, back.micro), (there.macro, back.macro)]:
        assert (x.precision, x.recall, x.f1) == pytest.approx((y.recall, y.precision, y.f1))
    if any(gold):
        # Weighted by the true spans, recall is that of all of them.
        assert there.weighted.recall == pytest.approx(there.recall)


def test_text_is_a_table():
    lines = str(score_spans([["B", "O"]] * 1234, [["B", "B"]] * 1234)).splitlines()
    assert lines[0].split() == ["precision", "recall", "F1", "spans"]
    assert lines[1].split() == ["(no", "type)", "0.5000", "1.0000", "0.6667", "1,234"]
    assert [line[:16].strip() for line in lines[3:]] == [
        "micro average",
        "macro average",
        "weighted average",
    ]
    assert len({len(line) for line in lines if line}) == 1


def test_dictionary_is_fit_for_json():
    score = score_spans(GOLD, PREDICTED)
    values = json.loads(json.dumps(score.to_dict()))
    assert list(values) == ["micro", "macro", "weighted", "types"]
    assert values["types"]["C"] == {"precision": 0, "recall": 0, "f1": 0, "support": 0}
    assert values["micro"]["f1"] == score.f1


@pytest.mark.parametrize(
    ("gold", "predicted", "error", "message"),
    [
        ([["O"]], [], ValueError, "1 gold and 0 predicted sentences"),
        (
            [["O"], ["O", "O"]],
            [["O"], ["O"]],
            ValueError,
            "2 gold and 1 predicted tags in sentence 2",
        ),
        ([["O"], ["O"]], [["O"], []], ValueError, "1 gold and 0 predicted tags in sentence 2"),
        (["O"], [["O"]], TypeError, "gold sentence 1 is 'O'"),
        ([["O"]], [[("A", 0)]], TypeError, "predicted sentence 1 is"),
        ([["O"]], [[0]], TypeError, "predicted sentence 1 is"),
        ([["O", ("A", 0, 1)]], [["O"]], TypeError, "gold sentence 1 is"),
        ([["NOUN"]], [["O"]], ValueError, "NOUN"),
    ],
)
def test_refused(gold, predicted, error, message):
    with pytest.raises(error, match=message):
        score_spans(gold, predicted)
