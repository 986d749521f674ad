"""The parts of a model in the order in which data pass them, and which of them are blocks.

Names do not count here: Keras numbers the layers that a process makes, and so `encoder_1` may be
the second block of a model or a model that was made again. What counts is which layers a model
holds, of what class, and which tensor goes where.

- A *container* is a model, or a layer that holds others. A functional model is read along its
  tensors; any other container in the order of its attributes.
- A *row of blocks* is two or more containers of one class, one behind the other, in one container:
  the layers of a transformer. Layers that Keras ships are no blocks.
- A container of which several stand in a row is looked into, if it holds a row itself and hardly
  anything else (the stages of a Swin transformer), or a row of containers of containers (towers).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import pairwise, takewhile
from math import prod
from typing import Any

import keras

GUESSED_SIZE = 256
"""The height and width at which images are followed through a model that leaves them open."""

UNKNOWN_SIZE = 2.0**40
"""Number of places of a feature map of which only the strides behind it are known."""


class Part:
    """A layer that is not looked into, or a weight that a container has itself.

    Attributes:
        owner: The layer or the variable.
        is_block: Whether it is a block of a row.
        is_map: Whether it puts out a feature map.
        size: Number of places of the feature map that it works for: that of the residual sum, or
            of any other that its way joins without a fork, or else its own. `None` if there is
            none. Where a container does not tell the shapes in it, strides do, and it is the
            number up to a factor.
        before: The parts whose output it takes.
    """

    def __init__(
        self,
        owner: Any,
        before: Iterable[Part],
        is_block: bool = False,
        is_map: bool = False,
        size: float | None = None,
    ) -> None:
        self.owner = owner
        self.before = list(dict.fromkeys(before))
        self.is_block = is_block
        self.is_map = is_map
        self.size = size


def parts_of(model: keras.Model) -> list[Part]:
    """List the parts of a model, each after those whose output it takes.

    A layer that is called twice is a part at each call.
    """
    found: list[Part] = []
    _read(model, [], found)
    return found


def weights_of(owner: Any) -> list[Any]:
    """Return the weights of a layer or, in a list, a variable."""
    return [owner] if isinstance(owner, keras.Variable) else list(owner.weights)


def sublayers(container: Any) -> list[Any]:
    """Return the layers that can learn and that a layer holds directly, each once, in order."""
    if not isinstance(container, keras.layers.Layer):
        return []
    return [layer for layer in _direct(container) if can_learn(layer)]


def can_learn(layer: Any) -> bool:
    """Return whether a layer has weights that learn unless somebody freezes them."""
    if not isinstance(layer, keras.layers.Layer):
        return False
    # Keras keeps weights here that were made to be trainable, also while they are frozen.
    return any(inner._trainable_variables for inner in layer._flatten_layers())


def _direct(container: Any) -> list[Any]:
    return list(dict.fromkeys(container._flatten_layers(include_self=False, recursive=False)))


def blocks_along_graph(model: keras.Model) -> list[Any]:
    """Return the outputs of a functional model's blocks, in order, one for each call of a block."""
    nodes = _nodes(model)
    blocks = _blocks_of_graph(nodes)
    if not blocks:
        # A single layer that holds layers of layers, as a transformer's, is a block all the same.
        deep = {id(node.operation) for node in nodes if height(node.operation) >= 2}
        blocks = deep if len(deep) == 1 else blocks
    return [node.outputs[0] for node in nodes if id(node.operation) in blocks]


# Reading a container.


def _read(
    container: Any, entry: Sequence[Part], found: list[Part], size: float | None = None
) -> list[list[Part]]:
    """Append the parts of a container to `found`; return for each output what it comes from.

    Args:
        container: A model, or a layer that holds a row of blocks.
        entry: The parts that the container's input comes from.
        found: The parts.
        size: Number of places of the feature map that it is given.
    """
    start = list(entry)
    for weight in container._trainable_variables:
        found.append(Part(weight, entry))
        start = [found[-1]]
    if _is_graph(container):
        return _read_graph(container, start, found)
    return [_read_attributes(container, start, found, size or UNKNOWN_SIZE)]


