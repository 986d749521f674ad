"""Calling a layer with its weights as constants."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from finegrain._backend import backend
from finegrain.routing.overlay import Overlay, create_weights, is_built

# These compute with tensors of their own, not with the values of their Keras variables.
_OPAQUE = (keras.layers.TFSMLayer, keras.layers.TorchModuleWrapper)


def constant_weights(layer: keras.layers.Layer) -> Callable[..., Any]:
    r"""Make a function that calls a layer or model with its weights as constants.

    $$y = f(x; \text{stop\_gradient}(\theta))$$

    The gradient passes through to the inputs and reaches none of the weights. Nothing else
    changes: the value is the same, the layer stays trainable, and you may also call the layer
    itself in the same step. This lets two networks with contrary aims learn from one loss: each
    aim is computed with the weights of the other network as constants.

    ```text
    loss = mean(relu(1 + discriminator(stop_gradient(fake))))  # moves the discriminator
    loss -= mean(constant_weights(discriminator)(fake))        # moves the generator
    ```

    Under a compiler (JAX, or TensorFlow's XLA) the two calls above share one forward pass.

    Args:
        layer: A Keras layer or model, built or not. Its trainable weights, statistics and seeds
            are read as constants.

    Returns:
        A function that takes the arguments of the layer's call (`training` and masks included)
        and returns the layer's outputs. For use where tensors have values: in `call`,
        `compute_loss` or a loss.

    Raises:
        TypeError: if `layer` is no Keras layer; a function hides its weights, and
            `inner_gradient_only` serves it. In a call: for symbolic tensors.
        ValueError: for layers around a torch module or a TensorFlow SavedModel, whose weights
            cannot be read otherwise.

    Example:
    >>> import keras, numpy as np, finegrain as fg
    >>> class Game(keras.Model):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.source = keras.layers.Dense(1, kernel_initializer="ones", use_bias=False)
    ...         self.critic = keras.layers.Dense(1, kernel_initializer="ones", use_bias=False)
    ...     def call(self, x):
    ...         made = self.source(x)
    ...         judged = self.critic(fg.routing.stop_gradient(made))  # moves the critic, by -0.25
    ...         return judged - 3 * fg.routing.constant_weights(self.critic)(made)  # source 0.75
    >>> game = Game()
    >>> game.compile(keras.optimizers.SGD(0.25), loss=lambda y, outputs: outputs)
    >>> history = game.fit(np.ones((1, 1)), np.ones((1, 1)), verbose=0)
    >>> [weight.item() for weight in game.get_weights()]
    [1.75, 0.75]

    References:
        Su Jianlin, Cutting gradients skilfully: a GAN from a single loss, 2019,
        https://kexue.fm/archives/6387

    Notes:
        - What is updated in a call and not trained, such as the moving statistics of
          BatchNormalization and the seeds of Dropout, is updated once by each call, of either
          kind. What a layer assigns to a trainable weight (as keras.layers.SpectralNormalization
          does) is used in this call and then forgotten, with a warning: inference would compute
          with another kernel. `finegrain.layers.SpectralNormalization` assigns to none.
        - `keras.RematScope` and `keras.remat` work inside, with the same gradients. On TensorFlow,
          whose recomputation finds statistics and seeds as they are by then, only layers without
          them do, and others raise an error.
        - Two calls of a Dropout layer draw two masks, so that a compiler can share only what
          stands before it.
        - Losses that the layer adds in its call (activity regularizers) count once for each call;
          their gradient reaches the inputs alone. Losses on the weights themselves are not
          touched.
        - In a TensorFlow graph without XLA, an update may overtake the reading of a weight on which
          it does not depend: the graph optimizer loses their order, in any model that stops the
          gradient of a weight which it reads for others. Here it is kept.
        - The source subtracts (`inner_gradient_only`), which costs the discriminator one more
          backward pass to its weights.
    """
    if not isinstance(layer, keras.layers.Layer):
        raise TypeError(
            "`layer` should be a Keras layer or model. For a function whose weights are out of "
            f"reach use `finegrain.routing.inner_gradient_only`. Received: layer={layer!r}"
        )
    for part in layer._flatten_layers():
        if isinstance(part, _OPAQUE):
            raise ValueError(
                f"`constant_weights` cannot reach the weights inside of {type(part).__name__}: use "
                "`finegrain.routing.inner_gradient_only`, or in a GAN `routing='subtraction'`, "
                "which need not. "
                f"Received: layer={layer!r}"
            )

    def call(*args: Any, **kwargs: Any) -> Any:
        if any(map(keras.backend.is_keras_tensor, keras.tree.flatten((args, kwargs)))):
            raise TypeError(
                "`constant_weights` takes tensors that have values: call it in the `call` of a "
                "layer, in `compute_loss` or in a loss, not on keras.Input. "
                f"Received symbolic tensors for layer {layer.name!r}"
            )
        if not is_built(layer):
            with backend.outside_of_graphs():
                create_weights(layer, args, kwargs)

        def constant(variable: Any, value: Any) -> Any:
            return ops.stop_gradient(value)

        with Overlay(layer.variables, constant, same=True) as scope:
            backend.compute_before_updates(scope.values.values(), layer.variables)
            outputs = layer(*args, **kwargs)
        scope.forward_losses(layer)
        scope.assign_statistics()
        return outputs

    return call
