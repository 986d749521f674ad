"""The word segmenter: text in, words out."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from copy import copy
from typing import Any

import keras
import numpy as np

from finegrain.tagger.encoders import Encoder
from finegrain.tagger.tagger import Tagger
from finegrain.tagger.tasks import Segmentation
from finegrain.tagging.scores import SegmentationScore, score
from finegrain_reader.dictionary import Dictionary, best_tags_with_words
from finegrain_reader.sequences import segmented

Sentences = Sequence[Sequence[str]]
Corpus = Sentences | str | os.PathLike[str]


class Segmenter:
    r"""A segmenter that splits text into words by tagging each character as s, b, m or e.

    A character encoder gives each tag a score; a CRF (or, with `crf=False`, a softmax for each
    character) turns the scores into tags; Viterbi decoding admits only sequences that spell words.

    Args:
        encoder: `"cnn"`, `"bilstm"`, or a Keras layer or model that maps features (batch, time,
            channels) to features (batch, time, any number of channels). Defaults to `"cnn"`, and
            to none above a backbone.
        backbone: A KerasHub backbone that encodes a text, such as `BertBackbone`. It is trained.
        tokenizer: The backbone's tokenizer.
        layers: How many of the backbone's blocks to use, counted from the first. Defaults to all.
        crf: Whether neighbouring tags depend on each other.
        crf_learning_rate_multiplier: The transitions learn at learning rate × this.
        constrain_training: Whether training, too, admits only sequences that spell words. If
            not, the CRF has to learn it.
        width: Channels of the encoder.
        dropout: Share of the encoder's inputs and outputs set to zero in training.
        learning_rate: Peak learning rate; it warms up and decays along a cosine. Defaults to
            2e-3 and, with a backbone, to 1e-4 for the last of its blocks.
        seed: If given, seeds Keras, NumPy and Python before the model is made, and the order of
            the sentences.

    It is a `Tagger` of the task `"segment"`, which takes further options of training.

    Raises:
        TypeError: if the backbone or the tokenizer is none.
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
        encoder: str | Encoder | None = None,
        *,
        backbone: Any = None,
        tokenizer: Any = None,
        layers: int | None = None,
        crf: bool = True,
        crf_learning_rate_multiplier: float = 100.0,
        constrain_training: bool = False,
        width: int = 128,
        dropout: float = 0.3,
        learning_rate: float | None = None,
        seed: int | None = None,
    ) -> None:
        self.tagger = Tagger(
            "segment",
            encoder,
            backbone=backbone,
            tokenizer=tokenizer,
            layers=layers,
            crf=crf,
            crf_learning_rate_multiplier=crf_learning_rate_multiplier,
            constrain_training=constrain_training,
            width=width,
            dropout=dropout,
            learning_rate=learning_rate,
            seed=seed,
        )
        self._dictionary: Dictionary | None = None

    @property
    def model(self) -> keras.Model:
        """The Keras model, from encoded characters to potentials."""
        return self.tagger.model

    @property
    def transitions(self) -> np.ndarray | None:
        """The (tags, tags) scores [from, to] between neighbouring tags; None without a CRF."""
        return self.tagger.transitions

    @property
    def validation_score(self) -> SegmentationScore | None:
        """The score of the best epoch of the last training."""
        return self.tagger.validation_score

    def fit(
        self,
        corpus: Corpus,
        *,
        validation: Corpus | float = 0.05,
        epochs: int | None = None,
        batch_size: int = 16,
        class_weight: Mapping[str, float] | None = None,
        patience: int = 2,
        save_to: str | os.PathLike[str] | None = None,
        resume: bool | None = None,
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
                least 3 and at most 30; with a backbone 5.
            batch_size: Most sentences a step.
            class_weight: What the tags s, b, m and e of characters count in the loss, such as
                `{"m": 2}`: numbers ≥ 0; others count 1. With `crf=False` the loss of each character
                is multiplied by the weight of its tag, with a CRF that of each sentence by the mean
                weight of its tags.
            patience: Epochs without a better F1 after which training stops.
            save_to: A `.keras` file in which the best model so far is kept while training runs.
                Till training is done, a second file beside it, whose name ends in `.training`,
                holds what it takes to go on after the last epoch.
            resume: Whether to go on with a training of the same corpus and options that was
                killed. By default, if there is one; if true, there has to be one.
            callbacks: Further Keras callbacks.
            verbose: As for Keras's `fit`.

        Returns:
            The segmenter itself; `validation_score` holds the best epoch's score.

        Raises:
            CorpusError: if a file cannot be read as a corpus, or it has too few sentences.
            TypeError: if `class_weight` is no dictionary of numbers.
            ValueError: if `save_to` is not a `.keras` file in an existing folder, or `class_weight`
                names no tag, or has a weight that is negative or not finite, or nothing but 0.
            TrainingDivergedError: if the loss or a weight is no longer finite after an epoch.
            KeyboardInterrupt: on Ctrl-C. As after any error in training, the best weights so far
                are back in place.
            NotImplementedError: on a backend of Keras that does not train.
        """
        self.tagger.fit(
            corpus,
            validation=validation,
            epochs=epochs,
            batch_size=batch_size,
            class_weight=class_weight,
            patience=patience,
            save_to=save_to,
            resume=resume,
            callbacks=callbacks,
            verbose=verbose,
        )
        return self

    def segment(self, text: str) -> list[str]:
        """Split a text into words that, joined, give the text again, character by character.

        Args:
            text: Any text. Blanks in it separate words and come back as elements of their own.
                Characters that make one for a reader, such as a letter and its accent, stay
                together; letters and digits of full width are read as others, and come back.
        """
        return self.segment_many([text])[0]

    def segment_many(self, texts: Iterable[str]) -> list[list[str]]:
        """Split several texts into words, faster than one at a time.

        Args:
            texts: Any texts; empty ones have no words.

        Raises:
            TypeError: if they are not several texts.
        """
        return segmented(texts, self._tags)

    def with_words(self, words: Iterable[str] | Mapping[str, float]) -> Segmenter:
        """Make a segmenter that prefers your words where they fit; it shares the model of this one.

        A word raises the score of a segmentation that has it by 5, or by the weight that you give:
        the odds of it rise by e to that power. What the text around says still counts.

        Args:
            words: Words, or a dictionary of words and weights, finite numbers ≥ 0. They come to
                those that the segmenter has.

        Returns:
            The new segmenter. Its words are not in the file that `save` writes.

        Raises:
            TypeError: if `words` is a string, or a word is none.
            ValueError: if a word is empty or has blanks, or a weight is not finite or below 0.

        Example:
        >>> import finegrain as fg
        >>> corpus = [["the", "cat", "sat"], ["the", "dog", "sat"], ["a", "cat", "ran"]] * 20
        >>> segmenter = fg.tagging.Segmenter(width=16, seed=0).fit(corpus, epochs=12, verbose=0)
        >>> segmenter.with_words({"thecat": 100}).segment("thecatsat")
        ['thecat', 'sat']
        """
        known = {} if self._dictionary is None else self._dictionary.weights
        other = copy(self)
        other._dictionary = Dictionary(known | Dictionary(words).weights)
        return other

    def _tags(self, runs: list[str]) -> list[np.ndarray]:
        """Find the tags of texts without blanks, with the user's words where there are any."""
        dictionary = self._dictionary
        if dictionary is None:
            return self.tagger.tag_numbers(runs)
        matches = [dictionary.matches(run) for run in runs]
        plain = [number for number, found in enumerate(matches) if not found]
        others = [number for number, found in enumerate(matches) if found]
        tags = dict(zip(plain, self.tagger.tag_numbers([runs[n] for n in plain]), strict=True))
        chains = self.tagger.chains([runs[n] for n in others])
        for number, chain in zip(others, chains, strict=True):
            tags[number] = best_tags_with_words(chain, matches[number])
        return [tags[number] for number in range(len(runs))]

    def score(self, corpus: Corpus) -> SegmentationScore:
        """Compute precision, recall, F1 and recall of words unseen in training (SIGHAN's terms).

        Args:
            corpus: Sentences as lists of words, or the path of a file of them.

        Raises:
            CorpusError: if the file cannot be read as a corpus.
        """
        task = Segmentation()
        sentences = [task.cut(*example) for example in task.read(corpus)]
        predicted = self.segment_many(["".join(words) for words in sentences])
        return score(sentences, predicted, self.tagger.known_words)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the segmenter to a `.keras` file, whole or not at all.

        Args:
            path: The file, whose name ends in `.keras`; one that is there is replaced.

        Raises:
            ValueError: if the name does not end in `.keras`.
        """
        self.tagger.save(path)

    @classmethod
    def load(cls, path: str | os.PathLike[str], **options: Any) -> Segmenter:
        """Load the segmenter that `save` wrote.

        Args:
            path: The file. It holds the model, not the options of training.
            **options: Learning rate, multiplier and seed of a further `fit`, as the class takes
                them.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if it holds no segmenter.
        """
        segmenter = cls()
        segmenter.tagger = Tagger.load(path, **options)
        if segmenter.tagger.task != "segment":
            raise ValueError(
                f"This file holds a tagger of the task {segmenter.tagger.task!r}: use "
                f"`Tagger.load`. Received: {path}"
            )
        return segmenter
