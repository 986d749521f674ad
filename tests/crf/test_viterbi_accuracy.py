"""ViterbiAccuracy: by hand, over batches, with masks and weights."""

import functools
import json

import keras
import numpy as np
import pytest
from keras import ops

import drawn
from finegrain.crf import decode
from finegrain.crf.potentials import pack
from finegrain.metrics import ViterbiAccuracy

numpy = ops.convert_to_numpy
random = drawn.generator(0)
BATCH, TIME, TAGS = 12, 5, 3


def potentials(mask=None):
    mask = np.ones((BATCH, TIME), bool) if mask is None else mask
    shapes = [(BATCH, TIME, TAGS), (TAGS, TAGS), (TAGS,), (TAGS,)]
    scores = [drawn.generator(1).normal(size=shape).astype("float32") for shape in shapes]
    return pack(*map(ops.convert_to_tensor, (*scores, mask)))


@functools.cache
def updates():
    """(metric, variables, *batch) → variables, on JAX compiled once for each shape, as in `fit`."""
    if keras.backend.backend() != "jax":
        return ViterbiAccuracy.stateless_update_state
    import jax

    return jax.jit(ViterbiAccuracy.stateless_update_state, static_argnums=0)


@functools.cache
def metric_of_all():
    return ViterbiAccuracy()


def result(*batches):
    metric = metric_of_all()
    variables = [ops.zeros_like(variable.value) for variable in metric.variables]
    for batch in batches:
        variables = updates()(metric, variables, *batch)
    return float(numpy(metric.stateless_result(variables)))


TRUE = random.integers(0, TAGS, (BATCH, TIME))


@functools.cache
def decoded():
    """The best tags where nothing is masked."""
    return numpy(decode(potentials()))


def test_by_hand():
    """Half of the decoded tags made wrong: half right."""
    tags = decoded().copy()
    tags[: BATCH // 2] = (tags[: BATCH // 2] + 1) % TAGS
    assert result((decoded(), potentials())) == 1
    assert result((tags, potentials())) == 0.5


def test_streaming_equals_one_pass():
    """Batches with different numbers of valid positions add up to the whole."""
    mask = random.random((BATCH, TIME)) < 0.6
    whole = potentials(mask)
    found = numpy(decode(whole))
    expected = (found == TRUE)[mask].mean()
    assert result((TRUE, whole)) == pytest.approx(expected)
    parts = [slice(0, 4), slice(4, 8), slice(8, BATCH)]
    assert result(*((TRUE[part], whole[part]) for part in parts)) == pytest.approx(expected)


@pytest.mark.parametrize("negative", [-1, -100])
def test_masks_and_negative_tags_do_not_count(negative):
    """Neither masked positions nor unknown tags are right or wrong."""
    mask = random.random((BATCH, TIME)) < 0.6
    known = random.random((BATCH, TIME)) < 0.6
    tags = np.where(known, TRUE, negative)
    found = numpy(decode(potentials(mask)))
    expected = (found == TRUE)[mask & known].mean()
    assert result((tags, potentials(mask))) == pytest.approx(expected)
    assert result((np.where(mask, tags, negative), potentials(mask))) == pytest.approx(expected)


def test_nothing_to_count():
    """Without a single known tag the result is 0, not NaN."""
    assert result((np.full_like(TRUE, -1), potentials())) == 0
    assert result((TRUE, potentials(np.zeros((BATCH, TIME), bool)))) == 0


@pytest.mark.parametrize("shape", [(BATCH,), (BATCH, 1), (BATCH, TIME)])
def test_sample_weight(shape):
    """Weights for sequences or positions weigh the positions that count, and only those."""
    weight = random.random(shape).astype("float32")
    mask, known = random.random((2, BATCH, TIME)) < 0.7
    right = numpy(decode(potentials(mask))) == TRUE
    each = (weight[:, None] if weight.ndim == 1 else weight) * (mask & known)
    found = result((np.where(known, TRUE, -1), potentials(mask), weight))
    assert found == pytest.approx((right * each).sum() / each.sum(), rel=1e-5)


@pytest.mark.parametrize("shape", [(BATCH + 1,), (1,), (1, TIME), (BATCH, TIME + 1)])
def test_wrong_sample_weight(shape):
    """Weights of another batch or time are not stretched to fit."""
    with pytest.raises(ValueError, match=r"here \(12,\) or \(12, 5\).*sample_weight\.shape="):
        ViterbiAccuracy().update_state(TRUE, potentials(), np.ones(shape))


def test_last_axis_of_one():
    """Tags of shape (batch, time, 1) count as those of shape (batch, time), as in the loss."""
    assert result((TRUE[:, :, None], potentials())) == pytest.approx((decoded() == TRUE).mean())


def test_reset():
    """After a reset nothing of the past counts."""
    metric = ViterbiAccuracy()
    metric.update_state((decoded() + 1) % TAGS, potentials())
    metric.reset_state()
    metric.update_state(decoded(), potentials())
    assert float(numpy(metric.result())) == 1


def test_config_round_trip():
    """The configuration is JSON, and the metric is registered under the package's name."""
    metric = ViterbiAccuracy(name="accuracy", dtype="float32")
    config = json.loads(json.dumps(keras.metrics.serialize(metric)))
    assert config["registered_name"] == "finegrain>ViterbiAccuracy"
    again = keras.metrics.deserialize(config)
    assert isinstance(again, ViterbiAccuracy)
    assert again.get_config() == metric.get_config()
    assert again.name == "accuracy"


def test_half_precision_policy():
    """Under mixed precision counts are still kept exactly."""
    keras.config.set_dtype_policy("mixed_float16")
    metric = ViterbiAccuracy()
    assert {variable.dtype for variable in metric.variables} == {"float32"}
    metric.update_state(TRUE, potentials())
    assert float(numpy(metric.result())) == pytest.approx((decoded() == TRUE).mean())


def test_other_predictions_are_refused():
    """Predictions that are not potentials are refused."""
    with pytest.raises(ValueError, match=r"Is that layer the last one of the model\?"):
        ViterbiAccuracy().update_state(np.zeros((2, 3), "int32"), np.zeros((2, 3, 4), "float32"))