def _read_graph(model: Any, entry: list[Part], found: list[Part]) -> list[list[Part]]:
    nodes = _nodes(model)
    blocks = _blocks_of_graph(nodes)
    sizes = _sizes(model, nodes)
    next_sizes = _next_sizes(nodes, sizes)
    called = {id(w) for node in nodes for w in getattr(node.operation, "weights", ())}
    for layer in sublayers(model):
        # What a functional model holds, but does not call, counts as far from the output.
        if any(id(weight) not in called for weight in layer.weights):
            found.append(Part(layer, entry))
    sources: dict[int, list[Part]] = {id(tensor): entry for tensor in model.inputs}
    for node in nodes:
        before = _union(sources.get(id(tensor), entry) for tensor in node.input_tensors)
        layer = node.operation
        if not can_learn(layer):
            results = [before] * len(node.outputs)
        elif id(layer) not in blocks and _is_entered(layer):
            maps = [sizes.get(id(tensor)) or 0 for tensor in node.input_tensors]
            size = max(maps, default=0) or None
            first = len(found)
            results = _read(layer, before, found, size)
            _rescale(found[first:], [part for parts in results for part in parts], node, sizes)
        else:
            is_map = any(sizes[id(tensor)] is not None for tensor in node.outputs)
            owner = _without_output_table(layer, found)
            found.append(Part(owner, before, id(layer) in blocks, is_map, next_sizes[id(node)]))
            results = [[found[-1]]] * len(node.outputs)
        if len(results) != len(node.outputs):
            results = [_union(results)] * len(node.outputs)
        sources.update(zip(map(id, node.outputs), results, strict=True))
    return [sources.get(id(tensor), entry) for tensor in model.outputs]


def _without_output_table(layer: Any, found: list[Part]) -> Any:
    """Return what is read in by an embedding that has another table for the output.

    That table, of KerasHub's ReversibleEmbedding, is a part by itself, which nothing follows.
    """
    table = getattr(layer, "reverse_embeddings", None)
    own = layer._trainable_variables
    if not isinstance(table, keras.Variable) or len(own) != 2:
        return layer
    if all(part.owner is not table for part in found):
        found.append(Part(table, []))
    return next(weight for weight in own if weight is not table)


def _rescale(
    parts: Sequence[Part], ends: Sequence[Part], node: Any, sizes: dict[int, int | None]
) -> None:
    """Give the last parts of a container the size of its output, where strides told it roughly."""
    size = next((sizes[id(t)] for t in node.outputs if sizes[id(t)] is not None), None)
    rough = {part.size for part in ends if part.size is not None}
    if size is not None and len(rough) == 1:
        last = rough.pop()
        for part in parts:
            part.size = size if part.size == last else part.size


def _read_attributes(
    container: Any, entry: list[Part], found: list[Part], size: float
) -> list[Part]:
    layers = _direct(container)
    blocks = _blocks_of_chain(sublayers(container))
    ends = entry
    towers: dict[Any, tuple[list[Part], list[Part]]] = {}
    for layer in layers:
        if can_learn(layer) and id(layer) not in blocks and _is_entered(layer):
            # Towers of one class stand side by side: all begin where the first begins.
            begin, others = towers.get(_kind(layer), (ends, []))
            last = _union(_read(layer, begin, found, size))
            ends = _union([others, last])
            if _is_tower(layer):
                towers[_kind(layer)] = (begin, ends)
            size = min((part.size for part in last if part.size is not None), default=size)
        else:
            size /= _stride(layer)
            if can_learn(layer):
                found.append(Part(layer, ends, id(layer) in blocks, True, size))
                ends = [found[-1]]
    _mark_head(layers, found)
    return ends


def _mark_head(layers: Sequence[Any], parts: Sequence[Part]) -> None:
    """Take the size from the dense layers that come after all convolutions: they see no map."""
    own = {id(layer) for layer in layers}
    tail = list(takewhile(lambda part: id(part.owner) in own and not _convolves(part), parts[::-1]))
    if len(tail) < len(parts) and id(parts[-1 - len(tail)].owner) in own:
        dense = [isinstance(part.owner, keras.layers.Dense) for part in tail]
        for part in tail[: len(dense) - dense[::-1].index(True)] if any(dense) else []:
            part.size, part.is_map = None, False


def _convolves(part: Part) -> bool:
    layers = getattr(part.owner, "_flatten_layers", list)()
    return any(isinstance(getattr(layer, "strides", None), tuple) for layer in layers)


def _stride(layer: Any) -> int:
    """Return by what a layer divides the number of places of an image, as far as strides tell."""
    inner = layer._flatten_layers(include_self=True)
    strides = (getattr(layer, "strides", None) for layer in inner)
    return max((prod(s) for s in strides if isinstance(s, tuple) and len(s) > 1), default=1)


def _union(lists: Iterable[Iterable[Part]]) -> list[Part]:
    return list(dict.fromkeys(part for parts in lists for part in parts))


