"""The tagger: what it finds, how sure it is of it, what it learns from, and what its file holds."""

import itertools
import json
import zipfile

import keras
import numpy as np
import pytest

import drawn
import finegrain as fg
from finegrain.tagger.tasks import exactly
from finegrain.tagging import BIO, BIOES, BMES, CorpusError, Segmenter, Span, Tagger

one_backend = pytest.mark.one_backend
PEOPLE = ["Ada", "Bob", "Eve", "Mia", "Tom"]
PLACES = [["New", "York"], ["Rome"], ["San", "Jose"]]
OTHERS = ["the", "a", "dog", "cat", "house", "runs", "sees", "likes", "in", "near"]


def names(count, seed):
    """Sentences of five to eight words with people and places, in BIO: batches of one length."""
    random = np.random.default_rng(seed)
    result = []
    for _ in range(count):
        words, tags = [], []
        for kind in random.random(random.integers(5, 9)):
            if kind < 0.2:
                words.append(str(random.choice(PEOPLE)))
                tags.append("B-PER")
            elif kind < 0.4:
                place = PLACES[random.integers(len(PLACES))]
                words += place
                tags += ["B-LOC", *["I-LOC"] * (len(place) - 1)]
            else:
                words.append(str(random.choice(OTHERS)))
                tags.append("O")
        result.append((words[:8], tags[:8]))
    return result


CORPUS = names(96, seed=1)
VALIDATION = names(16, seed=2)
SMALL = {"encoder": "cnn", "width": 8, "learning_rate": 0.02, "dropout": 0.1}
FIT = {"validation": VALIDATION, "epochs": 4, "patience": 4, "verbose": 0}


@pytest.fixture(scope="module")
def tagger():
    """A tagger of names, trained once for all tests. It is not to be changed."""
    return Tagger("spans", **SMALL, seed=drawn.seed(0)).fit(CORPUS, **FIT)


@pytest.fixture(scope="module")
def file(tagger, tmp_path_factory):
    """Its file."""
    path = tmp_path_factory.mktemp("tagger") / "names.keras"
    tagger.save(path)
    return path


def values(variables):
    return [np.array(keras.ops.convert_to_numpy(variable.value)) for variable in variables]


def assert_same(some, others):
    for one, other in zip(some, others, strict=True):
        np.testing.assert_array_equal(one, other)


# What it finds.


def test_it_learns(tagger):
    """Names are found in new sentences, and the score says how many."""
    assert tagger.labels == ("O", "B-LOC", "I-LOC", "B-PER", "I-PER")
    score = tagger.score(VALIDATION)
    assert score.f1 > 0.9
    assert set(score.types) == {"LOC", "PER"}
    assert score == tagger.validation_score
    words = ["Ada", "sees", "New", "York", "near", "the", "house"]
    assert tagger.tag(words) == ["B-PER", "O", "B-LOC", "I-LOC", "O", "O", "O"]
    assert tagger.spans(words) == [Span("PER", 0, 1), Span("LOC", 2, 4)]


@pytest.mark.full
def test_one_at_a_time_and_together(tagger):
    """What stands beside a sentence does not matter, nor do sentences without words."""
    sentences = [words for words, _ in VALIDATION] + [[], ["Ada"], ["never", "seen"] * 8]
    together = tagger.tag_many(iter(sentences))
    assert together == [tagger.tag(words) for words in sentences]
    assert [len(tags) for tags in together] == [len(words) for words in sentences]


@pytest.mark.full
def test_a_sentence_of_any_length(tagger):
    """A very long sentence has the tags of its parts, which keep to the scheme where they meet."""
    words, tags = map(
        list,
        zip(
            *[pair for words, tags in names(90, 3) for pair in zip(words, tags, strict=True)],
            strict=True,
        ),
    )
    assert len(words) > 3 * tagger._features.lengths[-1]
    found = tagger.tag(words)
    assert len(found) == len(words)
    assert np.mean([a == b for a, b in zip(found, tags, strict=True)]) > 0.95
    numbers = BIO(tagger.labels).to_ids(found)
    assert fg.crf.allowed_sequences(numbers[None], BIO(tagger.labels)).all()


