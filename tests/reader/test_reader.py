"""The reader: NumPy alone finds what Keras finds, and says what it cannot read."""

import itertools
import json
import subprocess
import sys
import zipfile

import keras
import numpy as np
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

import drawn
import finegrain as fg
import finegrain_reader
from finegrain.tagger.encoders import ConvolutionBlock
from finegrain.tagging import Segmenter, Span, Tagger
from finegrain_reader import UnreadableError, network, viterbi
from finegrain_reader.files import DESCRIPTION
from finegrain_reader.model import FORMAT
from finegrain_reader.words import ALLOWED

one_backend = pytest.mark.one_backend
WORDS = ["the", "cat", "sat", "dog", "北京", "大学", "ｗｉｄｅ", "a", "１２", "é", "👩‍👧"]
ODD = [*"thecatsdog北京大学ａ１é", "\u0301", "\u200d", "👩", "\U0001f1e6", "\0", "\ud800", "ᄀ", "ᅡ"]
FIT = {"epochs": 1, "verbose": 0}


def words_of(count, seed):
    random = np.random.default_rng(seed)
    return [[WORDS[i] for i in random.integers(len(WORDS), size=5)] for _ in range(count)]


def odd_lines(seed, sizes=(0, 1, 2, 7, 40, 255, 256, 257, 600), count=60):
    """Lines of odd characters, some longer than what a model takes at once."""
    random = np.random.default_rng(seed)
    sizes = np.r_[sizes, random.choice(sizes, size=count)]
    letters = [*ODD, " ", "\t", "\u3000"]
    weights = np.r_[np.ones(len(ODD)), [0.2] * 3]
    return ["".join(random.choice(letters, size=size, p=weights / weights.sum())) for size in sizes]


def with_random_weights(tagger, seed):
    """Give a tagger weights by which everything matters."""
    random = np.random.default_rng(seed)
    for weight in tagger.model.trainable_weights:
        weight.assign(random.normal(size=weight.shape) * 0.6)
    return tagger


def segmenter(seed=0, **options):
    made = Segmenter(seed=drawn.seed(seed), **{"width": 8, **options})
    corpus = words_of(17, drawn.seed(seed, 1))
    return with_random_weights(made.fit(corpus, validation=corpus[:1], **FIT), drawn.seed(seed, 2))


def tagger(task, scheme=None, **options):
    made = Tagger(task, scheme=scheme, seed=drawn.seed(3), **{"width": 8, **options})
    tags = ["B-PER", "I-PER", "O", "B-LOC", "O"]
    corpus = [(words, tags) for words in words_of(17, drawn.seed(4))]
    return with_random_weights(made.fit(corpus, validation=corpus[:1], **FIT), drawn.seed(5))


def through_files(made, folder):
    """Return the readers of a tagger's `.keras` file, and of the `.fg` file made of it."""
    made.save(folder / "model.keras")
    first = finegrain_reader.load(folder / "model.keras")
    first.save(folder / "model.fg")
    return first, finegrain_reader.load(folder / "model.fg")


def assert_segments_alike(made, folder, **kind):
    lines = odd_lines(drawn.seed(6), **kind)
    expected = made.segment_many(lines)
    for reader in through_files(made, folder):
        assert reader.task == "segment"
        assert reader.segment_many(lines) == expected
        assert reader.segment(lines[5]) == expected[5]
        assert reader.tag("thecat") == reader.tag([*"thecat"]) == made.tagger.tag("thecat")
        assert reader.spans("thecat") == made.tagger.spans("thecat")
    some = ["cats", "京大", "a"]
    weights = {"dogthe": 3.0}
    expected = made.with_words(some).with_words(weights).segment_many(lines)
    assert reader.with_words(some).with_words(weights).segment_many(lines) == expected
    assert reader.segment_many(lines) == made.segment_many(lines)


@pytest.mark.full
def test_a_segmenter(tmp_path):
    """Odd lines are cut alike, with a user's words and without."""
    assert_segments_alike(segmenter(), tmp_path)


