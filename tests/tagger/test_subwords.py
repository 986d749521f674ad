"""Words and a pretrained encoder's sub-words: no tag shifts, whatever the tokenizer does."""

import importlib.util

import keras
import numpy as np
import pytest

import drawn
import finegrain as fg
from finegrain.tagger.subwords import MOST_PIECES, Subwords
from finegrain.tagging import BIO, Span, Tagger

pytestmark = pytest.mark.skipif(not importlib.util.find_spec("keras_hub"), reason="needs keras_hub")
one_backend = pytest.mark.one_backend

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
VOCABULARY = [*SPECIAL, "new", "york", "ro", "##me", "a", "##b", "is", "big", "##ger", "."]
CORPUS = [
    (["New", "York", "is", "bigger"], ["B-LOC", "I-LOC", "O", "O"]),
    (["Rome", "is", "a", "big", "a", "."], ["B-LOC", "O", "O", "O", "O", "O"]),
    (["is", "Rome", "big", "."], ["O", "B-LOC", "O", "O"]),
    (["ab", "is", "bigger", "."], ["O", "O", "O", "O"]),
] * 16


@pytest.fixture(scope="module")
def hub():
    import keras_hub

    return keras_hub


@pytest.fixture(scope="module")
def tokenizer(hub):
    return hub.models.BertTokenizer(vocabulary=VOCABULARY, lowercase=True)


def bert(hub, longest=18, seed=0):
    keras.utils.set_random_seed(seed)
    return hub.models.BertBackbone(
        vocabulary_size=len(VOCABULARY),
        num_layers=3,
        num_heads=2,
        hidden_dim=8,
        intermediate_dim=16,
        max_sequence_length=longest,
        dropout=0.0,
    )


def named(ids):
    return [VOCABULARY[number] for number in ids]


# Alignment.


@one_backend
def test_words_and_their_pieces_by_hand(tokenizer):
    """Each word has the place of its first piece and how many it has; padding has none."""
    encoded = Subwords(tokenizer).encode([["Rome", "is", "bigger"], ["a"]], 6)
    assert named(encoded["token_ids"][0]) == [
        "[CLS]",
        "ro",
        "##me",
        "is",
        "big",
        "##ger",
        "[SEP]",
        "[PAD]",
    ]
    assert named(encoded["token_ids"][1]) == ["[CLS]", "a", "[SEP]"] + ["[PAD]"] * 5
    assert encoded["padding_mask"].tolist() == [[1] * 7 + [0], [1] * 3 + [0] * 5]
    assert encoded["segment_ids"].sum() == 0
    words = encoded["words"]
    assert words.shape == (2, 6, 2)
    assert words[0].tolist() == [[1, 2], [3, 1], [4, 2], [0, 0], [0, 0], [0, 0]]
    assert words[1].tolist() == [[1, 1]] + [[0, 0]] * 5


@one_backend
@pytest.mark.parametrize("word", ["\u200d", "\u0301", "\x00", "\ufeff", " ", "漢", "x" * 400])
def test_a_word_that_the_tokenizer_does_not_know(tokenizer, word):
    """It has a piece of its own, so that the words behind it keep their tags."""
    layer = Subwords(tokenizer)
    sizes = layer.sizes(["Rome", word, "is"])
    assert sizes.min() >= 1
    assert sizes[1] == 1
    encoded = layer.encode([["Rome", word, "is"]], 6)
    assert named(encoded["token_ids"][0, :6]) == ["[CLS]", "ro", "##me", "[UNK]", "is", "[SEP]"]


@one_backend
def test_a_very_long_word_is_cut(tokenizer):
    """Its first pieces stand for it: at most as many as a quarter of what the encoder takes."""
    layer = Subwords(tokenizer)
    assert layer.sizes(["a" + "b" * 90]).tolist() == [MOST_PIECES]
    assert Subwords(tokenizer, limit=14).sizes(["a" + "b" * 90]).tolist() == [3]


