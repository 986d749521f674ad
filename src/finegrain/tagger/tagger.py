"""The tagger: sequences of words or characters in, a tag for each out."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np

from finegrain._backend.support import WITHOUT_GRADIENTS, no_kernel
from finegrain.crf.checks import checked_count
from finegrain.crf.loss import CRFNegativeLogLikelihood
from finegrain.tagger.batches import Batches
from finegrain.tagger.characters import CharacterFeatures
from finegrain.tagger.class_weights import WeightedLikelihood, label_weights
from finegrain.tagger.decoding import Chain, Decoder
from finegrain.tagger.encoders import Encoder
from finegrain.tagger.files import (
    check_can_be_saved,
    checked_path,
    read_tagger,
    tagger_errors,
    write_tagger,
)
from finegrain.tagger.network import Network, backbone_of, features_of
from finegrain.tagger.rates import Rates
from finegrain.tagger.tasks import Corpus, Example, get_task
from finegrain.tagger.training import Checkpoint, KeepBest, fingerprint
from finegrain.tagging.files import CorpusError
from finegrain.tagging.prefixed import Span
from finegrain_reader.sequences import checked_units
from finegrain_reader.windows import pieces

Allowed = Sequence[Collection[str] | None]


class Analysis(NamedTuple):
    """What a tagger knows of one sequence.

    Attributes:
        tags: The best tags, a name for each unit.
        confidence: (units,) float32: the probability of each of these tags.
        marginals: (units, tags) float32: the probability of every tag, in the order of `labels`.
        spans: The spans of the best tags, each with the probability that exactly it is there.
        n_best: The best tag sequences, best first, each with its probability.
    """

    tags: list[str]
    confidence: np.ndarray
    marginals: np.ndarray
    spans: list[tuple[Span, float]]
    n_best: list[tuple[list[str], float]]


class Tagger:
    r"""A tagger that gives each word of a sentence a label, finds spans, or cuts text into words.

    Features of the words, or a pretrained backbone, and an encoder give each tag a score; a CRF
    (or, with `crf=False`, a softmax for each word) turns the scores into tags; Viterbi decoding
    admits only what the scheme of the tags allows.

    Args:
        task: `"labels"`: a label for each word, such as its part of speech. `"spans"`: spans of
            words, such as names, whose tags are B-PER, I-PER, O and their like. `"segment"`: the
            words of a text without blanks.
        encoder: `"cnn"`, `"bilstm"`, or a Keras layer or model that maps features (batch, time,
            channels) to features (batch, time, any number of channels). Defaults to `"cnn"` for
            characters, `"bilstm"` for words, and none above a backbone.
        backbone: A KerasHub backbone that takes one text, such as `BertBackbone`. It is trained,
            except what is frozen.
        tokenizer: The backbone's tokenizer.
        layers: How many of the backbone's blocks to use, counted from the first; of blocks that are
            called several times, as ALBERT's, how many calls. Defaults to all.
        pooling: Which of a word's sub-words stand for it: `"first"`, `"last"` (for a backbone that
            reads from left to right), or the `"mean"` of all.
        scheme: `"BIO"` or another scheme for the tags of spans. Defaults to that of the corpus.
        crf: Whether neighbouring tags depend on each other.
        constrain_training: Whether training, too, admits only what the scheme allows. If not,
            the CRF has to learn it.
        width: Channels of the encoder.
        dropout: Share of the encoder's inputs and outputs set to zero in training.
        learning_rate: Peak learning rate; it warms up and decays along a cosine. Defaults to
            2e-3 and, with a backbone, to 1e-4 for the last of its blocks.
        crf_learning_rate_multiplier: The transitions learn at learning rate × this.
        head_learning_rate_multiplier: What stands above a backbone learns at learning rate × this.
        layer_decay: Each block of a backbone learns at the rate of the block above it × this.
        weight_decay: Of the kernels and embeddings above and in a backbone.
        seed: If given, seeds Keras, NumPy and Python before the model is made, and the order of
            the sentences.

    Raises:
        TypeError: if the backbone or the tokenizer is none.
        ValueError: for an unknown name, or a number out of its range.

    Example:
    >>> import finegrain as fg
    >>> corpus = [(["Ada", "met", "Bob"], ["B-PER", "O", "B-PER"]),
    ...     (["Bob", "and", "Ada", "left"], ["B-PER", "O", "B-PER", "O"])] * 20
    >>> tagger = fg.tagging.Tagger("spans", width=16, seed=0)
    >>> tagger = tagger.fit(corpus, epochs=8, verbose=0)
    >>> tagger.tag(["Ada", "left"])
    ['B-PER', 'O']
    >>> tagger.spans(["Bob", "met", "Ada"])
    [Span(label='PER', start=0, end=1), Span(label='PER', start=2, end=3)]

    References:
        Su Jianlin, The learning rate of your CRF layer may be too small, 2020,
        https://kexue.fm/archives/7196
    """

    def __init__(
        self,
        task: str = "spans",
        encoder: str | Encoder | None = None,
        *,
        backbone: Any = None,
        tokenizer: Any = None,
        layers: int | None = None,
        pooling: str = "first",
        scheme: Any = None,
        crf: bool = True,
        constrain_training: bool = False,
        width: int = 128,
        dropout: float = 0.3,
        learning_rate: float | None = None,
        crf_learning_rate_multiplier: float = 100.0,
        head_learning_rate_multiplier: float = 30.0,
        layer_decay: float = 0.9,
        weight_decay: float = 0.01,
        seed: int | None = None,
    ) -> None:
        self._task = get_task(task, scheme)
        self._network = Network(
            encoder,
            backbone=backbone,
            tokenizer=tokenizer,
            layers=layers,
            pooling=pooling,
            width=width,
            dropout=dropout,
            crf=crf,
            constrain_training=constrain_training,
        )
        self._rates = Rates(
            learning_rate,
            head_multiplier=head_learning_rate_multiplier,
            crf_multiplier=crf_learning_rate_multiplier,
            layer_decay=layer_decay,
            weight_decay=weight_decay,
        )
        self.seed = seed
        self.validation_score: Any = None
        self._model: keras.Model | None = None

    @property
    def task(self) -> str:
        """What is tagged: "labels", "spans" or "segment"."""
        return self._task.name

    @property
    def labels(self) -> tuple[str, ...]:
        """The names of the tags; empty before a corpus has told them."""
        return self._task.labels

    @property
    def model(self) -> keras.Model:
        """The Keras model, from encoded sequences to potentials."""
        if self._model is None:
            raise ValueError("There is no model yet: call `fit`, or `load` a saved one.")
        return self._model

    @property
    def transitions(self) -> np.ndarray | None:
        """The (tags, tags) scores [from, to] between neighbouring tags; None without a CRF."""
        head = self.model.get_layer("crf")
        return keras.ops.convert_to_numpy(head.transitions.value) if head.use_transitions else None

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
    ) -> Tagger:
        """Train on tagged sentences and keep the weights of the best epoch.

        A tagger that already has a model goes on from it, with the words and tags it knows.

        Args:
            corpus: Sentences as pairs of words and tags, an `(X, y)` of lists of both, or the
                path of a file of columns (CoNLL-2002, CoNLL-2003, CoNLL-U and their like); for
                `"segment"` sentences as lists of words, or a file with a sentence a line and
                blanks between the words.
            validation: A corpus that tells which epoch is best; or the share of the corpus that is
                held out for it.
            epochs: Most passes over the corpus. Defaults to as many as make about 800 steps
                (characters) or 3000 (words), at least 3 and at most 30; 5 with a backbone.
            batch_size: Most sentences a step.
            class_weight: What labels count in the loss, such as `{"O": 0.3}`: numbers ≥ 0 by label,
                as `labels` has them, or by type of span (`{"PER": 2}` for B-PER and I-PER, unless
                these have their own). Others count 1. With `crf=False` the loss of each word is
                multiplied by the weight of its label, as in Keras. The likelihood of a CRF is that
                of a whole sentence: it is multiplied by the mean weight of the sentence's labels.
            patience: Epochs without a better score after which training stops.
            save_to: A `.keras` file in which the best model so far is kept while training runs.
                Till training is done, a second file beside it, whose name ends in `.training`,
                holds what it takes to go on after the last epoch.
            resume: Whether to go on with a training of the same corpus and options that was
                killed. By default, if there is one; if true, there has to be one.
            callbacks: Further Keras callbacks.
            verbose: As for Keras's `fit`.

        Returns:
            The tagger itself; `validation_score` holds the best epoch's score.

        Raises:
            CorpusError: if a file cannot be read as a corpus, or it has too few sentences.
            TypeError: if `class_weight` is no dictionary of numbers.
            ValueError: if `save_to` is not a `.keras` file in an existing folder, or a part of the
                model cannot be saved; if there is no training to go on with that there has to be;
                if a tag is new to a model that is there already; or if `class_weight` names no
                label, or has a weight that is negative or not finite, or nothing but 0.
            TrainingDivergedError: if the loss or a weight is no longer finite after an epoch.
            KeyboardInterrupt: on Ctrl-C. As after any error in training, the best weights so far
                are back in place.
            NotImplementedError: on a backend of Keras that does not train.
        """
        if keras.backend.backend() in WITHOUT_GRADIENTS:
            raise no_kernel("Training")
        for name, value in (("epochs", epochs), ("batch_size", batch_size)):
            if value is not None:
                checked_count(value, name)
        train, held_out = self._split(corpus, validation)
        if save_to is not None:
            checked_path(save_to)
        if self.seed is not None:
            keras.utils.set_random_seed(self.seed)
        if self._model is None:
            self._task.learn(train)
        weights = None if class_weight is None else label_weights(class_weight, self._task, train)
        if self._model is None:
            self._set_model(self._network.build(self._task, train))
        if save_to is not None:
            check_can_be_saved(self.model)
        batches = self._batches(train, batch_size)
        self._features.words |= self._task.words(train)
        backbone = backbone_of(self.model)
        if epochs is None:
            steps = 800 if self.task == "segment" else 3000
            few = min(max(round(steps / len(batches)), 3), 30)
            epochs = few if backbone is None else 5
        self.model.compile(
            optimizer=self._rates.optimizer(self.model, backbone, epochs * len(batches)),
            loss=self._loss(weights),
        )
        keep_best = KeepBest(
            lambda: self._score(held_out, None),
            self._task.figures,
            patience=patience,
            on_better=lambda: None if save_to is None else self.save(save_to),
        )
        checkpoint = None
        if save_to is not None:
            options = [epochs, batch_size, patience, self.seed, self._rates.to_dict(), weights]
            checkpoint = Checkpoint(
                Path(f"{os.fspath(save_to)}.training"),
                keep_best,
                fingerprint(options, self._task.get_config(), train, held_out, self.model),
            )
        begin = 0 if checkpoint is None or resume is False else checkpoint.resume(self.model)
        if resume and not begin:
            raise ValueError(
                "There is no training of this corpus with these options to go on with: begin one "
                f"without `resume`. Received: resume={resume!r}, save_to={save_to!r}"
            )
        own = [keep_best] if checkpoint is None else [keep_best, checkpoint]
        batches.go_to_epoch(begin)
        try:
            self.model.fit(
                batches,
                epochs=epochs,
                initial_epoch=begin,
                shuffle=False,  # `batches` does it
                callbacks=[*own, *callbacks],
                verbose=verbose,
            )
            if checkpoint is not None:
                checkpoint.remove()
        finally:
            if keep_best.restore():
                self.validation_score = keep_best.best
                if save_to is not None and not keep_best.best_is_kept:
                    self.save(save_to)  # Ctrl-C came during the save
        return self

    def tag(self, words: Sequence[str], *, allowed: Allowed | None = None) -> list[str]:
        """Find the tags of a sentence.

        Args:
            words: The words of a sentence; for `"segment"` a text without blanks.
            allowed: For each word the tags that it may have, or `None` if it may have any.

        Returns:
            The name of a tag for each word.

        Raises:
            TypeError: if a sentence of words is a string.
            ValueError: if it has longer words than the single characters that the tagger was
                trained on, if no sequence of tags is allowed, or one that is allowed is no tag.
        """
        if allowed is None:
            return self.tag_many([words])[0]
        return self._names(self._chain(words, allowed).best_tags())

    def tag_many(self, sentences: Iterable[Sequence[str]]) -> list[list[str]]:
        """Find the tags of several sentences, faster than of one at a time.

        Args:
            sentences: Sentences, as `tag` takes them. They may be of any length.
        """
        return [self._names(tags) for tags in self.tag_numbers(sentences)]

    def tag_numbers(self, sentences: Iterable[Sequence[str]]) -> list[np.ndarray]:
        """Find the tags of several sentences as (units,) int32 numbers: places in `labels`."""
        units = [self._units(words) for words in sentences]
        return self._decoder.tags(units)

    def chains(self, sentences: Iterable[Sequence[str]]) -> list[Chain]:
        """Compute the scores of the tags of several sentences: a `Chain` of each."""
        units = [self._units(words) for words in sentences]
        return self._decoder.chains(units)

    @property
    def known_words(self) -> frozenset[str]:
        """The words of the training corpus."""
        return self._features.words

    def spans(self, words: Sequence[str], *, allowed: Allowed | None = None) -> list[Span]:
        """Find the spans of a sentence: (label, start, end) of each, in their order.

        Args:
            words: As `tag` takes them.
            allowed: As `tag` takes them.
        """
        return self._task.spans(self.tag(words, allowed=allowed))

    def analyze(
        self, words: Sequence[str], *, n_best: int = 1, allowed: Allowed | None = None
    ) -> Analysis:
        """Find the tags of a sentence, and how sure the model is of them.

        Args:
            words: As `tag` takes them.
            n_best: How many of the best tag sequences to find.
            allowed: As `tag` takes them.
        """
        return self._analysis(self._chain(words, allowed), n_best)

    def analyze_many(
        self, sentences: Iterable[Sequence[str]], *, n_best: int = 1
    ) -> list[Analysis]:
        """Find the tags of several sentences and how sure the model is, faster than one at a time.

        Args:
            sentences: Sentences, as `tag` takes them.
            n_best: How many of the best tag sequences to find of each.
        """
        return [self._analysis(chain, n_best) for chain in self.chains(sentences)]

    def _analysis(self, chain: Chain, n_best: int) -> Analysis:
        tags = chain.best_tags()
        marginals = chain.marginals()
        names = self._names(tags)
        spans = self._task.spans(names)
        sure = chain.probabilities([self._task.tags_of(span, len(tags)) for span in spans])
        return Analysis(
            tags=names,
            confidence=np.take_along_axis(marginals, tags[:, None], axis=1)[:, 0],
            marginals=marginals,
            spans=list(zip(spans, sure, strict=True)),
            n_best=[(self._names(found), p) for found, p in chain.n_best(n_best)],
        )

    def score(self, corpus: Corpus) -> Any:
        """Score the tags that the tagger finds in a corpus.

        Args:
            corpus: As `fit` takes them.

        Returns:
            For `"spans"` precision, recall and F1 of each type and their averages, as a
            `SpanScore`; for `"labels"` the accuracy and those of each label, as a `LabelScore`;
            for `"segment"` those of the words, as a `SegmentationScore`.

        Raises:
            CorpusError: if the file cannot be read as a corpus.
        """
        return self._score(self._task.read(corpus), self._features.words)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the tagger to a `.keras` file, whole or not at all.

        Args:
            path: The file, whose name ends in `.keras`; one that is there is replaced.

        Raises:
            ValueError: if the name does not end in `.keras`, there is no such folder, or a part of
                the model cannot be saved.
        """
        write_tagger(self.model, self._task, checked_path(path))

    @classmethod
    def load(cls, path: str | os.PathLike[str], **options: Any) -> Tagger:
        """Load the tagger that `save` wrote.

        Args:
            path: The file. It holds the model and the tags, not the options of training.
            **options: Learning rates, multipliers, decays and the seed of a further `fit`, as the
                class takes them.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if it holds no tagger.
        """
        path = Path(path)
        model, config = read_tagger(path)
        tagger = cls(config.get("name", ""), **options)
        with tagger_errors(path):
            tagger._task = get_task(**config)
            tagger._set_model(model)
        return tagger

    @property
    def _features(self) -> Any:
        return features_of(self.model)

    # From sequences to numbers, and back.

    def _set_model(self, model: keras.Model) -> None:
        """Adopt a model, or raise a ValueError if it is no tagger's."""
        features = features_of(model)
        self._decoder = Decoder(model, features, self._task.scheme, len(self.labels))
        self._model = model

    def _units(self, words: Sequence[str]) -> Sequence[str]:
        characters = isinstance(self._features, CharacterFeatures)
        return checked_units(words, self.task, characters=characters)

    def _names(self, tags: np.ndarray) -> list[str]:
        return [self.labels[tag] for tag in tags.tolist()]

    def _chain(self, words: Sequence[str], allowed: Allowed | None) -> Chain:
        units = self._units(words)
        numbers = None
        if allowed is not None:
            if len(allowed) != len(units):
                raise ValueError(
                    "`allowed` should have an element for each word: the tags that it may have, or "
                    f"None. Received: {len(units)} words and {len(allowed)} elements"
                )
            numbers = [None if names is None else self._numbers(names) for names in allowed]
        (chain,) = self._decoder.chains([units], None if numbers is None else [numbers])
        if numbers is not None and not chain.is_possible():
            raise ValueError(
                "No sequence of tags is allowed: the tags in `allowed` cannot follow one another. "
                f"Received: allowed={allowed!r}"
            )
        return chain

    def _numbers(self, names: Iterable[str]) -> list[int]:
        if isinstance(names, str) or not isinstance(names, Iterable):
            raise TypeError(
                "An element of `allowed` should be a list or a set of tags, such as ['O'], or "
                f"None. Received: {names!r}"
            )
        known = {name: number for number, name in enumerate(self.labels)}
        names = list(names)
        unknown = [name for name in names if name not in known]
        if unknown:
            raise ValueError(
                f"The tags of this tagger are {', '.join(self.labels)}. Received: {unknown[0]!r}"
            )
        return [known[name] for name in names]

    # Training.

    def _split(
        self, corpus: Corpus, validation: Corpus | float
    ) -> tuple[list[Example], list[Example]]:
        """Return the training and the validation sequences, none of them empty."""
        examples = self._task.read(corpus)
        if isinstance(validation, (int, float)):
            share = validation if 0 < validation < 1 else 0
            count = round(len(examples) * share)
            order = np.random.default_rng(self.seed or 0).permutation(len(examples))
            held_out = [examples[index] for index in sorted(order[:count])]
            examples = [examples[index] for index in sorted(order[count:])]
            received = f"{len(order)} sentences, validation={validation!r}"
        else:
            held_out = self._task.read(validation)
            received = f"{len(examples)} sentences, {len(held_out)} for validation"
        if not held_out or not examples:
            raise too_small(received)
        return examples, held_out

    def _batches(self, examples: Sequence[Example], batch_size: int) -> Batches:
        """Encode sequences, cut where they are too long for the model."""
        limit = self._features.lengths[-1]
        known = {name: number for number, name in enumerate(self.labels)}
        units, tags = [], []
        for example in examples:
            new = set(example.tags) - known.keys()
            if new:
                raise ValueError(
                    f"This model's tags are {', '.join(self.labels)}; make a new one for others. "
                    f"Received: {min(new)!r}"
                )
            numbers = np.array([known[tag] for tag in example.tags], "int32")
            sizes = self._features.sizes(example.units)
            for start, end in pieces(sizes, self._task.may_cut(example), limit):
                units.append(example.units[start:end])
                tags.append(numbers[start:end])
        if not units:
            raise too_small(f"{len(examples)} sentences with no piece of at most {limit}")
        return Batches(self._features, units, tags, batch_size=batch_size, seed=self.seed or 0)

    def _loss(self, weights: Sequence[float] | None) -> keras.losses.Loss:
        """Make the loss; its mean is over the sentences, and not over the empty rows of a batch."""
        if weights is None:
            return CRFNegativeLogLikelihood(reduction="mean_with_sample_weight")
        return WeightedLikelihood(weights, "tag" if self.transitions is None else "sequence")

    def _score(self, examples: Sequence[Example], known: Collection[str] | None) -> Any:
        tags = self._decoder.tags([example.units for example in examples])
        return self._task.score(examples, [self._names(found) for found in tags], known)


def too_small(received: str) -> CorpusError:
    """Make the error of a corpus from which nothing can be learned."""
    return CorpusError(
        "Training needs sentences to learn from, and others to choose the best epoch by: a larger "
        f"corpus, or another `validation`. Received: {received}"
    )
