"""Optimistic: steps that expect the next gradient to change as the last one did."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from finegrain._backend import backend
from finegrain.optimizers.wrapper import Wrapper
from finegrain.per_weight.slots import add_precise_slot

REFUSED = {
    "Optimistic": "its steps are optimistic already",
    "Ftrl": "it computes weights from all gradients, not steps from the last weights",
    "ScheduleFreeAdamW": "it computes weights from averages of its own, whatever they are now",
    "ExponentiatedGradient": "it multiplies weights, which a sum of steps might turn negative",
}


@keras.saving.register_keras_serializable(package="finegrain")
class Optimistic(Wrapper):
    r"""A wrapper for games, which adds to each step of any Keras optimizer its change.

    Where the given optimizer takes the step $\delta_t$, weights move by

    $$w_{t+1} = w_t + \delta_t + (\delta_t - \delta_{t-1}), \qquad \delta_0 = \delta_1.$$

    For SGD this is $w_{t+1} = w_t - \eta\, (2 g_t - g_{t-1})$, the optimistic gradient method; for
    Adam, Optimistic Adam. Like `Extragradient` it leads to the equilibrium of a game that gradient
    descent turns round, and takes one gradient for each step, not two. It is Popov's method, which
    looks ahead by the gradient of the last look ahead, at those points.

    Args:
        optimizer: A Keras optimizer, not yet built, or its name or config, or `PerWeight`.
        name: The optimizer's name.
        **kwargs: `learning_rate`, `weight_decay` and the arguments that all Keras optimizers have,
            in the place of those of `optimizer`.

    Raises:
        TypeError: if an argument is unknown.
        ValueError: if `optimizer` cannot be inside; at build, under a TensorFlow strategy of
            several replicas.

    Example:
    >>> import keras, finegrain as fg
    >>> x, y = keras.Variable([1.0], name="x"), keras.Variable([1.0], name="y")
    >>> optimizer = fg.optimizers.Optimistic(keras.optimizers.SGD(0.25))
    >>> for _ in range(3):  # the game x · y: x descends, y ascends
    ...     optimizer.apply([y + 0.0, -x], [x, y])
    ...     print(*(keras.ops.convert_to_numpy(weight) for weight in (x, y)))
    [0.75] [1.25]
    [0.375] [1.375]
    [0.] [1.375]

    Notes:
        Daskalakis et al. leave open what the first step is, and their programs take
        $\delta_0 = 0$, by which it is twice as long. Here it is a plain step.

        It bears smaller rates than `Extragradient`: on $\min_x \max_y x^\top A y$ it converges
        below $1 / (\sqrt{3}\, \lVert A \rVert_2)$.

        Weight decay is a part of the step. A weight without a gradient does not move, and its last
        step waits.

        State: the last step, as large as the weights, in float32, whatever the dtype of the
        weights.

    References:
        L. D. Popov, A modification of the Arrow-Hurwicz method for search of saddle points, 1980,
        https://doi.org/10.1007/BF01141092
        Constantinos Daskalakis, Andrew Ilyas, Vasilis Syrgkanis and Haoyang Zeng, Training GANs
        with Optimism, 2018, https://arxiv.org/abs/1711.00141
        Gauthier Gidel, Hugo Berard, Gaëtan Vignoud, Pascal Vincent and Simon Lacoste-Julien, A
        Variational Inequality Perspective on Generative Adversarial Networks, 2019,
        https://arxiv.org/abs/1802.10551
    """

    def __init__(
        self,
        optimizer: keras.optimizers.Optimizer | str | dict[str, Any],
        *,
        name: str | None = "optimistic",
        **kwargs: Any,
    ) -> None:
        super().__init__(optimizer, REFUSED, name, kwargs)

    def _add_state(self, variables: Sequence[keras.Variable]) -> None:
        self._last_steps = [add_precise_slot(self, v, "last_step") for v in variables]

    def _backend_update_step(
        self, grads: Sequence[Any], trainable_variables: Sequence[Any], learning_rate: Any
    ) -> None:
        variables, lists = list(trainable_variables), backend.lists
        last = [self._last_steps[self._get_variable_index(variable)] for variable in variables]
        self._compute_first(grads)
        with lists.untracked():
            before = lists.copies(variables)
            # No step has a change before the second one.
            share = ops.cast(ops.not_equal(self._inner.value._iterations, 0), "float32")
            self._take_step(list(grads), variables)
            after = lists.values(variables)
            steps = lists.differences(after, before)
            changes = lists.multiples(lists.differences(steps, lists.values(last)), share)
            lists.assign(variables, lists.sums(after, changes))
            lists.assign(last, steps)