@one_backend
@pytest.mark.parametrize("pooling", ["first", "last", "mean"])
def test_pooling(tokenizer, pooling):
    """A word's vector is its first piece's, its last piece's, or their mean."""
    layer = Subwords(tokenizer, pooling)
    sentences = [["Rome", "is", "bigger"], ["a"]]
    words = layer.encode(sentences, 6)["words"]
    hidden = np.random.default_rng(0).normal(size=(2, 8, 3)).astype("float32")
    found = keras.ops.convert_to_numpy(layer([hidden, words]))
    places = [[1, 2], [3], [4, 5]]
    pick = {"first": lambda p: p[:1], "last": lambda p: p[-1:], "mean": lambda p: p}[pooling]
    for n, pieces in enumerate(places):
        np.testing.assert_allclose(found[0, n], hidden[0, pick(pieces)].mean(axis=0), atol=1e-6)
    np.testing.assert_allclose(found[1, 0], hidden[1, 1], atol=1e-6)
    mask = keras.ops.convert_to_numpy(layer.compute_mask([hidden, words]))
    assert mask.tolist() == [[True] * 3 + [False] * 3, [True] + [False] * 5]


@one_backend
def test_byte_level_pieces_are_those_of_a_running_text(hub):
    """The blank before a word belongs to it, but for the first of a sentence."""
    words = {"a": 0, "Ġa": 1, "b": 2, "Ġ": 3, "Ġab": 4, "ab": 5, "<s>": 6, "</s>": 7, "<pad>": 8}
    tokenizer = hub.models.RobertaTokenizer(
        vocabulary=words | {"<mask>": 9}, merges=["a b", "Ġ a", "Ġ ab", "Ġa b"]
    )
    layer = Subwords(tokenizer, inputs=("token_ids", "padding_mask"))
    encoded = layer.encode([["ab", "a", "ab"]], 5)
    assert set(encoded) == {"token_ids", "padding_mask", "words"}
    running = np.asarray(tokenizer("ab a ab")).tolist()
    assert encoded["token_ids"][0].tolist() == [6, *running, 7, 8, 8]


def sentence_pieces(lines, size, **options):
    """Trains a model of SentencePiece on a few lines, and returns its file's content."""
    import io

    import sentencepiece

    model = io.BytesIO()
    fixed = {"pad_id": 0, "pad_piece": "<pad>", "unk_piece": "<unk>", "minloglevel": 2}
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_writer=model, vocab_size=size, **fixed, **options
    )
    return model.getvalue()


@one_backend
def test_characters_without_sentence_pieces_mark_of_a_blank(hub):
    """The piece ▁, which begins each text, is dropped where the units are characters."""
    special = {"unk_id": 1, "bos_id": 2, "eos_id": 3, "bos_piece": "[CLS]", "eos_piece": "[SEP]"}
    proto = sentence_pieces(
        ["漢 字 漢字", "字 字 漢"], 9, model_type="char", user_defined_symbols="[MASK]", **special
    )
    tokenizer = hub.models.AlbertTokenizer(proto=proto)
    assert Subwords(tokenizer).sizes(["漢"]).tolist() == [2]
    layer = Subwords(tokenizer, characters=True)
    assert layer.sizes(["漢", "字", "x"]).tolist() == [1, 1, 1]


@one_backend
@pytest.mark.parametrize("prefix", [True, False])
def test_sentence_pieces_are_those_of_a_running_text(hub, prefix):
    """The blank before a word is told where the model puts none before a text, as Gemma's."""
    special = {"eos_id": 1, "bos_id": 2, "unk_id": 3, "bos_piece": "<bos>", "eos_piece": "<eos>"}
    blanks = {"add_dummy_prefix": prefix, "remove_extra_whitespaces": False}
    proto = sentence_pieces(
        ["a ab ab", "ab ba a", "ab"],
        12,
        model_type="bpe",
        hard_vocab_limit=False,
        **special,
        **blanks,
    )
    tokenizer = hub.models.GemmaTokenizer(proto=proto)
    layer = Subwords(tokenizer, inputs=("token_ids", "padding_mask", "position_ids"))
    encoded = layer.encode([["ab", "a", "ab"]], 4)
    running = np.asarray(tokenizer("ab a ab")).tolist()
    assert tokenizer.id_to_token(running[0]) == ("▁ab" if prefix else "ab")
    assert encoded["token_ids"][0].tolist() == [2, *running, 1, 0]
    assert encoded["position_ids"][0].tolist() == [0, 1, 2, 3, 4, 5]


# Training on a backbone.


@pytest.fixture(scope="module")
def tagger(hub, tokenizer):
    """A tagger on a backbone of which two of three blocks are used; not to be changed."""
    made = Tagger(
        backbone=bert(hub),
        tokenizer=tokenizer,
        layers=2,
        learning_rate=0.01,
        head_learning_rate_multiplier=5,
        dropout=0.0,
        seed=drawn.seed(0),
    )
    return made.fit(CORPUS, validation=CORPUS[:4], epochs=6, patience=6, verbose=0)


