"""Encoders: what stands behind a text's end has no part in it."""

import keras
import numpy as np
import pytest

import drawn
from covering import covering
from finegrain.tagger.encoders import ConvolutionBlock, get_encoder

random = drawn.generator(3)


def run(block, x, lengths, **options):
    """Outputs for rows of which the first `lengths` positions are true."""
    mask = np.arange(x.shape[1]) < np.array(lengths)[:, None]
    outputs = block(
        keras.ops.convert_to_tensor(x), mask=keras.ops.convert_to_tensor(mask), **options
    )
    return keras.ops.convert_to_numpy(outputs)


def padded(rows, length, filling):
    """(rows, length, channels) with what `filling` draws behind each row's end."""
    x = filling((len(rows), length, rows[0].shape[1])).astype("float32")
    for number, row in enumerate(rows):
        x[number, : len(row)] = row
    return x


FILLINGS = {
    "zeros": np.zeros,
    "numbers": lambda shape: drawn.generator(1).normal(size=shape, scale=1e3),
    "large": lambda shape: np.full(shape, -1e30),
}


@pytest.mark.full
@pytest.mark.parametrize(("filling", "dilation"), covering(FILLINGS, [1, 2, 4]))
@pytest.mark.parametrize("channels", [3, 5])
def test_block_does_not_depend_on_padding(filling, dilation, channels):
    """A row gives the same in a batch, whatever follows it and however far, as it does alone."""
    block = ConvolutionBlock(channels, 3, dilation=dilation)
    rows = [random.normal(size=(n, 3)).astype("float32") for n in (1, 4, 9)]
    for length in (9, 10, 17):
        batch = run(block, padded(rows, length, FILLINGS[filling]), [len(row) for row in rows])
        assert batch.shape == (3, length, channels)
        for outputs, row in zip(batch, rows, strict=True):
            alone = run(block, row[None], [len(row)])[0]
            np.testing.assert_allclose(outputs[: len(row)], alone, rtol=1e-5, atol=1e-6)


def test_block_does_not_depend_on_nan_in_the_padding():
    """Not even NaN behind a row's end reaches the row."""
    block = ConvolutionBlock(3, 3)
    x = random.normal(size=(1, 4, 3)).astype("float32")
    with_nan = padded([x[0]], 6, lambda shape: np.full(shape, np.nan))
    alone = run(block, x, [4])
    np.testing.assert_allclose(run(block, with_nan, [4])[:, :4], alone, rtol=1e-5, atol=1e-6)


def test_block_without_a_mask_is_a_convolution():
    """Without a mask nothing counts as padding: equal to a mask of all true."""
    block = ConvolutionBlock(2, 3)
    x = random.normal(size=(2, 5, 3)).astype("float32")
    outputs = keras.ops.convert_to_numpy(block(keras.ops.convert_to_tensor(x)))
    np.testing.assert_array_equal(outputs, run(block, x, [5, 5]))
    padding = np.zeros((2, 1, 3), "float32")
    by_hand = np.concatenate([padding, x, padding], axis=1)
    kernel, bias = (keras.ops.convert_to_numpy(weight) for weight in block.weights)
    sums = sum(by_hand[:, k : k + 5] @ kernel[k] for k in range(3)) + bias
    np.testing.assert_allclose(outputs, np.maximum(sums, 0), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("channels", "residual"), [(3, True), (4, False)])
def test_residual(channels, residual):
    """With as many channels out as in, the input is added; else it is not."""
    block = ConvolutionBlock(channels, 3)
    x = random.normal(size=(2, 6, 3)).astype("float32")
    block.build(x.shape)
    block.set_weights([np.zeros(weight.shape) for weight in block.weights])
    outputs = run(block, x, [6, 6])
    np.testing.assert_array_equal(outputs, x if residual else np.zeros((2, 6, 4)))


def test_block_drops_in_training_only():
    """Dropout falls on the convolution's outputs in training, not on the input that is added."""
    block = ConvolutionBlock(3, 3, dropout=0.999)
    x = random.normal(size=(1, 50, 3)).astype("float32")
    plain = run(block, x, [50])
    np.testing.assert_array_equal(run(block, x, [50], training=False), plain)
    assert not np.allclose(plain, x)
    dropped = run(block, x, [50], training=True) == x
    assert dropped.mean() > 0.95


def test_block_config_round_trip():
    """A block made from the config has the same config and the same weights' shapes."""
    block = ConvolutionBlock(4, 5, dilation=2, dropout=0.25, name="mine")
    again = ConvolutionBlock.from_config(block.get_config())
    assert again.get_config() == block.get_config()
    for each in (block, again):
        each.build((None, None, 3))
    shapes = [tuple(weight.shape) for weight in again.weights]
    assert shapes == [tuple(weight.shape) for weight in block.weights] == [(5, 3, 4), (4,)]
    assert (again.name, again.convolution.dilation_rate, again.drop.rate) == ("mine", (2,), 0.25)
    assert block.compute_output_shape((2, 7, 3)) == (2, 7, 4)


def characters_model(encoder):
    """From character numbers, 0 for padding, to features."""
    inputs = keras.Input((None,), dtype="int32")
    embedded = keras.layers.Embedding(30, 6, mask_zero=True)(inputs)
    return keras.Model(inputs, encoder(embedded))


@pytest.mark.full
@pytest.mark.parametrize("name", ["cnn", "bilstm"])
def test_named_encoders_do_not_depend_on_padding(name):
    """A text gives the same features in a longer batch as it does alone."""
    model = characters_model(get_encoder(name, 4, 0.5))
    rows = [random.integers(1, 30, size=n) for n in (2, 5, 20)]
    batch = np.zeros((3, 23), "int32")
    for number, row in enumerate(rows):
        batch[number, : len(row)] = row
    together = keras.ops.convert_to_numpy(model(batch, training=False))
    for outputs, row in zip(together, rows, strict=True):
        alone = keras.ops.convert_to_numpy(model(row[None], training=False))[0]
        np.testing.assert_allclose(outputs[: len(row)], alone, rtol=1e-4, atol=1e-6)


@pytest.mark.full
def test_cnn_sees_eight_characters_to_either_side():
    """A changed character changes what is at most 8 positions away, and nothing beyond."""
    model = characters_model(get_encoder("cnn", 32, 0.0))
    text = random.integers(1, 30, size=(1, 41))
    changed = text.copy()
    changed[0, 20] = 1 + changed[0, 20] % 29
    before, after = (
        keras.ops.convert_to_numpy(model(x, training=False))[0] for x in (text, changed)
    )
    differs = np.flatnonzero((before != after).any(axis=1))
    assert (differs.min(), differs.max()) == (12, 28)


def test_get_encoder_takes_layers_models_and_functions_as_they_are():
    """Whatever can be called is the encoder itself."""
    inputs = keras.Input((None, 3))
    for encoder in (
        keras.layers.Conv1D(2, 3, padding="same"),
        keras.Model(inputs, keras.layers.Dense(2)(inputs)),
        lambda x: x,
    ):
        assert get_encoder(encoder, 8, 0.1) is encoder


@pytest.mark.parametrize("encoder", ["transformer", "CNN", "", None, 3])
def test_get_encoder_error(encoder):
    """An unknown encoder's error names those that there are and what was received."""
    with pytest.raises(ValueError, match=r"\['bilstm', 'cnn'\]") as caught:
        get_encoder(encoder, 8, 0.1)
    assert f"Received: encoder={encoder!r}" in str(caught.value)