# Rows of blocks.


def _is_graph(container: Any) -> bool:
    tensors = getattr(container, "outputs", None) if isinstance(container, keras.Model) else None
    return bool(tensors) and all(hasattr(tensor, "_keras_history") for tensor in tensors)


def _nodes(model: Any) -> list[Any]:
    """Return the calls of layers that a functional model consists of, each after its inputs'."""
    known = {id(tensor) for tensor in model.inputs}
    order: list[Any] = []
    seen: set[int] = set()
    waiting = [(_node_of(tensor), False) for tensor in reversed(model.outputs)]
    while waiting:
        node, ready = waiting.pop()
        if ready:
            order.append(node)
            continue
        if node is None or id(node) in seen:
            continue
        seen.add(id(node))
        waiting.append((node, True))
        needed = (tensor for tensor in node.input_tensors if id(tensor) not in known)
        waiting += [(_node_of(tensor), False) for tensor in reversed(list(needed))]
    return order


def _node_of(tensor: Any) -> Any:
    operation, index, _ = tensor._keras_history
    return None if operation is None else operation._inbound_nodes[index]


def _blocks_of_graph(nodes: Sequence[Any]) -> set[int]:
    """Find the layers of a functional model that are blocks of a row, by their ids."""
    # What may be a block and comes last before a tensor.
    last: dict[int, list[Any]] = {}
    follows: list[tuple[Any, Any]] = []
    for node in nodes:
        before = [layer for tensor in node.input_tensors for layer in last.get(id(tensor), [])]
        before = list(dict.fromkeys(before))
        if _may_be_block(node.operation):
            follows += [(layer, node.operation) for layer in before]
            before = [node.operation]
        last.update((id(tensor), before) for tensor in node.outputs)
    return _blocks(follows)


def _blocks_of_chain(layers: Sequence[Any]) -> set[int]:
    """Find the layers that are blocks of a row, by their ids, where each follows the one before."""
    candidates = [layer for layer in layers if _may_be_block(layer)]
    return _blocks(list(pairwise(candidates)))


def _blocks(follows: Sequence[tuple[Any, Any]]) -> set[int]:
    """Find the blocks among layers of which pairs (earlier, later) follow each other.

    Layers of a class are blocks if one of them follows another, or itself, directly: not the layers
    that embed patches anew between the stages of a hierarchical transformer. If no class has that,
    as where blocks of two classes take turns, all blocks of those classes count that have several.
    """
    layers = {id(layer): layer for pair in follows for layer in pair}
    direct = {_kind(a) for a, b in follows if _kind(a) == _kind(b)}
    if not direct:
        counts = Counter(_kind(layer) for layer in layers.values())
        after: dict[int, set[Any]] = {}
        for earlier, later in follows:
            known = after.get(id(earlier), set()) | {_kind(earlier)}
            after.setdefault(id(later), set()).update(known)
        direct = {
            _kind(layer)
            for layer in layers.values()
            if counts[_kind(layer)] > 1 and _kind(layer) in after.get(id(layer), ())
        }
    return {key for key, layer in layers.items() if _kind(layer) in direct}


def _kind(layer: Any) -> Any:
    """Return what blocks of a row share: their class or, of plain models, their layers'."""
    if type(layer).__module__.startswith("keras.src.models"):
        return (type(layer), *(type(inner) for inner in sublayers(layer)))
    return type(layer)


def _may_be_block(layer: Any) -> bool:
    if not isinstance(layer, keras.layers.Layer) or not sublayers(layer):
        return False
    of_keras = type(layer).__module__.startswith("keras.src.layers")
    return not of_keras and not _holds_mainly_a_row(layer)


def _holds_mainly_a_row(layer: Any) -> bool:
    """Return whether a layer is no block, but a stage or a tower of blocks.

    It is a block that holds a row of two attentions, or experts in a list beside an attention.
    """
    layers = sublayers(layer)
    rows = _inner_rows(layer)
    if len(rows) < 2:
        return len(layers) == 1 and _holds_mainly_a_row(layers[0])
    others = [inner for inner in layers if inner not in rows]
    if min(map(height, rows)) >= 2:
        return True
    return not any(map(height, others)) and (len(others) <= 1 or _in_a_list(layer, rows))


def _in_a_list(container: Any, layers: Sequence[Any]) -> bool:
    """Return whether a container holds two or more of the layers in one list."""
    values = [value for name, value in vars(container).items() if name != "_layers"]
    lists = (value for value in values if isinstance(value, (list, tuple)))
    return any(sum(any(x is layer for x in items) for layer in layers) > 1 for items in lists)


