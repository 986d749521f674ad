"""A tagger's `.keras` file, read without Keras: the graph of its layers and their weights."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from finegrain_reader.model import FORMAT, Model, UnreadableError
from finegrain_reader.spans import SpanTables
from finegrain_reader.words import ALLOWED, TAGS

DESCRIPTION = "tagger.json"
"""What a tagger's file holds beside Keras's model: the task and its tags."""

# The names of classes of layers as Keras writes them into the file of weights.
_GROUPS = {
    "Bidirectional": "bidirectional",
    "CRF": "crf",
    "CharacterFeatures": "character_features",
    "ConvolutionBlock": "convolution_block",
    "LSTM": "lstm",
    "WordFeatures": "word_features",
}

# The scores of a CRF, and the tables of what is allowed.
_CONSTRAINTS = {"transitions": "allowed", "start": "allowed_start", "end": "allowed_end"}


def read_keras(archive: zipfile.ZipFile) -> Model:
    """Read a tagger from its `.keras` file.

    Raises:
        UnreadableError: if it has layers that only Keras can compute, such as a backbone; or if
            h5py is not installed.
    """
    try:
        import h5py
    except ModuleNotFoundError as error:
        raise UnreadableError(
            "a .keras file is read by h5py, which is not installed: install it by "
            "`pip install h5py`, or write a .fg file by `finegrain export` where it is"
        ) from error
    config = json.loads(archive.read("config.json"))
    task: dict[str, Any] = {"name": "segment"}
    if DESCRIPTION in archive.namelist():
        task = json.loads(archive.read(DESCRIPTION))
    with h5py.File(io.BytesIO(archive.read("model.weights.h5")), "r") as weights:
        graph = _Graph(config, weights)
        return Model(*_described(graph, task))


class _Layer:
    """A layer of a Keras file: its class, configuration and weights."""

    def __init__(self, entry: Mapping[str, Any], group: Any) -> None:
        self.kind = _kind(entry)
        self.config: dict[str, Any] = entry["config"]
        self.name: str = entry["name"]
        self._nodes = entry["inbound_nodes"]
        self._group = group

    @property
    def inputs(self) -> list[Any]:
        """What it is called with; the first is the sequence."""
        if len(self._nodes) != 1:
            raise UnreadableError(f"its layer {self.name!r} is called {len(self._nodes)} times")
        return self._nodes[0]["args"]

    @property
    def mask(self) -> Any:
        """The mask that it is called with."""
        return self._nodes[0]["kwargs"].get("mask")

    def weights(self, path: str = "") -> Iterator[np.ndarray]:
        """Yield its weights, in their order."""
        group = self._group[f"{path}/vars" if path else "vars"]
        for number in range(len(group)):
            yield group[str(number)][()]


class _Graph:
    """The layers of a Keras model by name."""

    def __init__(self, config: Mapping[str, Any], weights: Any) -> None:
        if config["class_name"] != "Functional":
            raise UnreadableError(f"its model is a {config['class_name']}")
        seen: dict[str, int] = {}
        self.layers: dict[str, _Layer] = {}
        for entry in config["config"]["layers"]:
            name = entry["class_name"]
            group = _GROUPS.get(name)
            count = seen[name] = seen.get(name, -1) + 1
            path = f"layers/{group}_{count}" if count else f"layers/{group}"
            found = weights[path] if group is not None and path in weights else None
            self.layers[entry["name"]] = _Layer(entry, found)

    def before(self, layer: _Layer) -> _Layer:
        """Return the layer whose output another one takes."""
        history = _history(layer.inputs[0])
        if history is None:
            raise UnreadableError(f"its layer {layer.name!r} takes more than one sequence")
        return self.layers[history]

    def is_masked(self, layer: _Layer) -> bool:
        """Return whether a layer is told which positions are there."""
        history = _history(layer.mask)
        if history is None:
            return False
        compared = self.layers[history]
        return compared.kind == "NotEqual" and compared.inputs[1] == 0


def _kind(entry: Mapping[str, Any]) -> str:
    """Return the name of a layer's class; with its package, if it is neither Keras's nor ours.

    Somebody's own `ConvolutionBlock` or `LSTM` is not the one that is computed here.
    """
    name, package = entry["class_name"], entry["registered_name"]
    of_keras = entry["module"].partition(".")[0] == "keras" and package in (None, name)
    if of_keras or package == f"finegrain>{name}":
        return name
    return package or f"{entry['module']}.{name}"


def _history(tensor: Any) -> str | None:
    """Return the name of the layer that a tensor of a configuration comes from, if it is one."""
    if not isinstance(tensor, dict) or tensor.get("class_name") != "__keras_tensor__":
        return None
    return tensor["config"]["keras_history"][0]


def _described(
    graph: _Graph, task: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Return what `Model` is made of."""
    heads = [layer for layer in graph.layers.values() if layer.kind == "CRF"]
    if len(heads) != 1:
        raise ValueError(f"it has {len(heads)} CRF layers")
    (head,) = heads
    chain = [head]
    while chain[-1].kind not in ("CharacterFeatures", "WordFeatures"):
        if chain[-1].kind == "InputLayer":
            raise ValueError("it has no layer of features")
        if chain[-1].kind == "Subwords":
            raise UnreadableError("it stands on a pretrained backbone, which only Keras computes")
        chain.append(graph.before(chain[-1]))
    features, *between = reversed(chain[1:])
    layers = [layer for layer in between if layer.kind != "Dropout"]
    made = [_layer(layer) for layer in layers]
    for layer in [features, *layers, head]:
        policy = layer.config["dtype"]
        name = policy if isinstance(policy, str) else policy["config"]["name"]
        if name != "float32":
            raise UnreadableError(f"its layer {layer.name!r} computes in {name}")
        if layer is not features and not graph.is_masked(layer):
            raise UnreadableError(f"its layer {layer.name!r} is not told what is padding")
    segments = task["name"] == "segment"
    labels = list(TAGS) if segments else task["labels"]
    arrays = _head(head, len(labels), _constraints(task))
    for number, table in enumerate(features.weights()):
        arrays[f"features.{number}"] = table
    description: dict[str, Any] = {
        "format": FORMAT,
        "task": task["name"],
        "labels": labels,
        "features": _features(features),
        "layers": [layer for layer, _ in made],
    }
    for number, (_, own) in enumerate(made):
        arrays |= {f"layers.{number}.{name}": array for name, array in own.items()}
    if task["name"] == "spans":
        description["types"] = task["tables"]["types"]
        for name in SpanTables._fields:
            dtype = "int32" if name == "opens" else bool
            arrays[f"spans.{name}"] = np.array(task["tables"][name], dtype)
    return description, arrays


