"""The word segmenter: text in, words out."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from finegrain._backend.support import WITHOUT_GRADIENTS, no_kernel
from finegrain._checks import checked_number
from finegrain.crf.layer import CRF
from finegrain.crf.loss import CRFNegativeLogLikelihood
from finegrain.per_weight.optimizer import PerWeight
from finegrain.rules.rule import Rule
from finegrain.tagger.batches import Batches
from finegrain.tagger.characters import CharacterFeatures
from finegrain.tagger.decoding import Decoder
from finegrain.tagger.encoders import Encoder, get_encoder
from finegrain.tagger.files import whole_file
from finegrain.tagger.training import KeepBest
from finegrain.tagger.windows import WINDOW, split_blanks, stitch, windows
from finegrain.tagging.corpus import CorpusError, read_segmented
from finegrain.tagging.schemes import BMES
from finegrain.tagging.scores import SegmentationScore, score

Sentences = Sequence[Sequence[str]]
Corpus = Sentences | str | os.PathLike[str]

_TRANSITIONS = r"crf/(transitions|start|end)$"


class Segmenter:
    r"""A segmenter that splits text into words by tagging each character as s, b, m or e.

    A character encoder gives each tag a score; a CRF (or, with `crf=False`, a softmax for each
    character) turns the scores into tags; Viterbi decoding admits only sequences that spell words.

    Args:
        encoder: `"cnn"`, `"bilstm"`, or a Keras layer or model that maps features (batch, time,
            channels) to features (batch, time, any number of channels).
        crf: Whether neighbouring tags depend on each other.
        crf_learning_rate_multiplier: The transitions learn at learning rate × this.
        constrain_training: Whether training, too, admits only sequences that spell words. If
            not, the CRF has to learn it.
        width: Channels of the encoder.
        dropout: Share of the encoder's inputs and outputs set to zero in training.
        learning_rate: Peak learning rate of Adam; it warms up and decays along a cosine.
        seed: If given, seeds Keras, NumPy and Python before the model is made, and the order of
            the sentences.

    Raises:
        ValueError: for an unknown encoder, or a multiplier or learning rate that is negative or not
            finite.

    Example:
    >>> import finegrain as fg
    >>> segmenter = fg.tagging.Segmenter(width=16, seed=0)
    >>> corpus = [["the", "cat", "sat"], ["the", "dog", "sat"], ["a", "cat", "ran"]] * 20
    >>> segmenter.fit(corpus, epochs=12, verbose=0).segment("thedogran")
    ['the', 'dog', 'ran']
    >>> segmenter.segment("the  catsat")
    ['the', '  ', 'cat', 'sat']

    References:
        Su Jianlin, The learning rate of your CRF layer may be too small, 2020,
        https://kexue.fm/archives/7196
    """

    def __init__(
        self,
        encoder: str | Encoder = "cnn",
        *,
        crf: bool = True,
        crf_learning_rate_multiplier: float = 100.0,
        constrain_training: bool = False,
        width: int = 128,
        dropout: float = 0.3,
        learning_rate: float = 2e-3,
        seed: int | None = None,
    ) -> None:
        self.encoder = get_encoder(encoder, width, dropout)
        self.crf = crf
        self.crf_learning_rate_multiplier = checked_number(
            "crf_learning_rate_multiplier", crf_learning_rate_multiplier
        )
        self.constrain_training = constrain_training
        self.dropout = dropout
        self.learning_rate = checked_number("learning_rate", learning_rate)
        self.seed = seed
        self.scheme = BMES()
        self.validation_score: SegmentationScore | None = None
        self._decoder: Decoder | None = None

    @property
    def model(self) -> keras.Model:
        """The Keras model, from encoded characters to potentials."""
        return self._trained.model

    @property
    def _trained(self) -> Decoder:
        if self._decoder is None:
            raise ValueError(
                "This segmenter has no model yet: call `fit`, or `Segmenter.load` a saved one."
            )
        return self._decoder

    @property
    def transitions(self) -> np.ndarray | None:
        """The (tags, tags) scores [from, to] between neighbouring tags; None without a CRF."""
        if not self.crf:
            return None
        return keras.ops.convert_to_numpy(self.model.get_layer("crf").transitions.value)

    def fit(
        self,
        corpus: Corpus,
        *,
        validation: Corpus | float = 0.05,
        epochs: int | None = None,
        batch_size: int = 16,
        patience: int = 2,
        save_to: str | os.PathLike[str] | None = None,
        callbacks: Sequence[keras.callbacks.Callback] = (),
        verbose: str | int = "auto",
    ) -> Segmenter:
        """Train on segmented sentences and keep the weights of the best epoch.

        A segmenter that already has a model goes on from it, with the characters it knows.

        Args:
            corpus: Sentences as lists of words, or the path of a file with a sentence a line and
                blanks between the words.
            validation: Sentences or a file that tell which epoch is best; or the share of the
                corpus that is held out for it.
            epochs: Most passes over the corpus. By default as many as make about 800 steps, at
                least 3 and at most 30.
            batch_size: Most sentences a step.
            patience: Epochs without a better F1 after which training stops.
            save_to: A `.keras` file in which the best model so far is kept while training runs.
            callbacks: Further Keras callbacks.
            verbose: As for Keras's `fit`.

        Returns:
            The segmenter itself; `validation_score` holds the best epoch's score.

        Raises:
            CorpusError: if a file cannot be read as a corpus, or it has too few sentences.
            ValueError: if `save_to` is not a `.keras` file in an existing folder.
            TrainingDivergedError: if the loss or a weight is no longer finite after an epoch.
            KeyboardInterrupt: on Ctrl-C. As after any error in training, the best weights so far
                are back in place.
            NotImplementedError: on a backend of Keras that does not train.
        """
        if keras.backend.backend() in WITHOUT_GRADIENTS:
            raise no_kernel("Training")
        train, held_out = self._sentences(corpus, validation)
        if save_to is not None:
            _checked_path(save_to)
        if self.seed is not None:
            keras.utils.set_random_seed(self.seed)
        if self._decoder is None:
            self._set_model(self._build(train))
        self._trained.features.words |= {word for words in train for word in words}
        pieces = [piece for words in train for piece in self._labelled(words)]
        batches = Batches(
            [x for x, _ in pieces],
            [y for _, y in pieces],
            batch_size=batch_size,
            seed=self.seed or 0,
        )
        if epochs is None:
            epochs = min(max(round(800 / len(batches)), 3), 30)
        self.model.compile(
            optimizer=self._optimizer(epochs * len(batches)),
            loss=CRFNegativeLogLikelihood(reduction="mean_with_sample_weight"),
        )
        keep_best = KeepBest(
            held_out,
            self.segment_many,
            patience=patience,
            on_better=lambda: None if save_to is None else self.save(save_to),
        )
        try:
            self.model.fit(
                batches, epochs=epochs, callbacks=[keep_best, *callbacks], verbose=verbose
            )
        finally:
            if keep_best.restore():
                self.validation_score = keep_best.best
                if save_to is not None and not keep_best.best_is_kept:
                    self.save(save_to)  # Ctrl-C came during the save
        return self

    def segment(self, text: str) -> list[str]:
        """Split a text into words that, joined, give the text again, character by character.

        Args:
            text: Any text. Blanks in it separate words and come back as elements of their own.
        """
        return self.segment_many([text])[0]

    def segment_many(self, texts: Iterable[str]) -> list[list[str]]:
        """Split several texts into words, faster than one at a time.

        Args:
            texts: Any texts; empty ones have no words.
        """
        decoder = self._trained
        texts = list(texts)
        runs = [split_blanks(text) for text in texts]
        pieces = [
            (number, start, window)
            for number, spans in enumerate(runs)
            for start, end, blank in spans
            if not blank
            for window in windows(start, end)
        ]
        tags = decoder.tags([texts[number][w.start : w.end] for number, _, w in pieces])
        parts: dict[tuple[int, int], list[Any]] = {}
        for (number, start, window), piece in zip(pieces, tags, strict=True):
            parts.setdefault((number, start), []).append((window, piece))
        result: list[list[str]] = []
        for number, (text, spans) in enumerate(zip(texts, runs, strict=True)):
            words: list[str] = []
            for start, end, blank in spans:
                run = text[start:end]
                words += [run] if blank else self.scheme.decode(run, stitch(parts[number, start]))
            result.append(words)
        return result

    def score(self, corpus: Corpus) -> SegmentationScore:
        """Compute precision, recall, F1 and recall of words unseen in training (SIGHAN's terms).

        Args:
            corpus: Sentences as lists of words, or the path of a file of them.

        Raises:
            CorpusError: if the file cannot be read as a corpus.
        """
        sentences = _read(corpus)
        predicted = self.segment_many(["".join(words) for words in sentences])
        return score(sentences, predicted, self._trained.features.words)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the segmenter to a `.keras` file, whole or not at all.

        Args:
            path: The file, whose name ends in `.keras`; one that is there is replaced.

        Raises:
            ValueError: if the name does not end in `.keras`.
        """
        with whole_file(_checked_path(path)) as temporary:
            self.model.save(temporary)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Segmenter:
        """Load the segmenter that `save` wrote.

        The file holds the model. Options of training (multiplier, learning rate, seed) are not in
        it: a further `fit` takes the defaults.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if it holds no segmenter.
        """
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(
                "There is no model file of this name; `finegrain train` makes one. "
                f"Received: {path}"
            )
        segmenter = cls()
        try:
            model = keras.models.load_model(path, safe_mode=True)
            segmenter._set_model(model)
        except Exception as error:  # a damaged file can make anything fail
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise ValueError(
                "A segmenter's file is what `Segmenter.save` or `finegrain train` wrote. "
                f"Received: {path}, which cannot be read as one ({reason})"
            ) from error
        return segmenter

    def _build(self, train: Sentences) -> keras.Model:
        features = CharacterFeatures.of(train, name="characters")
        inputs = keras.Input((None, 3), dtype="int32", name="text")
        x = features(inputs)
        x = keras.layers.Dropout(self.dropout, name="characters_dropout")(x)
        head = CRF(
            len(self.scheme.labels),
            use_transitions=self.crf,
            use_boundaries=self.crf,
            constraints=self.scheme if self.crf and self.constrain_training else None,
            name="crf",
        )
        potentials = head(self.encoder(x), mask=features.compute_mask(inputs))
        return keras.Model(inputs, potentials, name="segmenter")

    def _set_model(self, model: keras.Model) -> None:
        """Adopt `model`, or raise ValueError if it is not a segmenter's model."""
        features = [x for x in model.layers if isinstance(x, CharacterFeatures)]
        heads = [x for x in model.layers if isinstance(x, CRF)]
        if len(features) != 1 or len(heads) != 1:
            raise ValueError(
                "a segmenter's model has one CharacterFeatures and one CRF layer, here are "
                f"{len(features)} and {len(heads)}"
            )
        self.crf = heads[0].use_transitions
        self._decoder = Decoder(model, features[0], self.scheme)

    def _optimizer(self, steps: int) -> PerWeight:
        schedule = keras.optimizers.schedules.CosineDecay(
            self.learning_rate * 0.1,
            decay_steps=steps,
            warmup_target=self.learning_rate,
            warmup_steps=max(steps // 20, 1),
        )
        rules = []
        if self.crf:
            multiplier = self.crf_learning_rate_multiplier
            rules = [Rule(_TRANSITIONS, learning_rate_multiplier=multiplier, name="transitions")]
        return PerWeight(keras.optimizers.Adam(schedule, global_clipnorm=5.0), rules)

    def _sentences(self, corpus: Corpus, validation: Corpus | float) -> tuple[Sentences, Sentences]:
        """Return the training and the validation sentences, none of them empty."""
        sentences = _read(corpus)
        if isinstance(validation, (int, float)):
            share = validation if 0 < validation < 1 else 0
            count = round(len(sentences) * share)
            order = np.random.default_rng(self.seed or 0).permutation(len(sentences))
            held_out = [sentences[index] for index in sorted(order[:count])]
            sentences = [sentences[index] for index in sorted(order[count:])]
            received = f"{len(order)} sentences, validation={validation!r}"
        else:
            held_out = _read(validation)
            received = f"{len(sentences)} sentences, {len(held_out)} for validation"
        if not held_out or not any(len(word) <= WINDOW for words in sentences for word in words):
            raise CorpusError(
                "Training needs sentences to learn from, with words of at most "
                f"{WINDOW} characters, and others to choose the best epoch by: a larger corpus, or "
                f"another `validation`. Received: {received}"
            )
        return sentences, held_out

    def _labelled(self, words: Sequence[str]) -> list[tuple[np.ndarray, np.ndarray]]:
        """Encode the characters and tags of a sentence, in pieces of whole words."""
        pieces: list[list[str]] = [[]]
        length = 0
        for word in words:
            if len(word) > WINDOW:
                continue
            if length + len(word) > WINDOW:
                pieces.append([])
                length = 0
            pieces[-1].append(word)
            length += len(word)
        return [
            (
                self._trained.features.encode(["".join(piece)], len("".join(piece)))[0],
                self.scheme.encode(piece),
            )
            for piece in pieces
            if piece
        ]


def _read(corpus: Corpus) -> list[Sequence[str]]:
    """Read the sentences that have words."""
    given: Sentences = read_segmented(corpus) if isinstance(corpus, (str, os.PathLike)) else corpus
    sentences: list[Sequence[str]] = []
    for words in given:
        if isinstance(words, str):
            raise TypeError(
                "A sentence should be a sequence of words, such as ['the', 'cat']. "
                f"Received: {words!r}"
            )
        if any(words):
            sentences.append(words)
    return sentences


def _checked_path(path: str | os.PathLike[str]) -> Path:
    path = Path(path)
    if path.suffix != ".keras":
        raise ValueError(f"A model's file name should end in .keras. Received: {path}")
    if not path.parent.is_dir():
        raise ValueError(f"There is no folder {path.parent} to write {path.name} into.")
    return path