@pytest.mark.full
def test_a_tagger(tmp_path):
    """Names are found alike by an LSTM, in sentences longer than what it takes at once, too."""
    made = tagger("spans")
    random = np.random.default_rng(drawn.seed(7))
    sentences = [
        [str(word) for word in random.choice([*WORDS, "New", "x-1"], size=size)]
        for size in [0, 1, 2, 3, 14, 129]
    ]
    expected = made.tag_many(sentences)
    for reader in through_files(made, tmp_path):
        assert reader.labels == made.labels
        assert reader.tag_many(iter(sentences)) == expected
        assert [reader.spans(words) for words in sentences] == [
            made.spans(words) for words in sentences
        ]
    assert any(reader.spans(words) for words in sentences)
    assert all(isinstance(span, Span) for span in reader.spans(sentences[-1]))


@one_backend
@pytest.mark.parametrize(
    "options",
    [
        {"crf": False},
        {"constrain_training": True},
        {"encoder": "bilstm"},
        {"encoder": keras.layers.LSTM(4, return_sequences=True)},
        {"width": 160},  # the first convolution has as many channels as its inputs
        {"encoder": ConvolutionBlock(7, 4)},
        {"encoder": ConvolutionBlock(7, 1)},
        {"encoder": ConvolutionBlock(7, 3, dilation=2)},
    ],
    ids=["softmax", "constrained", "bilstm", "lstm", "residual", "even", "point", "dilated"],
)
def test_other_segmenters(options, tmp_path):
    """Whatever a segmenter is made of: odd lines are cut alike."""
    assert_segments_alike(segmenter(**options), tmp_path, sizes=(0, 1, 2, 5, 30), count=30)


@one_backend
@pytest.mark.parametrize(
    ("task", "scheme"), [("labels", None), ("spans", "BIOES"), ("spans", "BILOU")]
)
def test_other_tasks(task, scheme, tmp_path):
    """Labels, and spans in other schemes, are found alike."""
    made = tagger(task, scheme, encoder="cnn")
    sentences = words_of(20, drawn.seed(8))
    for reader in through_files(made, tmp_path):
        assert reader.tag_many(sentences) == made.tag_many(sentences)
        assert [reader.spans(words) for words in sentences] == [
            made.spans(words) for words in sentences
        ]


@one_backend
@pytest.mark.parametrize("encoder", ["cnn", "bilstm"])
def test_labels_of_characters(encoder, tmp_path):
    """Where every word is one character, the tagger is one of characters."""
    corpus = [([*"".join(words)], ["X", "Y"] * 40) for words in words_of(17, drawn.seed(12))]
    corpus = [(text, tags[: len(text)]) for text, tags in corpus]
    made = Tagger("labels", encoder, width=8, seed=0).fit(corpus, validation=corpus[:1], **FIT)
    with_random_weights(made, drawn.seed(13))
    texts = [text for text, _ in corpus] + [[], ["a"], [*"thecat"] * 60]
    for reader in through_files(made, tmp_path):
        assert reader.tag_many(texts) == made.tag_many(texts)
        assert reader.tag(tuple("thecat")) == made.tag(tuple("thecat"))


@one_backend
def test_many_sequences_are_tagged_in_parts(tmp_path, monkeypatch):
    """How many are tagged together does not matter."""
    made = segmenter()
    reader, _ = through_files(made, tmp_path)
    lines = odd_lines(drawn.seed(9), count=20)
    expected = reader.segment_many(lines)
    monkeypatch.setattr("finegrain_reader.reader._TOGETHER", 100)
    assert reader.segment_many(lines) == expected


@one_backend
def test_where_windows_disagree_the_whole_is_decoded(tmp_path, monkeypatch):
    """Tags of windows that break the scheme where they meet give way to the best of the whole."""
    reader, _ = through_files(segmenter(), tmp_path)
    text = "thecat" * 60
    asked = []
    whole = type(reader)._best_of_whole

    def noted(self, chain):
        asked.append(len(chain.emissions))
        return whole(self, chain)

    monkeypatch.setattr(type(reader), "_best_of_whole", noted)
    monkeypatch.setattr(
        type(reader), "_best", lambda self, windows: [np.full(len(own), 2) for own in windows]
    )
    (tags,) = reader._decoded([text])
    assert asked == [len(text)]
    assert reader._is_allowed(tags)