@one_backend
def test_where_windows_disagree_the_whole_is_decoded(tagger):
    """Tags of windows that break the scheme where they meet give way to the best of the whole."""
    decoder = tagger._decoder
    words = ["dog"] * 300
    whole = decoder.tags([words])[0]
    asked = []

    class Refusing(type(decoder)):
        def _is_allowed(self, tags):
            asked.append(tags)
            return False

    other = Refusing(tagger.model, tagger._features, BIO(tagger.labels), len(tagger.labels))
    np.testing.assert_array_equal(other.tags([words])[0], whole)
    assert len(asked) == 1


# How sure it is.


def possible(chain, scheme):
    """All sequences of a short chain with their probabilities, by enumeration in float64."""
    emissions, transitions, start, end = (np.asarray(part, "float64") for part in chain)
    sequences = np.array(list(itertools.product(range(len(start)), repeat=len(emissions))))
    scores = start[sequences[:, 0]] + end[sequences[:, -1]]
    scores += emissions[np.arange(len(emissions)), sequences].sum(axis=1)
    scores += transitions[sequences[:, :-1], sequences[:, 1:]].sum(axis=1)
    weights = np.exp(scores - scores.max())
    return sequences, weights / weights.sum()


@pytest.mark.full
def test_analysis_by_enumeration(tagger):
    """Marginals, spans and the best sequences have the probabilities of all sequences together."""
    words = ["Ada", "New", "York", "dog"]
    found = tagger.analyze(words, n_best=3)
    sequences, p = possible(tagger._chain(words, None), tagger)
    assert found.tags == tagger.tag(words)
    marginals = [[p[sequences[:, n] == tag].sum() for tag in range(5)] for n in range(4)]
    np.testing.assert_allclose(found.marginals, marginals, atol=1e-5)
    best = np.argsort(-p)[:3]
    assert [tags for tags, _ in found.n_best] == [tagger._names(sequences[n]) for n in best]
    np.testing.assert_allclose([q for _, q in found.n_best], p[best], atol=1e-5)
    assert found.n_best[0][0] == found.tags
    read = [tagger._task.spans(tagger._names(tags)) for tags in sequences]
    assert [span for span, _ in found.spans] == tagger.spans(words)
    for span, probability in found.spans:
        within = p[[span in spans for spans in read]].sum()
        assert probability == pytest.approx(within, abs=1e-5)
    confidence = found.marginals[np.arange(4), BIO(tagger.labels).to_ids(found.tags)]
    np.testing.assert_array_equal(found.confidence, confidence)


@one_backend
@pytest.mark.parametrize("scheme", [BIO(["A", "B"]), BIOES(["A", "B"]), BMES()], ids=repr)
def test_the_sequences_that_have_a_span(scheme):
    """They are those of which the span is read, and no other."""
    length = 4
    allowed = scheme.allowed
    for start, end in [(0, 1), (0, 2), (1, 3), (2, 4), (0, 4), (3, 4)]:
        span = Span(scheme.types[-1], start, end)
        if isinstance(scheme, BMES):
            written = scheme.encode(["x" * (end - start)])
        else:
            written = scheme.encode([(span.label, 0, end - start)], end - start)
        has = exactly(scheme, written, span, length)
        for tags in itertools.product(range(len(scheme.labels)), repeat=length):
            tags = np.array(tags)
            if not (
                allowed[tags[:-1], tags[1:]].all()
                and scheme.allowed_start[tags[0]]
                and scheme.allowed_end[tags[-1]]
            ):
                continue
            read = [(scheme.types[kind], a, b) for kind, a, b in scheme.spans.read(tags)]
            assert has[np.arange(length), tags].all() == (span in read)


@pytest.mark.full
def test_allowed_tags(tagger):
    """Tags can be given in part; the others follow from them."""
    words = ["Ada", "sees", "New", "York"]
    assert tagger.tag(words, allowed=[["O"], None, None, None])[0] == "O"
    given = [["B-LOC"], ["I-LOC"], None, {"O"}]
    tags = tagger.tag(words, allowed=given)
    assert (tags[:2], tags[3]) == (["B-LOC", "I-LOC"], "O")
    assert Span("LOC", 0, 2) in tagger.spans(words, allowed=given)
    analysis = tagger.analyze(words, allowed=given)
    assert analysis.confidence[0] == pytest.approx(1)
    assert tagger.analyze([]).tags == []


