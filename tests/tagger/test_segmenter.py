"""The segmenter: text comes back whole, files hold what was trained, the best epoch stays.

All trainings here have the same shapes and the same number of steps, as far as they can, so that
JAX compiles their steps once.
"""

import json
import zipfile

import keras
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import drawn
import finegrain as fg
from finegrain.tagger.characters import CharacterFeatures
from finegrain.tagger.decoding import Decoder
from finegrain.tagging import BMES, CorpusError, Segmenter, score, write_segmented
from finegrain_reader.windows import MARGIN, WINDOW

one_backend = pytest.mark.one_backend
EPOCHS = 6
WORDS = ["the", "cat", "sat", "dog", "ran", "a", "one", "and", "big", "red", "by", "house"]


def sentences(count, seed, words=WORDS):
    """Sentences of 9 to 16 characters, which make batches of one length.

    They are an example rather than a draw: new words of the right kind leave something to learn in
    each epoch.
    """
    random = np.random.default_rng(seed)
    result = []
    while len(result) < count:
        sentence = [words[i] for i in random.integers(len(words), size=random.integers(3, 6))]
        if 9 <= len("".join(sentence)) <= 16:
            result.append(sentence)
    return result


CORPUS = sentences(96, seed=1)
# With two words that training has not seen.
VALIDATION = sentences(16, seed=2, words=[*WORDS, "cow", "hut"])
TEXTS = [
    "",
    "a",
    "thecatsat",
    "the  catsat\n",
    "onebigreddogand\u3000acow",
    "x👩‍👩‍👧e\u0301\x00𝔘",
    "thecatsatbyahouse" * 5,
    "andthebigreddogran" * (WINDOW // 10),
]


SMALL = {
    "width": 8,
    "learning_rate": 0.02,
    "dropout": 0.1,
    "crf_learning_rate_multiplier": 5.0,
    "seed": drawn.seed(0),
}


def train(*, corpus=CORPUS, validation=VALIDATION, patience=EPOCHS, fit=None, **options):
    """A small segmenter after `EPOCHS` epochs, of which each is scored on `VALIDATION`."""
    segmenter = Segmenter(**SMALL | options)
    options = {"epochs": EPOCHS, "patience": patience, "verbose": 0} | (fit or {})
    return segmenter.fit(corpus, validation=validation, **options)


def values(weights):
    """What the weights hold now, as arrays of their own."""
    return [np.array(keras.ops.convert_to_numpy(weight)) for weight in weights]


def assert_same(weights, others):
    """Equal to the last bit."""
    for one, other in zip(weights, others, strict=True):
        np.testing.assert_array_equal(one, other, strict=True)


class Notes(keras.callbacks.Callback):
    """Notes the logs and the weights of each epoch, and what `look` returns."""

    def __init__(self, look=lambda: None):
        super().__init__()
        self.look = look
        self.logs, self.weights, self.looks = [], [], []

    def on_epoch_end(self, epoch, logs=None):
        self.logs.append(dict(logs))
        self.weights.append(values(self.model.weights))
        self.looks.append(self.look())


@pytest.fixture(scope="module", autouse=True)
def compiled_once(tmp_path_factory):
    """On JAX a step that was compiled for one segmenter serves the next of the same form."""
    if keras.backend.backend() != "jax":
        yield
        return
    import jax
    from jax.experimental.compilation_cache import compilation_cache

    names = {
        "jax_compilation_cache_dir": str(tmp_path_factory.mktemp("compiled")),
        "jax_persistent_cache_min_compile_time_secs": 0.2,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }
    before = {name: getattr(jax.config, name) for name in names}
    for name, value in names.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()
    yield
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where the trained segmenter keeps its file; nothing else is written there."""
    return tmp_path_factory.mktemp("trained")


@pytest.fixture(scope="module")
def trained_with_notes(folder):
    """A segmenter, trained once for all tests, and what was noted in its epochs."""
    segmenter = Segmenter(**SMALL)
    notes = Notes(lambda: segmenter.score(VALIDATION).f1)
    segmenter.fit(
        CORPUS,
        validation=VALIDATION,
        epochs=EPOCHS,
        patience=EPOCHS,
        save_to=folder / "best.keras",
        callbacks=[notes],
        verbose=0,
    )
    return segmenter, notes


@pytest.fixture(scope="module")
def trained(trained_with_notes):
    """A segmenter, trained once for all tests. It is not to be changed."""
    return trained_with_notes[0]


@pytest.fixture
def loaded(trained, folder):
    """A copy of the trained segmenter that may be changed."""
    return Segmenter.load(folder / "best.keras")


# Text in, words out.


@pytest.mark.full
@settings(max_examples=25)
@given(st.lists(st.text(st.characters(), max_size=60), max_size=12))
@example([])
@example([""])
@example(["", " ", "\n", "a"])
@example([" \t\r\n\x1c\x85\u2028\u3000", "e\u0301 👩‍👩‍👧\x00\ud800"])
def test_every_text_comes_back(trained, texts):
    """Joined, the words of any Unicode text are the text, and none of them is empty."""
    segmented = trained.segment_many(texts)
    assert ["".join(words) for words in segmented] == texts
    assert all(word for words in segmented for word in words)


@pytest.mark.full
@pytest.mark.parametrize("text", TEXTS, ids=range(len(TEXTS)))
def test_one_text_comes_back(trained, text):
    """So it is with a text on its own, also where it takes several windows."""
    assert "".join(trained.segment(text)) == text


@pytest.mark.full
def test_a_line_of_100_000_characters(trained):
    """A very long line comes back, and its words are the same however windows cut it."""
    text = ("thecatsat" * 11_112)[:100_000]
    words = trained.segment(text)
    assert "".join(words) == text
    period = trained.segment("thecatsat" * 7)[6:15]
    assert "".join(period) == "thecatsat" * 3
    assert words[6 : 6 + 9 * 3_000] == period * 3_000


@pytest.mark.full
def test_a_batch_gives_what_each_text_gives_alone(trained):
    """What stands beside a text does not matter, nor how many texts of what length there are."""
    texts = [*TEXTS, *("".join(words) for words in VALIDATION), "cat" * 50, "sat\n" * 40]
    assert len(texts) < 32 < len(texts * 2)
    alone = [trained.segment(text) for text in texts]
    assert trained.segment_many(texts) == alone
    assert trained.segment_many(iter(texts * 2)) == alone * 2


@one_backend
@pytest.mark.parametrize("blank", [" ", "\n", " \t ", "\r\n", "\u3000", "\x85\u2028"])
def test_blanks_come_back_as_elements_of_their_own(trained, blank):
    """Blanks separate words, are no part of them, and are not seen by them."""
    first, second = trained.segment("thecat"), trained.segment("sat")
    assert trained.segment(f"thecat{blank}sat{blank}") == [*first, blank, *second, blank]
    assert trained.segment(blank) == [blank]


@pytest.mark.full
def test_no_word_ends_in_a_character(trained):
    """Accents, joined emoji and flags stay whole, though training has seen none of them."""
    for cluster in ("e\u0301", "👩\u200d👩\u200d👧", "🇩🇪", "👍🏽", "각\u11a8"):
        words = trained.segment(f"the{cluster}cat{cluster}{cluster}")
        assert "".join(words) == f"the{cluster}cat{cluster}{cluster}"
        assert sum(word.count(cluster) for word in words) == 3


@pytest.mark.full
def test_full_width_is_read_as_half_width(trained):
    """Full-width letters have the words of others, and come back as they were."""
    wide = str.maketrans({chr(code): chr(code + 0xFEE0) for code in range(ord("a"), ord("z") + 1)})
    assert trained.segment("thecatsat".translate(wide)) == [
        word.translate(wide) for word in trained.segment("thecatsat")
    ]


@pytest.mark.full
def test_the_words_were_learned(trained):
    """The trained segmenter finds most words of new sentences, and not as single characters."""
    assert trained.score(VALIDATION).f1 > 0.85
    assert trained.segment("thecatsat") == ["the", "cat", "sat"]


def mixed_sentences(count, seed):
    """Sentences of single Han characters, Latin words, and numbers with a Han character to them."""
    random = np.random.default_rng(seed)

    def word(characters, least, most):
        return "".join(random.choice(list(characters), random.integers(least, most + 1)))

    result = []
    while len(result) < count:
        sentence = []
        for kind in random.choice(["Han", "Latin", "number"], random.integers(4, 8)).tolist():
            if kind == "Latin" and not (sentence and sentence[-1].isascii()):
                sentence.append(word("abcdefghijklm", 2, 4))
            elif kind == "number":
                sentence.append(word("01234", 1, 3) + word("甲乙丙丁戊己庚辛壬癸", 1, 1))
            else:
                sentence.append(word("甲乙丙丁戊己庚辛壬癸", 1, 1))
        if 9 <= len("".join(sentence)) <= 16:
            result.append(sentence)
    return result


@pytest.mark.full
def test_what_becomes_of_new_words_in_other_letters_is_learned():
    """Latin words stand alone here, and numbers do not: so it is of letters and digits not seen."""
    segmenter = train(corpus=mixed_sentences(96, 1), validation=mixed_sentences(16, 2))
    assert segmenter.segment("子xyz丑") == ["子", "xyz", "丑"]
    assert segmenter.segment("子78丑") == ["子", "78丑"]
    assert segmenter.segment("子９丑ｎｏ") == ["子", "９丑", "ｎｏ"]
    assert segmenter.segment("子яю寅") == ["子", "яю", "寅"]


@pytest.mark.full
def test_tags_spell_words(loaded):
    """Even a model that prefers what is forbidden gives only sequences that spell words."""
    head = loaded.model.get_layer("crf")
    scheme = BMES()
    head.transitions.assign(np.where(scheme.allowed, -50.0, 50.0))
    head.start.assign(np.where(scheme.allowed_start, -50.0, 50.0))
    head.end.assign(np.where(scheme.allowed_end, -50.0, 50.0))
    texts = ["a", "ca", "thecatsat", "onebigreddog" * 4]
    decoder = Decoder(loaded.model, loaded.model.get_layer("characters"), scheme, 4)
    for text, tags in zip(texts, decoder.tags(texts), strict=True):
        assert tags.shape == (len(text),)
        assert scheme.allowed_start[tags[0]]
        assert scheme.allowed_end[tags[-1]]
        assert scheme.allowed[tags[:-1], tags[1:]].all()


# Training.


@pytest.mark.full
def test_each_epoch_is_scored_as_it_is(trained_with_notes):
    """The score in the logs is that of the weights after this epoch, and no score is the next."""
    _, notes = trained_with_notes
    assert [log["val_f1"] for log in notes.logs] == notes.looks
    assert len(set(notes.looks)) > 1
    assert all(np.isfinite(log["loss"]) for log in notes.logs)
    assert notes.logs[-1]["loss"] < 0.5 * notes.logs[0]["loss"]


@pytest.mark.full
def test_the_best_epoch_stays(trained_with_notes):
    """After training the weights are those of the epoch of the highest F1, as is the score."""
    trained, notes = trained_with_notes
    best = int(np.argmax(notes.looks))
    assert_same(values(trained.model.weights), notes.weights[best])
    assert trained.validation_score.f1 == max(notes.looks)


@pytest.mark.full
def test_validation_score(trained):
    """`validation_score` is the score on the validation sentences, but for the OOV figures."""
    predicted = trained.segment_many("".join(words) for words in VALIDATION)
    assert trained.validation_score == score(VALIDATION, predicted)
    known = {word for words in CORPUS for word in words}
    assert trained.score(VALIDATION) == score(VALIDATION, predicted, known)


@pytest.mark.full
def test_early_stopping_restores_the_best_epoch():
    """Training that gets worse stops after `patience` epochs, and the best weights come back."""

    def spoil(epoch, logs):
        if epoch == 1:
            kernel = segmenter.model.get_layer("crf").kernel
            kernel.assign(-10 * keras.ops.convert_to_numpy(kernel))

    segmenter = Segmenter(**SMALL)
    notes = Notes()
    segmenter.fit(
        CORPUS,
        validation=VALIDATION,
        epochs=EPOCHS,
        patience=1,
        callbacks=[keras.callbacks.LambdaCallback(on_epoch_begin=spoil), notes],
        verbose=0,
    )
    scores = [log["val_f1"] for log in notes.logs]
    assert len(scores) == 2
    assert scores[1] < scores[0]
    assert_same(values(segmenter.model.weights), notes.weights[0])
    assert segmenter.validation_score.f1 == scores[0] == segmenter.score(VALIDATION).f1


@pytest.mark.full
def test_same_seed_same_weights(trained):
    """A training of the same seed ends with the same weights, to the last bit."""
    np.random.seed(5)  # noqa: NPY002 (what was drawn before does not matter)
    assert_same(values(train().model.weights), values(trained.model.weights))


@pytest.mark.full
@pytest.mark.parametrize("moment", ["on_epoch_begin", "on_train_batch_end", "on_epoch_end"])
def test_ctrl_c_leaves_the_best_epoch(moment, tmp_path):
    """Interrupted in the third epoch, the best weights so far are in the model and in the file."""
    calls = {
        "on_epoch_begin": 3,
        "on_train_batch_end": 2 * len(CORPUS) // 16 + 3,
        "on_epoch_end": 3,
    }
    left = iter(range(calls[moment] - 1, -1, -1))

    def interrupt(*_, **__):
        if not next(left):
            raise KeyboardInterrupt

    segmenter = Segmenter(**SMALL)
    notes = Notes()
    with pytest.raises(KeyboardInterrupt):
        train_with(segmenter, tmp_path / "m.keras", notes, moment, interrupt)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["m.keras", "m.keras.training"]
    assert len(notes.logs) == (3 if moment == "on_epoch_end" else 2)
    scores = [log["val_f1"] for log in notes.logs]
    best = int(np.argmax(scores))
    assert_same(values(segmenter.model.weights), notes.weights[best])
    assert segmenter.validation_score.f1 == scores[best]
    in_file = Segmenter.load(tmp_path / "m.keras")
    assert_same(values(in_file.model.weights), notes.weights[best])
    assert in_file.segment_many(TEXTS[:6]) == segmenter.segment_many(TEXTS[:6])


def train_with(segmenter, file, notes, moment, interrupt):
    """Trains, with `interrupt` called at each such moment."""
    interrupting = keras.callbacks.LambdaCallback(**{moment: interrupt})
    segmenter.fit(
        CORPUS,
        validation=VALIDATION,
        epochs=EPOCHS,
        patience=EPOCHS,
        save_to=file,
        callbacks=[notes, interrupting],
        verbose=0,
    )


@pytest.mark.full
def test_ctrl_c_while_saving_leaves_the_best_epoch_in_the_file(tmp_path, monkeypatch):
    """Interrupted while the first epoch is saved, the file holds what the score is of."""
    saving = iter([KeyboardInterrupt])
    save = keras.Model.save

    def interrupted_once(model, *arguments, **options):
        for error in saving:
            raise error
        save(model, *arguments, **options)

    monkeypatch.setattr(keras.Model, "save", interrupted_once)
    segmenter = Segmenter(**SMALL)
    with pytest.raises(KeyboardInterrupt):
        train_with(segmenter, tmp_path / "m.keras", Notes(), "on_train_end", lambda _: None)
    assert segmenter.validation_score is not None
    in_file = Segmenter.load(tmp_path / "m.keras")
    assert_same(values(in_file.model.weights), values(segmenter.model.weights))


@pytest.mark.full
def test_ctrl_c_before_the_first_epoch_ends(tmp_path):
    """Then there is no best epoch: no file, no score, and the segmenter can be trained again."""

    def interrupt(*_, **__):
        raise KeyboardInterrupt

    segmenter = Segmenter(**SMALL)
    with pytest.raises(KeyboardInterrupt):
        train_with(segmenter, tmp_path / "m.keras", Notes(), "on_train_batch_end", interrupt)
    assert list(tmp_path.iterdir()) == []
    assert segmenter.validation_score is None
    train_with(segmenter, tmp_path / "m.keras", Notes(), "on_train_end", lambda _: None)
    assert segmenter.validation_score.f1 > 0.5


@pytest.mark.full
def test_transitions_learn_at_their_own_rate(trained):
    """The multiplier is that of transitions, start and end, and of nothing else."""
    rows = trained.model.optimizer.describe(trained.model).to_dicts()
    multipliers = {row["path"]: row["learning_rate_multiplier"] for row in rows}
    assert len(multipliers) == len(trained.model.trainable_weights)
    fast = {path for path, multiplier in multipliers.items() if multiplier != 1.0}
    assert fast == {"crf/transitions", "crf/start", "crf/end"}
    assert {multipliers[path] for path in fast} == {5.0}


@pytest.mark.full
def test_transitions_at_multiplier_zero_do_not_move():
    """What the multiplier says is what happens: at 0 they stay at zero while the rest learns."""
    still = train(crf_learning_rate_multiplier=0.0, fit={"patience": 0})
    np.testing.assert_array_equal(still.transitions, np.zeros((4, 4)))
    assert np.abs(values([still.model.get_layer("crf").bias])[0]).min() > 0


@pytest.mark.full
def test_transitions_of_a_crf(trained):
    """They are (tags, tags) numbers, and learned: what spells words has the higher scores."""
    assert trained.transitions.shape == (4, 4)
    allowed = BMES().allowed
    assert trained.transitions[allowed].mean() > trained.transitions[~allowed].mean() + 0.1


@pytest.mark.full
def test_softmax_from_files(tmp_path):
    """Without a CRF there are no transitions; corpus and validation may be files."""
    for name, content in (("train.txt", CORPUS), ("dev.txt", VALIDATION)):
        write_segmented(tmp_path / name, content)
    softmax = train(corpus=tmp_path / "train.txt", validation=str(tmp_path / "dev.txt"), crf=False)
    assert softmax.transitions is None
    assert [weight.path for weight in softmax.model.get_layer("crf").weights] == [
        "crf/kernel",
        "crf/bias",
    ]
    assert softmax.validation_score.gold_words == sum(map(len, VALIDATION))
    assert softmax.validation_score.f1 == softmax.score(str(tmp_path / "dev.txt")).f1 > 0.8
    rows = softmax.model.optimizer.describe(softmax.model).to_dicts()
    assert {row["learning_rate_multiplier"] for row in rows} == {1.0}
    softmax.save(tmp_path / "m.keras")
    again = Segmenter.load(tmp_path / "m.keras")
    assert again.transitions is None
    assert again.segment_many(TEXTS[:6]) == softmax.segment_many(TEXTS[:6])


@pytest.mark.full
def test_validation_as_a_share():
    """A share of the sentences is held out: they are neither learned from nor known."""

    def interrupt(_):
        raise KeyboardInterrupt

    corpus = [["thecat", f"{number:02}", "sat"] for number in range(40)]
    segmenter = Segmenter(width=8)
    stopping = keras.callbacks.LambdaCallback(on_train_begin=interrupt)
    with pytest.raises(KeyboardInterrupt):
        segmenter.fit(corpus, validation=0.25, callbacks=[stopping], verbose=0)
    assert len(segmenter.model.get_layer("characters").words) == 2 + 30


@pytest.mark.full
def test_constrained_training():
    """Training among sequences that spell words has a finite loss; −∞ reaches no weight."""
    notes = Notes()
    segmenter = train(constrain_training=True, fit={"callbacks": [notes], "epochs": 3})
    losses = [log["loss"] for log in notes.logs]
    assert np.isfinite(losses).all()
    assert losses[-1] < losses[0]
    assert all(np.isfinite(weight).all() for weight in values(segmenter.model.weights))
    forbidden = ~BMES().allowed
    np.testing.assert_array_equal(segmenter.transitions[forbidden], 0)


# Keras warns that a mask is lost on the way. The segmenter needs it at the end only, and has it.
@pytest.mark.full
@pytest.mark.filterwarnings("ignore:Layer .* does not support masking:UserWarning")
@pytest.mark.parametrize("kind", ["bilstm", pytest.param("model", marks=one_backend)])
def test_other_encoders(kind, tmp_path):
    """A recurrent encoder and a model of the user train, save and load."""
    encoder = {
        "bilstm": lambda: "bilstm",
        "model": lambda: keras.Sequential([keras.layers.Conv1D(8, 3, padding="same"), Twice()]),
    }[kind]()
    segmenter = train(encoder=encoder, fit={"epochs": 2})
    assert not isinstance(encoder, keras.layers.Layer) or encoder in segmenter.model.layers
    segmenter.save(tmp_path / "m.keras")
    again = Segmenter.load(tmp_path / "m.keras")
    texts = ["".join(words) for words in VALIDATION]
    assert again.segment_many(texts) == segmenter.segment_many(texts)
    assert ["".join(words) for words in again.segment_many(texts)] == texts


@keras.saving.register_keras_serializable(package="tests")
class Twice(keras.layers.Layer):
    """A layer that is not Keras's own."""

    def call(self, inputs):
        """Twice the inputs."""
        return 2 * inputs


@pytest.mark.full
def test_sentences_and_words_of_any_length():
    """Sentences longer than a window are learned in pieces, words longer than one left out."""
    too_long = "x" * (WINDOW + 1)
    corpus = [
        [too_long, *["the", "cat", "sat"] * (WINDOW // 3), "y" * WINDOW, too_long],
        ["z" * (3 * WINDOW)],
    ]
    notes = Notes()
    segmenter = train(corpus=corpus, crf=False, fit={"epochs": 1, "callbacks": [notes]})
    assert np.isfinite(notes.logs[0]["loss"])
    assert all(np.isfinite(weight).all() for weight in values(segmenter.model.weights))
    assert too_long in segmenter.model.get_layer("characters").words


@pytest.mark.full
def test_a_second_fit_goes_on(trained_with_notes, folder):
    """It begins where the first ended, with the same characters, and keeps to the same model."""
    _, first = trained_with_notes
    loaded = Segmenter.load(folder / "best.keras", learning_rate=0.02, seed=0)
    model, notes = loaded.model, Notes()
    config = loaded.model.get_layer("characters").get_config()
    loaded.fit(
        [*CORPUS[:-1], ["новое", "слово"]],
        validation=VALIDATION,
        epochs=EPOCHS,
        patience=1,
        callbacks=[notes],
        verbose=0,
    )
    assert loaded.model is model
    assert loaded.model.get_layer("characters").get_config() == config
    assert notes.logs[0]["loss"] < 0.5 * first.logs[0]["loss"]


@pytest.mark.full
def test_words_of_a_second_fit_are_no_longer_new(trained, folder):
    """After a second fit its words count as known, as those of the first do."""
    known = {word for words in CORPUS for word in words}
    loaded = Segmenter.load(folder / "best.keras", learning_rate=0.02)
    corpus = [*CORPUS[1:], ["cow", "hut", "cow"]]
    loaded.fit(corpus, validation=VALIDATION, epochs=EPOCHS, patience=0, verbose=0)
    assert loaded.score(VALIDATION).oov_recall is None
    assert loaded.model.get_layer("characters").words == known | {"cow", "hut"}


# Files.


@pytest.mark.full
def test_load_gives_the_same_segmenter(trained, loaded):
    """Segmentation, transitions and score are those that were saved, OOV recall included."""
    assert loaded.segment_many(TEXTS) == trained.segment_many(TEXTS)
    assert_same(values(loaded.model.weights), values(trained.model.weights))
    np.testing.assert_array_equal(loaded.transitions, trained.transitions)
    result = loaded.score(VALIDATION)
    assert result == trained.score(VALIDATION)
    assert 0 < result.oov_rate < 0.5


@pytest.mark.full
def test_save_to_wrote_the_best_epoch_alone(trained, folder):
    """The folder holds the file that was asked for and nothing else."""
    assert [file.name for file in folder.iterdir()] == ["best.keras"]


@pytest.mark.full
def test_the_file_is_a_keras_model(folder, trained):
    """Keras itself loads it, without custom objects, and it evaluates as it was compiled."""
    model = keras.models.load_model(folder / "best.keras")
    features = model.get_layer("characters")
    potentials = model.predict(features.encode(["thecatsat"], 9), verbose=0)
    tags = keras.ops.convert_to_numpy(fg.crf.decode(potentials))[0]
    assert BMES().decode("thecatsat", tags) == ["the", "cat", "sat"]
    assert isinstance(model.optimizer, fg.PerWeight)


@one_backend
@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt(), ValueError("no")])
@pytest.mark.parametrize("exists", [True, False])
def test_a_failing_save_leaves_the_file_as_it_was(trained, tmp_path, monkeypatch, error, exists):
    """Saving that fails half way leaves the old file, or none, and nothing beside it."""
    file = tmp_path / "m.keras"
    if exists:
        file.write_bytes(b"what was there")

    def fail(path, *_, **__):
        with open(path, "wb") as half:
            half.write(b"half a")
        raise error

    monkeypatch.setattr(trained.model, "save", fail)
    with pytest.raises(type(error)):
        trained.save(file)
    assert [path.name for path in tmp_path.iterdir()] == ["m.keras"] * exists
    assert not exists or file.read_bytes() == b"what was there"


@one_backend
def test_save_replaces_a_file(trained, tmp_path):
    """An existing file is replaced; nothing is left beside it."""
    file = tmp_path / "m.keras"
    file.write_bytes(b"what was there")
    trained.save(str(file))
    assert [path.name for path in tmp_path.iterdir()] == ["m.keras"]
    assert Segmenter.load(str(file)).segment("thecatsat") == ["the", "cat", "sat"]


@one_backend
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("m.h5", r"should end in \.keras.*m\.h5"),
        ("m", r"should end in \.keras"),
        ("missing/m.keras", "no folder .*missing"),
    ],
)
def test_names_that_cannot_be_saved_to(trained, tmp_path, name, message):
    """Another suffix or a missing folder is an error, in `fit` before anything is trained."""
    with pytest.raises(ValueError, match=message):
        trained.save(tmp_path / name)
    fresh = Segmenter(width=8)
    with pytest.raises(ValueError, match=message):
        fresh.fit(CORPUS, save_to=tmp_path / name)
    with pytest.raises(ValueError, match="no model yet"):
        fresh.model  # noqa: B018 (the property raises)
    assert list(tmp_path.iterdir()) == []