@one_backend
def test_one_thread(tmp_path, monkeypatch):
    """A busy core does not make products of matrices wait for one another."""
    reader, _ = through_files(segmenter(), tmp_path)
    block, threads = type(reader._model.network)._block, []

    def noted(self, sequences):
        threads.extend(p["num_threads"] for p in threadpool_info() if p["user_api"] == "blas")
        return block(self, sequences)

    monkeypatch.setattr(type(reader._model.network), "_block", noted)
    with threadpool_limits(2, user_api="blas"):
        reader.segment("thecat")
    assert set(threads) == {1}


# Its parts.


@one_backend
@pytest.mark.parametrize("constrained", [False, True])
def test_best_tags_by_enumeration(constrained):
    """The best of all sequences of tags is found, of several lengths at once."""
    random = np.random.default_rng(drawn.seed(10, constrained))
    lengths = np.array([3, 1, 5, 4, 1, 5])
    starts = np.cumsum(np.r_[2, lengths[:-1] + 1])
    emissions = random.normal(size=(int(starts[-1] + lengths[-1]), 4)).astype("float32")
    transitions, start, end = (
        random.normal(size=shape).astype("float32") for shape in ((4, 4), 4, 4)
    )
    if constrained:
        transitions, start, end = (
            np.where(np.array(table, bool), scores, -np.inf)
            for table, scores in zip(ALLOWED, (transitions, start, end), strict=True)
        )
    found = viterbi.best_tags(emissions, starts, lengths, transitions, start, end)
    for tags, first, length in zip(found, starts, lengths, strict=True):

        def score(tags, first=first, length=length):
            tags = np.array(tags)
            own = emissions[first : first + length][np.arange(length), tags].sum()
            return start[tags[0]] + own + transitions[tags[:-1], tags[1:]].sum() + end[tags[-1]]

        best = max(itertools.product(range(4), repeat=int(length)), key=score)
        assert tags.tolist() == list(best)


@one_backend
def test_a_product_is_computed_once():
    """What is looked up was computed before, and zeros stand for padding."""
    table = np.random.default_rng(drawn.seed(11)).normal(size=(6, 3)).astype("float32")
    kernel = np.arange(24, dtype="float32").reshape(2, 3, 4)
    asked = []

    def vectors(numbers, axis):
        asked.append(numbers.tolist())
        return table.take(numbers, axis)

    products = network._Products(6, vectors, kernel)
    for numbers in ([3, 1, 3, 0], [1, 3], [5, 1]):
        expected = np.einsum("ni,pic->npc", table[numbers], kernel)
        expected[np.array(numbers) == 0] = 0
        np.testing.assert_allclose(products(np.array(numbers)), expected, rtol=1e-5)
    assert asked == [[1, 3], [5]]


# What it needs, and what it refuses.


def own(name, base):
    """A class of somebody's own with the name of one that the reader knows."""
    return keras.saving.register_keras_serializable("mine")(type(name, (base,), {}))


HIDDEN = ["keras", "h5py", "rich", "threadpoolctl", "typer"]


def run_without_keras(code, folder):
    """Run code where NumPy is all that can be imported of what finegrain needs."""
    hidden = f"import sys; sys.modules |= dict.fromkeys({HIDDEN});"
    return subprocess.run(
        [sys.executable, "-c", hidden + code], capture_output=True, text=True, cwd=folder
    )


@one_backend
def test_without_keras(tmp_path):
    """A .fg file needs neither Keras nor h5py; what else finegrain has says what it misses."""
    made = segmenter()
    through_files(made, tmp_path)
    code = """
from finegrain.reader import load
print(load("model.fg").segment("thecat北京"))
import finegrain
try:
    finegrain.PerWeight
except ModuleNotFoundError as error:
    print(error.name, error)
print(hasattr(finegrain, "__wrapped__"))
load("model.keras")
"""
    result = run_without_keras(code, tmp_path)
    lines = result.stdout.splitlines()
    assert lines[0] == str(made.segment("thecat北京"))
    assert lines[1].startswith("keras Keras is not installed. Install it")
    assert lines[2] == "False"
    assert "pip install h5py" in result.stderr.splitlines()[-1]


