"""Learning rates that carry over from a narrow model to a wide one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import keras

from finegrain.recipes.roles import Found, kernel_axes, weights_with_roles
from finegrain.rules.rule import Rule
from finegrain.rules.selection import Selector, Weights, weight_path

_MATRICES = ("kernel", "convolution", "recurrent", "lora_a", "lora_b")


def mup(
    model: keras.Model,
    base_model: keras.Model,
    *,
    optimizer: Literal["adam", "sgd"] = "adam",
    roles: Mapping[Selector, str] | None = None,
) -> list[Rule]:
    r"""Make rules by which the best learning rate of a narrow model is that of a wide one too.

    Maximal update parametrization. With $r_i$ and $r_o$, by which a weight of `model` has more
    inputs and outputs than its counterpart in `base_model`, the learning rate is multiplied by

    | | Adam and its kin | SGD |
    | --- | --- | --- |
    | matrices | $1 / r_i$ | $r_o / r_i$ |
    | biases, norms, embeddings | $1$ | $r_o$ |

    Rates are one half of it; the other half are initial values, which you set where you make the
    model:

    - hidden matrices: by their inputs, as `"lecun_normal"`, `"he_normal"` or `"glorot_uniform"` do;
    - embeddings and biases: the same at each width;
    - the last layer: zeros, or a standard deviation in proportion to $1 / \text{inputs}$. With
      Keras's default the outputs of wide models change too much in the first steps;
    - attention: its scores should be divided by the size of a head, not by its root. Where wider
      models have more heads of one size, nothing changes.

    Args:
        model: The model to train, built.
        base_model: The model for which the learning rate was found: the same layers, of other
            widths. Its weights are compared with those of `model` in order.
        optimizer: `"adam"` for all that divide the gradient by its size (Adam, AdamW, RMSprop,
            Adafactor, AdaX, Lion), `"sgd"` for those that do not.
        roles: {selector: role} for weights whose role is unknown or to be another.

    Returns:
        A rule for each multiplier but 1.

    Raises:
        TypeError: if one is no model.
        ValueError: if the models do not have the same layers, one is not built, a role is unknown,
            or `optimizer` is another word.

    Example:
    >>> import keras, finegrain as fg
    >>> def mlp(width):
    ...     return keras.Sequential([
    ...         keras.Input((8,)), keras.layers.Dense(width, name="first"),
    ...         keras.layers.Dense(width, name="hidden"),
    ...         keras.layers.Dense(2, kernel_initializer="zeros", name="head")])
    >>> wide = mlp(64)
    >>> optimizer = fg.PerWeight("adam", fg.recipes.mup(wide, base_model=mlp(16)))
    >>> for row in optimizer.describe(wide).to_dicts():
    ...     print(row["path"].partition("/")[2], row["learning_rate_multiplier"])
    first/kernel 1.0
    first/bias 1.0
    hidden/kernel 0.25
    hidden/bias 1.0
    head/kernel 0.25
    head/bias 1.0

    References:
        Greg Yang et al., Tensor Programs V: Tuning large neural networks via zero-shot
        hyperparameter transfer, 2022, table 3, https://arxiv.org/abs/2203.03466
    """
    if optimizer not in ("adam", "sgd"):
        raise ValueError(
            "`optimizer` should be 'adam', for optimizers that divide gradients by their size, or "
            f"'sgd'. Received: optimizer={optimizer!r}"
        )
    found = weights_with_roles(model, roles)
    base = weights_with_roles(base_model, roles)
    if [f.role for f in found] != [f.role for f in base]:
        raise ValueError(
            "`base_model` should have the layers of `model`, and differ in their widths alone. "
            f"Received: {_difference(found, base)}"
        )
    by_multiplier: dict[float, list[Any]] = {}
    for mine, other in zip(found, base, strict=True):
        multiplier = _multiplier(mine, other, optimizer)
        by_multiplier.setdefault(multiplier, []).append(mine.weight)
    return [
        Rule(
            Weights(weights, f"{len(weights)} weights, wider"),
            learning_rate_multiplier=multiplier,
            cumulative=True,
        )
        for multiplier, weights in by_multiplier.items()
        if multiplier != 1 and any(weight.trainable for weight in weights)
    ]


def _multiplier(mine: Found, other: Found, optimizer: str) -> float:
    shape, base_shape = tuple(mine.weight.shape), tuple(other.weight.shape)
    if len(shape) != len(base_shape):
        raise ValueError(
            f"{weight_path(mine.weight)!r} has the shape {shape}, and {base_shape} in "
            "`base_model`: the models should differ in their widths alone."
        )
    is_matrix = mine.role in _MATRICES
    axes = kernel_axes(mine.weight, mine.layer) if is_matrix else "o" * len(shape)
    ratio = {"i": 1.0, "o": 1.0, "b": 1.0, "k": 1.0}
    for axis, size, base_size in zip(axes, shape, base_shape, strict=True):
        ratio[axis] *= size / base_size
    if optimizer == "adam":
        return 1 / ratio["i"]
    return ratio["o"] / ratio["i"]


def _difference(found: list[Found], base: list[Found]) -> str:
    for mine, other in zip(found, base, strict=False):
        if mine.role != other.role:
            return (
                f"{weight_path(mine.weight)!r} ({mine.role}) beside "
                f"{weight_path(other.weight)!r} ({other.role})"
            )
    return f"{len(found)} weights beside {len(base)}"
