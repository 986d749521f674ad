"""The base class of what makes one gradient of those of several losses, and its plain forms."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Self

import keras
from keras import ops

from finegrain._backend import backend
from finegrain._backend.dtypes import precise_dtype


class GradientCombination(ABC):
    r"""Makes one gradient of the gradients $g_1, \dots, g_m$ of several losses.

    The result is $\sum_i c_i\, g_i$, where the coefficients $c_i$ depend on the Gram matrix
    $G_{ij} = \langle g_i, g_j \rangle$ alone, over all weights of the call together. So a call for
    each group of weights gives each group coefficients of its own.

    A subclass defines `coefficients`. So that models with it can be saved, it also defines
    `get_config` and is registered with `keras.saving.register_keras_serializable`.

    Example:
    >>> import keras, numpy as np, finegrain as fg
    >>> class OfEqualNorm(fg.gradients.GradientCombination):
    ...     def coefficients(self, gram):
    ...         return 1 / keras.ops.sqrt(keras.ops.diagonal(gram))
    >>> kernel, bias = np.array([[4.0], [0.0]]), np.array([0.0, 2.0])
    >>> combined = OfEqualNorm()([[kernel, None], [None, bias]])  # None is a gradient of 0
    >>> print([keras.ops.convert_to_numpy(gradient).tolist() for gradient in combined])
    [[[1.0], [0.0]], [0.0, 1.0]]

    Notes:
        Dot products and coefficients are in float32, whatever the dtype of the gradients. Numbers
        that are not finite stay so in the result, where they are; the coefficients are then those
        of gradients at right angles.
    """

    @abstractmethod
    def coefficients(self, gram: Any) -> Any:
        """Compute what each loss's gradient is multiplied by.

        Args:
            gram: The Gram matrix of the gradients, of shape (losses, losses) and dtype float32.

        Returns:
            The coefficients, of shape (losses,) and dtype float32.
        """

    def __call__(self, gradients: Sequence[Sequence[Any]]) -> list[Any]:
        """Combine the gradients.

        Args:
            gradients: For each loss the list of its gradients with respect to the same weights, in
                the same order, each a tensor of its weight's shape, or `None` for zeros.

        Returns:
            One list of tensors of the same shapes and dtypes; `None` for a weight that no loss has
            a gradient for.

        Raises:
            ValueError: if there is no loss, or one has another number of gradients, or gradients of
                other shapes.
        """
        rows = checked_rows(gradients)
        with backend.lists.untracked():
            gram = gram_matrix(rows)
            # Else one weight's NaN would reach all weights, by way of the coefficients.
            right_angles = ops.eye(len(rows), dtype="float32")
            gram = ops.where(ops.all(ops.isfinite(gram)), gram, right_angles)
            return weighted_sums(rows, self.coefficients(gram))

    @property
    def variables(self) -> list[keras.Variable]:
        """The state, such as seeds; a model that combines has to keep it among its own."""
        return []

    def get_config(self) -> dict[str, Any]:
        """Return the arguments that make an equal combination."""
        return {}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """Make the combination that `get_config` describes."""
        return cls(**config)

    def __repr__(self) -> str:
        arguments = ", ".join(f"{key}={value!r}" for key, value in self.get_config().items())
        return f"{type(self).__name__}({arguments})"


@keras.saving.register_keras_serializable(package="finegrain")
class Sum(GradientCombination):
    r"""Adds the gradients: $c_i = 1$, the gradient of the sum of the losses.

    Example:
    >>> import keras, numpy as np, finegrain as fg
    >>> (combined,) = fg.gradients.Sum()([[np.array([1.0, 0.0])], [np.array([2.0, 4.0])]])
    >>> print(keras.ops.convert_to_numpy(combined))
    [3. 4.]
    """

    def coefficients(self, gram: Any) -> Any:
        """Return 1 for each loss."""
        return ops.ones(gram.shape[:1], "float32")


@keras.saving.register_keras_serializable(package="finegrain")
class Mean(GradientCombination):
    r"""Averages the gradients: $c_i = 1/m$, the gradient of the mean of the losses.

    Example:
    >>> import keras, numpy as np, finegrain as fg
    >>> (combined,) = fg.gradients.Mean()([[np.array([1.0, 0.0])], [np.array([2.0, 4.0])]])
    >>> print(keras.ops.convert_to_numpy(combined))
    [1.5 2. ]
    """

    def coefficients(self, gram: Any) -> Any:
        """Return an equal share for each loss."""
        return ops.full(gram.shape[:1], 1 / gram.shape[0], "float32")


def checked_rows(gradients: Sequence[Sequence[Any]]) -> list[list[Any]]:
    """Return the gradients as dense tensors or `None`, a list for each loss, or raise an error."""
    rows = [
        [None if g is None else ops.convert_to_tensor(backend.dense(g)) for g in row]
        for row in gradients
    ]
    if not rows:
        raise ValueError(
            "`gradients` should have a list of gradients for each loss, one at least. "
            f"Received: gradients={gradients!r}"
        )
    lengths = [len(row) for row in rows]
    if len(set(lengths)) > 1:
        raise ValueError(
            "`gradients` should have, for each loss, one gradient (or None) for each weight, the "
            f"same weights in the same order. Received: lists of {lengths} gradients"
        )
    for place, column in enumerate(zip(*rows, strict=True)):
        shapes = [tuple(gradient.shape) for gradient in column if gradient is not None]
        if len(set(shapes)) > 1:
            raise ValueError(
                "`gradients` of one weight should have one shape, whatever the loss. "
                f"Received: the shapes {shapes} for weight {place}"
            )
    return rows


def gram_matrix(rows: Sequence[Sequence[Any]]) -> Any:
    """Compute the dot products of each two losses' gradients, over all weights together.

    Args:
        rows: For each of m losses a list of tensors or `None`.

    Returns:
        A float32 tensor of shape (m, m).
    """
    # No matrix product: on some devices these round float32 to ten bits.
    precise = [[None if g is None else ops.cast(g, precise_dtype(g)) for g in row] for row in rows]
    dots: dict[tuple[int, int], Any] = {}
    for i, one in enumerate(precise):
        for j, other in enumerate(precise[: i + 1]):
            both = [
                (a, b) for a, b in zip(one, other, strict=True) if a is not None and b is not None
            ]
            dot = backend.lists.dot(*zip(*both, strict=True)) if both else ops.zeros((), "float32")
            dots[i, j] = dots[j, i] = dot
    places = range(len(rows))
    return ops.stack([ops.stack([dots[i, j] for j in places]) for i in places])


def weighted_sums(rows: Sequence[Sequence[Any]], coefficients: Any) -> list[Any]:
    """Compute, for each weight, the sum of the losses' gradients times their coefficients."""
    results = []
    for column in zip(*rows, strict=True):
        terms = [
            ops.cast(coefficients[place], precise_dtype(g)) * ops.cast(g, precise_dtype(g))
            for place, g in enumerate(column)
            if g is not None
        ]
        dtypes = [g.dtype for g in column if g is not None]
        results.append(ops.cast(sum(terms[1:], terms[0]), dtypes[0]) if terms else None)
    return results
