"""Muon for the hidden matrices of a model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras

from finegrain._checks import checked_positive
from finegrain.optimizers.muon import Muon
from finegrain.recipes.roles import heads, kernel_axes, weights_with_roles
from finegrain.recipes.structure import weights_of
from finegrain.rules.rule import Rule
from finegrain.rules.selection import Selector, Weights, checked_selectors, select


def muon(
    model: keras.Model,
    learning_rate: float = 1e-3,
    *,
    head: Selector | None = None,
    roles: Mapping[Selector, str] | None = None,
    **arguments: Any,
) -> list[Rule]:
    """Make rules by which Muon moves the hidden matrices, and nothing else.

    Muon makes all directions of a matrix learn at one speed. That is right for maps from hidden
    values to hidden values. Embeddings, heads, biases, norms and convolutions are left to the
    optimizer that `PerWeight` wraps, which should be AdamW or the like.

    The kernels of attention, which have three axes, are the matrices of their linear maps; those of
    experts and of heads that have one each are as many matrices.

    Args:
        model: A built model.
        learning_rate: Of Muon. As Keras scales its steps, the rate that AdamW would take does for
            both.
        head: What the head is, in any form that a `Rule` takes. By default the last layers with
            kernels before the model's outputs; the backbones of KerasHub have none. `()`
            for none.
        roles: {selector: role} for weights whose role is unknown or to be another.
        **arguments: For `finegrain.optimizers.Muon`, such as `momentum` or `weight_decay`.

    Returns:
        A rule for each way in which the axes of kernels stand for inputs and outputs.

    Raises:
        TypeError: if `model` is no model.
        ValueError: if the model is not built, has no hidden matrix, or has a weight whose role is
            unknown.

    Example:
    >>> import keras, finegrain as fg
    >>> model = keras.Sequential([
    ...     keras.Input((5,)), keras.layers.Embedding(9, 4, name="embed"),
    ...     keras.layers.Dense(4, name="hidden"), keras.layers.Dense(2, name="head")])
    >>> optimizer = fg.PerWeight(keras.optimizers.AdamW(1e-3), fg.recipes.muon(model))
    >>> for row in optimizer.describe(model).to_dicts():
    ...     print(row["path"].partition("/")[2], row["optimizer"])
    embed/embeddings AdamW
    hidden/kernel Muon
    hidden/bias AdamW
    head/kernel AdamW
    head/bias AdamW

    References:
        Keller Jordan et al., Muon: An optimizer for hidden layers in neural networks, 2024,
        https://kellerjordan.github.io/posts/muon/

        Jingyuan Liu et al., Muon is scalable for LLM training, 2025,
        https://arxiv.org/abs/2502.16982
    """
    learning_rate = checked_positive("learning_rate", learning_rate)
    found = [f for f in weights_with_roles(model, roles) if f.role == "kernel"]
    outputs = _weights_of_head(model, head)
    by_axes: dict[str, list[Any]] = {}
    for weight, _, layer in found:
        if id(weight) not in outputs:
            by_axes.setdefault(kernel_axes(weight, layer), []).append(weight)
    rules = []
    for axes, weights in by_axes.items():
        if any(weight.trainable for weight in weights):
            kind = "matrix" if len(weights) == 1 else "matrices"
            name = f"{len(weights)} hidden {kind} ({axes})"
            optimizer = Muon(learning_rate, axes=axes, exclude_embeddings=False, **arguments)
            rules.append(Rule(Weights(weights, name), optimizer=optimizer))
    if not rules:
        raise ValueError(
            f"{model.name!r} has no hidden matrix that is trainable, for which Muon is made. "
            f"Received: model with {len(found)} kernels, the head's among them"
        )
    return rules


def _weights_of_head(model: keras.Model, head: Selector | None) -> set[int]:
    if head is None:
        return {id(weight) for owner in heads(model) for weight in weights_of(owner)}
    found: set[int] = set()
    for selector in checked_selectors(head) if head != () else []:
        answers = select(selector, model.weights)
        if not any(answers):
            raise ValueError(
                "`head` should be a part of the model, which has no weight that this selects. "
                f"Received: head={selector!r}"
            )
        found |= {id(w) for w, meant in zip(model.weights, answers, strict=True) if meant}
    return found
