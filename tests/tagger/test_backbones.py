"""Each kind of KerasHub backbone: its first blocks alone, their rates, and what a file keeps."""

import os
import re

import keras
import numpy as np
import pytest

from covering import chosen
from finegrain.tagger.backbones import INPUTS, HiddenStates
from finegrain.tagging import Tagger
from recipes.backbones import BACKBONES, DECODER, ENCODER, hub
from tagger.test_subwords import CORPUS, VOCABULARY

one_backend = pytest.mark.one_backend

# Of KerasHub's layers, those of GPT-NeoX, Llama, Qwen3 and RWKV-7 cannot be made again one by one,
# and one of DeBERTa's is not built when it is. ALBERT calls each of its own several times.
FEW = ["deberta_v3", "llama", "albert", "bert", "f_net", "gemma", "gpt_neo_x"]
REST = [
    *("bloom", "distil_bert", "electra", "esm", "esm_absolute", "falcon", "gemma3", "gemma4"),
    *("gemma_2", "gpt2", "gpt_oss", "llama3", "mistral", "mixtral", "opt", "phi3", "qwen", "qwen3"),
    *("qwen3_5", "qwen3_moe", "qwen_moe", "qwen_untied", "roberta", "roformer_v2", "rwkv7"),
    *("smollm3", "xlm_roberta", "xlnet"),
]
KINDS = FEW + REST if os.environ.get("FINEGRAIN_REAL") == "full" else FEW

pytestmark = [
    # KerasHub's own code.
    pytest.mark.filterwarnings("ignore:Using a non-tuple sequence for multi:UserWarning"),
    pytest.mark.filterwarnings("ignore:The 'rwkv_ops' package is not installed:UserWarning"),
]


def outputs(model):
    """Its outputs for two rows of five tokens."""
    tokens = np.arange(1, 11, dtype="int32").reshape(2, 5)
    places = np.broadcast_to(np.arange(5, dtype="int32"), (2, 5))
    ones = np.ones_like(tokens)
    inputs = dict(zip(INPUTS, (tokens, ones, ones - 1, places), strict=True))
    found = model({name: inputs[name] for name in model.input}, training=False)
    return keras.ops.convert_to_numpy(found)


def loaded(model, folder):
    model.save(folder / "m.keras")
    return keras.models.load_model(folder / "m.keras")


def numbers(level):
    """The numbers of the blocks of a level, as KerasHub names them."""
    found = (re.search(r"(?:layer|block|encoder|group)_(\d+)", part.name) for part in level)
    return {int(match[1]) for match in found if match}


@pytest.mark.parametrize("kind", chosen(KINDS, FEW[:1]))
def test_each_kind(kind, tmp_path):
    """The first block comes back from a file; the last that is used stands highest, alone."""
    backbone = BACKBONES[kind]()
    first = HiddenStates(backbone, 1)
    expected = outputs(first)
    assert expected.shape[:2] == (2, 5)
    again = loaded(first, tmp_path)
    np.testing.assert_allclose(outputs(again), expected, atol=1e-6)
    assert len(again.weights) == len(first.weights) < len(backbone.weights)
    for model, blocks in ((first, 1), (again, 1), (HiddenStates(backbone), 3)):
        if kind == "albert":
            blocks = min(blocks, 2)  # which are called twice each
        assert [numbers(level) for level in model.levels()] == [
            set(),
            *({n} for n in range(blocks)),
        ]


@pytest.mark.full
@pytest.mark.parametrize(("kind", "layers"), [("deberta_v3", 1), ("gpt2", None), ("f_net", 2)])
def test_a_tagger_on_it(kind, layers, tmp_path):
    """It trains, is loaded from its file, and takes a sentence longer than the backbone."""
    tagger = Tagger(
        backbone=BACKBONES[kind](),
        tokenizer=hub.models.BertTokenizer(vocabulary=VOCABULARY, lowercase=True),
        layers=layers,
        seed=0,
    )
    tagger.fit(CORPUS[:8], validation=CORPUS[:4], epochs=1, save_to=tmp_path / "m.keras", verbose=0)
    words = [word for sentence, _ in CORPUS[:4] for word in sentence]
    assert tagger._features.limit == 4
    again = Tagger.load(tmp_path / "m.keras")
    np.testing.assert_allclose(
        again.analyze(words).marginals, tagger.analyze(words).marginals, atol=1e-5
    )
    rows = tagger.model.optimizer.describe(tagger.model).to_dicts()
    rates = {row["path"]: round(row["learning_rate_multiplier"], 6) for row in rows}
    block = {
        rate for path, rate in rates.items() if re.search(rf"layer_{(layers or 3) - 1}/", path)
    }
    assert block == {1.0}
    lowest = {rate for path, rate in rates.items() if "token_embedding" in path}
    assert lowest == {round(0.9 ** (layers or 3), 6)} == {min(rates.values())}


