"""find_learning_rate: the learning-rate range test."""

from __future__ import annotations

import warnings
from types import GeneratorType
from typing import Any

import keras
import numpy as np

from finegrain._backend import backend
from finegrain._checks import checked_positive
from finegrain.per_weight.nonfinite import NonFiniteGradientError
from finegrain.range_test.dials import RuleRate, dial_of
from finegrain.range_test.restoring import unchanged
from finegrain.range_test.result import DIVISOR, RangeTest, has_fallen, limit, smoothed
from finegrain.range_test.sweep import Sweep, batches_of_a_step


def find_learning_rate(
    model: keras.Model,
    x: Any,
    y: Any = None,
    *,
    rule: str | None = None,
    start: float = 1e-7,
    end: float = 10.0,
    steps: int = 200,
    smoothing: float = 0.3,
    divergence: float = 3.0,
    sample_weight: Any = None,
    class_weight: dict[int, float] | None = None,
    batch_size: int | None = None,
    shuffle: bool = True,
    verbose: int = 1,
) -> RangeTest:
    r"""Train a few steps at rising learning rates, suggest one, and undo the training.

    Step $i$ of $n$ is taken at the rate

    $$\eta_i = \eta_\text{start}\,
      \Big(\frac{\eta_\text{end}}{\eta_\text{start}}\Big)^{i/(n-1)}.$$

    While the rate is too small the loss stays where it is, then it falls, and when the rate is too
    large it rises. The suggestion is a third of the rate at which the smoothed loss is lowest.

    Afterwards all is bit for bit as before, also if the test was interrupted: weights, statistics,
    seeds, the optimizer's slots and steps, learning rates, rules, metrics and `history`. An
    optimizer that was not built is so afterwards, in the state in which training would begin.

    Args:
        model: A compiled model that is built: all its weights are there.
        x: The inputs, as `fit` takes them: arrays, also in dicts and lists, a `tf.data.Dataset`, a
            `PyDataset`, a `DataLoader` or a generator of batches. If the data are shorter than
            `steps` batches, they are gone through again.
        y: The targets, unless `x` holds them.
        rule: The rule of a `PerWeight` optimizer whose learning rate is to be varied, by its name
            or the expression that it selects by. All other weights learn at their own rates. By
            default the base rate is varied, under which multipliers keep their ratios.
        start: The first rate, > 0. It should be too small to matter.
        end: The last rate, > `start`. It should be too large.
        steps: How many rates to try, >= 10. A rate lasts for one batch; for several with gradient
            accumulation, so that each step moves the weights once, or with `steps_per_execution`.
        smoothing: Over how many decades of the rate losses are averaged: the standard deviation of
            a Gaussian, >= 0.
        divergence: The test ends when the average of the last losses is above the lowest one
            by so many times what the loss fell by, or the first loss if that is larger, > 0; and
            when a loss or, where `PerWeight` raises an error for it, a gradient is not finite.
        sample_weight: As in `fit`.
        class_weight: As in `fit`.
        batch_size: As in `fit`. The best rate depends on it: take that of the training.
        shuffle: As in `fit`.
        verbose: 1 for a progress bar, 0 for none.

    Returns:
        A `RangeTest`: `suggestion`, a float, or `None`, with a warning, if the loss never fell by
        more than batches differ; `rates`, `losses` and `smoothed`, float64 arrays of shape (steps
        until the end,); `multiplier`, what to give `PerWeight.set` for a rule that has one; and
        `plot()`, which draws it.

    Raises:
        TypeError: if `model` is not a Keras model, or if `rule` is given and its optimizer is not
            a `PerWeight`.
        ValueError: if the model is not compiled or not built, an argument is out of range, the
            optimizer is an `AdaptiveStepSize`, the rule cannot be set, the data end before the
            test does, or the first loss is not finite.

    Example:
    >>> import keras, numpy as np, finegrain as fg
    >>> keras.utils.set_random_seed(0)
    >>> x = np.random.normal(size=(256, 4)).astype("float32")
    >>> y = x @ np.array([[1.0], [-2.0], [3.0], [0.5]], "float32")
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    >>> model.compile("sgd", loss="mse")
    >>> found = fg.find_learning_rate(model, x, y, verbose=0)
    >>> 0.01 < found.suggestion < 1
    True
    >>> model.optimizer.learning_rate = found.suggestion

    References:
        Leslie N. Smith, Cyclical Learning Rates for Training Neural Networks, 2015,
        https://arxiv.org/abs/1506.01186

    Notes:
        The article raises the rate linearly and reads a range off the accuracy; here it rises
        geometrically and the loss is read, as fastai and Lightning do.

        A suggestion is a place to begin. It knows nothing of long trainings, which want smaller
        rates, nor of overfitting. How far it is from the best rate of a grid on nine tasks is in
        the benchmarks of the documentation.

        What the data remember themselves stays as the test left it: the position of a generator,
        the order of a dataset that shuffles, calls of `PyDataset.on_epoch_end`. A generator should
        be one of the test's own.

        Where the learning rate is a schedule, the test puts another one in its place and compiles
        the step for it once; the schedule and a step that was compiled for it come back.
    """
    _check_model(model)
    start, end = checked_positive("start", start), checked_positive("end", end)
    if start >= end:
        raise ValueError(f"`start` should be below `end`. Received: start={start}, end={end}")
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 10:
        raise ValueError(f"`steps` should be an integer >= 10. Received: steps={steps!r}")
    smoothing = checked_positive("smoothing", smoothing, zero=True)
    divergence = checked_positive("divergence", divergence)
    shapes = [tuple(getattr(array, "shape", ())) for array in keras.tree.flatten(x)]
    if any(shape and shape[0] == 0 for shape in shapes):
        raise ValueError(
            f"`x` should hold examples to train on. Received: x with the shapes {shapes}"
        )
    planned = np.geomspace(start, end, steps)
    if not model.optimizer.built:
        with backend.scope_of(model.trainable_variables):
            model.optimizer.build(model.trainable_variables)
    with unchanged(model) as restoring:
        dial = dial_of(model, rule)
        once = isinstance(x, GeneratorType)
        sweep = Sweep(model, dial, planned, divergence, restoring, once, bool(verbose))
        arguments = {"batch_size": batch_size, "shuffle": shuffle, "verbose": 0}
        arguments |= {"sample_weight": sample_weight, "class_weight": class_weight}
        with dial.ready():
            try:
                # More epochs than there can be: the sweep ends the training.
                model.fit(
                    x, y, epochs=steps * batches_of_a_step(model), callbacks=[sweep], **arguments
                )
            except NonFiniteGradientError:
                sweep.ended = True
    if not sweep.ended:
        raise ValueError(
            f"The data ended after {len(sweep.losses)} of {steps} steps: give some that can be "
            "gone through again, such as arrays or a dataset that repeats, or a generator without "
            f"end, or fewer `steps`. Received: x={type(x).__name__}, steps={steps}"
        )
    if not sweep.losses or not np.isfinite(sweep.losses[0]):
        raise ValueError(
            "The first step, at a rate that is too small to matter, had a loss or gradient that "
            "is not finite: look for NaN in the data and in the weights. "
            f"Received: start={start}, losses={sweep.losses}"
        )
    rates, losses = planned[: len(sweep.losses)], np.array(sweep.losses)
    curve = smoothed(rates, losses, smoothing, limit(losses, divergence))
    suggestion = None
    if has_fallen(rates, losses, curve, smoothing):
        suggestion = float(rates[np.argmin(curve)] / DIVISOR)
        if len(rates) == steps and np.argmin(curve) == steps - 1:
            warnings.warn(
                f"The loss still fell at the last rate, {rates[-1]:.3g}: the suggestion may be too "
                "small. Test again with a larger `end`.",
                stacklevel=2,
            )
    else:
        warnings.warn(
            "The loss did not fall at any rate by more than batches differ, so that none is "
            "suggested. See `plot()`; more `steps` or a larger `batch_size` may show more.",
            stacklevel=2,
        )
    multiplier = dial.multiplier_for(suggestion) if isinstance(dial, RuleRate) else None
    return RangeTest(suggestion, rates, losses, curve, rule, multiplier)


def _check_model(model: Any) -> None:
    if not isinstance(model, keras.Model):
        raise TypeError(
            f"`model` should be a Keras model. Received: model={model!r} (of type {type(model)})"
        )
    if not model.compiled or model.optimizer is None:
        raise ValueError(
            "`model` should be compiled: call `model.compile(optimizer, loss)` first. "
            f"Received: model={model!r}"
        )
    if not model.built:
        raise ValueError(
            "`model` should be built, since the test puts its weights back: begin it with a "
            f"`keras.Input`, or call it on a batch of inputs first. Received: model={model!r}"
        )
