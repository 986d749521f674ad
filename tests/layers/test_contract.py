"""What every layer keeps, each test over the whole list. A new layer joins by one line."""

import inspect
import json
from collections.abc import Callable
from typing import NamedTuple

import keras
import numpy as np
import pytest
from keras import ops

import drawn
import finegrain as fg
from covering import chosen, covering
from finegrain.layers import (
    CRF,
    AdaptiveAugmentation,
    Decode,
    ReverseGradient,
    SetLearningRate,
    SpectralNormalization,
)
from finegrain.losses import CRFNegativeLogLikelihood
from finegrain.schedules import WarmUp
from finegrain.tagging import BMES

BATCH, TIME, FEATURES = 4, 4, 4
FREE = np.array([[1, 1, 0, 1], [1, 1, 1, 1], [1, 1, 1, 1], [0, 1, 1, 1]], bool)


class Member(NamedTuple):
    """A layer over (batch, time, features) and a loss that it can be trained by.

    The loss takes integers below 4 of shape (batch, time). A layer without gradients has none.
    """

    name: str
    make: Callable[[], keras.layers.Layer]
    loss: Callable[[], keras.losses.Loss] | None
    time: int = TIME
    features: int = FEATURES
    masks: bool = True
    """Whether its call takes a mask."""


def classes():
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


LAYERS = [
    Member("crf", lambda: CRF(4), CRFNegativeLogLikelihood),
    Member("crf of scores", lambda: CRF(4, use_projection=False), CRFNegativeLogLikelihood),
    Member(
        "crf without transitions",
        lambda: CRF(4, use_transitions=False, kernel_initializer="he_normal"),
        CRFNegativeLogLikelihood,
    ),
    Member(
        "constrained crf",
        lambda: CRF(4, use_boundaries=False, constraints=FREE, transitions_initializer="ones"),
        CRFNegativeLogLikelihood,
    ),
    Member("crf with a scheme", lambda: CRF(4, constraints=BMES()), CRFNegativeLogLikelihood),
    Member("faster crf", lambda: SetLearningRate(CRF(4), 9.0, False), CRFNegativeLogLikelihood),
    Member(
        "spectral normalization",
        lambda: SpectralNormalization(keras.layers.Dense(4, dtype="float32")),
        classes,
        masks=False,
    ),
    Member(
        "reversed gradient",
        lambda: ReverseGradient(WarmUp(4, start=0.5), dtype="float32"),
        classes,
        masks=False,
    ),
    Member(
        "adaptive augmentation",
        lambda: AdaptiveAugmentation(keras.layers.GaussianNoise(0.1, seed=1), dtype="float32"),
        classes,
        masks=False,
    ),
    # Potentials of 4 positions and 4 tags.
    Member("decode", lambda: Decode(BMES()), None, TIME + 6, 5),
]
TRAINED = [member for member in LAYERS if member.loss is not None]
MASKED = [member for member in TRAINED if member.masks]
every_layer = pytest.mark.parametrize("member", LAYERS, ids=lambda member: member.name)
some_layers = pytest.mark.parametrize(
    "member", chosen(LAYERS, [LAYERS[0], *LAYERS[-3:]]), ids=lambda member: member.name
)
some_masked_layers = pytest.mark.parametrize(
    "member",
    chosen(MASKED, [MASKED[0], *MASKED[-2:]]),
    ids=lambda member: member.name,
)


def features(member):
    size = (BATCH, member.time, member.features)
    return drawn.generator(0).normal(size=size).astype("float32")


def targets():
    # Possible under the constraints above: s b m e, s s s s, b e b e, b m m e.
    return np.array([[0, 1, 2, 3], [0, 0, 0, 0], [1, 3, 1, 3], [1, 2, 2, 3]], "int32")


def model_of(layer, size=FEATURES):
    """A model in which the layer gets a gradient from above and passes one on, with a mask."""
    inputs = keras.Input((None, size))
    hidden = keras.layers.Masking(name="mask")(inputs)
    hidden = keras.layers.Dense(size, name="below")(hidden)
    return keras.Model(inputs, layer(hidden))


@some_layers
def test_config_round_trip(member):
    """The configuration is JSON, has every argument, and makes a layer that does the same."""
    layer = member.make()
    arguments = set(inspect.signature(type(layer)).parameters) - {"kwargs"}
    assert arguments <= set(layer.get_config())
    outputs = layer(features(member))
    config = json.loads(json.dumps(keras.layers.serialize(layer)))
    again = keras.layers.deserialize(config)
    assert json.dumps(again.get_config()) == json.dumps(layer.get_config())
    again.set_weights(layer.get_weights())
    np.testing.assert_array_equal(
        ops.convert_to_numpy(again(features(member))), ops.convert_to_numpy(outputs)
    )