@one_backend
@pytest.mark.parametrize(
    ("allowed", "match"),
    [
        ([["O"]], "4 words and 1 elements"),
        ([["B-ORG"], None, None, None], "tags of this tagger are O, B-LOC.*'B-ORG'"),
        ([["O"], ["I-LOC"], None, None], "No sequence of tags is allowed"),
    ],
)
def test_what_cannot_be_allowed(tagger, allowed, match):
    """The error names what is wrong."""
    with pytest.raises(ValueError, match=match):
        tagger.tag(["Ada", "sees", "New", "York"], allowed=allowed)


# Other tasks.


@pytest.mark.full
def test_labels_of_words():
    """Each word gets a label; accuracy counts."""
    kinds = {"B-PER": "NAME", "B-LOC": "NAME", "I-LOC": "NAME", "O": "WORD"}
    corpus, validation = (
        [(words, [kinds[tag] for tag in tags]) for words, tags in sentences]
        for sentences in (CORPUS, VALIDATION)
    )
    logs = []
    noting = keras.callbacks.LambdaCallback(on_epoch_end=lambda _, log: logs.append(dict(log)))
    tagger = Tagger("labels", **SMALL, seed=0)
    tagger.fit(corpus, **FIT | {"validation": validation}, callbacks=[noting])
    assert tagger.labels == ("NAME", "WORD")
    assert tagger.score(validation).accuracy == max(log["val_accuracy"] for log in logs) > 0.9
    assert tagger.spans(["Ada"]) == []
    assert tagger.analyze(["Ada"]).spans == []


@pytest.mark.full
def test_characters_have_features_of_characters():
    """Where all words are single characters, their neighbours count, as in a segmenter."""
    corpus = [(list("abcd"), ["B-X", "I-X", "O", "O"]), (list("cdab"), ["O", "O", "B-X", "I-X"])]
    tagger = Tagger("spans", **SMALL, seed=0).fit(
        corpus * 40, **FIT | {"validation": corpus, "epochs": 2}
    )
    assert tagger.model.get_layer("characters").characters == "abcd"
    assert tagger.spans(list("abcdab")) == [Span("X", 0, 2), Span("X", 4, 6)]
    with pytest.raises(ValueError, match=r"one by one\. Received: 'ab'"):
        tagger.tag(["ab", "c"])


@one_backend
def test_the_segmenter_is_a_tagger():
    """Its tagger finds where the words are."""
    corpus = [["the", "cat"], ["a", "dog"], ["the", "dog"], ["a", "cat"]] * 20
    segmenter = Segmenter(width=8, learning_rate=0.02, seed=0)
    segmenter.fit(corpus, validation=corpus[:8], epochs=3, verbose=0)
    assert segmenter.tagger.tag("acat") == ["s", "b", "m", "e"]
    assert segmenter.tagger.spans("acat") == [Span("word", 0, 1), Span("word", 1, 4)]


@one_backend
def test_a_single_label():
    """A corpus in which every word has the same label leaves nothing to learn, and that works."""
    corpus = [(words, ["X"] * len(words)) for words, _ in CORPUS[:20]]
    tagger = Tagger("labels", **SMALL, seed=0).fit(corpus, epochs=1, verbose=0)
    assert tagger.tag(["never", "seen"]) == ["X", "X"]
    assert tagger.validation_score.accuracy == 1


@one_backend
def test_many_are_analyzed_together(tagger):
    """What stands beside a sentence does not matter to how sure it is."""
    sentences = [words for words, _ in VALIDATION[:3]] + [[], ["dog"] * 200]
    for one, words in zip(tagger.analyze_many(iter(sentences), n_best=2), sentences, strict=True):
        expected = tagger.analyze(words, n_best=2)
        assert (one.tags, len(one.n_best)) == (expected.tags, len(expected.n_best))
        np.testing.assert_allclose(one.marginals, expected.marginals, atol=1e-5)
        assert [span for span, _ in one.spans] == [span for span, _ in expected.spans]


# What it learns from.


