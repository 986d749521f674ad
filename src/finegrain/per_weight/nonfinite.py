"""What PerWeight does about gradients that are NaN or infinite."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from finegrain._backend import backend
from finegrain.per_weight.rulebook import both
from finegrain.rules.selection import weight_path

POLICIES = ("propagate", "skip", "raise")


class NonFiniteGradientError(FloatingPointError):
    """A gradient is NaN or infinite, and `PerWeight(..., nonfinite="raise")` was asked to say so.

    The step was dropped: the weights and the optimizer's state are as they were before it.

    Attributes:
        paths: The paths of the weights concerned.

    Args:
        message: What happened.
        paths: The paths of the weights concerned.

    Example:
    >>> import keras, numpy as np, finegrain as fg
    >>> weight = keras.Variable([1.0], name="w")
    >>> optimizer = fg.PerWeight("sgd", nonfinite="raise")
    >>> try:
    ...     optimizer.apply([keras.ops.convert_to_tensor([np.nan])], [weight])
    ... except fg.NonFiniteGradientError as error:
    ...     print(error.paths, keras.ops.convert_to_numpy(weight))
    ['w'] [1.]
    """

    def __init__(self, message: str, paths: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.paths = list(paths)


class Guard:
    """Drops steps with gradients that are not finite, and counts them.

    Args:
        policy: `"skip"` or `"raise"`.
        weights: All weights of the optimizer.
        add_variable: Makes an integer variable: (name, shape) → variable.
    """

    def __init__(
        self,
        policy: str,
        weights: Sequence[keras.Variable],
        add_variable: Callable[[str, tuple[int, ...]], keras.Variable],
    ) -> None:
        self.policy = policy
        self.weights = list(weights)
        self.skipped = add_variable("skipped_steps", ())
        self.counts = add_variable("nonfinite_gradients", (len(self.weights),))
        # The dropped steps that have raised an error already.
        self._reported = 0
        self._reported_counts = np.zeros(len(self.weights), "int64")

    def run(
        self,
        step: Callable[[list[Any], list[keras.Variable]], None],
        gradients: list[Any],
        weights: list[keras.Variable],
        counted: Sequence[Any],
        variables: Sequence[keras.Variable],
        owner: keras.optimizers.Optimizer,
    ) -> None:
        """Call `step(gradients, weights)` unless a gradient that counts is not finite.

        Args:
            step: The step.
            gradients: Its gradients.
            weights: Their weights.
            counted: For each of them, whether its gradient counts: `None` for always, a bool or a
                scalar tensor.
            variables: All that the step assigns to, but for the guard's own.
            owner: The optimizer.
        """
        if backend.UNDOES_FAILED_STEPS and not backend.is_compiling(self.skipped.value):
            self._reported = min(self._reported, host_int(self.skipped))
            self._reported_counts = np.minimum(self._reported_counts, self._host_counts())
        flags: list[Any] = [False] * len(self.weights)
        for gradient, weight, counts in zip(gradients, weights, counted, strict=False):
            if gradient is not None and counts is not False:
                flags[owner._get_variable_index(weight)] = both(counts, _nonfinite(gradient))
        bad = backend.anywhere(ops.stack([ops.cast(flag, "bool") for flag in flags]))
        dropped = ops.any(bad)
        self.counts.assign_add(ops.cast(bad, "int32"))
        self.skipped.assign_add(ops.cast(dropped, "int32"))
        own = {id(self.counts), id(self.skipped)}
        rest = [variable for variable in variables if id(variable) not in own]
        backend.run_if(ops.logical_not(dropped), step, (gradients, weights), lambda: rest)
        # A compiled step tells the host nothing: there `fit` raises at its end, and a callback
        # stops it before.
        if self.policy == "raise" and not backend.is_compiling(dropped) and bool(dropped):
            self.raise_pending()

    @property
    def is_pending(self) -> bool:
        """Whether a step was dropped since the last error."""
        return host_int(self.skipped) > self._reported

    def raise_pending(self) -> None:
        """Raise an error for the steps that were dropped since the last one, if there are any."""
        if not self.is_pending:
            return
        paths = self._paths(self._host_counts() > self._reported_counts)
        self.forget()
        raise self._error(paths)

    def forget(self) -> None:
        """Mark all steps that were dropped until now as reported."""
        self._reported = host_int(self.skipped)
        self._reported_counts = self._host_counts()

    def _host_counts(self) -> np.ndarray:
        return backend.host_array(self.counts).astype("int64")

    def _paths(self, flags: np.ndarray) -> list[str]:
        return [
            weight_path(weight) for weight, flag in zip(self.weights, flags, strict=True) if flag
        ]

    def _error(self, paths: list[str]) -> NonFiniteGradientError:
        return NonFiniteGradientError(
            f"The gradients of {len(paths)} of {len(self.weights)} weights were NaN or infinite: "
            f"{paths[:10]}{' and more' if len(paths) > 10 else ''}. The weights and the optimizer "
            "are as they were before that step. Look for a logarithm or a division of 0, lower the "
            "learning rate, clip the gradients, or drop such steps with nonfinite='skip'.",
            paths,
        )

    def concerned(self) -> dict[str, int]:
        """Count the dropped steps of each weight that caused any: {path of the weight: steps}."""
        counts = self._host_counts()
        return dict(zip(self._paths(counts > 0), map(int, counts[counts > 0]), strict=True))


def _nonfinite(gradient: Any) -> Any:
    """Return whether any number of the gradient is NaN or infinite, as a scalar boolean tensor."""
    values = gradient.values if backend.is_sparse(gradient) else gradient
    return ops.logical_not(ops.all(ops.isfinite(values)))


def check_policy(policy: Any) -> str:
    """Return `policy`, or raise an error that lists the policies."""
    if policy not in POLICIES:
        raise ValueError(
            f"`nonfinite` should be one of {', '.join(map(repr, POLICIES))}. "
            f"Received: nonfinite={policy!r}"
        )
    return policy


def host_int(variable: keras.Variable) -> int:
    """Read an integer variable as a Python int."""
    return int(backend.host_array(variable))
