"""Combinations of gradients that heed conflicts: losses of which one step helps one and harms one.

Two gradients are in conflict where they are at an obtuse angle.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from finegrain._checks import checked_positive
from finegrain.gradients.active_sets import cosines, of_least_norm, onto_dual_cone
from finegrain.gradients.combination import GradientCombination
from finegrain.gradients.randomness import checked_seed


@keras.saving.register_keras_serializable(package="finegrain")
class PCGrad(GradientCombination):
    r"""Takes from each gradient what is in conflict with another one, then adds them up.

    Each gradient $g_i$ meets the others in a random order. If what is left of it is in conflict
    with one, it loses its part along that one:

    $$g_i \leftarrow g_i - \frac{\min(\langle g_i, g_j \rangle, 0)}{\lVert g_j \rVert^2}\, g_j.$$

    The result is the sum, as in the paper: $m$ times as large as a mean. With more than two losses
    it may still be in conflict with one of them.

    Args:
        seed: An integer ≥ 0 for the orders, or `None` for a random one. With two losses there is
            one order only.

    Raises:
        ValueError: if `seed` is neither.

    Example:
    >>> import keras, numpy as np, finegrain as fg
    >>> gradients = [[np.array([1.0, 0.0])], [np.array([-1.0, 1.0])]]
    >>> (combined,) = fg.gradients.PCGrad()(gradients)  # (0.5, 0.5) and (0, 1)
    >>> print(keras.ops.convert_to_numpy(combined))
    [0.5 1.5]

    References:
        Tianhe Yu, Saurabh Kumar, Abhishek Gupta, Sergey Levine, Karol Hausman, Chelsea Finn,
        Gradient surgery for multi-task learning, 2020, algorithm 1,
        https://arxiv.org/abs/2001.06782

    Notes:
        The seed is state, in `variables`: each call draws other orders. The same seed draws other
        ones on another backend.
    """

    def __init__(self, seed: int | None = None) -> None:
        self.seed = checked_seed(seed)
        self.generator = keras.random.SeedGenerator(self.seed)

    def coefficients(self, gram: Any) -> Any:
        """Add up what is left of all gradients."""
        count = gram.shape[0]
        if count == 1:
            return ops.ones((1,), "float32")
        order = ops.argsort(keras.random.uniform((count, count), seed=self.generator), axis=1)
        return ops.sum(without_conflicts(gram, order), axis=0)

    @property
    def variables(self) -> list[keras.Variable]:
        """The seed."""
        return [self.generator.state]

    def get_config(self) -> dict[str, Any]:
        """Return the arguments that make an equal combination."""
        return {"seed": self.seed}


def without_conflicts(gram: Any, order: Any) -> Any:
    """Compute what is left of each gradient, as coefficients of all of them.

    Args:
        gram: The Gram matrix, float32 of shape (m, m).
        order: For each gradient the order in which it meets all, itself included: integers of
            shape (m, m).

    Returns:
        A float32 tensor of shape (m, m): a row for each gradient.
    """
    count = gram.shape[0]
    identity = ops.eye(count, dtype="float32")
    left = identity
    square = ops.diagonal(gram)
    square = ops.where(square > 0, square, 1.0)
    for turn in range(count):
        met = ops.one_hot(order[:, turn], count, dtype="float32")  # (m, m)
        products = ops.sum(left[:, None, :] * gram[None, :, :], axis=2)  # of row and column
        share = ops.minimum(products, 0.0) / square
        left = left - met * (1 - identity) * share
    return left


@keras.saving.register_keras_serializable(package="finegrain")
class MGDA(GradientCombination):
    r"""Takes the point of least norm in the convex hull of the gradients.

    $$\min_{\alpha} \Bigl\lVert \sum_i \alpha_i g_i \Bigr\rVert, \qquad
      \alpha \ge 0, \quad \sum_i \alpha_i = 1.$$

    Along it all losses fall, at equal rates for those that have a share. Where it is 0, no step
    lowers all of them (Pareto stationarity). A loss with a small gradient has a large share.

    Example:
    >>> import keras, numpy as np, finegrain as fg
    >>> gradients = [[np.array([1.0, 0.0])], [np.array([0.0, 2.0])]]
    >>> (combined,) = fg.gradients.MGDA()(gradients)
    >>> print(keras.ops.convert_to_numpy(combined).round(3))
    [0.8 0.4]

    References:
        Jean-Antoine Désidéri, Multiple-gradient descent algorithm (MGDA) for multiobjective
        optimization, 2012, https://doi.org/10.1016/j.crma.2012.03.014
        Ozan Sener, Vladlen Koltun, Multi-task learning as multi-objective optimization, 2018,
        https://arxiv.org/abs/1810.04650

    Notes:
        Sener and Koltun approach the point by the method of Frank and Wolfe. Here it is exact but
        for rounding, for 10 losses at most.
    """

    def coefficients(self, gram: Any) -> Any:
        """Compute the shares of the gradients."""
        return of_least_norm(*cosines(gram))


@keras.saving.register_keras_serializable(package="finegrain")
class UPGrad(GradientCombination):
    r"""Projects each gradient onto what harms no loss, then averages.

    $$\frac{1}{m} \sum_i \pi(g_i), \qquad \pi(g) = \arg\min_v \lVert v - g \rVert \quad
      \text{with} \quad \langle v, g_j \rangle \ge 0 \text{ for all } j.$$

    The result is in conflict with no gradient, and larger gradients count for more.

    Args:
        preference: What each loss's projection counts, a number > 0 for each, or `None` for $1/m$.

    Raises:
        ValueError: if `preference` has a number that is not > 0, or not one for each loss.

    Example:
    >>> import keras, numpy as np, finegrain as fg
    >>> gradients = [[np.array([1.0, 0.0])], [np.array([-1.0, 1.0])]]
    >>> (combined,) = fg.gradients.UPGrad()(gradients)  # of (0.5, 0.5) and (0, 1)
    >>> print(keras.ops.convert_to_numpy(combined).round(3))
    [0.25 0.75]

    References:
        Pierre Quinton, Valérian Rey, Jacobian descent for multi-objective optimization, 2024,
        https://arxiv.org/abs/2406.16232

    Notes:
        The authors' torchjd adds 1e-4 of the squared norm of all gradients to each one's own, so
        that a gradient of a hundredth of the largest is hardly heeded, and takes the mean where
        that squared norm is below 1e-4. Here gradients are compared by their angles, whatever
        their norms, to about 1e-6; for 10 losses at most.
    """

    def __init__(self, preference: Sequence[float] | None = None) -> None:
        self.preference = None
        if preference is not None:
            self.preference = [checked_positive("preference", number) for number in preference]

    def coefficients(self, gram: Any) -> Any:
        """Average the projections."""
        count = gram.shape[0]
        preference = [1 / count] * count if self.preference is None else self.preference
        if len(preference) != count:
            raise ValueError(
                f"`preference` should have a number for each of {count} losses. "
                f"Received: preference={self.preference}"
            )
        norms, cosine = cosines(gram)
        sizes = norms * ops.convert_to_tensor(preference, "float32")
        of_units = ops.sum(onto_dual_cone(cosine) * sizes, axis=1)
        return of_units / ops.where(norms > 0, norms, 1.0)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments that make an equal combination."""
        return {"preference": self.preference}
