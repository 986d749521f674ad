"""TerminateOnNonFinite: the end of a training at the first gradient that is not finite."""

from __future__ import annotations

from typing import Any

import keras

from finegrain.per_weight.optimizer import PerWeight


class TerminateOnNonFinite(keras.callbacks.Callback):
    """Ends the training at the first step whose gradients are NaN or infinite.

    For models compiled with `PerWeight(..., nonfinite="raise")`, which drops such steps, so that
    weights and optimizer stay as they were before. A compiled step cannot raise an error, so `fit`
    raises it at its end; this callback makes `fit` end after the batch in question. It asks the
    optimizer after each batch, so an accelerator has to finish each step first.

    Raises:
        TypeError: at the start of `fit`, if the model's optimizer is no such `PerWeight`.
        NonFiniteGradientError: out of `fit`, with the paths of the weights concerned.

    Example:
    >>> import keras, numpy as np, finegrain as fg
    >>> inputs = keras.Input((1,))
    >>> model = keras.Model(inputs, keras.layers.Dense(1, name="head")(inputs))
    >>> model.compile(fg.PerWeight("sgd", nonfinite="raise"), loss="mse")
    >>> x = np.array([[1.0], [np.nan], [1.0], [1.0]])
    >>> stop = fg.callbacks.TerminateOnNonFinite()
    >>> try:
    ...     model.fit(x, x, batch_size=1, shuffle=False, verbose=0, callbacks=[stop])
    ... except fg.NonFiniteGradientError as error:
    ...     print(error.paths, int(model.optimizer.iterations))
    ['head/kernel', 'head/bias'] 1
    """

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Check that the optimizer is a `PerWeight(..., nonfinite="raise")`."""
        optimizer = self._optimizer()
        if not isinstance(optimizer, PerWeight) or optimizer.nonfinite != "raise":
            raise TypeError(
                "TerminateOnNonFinite needs a model compiled with an optimizer that looks at its "
                'gradients: PerWeight(optimizer, nonfinite="raise"). '
                f"Received: optimizer={optimizer!r}"
            )

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """End the training if the batch's step was dropped."""
        if self._optimizer().nonfinite_is_pending:
            self.model.stop_training = True

    def _optimizer(self) -> Any:
        optimizer = self.model.optimizer
        return getattr(optimizer, "inner_optimizer", optimizer)
