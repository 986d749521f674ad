"""What rules cannot hold: the statistics that layers gather by themselves while a model trains."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import keras

from finegrain.per_weight.reports import WeightReport
from finegrain.rules.rule import Rule
from finegrain.rules.selection import label, select


def notes_on_statistics(
    model: Any,
    rules: Sequence[Rule],
    weights: Sequence[keras.Variable],
    reports: Sequence[WeightReport],
) -> list[str]:
    """Name the held layers whose statistics still change, and the lines of code that stop them.

    Args:
        model: The model.
        rules: The optimizer's rules.
        weights: Its trainable weights.
        reports: One for each of them.
    """
    if not isinstance(model, keras.layers.Layer):
        return []  # anything with weights can be described
    held = {id(w) for w, report in zip(weights, reports, strict=True) if not report.trainable}
    going_on = [layer for layer in model._flatten_layers() if _is_going_on(layer, held)]
    if not going_on:
        return []
    named = ", ".join(f"{layer.path or layer.name} ({_named(layer)})" for layer in going_on)
    notes = [f"held, but updated by training: the statistics of {named}"]
    stopped = [layer for layer in going_on if isinstance(layer, keras.layers.BatchNormalization)]
    if not stopped:
        return notes
    taken_out = {id(weight) for layer in stopped for weight in layer.weights}
    useless = _left_with_nothing(rules, weights, taken_out)
    without = f", and without rules on {', '.join(map(repr, useless))}" if useless else ""
    notes.append(f"to hold those of BatchNormalization too, before compile{without}:")
    return [*notes, *_code(model, stopped)]


def _is_going_on(layer: keras.layers.Layer, held: set[int]) -> bool:
    """Return whether a layer's own trainable weights are all held, but its statistics are not."""
    own = [weight for weight in layer._trainable_variables if weight.trainable]
    # The base of LoRA and the scales of quantized weights are constants.
    constant = getattr(layer, "lora_enabled", False) or getattr(layer, "quantization_mode", None)
    return bool(own) and all(id(w) in held for w in own) and bool(_named(layer)) and not constant


def _named(layer: keras.layers.Layer) -> str:
    """Join the names of the float variables that a layer keeps besides its trainable weights."""
    variables = layer._non_trainable_variables
    return ", ".join(v.name for v in variables if keras.backend.is_float_dtype(v.dtype))


def _left_with_nothing(
    rules: Sequence[Rule], weights: Sequence[keras.Variable], without: set[int]
) -> list[str]:
    """Find the selectors that would be left with no trainable weight, which is an error."""
    rest = [weight for weight in weights if id(weight) not in without]
    selectors = [selector for rule in rules for selector in rule.selectors]
    return list(dict.fromkeys(label(s) for s in selectors if not any(select(s, rest))))


def _code(model: keras.layers.Layer, layers: Sequence[keras.layers.Layer]) -> list[str]:
    """Write, for each model that such layers are in, the lines that take them out of training."""
    within: dict[str, list[str]] = {}
    wanted = {id(layer) for layer in layers}
    for place, layer in _walk(model, "model"):
        if id(layer) in wanted:
            wanted.discard(id(layer))  # A layer may be in several places.
            within.setdefault(place, []).append(layer.name)
    # What a narrow table breaks, within the brackets, is still Python.
    lines = []
    for place, names in within.items():
        last = f"    {place}.get_layer(name).trainable = False"
        shorter = [f"    ({place}", "     .get_layer(name)).trainable = False"]
        lines += [f"for name in {names!r}:", *([last] if len(last) < 80 else shorter)]
    if wanted:
        lines.append("layer.trainable = False  # for each that is part of a layer of your own")
    return lines


def _walk(model: keras.layers.Layer, place: str) -> Iterator[tuple[str, keras.layers.Layer]]:
    """Yield (expression, layer) for all layers that `get_layer` finds, also in nested models."""
    if isinstance(model, keras.Model):
        for layer in model.layers:
            yield place, layer
            yield from _walk(layer, f"{place}.get_layer({layer.name!r})")
