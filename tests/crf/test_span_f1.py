"""The F1 of spans: counted over batches as seqeval counts strictly."""

import re

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import drawn
import finegrain as fg
from finegrain.tagging import BIO, BIOES, BMES, IOB1, IOE2, score_spans

SCHEMES = {"BIO": BIO(["A", "B"]), "BIOES": BIOES(["A", "B"]), "BMES": BMES()}
SCHEMES |= {"IOB1": IOB1(["A", "B"]), "IOE2": IOE2(["A", "B"])}
every_scheme = pytest.mark.parametrize("name", SCHEMES)


def draw(scheme, seed, batches=3, shape=(5, 7)):
    """True tags, some unknown, and tags that are often the same."""
    random = drawn.generator(seed)
    count = len(scheme.labels)
    for _ in range(batches):
        true = random.integers(-1, count, shape)
        other = random.integers(0, count, shape)
        found = np.where(random.random(shape) < 0.7, np.maximum(true, 0), other)
        found = np.where(random.random(shape) < 0.1, -1, found)
        yield true.astype("int32"), found.astype("int32")


def spans(scheme, tags):
    return set(scheme.spans.read(tags))


def by_hand(scheme, batches, average):
    """The F1 by sets of spans, over the positions that count, put together."""
    types = range(len(scheme.types))
    right, true, found = (np.zeros(len(types)) for _ in range(3))
    for batch in batches:
        for y_true, y_found in zip(*batch, strict=True):
            counted = (y_true >= 0) & (y_found >= 0)
            a, b = spans(scheme, y_true[counted]), spans(scheme, y_found[counted])
            for sums, group in ((right, a & b), (true, a), (found, b)):
                sums += [sum(kind == t for kind, *_ in group) for t in types]
    if average == "micro":
        total = true.sum() + found.sum()
        return 2 * right.sum() / total if total else 0.0
    present = true + found > 0
    weights = true[present] if average == "weighted" else np.ones(present.sum())
    of_types = 2 * right[present] / (true + found)[present]
    return np.average(of_types, weights=weights) if weights.any() else 0.0


@pytest.mark.full
@every_scheme
@pytest.mark.parametrize("average", ["micro", "macro", "weighted"])
@settings(max_examples=10)
@given(seed=st.integers(0, 10**6))
def test_counts_over_batches(name, average, seed):
    scheme = SCHEMES[name]
    batches = list(draw(scheme, seed))
    metric = fg.metrics.SpanF1(scheme, average)
    for true, found in batches:
        metric.update_state(true, found)
    result = keras.ops.convert_to_numpy(metric.result())
    np.testing.assert_allclose(result, by_hand(scheme, batches, average), rtol=1e-6)


@pytest.mark.parametrize("name", ["BIO", "BIOES", "IOE2"])
@pytest.mark.parametrize("average", ["micro", "macro", "weighted"])
def test_as_seqeval(name, average):
    seqeval = pytest.importorskip("seqeval.metrics")
    schemes = pytest.importorskip("seqeval.scheme")
    scheme = SCHEMES[name]
    kind = {"BIO": schemes.IOB2, "BIOES": schemes.IOBES, "IOE2": schemes.IOE2}[name]
    metric = fg.metrics.SpanF1(scheme, average)
    truth, finds = [], []
    for true, found in draw(scheme, 0, batches=6):
        metric.update_state(true, found)
        for a, b in zip(true, found, strict=True):
            counted = (a >= 0) & (b >= 0)
            truth.append(scheme.to_names(a[counted]))
            finds.append(scheme.to_names(b[counted]))
    options = {"mode": "strict", "scheme": kind}
    expected = seqeval.f1_score(truth, finds, average=average, **options)
    numbers = keras.ops.convert_to_numpy(metric.result())
    np.testing.assert_allclose(numbers, expected, rtol=1e-6)
    if average == "micro":
        precision = seqeval.precision_score(truth, finds, **options)
        recall = seqeval.recall_score(truth, finds, **options)
        found = [keras.ops.convert_to_numpy(x) for x in (metric.precision, metric.recall)]
        np.testing.assert_allclose(found, [precision, recall], rtol=1e-6)


def test_by_hand():
    """Right, wrong end, wrong type, missed, invented."""
    scheme = SCHEMES["BIO"]
    true = scheme.to_ids(["B-A", "I-A", "O", "B-A", "I-A", "O", "B-B", "O", "B-A", "O", "O"])
    found = scheme.to_ids(["B-A", "I-A", "O", "B-A", "O", "O", "B-A", "O", "O", "O", "B-B"])
    metric = fg.metrics.SpanF1(scheme)
    metric.update_state(true[None], found[None])
    assert float(metric.precision) == pytest.approx(1 / 4)
    assert float(metric.recall) == pytest.approx(1 / 4)
    assert float(metric.result()) == pytest.approx(1 / 4)


