"""The negative log-likelihood: by hand, and as a loss among Keras's own."""

import json
import re

import keras
import numpy as np
import pytest
from keras import ops

import drawn
import finegrain as fg
from crf.models import TAGS, WORDS, tagger, task
from finegrain.crf.potentials import pack, unpack
from finegrain.layers import CRF
from finegrain.losses import CRFNegativeLogLikelihood
from finegrain.metrics import ViterbiAccuracy
from oracle import EnumeratedChain

numpy = ops.convert_to_numpy
random = drawn.generator(0)
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
    drop = CRFNegativeLogLikelihood.from_config(loss.get_config() | {"on_forbidden": "drop"})
    assert drop.on_forbidden == drop.get_config()["on_forbidden"] == "drop"
    first_release = {"name": "nll", "reduction": "sum", "per": "tag"}
    assert CRFNegativeLogLikelihood.from_config(first_release).on_forbidden == "raise"


@pytest.mark.parametrize("per", ["token", None, 1])
def test_wrong_per(per):
    """`per` is one of three words."""
    with pytest.raises(ValueError, match=r"`per` should be .* 'batch_tag'\. Received: per="):
        CRFNegativeLogLikelihood(per)


def test_wrong_on_forbidden():
    with pytest.raises(ValueError, match=r"'raise' or 'drop'\. Received: on_forbidden='mask'"):
        CRFNegativeLogLikelihood(on_forbidden="mask")


SQUARE = np.array([[0, 1, 1], [1, 0, 0], [0, 0, 1]])  # batch == time


def square_potentials():
    emissions = ops.convert_to_tensor(np.concatenate([EMISSIONS, EMISSIONS[:1] + 1]))
    mask = ops.ones((3, 3), dtype="bool")
    return pack(emissions, *map(ops.convert_to_tensor, (TRANSITIONS, START, END)), mask)


@pytest.mark.parametrize("shape", [(3, 3), (2,), (2, 1), (1, 3), (3, 1, 1), (1,)])
@pytest.mark.parametrize("per", ["sequence", "tag"])
def test_weights_that_are_not_one_a_sequence(shape, per):
    """Refused with both shapes, also where Keras would apply them by column."""
    for reduction in ("sum_over_batch_size", None):
        loss = CRFNegativeLogLikelihood(per, reduction=reduction)
        message = rf"shape \(batch,\), here \(3,\).*shape={re.escape(str(shape))}"
        with pytest.raises(ValueError, match=message):
            loss(SQUARE, square_potentials(), sample_weight=np.ones(shape))


@pytest.mark.full
@pytest.mark.parametrize("form", [lambda w: w, lambda w: w[:, None], lambda w: list(w)])
def test_forms_of_sample_weight(form):
    """(batch,) and (batch, 1) are the same; a number weighs all."""
    weight = np.array([0.5, 0.0, 2.0])
    rows = CRFNegativeLogLikelihood(reduction=None)
    plain = numpy(rows(SQUARE, square_potentials()))
    found = numpy(rows(SQUARE, square_potentials(), sample_weight=form(weight)))
    np.testing.assert_allclose(found, plain * weight, rtol=1e-6)
    found = numpy(rows(SQUARE, square_potentials(), sample_weight=3.0))
    np.testing.assert_allclose(found, plain * 3, rtol=1e-6)


def test_weights_of_positions_in_fit():
    """Refused while the step is traced, with batch == time."""
    tokens, tags = task(6)
    model = sequential()
    model.compile("sgd", CRFNegativeLogLikelihood())
    with pytest.raises(ValueError, match=r"`sample_weight` should have shape \(batch,\)"):
        model.fit(tokens, tags, sample_weight=np.ones((6, 6)), batch_size=6, verbose=0)


