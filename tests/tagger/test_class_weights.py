"""Weights of classes: which labels they reach, what they do to the loss, and what is learned."""

import json

import keras
import numpy as np
import pytest
from keras import ops

import drawn
from covering import chosen
from finegrain.crf.potentials import pack
from finegrain.losses import CRFNegativeLogLikelihood
from finegrain.tagger.class_weights import WeightedLikelihood, label_weights
from finegrain.tagger.tasks import get_task
from finegrain.tagging import Segmenter, Tagger
from oracle import EnumeratedChain, log_sum_exp

one_backend = pytest.mark.one_backend
numpy = ops.convert_to_numpy
random = drawn.generator(0)
WEIGHTS = [0.25, 0.0, 3.0]
EMISSIONS = random.normal(size=(4, 3, 3)).astype("float32")
TRANSITIONS = random.normal(size=(3, 3)).astype("float32")
START, END = random.normal(size=(2, 3)).astype("float32")
# Of four sequences one is short, and one has no tags, as an empty row of a batch.
TAGS = np.array([[0, 1, 2], [2, 2, -1], [1, 1, 0], [-1, -1, -1]])
MASK = TAGS >= 0
NONE = np.zeros(3, "float32")


def potentials(chain, mask=MASK, emissions=EMISSIONS):
    shared = (TRANSITIONS, START, END) if chain else (np.zeros((3, 3), "float32"), NONE, NONE)
    return pack(*map(ops.convert_to_tensor, (emissions, *shared, mask)))


def expected(per):
    """The losses of the four sequences, by enumeration, or a softmax in float64 at each place."""
    result = []
    for emissions, tags, mask in zip(EMISSIONS, TAGS, MASK, strict=True):
        if per == "tag":
            pairs = zip(emissions[mask], tags[mask], strict=True)
            result.append(sum(WEIGHTS[tag] * (log_sum_exp(e) - float(e[tag])) for e, tag in pairs))
            continue
        weights = [WEIGHTS[tag] for tag in tags if tag >= 0]
        chain = EnumeratedChain(emissions, TRANSITIONS, START, END, mask)
        result.append(-chain.log_prob(tags) * np.mean(weights) if weights else 0.0)
    return np.array(result)


# The loss.


@pytest.mark.parametrize("per", ["tag", "sequence"])
def test_losses(per):
    loss = WeightedLikelihood(WEIGHTS, per, reduction=None)
    found = numpy(loss(TAGS, potentials(per == "sequence")))
    np.testing.assert_allclose(found, expected(per), rtol=1e-5)


@pytest.mark.parametrize("per", ["tag", "sequence"])
def test_the_mean_is_over_the_sequences(per):
    """Neither the weights of their tags nor empty rows change what it is divided by."""
    loss = WeightedLikelihood(WEIGHTS, per)
    rows = np.array([1, 1, 1, 0], "float32")
    found = float(numpy(loss(TAGS, potentials(per == "sequence"), rows)))
    assert found == pytest.approx(expected(per)[:3].mean(), rel=1e-5)


@pytest.mark.parametrize("per", ["tag", "sequence"])
def test_padding_does_not_count(per):
    """Whether it is masked, or only has no tag; and whatever is in it."""
    longer = np.concatenate([EMISSIONS, 50 * random.normal(size=(4, 2, 3))], axis=1)
    tags = np.pad(TAGS, ((0, 0), (0, 2)), constant_values=-1)
    for mask in (tags >= 0, np.ones(tags.shape, bool)):
        parts = potentials(per == "sequence", mask, longer.astype("float32"))
        found = numpy(WeightedLikelihood(WEIGHTS, per, reduction=None)(tags, parts))
        np.testing.assert_allclose(found, expected(per), rtol=1e-5)


@pytest.mark.parametrize("per", ["tag", "sequence"])
def test_weights_of_one_change_nothing(per):
    parts = potentials(per == "sequence")
    found = numpy(WeightedLikelihood([1, 1, 1], per, reduction=None)(TAGS, parts))
    same = numpy(CRFNegativeLogLikelihood(reduction=None)(TAGS, parts))
    np.testing.assert_allclose(found, same, rtol=1e-5, atol=1e-6)


