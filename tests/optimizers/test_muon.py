"""Muon for kernels with any number of axes: as Keras's on matrices, whatever their axes are."""

import keras
import numpy as np
import pytest
from keras import ops

import drawn
import finegrain as fg

SETTINGS = [{}, {"nesterov": False}, {"rms_rate": None}, {"weight_decay": None, "momentum": 0.5}]


def stepped(optimizer, start, gradients):
    weight = keras.Variable(start, name="kernel")
    for gradient in gradients:
        optimizer.apply([ops.convert_to_tensor(gradient)], [weight])
    return ops.convert_to_numpy(weight.value)


def drawn_arrays(shape):
    random = drawn.generator(5)
    return [random.normal(size=shape).astype("float32") for _ in range(4)]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_two_axes_are_keras_muon(settings):
    start, *gradients = drawn_arrays((6, 4))
    theirs = stepped(keras.optimizers.Muon(0.1, **settings), start, gradients)
    mine = stepped(fg.optimizers.Muon(0.1, **settings), start, gradients)
    np.testing.assert_allclose(mine, theirs, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("axes", "shape", "order", "matrix"),
    [
        ("ioo", (6, 2, 3), (0, 1, 2), (6, 6)),  # the kernel of a query
        ("iio", (2, 3, 4), (0, 1, 2), (6, 4)),  # that of attention's output
        ("oio", (2, 6, 3), (1, 0, 2), (6, 6)),  # heads first, as in Gemma
        ("oi", (5, 6), (1, 0), (6, 5)),
    ],
)
def test_more_axes_are_the_matrix_of_the_map(axes, shape, order, matrix):
    """The kernel is moved as the matrix of inputs × outputs that it is."""
    start, *gradients = drawn_arrays(shape)

    def flat(array):
        return array.transpose(order).reshape(matrix)

    theirs = stepped(keras.optimizers.Muon(0.1), flat(start), list(map(flat, gradients)))
    mine = stepped(fg.optimizers.Muon(0.1, axes=axes), start, gradients)
    np.testing.assert_allclose(flat(mine), theirs, rtol=1e-5, atol=1e-6)


def test_matrices_side_by_side():
    """Each expert has a matrix of its own."""
    start, *gradients = drawn_arrays((3, 4, 5))
    mine = stepped(fg.optimizers.Muon(0.1, axes="bio"), start, gradients)
    for expert in range(3):
        one = [gradient[expert] for gradient in gradients]
        theirs = stepped(keras.optimizers.Muon(0.1), start[expert], one)
        np.testing.assert_allclose(mine[expert], theirs, rtol=1e-5, atol=1e-6)


def test_other_weights_are_left_to_adamw():
    """As in Keras: those with another number of axes, embeddings, and what is excluded."""
    for name, shape in (("bias", (3,)), ("embeddings", (4, 3)), ("head_kernel", (4, 3))):
        weight = keras.Variable(np.ones(shape, "float32"), name=name)
        optimizer = fg.optimizers.Muon(0.1, weight_decay=None, exclude_layers=["head"])
        gradient = np.full(shape, 0.25, "float32")
        gradient[0] = 4.0
        optimizer.apply([ops.convert_to_tensor(gradient)], [weight])
        adam = keras.optimizers.AdamW(0.1, weight_decay=0.004)
        theirs = stepped(adam, np.ones(shape, "float32"), [gradient])
        np.testing.assert_allclose(ops.convert_to_numpy(weight.value), theirs, rtol=1e-5)


@pytest.mark.one_backend
def test_config():
    optimizer = fg.optimizers.Muon(0.25, axes="ioo", momentum=0.5)
    config = keras.saving.serialize_keras_object(optimizer)
    again = keras.saving.deserialize_keras_object(config)
    assert again.get_config() == optimizer.get_config()
    assert (again.axes, again.momentum) == ("ioo", 0.5)


@pytest.mark.one_backend
@pytest.mark.parametrize("axes", ["", "i", "oo", "bio2", "xio", None, 3, ["i", "o"]])
def test_wrong_axes(axes):
    with pytest.raises(ValueError, match=r"`axes` should say of each axis.*Received: axes="):
        fg.optimizers.Muon(0.1, axes=axes)
