"""LearningRates: the rate of each rule's weights, in the logs of each epoch."""

from __future__ import annotations

from typing import Any

import keras

from finegrain.per_weight.optimizer import PerWeight

# The longest name of a rule in the logs.
LONGEST = 40


class LearningRates(keras.callbacks.Callback):
    """Puts the learning rate of each rule's weights into the logs at the end of each epoch.

    What reads the logs then has them: the `History` that `fit` returns, `CSVLogger`, `TensorBoard`
    and others. Those in the list of callbacks should come after this one.

    The names are `learning_rate/RULE`, and `learning_rate/no rule` for the weights that none
    selects; long names are cut. Where other rules give the weights of one several rates, there are
    two, `learning_rate/RULE/min` and `learning_rate/RULE/max`. Weights that a rule holds have the
    rate 0. Nothing is added to the steps.

    Raises:
        TypeError: at the start of `fit`, if the model's optimizer is not a `PerWeight`.

    Example:
    >>> import keras, numpy as np, finegrain as fg
    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, name="head")])
    >>> halved = keras.optimizers.schedules.ExponentialDecay(0.5, decay_steps=2, decay_rate=0.5)
    >>> rules = [fg.Rule("bias$", learning_rate_multiplier=2.0)]
    >>> model.compile(fg.PerWeight(keras.optimizers.SGD(halved), rules), loss="mse")
    >>> x, y = np.ones((8, 2)), np.ones((8, 1))
    >>> rates = fg.callbacks.LearningRates()
    >>> history = model.fit(x, y, batch_size=4, epochs=2, verbose=0, callbacks=[rates])
    >>> for name in ("learning_rate/bias$", "learning_rate/no rule"):
    ...     print(name, history.history[name])
    learning_rate/bias$ [0.5, 0.25]
    learning_rate/no rule [0.25, 0.125]
    """

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Check that the optimizer is a `PerWeight`."""
        optimizer = _inner(self.model)
        if not isinstance(optimizer, PerWeight):
            raise TypeError(
                "LearningRates needs a model compiled with a `PerWeight` optimizer: wrap yours as "
                f"`PerWeight(optimizer)`, which changes no step. Received: optimizer={optimizer!r}"
            )

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Put the present rates into `logs`."""
        optimizer = _inner(self.model)
        # A `train_step` of one's own may have taken no step yet.
        if logs is None or not optimizer.built:
            return
        taken: set[str] = set()
        for rule, rates in optimizer._rates_of_rules().items():
            name = f"learning_rate/{_short(rule, taken)}"
            if len(rates) == 1:
                logs[name] = rates[0]
            else:
                logs[f"{name}/min"], logs[f"{name}/max"] = min(rates), max(rates)


def _inner(model: Any) -> Any:
    optimizer = getattr(model, "optimizer", None)
    return getattr(optimizer, "inner_optimizer", optimizer)


def _short(name: str, taken: set[str]) -> str:
    """Cut a long name, and number those that are then alike."""
    cut = name if len(name) <= LONGEST else f"{name[: LONGEST - 1]}…"
    result, number = cut, 1
    while result in taken:
        number += 1
        result = f"{cut}#{number}"
    taken.add(result)
    return result