def test_report():
    """It is the score of all that was counted, which `score_spans` gives of the tags."""
    scheme = BIO(["B", "A", "never"])
    metric = fg.metrics.SpanF1(scheme, "weighted")
    assert not metric.report().types
    sides = [], []
    for batch in draw(SCHEMES["BIO"], 0):
        metric.update_state(*batch)
        for a, b in zip(*batch, strict=True):
            counted = (a >= 0) & (b >= 0)
            for side, tags in zip(sides, (a, b), strict=True):
                side.append(scheme.to_names(tags[counted]))
    report = metric.report()
    assert report == score_spans(*sides, scheme)
    assert list(report.types) == ["A", "B"]
    assert float(metric.result()) == pytest.approx(report.weighted.f1)
    assert float(metric.precision) == pytest.approx(report.precision)
    metric.reset_state()
    metric.update_state(np.array([[1, 0]]), np.array([[1, 0]]), sample_weight=np.array([0.5]))
    assert metric.report().types["B"].support == 0.5
    assert "0.50" in str(metric.report())


@pytest.mark.full
def test_span_across_what_does_not_count():
    """Later pieces of a word, whose true tag is −100, neither part a span nor lengthen it."""
    scheme = SCHEMES["BIO"]
    true = np.array([[1, -100, 2, 0]], "int32")
    metric = fg.metrics.SpanF1(scheme)
    metric.update_state(true, np.array([[1, 4, 2, 0]], "int32"))
    assert float(metric.result()) == 1.0


@pytest.mark.full
def test_nothing_counts_as_zero():
    metric = fg.metrics.SpanF1(SCHEMES["BIO"], "macro")
    assert float(metric.result()) == 0.0
    metric.update_state(np.zeros((0, 4), "int32"), np.zeros((0, 4), "int32"))
    metric.update_state(np.zeros((2, 3), "int32"), np.zeros((2, 3), "int32"))
    assert float(metric.result()) == 0.0
    assert float(metric.precision) == 0.0


def test_weights():
    scheme = SCHEMES["BIO"]
    true, found = np.array([[1, 2], [1, 2]]), np.array([[1, 2], [1, 0]])
    metric = fg.metrics.SpanF1(scheme)
    metric.update_state(true, found, sample_weight=np.array([3.0, 1.0]))
    assert float(metric.result()) == 0.75
    metric.update_state(true, found, sample_weight=np.array([[3.0], [1.0]]))
    assert float(metric.result()) == 0.75
    for shape in [(2, 2), (1,), (3,)]:
        with pytest.raises(ValueError, match=rf"\(batch,\), here \(2,\).*{re.escape(str(shape))}"):
            metric.update_state(true, found, sample_weight=np.ones(shape))


@pytest.mark.parametrize(
    ("arguments", "received"),
    [
        ({"scheme": "BIO"}, "'BIO'"),
        ({"scheme": SCHEMES["BIO"], "average": "samples"}, "'samples'"),
    ],
)
def test_refused(arguments, received):
    with pytest.raises(ValueError, match=received):
        fg.metrics.SpanF1(**arguments)


def test_shapes_refused():
    with pytest.raises(ValueError, match=r"\(2, 3\)"):
        fg.metrics.SpanF1(SCHEMES["BIO"]).update_state(
            np.zeros((2, 3), "int32"), np.zeros((2, 4), "int32")
        )


@pytest.mark.full
def test_in_a_model_and_through_a_file(tmp_path):
    """Fitted and evaluated in batches of an uneven number, saved and loaded."""
    scheme = SCHEMES["BIOES"]
    random = drawn.generator(1)
    tokens = random.integers(1, 12, (11, 6))
    tokens[random.random(tokens.shape) < 0.2] = 0
    tags = random.integers(0, len(scheme.labels), tokens.shape)
    inputs = keras.Input((None,), dtype="int32")
    x = keras.layers.Embedding(12, 8, mask_zero=True)(inputs)
    model = keras.Model(inputs, fg.layers.CRF(len(scheme.labels), constraints=scheme)(x))
    loss = fg.losses.CRFNegativeLogLikelihood(on_forbidden="drop")
    model.compile("adam", loss, metrics=[fg.metrics.SpanF1(scheme, "macro")])
    model.fit(tokens, np.where(tokens > 0, tags, -1), batch_size=4, verbose=0)
    score = model.evaluate(tokens, tags, batch_size=4, verbose=0, return_dict=True)["span_f1"]
    found = keras.ops.convert_to_numpy(fg.crf.decode(model.predict(tokens, verbose=0)))
    assert score == pytest.approx(by_hand(scheme, [(tags, found)], "macro"), rel=1e-5)
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    again_score = again.evaluate(tokens, tags, batch_size=4, verbose=0, return_dict=True)["span_f1"]
    assert again_score == pytest.approx(score, rel=1e-6)


def test_configuration():
    """A copy by configuration counts alike."""
    metric = fg.metrics.SpanF1(SCHEMES["BIOES"], "macro", name="entities")
    again = fg.metrics.SpanF1.from_config(metric.get_config())
    assert (again.scheme, again.average, again.name) == (metric.scheme, "macro", "entities")