@one_backend
def test_its_config():
    """A model that was compiled with it can be opened, and goes on with the same loss."""
    loss = WeightedLikelihood(WEIGHTS, "tag")
    config = json.loads(json.dumps(keras.saving.serialize_keras_object(loss)))
    again = keras.saving.deserialize_keras_object(config)
    assert again.get_config() == loss.get_config()
    assert (again.weights, again.per) == (WEIGHTS, "tag")
    assert again.reduction == "mean_with_sample_weight"


# What is learned.

# A word of which three in ten are B: at 3.5 times the weight they are the most, 10.5 to 7.
WORD = [(["x"], ["A"])] * 7 + [(["x"], ["B"])] * 3


@pytest.mark.full
@pytest.mark.parametrize("crf", [True, False])
@pytest.mark.parametrize(
    ("weights", "share"),
    [pytest.param(None, 0.3, marks=pytest.mark.full), ({"B": 3.5}, 0.6)],
)
def test_what_a_word_is_taken_for(crf, weights, share):
    """Its probability is the weighted share of its label."""
    rates = {"learning_rate": 0.1, "crf_learning_rate_multiplier": 1.0}
    tagger = Tagger("labels", "cnn", width=4, dropout=0.0, crf=crf, **rates, seed=0)
    options = {"validation": WORD, "epochs": 10, "patience": 10, "batch_size": 100, "verbose": 0}
    # The last epoch, not the most accurate: the first would do for that.
    last = []
    noting = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: last.append(tagger.analyze(["x"]).marginals[0])
    )
    tagger.fit(WORD * 40, class_weight=weights, callbacks=[noting], **options)
    assert last[-1].tolist() == pytest.approx([1 - share, share], abs=0.05)


SENTENCES = [
    (["Ada", "met", "Bob"], ["B-PER", "O", "B-PER"]),
    (["in", "New", "York"], ["O", "B-LOC", "I-LOC"]),
    (["it", "rained", "there"], ["O", "O", "O"]),
] * 8
SMALL = {"encoder": "cnn", "width": 8, "learning_rate": 0.02, "dropout": 0.1, "seed": 0}
FIT = {"validation": SENTENCES[:3], "epochs": 3, "patience": 3, "batch_size": 7, "verbose": 0}


@pytest.mark.full
@pytest.mark.parametrize("crf", [True, False])
def test_a_batch_that_weighs_nothing(crf):
    """It moves nothing to a number that is none, and an epoch that has others learns."""
    losses = []
    noting = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: losses.append(logs["loss"])
    )
    tagger = Tagger("spans", **SMALL, crf=crf)
    options = FIT | {"batch_size": 1, "epochs": 1, "callbacks": [noting]}
    tagger.fit(SENTENCES[:6], class_weight={"O": 0, "LOC": 0, "B-PER": 2}, **options)
    assert np.isfinite(losses).all()
    assert losses[-1] > 0


class Killed(Exception):
    """Ends a training at once."""


def kill(epoch, logs):
    if epoch == 2:
        raise Killed


@pytest.mark.full
@pytest.mark.parametrize("crf", chosen([True, False], [False]))
def test_a_training_that_was_killed_goes_on(crf, tmp_path):
    """With the same weights of classes, bit by bit; with others it begins anew."""
    options = {"corpus": SENTENCES, "class_weight": {"O": 0.3}, **FIT}
    whole = Tagger("spans", **SMALL, crf=crf).fit(**options)
    killing = keras.callbacks.LambdaCallback(on_epoch_begin=kill)
    options["save_to"] = tmp_path / "names.keras"
    with pytest.raises(Killed):
        Tagger("spans", **SMALL, crf=crf).fit(**options, callbacks=[killing])
    with pytest.raises(ValueError, match="no training of this corpus with these options"):
        Tagger("spans", **SMALL, crf=crf).fit(**options | {"class_weight": None}, resume=True)
    resumed = Tagger("spans", **SMALL, crf=crf).fit(**options, resume=True)
    for one, other in zip(resumed.model.weights, whole.model.weights, strict=True):
        np.testing.assert_array_equal(numpy(one.value), numpy(other.value))
    loaded = Tagger.load(tmp_path / "names.keras")
    assert loaded.tag(["Ada", "met"]) == resumed.tag(["Ada", "met"])
    # A tagger that has a model goes on from it with weights, too, and knows which head it has.
    loaded.fit(SENTENCES, class_weight={"PER": 2}, **FIT)
    assert loaded.model.loss.per == ("sequence" if crf else "tag")


