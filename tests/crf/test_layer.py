"""The CRF layer: its options, its masks, its weights."""

import keras
import numpy as np
import pytest
from keras import ops

import drawn
from finegrain.crf import LinearChain, decode
from finegrain.crf.potentials import unpack
from finegrain.layers import CRF
from finegrain.losses import CRFNegativeLogLikelihood
from finegrain.tagging import BMES
from oracle import EnumeratedChain

numpy = ops.convert_to_numpy
random = drawn.generator(0)
ALLOWED = np.array([[True, False, True], [True, True, False], [False, True, True]])


def normal(*shape):
    return random.normal(size=shape).astype("float32")


def built(*args, features, **kwargs):
    """A layer whose weights are all random, so that each of them matters."""
    layer = CRF(*args, **kwargs)
    layer.build((None, None, features))
    layer.set_weights([normal(*weight.shape) for weight in layer.weights])
    return layer


def test_potentials_are_the_formula():
    """Emissions are W x + b; transitions, start, end and mask come as they are."""
    layer, inputs = built(3, features=5), normal(2, 4, 5)
    mask = random.random((2, 4)) < 0.5
    kernel, bias, transitions, start, end = layer.get_weights()
    parts = unpack(layer(inputs, mask=ops.convert_to_tensor(mask)))
    expected = (inputs @ kernel + bias)[mask]
    np.testing.assert_allclose(numpy(parts.emissions)[mask], expected, rtol=1e-4, atol=1e-5)
    for ours, theirs in zip(parts[1:], (transitions, start, end, mask), strict=True):
        np.testing.assert_array_equal(numpy(ours), theirs)


def test_weight_names():
    """Rules find the weights under these names."""
    names = [weight.name for weight in built(3, features=5).weights]
    assert names == ["kernel", "bias", "transitions", "start", "end"]


@pytest.mark.parametrize(
    ("option", "missing"),
    [
        ("use_projection", {"kernel", "bias"}),
        ("use_transitions", {"transitions"}),
        ("use_boundaries", {"start", "end"}),
    ],
)
def test_options_leave_weights_out(option, missing):
    """A part that is switched off has no weights, and its scores are 0."""
    every = {"kernel", "bias", "transitions", "start", "end"}
    layer = built(3, features=3, **{option: False})
    assert {weight.name for weight in layer.weights} == every - missing
    inputs = normal(2, 4, 3)
    parts = unpack(layer(inputs))._asdict()
    for name in missing - {"kernel", "bias"}:
        np.testing.assert_array_equal(numpy(parts[name]), 0)
    if option == "use_projection":
        np.testing.assert_array_equal(numpy(parts["emissions"]), inputs)


def test_initializers():
    """Initializers reach the weights they are for."""
    layer = CRF(
        2, kernel_initializer="ones", transitions_initializer=keras.initializers.Constant(7)
    )
    layer.build((None, None, 3))
    kernel, bias, transitions, start, end = layer.get_weights()
    assert (kernel == 1).all()
    assert (transitions == 7).all()
    assert not bias.any() and not start.any() and not end.any()  # noqa: PT018


@pytest.mark.full
def test_without_transitions_it_is_a_softmax():
    """Then the loss is the sum of Keras's own cross-entropies of the positions."""
    layer = built(4, features=6, use_transitions=False, use_boundaries=False)
    inputs, tags = normal(3, 5, 6), random.integers(0, 4, (3, 5))
    potentials = layer(inputs)
    ours = CRFNegativeLogLikelihood(reduction=None)(tags, potentials)
    theirs = keras.losses.sparse_categorical_crossentropy(
        tags, unpack(potentials).emissions, from_logits=True
    )
    np.testing.assert_allclose(numpy(ours), numpy(ops.sum(theirs, axis=1)), rtol=1e-5)


@pytest.mark.full
@pytest.mark.parametrize("dtype", ["mixed_float16", "float16", "bfloat16"])
def test_half_precision_is_only_for_the_projection(dtype):
    """Potentials are float32, and transitions come through without rounding to half precision."""
    layer = CRF(2, dtype=dtype, transitions_initializer=keras.initializers.Constant(1 / 3))
    potentials = layer(normal(1, 3, 4))
    assert keras.backend.standardize_dtype(potentials.dtype) == "float32"
    stored = numpy(ops.cast(layer.transitions, "float32"))
    np.testing.assert_array_equal(numpy(unpack(potentials).transitions), stored)
    if dtype == "mixed_float16":
        assert (stored == np.float32(1 / 3)).all()