def other_model():
    """A model that is no segmenter."""
    inputs = keras.Input((2,))
    return keras.Model(inputs, keras.layers.Dense(1)(inputs))


def write_text(path, source):
    path.write_text("the cat sat\n")


def write_nothing(path, source):
    path.write_bytes(b"")


def write_other_model(path, source):
    other_model().save(path)


def write_zip(path, source):
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("note.txt", "no model")


def write_half(path, source):
    content = source.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def write_damaged(path, source):
    content = bytearray(source.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 2000] = b"\x55" * 2000
    path.write_bytes(content)


@one_backend
@pytest.mark.parametrize(
    "write",
    [write_text, write_nothing, write_other_model, write_zip, write_half, write_damaged],
)
def test_files_that_hold_no_segmenter(write, folder, trained, tmp_path):
    """The error names the file and what a segmenter's file is, in one line."""
    file = tmp_path / "m.keras"
    write(file, folder / "best.keras")
    with pytest.raises(ValueError, match=r"finegrain train.*Received: .*m\.keras") as caught:
        Segmenter.load(file)
    assert "\n" not in str(caught.value)


@one_backend
def test_a_file_of_another_suffix(folder, trained, tmp_path):
    """Keras reads only `.keras` files, and the error says which file it was."""
    file = tmp_path / "model.bin"
    file.write_bytes((folder / "best.keras").read_bytes())
    with pytest.raises(ValueError, match=r"Received: .*model\.bin"):
        Segmenter.load(file)