def _constraints(task: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return which tags may follow one another, begin and end a sequence, if not all may."""
    if task["name"] == "segment":
        return dict(zip(_CONSTRAINTS.values(), ALLOWED, strict=True))
    if task["name"] == "labels":
        return None
    if "tables" not in task:
        raise UnreadableError("it does not say which tags may follow one another: save it anew")
    return task["tables"]


def _features(layer: _Layer) -> dict[str, Any]:
    config = layer.config
    if layer.kind == "WordFeatures":
        return {"known": {view: list(counts) for view, counts in config["known"].items()}}
    return {
        "characters": config["characters"],
        "pairs": config["pairs"],
        "half_width": config.get("half_width", False),
    }


def _head(layer: _Layer, tags: int, constraints: Mapping[str, Any] | None) -> dict[str, np.ndarray]:
    config = layer.config
    weights = layer.weights()
    zeros = np.zeros(tags, "float32")
    square = np.zeros((tags, tags), "float32")
    projects = config["use_projection"]
    arrays = {
        "kernel": next(weights) if projects else np.eye(tags, dtype="float32"),
        "bias": next(weights) if projects else zeros,
        "transitions": next(weights) if config["use_transitions"] else square,
        "start": next(weights) if config["use_boundaries"] else zeros,
        "end": next(weights) if config["use_boundaries"] else zeros,
    }
    for tables in (constraints, config["constraints"]):
        if not tables:
            continue
        for name, table in _CONSTRAINTS.items():
            forbidden = ~np.array(tables[table], bool)
            arrays[name] = np.where(forbidden, np.float32(-np.inf), arrays[name])
    return arrays


def _layer(layer: _Layer) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Return the description and the weights of an encoder's layer."""
    config = layer.config
    if layer.kind == "ConvolutionBlock":
        kernel, bias = layer.weights("convolution")
        return {"kind": "convolution", "dilation": config["dilation"]}, {
            "kernel": kernel,
            "bias": bias,
        }
    if layer.kind == "LSTM":
        _check_lstm(layer.name, config, backwards=False)
        return {"kind": "lstm"}, _lstm(layer.weights("cell"))
    if layer.kind == "Bidirectional" and config["merge_mode"] == "concat":
        arrays = {}
        for direction in ("forward", "backward"):
            part = config["layer" if direction == "forward" else "backward_layer"]
            if _kind(part) != "LSTM":
                break
            _check_lstm(layer.name, part["config"], backwards=direction == "backward")
            own = _lstm(layer.weights(f"{direction}_layer/cell"))
            arrays |= {f"{direction}.{name}": array for name, array in own.items()}
        else:
            return {"kind": "bilstm"}, arrays
    raise UnreadableError(f"only Keras computes its layer {layer.name!r}, a {layer.kind}")


def _check_lstm(name: str, config: Mapping[str, Any], *, backwards: bool) -> None:
    expected = {
        "activation": "tanh",
        "recurrent_activation": "sigmoid",
        "use_bias": True,
        "return_sequences": True,
        "go_backwards": backwards,
    }
    other = sorted(key for key, value in expected.items() if config[key] != value)
    if other:
        raise UnreadableError(
            f"only Keras computes its layer {name!r}, an LSTM with "
            f"{', '.join(f'{key}={config[key]!r}' for key in other)}"
        )


def _lstm(weights: Iterator[np.ndarray]) -> dict[str, np.ndarray]:
    return dict(zip(("kernel", "recurrent_kernel", "bias"), weights, strict=True))