@pytest.mark.full
def test_it_learns(tagger):
    """The spans are found, and of the backbone only the first blocks are there."""
    assert tagger.score(CORPUS[:4]).f1 == 1
    assert tagger.spans(["New", "York", "\u200d", "is", "Rome"])[0] == Span("LOC", 0, 2)
    paths = {weight.path for weight in tagger.model.weights}
    assert any("transformer_layer_1" in path for path in paths)
    assert not any("transformer_layer_2" in path or "pooled" in path for path in paths)


@pytest.mark.full
def test_longer_than_the_backbone(tagger):
    """A sentence that the backbone cannot take at once is tagged in windows of whole words."""
    words = [word for sentence, _ in CORPUS[:12] for word in sentence]
    tags = [tag for _, own in CORPUS[:12] for tag in own]
    assert sum(tagger._features.sizes(words)) > 3 * tagger._features.limit
    found = tagger.tag(words)
    assert len(found) == len(words)
    # The few positions of this backbone stand for more than they would in a larger one.
    assert np.mean([a == b for a, b in zip(found, tags, strict=True)]) > 0.7
    numbers = BIO(tagger.labels).to_ids(found)
    assert fg.crf.allowed_sequences(numbers[None], BIO(tagger.labels)).all()


@one_backend
def test_rates(tagger):
    """Each block learns at 0.9 × the next one's rate, the head at 5 ×, the transitions at 100 ×."""
    rows = tagger.model.optimizer.describe(tagger.model).to_dicts()
    rates = {row["path"]: row["learning_rate_multiplier"] for row in rows}

    def rate(part):
        return {round(value, 6) for path, value in rates.items() if part in path}

    assert rate("transformer_layer_1") == {1.0}
    assert rate("transformer_layer_0") == {0.9}
    assert rate("token_embedding") == {0.81}
    assert rate("crf/kernel") == rate("crf/bias") == {5.0}
    assert rate("crf/transitions") == rate("crf/start") == {100.0}
    decays = {row["path"]: row["weight_decay"] for row in rows}
    assert decays["crf/bias"] == 0
    assert decays["crf/kernel"] == 0.01


@one_backend
def test_its_file_needs_keras(tagger, tmp_path):
    """The reader without Keras says that it stands on a backbone."""
    tagger.save(tmp_path / "tagger.keras")
    with pytest.raises(fg.reader.UnreadableError, match="stands on a pretrained backbone"):
        fg.reader.load(tmp_path / "tagger.keras")


@pytest.mark.full
def test_its_file(tagger, tmp_path):
    """The file holds the tokenizer: a loaded tagger finds the same."""
    tagger.save(tmp_path / "m.keras")
    loaded = Tagger.load(tmp_path / "m.keras")
    sentences = [words for words, _ in CORPUS[:4]] + [["\u200d", "York", "x"]]
    assert loaded.tag_many(sentences) == tagger.tag_many(sentences)


@one_backend
def test_a_loaded_tagger_knows_its_backbone(tagger, tmp_path):
    """Further training gives the backbone's levels their rates again."""
    tagger.save(tmp_path / "m.keras")
    loaded = Tagger.load(tmp_path / "m.keras", layer_decay=0.5)
    loaded.fit(CORPUS, validation=CORPUS[:4], epochs=1, verbose=0)
    rows = loaded.model.optimizer.describe(loaded.model).to_dicts()
    rates = {row["path"]: row["learning_rate_multiplier"] for row in rows}
    assert {v for path, v in rates.items() if "transformer_layer_0" in path} == {0.5}


@one_backend
@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"tokenizer": None}, ValueError, "needs its tokenizer"),
        ({"backbone": None}, ValueError, "need a backbone"),
        ({"tokenizer": str.split}, TypeError, "`tokenizer` should be the tokenizer"),
        ({"layers": 4}, ValueError, r"1 to 3\. Received: layers=4"),
        ({"layers": 0}, ValueError, r"1 to 3\. Received: layers=0"),
        ({"backbone": keras.layers.Dense(2)}, TypeError, "`backbone` should be a KerasHub"),
    ],
)
def test_what_it_refuses(hub, tokenizer, options, error, match):
    """The error names the value and the cure."""
    with pytest.raises(error, match=match):
        Tagger(**({"backbone": bert(hub), "tokenizer": tokenizer} | options))
