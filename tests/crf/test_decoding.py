"""Decoding as the last layer of a model: what it puts out, under which constraints, and saved."""

import itertools

import keras
import numpy as np
import pytest
from keras import ops

import drawn
import finegrain as fg
from crf.models import TAGS, tagger, task
from finegrain.crf.potentials import unpack
from finegrain.layers import CRF, Decode
from finegrain.losses import CRFNegativeLogLikelihood
from finegrain.tagging import BIO
from oracle import EnumeratedChain

numpy = ops.convert_to_numpy
ALLOWED = np.array([[True, False, True], [True, True, False], [False, True, True]])


def potentials(batch=24, time=4, tags=TAGS, seed=0, **options):
    """Potentials of random scores: padding on either side, holes, and an empty row."""
    random = drawn.generator(seed)
    layer = CRF(tags, use_projection=False, **options)
    layer.build((None, None, tags))
    layer.set_weights([random.normal(size=weight.shape) for weight in layer.weights])
    mask = random.random((batch, time)) < 0.7
    mask[0], mask[1], mask[2], mask[3] = True, False, np.arange(time) >= 2, np.arange(time) < 2
    scores = random.normal(scale=3.0, size=(batch, time, tags)).astype("float32")
    return layer(scores, mask=ops.convert_to_tensor(mask))


def best_by_enumeration(parts, allowed, allowed_start, allowed_end):
    """The best of all sequences that the tables allow, (batch, time), −1 where masked."""
    emissions, transitions, start, end, mask = map(numpy, parts)
    found = np.full(mask.shape, -1)
    for row, (scores, valid) in enumerate(zip(emissions, mask, strict=True)):
        chain = EnumeratedChain(scores, transitions, start, end, valid)
        possible = [
            tags
            for tags in chain.sequences
            if not len(tags)
            or (
                allowed_start[tags[0]]
                and allowed_end[tags[-1]]
                and all(allowed[pair] for pair in itertools.pairwise(tags))
            )
        ]
        full = np.zeros(mask.shape[1], int)

        def score(tags, full=full, valid=valid, chain=chain):
            full[valid] = tags
            return chain.score(full)

        found[row, valid] = max(possible, key=score)
    return found


@pytest.mark.parametrize("scheme", [None, ALLOWED, BIO(["X"])], ids=["none", "matrix", "scheme"])
def test_best_allowed_sequence(scheme):
    """The layer and the function find the best of the sequences that are allowed, and no other."""
    inputs = potentials()
    free = np.ones(TAGS, bool)
    tables = (
        (np.ones((TAGS, TAGS), bool), free, free)
        if scheme is None
        else (scheme, free, free)
        if scheme is ALLOWED
        else (scheme.allowed, scheme.allowed_start, scheme.allowed_end)
    )
    expected = best_by_enumeration(unpack(inputs), *tables)
    for found in (Decode(scheme)(inputs), fg.crf.decode(inputs, scheme)):
        assert keras.backend.standardize_dtype(found.dtype) == "int32"
        np.testing.assert_array_equal(numpy(found), expected)
    if scheme is not None:
        assert not np.array_equal(numpy(Decode()(inputs)), expected)


def test_constraints_are_those_of_a_crf_that_was_trained_with_them():
    """Added at decoding they do what they do in the CRF layer, and leave its own in place."""
    scheme = BIO(["X"])
    with_scheme = fg.crf.decode(potentials(constraints=scheme))
    np.testing.assert_array_equal(numpy(fg.crf.decode(potentials(), scheme)), numpy(with_scheme))
    both = best_by_enumeration(
        unpack(potentials()),
        scheme.allowed & ALLOWED,
        scheme.allowed_start,
        scheme.allowed_end,
    )
    found = fg.crf.decode(potentials(constraints=scheme), ALLOWED)
    np.testing.assert_array_equal(numpy(found), both)


@pytest.mark.parametrize("end", ["layer", "function", "sequential"])
def test_model_of_tags(end, tmp_path):
    """A model that ends in tags gives those of its potentials, and again when it was loaded."""
    tokens, _ = task(8)
    model = tagger()
    expected = numpy(fg.crf.decode(model.predict(tokens, verbose=0)))
    if end == "sequential":
        server = keras.Sequential([model, Decode()])
        server.build((None, None))
    elif end == "layer":
        server = keras.Model(model.input, Decode(name="tags")(model.output))
    else:
        server = keras.Model(model.input, fg.crf.decode(model.output))
    assert server.layers[-1].weights == []
    np.testing.assert_array_equal(server.predict(tokens, verbose=0), expected)
    assert (expected[tokens == 0] == -1).all()
    server.save(tmp_path / "server.keras")
    again = keras.models.load_model(tmp_path / "server.keras")
    np.testing.assert_array_equal(again.predict(tokens, verbose=0), expected)


def test_symbolic_constraints_are_saved(tmp_path):
    """Of a symbolic tensor the function makes a layer that keeps the constraints."""
    scores = keras.Input((None, TAGS))
    server = keras.Model(scores, fg.crf.decode(CRF(TAGS, use_projection=False)(scores), BIO(["X"])))
    server.save(tmp_path / "server.keras")
    again = keras.models.load_model(tmp_path / "server.keras")
    assert again.output.dtype == "int32"
    # I may neither begin a sequence nor follow O.
    scores = np.array([[[0, 0.5, 1], [2, 0, 0], [0, 0.5, 1], [0, 1, 0], [0, 0, 1]]])
    names = BIO(["X"]).to_names(again.predict(scores, verbose=0)[0])
    assert names == ["B-X", "O", "B-X", "B-X", "I-X"]


def test_half_precision_keeps_what_is_best():
    """A policy of half precision does not round the potentials."""
    scores = np.array([[[1.0, 1.0 + 2.0**-20], [1.0 + 2.0**-20, 1.0]]], "float32")
    inputs = CRF(2, use_projection=False)(scores)
    keras.config.set_dtype_policy("mixed_float16")
    assert numpy(Decode()(inputs)).tolist() == [[1, 0]]


def test_trains_beside_potentials():
    """A model may put out both: potentials, which the loss is of, and tags, which move nothing."""
    tokens, tags = task(16)
    model = tagger()
    apart, both = model, keras.models.clone_model(model)
    both.set_weights(model.get_weights())
    both = keras.Model(both.input, {"crf": both.output, "tags": Decode()(both.output)})
    apart.compile("sgd", CRFNegativeLogLikelihood(), run_eagerly=True)
    both.compile("sgd", {"crf": CRFNegativeLogLikelihood()}, run_eagerly=True)
    apart.train_on_batch(tokens, tags)
    both.train_on_batch(tokens, {"crf": tags})
    for ours, theirs in zip(both.get_weights(), apart.get_weights(), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("symbolic", [False, True])
def test_other_inputs_are_refused(symbolic):
    """What cannot be potentials, or is of another number of tags than the constraints."""
    make = keras.KerasTensor if symbolic else np.zeros
    with pytest.raises(ValueError, match=r"Potentials should have shape.*Received: shape=\(4, 3"):
        Decode()(make((4, 3, 5)))
    with pytest.raises(ValueError, match=r"boolean matrix .* for 4 tags.*Received: allowed="):
        Decode(ALLOWED)(make((2, 9, 5)))


def test_constraints_that_are_none_are_refused_at_once():
    with pytest.raises(ValueError, match=r"with something allowed.*Received: allowed="):
        Decode(np.zeros((3, 3), bool))
    with pytest.raises(ValueError, match="Received: allowed="):
        Decode("BIO")