@one_backend
@pytest.mark.parametrize("name", ["missing.keras", "."])
def test_a_file_that_is_not_there(tmp_path, name):
    """A missing file, or a folder in its place, is a `FileNotFoundError` that names it."""
    with pytest.raises(FileNotFoundError, match=f"Received: .*{tmp_path.name}"):
        Segmenter.load(tmp_path / name)


WRITER = """
import json, sys
from tagger.test_segmenter import TEXTS, train
segmenter = train(fit={"epochs": 3})
segmenter.save(sys.argv[1] + "/m.keras")
with open(sys.argv[1] + "/words.json", "w") as file:
    json.dump(segmenter.segment_many(TEXTS), file)
"""
FROM = {"jax": "torch", "torch": "tensorflow", "tensorflow": "jax"}


@pytest.mark.full
def test_a_file_of_another_backend(tmp_path, backend, elsewhere):
    """A segmenter that another backend trained and saved segments alike here."""
    elsewhere(FROM[backend], WRITER, tmp_path)
    expected = json.loads((tmp_path / "words.json").read_text())
    assert max(map(len, expected)) > 5
    assert Segmenter.load(tmp_path / "m.keras").segment_many(TEXTS) == expected


# Wrong use.


@one_backend
@pytest.mark.parametrize(
    "use",
    [
        lambda segmenter, folder: segmenter.segment("abc"),
        lambda segmenter, folder: segmenter.segment_many(["abc"]),
        lambda segmenter, folder: segmenter.score(VALIDATION),
        lambda segmenter, folder: segmenter.save(folder / "m.keras"),
        lambda segmenter, folder: segmenter.transitions,
        lambda segmenter, folder: segmenter.model,
    ],
    ids=["segment", "segment_many", "score", "save", "transitions", "model"],
)
def test_a_segmenter_without_a_model(use, tmp_path):
    """Before `fit` or `load` the error says so and names the cure."""
    with pytest.raises(ValueError, match=r"no model yet: call `fit`, or `load`"):
        use(Segmenter(width=8), tmp_path)
    assert list(tmp_path.iterdir()) == []


