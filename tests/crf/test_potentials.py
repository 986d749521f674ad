"""Potentials: a chain travels whole through one tensor."""

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import ops

import drawn
from crf.autodiff import gradients, precision
from finegrain.crf import LinearChain, decode
from finegrain.crf.potentials import pack, unpack

numpy = ops.convert_to_numpy
random = drawn.generator(0)
SCORES = ("emissions", "transitions", "start", "end")


def parts_of(batch, time, tags, dtype="float32"):
    shapes = [(batch, time, tags), (tags, tags), (tags,), (tags,)]
    scores = [random.normal(size=shape).astype(dtype) for shape in shapes]
    return (*scores, random.random((batch, time)) < 0.6)


@pytest.mark.full
@settings(max_examples=15)
@given(st.sampled_from([(2, 3, 4), (1, 1, 1), (3, 0, 2), (0, 4, 3), (1, 5, 2)]))
def test_round_trip(shape):
    """What was packed comes out bit for bit, the mask as booleans."""
    parts = parts_of(*shape)
    batch, time, tags = shape
    packed = pack(*map(ops.convert_to_tensor, parts))
    assert tuple(packed.shape) == (batch, time + tags + 2, tags + 1)
    unpacked = unpack(packed)
    assert keras.backend.standardize_dtype(unpacked.mask.dtype) == "bool"
    for name, ours, part in zip([*SCORES, "mask"], unpacked, parts, strict=True):
        # No example has carried the shared scores of an empty batch.
        lost = batch == 0 and name in SCORES[1:]
        np.testing.assert_array_equal(numpy(ours), np.zeros_like(part) if lost else part)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_everything_has_the_dtype_of_the_emissions(dtype):
    """One tensor has one dtype, that of the emissions."""
    emissions, *rest = parts_of(2, 3, 4)
    with precision(dtype):
        emissions = ops.convert_to_tensor(emissions.astype(dtype))
        packed = pack(emissions, *map(ops.convert_to_tensor, rest))
        assert keras.backend.standardize_dtype(packed.dtype) == dtype


def test_special_values_survive():
    """−inf scores, and NaN at masked positions, are carried as they are."""
    emissions, transitions, start, end, mask = parts_of(2, 3, 2)
    mask[:] = [[True, False, True], [False, True, True]]
    emissions[~mask] = np.nan
    transitions[0, 1] = start[1] = end[0] = -np.inf
    unpacked = unpack(pack(*map(ops.convert_to_tensor, (emissions, transitions, start, end, mask))))
    for ours, part in zip(unpacked, (emissions, transitions, start, end, mask), strict=True):
        np.testing.assert_array_equal(numpy(ours), part)


@pytest.mark.full
@pytest.mark.parametrize("kind", ["tensor", "array"])
def test_chain_of_potentials(kind):
    """`from_potentials` and `decode` take the tensor and the array that `predict` makes of it."""
    parts = parts_of(3, 5, 3)
    chain = LinearChain(**dict(zip([*SCORES, "mask"], parts, strict=True)))
    packed = pack(*map(ops.convert_to_tensor, parts))
    packed = numpy(packed) if kind == "array" else packed
    ours = LinearChain.from_potentials(packed)
    np.testing.assert_array_equal(numpy(ours.log_partition()), numpy(chain.log_partition()))
    tags = numpy(decode(packed))
    np.testing.assert_array_equal(tags, numpy(chain.mode()[0]))
    np.testing.assert_array_equal(tags == -1, ~parts[-1])
    assert tags.dtype == np.int32


@pytest.mark.full
def test_decode_of_no_time():
    """Examples without positions decode to rows without tags."""
    assert numpy(decode(np.zeros((2, 0 + 3 + 2, 3 + 1), "float32"))).shape == (2, 0)


@pytest.mark.full
def test_decode_of_no_examples():
    """An empty batch decodes to an empty batch."""
    assert numpy(decode(np.zeros((0, 2 + 3 + 2, 3 + 1), "float32"))).shape == (0, 2)


def partition_through_potentials(parts, fixed):
    batch = ops.shape(parts["emissions"])[0]
    packed = pack(*(parts[name] for name in SCORES), ops.ones((batch, 3), "bool"))
    return ops.sum(LinearChain.from_potentials(packed).log_partition())


def partition(parts, fixed):
    return ops.sum(LinearChain(**parts).log_partition())


def test_gradient_goes_through():
    """Shared scores get the gradient of the whole batch, as without packing."""
    parts = dict(zip(SCORES, parts_of(2, 3, 2), strict=False))
    direct = gradients(partition, parts, {})
    packed = gradients(partition_through_potentials, parts, {})
    for name, gradient in direct.items():
        np.testing.assert_allclose(packed[name], gradient, rtol=1e-5, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("shape", [(4, 3), (2, 4, 1), (2, 5, 5), (1, 2, 3, 4)])
def test_other_tensors_are_refused(shape):
    """A tensor that cannot be potentials is refused, and the CRF layer is asked for."""
    message = r"Potentials should have shape.*Is that layer the last.*Received: shape=\("
    for use in (unpack, decode, LinearChain.from_potentials):
        with pytest.raises(ValueError, match=message):
            use(np.zeros(shape, "float32"))