@pytest.mark.full
def test_a_mask_attached_to_the_potentials():
    """That of a layer around the CRF is of positions: it is no weight of sequences."""

    class Around(keras.layers.Layer):
        def __init__(self):
            super().__init__()
            self.supports_masking = True
            self.crf = CRF(TAGS, use_projection=False)

        def call(self, x):
            return self.crf(x)

    scores = random.normal(size=(4, 4, TAGS)).astype("float32")
    mask = np.array([[1, 1, 1, 1], [1, 1, 1, 0], [1, 0, 0, 0], [1, 1, 0, 0]], bool)
    inputs = ops.convert_to_tensor(scores)
    keras.src.backend.set_keras_mask(inputs, ops.convert_to_tensor(mask))
    potentials, tags = Around()(inputs), random.integers(0, TAGS, (4, 4))
    assert keras.src.backend.get_keras_mask(potentials) is not None
    zeros = np.zeros((TAGS, TAGS), "float32")
    chains = (
        EnumeratedChain(e, zeros, zeros[0], zeros[0], m) for e, m in zip(scores, mask, strict=True)
    )
    expected = [-chain.log_prob(row) for chain, row in zip(chains, tags, strict=True)]
    for reduction in (None, "sum_over_batch_size"):
        loss = CRFNegativeLogLikelihood(reduction=reduction)(tags, potentials)
        wanted = expected if reduction is None else np.mean(expected)
        np.testing.assert_allclose(numpy(loss), wanted, rtol=1e-5)


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


@pytest.mark.full
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


@pytest.mark.full
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


@pytest.mark.full
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


@pytest.mark.full
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


FORBIDDEN = np.array([[0, 1], [1, 0]], bool)  # Tags alternate.
LABELS = np.array([[0, 1, 0, 1], [1, 0, 0, -1], [1, -1, 0, 1], [-1, 1, 1, 0]])
POSSIBLE = np.array([True, False, True, False])


def constrained():
    scores = drawn.generator(2).normal(size=(4, 4, 2)).astype("float32")
    return CRF(2, use_projection=False, constraints=FORBIDDEN)(scores)


def test_forbidden_labels_are_named():
    """The row, the position and the tags, and how many rows there are."""
    message = r"2 of the 4 .*tag 0 may not follow tag 0, at position 2.*tags\[1\]=\[1, 0, 0, -1\]"
    with pytest.raises(ValueError, match=message):
        CRFNegativeLogLikelihood()(LABELS, constrained())


@pytest.mark.full
@pytest.mark.parametrize("per", ["sequence", "tag", "batch_tag"])
@pytest.mark.parametrize("reduction", [None, "sum", "mean_with_sample_weight", "mean"])
@pytest.mark.parametrize("weighted", [False, True])
def test_forbidden_labels_are_dropped(per, reduction, weighted):
    """As if these sequences were not in the batch, to every reduction and its weights."""
    weight = np.array([1.0, 2.0, 3.0, 4.0], "float32") if weighted else None
    loss = CRFNegativeLogLikelihood(per, reduction=reduction, on_forbidden="drop")
    found = numpy(loss(LABELS, constrained(), weight))
    others = CRFNegativeLogLikelihood(per, reduction=reduction)
    weight = weight[POSSIBLE] if weighted else None
    expected = numpy(others(LABELS[POSSIBLE], constrained()[POSSIBLE], weight))
    if reduction is None:
        np.testing.assert_array_equal(found[~POSSIBLE], 0)
        found = found[POSSIBLE]
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_nothing_but_forbidden_labels():
    """Dropped, they cost nothing."""
    loss = CRFNegativeLogLikelihood(on_forbidden="drop")
    assert numpy(loss(np.zeros((4, 4), "int32"), constrained())) == 0


@pytest.mark.full
def test_scores_that_are_nan():
    """They are the model's fault, not that of the labels: the loss is NaN."""
    spoiled = np.full((4, 4, 2), np.nan, "float32")
    potentials = CRF(2, use_projection=False, constraints=FORBIDDEN)(spoiled)
    for policy in ("raise", "drop"):
        rows = CRFNegativeLogLikelihood(reduction=None, on_forbidden=policy)
        assert np.isnan(numpy(rows(LABELS[[0]], potentials[:1]))).all()


