"""Models for serving: potentials and decoded tags without Keras."""

import json
import subprocess
import sys
import warnings

import keras
import numpy as np
import pytest
from keras import ops

import drawn
from crf.models import TAGS, tagger, task
from finegrain.crf import decode
from finegrain.layers import CRF, Decode

BACKEND = keras.backend.backend()

# PyTorch's, tf2onnx's and Keras's own, on the way of an export.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]


def served(model, tokens, folder):
    """What an exported model makes of tokens, in the format that the backend offers."""
    if BACKEND == "torch":
        import torch

        # Sizes are fixed: without a signature, to the least.
        signature = [keras.InputSpec(shape=tokens.shape, dtype="int32")]
        model.export(folder / "model.pt2", format="torch", input_signature=signature, verbose=False)
        loaded = torch.export.load(folder / "model.pt2").module()
        return loaded(torch.as_tensor(tokens)).detach().numpy()
    tf = pytest.importorskip("tensorflow")
    model.export(folder / "model", format="tf_saved_model", verbose=False)
    loaded = tf.saved_model.load(folder / "model")
    # Of any other size, too.
    assert loaded.serve(tokens[:1, :3]).shape[:1] == (1,)
    return loaded.serve(tokens).numpy()


@pytest.mark.full
def test_exported_models(tmp_path):
    """The same potentials and the same tags as in Keras."""
    tokens, _ = task(8)
    model = tagger()
    potentials = model.predict(tokens, verbose=0)
    server = keras.Model(model.input, Decode()(model.output))
    (tmp_path / "potentials").mkdir()
    found = served(model, tokens, tmp_path / "potentials")
    np.testing.assert_allclose(found, potentials, rtol=0, atol=1e-5)
    found = served(server, tokens, tmp_path)
    np.testing.assert_array_equal(found, ops.convert_to_numpy(decode(potentials)))


# What a server does: neither Keras nor a backend, only numbers.
SERVE = """
import sys
import numpy as np
import onnxruntime

session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
(name,) = (given.name for given in session.get_inputs())
with np.load(sys.argv[2]) as batches:
    found = {key: session.run(None, {name: batches[key]})[0] for key in batches}
np.savez(sys.argv[3], **found)
print(sorted({"keras", "tensorflow", "finegrain"} & set(sys.modules)))
"""


@pytest.mark.skipif(BACKEND != "tensorflow", reason="from TensorFlow alone with free sizes")
def test_onnx_decodes_ragged_batches_without_keras(tmp_path):
    """One file for any batch and time, under constraints: the tags of Keras, all of them.

    NaN at masked positions, which attention makes of a row without positions, changes nothing.
    """
    for package in ("onnx", "onnxruntime", "tf2onnx"):
        pytest.importorskip(package, reason=f"{package} is not installed: pip install '.[export]'")
    inputs = keras.Input((None, TAGS + 1), name="features")
    valid = ops.cast(inputs[:, :, TAGS], "bool")
    layer = CRF(TAGS, use_projection=False, constraints=~np.eye(TAGS, dtype=bool))
    server = keras.Model(inputs, Decode()(layer(inputs[:, :, :TAGS], mask=valid)))
    random = drawn.generator(0)
    server.set_weights([random.normal(size=weight.shape) for weight in server.weights])
    batches, expected = {}, {}
    for number in range(20):
        batch, time = random.integers(1, 7), random.integers(1, 12)
        mask = random.random((batch, time)) < random.choice([0.0, 0.6, 1.0], (batch, 1))
        mask[0] = np.arange(time) >= 3 * time // 4
        scores = random.normal(scale=2.0, size=(batch, time, TAGS))
        scores[~mask] = np.nan
        given = np.concatenate([scores, mask[:, :, None]], axis=2).astype("float32")
        batches[str(number)] = given
        expected[str(number)] = ops.convert_to_numpy(server(given))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        server.export(tmp_path / "tagger.onnx", format="onnx", verbose=False)
    np.savez(tmp_path / "given.npz", **batches)
    files = [str(tmp_path / name) for name in ("tagger.onnx", "given.npz", "found.npz")]
    done = subprocess.run(
        [sys.executable, "-c", SERVE, *files], capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout) == []
    with np.load(files[2]) as found:
        for key, tags in expected.items():
            np.testing.assert_array_equal(found[key], tags)
            assert found[key].dtype == "int32"


@pytest.mark.skipif(BACKEND != "torch", reason="TorchScript is PyTorch's")
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_torchscript_is_refused():
    """Keras writes ONNX by it on PyTorch: the file would hold the tags of its sample."""
    import torch

    potentials = CRF(TAGS, use_projection=False)(np.zeros((1, 2, TAGS), "float32")).detach()
    with pytest.raises(ValueError, match="known number of tags"):
        torch.jit.trace(decode, (potentials,))