@pytest.mark.one_backend
@every_layer
def test_is_registered(member):
    """The layer's name in files begins with the package's."""
    name = keras.saving.get_registered_name(type(member.make()))
    assert name.startswith("finegrain>")


@pytest.mark.parametrize(
    ("member", "known"),
    covering(LAYERS, ["both", "time", "batch", "none"]),
    ids=lambda value: getattr(value, "name", value),
)
def test_symbolic_is_eager(member, known):
    """The symbolic output has the eager one's dtype and shape, unknown where the input's is."""
    layer = member.make()
    batch = BATCH if known in ("both", "batch") else None
    time = member.time if known in ("both", "time") else None
    shape = (batch, time, member.features)
    symbolic = layer(keras.KerasTensor(shape))
    eager = layer(features(member))
    assert keras.backend.standardize_dtype(eager.dtype) == symbolic.dtype
    assert len(symbolic.shape) == len(eager.shape)
    for found, size, given in zip(symbolic.shape, eager.shape, shape, strict=False):
        assert found == (None if given is None else size)
    assert tuple(layer.compute_output_shape(shape)) == tuple(symbolic.shape)


@pytest.mark.full
@pytest.mark.parametrize(
    ("member", "policy"),
    covering(TRAINED, ["float32", "mixed_float16"]),
    ids=lambda value: getattr(value, "name", value),
)
def test_trains_under_every_policy(member, policy):
    """Weights and outputs are float32; one step moves all that train, and leaves all finite."""
    keras.config.set_dtype_policy(policy)
    layer = member.make()
    model = model_of(layer)
    assert {weight.dtype for weight in layer.weights} <= {"float32", "int32"}
    assert model.output.dtype == "float32"
    before = model.get_weights()
    # Keras's own first scale overflows half precision, and the first step is left out.
    optimizer = keras.optimizers.SGD(0.1)
    if policy == "mixed_float16":
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer, initial_scale=2.0**7)
    model.compile(optimizer, member.loss())
    assert np.isfinite(model.train_on_batch(features(member), targets()))
    for weight, old, new in zip(model.weights, before, model.get_weights(), strict=True):
        assert np.isfinite(new).all(), weight.path
        assert not weight.trainable or not np.array_equal(old, new), weight.path


@pytest.mark.full
@some_masked_layers
def test_masked_positions_do_not_matter(member):
    """Whatever stands at masked positions, padding or hole, the loss is the same."""
    layer, loss = member.make(), member.loss()
    mask = np.array([[1, 1, 0, 0], [0, 0, 1, 1], [1, 0, 1, 1], [0, 0, 0, 0]], bool)
    # Possible under the constraints above, with the masked positions left out.
    tags = np.array([[1, 3, 9, 9], [9, 9, 0, 0], [0, -1, 1, 3], [9, 9, 9, 9]])

    def loss_with(junk):
        inputs = np.where(mask[:, :, None], features(member), np.float32(junk))
        return ops.convert_to_numpy(loss(tags, layer(inputs, mask=ops.convert_to_tensor(mask))))

    expected = loss_with(0.0)
    assert np.isfinite(expected)
    assert loss_with(-1e30) == expected
    assert loss_with(np.nan) == expected


@some_layers
def test_saves_and_loads(member, tmp_path):
    """A model loads in safe mode, without custom objects, and gives the same outputs."""
    model = model_of(member.make(), member.features)
    if member.loss is not None:
        model.compile("sgd", member.loss())
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    for ours, theirs in zip(again.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    inputs = features(member)
    np.testing.assert_array_equal(*(ops.convert_to_numpy(m(inputs)) for m in (again, model)))
    if member.loss is not None:
        assert again.loss.get_config() == model.loss.get_config()


@pytest.mark.one_backend
def test_list_is_complete():
    """Every public layer is on the list."""
    listed = {type(member.make()) for member in LAYERS}
    of_images = {fg.layers.Conv2DTranspose}  # has a file of its own
    assert listed | of_images == {getattr(fg.layers, name) for name in fg.layers.__all__}


@pytest.mark.one_backend
def test_members_have_distinct_names():
    """Names tell members apart in reports."""
    names = [member.name for member in LAYERS]
    assert len(set(names)) == len(names)