def _is_tower(layer: Any) -> bool:
    """Return whether a layer holds a row of blocks and what stands before and after it."""
    return len(sublayers(layer)) - len(_inner_rows(layer)) > 1 and _holds_mainly_a_row(layer)


def _inner_rows(layer: Any) -> list[Any]:
    """Return the blocks that a container holds directly."""
    layers = sublayers(layer)
    blocks = _blocks_of_graph(_nodes(layer)) if _is_graph(layer) else _blocks_of_chain(layers)
    return [inner for inner in layers if id(inner) in blocks]


def _is_entered(layer: Any) -> bool:
    """Return whether a layer that is no block is looked into: a model, or one that holds a row."""
    if isinstance(layer, keras.Model):
        return bool(sublayers(layer))
    return bool(_inner_rows(layer)) or any(_is_entered(inner) for inner in sublayers(layer))


def height(layer: Any) -> int:
    """Count how deep layers are nested in a layer: 0 for a dense one, 1 for an attention."""
    return 1 + max(map(height, sublayers(layer)), default=-1)


# Feature maps.


def _sizes(model: Any, nodes: Sequence[Any]) -> dict[int, int | None]:
    """Find how many places the feature maps in a functional model have: {id of a tensor: number}.

    Those of tensors of less than four axes are `None`.
    """
    tensors = [tensor for node in nodes for tensor in node.outputs]
    shapes = [tuple(tensor.shape) for tensor in tensors]
    if any(_places(shape) is None for shape in shapes if len(shape) > 3):
        shapes = _shapes_of_guess(model, tensors, shapes)
    return {
        id(tensor): _places(shape) if len(shape) > 3 else None
        for tensor, shape in zip(tensors, shapes, strict=True)
    }


def _shapes_of_guess(model: Any, tensors: list[Any], shapes: list[Any]) -> list[Any]:
    """Compute all shapes for images of a guessed size; return `shapes` where that fails."""

    def guessed(tensor: Any) -> keras.KerasTensor:
        shape = [size or GUESSED_SIZE for size in tensor.shape[1:]]
        return keras.KerasTensor((1, *shape), dtype=tensor.dtype)

    try:
        whole = keras.Model(model.inputs, tensors)
        made = whole.compute_output_spec([guessed(tensor) for tensor in model.inputs])
    except Exception:  # any layer may fail on a size that it was not made for
        return shapes
    return [tuple(tensor.shape) for tensor in made]


def _places(shape: Sequence[int | None]) -> int | None:
    sizes = shape[1:-1] if keras.config.image_data_format() == "channels_last" else shape[2:]
    return None if any(size is None for size in sizes) else prod(sizes)  # type: ignore[arg-type]


def _next_sizes(nodes: Sequence[Any], sizes: dict[int, int | None]) -> dict[int, int | None]:
    """Find for each node the size of the feature map that it works for, by the node's id."""
    pooled = _pooled(nodes, sizes)
    users: dict[int, list[Any]] = {}
    for node in nodes:
        for tensor in {id(tensor): tensor for tensor in node.input_tensors}:
            users.setdefault(tensor, []).append(node)
    found: dict[int, int | None] = {}
    joined: dict[int, int | None] = {}  # the size where the way of a node joins another
    for node in reversed(nodes):
        made = [id(tensor) for tensor in node.outputs]
        own = next((sizes[key] for key in made if key not in pooled), None)
        following = [user for key in made for user in users.get(key, [])]
        coming = None
        if len(following) == 1:
            (following,) = following
            joins = len({id(tensor) for tensor in following.input_tensors}) > 1
            outputs = (sizes[id(t)] for t in following.outputs if id(t) not in pooled)
            coming = next(outputs, None) if joins else joined[id(following)]
        joined[id(node)] = coming
        found[id(node)] = own if coming is None else coming
    return found


def _pooled(nodes: Sequence[Any], sizes: dict[int, int | None]) -> set[int]:
    """Find the tensors that are computed from pooled feature maps alone, by their ids."""
    pooled: set[int] = set()
    for node in nodes:
        before = [id(tensor) for tensor in node.input_tensors]
        maps = [sizes.get(tensor) or 0 for tensor in before if tensor not in pooled]
        for tensor in node.outputs:
            shrinks = max(maps, default=0) > 1 and sizes[id(tensor)] in (None, 1)
            weightless = not getattr(node.operation, "weights", None)
            if (before and not maps) or (shrinks and weightless):
                pooled.add(id(tensor))
    return pooled