@one_backend
@pytest.mark.parametrize(
    ("count", "validation"), [(0, 0.1), (1, 0.1), (1, 0.5), (3, 0.1), (10, 0.0), (10, 1.0)]
)
def test_too_few_sentences(count, validation):
    """Without a sentence to learn from and another to be scored on there is no training."""
    with pytest.raises(CorpusError, match=f"Received: {count} sentences, validation={validation}"):
        Segmenter(width=8).fit(CORPUS[:count], validation=validation, verbose=0)


@one_backend
@pytest.mark.parametrize("validation", [-0.2, float("nan")])
def test_a_share_out_of_range(validation):
    """A share for validation lies between 0 and 1."""

    def stop(_):
        raise RuntimeError("training began")

    stopping = keras.callbacks.LambdaCallback(on_train_begin=stop)
    with pytest.raises(CorpusError, match="validation"):
        Segmenter(width=8).fit(CORPUS, validation=validation, callbacks=[stopping], verbose=0)


@one_backend
@pytest.mark.parametrize("learning_rate", [float("inf"), float("nan"), -1.0, 1e39])
def test_a_learning_rate_that_cannot_be_meant(learning_rate):
    """It is refused when the segmenter is made."""
    with pytest.raises(ValueError, match="`learning_rate` should be a finite number"):
        Segmenter(learning_rate=learning_rate)