@one_backend
def test_the_segmenter_weighs_the_tags_of_characters():
    corpus = [["the", "cat"], ["a", "dog"], ["the", "dog"], ["a", "cat"]] * 5
    segmenter = Segmenter(width=8, seed=0)
    segmenter.fit(corpus, validation=corpus[:4], epochs=1, verbose=0, class_weight={"m": 2})
    assert segmenter.model.loss.weights == [1, 1, 2, 1]
    with pytest.raises(ValueError, match=r"They are s, b, m, e\. Received: 'x'"):
        segmenter.fit(corpus, class_weight={"x": 2})


# Which labels they reach.


@pytest.fixture
def task():
    return get_task("spans", "BIO", ["O", "B-LOC", "I-LOC", "B-PER", "I-PER"])


@one_backend
@pytest.mark.parametrize(
    ("class_weight", "weights"),
    [
        ({}, [1, 1, 1, 1, 1]),
        ({"O": 0.5}, [0.5, 1, 1, 1, 1]),
        ({"LOC": np.float32(2)}, [1, 2, 2, 1, 1]),
        ({"B-LOC": 3, "LOC": 2, "I-PER": 0}, [1, 3, 2, 1, 0]),
        ({"LOC": 0, "I-LOC": 1}, [1, 0, 1, 1, 1]),
    ],
)
def test_by_label_and_by_type(task, class_weight, weights):
    """The number of a label goes before that of its type."""
    assert label_weights(class_weight, task, task.read(SENTENCES)) == weights


@one_backend
def test_a_type_that_is_called_like_a_label():
    """O is the label; the tags of a type of that name are weighed by theirs."""
    task = get_task("spans", "BIO", ["O", "B-O", "I-O"])
    examples = task.read([(["a", "b"], ["O", "B-O"])])
    assert label_weights({"O": 0.5, "B-O": 2}, task, examples)[:2] == [0.5, 2]
    assert label_weights({"O": 0.5}, task, examples)[:2] == [0.5, 1]


@one_backend
@pytest.mark.parametrize(
    ("class_weight", "error", "match"),
    [
        ({"ORG": 2}, ValueError, r"They are O, B-LOC, .*, their types LOC, PER\. .*'ORG'"),
        ({0: 2.0}, ValueError, r"They are O, .*Received: 0"),
        ({"O": -1}, ValueError, r"`class_weight\['O'\]` should be a finite number >= 0.*-1"),
        ({"O": float("nan")}, ValueError, r"class_weight\['O'\]=nan"),
        ({"O": float("inf")}, ValueError, r"class_weight\['O'\]=inf"),
        ({"O": "1"}, TypeError, r"class_weight\['O'\]='1'"),
        ({"O": True}, TypeError, r"class_weight\['O'\]=True"),
        ([1.0, 2.0], TypeError, r"should be a dictionary.*Received: class_weight=\[1"),
        ("balanced", TypeError, r"should be a dictionary.*'balanced'"),
        ({"O": 0, "LOC": 0, "B-PER": 0}, ValueError, "should weigh more than 0"),
    ],
)
def test_what_is_refused(class_weight, error, match):
    """Before there is a model; that I-PER, which the corpus lacks, weighs 1 is no help."""
    tagger = Tagger("spans", **SMALL)
    with pytest.raises(error, match=match):
        tagger.fit(SENTENCES, class_weight=class_weight, **FIT)
    with pytest.raises(ValueError, match="no model yet"):
        tagger.tag(["Ada"])


@one_backend
def test_labels_have_no_types():
    with pytest.raises(ValueError, match=r"They are A, B\. Received: 'C'"):
        Tagger("labels").fit(WORD, class_weight={"C": 1}, validation=WORD, verbose=0)
