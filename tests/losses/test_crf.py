"""The negative log-likelihood: by hand, and as a loss among Keras's own."""

import json

import keras
import numpy as np
import pytest
from keras import ops

import finegrain as fg
from crf.models import TAGS, WORDS, tagger, task
from finegrain.crf.potentials import pack, unpack
from finegrain.layers import CRF
from finegrain.losses import CRFNegativeLogLikelihood
from finegrain.metrics import ViterbiAccuracy
from oracle import EnumeratedChain

numpy = ops.convert_to_numpy
random = np.random.default_rng(0)
EMISSIONS = np.array([[[1, 0], [0, 2], [3, 0]], [[0, 1], [0, 0], [5, 5]]], "float32")
TRANSITIONS = np.array([[0, 1], [2, 0]], "float32")
START, END = np.array([1, 0], "float32"), np.array([0, 1], "float32")


def potentials(mask=((1, 1, 1), (1, 1, 1))):
    mask = np.array(mask, bool)
    return pack(*map(ops.convert_to_tensor, (EMISSIONS, TRANSITIONS, START, END, mask)))


def enumerated(tags, mask):
    """The oracle's losses of the two examples."""
    rows = zip(EMISSIONS, mask, tags, strict=True)
    chains = ((EnumeratedChain(e, TRANSITIONS, START, END, m), t) for e, m, t in rows)
    return np.array([-chain.log_prob(t) for chain, t in chains])


def test_by_hand():
    """Two positions, two tags: four sequences, written out."""
    mask = [[1, 1, 0], [0, 0, 0]]
    # start + emission + transition + emission + end of the tags 00, 01, 10, 11
    scores = np.array([1 + 1 + 0 + 0 + 0, 1 + 1 + 1 + 2 + 1, 0 + 0 + 2 + 0 + 0, 0 + 0 + 0 + 2 + 1])
    expected = np.log(np.exp(scores).sum()) - scores[1]
    tags = np.array([[0, 1, 0], [0, 0, 0]])
    loss = numpy(CRFNegativeLogLikelihood(reduction=None)(tags, potentials(mask)))
    np.testing.assert_allclose(loss, [expected, 0], rtol=1e-5)


@pytest.mark.parametrize(
    ("per", "reduction"),
    [
        ("sequence", "sum_over_batch_size"),
        ("sequence", None),
        ("tag", None),
        ("tag", "sum"),
        ("batch_tag", "sum_over_batch_size"),
    ],
)
def test_per_and_reduction(per, reduction):
    """By sequence or by its number of tags; over the batch as in every Keras loss."""
    mask = np.array([[1, 1, 1], [1, 1, 0]], bool)
    tags = np.array([[0, 1, 1], [1, 0, 0]])
    expected = enumerated(tags, mask) / {"sequence": 1, "tag": [3, 2], "batch_tag": 5 / 2}[per]
    if reduction is not None:
        expected = expected.sum() if reduction == "sum" else expected.mean()
    loss = CRFNegativeLogLikelihood(per, reduction=reduction)(tags, potentials(mask))
    np.testing.assert_allclose(numpy(loss), expected, rtol=1e-5)


def test_sample_weight():
    """Sample weights multiply the sequences' losses."""
    tags, mask = np.array([[0, 1, 1], [1, 0, 0]]), np.ones((2, 3), bool)
    loss = CRFNegativeLogLikelihood(reduction="sum")
    weighted = loss(tags, potentials(), sample_weight=np.array([0.5, 2.0]))
    np.testing.assert_allclose(numpy(weighted), enumerated(tags, mask) @ [0.5, 2.0], rtol=1e-5)


@pytest.mark.parametrize("negative", [-1, -100])
def test_negative_tags_are_left_out(negative):
    """A position with a negative tag is as good as masked, in the chain and in the count."""
    tags = np.array([[0, negative, 1], [negative, negative, negative]])
    mask = tags >= 0
    loss = CRFNegativeLogLikelihood("tag", reduction=None)
    found = numpy(loss(tags, potentials()))
    np.testing.assert_array_equal(found, numpy(loss(np.abs(tags) % 2, potentials(mask))))
    np.testing.assert_allclose(found, [enumerated(tags, mask)[0] / 2, 0], rtol=1e-5)


def test_nan_at_negative_tags():
    """Scores where there is no tag do not matter, NaN included."""
    tags = np.array([[0, -100, 1], [1, 0, -1]])
    plain = numpy(potentials())
    spoiled = plain.copy()
    spoiled[:, :3, :2][tags < 0] = np.nan
    loss = CRFNegativeLogLikelihood()
    found = numpy(loss(tags, ops.convert_to_tensor(spoiled)))
    assert np.isfinite(found)
    assert found == numpy(loss(tags, ops.convert_to_tensor(plain)))