@pytest.fixture(scope="module")
def alternating():
    """A model of alternating tags for sequences of four."""
    inputs = keras.Input((4,), dtype="int32")
    hidden = keras.layers.Embedding(3, 2)(inputs)
    return keras.Model(inputs, CRF(2, constraints=FORBIDDEN)(hidden))


@pytest.mark.selected("raise")
@pytest.mark.parametrize("policy", ["raise", "drop"])
def test_wrong_labels_in_fit(alternating, policy):
    """Named by the step that meets them, compiled or not; forbidden ones may be dropped."""
    tokens, good = np.ones((4, 4), "int32"), np.tile([0, 1], (4, 2))
    model = keras.models.clone_model(alternating)
    model.compile("sgd", CRFNegativeLogLikelihood(on_forbidden=policy))
    kept = model.evaluate(tokens[POSSIBLE], LABELS[POSSIBLE], verbose=0)
    if policy == "drop":
        assert model.evaluate(tokens, LABELS, verbose=0) == pytest.approx(kept, rel=1e-5)
        assert np.isfinite(model.fit(tokens, LABELS, verbose=0).history["loss"]).all()
        wrong, message = good.copy(), r"in \[0, 2\).*tags\[3, 1\]=2"
        wrong[3, 1] = 2
    else:
        model.fit(tokens, good, verbose=0)
        wrong, message = LABELS, r"tag 0 may not follow tag 0, at position 2.*tags\[1\]=\[1, 0"
    with pytest.raises(Exception, match=message) as error:
        model.fit(tokens, wrong, shuffle=False, verbose=0)
    assert (
        type(error.value).__name__
        == {
            "jax": "JaxRuntimeError",
            "torch": "ValueError",
            "tensorflow": "InvalidArgumentError",
        }[keras.backend.backend()]
    )


def test_steps_that_cannot_call_the_host():
    """By XLA on TensorFlow, and in transforms of torch: NaN, which moves nothing."""
    if keras.backend.backend() == "jax":
        pytest.skip("JAX calls the host from everywhere")
    rows = CRFNegativeLogLikelihood(reduction=None)
    potentials = constrained()
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        @tf.function(jit_compile=True)
        def step(potentials):
            with tf.GradientTape() as tape:
                tape.watch(potentials)
                loss = rows(LABELS, potentials)
            return loss, tape.gradient(loss, potentials)

        loss, gradient = step(potentials)
    else:
        import torch

        loss, pull = torch.func.vjp(lambda x: rows(LABELS, x), potentials)
        (gradient,) = pull(torch.ones(4))
    np.testing.assert_array_equal(np.isnan(numpy(loss)), ~POSSIBLE)
    scores = numpy(gradient)[:, :4, :2]
    assert np.isfinite(scores).all()
    np.testing.assert_array_equal(scores.any(axis=(1, 2)), POSSIBLE)


def test_tags_outside_the_range():
    """Refused where values are known, with the row, the position and the tag."""
    tags = np.array([[0, 1, 1], [1, 2, 0]])
    for policy in ("raise", "drop"):
        loss = CRFNegativeLogLikelihood(reduction=None, on_forbidden=policy)
        with pytest.raises(ValueError, match=r"in \[0, 2\).*tags\[1, 1\]=2"):
            loss(tags, potentials())


@pytest.mark.full
def test_tags_outside_the_range_in_a_compiled_chain():
    """A chain by itself makes them NaN there: its step may belong to anything."""
    if keras.backend.backend() == "torch":
        pytest.skip("PyTorch runs eagerly")
    tags = np.array([[0, 1, 1], [1, 2, 0]])
    rows = traced(lambda scores: fg.crf.LinearChain.from_potentials(scores).log_prob(tags))
    found = numpy(rows(potentials()))
    np.testing.assert_array_equal(np.isnan(found), [False, True])
    first = enumerated([[0, 1, 1], [1, 0, 0]], np.ones((2, 3), bool))[0]
    np.testing.assert_allclose(-found[0], first, rtol=1e-5)


def traced(function):
    """The function under the backend's compiler."""
    if keras.backend.backend() == "jax":
        import jax

        return jax.jit(function)
    import tensorflow as tf

    return tf.function(function)
