"""What a tagger's file says: its tags, its features and its weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from finegrain_reader.network import (
    LSTM,
    Both,
    CharacterFeatures,
    Convolution,
    Layer,
    Network,
    WordFeatures,
)
from finegrain_reader.spans import SpanTables
from finegrain_reader.vocabulary import FIRST_KNOWN, Characters, Words
from finegrain_reader.words import SPANS

FORMAT = 1
"""The version of what a description says; a file of a later one cannot be read."""


class UnreadableError(ValueError):
    """The model is a tagger's, but has parts that only Keras can compute."""


class Model:
    """A tagger's model as numbers and names.

    Args:
        description: What it is made of, in JSON's types:

            - `"format"`: `FORMAT`;
            - `"task"`: `"segment"`, `"spans"` or `"labels"`, and `"labels"`, its tags;
            - `"types"`: of spans, for `"spans"`;
            - `"features"`: `{"characters": …, "pairs": […], "half_width": …}`, or for each view of
              words what is known, `{"known": {view: […]}}`;
            - `"layers"`: `{"kind": "convolution", "dilation": …}`, `{"kind": "lstm"}` or
              `{"kind": "bilstm"}` each.
        arrays: Its numbers, by name.

    Raises:
        KeyError, TypeError, ValueError: if the two are not those of a model.
    """

    def __init__(self, description: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
        if description["format"] != FORMAT:
            raise UnreadableError(
                f"it is of version {description['format']!r} of the format, and this reader of "
                f"version {FORMAT}: install a newer finegrain"
            )
        self.description = dict(description)
        self.arrays = {name: np.asarray(array) for name, array in arrays.items()}
        self.task: str = description["task"]
        self.labels = tuple(description["labels"])
        self.types = ("word",) if self.task == "segment" else tuple(description.get("types", ()))
        self.transitions = self._array("transitions", 2)
        self.start, self.end = self._array("start", 1), self._array("end", 1)
        self.network = self._network()
        tags = len(self.labels)
        shapes = self.transitions.shape, self.start.shape, self.end.shape, self.network.bias.shape
        if shapes != ((tags, tags), (tags,), (tags,), (tags,)):
            raise ValueError(f"scores of {tags} tags have the shapes {shapes}")

    @property
    def is_of_characters(self) -> bool:
        """Whether its units are characters, not words."""
        return "characters" in self.description["features"]

    @property
    def span_tables(self) -> SpanTables | None:
        """The tables by which spans are read from tags; `None` if there are no spans."""
        if self.task != "spans":
            return SPANS if self.task == "segment" else None
        return SpanTables(*(self.arrays[f"spans.{name}"] for name in SpanTables._fields))

    def _array(self, name: str, dimensions: int) -> np.ndarray:
        array = self.arrays[name]
        if array.dtype != np.float32 or array.ndim != dimensions:
            raise ValueError(f"{name} is an array of {array.dtype} of shape {array.shape}")
        return array

    def _network(self) -> Network:
        features = self.description["features"]
        tables: list[np.ndarray] = []
        while f"features.{len(tables)}" in self.arrays:
            tables.append(self._array(f"features.{len(tables)}", 2))
        if self.is_of_characters:
            own, pairs = features["characters"], features["pairs"]
            characters = Characters(own, pairs, half_width=features["half_width"])
            sizes = [len(own), len(pairs), len(pairs)]
            made: Any = CharacterFeatures(characters, tables)
        else:
            sizes = [len(known) for known in features["known"].values()]
            made = WordFeatures(Words(features["known"]), tables)
        if [len(table) for table in tables] != [size + FIRST_KNOWN for size in sizes]:
            raise ValueError(f"its tables have {[len(table) for table in tables]} rows")
        layers = [
            self._layer(f"layers.{number}", **layer)
            for number, layer in enumerate(self.description["layers"])
        ]
        return Network(made, layers, self._array("kernel", 2), self._array("bias", 1))

    def _layer(self, name: str, kind: str, **options: Any) -> Layer:
        if kind == "convolution":
            kernel, bias = self._array(f"{name}.kernel", 3), self._array(f"{name}.bias", 1)
            return Convolution(kernel, bias, **options)
        if kind == "lstm":
            return self._lstm(name, backwards=False)
        if kind == "bilstm":
            forward = self._lstm(f"{name}.forward", backwards=False)
            return Both(forward, self._lstm(f"{name}.backward", backwards=True))
        raise UnreadableError(f"it has a layer of the unknown kind {kind!r}")

    def _lstm(self, name: str, *, backwards: bool) -> LSTM:
        kernel, recurrent = (self._array(f"{name}.{x}", 2) for x in ("kernel", "recurrent_kernel"))
        return LSTM(kernel, recurrent, self._array(f"{name}.bias", 1), backwards=backwards)