@pytest.mark.parametrize(
    ("dtype", "shape"), [("int64", (2, 3)), ("uint8", (2, 3, 1)), ("float32", (2, 3))]
)
def test_forms_of_tags(dtype, shape):
    """Tags of any number type, also with a last axis of one."""
    tags = np.array([[0, 1, 1], [1, 0, 0]])
    found = numpy(CRFNegativeLogLikelihood()(tags.astype(dtype).reshape(shape), potentials()))
    expected = enumerated(tags, np.ones((2, 3), bool)).mean()
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_config_round_trip():
    """The configuration is JSON and keeps every argument."""
    loss = CRFNegativeLogLikelihood("tag", reduction="sum", name="nll")
    config = json.loads(json.dumps(keras.losses.serialize(loss)))
    assert config["registered_name"] == "finegrain>CRFNegativeLogLikelihood"
    again = keras.losses.deserialize(config)
    assert isinstance(again, CRFNegativeLogLikelihood)
    assert again.get_config() == loss.get_config()
    assert (again.per, again.reduction, again.name) == ("tag", "sum", "nll")


@pytest.mark.parametrize("per", ["token", None, 1])
def test_wrong_per(per):
    """`per` is one of three words."""
    with pytest.raises(ValueError, match=r"`per` should be .* 'batch_tag'\. Received: per="):
        CRFNegativeLogLikelihood(per)


def test_wrong_shape_of_tags():
    """Tags of another length are refused with both shapes."""
    with pytest.raises(ValueError, match=r"should have shape \(batch, time\).*\(2, 3\).*\(2, 4\)"):
        CRFNegativeLogLikelihood()(np.zeros((2, 4), "int32"), potentials())


def test_probabilities_of_a_softmax_are_refused():
    """A model without a CRF layer is told what is missing."""
    with pytest.raises(ValueError, match=r"Is that layer the last one of the model\?"):
        CRFNegativeLogLikelihood()(np.zeros((2, 3), "int32"), np.zeros((2, 3, 4), "float32"))


def compiled(model):
    optimizer = fg.PerWeight("adam", [fg.Rule("crf", learning_rate_multiplier=100)])
    metrics = [ViterbiAccuracy()]
    model.compile(optimizer, loss=CRFNegativeLogLikelihood(), metrics=metrics)
    return model


def test_a_tagger_from_fit_to_fit(tmp_path):
    """The documentation's model learns, evaluates, predicts, decodes, saves, loads, goes on."""
    tokens, tags = task(64)
    model = compiled(tagger())
    history = model.fit(tokens, tags, batch_size=16, epochs=8, verbose=0).history
    assert history["loss"][-1] < 0.9 * history["loss"][0]
    assert history["viterbi_accuracy"][-1] > history["viterbi_accuracy"][0]
    loss, accuracy = model.evaluate(tokens, tags, batch_size=32, verbose=0)
    assert loss < history["loss"][0]

    predicted = model.predict(tokens, batch_size=32, verbose=0)
    found = numpy(fg.crf.decode(predicted))
    np.testing.assert_array_equal(found == -1, tokens == 0)
    assert accuracy == pytest.approx((found == tags)[tokens > 0].mean(), abs=1e-6)
    by_chain = -numpy(fg.crf.LinearChain.from_potentials(predicted).log_prob(tags)).mean()
    assert loss == pytest.approx(by_chain, rel=1e-4)

    model.save(tmp_path / "tagger.keras")
    again = keras.models.load_model(tmp_path / "tagger.keras")
    np.testing.assert_allclose(again.predict(tokens, verbose=0), predicted, atol=1e-5)
    options = {"batch_size": 16, "shuffle": False, "verbose": 0}
    ours = again.fit(tokens, tags, **options).history["loss"]
    assert ours == pytest.approx(model.fit(tokens, tags, **options).history["loss"], rel=1e-3)


