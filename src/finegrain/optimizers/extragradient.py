"""Extragradient: steps in pairs, by the gradient at the point that the first one looks ahead to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from finegrain._backend import backend
from finegrain.optimizers.wrapper import Wrapper

REFUSED = {
    "Extragradient": "its steps come in pairs already",
    "Ftrl": "it computes weights from all gradients, not steps from the last weights",
    "ScheduleFreeAdamW": "it computes weights from averages of its own, whatever they are now",
}


@keras.saving.register_keras_serializable(package="finegrain")
class Extragradient(Wrapper):
    r"""A wrapper for games, in which any Keras optimizer takes its steps in pairs.

    The first half looks ahead; the second goes from where the first began, by the gradient there:

    $$w' = w - \eta\, g(w), \qquad w^+ = w - \eta\, g(w').$$

    Where players have losses of their own (the two networks of a GAN, or a minimum over some
    weights of a maximum over others), steps of gradient descent turn round the equilibrium and
    away from it. These lead to it: on $\min_x \max_y x^\top A y$ at every rate below
    $1 / \lVert A \rVert_2$.

    Args:
        optimizer: A Keras optimizer, not yet built, or its name or config, or `PerWeight`. It
            takes both halves: for Adam this is ExtraAdam.
        name: The optimizer's name.
        **kwargs: `learning_rate`, `weight_decay` and the arguments that all Keras optimizers have,
            in the place of those of `optimizer`.

    Raises:
        TypeError: if an argument is unknown.
        ValueError: if `optimizer` cannot be inside, or `ema_overwrite_frequency` is odd; at build,
            under a TensorFlow strategy of several replicas.

    Example:
    >>> import keras, finegrain as fg
    >>> x, y = keras.Variable([1.0], name="x"), keras.Variable([1.0], name="y")
    >>> optimizer = fg.optimizers.Extragradient(keras.optimizers.SGD(0.5))
    >>> for _ in range(4):  # two pairs on the game x · y: x descends, y ascends
    ...     optimizer.apply([y + 0.0, -x], [x, y])
    ...     print(*(keras.ops.convert_to_numpy(weight) for weight in (x, y)))
    [0.5] [1.5]
    [0.25] [1.25]
    [-0.375] [1.375]
    [-0.4375] [1.0625]

    Notes:
        Each half is one step of `fit`, with a batch of its own: the stochastic form of the paper.
        For the same batch twice, repeat each in the data. `iterations` counts halves, so that
        schedules count batches, and each half takes the rate of its own time.

        The state of `optimizer` (moments, step count) advances with both halves, as in algorithm 4
        of the paper, and only the weights go back. Weight decay and constraints are parts of each
        half; a constraint projects both points, as in Korpelevich's method.

        After an odd number of steps the weights are at the point looked ahead to, as
        `is_looking_ahead` tells. A file saved there goes on with the second half. So let epochs
        have an even number of batches: what is validated at their end are then the weights proper.
        With `use_ema` these alone are averaged.

        Inside `PerWeight` each group has pairs of its own, and `use_ema` averages both points.
        Round it, as `Extragradient(PerWeight(...))`, one pair is for all.

        State: a copy of the weights, in their dtype.

    References:
        G. M. Korpelevich, The extragradient method for finding saddle points and other problems,
        1976, Ekonomika i Matematicheskie Metody 12, pages 747-756 (not online)
        Gauthier Gidel, Hugo Berard, Gaëtan Vignoud, Pascal Vincent and Simon Lacoste-Julien, A
        Variational Inequality Perspective on Generative Adversarial Networks, 2019,
        https://arxiv.org/abs/1802.10551
    """

    def __init__(
        self,
        optimizer: keras.optimizers.Optimizer | str | dict[str, Any],
        *,
        name: str | None = "extragradient",
        **kwargs: Any,
    ) -> None:
        super().__init__(optimizer, REFUSED, name, kwargs)
        if (self.ema_overwrite_frequency or 0) % 2:
            raise ValueError(
                "`ema_overwrite_frequency` should be even, since steps go in pairs. "
                f"Received: ema_overwrite_frequency={self.ema_overwrite_frequency}"
            )

    def _add_state(self, variables: Sequence[keras.Variable]) -> None:
        self._half = self.add_variable(
            (), dtype="int32", aggregation="only_first_replica", name="half"
        )
        self._starts = self.add_optimizer_variables(variables, "start")

    @property
    def is_looking_ahead(self) -> bool:
        """Whether the weights are at the point looked ahead to, within a pair."""
        return self.built and bool(backend.host_array(self._half))

    def _pairs(self) -> list[tuple[keras.Variable, keras.Variable]]:
        """List each weight with the variable that keeps where its pair began."""
        both = zip(self._trainable_variables, self._starts, strict=True)
        return [(weight, start) for weight, start in both if start is not None]

    def _backend_update_step(
        self, grads: Sequence[Any], trainable_variables: Sequence[Any], learning_rate: Any
    ) -> None:
        self._compute_first(grads)
        with backend.lists.untracked():
            # Weights without a gradient, too, go back to where they were when others looked ahead.
            back = ops.equal(self._half, 1)
            for weight, start in self._pairs():
                value = ops.where(back, ops.convert_to_tensor(start), ops.convert_to_tensor(weight))
                weight.assign(value)
                start.assign(value)
            self._half.assign(1 - self._half)
            self._take_step(list(grads), list(trainable_variables))

    def _update_model_variables_moving_average(self, trainable_variables: Sequence[Any]) -> None:
        """Average the weights at the end of each pair; the first average is where training began.

        Keras would average the points looked ahead to as well.
        """
        ahead = ops.equal(self._half, 1)
        step = ops.convert_to_tensor(self.iterations)
        both = zip(self._pairs(), self._averages(), strict=True)
        for (weight, start), average in both:
            proper = ops.where(ahead, ops.convert_to_tensor(start), ops.convert_to_tensor(weight))
            mean = self.ema_momentum * average + (1 - self.ema_momentum) * proper
            # Half a pair has passed at step 0, the first one at step 1.
            mean = ops.where(step > 1, ops.cast(mean, proper.dtype), proper)
            keep = ops.logical_and(ahead, step > 0)
            average.assign(ops.where(keep, ops.convert_to_tensor(average), mean))

    def _averages(self) -> list[keras.Variable]:
        return [mean for mean in self._model_variables_moving_average if mean is not None]
