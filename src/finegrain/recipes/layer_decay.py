"""Learning rates that fall from the output to the input of a model, layer by layer."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

import keras

from finegrain._checks import checked_number
from finegrain.recipes.structure import Part, height, parts_of, weights_of
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

    The output level, at depth 0, keeps its rate and needs no rule. The rules are cumulative: they
    multiply what rules before them say of the rate, and cumulative rules after them multiply
    theirs. A rule with a multiplier of its own that comes after them takes their place.

    Args:
        model_or_layers: A built model, or its layers from the input to the output; an item may
            itself be a list, of layers that share a level.

            Levels come from a model's structure:

            - Layers of one class that hold layers and follow each other are blocks, wherever they
              stand: each block is a level, all that comes before the first (the embeddings, the
              stem) is one, and all that comes after the last (norm, pooler, head) is the output
              level. What stands between two blocks joins the second.
            - A model of images, whose blocks work at several resolutions, or which has none, has a
              level for each resolution (a stage), and what comes after its maps is the output
              level.
            - In any other model each layer with weights is a level, or all layers that you gave
              one number (`block_3_attention`, `block_3_dense`).

            Of two towers each is counted from its end; in an encoder with a decoder the encoder
            comes before. A model or layer that is written as a class shows no tensors, and is read
            in the order of its attributes.
        decay: $\gamma$, in (0, 1].
        min_multiplier: $m_{\min}$, a finite number ≥ 0.

    Returns:
        A rule for each level below the output, from the input on. Frozen layers count as levels,
        but have no rule.

    Raises:
        TypeError: if it is neither a model nor a list of layers.
        ValueError: if `decay` is out of range, or no layer has weights yet.

    Example:
    >>> import keras, finegrain as fg
    >>> model = keras.Sequential([keras.Input((2,))] + [
    ...     keras.layers.Dense(2, name=name) for name in ("first", "second", "head")])
    >>> for rule in fg.layer_decay(model, decay=0.5):
    ...     print(rule)
    Rule('first', learning_rate_multiplier=0.25, cumulative=True)
    Rule('second', learning_rate_multiplier=0.5, cumulative=True)

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
        levels = levels_of_model(model_or_layers)
    else:
        levels = _levels_of_list(model_or_layers)
    if not any(weights_of(part) for level in levels for part in level):
        raise ValueError(
            "`layer_decay` needs layers with weights: build the model first, for example by "
            f"calling it on data. Received: {model_or_layers!r}"
        )
    rules = []
    for position, level in enumerate(levels):
        multiplier = max(decay ** (len(levels) - 1 - position), min_multiplier)
        members = [part for part in level if any(weight.trainable for weight in weights_of(part))]
        if members and multiplier != 1.0:
            rule = Rule(
                members[0] if len(members) == 1 else members,
                learning_rate_multiplier=multiplier,
                cumulative=True,
            )
            block = _BLOCK.match(getattr(members[-1], "name", ""))
            if block is not None and len(members) > 1:
                rule.name = block[0]
            rules.append(rule)
    return rules


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


def levels_of_model(model: keras.Model) -> list[list[Any]]:
    """Sort the layers of a model into levels, from the input to the output.

    Returns:
        For each level its layers, and the weights that a container has itself.
    """
    parts = parts_of(model)
    blocks = [part for part in parts if part.is_block]
    if not blocks:
        # A single layer that holds layers of layers, as a transformer's, is a block all the same.
        blocks = [part for part in parts if height(part.owner) >= 2]
        blocks = blocks if len(blocks) == 1 else []
        for part in blocks:
            part.is_block = True
    sizes = {part.size for part in blocks or parts if part.size is not None}
    if len(sizes) > 1 and all(part.is_map for part in blocks):
        depths = _depths_of_stages(parts)
    elif blocks:
        depths = _depths_of_blocks(parts)
    else:
        depths = _depths_of_names(parts)
    deepest: dict[int, int] = {}
    owners: dict[int, Any] = {}
    for part, depth in zip(parts, depths, strict=True):
        owners[id(part.owner)] = part.owner
        deepest[id(part.owner)] = max(depth, deepest.get(id(part.owner), 0))
    # A depth that no layer has counts for nothing, as where one block is called several times.
    levels: dict[int, list[Any]] = {depth: [] for depth in sorted(set(deepest.values()))[::-1]}
    for key, owner in owners.items():
        levels[deepest[key]].append(owner)
    return list(levels.values())


def _depths_of_blocks(parts: Sequence[Part]) -> list[int]:
    """Count the blocks between each part and the output, on the way that has most of them."""
    after: dict[Part, int] = dict.fromkeys(parts, 0)
    follows: dict[Part, bool] = {}
    for part in parts:
        follows[part] = any(earlier.is_block or follows[earlier] for earlier in part.before)
    for part in reversed(parts):
        for earlier in part.before:
            after[earlier] = max(after[earlier], after[part] + part.is_block)
    # The last block is the output level, unless something comes after it.
    last = any(follows[p] and not p.is_block and not after[p] for p in parts)
    depths = []
    for part in parts:
        # What stands between two blocks joins the next one.
        joins = not part.is_block and (follows[part] or not after[part])
        depths.append(after[part] + last - joins if after[part] or part.is_block else 0)
    return depths


def _depths_of_stages(parts: Sequence[Part]) -> list[int]:
    """Count how often the size of the feature maps changes between each part and the output."""
    changes: dict[Part, int] = dict.fromkeys(parts, 0)
    next_size: dict[Part, float | None] = {part: part.size for part in parts}
    for part in reversed(parts):
        for earlier in part.before:
            here, there = next_size[part], next_size[earlier]
            if earlier.size is None and there is None:
                next_size[earlier] = there = here
            changes[earlier] = max(changes[earlier], changes[part] + _changes(there, here))
    return [changes[part] for part in parts]


def _changes(size: float | None, other: float | None) -> bool:
    """Return whether two feature maps differ by a stride, not only by the borders of one."""
    if size is None or other is None:
        return size is not other
    return max(size, other) >= 2 * min(size, other)


def _depths_of_names(parts: Sequence[Part]) -> list[int]:
    """Find the depths where no blocks are: each layer is a level, or each number in their names."""
    keys = _block_keys([part.owner for part in parts])
    if not any(keys):
        after = dict.fromkeys(parts, 0)
        for part in reversed(parts):
            for earlier in part.before:
                after[earlier] = max(after[earlier], after[part] + 1)
        return [after[part] for part in parts]
    first = next(index for index, key in enumerate(keys) if key)
    last = max(index for index, key in enumerate(keys) if key)
    levels: list[int] = []
    waiting = 0
    places: dict[Any, int] = {}  # of the blocks
    for key in keys[first : last + 1]:
        if key is None:
            waiting += 1  # layers between two blocks, which join the next one
            continue
        place = places.setdefault(key, len(places))
        levels += [place] * (waiting + 1)
        waiting = 0
    start = int(first > 0)
    end = len(places) - 1 + (last + 1 < len(parts))
    return [end + start] * first + [end - place for place in levels] + [0] * (len(parts) - last - 1)


def _block_keys(owners: Sequence[Any]) -> list[tuple[str, int] | None]:
    """Find the numbered block of each layer, as (family, number), or `None` if it is in none.

    Names that Keras gives do not count: it numbers the layers of a class that a process makes.
    """
    names = ["" if _is_named_by_keras(owner) else owner.name for owner in owners]
    found = [_BLOCK.match(name) for name in names]
    keys = [None if match is None else (match[1], int(match[2])) for match in found]
    # One block alone is not a row of blocks.
    blocks = Counter(family for family, _ in {key for key in keys if key is not None})
    return [None if key is None or blocks[key[0]] < 2 else key for key in keys]


def _is_named_by_keras(owner: Any) -> bool:
    if isinstance(owner, keras.Variable):
        return True
    words = re.sub(r"(?<=[a-z\d])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", type(owner).__name__)
    return re.fullmatch(rf"{words.lower()}(_\d+)?", owner.name) is not None