def test_sample_weight_in_fit():
    """Sequences of weight 0 do not train: the model ends where it ends without them."""
    tokens, tags = task(8)
    weights = np.array([1.0, 0.0] * 4, "float32")
    model = sequential()
    model.compile("sgd", CRFNegativeLogLikelihood())
    model.build((None, 6))
    before = model.get_weights()
    ends = []
    for data in [
        (tokens, tags, weights),
        (tokens, np.where(weights[:, None] > 0, tags, 0), weights),
    ]:
        model.set_weights(before)
        model.fit(data[0], data[1], sample_weight=data[2], batch_size=8, verbose=0)
        ends.append(model.get_weights())
    assert not np.array_equal(ends[0][0], before[0])
    for one, other in zip(*ends, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


def test_one_of_two_outputs():
    """Beside another output with a loss of its own, with weights between the two."""
    tokens, tags = task(16)
    counts = (tokens > 0).sum(1, keepdims=True).astype("float32")
    inputs = keras.Input((None,), dtype="int32")
    hidden = keras.layers.Embedding(WORDS + 1, 4, mask_zero=True)(inputs)
    length = keras.layers.Dense(1, name="length")(keras.layers.GlobalAveragePooling1D()(hidden))
    model = keras.Model(inputs, {"tags": CRF(TAGS, name="tags")(hidden), "length": length})
    model.compile(
        "sgd",
        loss={"tags": CRFNegativeLogLikelihood("tag"), "length": "mse"},
        loss_weights={"tags": 2.0, "length": 0.5},
        metrics={"tags": [ViterbiAccuracy()]},
    )
    targets = {"tags": tags, "length": counts}
    model.fit(tokens, targets, batch_size=8, verbose=0)
    results = model.evaluate(tokens, targets, batch_size=8, verbose=0, return_dict=True)
    assert 0 <= results["tags_viterbi_accuracy"] <= 1
    total = 2.0 * results["tags_loss"] + 0.5 * results["length_loss"]
    assert results["loss"] == pytest.approx(total, rel=1e-4)
    alone = CRFNegativeLogLikelihood("tag")(tags, model.predict(tokens, verbose=0)["tags"])
    assert results["tags_loss"] == pytest.approx(float(numpy(alone)), rel=1e-4)


@keras.saving.register_keras_serializable(package="finegrain_tests")
class Subclassed(keras.Model):
    """A model that is not a graph of layers."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.embedding = keras.layers.Embedding(WORDS + 1, 4, mask_zero=True)
        self.crf = CRF(TAGS)

    def call(self, tokens):
        return self.crf(self.embedding(tokens))


def sequential():
    embedding = keras.layers.Embedding(WORDS + 1, 4, mask_zero=True)
    return keras.Sequential([embedding, CRF(TAGS, name="crf")])


@pytest.mark.parametrize("make", [Subclassed, sequential])
def test_other_kinds_of_models(make, tmp_path):
    """Subclassed and Sequential models hand the mask on, train, save and load."""
    tokens, tags = task(12)
    model = compiled(make())
    model.fit(tokens, tags, batch_size=6, verbose=0)
    predicted = model.predict(tokens, batch_size=8, verbose=0)
    np.testing.assert_array_equal(numpy(unpack(predicted).mask), tokens > 0)
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(again.predict(tokens, verbose=0), predicted, atol=1e-5)


def test_batches_of_several_lengths():
    """Each batch may have a length of its own."""

    class Batches(keras.utils.PyDataset):
        def __len__(self):
            return 2

        def __getitem__(self, index):
            return task(4, time=4 + index)

    model = sequential()
    model.compile("sgd", CRFNegativeLogLikelihood(reduction="sum"))
    before = [CRFNegativeLogLikelihood(reduction="sum")(y, model(x)) for x, y in Batches()]
    results = model.evaluate(Batches(), verbose=0)
    assert results == pytest.approx(np.mean([numpy(loss) for loss in before]), rel=1e-4)
    assert np.isfinite(model.fit(Batches(), verbose=0).history["loss"]).all()


def test_tags_outside_the_range():
    """Refused where values are known; NaN, which moves nothing, in a compiled step."""
    tags = np.array([[0, 1, 1], [1, 2, 0]])
    loss = CRFNegativeLogLikelihood(reduction=None)
    with pytest.raises(ValueError, match=r"in \[0, 2\).*tags\[1, 1\]=2"):
        loss(tags, potentials())
    if keras.backend.backend() == "torch":
        return
    rows = traced(lambda scores: loss(tags, scores))(potentials())
    np.testing.assert_array_equal(np.isnan(numpy(rows)), [False, True])
    first = enumerated([[0, 1, 1], [1, 0, 0]], np.ones((2, 3), bool))[0]
    np.testing.assert_allclose(numpy(rows)[0], first, rtol=1e-5)


def traced(function):
    """The function under the backend's compiler."""
    if keras.backend.backend() == "jax":
        import jax

        return jax.jit(function)
    import tensorflow as tf

    return tf.function(function)
