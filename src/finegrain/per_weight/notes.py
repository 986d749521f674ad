"""What a table of trainable weights does not show: weights that do not train, rates that do."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from math import prod
from typing import Any

import keras

from finegrain.per_weight.partition import Selected
from finegrain.per_weight.reports import WeightReport
from finegrain.per_weight.rulebook import Rulebook
from finegrain.per_weight.statistics import notes_on_statistics
from finegrain.per_weight.table import short_size


def notes(
    book: Rulebook,
    model: Any,
    weights: Sequence[keras.Variable],
    selection: Sequence[Selected],
    reports: Sequence[WeightReport],
) -> list[str]:
    """Write the lines under the table.

    Args:
        book: The optimizer's rules at work.
        model: The model, or `None` if it is not known.
        weights: Its trainable weights.
        selection: What the rules make of each of them.
        reports: One for each of them.
    """
    rules = [live.rule for live in book.rules]
    return [
        *_on_optimizers(book, weights, selection, reports),
        *_on_untrained(model),
        *notes_on_statistics(model, rules, weights, reports),
    ]


def _on_optimizers(
    book: Rulebook,
    weights: Sequence[keras.Variable],
    selection: Sequence[Selected],
    reports: Sequence[WeightReport],
) -> Iterator[str]:
    used = {report.optimizer for report in reports}
    lines = []
    for template in book.templates():
        if template.resized is not None and template.kind in used:
            around = type(template.resized).__name__
            lines.append(f"{template.kind} round {around} learns the rates: shown as they are now")
    for weight, chosen in zip(weights, selection, strict=True):
        template = book.template_of(book.outcome(chosen.rules))
        if template.mover(weight) != template.kind:
            lines.append(f"{template.kind} leaves what is no matrix, and embeddings, to its AdamW")
    yield from dict.fromkeys(lines)


def _on_untrained(model: Any) -> Iterator[str]:
    """Say how many weights are not trained, and why."""
    if not isinstance(model, keras.layers.Layer):
        return  # anything with weights can be described
    counts: Counter[str] = Counter()
    parameters: Counter[str] = Counter()
    seen: set[int] = set()
    for layer in model._flatten_layers():
        for reason, weight, size in _untrained_of(layer):
            if id(weight) not in seen:
                seen.add(id(weight))
                counts[reason] += 1
                parameters[reason] += size
    if counts:
        parts = (
            f"{n} {why} ({short_size(parameters[why])} parameters)" for why, n in counts.items()
        )
        yield f"not trained: {', '.join(parts)}"


def _untrained_of(layer: Any) -> Iterator[tuple[str, Any, int]]:
    """Yield (reason, weight, parameters) for a layer's own weights that are not trained."""
    for weight in layer._trainable_variables:
        if not weight.trainable:
            lora = layer.trainable and getattr(layer, "lora_enabled", False)
            yield "under LoRA" if lora else "frozen", weight, prod(weight.shape)
    mode = getattr(layer, "quantization_mode", None)
    for weight in layer._non_trainable_variables:
        if mode is not None and mode != "float8":
            is_scale = re.search("scale|zero|g_idx", weight.name)
            # Two numbers of four bits are one byte.
            packed = 2 if mode == "int4" and not is_scale else 1
            reason = f"{mode} scales" if is_scale else f"{mode} kernels"
            yield reason, weight, packed * prod(weight.shape)
        elif keras.backend.is_float_dtype(weight.dtype):
            yield f"{_kind(layer)} of {type(layer).__name__}", weight, prod(weight.shape)


def _kind(layer: Any) -> str:
    gathers = (keras.layers.BatchNormalization, keras.layers.Normalization)
    return "statistics" if isinstance(layer, gathers) else "variables"