TOKENS = np.array([[1, 2, 3, 4], [5, 6, 0, 0], [0, 0, 7, 8], [9, 0, 0, 1], [0, 0, 0, 0]], "int32")


def tagger(time=None, **options):
    tokens = keras.Input((time,), dtype="int32")
    hidden = keras.layers.Embedding(10, 6, mask_zero=True)(tokens)
    return keras.Model(tokens, CRF(3, name="crf", **options)(hidden))


@pytest.mark.full
def test_mask_of_an_embedding():
    """Padding on both sides, holes and empty rows reach the potentials and decode to −1."""
    model = tagger()
    potentials = model.predict(TOKENS, batch_size=2, verbose=0)
    assert potentials.shape == (5, 4 + 3 + 2, 3 + 1)
    np.testing.assert_array_equal(numpy(unpack(potentials).mask), TOKENS > 0)
    np.testing.assert_array_equal(numpy(decode(potentials)) == -1, TOKENS == 0)


@pytest.mark.full
def test_masked_positions_are_left_out():
    """A sequence with holes and padding costs and decodes as the same sequence without them."""
    model = tagger()
    model.get_layer("crf").set_weights([normal(*w.shape) for w in model.get_layer("crf").weights])
    spread = np.array([[0, 3, 0, 0, 5, 2, 0]], "int32")
    tags = np.array([[-7, 1, 0, 0, 2, 0, 99]])
    closed, closed_tags = spread[spread > 0][None], tags[spread > 0][None]
    loss = CRFNegativeLogLikelihood()
    np.testing.assert_allclose(
        numpy(loss(tags, model(spread))), numpy(loss(closed_tags, model(closed))), rtol=1e-5
    )
    found = numpy(decode(model(spread)))
    np.testing.assert_array_equal(found[spread > 0], numpy(decode(model(closed)))[0])


@pytest.mark.full
def test_nan_at_masked_positions_leaves_the_gradient_alone():
    """An encoder's NaN at masked positions reaches neither the loss nor the weights."""
    inputs = keras.Input((4, 3))
    mask = keras.Input((4,), dtype="bool")
    layer = CRF(2)
    model = keras.Model([inputs, mask], layer(inputs, mask=mask))
    model.compile("sgd", CRFNegativeLogLikelihood())
    features, valid = normal(2, 4, 3), np.array([[1, 1, 0, 0], [0, 1, 1, 1]], bool)
    features[~valid] = np.nan
    assert np.isfinite(model.train_on_batch([features, valid], np.zeros((2, 4), "int32")))
    assert all(np.isfinite(weight).all() for weight in layer.get_weights())


def scheme_of(matrix):
    class Scheme:
        allowed = matrix
        allowed_start = np.array([True, False, True])
        allowed_end = np.array([False, True, True])

    return Scheme()


@pytest.mark.selected("constraints0")
@pytest.mark.parametrize("constraints", [ALLOWED, scheme_of(ALLOWED), ALLOWED.tolist()])
def test_constraints_in_decoding(constraints):
    """What is forbidden is never decoded, however much the scores ask for it."""
    layer = built(3, features=3, use_projection=False, constraints=constraints)
    tags = numpy(decode(layer(100 * normal(50, 6, 3))))
    assert ALLOWED[tags[:, :-1], tags[:, 1:]].all()
    if hasattr(constraints, "allowed_start"):
        assert constraints.allowed_start[tags[:, 0]].all()
        assert constraints.allowed_end[tags[:, -1]].all()
    else:
        assert set(tags[:, 0]) == set(tags[:, -1]) == {0, 1, 2}