@one_backend
def test_calls_of_one_layer_are_blocks():
    """ALBERT's only block can be cut off after any of its calls, and has one rate."""
    backbone = hub.models.AlbertBackbone(**ENCODER, embedding_dim=4, max_sequence_length=6)
    models = [HiddenStates(backbone, layers) for layers in (1, 2, 3)]
    first, second, third = map(outputs, models)
    assert abs(first - second).max() > 1e-3
    assert abs(second - third).max() > 1e-3
    np.testing.assert_allclose(third, outputs(HiddenStates(backbone)))
    for model in models:
        assert [numbers(level) for level in model.levels()] == [set(), {0}]
    with pytest.raises(ValueError, match=r"1 to 3\. Received: layers=4"):
        HiddenStates(backbone, 4)


@one_backend
def test_a_backbone_of_one_block():
    """It has a first block, which is all of it."""
    model = HiddenStates(hub.models.LlamaBackbone(**DECODER | {"num_layers": 1}), 1)
    assert numbers(model.levels()[-1]) == {0}


@one_backend
@pytest.mark.filterwarnings("ignore:Layer .* does not have a `quantize` method:UserWarning")
@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_what_is_frozen_and_quantized_stays_so(kind, tmp_path):
    """A loaded model learns no more than the one that was saved."""
    backbone = BACKBONES[kind]()
    backbone.get_layer("transformer_layer_1").trainable = False
    backbone.quantize("int8")
    model = HiddenStates(backbone, 2)
    again = loaded(model, tmp_path)
    np.testing.assert_allclose(outputs(again), outputs(model), atol=1e-6)
    paths = [weight.path for weight in again.trainable_weights]
    assert len(paths) == len(model.trainable_weights)
    assert any("transformer_layer_0" in path for path in paths)
    assert not any("transformer_layer_1" in path for path in paths)


@one_backend
@pytest.mark.parametrize("kind", ["bart", "siglip"])
def test_more_than_one_text_is_refused(kind):
    """The error says what takes its place."""
    with pytest.raises(TypeError, match=r"has to be replaced.*Received: \w+ with the inputs \["):
        HiddenStates(BACKBONES[kind]())


class Silent(hub.models.BertBackbone):
    """A backbone that cannot tell its arguments."""

    def get_config(self):
        return super().get_config() | {"scale": self.rope_scaling_factor}


class Begun(keras.callbacks.Callback):
    """Counts trainings."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def on_train_begin(self, logs=None):
        self.count += 1


@one_backend
def test_what_cannot_be_saved_is_told_before_training(tmp_path):
    """Without a file it can be trained all the same."""
    tagger = Tagger(
        backbone=Silent(**ENCODER, max_sequence_length=18),
        tokenizer=hub.models.BertTokenizer(vocabulary=VOCABULARY, lowercase=True),
        layers=1,
    )
    begun, path = Begun(), tmp_path / "m.keras"
    options = {"validation": CORPUS[:4], "epochs": 1, "verbose": 0, "callbacks": [begun]}
    with pytest.raises(ValueError, match=r"cannot be written.*rope_scaling_factor.*Cure"):
        tagger.fit(CORPUS[:8], save_to=path, **options)
    assert not begun.count
    tagger.fit(CORPUS[:8], **options)
    assert begun.count == 1
    with pytest.raises(ValueError, match=r"cannot be written.*rope_scaling_factor.*Cure"):
        tagger.save(path)
    assert not list(tmp_path.iterdir())
