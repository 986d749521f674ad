"""What rules cannot hold: the statistics that layers gather by themselves while a model trains."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import keras

from finegrain.monitoring.describe import WeightReport


def notes_on_statistics(
    model: keras.layers.Layer,
    weights: Sequence[keras.Variable],
    reports: Sequence[WeightReport],
) -> list[str]:
    """Names the held layers whose statistics go on, and the lines of code that stop them.

    Args:
        model: The model.
        weights: Its trainable weights.
        reports: One for each of them.
    """
    held = {id(w) for w, report in zip(weights, reports, strict=True) if not report.trainable}
    going_on = [layer for layer in model._flatten_layers() if _is_going_on(layer, held)]
    if not going_on:
        return []
    named = ", ".join(f"{layer.path or layer.name} ({_named(layer)})" for layer in going_on)
    notes = [f"held, but updated by training: the statistics of {named}"]
    stopped = [layer for layer in going_on if isinstance(layer, keras.layers.BatchNormalization)]
    if not stopped:
        return notes
    concerned = {id(weight) for layer in stopped for weight in layer.weights}
    rules = _rules_of_these_alone(concerned, weights, reports)
    without = f", without the rules {', '.join(map(repr, rules))}" if rules else ""
    notes.append(f"to hold those of BatchNormalization too, before compile{without}:")
    return [*notes, *_code(model, stopped)]


def _is_going_on(layer: keras.layers.Layer, held: set[int]) -> bool:
    """Whether all of a layer's own trainable weights are held, beside statistics that are not."""
    own = [weight for weight in layer._trainable_variables if weight.trainable]
    # The base of LoRA and the scales of quantized weights are constants.
    constant = getattr(layer, "lora_enabled", False) or getattr(layer, "quantization_mode", None)
    return bool(own) and all(id(w) in held for w in own) and bool(_named(layer)) and not constant


def _named(layer: keras.layers.Layer) -> str:
    """The names of what a layer keeps beside its trainable weights."""
    variables = layer._non_trainable_variables
    return ", ".join(v.name for v in variables if keras.backend.is_float_dtype(v.dtype))


def _rules_of_these_alone(
    concerned: set[int], weights: Sequence[keras.Variable], reports: Sequence[WeightReport]
) -> list[str]:
    """The rules that would select no trainable weight any more, which is an error."""
    pairs = list(zip(weights, reports, strict=True))
    elsewhere = {name for w, report in pairs if id(w) not in concerned for name in report.rules}
    return list(
        dict.fromkeys(
            name
            for w, report in pairs
            if id(w) in concerned
            for name in report.rules
            if name not in elsewhere
        )
    )


def _code(model: keras.layers.Layer, layers: Sequence[keras.layers.Layer]) -> list[str]:
    """For each model that such layers are in, the line that takes them out of training."""
    within: dict[str, list[str]] = {}
    wanted = {id(layer) for layer in layers}
    for place, layer in _walk(model, "model"):
        if id(layer) in wanted:
            wanted.discard(id(layer))  # A layer may be in several places.
            within.setdefault(place, []).append(layer.name)
    lines = [
        f"for name in {names!r}: {place}.get_layer(name).trainable = False"
        for place, names in within.items()
    ]
    if wanted:
        lines.append("layer.trainable = False  # for each that is part of a layer of your own")
    return lines


def _walk(model: keras.layers.Layer, place: str) -> Iterator[tuple[str, keras.layers.Layer]]:
    """(expression, layer) of all layers that `get_layer` finds, also in models in the model."""
    if isinstance(model, keras.Model):
        for layer in model.layers:
            yield place, layer
            yield from _walk(layer, f"{place}.get_layer({layer.name!r})")