@one_backend
@pytest.mark.parametrize(
    ("written", "scheme"),
    [("IOB1", "BIO"), ("BIOES", "BIOES"), ("BILOU", "BILOU"), ("IOE2", "BIO")],
)
def test_the_scheme_is_found(written, scheme):
    """Whatever scheme a corpus keeps to, the spans are its own; the scheme stays if it can."""
    tags = fg.tagging.convert_tags([tags for _, tags in CORPUS], getattr(fg.tagging, written))
    task = fg.tagging.Tagger("spans")._task
    read = task.read([(words, own) for (words, _), own in zip(CORPUS, tags, strict=True)])
    task.learn(read)
    assert task.get_config()["scheme"] == scheme
    spans = [fg.tagging.spans_of(example.tags) for example in read]
    assert spans == [fg.tagging.spans_of(own) for _, own in CORPUS]


@one_backend
def test_long_sentences_are_cut_outside_of_spans():
    """No piece begins inside a span: the loss of all of them is finite."""
    task = Tagger("spans")._task
    (example,) = task.read([(["New", "York"] * 3, ["B-LOC", "I-LOC"] * 3)])
    assert task.may_cut(example).tolist() == [True, False] * 3


@one_backend
@pytest.mark.parametrize(
    ("make", "error", "match"),
    [
        (lambda: Tagger("parsing"), ValueError, "one of 'labels', 'segment' and 'spans'"),
        (lambda: Tagger("labels", scheme="BIO"), ValueError, "scheme is for the task 'spans'"),
        (lambda: Tagger(scheme="IOB1"), ValueError, "one of BIO, BIOES"),
        (lambda: Tagger("spans", "rnn"), ValueError, "'bilstm', 'cnn'"),
        (lambda: Tagger(pooling="max"), ValueError, "'first', 'last', 'mean'"),
        (lambda: Tagger(layers=2), ValueError, "need a backbone"),
        (lambda: Tagger(learning_rate=-1.0), ValueError, "learning_rate=-1.0"),
        (lambda: Tagger(layer_decay=0.0), ValueError, "layer_decay=0.0"),
        (lambda: Tagger().tag(["a"]), ValueError, "no model yet"),
        (lambda: Tagger().fit([(["a"], ["O"])] * 40), CorpusError, "all tagged O"),
        (lambda: Tagger().fit([(["a", "b"], ["O", "I-X"]), (["c"], ["B-X"])]), CorpusError, "I-X"),
        (lambda: Tagger("labels").fit([(["a"], ["N"])]), CorpusError, "Training needs sentences"),
        (lambda: Tagger().fit([(["a"], ["NOUN"])]), CorpusError, "the task is 'labels'.*'NOUN'"),
        (lambda: Tagger().fit(CORPUS, epochs=0), ValueError, "epochs=0"),
        (lambda: Tagger().fit(CORPUS, batch_size=0), ValueError, "batch_size=0"),
    ],
)
def test_what_it_refuses(make, error, match):
    """The error names the value and the cure."""
    with pytest.raises(error, match=match):
        make()


@one_backend
def test_a_sentence_is_no_string(tagger):
    """A text is not taken for a list of characters."""
    with pytest.raises(TypeError, match=r"use `text.split\(\)`"):
        tagger.tag("Ada sees Rome")
    with pytest.raises(TypeError, match=r"should be strings\. Received: 1"):
        tagger.tag(["Ada", 1])
    with pytest.raises(TypeError, match=r"sequence of words.*Received: None"):
        tagger.tag(None)
    with pytest.raises(TypeError, match=r"element of `allowed`.*Received: 'O'"):
        tagger.tag(["Ada"], allowed=["O"])


@one_backend
def test_new_tags_need_a_new_model(tagger):
    """A model that is there cannot learn another tag."""
    with pytest.raises(ValueError, match=r"This model's tags are O, .*'B-ORG'"):
        tagger.fit([*CORPUS, (["Acme"], ["B-ORG"])], **FIT)


# Files.


@pytest.mark.full
def test_its_file(tagger, file):
    """A loaded tagger has the same task, tags and words, and finds the same."""
    loaded = Tagger.load(file)
    assert (loaded.task, loaded.labels) == (tagger.task, tagger.labels)
    assert loaded._features.words == {word for words, _ in CORPUS for word in words}
    sentences = [words for words, _ in VALIDATION]
    assert loaded.tag_many(sentences) == tagger.tag_many(sentences)
    assert_same(values(loaded.model.weights), values(tagger.model.weights))