@one_backend
def test_unknown_encoder():
    """The encoder is checked when the segmenter is made."""
    with pytest.raises(ValueError, match="`encoder` should be one of"):
        Segmenter("transformer")


@one_backend
def test_missing_files():
    """A missing corpus or validation file is an error that names it."""
    for files in ({"corpus": "missing.txt"}, {"corpus": CORPUS, "validation": "missing.txt"}):
        with pytest.raises(CorpusError, match=r"missing\.txt"):
            Segmenter(width=8).fit(**files)


@one_backend
@pytest.mark.parametrize("corpus", [[], [[]], [["x" * (WINDOW + 1), "y" * (WINDOW + 1)]] * 3])
def test_nothing_to_learn_from(corpus):
    """No sentence, or none that has a word that fits a window, is a `CorpusError`."""
    with pytest.raises(CorpusError):
        Segmenter(width=8).fit(corpus, validation=VALIDATION, epochs=1, verbose=0)


@one_backend
@pytest.mark.parametrize("validation", [[], [[]]])
def test_nothing_to_choose_the_best_epoch_by(validation):
    """Validation without a single word is a `CorpusError`."""
    with pytest.raises(CorpusError):
        train(validation=validation, crf=False, fit={"epochs": 1})


@one_backend
def test_sentences_that_are_strings():
    """Sentences that are not cut into words are an error before training, not after an epoch."""
    notes = Notes()
    with pytest.raises(TypeError, match="sequence of words"):
        train(corpus=["the cat sat"] * 20, validation=0.2, fit={"epochs": 1, "callbacks": [notes]})
    assert notes.model is None


@one_backend
def test_margin_covers_what_the_encoder_sees():
    """The named convolution sees 8 characters to either side: windows overlap by more."""
    assert MARGIN >= 8
    assert WINDOW > 2 * MARGIN
    assert isinstance(CharacterFeatures.of([["a"]]), keras.layers.Layer)
