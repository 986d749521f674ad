"""Learning rates that fall from the output to the input of a model, layer by layer."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import keras

from finegrain._checks import checked_number
from finegrain.rules.rule import Rule

# A layer of a numbered block: `transformer_layer_3`, `block2_conv1`, `conv3_block1_2_bn`.
_BLOCK = re.compile(r"(.*?(?:block|layer|stage|encoder|decoder|stack)s?_?)(\d+)(?!\d)")


def layer_decay(
    model_or_layers: keras.Model | Sequence[Any],
    decay: float,
    *,
    min_multiplier: float = 0.0,
) -> list[Rule]:
    r"""Make rules by which a layer learns more slowly the farther it is from the output.

    The layers at depth $d$ below the output get the multiplier

    $$m_d = \max(\gamma^d, m_{\min}).$$

    The output level, at depth 0, keeps its rate and needs no rule, so your own rule for the head
    applies wherever it stands. As always the last rule decides: put rules that should override
    these after them.

    Args:
        model_or_layers: A built model, or its layers from the input to the output; an item may
            itself be a list, of layers that share a level.

            In a model, each layer with weights is a level of its own, unless it has numbered
            blocks (`transformer_layer_0`, `block1_conv1`, …). Then each block is a level, all that
            comes before the first (the embeddings, the stem) is one, and all that comes after the
            last (norm, pooler, head) is the output level. Models inside the model, such as a
            backbone, are entered.
        decay: $\gamma$, in (0, 1].
        min_multiplier: $m_{\min}$, a finite number ≥ 0.

    Returns:
        A rule for each level below the output, from the input on. Layers without trainable
        weights count as levels, but have no rule.

    Raises:
        TypeError: if it is neither a model nor a list of layers.
        ValueError: if `decay` is out of range, or no layer has weights yet.

    Example:
    >>> import keras, finegrain as fg
    >>> model = keras.Sequential([keras.Input((2,))] + [
    ...     keras.layers.Dense(2, name=name) for name in ("first", "second", "head")])
    >>> for rule in fg.layer_decay(model, decay=0.5):
    ...     print(rule)
    Rule('first', learning_rate_multiplier=0.25)
    Rule('second', learning_rate_multiplier=0.5)

    References:
        Jeremy Howard, Sebastian Ruder, Universal language model fine-tuning for text
        classification, 2018, section 3.2 (discriminative fine-tuning),
        https://arxiv.org/abs/1801.06146

        Hangbo Bao, Li Dong, Songhao Piao, Furu Wei, BEiT: BERT pre-training of image transformers,
        2021 (layer-wise decay over transformer blocks), https://arxiv.org/abs/2106.08254
    """
    decay = checked_number("decay", decay)
    if not 0 < decay <= 1:
        raise ValueError(f"`decay` should be in (0, 1]. Received: decay={decay!r}")
    min_multiplier = checked_number("min_multiplier", min_multiplier)
    if isinstance(model_or_layers, keras.Model):
        levels = _levels_of_model(model_or_layers)
    else:
        levels = _levels_of_list(model_or_layers)
    if not any(_weights(part) for level in levels for part in level):
        raise ValueError(
            "`layer_decay` needs layers with weights: build the model first, for example by "
            f"calling it on data. Received: {model_or_layers!r}"
        )
    rules = []
    for position, level in enumerate(levels):
        multiplier = max(decay ** (len(levels) - 1 - position), min_multiplier)
        members = [part for part in level if any(weight.trainable for weight in _weights(part))]
        if members and multiplier != 1.0:
            rule = Rule(
                members[0] if len(members) == 1 else members,
                learning_rate_multiplier=multiplier,
            )
            block = _BLOCK.match(getattr(members[-1], "name", ""))
            if block is not None and len(members) > 1:
                rule.name = block[0]
            rules.append(rule)
    return rules


def _weights(part: Any) -> list[Any]:
    return [part] if isinstance(part, keras.Variable) else list(part.weights)


def _levels_of_list(layers: Any) -> list[list[Any]]:
    items = list(layers) if isinstance(layers, (list, tuple)) else [None]
    levels = [list(item) if isinstance(item, (list, tuple)) else [item] for item in items]
    for level in levels:
        for part in level:
            if not isinstance(part, (keras.layers.Layer, keras.Variable)):
                raise TypeError(
                    "`layer_decay` takes a model, or a list of layers from the input to the output "
                    f"in which an item may be a list of layers. Received: {layers!r}"
                )
    return levels


def _levels_of_model(model: keras.Model) -> list[list[Any]]:
    parts = list(_parts(model))
    keys = _block_keys([part.name for part in parts])
    if not any(keys):
        return [[part] for part in parts]
    first = next(index for index, key in enumerate(keys) if key)
    last = max(index for index, key in enumerate(keys) if key)
    levels: list[list[Any]] = [parts[:first]] if first else []
    of_block: dict[Any, list[Any]] = {}
    waiting: list[Any] = []  # layers between two blocks, which join the next one
    for part, key in zip(parts[first : last + 1], keys[first : last + 1], strict=True):
        if key is None:
            waiting.append(part)
            continue
        if key not in of_block:
            of_block[key] = []
            levels.append(of_block[key])
        of_block[key] += [*waiting, part]
        waiting = []
    if last + 1 < len(parts):
        levels.append(parts[last + 1 :])
    return levels


def _block_keys(names: Sequence[str]) -> list[tuple[str, int] | None]:
    """Find the numbered block of each layer, as (family, number), or `None` if it is in none."""
    found = [_BLOCK.match(name) for name in names]
    keys = [None if match is None else (match[1], int(match[2])) for match in found]
    families = {key[0] for key in keys if key is not None}
    # Keras calls the first of several `name`, the second `name_1`.
    keys = [
        (f"{name}_", 0) if key is None and f"{name}_" in families else key
        for name, key in zip(names, keys, strict=True)
    ]
    # One block alone is not a row of blocks.
    blocks = Counter(family for family, _ in {key for key in keys if key is not None})
    return [None if key is None or blocks[key[0]] < 2 else key for key in keys]


def _parts(model: keras.Model) -> Iterator[Any]:
    """Yield the weights that the model itself has, then its layers with weights, input first."""
    inner = {id(weight) for layer in model.layers for weight in layer.weights}
    yield from (weight for weight in model.weights if id(weight) not in inner)
    layers = [layer for layer in model.layers if layer.weights]
    # A single `encoder_1` is no block: Keras numbers models of one name that a process makes.
    keys = _block_keys([layer.name for layer in layers])
    for layer, key in zip(layers, keys, strict=True):
        if isinstance(layer, keras.Model) and key is None:
            yield from _parts(layer)
        else:
            yield layer
