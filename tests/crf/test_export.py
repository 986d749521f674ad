"""Models for serving: potentials and decoded tags without Keras."""

import keras
import numpy as np
import pytest
from keras import ops

from crf.models import tagger, task
from finegrain.crf import decode

BACKEND = keras.backend.backend()


class Decoder(keras.Model):
    """A tagger that puts out tags."""

    def __init__(self, tagger):
        super().__init__()
        self.tagger = tagger

    def call(self, tokens):
        return decode(self.tagger(tokens))


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
    return loaded.serve(tokens).numpy()


# PyTorch's and Keras's own, on the way of an export.
@pytest.mark.full
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_exported_models(tmp_path):
    """The same potentials and the same tags as in Keras."""
    tokens, _ = task(8)
    model = tagger()
    potentials = model.predict(tokens, verbose=0)
    decoder = Decoder(model)
    np.testing.assert_array_equal(
        ops.convert_to_numpy(decoder(tokens)), ops.convert_to_numpy(decode(potentials))
    )
    (tmp_path / "potentials").mkdir()
    found = served(model, tokens, tmp_path / "potentials")
    np.testing.assert_allclose(found, potentials, rtol=0, atol=1e-5)
    found = served(decoder, tokens, tmp_path)
    np.testing.assert_array_equal(found, ops.convert_to_numpy(decode(potentials)))
