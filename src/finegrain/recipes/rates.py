"""Learning rates of their own for heads, LoRA factors and CRFs."""

from __future__ import annotations

from collections.abc import Mapping

import keras

from finegrain._checks import checked_number, checked_positive
from finegrain.recipes.layer_decay import layer_decay
from finegrain.recipes.roles import heads, weights_with_roles
from finegrain.rules.rule import Rule
from finegrain.rules.selection import Selector, Weights


def discriminative(
    model: keras.Model, factor: float = 2.6, *, min_multiplier: float = 0.0
) -> list[Rule]:
    r"""Make rules by which each layer learns at the rate of the one above it, divided by `factor`.

    $\eta_{l-1} = \eta_l / 2.6$: discriminative fine-tuning as ULMFiT has it, which is
    `layer_decay` at $1/2.6$.

    Args:
        model: A built model.
        factor: A finite number ≥ 1.
        min_multiplier: The least multiplier, a finite number ≥ 0.

    Returns:
        A rule for each level below the output, from the input on.

    Raises:
        TypeError: if `model` is no model.
        ValueError: if `factor` is below 1, or the model is not built.

    Example:
    >>> import keras, finegrain as fg
    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2, name="hidden"),
    ...     keras.layers.Dense(2, name="head")])
    >>> fg.recipes.discriminative(model, 2.5)
    [Rule('hidden', learning_rate_multiplier=0.4, cumulative=True)]

    References:
        Jeremy Howard, Sebastian Ruder, Universal language model fine-tuning for text
        classification, 2018, section 3.2, https://arxiv.org/abs/1801.06146
    """
    factor = checked_number("factor", factor)
    if factor < 1:
        raise ValueError(f"`factor` should be at least 1. Received: factor={factor!r}")
    return layer_decay(model, 1 / factor, min_multiplier=min_multiplier)


def head_first(
    model: keras.Model, multiplier: float = 10.0, *, head: Selector | None = None
) -> list[Rule]:
    """Make a rule by which a new head learns faster than the pretrained rest.

    Args:
        model: A built model.
        multiplier: Of the head's learning rate, a finite number > 0.
        head: What the head is, in any form that a `Rule` takes. By default the last layers with
            kernels before the model's outputs; the backbones of KerasHub have none.

    Returns:
        The rule.

    Raises:
        TypeError: if `model` is no model.
        ValueError: if the model has no such layer.

    Example:
    >>> import keras, finegrain as fg
    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2, name="hidden"),
    ...     keras.layers.Dense(2, name="output")])
    >>> fg.recipes.head_first(model, multiplier=10)
    [Rule('output', learning_rate_multiplier=10.0, cumulative=True)]
    """
    multiplier = checked_positive("multiplier", multiplier)
    found = heads(model) if head is None else head
    if head is None and not found:
        raise ValueError(
            f"{model.name!r} has no head that can be told from the rest: say what it is, as in "
            "head_first(model, head='logits')."
        )
    found = found[0] if isinstance(found, list) and len(found) == 1 else found
    return [Rule(found, learning_rate_multiplier=multiplier, cumulative=True)]


def lora_plus(
    model: keras.Model, ratio: float = 16.0, *, roles: Mapping[Selector, str] | None = None
) -> list[Rule]:
    r"""Make a rule by which the factors $B$ of LoRA learn `ratio` times as fast as the factors $A$.

    A low-rank update $W + AB$ begins with $B = 0$. In wide layers both learn alike only if $B$,
    which Keras calls `lora_kernel_b`, has the higher rate.

    Args:
        model: A model with LoRA: call `enable_lora(rank)` of its layers or its backbone first.
        ratio: Rate of $B$ by rate of $A$, a finite number > 0; the paper finds 16 to do well.
        roles: {selector: role} for weights whose role is unknown or to be another.

    Returns:
        The rule.

    Raises:
        TypeError: if `model` is no model.
        ValueError: if there is no LoRA in the model.

    Example:
    >>> import keras, finegrain as fg
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, name="hidden")])
    >>> model.get_layer("hidden").enable_lora(2)
    >>> optimizer = fg.PerWeight("adam", fg.recipes.lora_plus(model))
    >>> for row in optimizer.describe(model).to_dicts():
    ...     print(row["path"].rpartition("/")[2], row["learning_rate_multiplier"])
    bias 1.0
    lora_kernel_a 1.0
    lora_kernel_b 16.0

    References:
        Soufiane Hayou, Nikhil Ghosh, Bin Yu, LoRA+: Efficient low rank adaptation of large models,
        2024, https://arxiv.org/abs/2402.12354
    """
    ratio = checked_positive("ratio", ratio)
    found = [f.weight for f in weights_with_roles(model, roles) if f.role == "lora_b"]
    if not any(weight.trainable for weight in found):
        raise ValueError(
            f"{model.name!r} has no LoRA: call `enable_lora(rank)` of its layers or its backbone "
            "before you make the rules."
        )
    weights = Weights(found, f"{len(found)} LoRA factors B")
    return [Rule(weights, learning_rate_multiplier=ratio, cumulative=True)]


def crf(multiplier: float = 100.0) -> list[Rule]:
    """Make a rule by which the transitions of a CRF learn much faster than its encoder.

    Args:
        multiplier: Of the learning rate of `layers.CRF`'s transitions, start and end scores; its
            projection is left alone. A finite number > 0.

    Returns:
        The rule.

    Raises:
        TypeError: if `multiplier` is no number.
        ValueError: if it is out of range.

    Example:
    >>> import keras, finegrain as fg
    >>> model = keras.Sequential([keras.Input((5, 8)), fg.layers.CRF(3, name="crf")])
    >>> optimizer = fg.PerWeight("adam", fg.recipes.crf())
    >>> for row in optimizer.describe(model).to_dicts():
    ...     print(row["path"].rpartition("/")[2], row["learning_rate_multiplier"])
    kernel 1.0
    bias 1.0
    transitions 100.0
    start 100.0
    end 100.0

    References:
        Su Jianlin, The learning rate of your CRF layer may be too small, 2020,
        https://kexue.fm/archives/7196
    """
    multiplier = checked_positive("multiplier", multiplier)
    scores = r"/(transitions|start|end)$"
    return [Rule(scores, learning_rate_multiplier=multiplier, cumulative=True)]