@one_backend
def test_what_the_file_says(file, tmp_path):
    """The task and the tags stand beside Keras's model, which opens without them."""
    with zipfile.ZipFile(file) as archive:
        described = json.loads(archive.read("tagger.json"))
    labels = ["O", "B-LOC", "I-LOC", "B-PER", "I-PER"]
    tables = described.pop("tables")
    assert described == {"name": "spans", "scheme": "BIO", "labels": labels}
    scheme = BIO(labels)
    assert tables["types"] == list(scheme.types)
    assert tables["allowed"] == scheme.allowed.tolist()
    assert tables["breaks"] == scheme.spans.breaks.tolist()
    assert keras.models.load_model(file).get_layer("crf").num_tags == 5
    with pytest.raises(ValueError, match=r"tagger of the task 'spans': use `Tagger\.load`"):
        Segmenter.load(file)
    with pytest.raises(FileNotFoundError, match="no model file of this name"):
        Tagger.load(tmp_path / "none.keras")
    (tmp_path / "text.keras").write_text("no model")
    with pytest.raises(ValueError, match="cannot be read as one"):
        Tagger.load(tmp_path / "text.keras")


class Killed(Exception):
    """Ends a training at once."""


def kill_in_epoch(number):
    def on_batch_end(batch, logs):
        if callback.epoch == number and batch == 2:
            raise Killed

    callback = keras.callbacks.LambdaCallback(
        on_epoch_begin=lambda epoch, logs: setattr(callback, "epoch", epoch),
        on_train_batch_end=on_batch_end,
    )
    return callback


@pytest.mark.full
def test_a_training_that_was_killed_goes_on(tmp_path):
    """It ends with the weights, the score and the file of one that was not, bit by bit."""
    options = SMALL | {"seed": drawn.seed(0)}
    fit = FIT | {"corpus": CORPUS}
    whole = Tagger("spans", **options).fit(**fit, save_to=tmp_path / "whole.keras")
    with pytest.raises(Killed):
        Tagger("spans", **options).fit(
            **fit, save_to=tmp_path / "m.keras", callbacks=[kill_in_epoch(2)]
        )
    assert (tmp_path / "m.keras.training").exists()
    epochs = []
    noting = keras.callbacks.LambdaCallback(on_epoch_begin=lambda epoch, _: epochs.append(epoch))
    resumed = Tagger("spans", **options).fit(
        **fit, save_to=tmp_path / "m.keras", callbacks=[noting]
    )
    assert epochs == [2, 3]
    assert_same(values(resumed.model.weights), values(whole.model.weights))
    assert resumed.validation_score == whole.validation_score
    saved = Tagger.load(tmp_path / "m.keras")
    assert_same(values(saved.model.weights), values(whole.model.weights))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.keras", "whole.keras"]


@one_backend
@pytest.mark.parametrize(
    "changed", [{"seed": 5}, {"learning_rate": 0.01}, {"corpus": CORPUS[:-1]}, {"batch_size": 8}]
)
def test_another_training_begins_anew(changed, tmp_path):
    """What a killed training left is not taken up by one with another corpus or options."""
    options = SMALL | {"seed": 0}
    fit = FIT | {"corpus": CORPUS, "epochs": 2, "save_to": tmp_path / "m.keras"}
    with pytest.raises(Killed):
        Tagger("spans", **options).fit(**fit, callbacks=[kill_in_epoch(1)])
    options |= {key: value for key, value in changed.items() if key in ("seed", "learning_rate")}
    fit |= {key: value for key, value in changed.items() if key in ("corpus", "batch_size")}
    epochs = []
    noting = keras.callbacks.LambdaCallback(on_epoch_begin=lambda epoch, _: epochs.append(epoch))
    Tagger("spans", **options).fit(**fit, callbacks=[noting])
    assert epochs == [0, 1]


@one_backend
def test_a_damaged_checkpoint_is_no_checkpoint(tmp_path):
    """It is as if there were none."""
    (tmp_path / "m.keras.training").write_bytes(b"PK\x03\x04 half a file")
    options = FIT | {"epochs": 1, "save_to": tmp_path / "m.keras"}
    Tagger("spans", **SMALL, seed=0).fit(CORPUS, **options)
    assert [path.name for path in tmp_path.iterdir()] == ["m.keras"]