@pytest.mark.full
@pytest.mark.parametrize("options", [{}, {"use_transitions": False}, {"use_boundaries": False}])
def test_constraints_in_the_loss(options):
    """The loss is that of the chain with −inf scores, with every combination of options."""
    layer = built(4, features=4, use_projection=False, constraints=BMES(), **options)
    emissions, tags = normal(3, 4, 4), np.array([[0, 1, 2, 3], [1, 3, 0, 0], [0, 0, 1, 3]])
    weights = {weight.name: numpy(weight.value) for weight in layer.weights}
    transitions = np.where(BMES().allowed, weights.get("transitions", 0), -np.inf)
    start = np.where(BMES().allowed_start, weights.get("start", 0), -np.inf)
    end = np.where(BMES().allowed_end, weights.get("end", 0), -np.inf)
    found = numpy(CRFNegativeLogLikelihood(reduction=None)(tags, layer(emissions)))
    expected = [
        -EnumeratedChain(e, transitions, start, end).log_prob(t)
        for e, t in zip(emissions, tags, strict=True)
    ]
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_constrained_training():
    """Training keeps weights finite, and what is forbidden at rest, even beside impossible tags."""
    layer = CRF(4, constraints=BMES())
    inputs = keras.Input((None, 5))
    model = keras.Model(inputs, layer(inputs))
    model.compile("sgd", CRFNegativeLogLikelihood(on_forbidden="drop"))
    features, tags = normal(2, 4, 5), np.array([[0, 1, 2, 3], [1, 3, 0, 0]])
    assert np.isfinite(model.train_on_batch(features, tags))
    transitions, start, end = layer.get_weights()[2:]
    assert (transitions != 0).any()
    np.testing.assert_array_equal(transitions[~BMES().allowed], 0)
    np.testing.assert_array_equal(start[~BMES().allowed_start], 0)
    np.testing.assert_array_equal(end[~BMES().allowed_end], 0)

    impossible = np.array([[0, 1, 2, 3], [2, 2, 2, 2]])
    assert np.isfinite(model.train_on_batch(features, impossible))
    np.testing.assert_array_equal(layer.get_weights()[2][~BMES().allowed], 0)
    assert all(np.isfinite(weight).all() for weight in layer.get_weights())


@pytest.mark.full
def test_chain_of_the_layer():
    """The layer's output is a LinearChain, with probabilities that sum to one."""
    layer = built(2, features=3)
    chain = LinearChain.from_potentials(layer(np.repeat(normal(1, 2, 3), 4, axis=0)))
    log_probs = numpy(chain.log_prob(np.array([[0, 0], [0, 1], [1, 0], [1, 1]])))
    np.testing.assert_allclose(np.exp(log_probs).sum(), 1, rtol=1e-5)


@pytest.mark.parametrize("num_tags", [0, -1, 2.0, "4", None, True])
def test_number_of_tags(num_tags):
    """The number of tags is a positive integer."""
    with pytest.raises(ValueError, match=r"`num_tags` should be a positive integer\. Received"):
        CRF(num_tags)


@pytest.mark.parametrize("shape", [(2, 3), (2, 3, 4, 5), (None, None, None)])
def test_rank_of_inputs(shape):
    """Inputs are (batch, time, features) with a known number of features."""
    with pytest.raises(ValueError, match=r"\(batch, time, features\) with a known number"):
        CRF(3).build(shape)


def test_width_of_scores():
    """Without a projection the inputs are as wide as there are tags."""
    with pytest.raises(ValueError, match=r"use_projection=False.*3 tags.*\(None, None, 4\)"):
        CRF(3, use_projection=False)(keras.Input((None, 4)))


def test_constraints_of_other_tags():
    """Constraints for another number of tags are refused when the layer is made."""
    with pytest.raises(ValueError, match=r"for 3 tags: `allowed` of shape \(3, 3\)"):
        CRF(3, constraints=BMES())


def test_regularizers():
    """Each weight has its own, and they go through a configuration."""
    layer = CRF(
        3,
        transitions_initializer="ones",
        boundaries_initializer="ones",
        kernel_initializer="ones",
        kernel_regularizer=keras.regularizers.L1(0.5),
        transitions_regularizer=keras.regularizers.L2(0.1),
        boundaries_regularizer="l1",
    )
    again = CRF.from_config(layer.get_config())
    for crf in (layer, again):
        crf(np.zeros((1, 2, 4), "float32"))
        losses = sorted(float(ops.convert_to_numpy(loss)) for loss in crf.losses)
        np.testing.assert_allclose(losses, [0.03, 0.03, 0.9, 6.0], rtol=1e-6)
