"""Weights that should not decay."""

from __future__ import annotations

from collections.abc import Mapping

import keras

from finegrain.recipes.roles import weights_with_roles
from finegrain.rules.rule import Rule
from finegrain.rules.selection import Selector, Weights


def no_weight_decay(
    model: keras.Model,
    *,
    embeddings: bool = False,
    roles: Mapping[Selector, str] | None = None,
) -> list[Rule]:
    """Make a rule that takes the weight decay from biases, norms and other learned factors.

    Decay keeps the maps of a model small. Its biases, and the scales and offsets of its norms, it
    would pull towards values that mean nothing. What a weight is, its layer says
    (`finegrain.recipes.roles`), not the number of its axes: in attention biases have two.

    Args:
        model: A built model.
        embeddings: Whether embeddings, tokens and positions do not decay either.
        roles: {selector: role} for weights whose role is unknown or to be another.

    Returns:
        A rule, or none for a model that has no such weights.

    Raises:
        TypeError: if `model` is no model.
        ValueError: if the model is not built, or the role of a weight is unknown.

    Example:
    >>> import keras, finegrain as fg
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, name="hidden"),
    ...     keras.layers.LayerNormalization(), keras.layers.Dense(2, name="head")])
    >>> rules = fg.recipes.no_weight_decay(model)
    >>> rules
    [Rule('4 biases and norms', weight_decay=0.0)]
    >>> optimizer = fg.PerWeight(keras.optimizers.AdamW(1e-3, weight_decay=0.1), rules)
    >>> [row["weight_decay"] for row in optimizer.describe(model).to_dicts()]
    [0.1, 0.0, 0.0, 0.0, 0.1, 0.0]

    References:
        Ilya Loshchilov, Frank Hutter, Decoupled weight decay regularization, 2017,
        https://arxiv.org/abs/1711.05101

        Tong He et al., Bag of tricks for image classification with convolutional neural networks,
        2018, section 3.1 (no bias decay), https://arxiv.org/abs/1812.01187
    """
    kinds = {"bias", "norm", "scale"} | ({"embedding"} if embeddings else set())
    weights = [f.weight for f in weights_with_roles(model, roles) if f.role in kinds]
    if not any(weight.trainable for weight in weights):
        return []
    kind = "biases, embeddings and norms" if embeddings else "biases and norms"
    name = kind if len(weights) == 1 else f"{len(weights)} {kind}"
    return [Rule(Weights(weights, name), weight_decay=0.0)]