@one_backend
@pytest.mark.parametrize(
    ("encoder", "message"),
    [
        (keras.layers.GRU(4, return_sequences=True, name="own"), "'own', a GRU"),
        (
            keras.layers.LSTM(4, return_sequences=True, activation="relu", name="own"),
            "'own', an LSTM with activation='relu'",
        ),
        (keras.layers.LSTM(4, return_sequences=True, go_backwards=True, name="own"), "backwards"),
        (
            keras.layers.Bidirectional(
                keras.layers.LSTM(4, return_sequences=True), merge_mode="sum", name="own"
            ),
            "'own', a Bidirectional",
        ),
        (
            keras.layers.Bidirectional(keras.layers.GRU(4, return_sequences=True), name="own"),
            "'own', a Bidirectional",
        ),
        (lambda x: ConvolutionBlock(4, name="one")(x) + ConvolutionBlock(4)(x), "'add"),
        (own("ConvolutionBlock", ConvolutionBlock)(4, name="own"), "'own', a mine>Convolution"),
        (
            own("LSTM", keras.layers.LSTM)(4, return_sequences=True, name="own"),
            "'own', a mine>LSTM",
        ),
        (
            keras.layers.Bidirectional(
                own("LSTM", keras.layers.LSTM)(4, return_sequences=True), name="own"
            ),
            "'own', a Bidirectional",
        ),
    ],
    ids=[
        *("gru", "relu", "backwards", "sum", "two_grus", "add"),
        *("own_convolution", "own_lstm", "two_own_lstms"),
    ],
)
def test_what_only_keras_computes(encoder, message, tmp_path):
    """A layer that the reader does not know is named."""
    made = segmenter(encoder=encoder)
    made.save(tmp_path / "model.keras")
    with pytest.raises(UnreadableError, match=message):
        finegrain_reader.load(tmp_path / "model.keras")


@one_backend
def test_other_precision(tmp_path):
    """What computes in half precision is left to Keras."""
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        made = segmenter()
    finally:
        keras.config.set_dtype_policy("float32")
    made.save(tmp_path / "model.keras")
    with pytest.raises(UnreadableError, match="computes in mixed_bfloat16"):
        finegrain_reader.load(tmp_path / "model.keras")


@one_backend
def test_files_that_are_none(tmp_path):
    """What is no tagger's file says so; a pickle is not read."""
    with pytest.raises(FileNotFoundError, match="finegrain train"):
        finegrain_reader.load(tmp_path / "none.fg")
    text = tmp_path / "text.fg"
    text.write_text("words")
    with pytest.raises(ValueError, match=r"cannot be read as one \(File is not a zip"):
        finegrain_reader.load(text)
    other = tmp_path / "other.keras"
    x = keras.Input((3,))
    keras.Model(x, keras.layers.Dense(2)(x)).save(other)
    with pytest.raises(ValueError, match=r"cannot be read as one \(it has 0 CRF layers\)"):
        finegrain_reader.load(other)
    through_files(segmenter(), tmp_path)

    def changed(**contents):
        path = tmp_path / "changed.fg"
        with (
            zipfile.ZipFile(tmp_path / "model.fg") as archive,
            zipfile.ZipFile(path, "w") as result,
        ):
            for name in archive.namelist():
                content = contents.get(name.partition(".")[0])
                result.writestr(name, archive.read(name) if content is None else content)
        return path

    with zipfile.ZipFile(tmp_path / "model.fg") as archive:
        description = json.loads(archive.read(DESCRIPTION))
    later = json.dumps(description | {"format": FORMAT + 1})
    with pytest.raises(UnreadableError, match=f"version {FORMAT + 1} .* install a newer"):
        finegrain_reader.load(changed(description=later))
    fewer = json.dumps(description | {"labels": ["s", "b"]})
    with pytest.raises(ValueError, match="scores of 2 tags"):
        finegrain_reader.load(changed(description=fewer))
    unknown = json.dumps(description | {"layers": [{"kind": "attention"}]})
    with pytest.raises(UnreadableError, match="unknown kind 'attention'"):
        finegrain_reader.load(changed(description=unknown))
    pickled = tmp_path / "start.npy"
    np.save(pickled, np.array([{"a": 1}], object), allow_pickle=True)
    with pytest.raises(ValueError, match="allow_pickle=False"):
        finegrain_reader.load(changed(start=pickled.read_bytes()))


