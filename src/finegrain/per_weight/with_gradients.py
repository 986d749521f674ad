"""Any function of all gradients, in one line."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras

from finegrain.per_weight.optimizer import PerWeight
from finegrain.rules.rule import Rule
from finegrain.rules.template import Template


def with_gradients(
    optimizer: keras.optimizers.Optimizer | str | dict[str, Any], fn: Callable[..., Sequence[Any]]
) -> PerWeight:
    """Make an optimizer that passes all gradients together through `fn` before its step.

    Short for `PerWeight(optimizer, [Rule(".", gradient=fn)])`; the rules of a `PerWeight` stay,
    and `fn` comes after them.

    Args:
        optimizer: A Keras optimizer or `PerWeight`, not yet built, or its name or config.
        fn: Takes `(gradients, variables)` or `(gradients)`, the gradients of all weights, and
            returns as many; or a transform of `finegrain.gradients`.

    Example:
    >>> import keras, numpy as np, finegrain as fg
    >>> weight = keras.Variable([1.0], name="w")
    >>> optimizer = fg.with_gradients(keras.optimizers.SGD(1.0), lambda g: [0 * each for each in g])
    >>> optimizer.apply([keras.ops.ones(1)], [weight])
    >>> print(keras.ops.convert_to_numpy(weight))
    [1.]

    References:
        Su Jianlin, Layer-wise learning rates and free gradients, 2019,
        https://kexue.fm/archives/6418
    """
    rule = Rule(".", gradient=fn)
    optimizer = keras.optimizers.get(optimizer)
    if not isinstance(optimizer, PerWeight):
        return PerWeight(optimizer, [rule])
    if optimizer.built:
        Template(optimizer)  # says that the state would be lost
    book = optimizer._book
    learning_rate = optimizer._learning_rate
    rules = [*(live.rule for live in book.rules), rule]
    extended = PerWeight(
        book.template.optimizer, rules, nonfinite=optimizer.nonfinite, name=optimizer.name
    )
    # Settings made after construction.
    extended.learning_rate = (
        learning_rate.value if isinstance(learning_rate, keras.Variable) else learning_rate
    )
    for (_, new), (_, old) in zip(extended._book.numbers(), book.numbers(), strict=True):
        new.assign(old.read())
    return extended
