"""The model of a tagger: features, an encoder or a pretrained backbone, and a CRF."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras

from finegrain.crf.layer import CRF
from finegrain.tagger.backbones import HiddenStates, most_pieces
from finegrain.tagger.characters import CharacterFeatures
from finegrain.tagger.encoders import Encoder, get_encoder
from finegrain.tagger.subwords import SPECIAL, Subwords, checked_pooling, checked_tokenizer
from finegrain.tagger.tasks import Example, Task
from finegrain.tagger.words import WordFeatures

FEATURES = (CharacterFeatures, WordFeatures, Subwords)


class Network:
    """What a tagger's model is made of.

    Args:
        encoder: What reads the features: a name, a layer or a model; `None` for none.
        backbone: A KerasHub backbone, and
        tokenizer: its tokenizer; `None` where nothing is pretrained.
        layers: How many of the backbone's blocks are used, from the first; all by default.
        pooling: Which sub-words make a word's vector.
        width: Channels of the encoder.
        dropout: Share of the features, and of the encoder's outputs, set to zero in training.
        crf: Whether neighbouring tags depend on each other.
        constrain_training: Whether training, too, admits only what the scheme allows.
    """

    def __init__(
        self,
        encoder: str | Encoder | None,
        *,
        backbone: Any,
        tokenizer: Any,
        layers: int | None,
        pooling: str,
        width: int,
        dropout: float,
        crf: bool,
        constrain_training: bool,
    ) -> None:
        if (backbone is None) != (tokenizer is None) or (layers is not None and backbone is None):
            raise ValueError(
                "A backbone needs its tokenizer, and both, and `layers`, need a backbone: "
                "Tagger(backbone=…, tokenizer=…). Received: "
                f"backbone={backbone!r}, tokenizer={tokenizer!r}, layers={layers!r}"
            )
        self.encoder = encoder if encoder is None else get_encoder(encoder, width, dropout)
        self.width = width
        self.tokenizer = None if tokenizer is None else checked_tokenizer(tokenizer)
        self.backbone = (
            None if backbone is None else HiddenStates(backbone, layers, name=backbone.name)
        )
        self.limit = most_pieces(backbone) - SPECIAL
        self.pooling = checked_pooling(pooling)
        self.dropout = dropout
        self.crf = crf
        self.constrain_training = constrain_training

    def build(self, task: Task, examples: Sequence[Example]) -> keras.Model:
        """Make the model, from encoded sequences to potentials, for a training corpus."""
        inputs, x, mask, encoder = self._features(task, examples)
        x = keras.layers.Dropout(self.dropout, name="features_dropout")(x)
        head = CRF(
            len(task.labels),
            use_transitions=self.crf,
            use_boundaries=self.crf,
            constraints=task.scheme if self.crf and self.constrain_training else None,
            name="crf",
        )
        return keras.Model(inputs, head(encoder(x), mask=mask), name="tagger")

    def _features(self, task: Task, examples: Sequence[Example]) -> tuple[Any, Any, Any, Encoder]:
        """Return the model's inputs, the features made of them, their mask, and what reads them."""
        texts = [units for units, _ in examples]
        characters = all(len(unit) == 1 for units in texts for unit in units)
        if self.backbone is not None:
            layer = Subwords(
                self.tokenizer,
                self.pooling,
                inputs=tuple(self.backbone.input),
                limit=self.limit,
                characters=characters,
                words=task.words(examples),
                name="subwords",
            )
            inputs = {name: keras.Input((None,), dtype="int32", name=name) for name in layer.inputs}
            words = keras.Input((None, 2), dtype="int32", name="words")
            x = layer([self.backbone(inputs), words])
            mask = layer.compute_mask([None, words])
            return inputs | {"words": words}, x, mask, self.encoder or (lambda x: x)
        if characters:
            layer = CharacterFeatures.of(texts, words=task.words(examples), name="characters")
        else:
            layer = WordFeatures.of(texts, name="words")
        inputs = keras.Input((None, layer.columns), dtype="int32", name="text")
        encoder = self.encoder
        if encoder is None:
            encoder = get_encoder("cnn" if characters else "bilstm", self.width, self.dropout)
        return inputs, layer(inputs), layer.compute_mask(inputs), encoder


def features_of(model: keras.Model) -> Any:
    """Return the layer that encodes sequences for a tagger's model.

    Raises:
        ValueError: if the model is no tagger's.
    """
    found = [layer for layer in model.layers if isinstance(layer, FEATURES)]
    heads = [layer for layer in model.layers if isinstance(layer, CRF)]
    if len(found) != 1 or len(heads) != 1:
        raise ValueError(
            "a tagger's model has one layer of features and one CRF layer, here are "
            f"{len(found)} and {len(heads)}"
        )
    return found[0]


def backbone_of(model: keras.Model) -> HiddenStates | None:
    """Return the pretrained part of a tagger's model, if it has one."""
    return next((layer for layer in model.layers if isinstance(layer, HiddenStates)), None)