@one_backend
def test_an_older_tagger_is_to_be_saved_anew(tmp_path):
    """A file of spans that does not say what may follow what is left to Keras."""
    tagger("spans").save(tmp_path / "model.keras")
    old = tmp_path / "old.keras"
    with (
        zipfile.ZipFile(tmp_path / "model.keras") as archive,
        zipfile.ZipFile(old, "w") as result,
    ):
        for name in archive.namelist():
            content = archive.read(name)
            if name == "tagger.json":
                description = json.loads(content)
                del description["tables"]
                content = json.dumps(description)
            result.writestr(name, content)
    with pytest.raises(UnreadableError, match="save it anew"):
        finegrain_reader.load(old)
    Tagger.load(old).save(old)
    assert finegrain_reader.load(old).task == "spans"


@one_backend
def test_wrong_calls(tmp_path):
    """Each names what it got, and what to do."""
    reader, _ = through_files(segmenter(), tmp_path)
    with pytest.raises(ValueError, match=r"end in \.fg. Received: .*model\.keras"):
        reader.save(tmp_path / "model.keras")
    with pytest.raises(ValueError, match="There is no folder"):
        reader.save(tmp_path / "none" / "model.fg")
    reader.save(tmp_path / "model.fg")
    with pytest.raises(
        ValueError, match=r"`\.fg` file has no Keras model.*give here the `\.keras`"
    ):
        Tagger.load(tmp_path / "model.fg")
    with pytest.raises(ValueError, match=r"one by one\. Received: 'the'"):
        reader.tag(["the", "cat"])
    with pytest.raises(TypeError, match=r"should be strings\. Received: 3"):
        reader.tag([3])
    with pytest.raises(TypeError, match="Received: None"):
        reader.tag(None)
    with pytest.raises(TypeError, match="Received: words='the'"):
        reader.with_words("the")
    for segments in (reader, segmenter()):
        with pytest.raises(TypeError, match="Received: texts='the'"):
            segments.segment_many("the")
        with pytest.raises(TypeError, match="Received: texts=None"):
            segments.segment_many(None)
        with pytest.raises(TypeError, match=r"should be a string\. Received: 3"):
            segments.segment(3)
    names, _ = through_files(tagger("labels", encoder="cnn"), tmp_path)
    for call in (names.segment, names.with_words):
        with pytest.raises(ValueError, match="Received: a tagger of the task 'labels'"):
            call("thecat")
    with pytest.raises(TypeError, match=r"text\.split"):
        names.tag("the cat")
    assert names.spans(["the", "cat"]) == []


@one_backend
def test_a_file_is_written_whole(tmp_path, monkeypatch):
    """What goes wrong on the way leaves the file that was there."""
    reader, _ = through_files(segmenter(), tmp_path)
    before = (tmp_path / "model.fg").read_bytes()

    def fail(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np.lib.format, "write_array", fail)
    with pytest.raises(OSError, match="No space left"):
        reader.save(tmp_path / "model.fg")
    assert (tmp_path / "model.fg").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.fg", "model.keras"]


def test_public_names():
    """`finegrain.reader` is the same, by its other name."""
    import finegrain.reader

    assert finegrain.reader.load is finegrain_reader.load
    assert finegrain.reader.__all__ == finegrain_reader.__all__
    assert fg.tagging.Span is finegrain_reader.Span
