"""Which choice is worth what: numbers of few bits, what classes weigh, and one line a training."""

import re

import keras
import numpy as np
import pytest

import drawn

pytestmark = pytest.mark.one_backend


@pytest.fixture
def script(example):
    return example("tag_minilm")


@pytest.mark.parametrize("bits", [3, 4])
def test_rounded_numbers(script, bits):
    """In each block the largest is the lowest multiple, and none is further off than half a step.

    But for those beyond the highest multiple, which is one step nearer to 0 than the lowest.
    """
    rows = drawn.generator(0).normal(size=(6, 64)).astype("float32")
    rows[0, :32] = 0
    new = script.rounded(rows, bits).reshape(-1, 32)
    assert not new[0].any()
    for block, kept in zip(rows.reshape(-1, 32)[1:], new[1:], strict=True):
        largest = block[np.abs(block).argmax()]
        step = abs(largest) / 2 ** (bits - 1)
        multiples = kept / step * -np.sign(largest)
        np.testing.assert_allclose(multiples, multiples.round(), atol=0.01)
        assert multiples.min().round() == -(2 ** (bits - 1))
        assert multiples.max().round() <= 2 ** (bits - 1) - 1
        near = np.sign(block) * -np.sign(largest) * np.abs(block) < (2 ** (bits - 1) - 1) * step
        assert np.abs(kept - block)[near].max() < 0.505 * step


def test_the_encoder_of_four_bits_is_read_as_it_is(script, example):
    """What `_e5` reads comes out as it went in: it has this form."""
    e5 = example("_e5")
    random = drawn.generator(1)
    blocks = random.integers(256, size=(8, e5.BLOCK_BYTES)).astype("uint8")
    blocks[:, :2] = random.uniform(-1, 1, size=(8, 1)).astype("<f2").view("u1")
    blocks[:, 2] &= 0xF0  # the largest number is −8
    weights = object.__new__(e5.Weights)
    weights.data, weights.offsets = blocks.tobytes(), {"m": 0}
    matrix = weights.matrix("m", 4, 64)
    np.testing.assert_array_equal(script.rounded(matrix, 4), matrix)
    assert not np.array_equal(script.rounded(matrix, 3), matrix)


def test_what_classes_weigh(script):
    assert script.class_weight("") is None
    assert script.class_weight("O=0.3,PER=2") == {"O": 0.3, "PER": 2.0}
    assert script.class_weight("a=b=1") == {"a=b": 1.0}


VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "ada", "met", "bob"]


def tiny():
    hub = pytest.importorskip("keras_hub")
    sizes = {"num_layers": 1, "num_heads": 2, "hidden_dim": 32, "intermediate_dim": 64}
    backbone = hub.models.BertBackbone(vocabulary_size=8, max_sequence_length=16, **sizes)
    return backbone, hub.models.BertTokenizer(vocabulary=VOCABULARY, lowercase=True)


def test_numbers_that_lead_to_one_output_share_factors(script):
    """Of these there are at most sixteen different ones; along another axis there are more."""
    backbone, _ = tiny()
    before = backbone.get_weights()
    assert 0.03 < script.round_matrices(backbone, 4) < 0.15
    block = backbone.get_layer("transformer_layer_0")
    attention = block._self_attention_layer
    for dense, shape in [
        (attention.query_dense, (32, 32)),
        (attention.output_dense, (32, 32)),
        (block._feedforward_intermediate_dense, (32, 64)),
    ]:
        matrix = keras.ops.convert_to_numpy(dense.kernel.value).reshape(shape)
        assert all(len(np.unique(column)) <= 16 for column in matrix.T)
        assert all(len(np.unique(row)) > 16 for row in matrix)
    table = keras.ops.convert_to_numpy(backbone.token_embedding.embeddings.value)
    assert all(len(np.unique(row)) <= 16 for row in table)
    pairs = zip(backbone.weights, before, backbone.get_weights(), strict=True)
    same = [weight.path for weight, old, new in pairs if np.array_equal(old, new)]
    assert "position_embedding/embeddings" in same
    assert len(same) == len(before) - 7


@pytest.mark.full
def test_each_combination_is_trained(script, run, tmp_path, monkeypatch, capsys):
    """The figures of each are in a line, with the error of the matrices that were rounded."""
    monkeypatch.setattr(script, "minilm", tiny)
    corpus = tmp_path / "corpus.tsv"
    corpus.write_text("Ada\tB-PER\nmet\tO\nBob\tB-PER\n\n" * 4)
    run(script, corpus, corpus, "--layers", 1, "--bits", 32, 4, "--weights", "", "O=0.5")
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4
    figures = r"f1 \d\.\d{4}, precision \d\.\d{4}, recall \d\.\d{4}"
    assert re.fullmatch(
        rf"pooling first, head crf, weights –, bits 32, seed 0: {figures} \(\d+ s\)", lines[0]
    )
    assert re.search(rf"weights O=0.5, bits 4, .*: {figures}, error 0\.\d{{4}} ", lines[3])
