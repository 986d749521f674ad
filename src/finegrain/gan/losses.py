"""Losses of the discriminator and the generator, of scores."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import keras
from keras import ops

Tensor = Any
Pair = tuple[Callable[..., Any], Callable[..., Any]]


def _mean_softplus(x: Tensor) -> Tensor:
    return ops.mean(ops.softplus(x))


def _relativistic(one: Tensor, other: Tensor) -> Tensor:
    return _mean_softplus(other - one)


def _relativistic_average(one: Tensor, other: Tensor) -> Tensor:
    """How little the scores of one kind are above the mean of the other, and the reverse."""
    above = _mean_softplus(ops.mean(other) - one)
    return (above + _mean_softplus(other - ops.mean(one))) / 2


# Pairs of the discriminator's loss and the generator's, of the scores that they name.
LOSSES: dict[str, Pair] = {
    "hinge": (
        lambda real, fake: ops.mean(ops.relu(1 - real)) + ops.mean(ops.relu(1 + fake)),
        lambda fake: -ops.mean(fake),
    ),
    "non_saturating": (
        lambda real, fake: _mean_softplus(-real) + _mean_softplus(fake),
        lambda fake: _mean_softplus(-fake),
    ),
    "least_squares": (
        lambda real, fake: (ops.mean((real - 1) ** 2) + ops.mean(fake**2)) / 2,
        lambda fake: ops.mean((fake - 1) ** 2) / 2,
    ),
    "wasserstein": (
        lambda real, fake: ops.mean(fake) - ops.mean(real),
        lambda fake: -ops.mean(fake),
    ),
    "relativistic": (
        lambda real, fake: _relativistic(real, fake),
        lambda real, fake: _relativistic(fake, real),
    ),
    "relativistic_average": (
        lambda real, fake: _relativistic_average(real, fake),
        lambda real, fake: _relativistic_average(fake, real),
    ),
}

RELATIVE = ("wasserstein", "relativistic", "relativistic_average")
"""Losses in which scores count by their differences alone."""

REVERSED_HINGE = "reversed_hinge"
"""The hinge loss in the source's sign, of models that were saved with it: real scores are low."""

_REVERSED_HINGE: Pair = (
    lambda real, fake: ops.mean(ops.relu(1 + real)) + ops.mean(ops.relu(1 - fake)),
    lambda fake: ops.mean(fake),
)

EXTRA = ("real_samples", "fake_samples", "noise", "labels")
"""What a loss may take by these names, besides scores."""


def get_losses(loss: Any, generator_loss: Any = None) -> Pair:
    """Find the pair of loss functions by its name, or return the functions that were given."""
    pair: Any = None
    if isinstance(loss, str) and loss in LOSSES:
        pair = LOSSES[loss]
    elif loss == REVERSED_HINGE:
        pair = _REVERSED_HINGE
    elif isinstance(loss, list | tuple) and len(loss) == 2 and all(map(callable, loss)):
        pair = loss
    elif callable(loss) and generator_loss is not None:
        pair = (loss, generator_loss)
    if pair is None:
        raise ValueError(
            f"`loss` should be one of {list(LOSSES)}, or a pair of functions: the discriminator's "
            "loss of (real scores, fake scores), the generator's of (fake scores) or of both; or "
            "the first of these, with the other as `generator_loss`. "
            f"Received: loss={loss!r}, generator_loss={generator_loss!r}"
        )
    if generator_loss is not None:
        if not callable(generator_loss):
            raise ValueError(
                "`generator_loss` should be a function of (fake scores) or of (real, fake). "
                f"Received: generator_loss={generator_loss!r}"
            )
        pair = (pair[0], generator_loss)
    for function in pair:
        _scores_taken(function)
    return pair[0], pair[1]


def loss_value(function: Callable[..., Any], real: Any, fake: Any, extra: Mapping[str, Any]) -> Any:
    """Call a loss with the scores that it takes, and with what else it names."""
    names = _parameters(function)
    further = {name: value for name, value in extra.items() if names and name in names}
    scores = (real, fake) if _scores_taken(function) == 2 else (fake,)
    value = ops.convert_to_tensor(function(*scores, **further))
    _check_pairing(value.shape, first(fake).shape)
    return ops.mean(value)


def _check_pairing(shape: Any, of_scores: Any) -> None:
    """Refuse (batch, batch) values, each sample's number with each other sample's score.

    Raises:
        ValueError: if a loss has made them of (batch, 1) scores and (batch,) numbers.
    """
    if len(shape) == len(of_scores) == 2 and of_scores[1] == 1 != shape[1]:
        raise ValueError(
            "A loss should return a scalar, or a value for each sample. Scores are (batch, 1): "
            "take `score[:, 0]` beside numbers that are (batch,). "
            f"Received: a loss of shape {tuple(shape)} for scores of shape {tuple(of_scores)}"
        )


def takes_labels(function: Callable[..., Any]) -> bool:
    """Whether a loss names labels."""
    return "labels" in (_parameters(function) or ())


def _parameters(function: Callable[..., Any]) -> list[str] | None:
    try:
        return list(inspect.signature(function).parameters)
    except (TypeError, ValueError):  # some functions of others do not say
        return None


def _scores_taken(function: Callable[..., Any]) -> int:
    """Count the scores that a loss takes: fake ones alone, or real and fake ones."""
    names = _parameters(function)
    if names is None:
        return 1
    parameters = inspect.signature(function).parameters
    positional = [
        name
        for name in names
        if name not in EXTRA
        and parameters[name].default is inspect.Parameter.empty
        and parameters[name].kind
        in (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    ]
    if len(positional) not in (1, 2):
        raise ValueError(
            "A loss should take (fake scores) or (real scores, fake scores), and besides what it "
            f"names of {list(EXTRA)}. Received: {function!r}, which takes {names}"
        )
    return len(positional)


def first(outputs: Any) -> Tensor:
    """Return the scores: all that a discriminator puts out, or the first part of it."""
    return keras.tree.flatten(outputs)[0]


def widened(x: Any) -> Any:
    """Cast floats to float32 unless they are float64: losses of scores outgrow half precision."""

    def wide(leaf: Any) -> Tensor:
        leaf = ops.convert_to_tensor(leaf)
        dtype = keras.backend.standardize_dtype(leaf.dtype)
        return leaf if dtype in ("float32", "float64") else ops.cast(leaf, "float32")

    return keras.tree.map_structure(wide, x)
