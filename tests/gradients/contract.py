"""What the transforms' tests share: the table of transforms, arrays, one call of a transform.

A new transform gets every test of `test_contract.py` by one line in `TRANSFORMS`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import keras
import numpy as np
from keras import ops

import drawn
from finegrain import gradients
from finegrain.gradients import GradientTransform
from finegrain.gradients.transform import transformed

SHAPES = [(), (3,), (4, 3), (2, 4, 3), (2, 2, 4, 3)]
"""Shapes of weights of every rank from 0 to 4."""


@keras.saving.register_keras_serializable(package="test_gradients")
class Momentum(GradientTransform):
    """A user's own transform: a running sum of gradients for each weight, and a count of steps."""

    def __init__(self, rate: float = 0.5) -> None:
        self.rate = rate

    def build(self, variables: Sequence[keras.Variable]) -> None:
        self.steps = self.add_variable("steps", dtype="int32")
        self.sum_of = {
            id(v): self.add_variable("sum", v.shape, dtype=v.dtype, weight=v) for v in variables
        }

    def __call__(
        self, gradients: Sequence[Any], variables: Sequence[keras.Variable]
    ) -> Sequence[Any]:
        self.steps.assign_add(1)
        results = []
        for gradient, variable in zip(gradients, variables, strict=True):
            total = self.sum_of[id(variable)]
            total.assign(self.rate * total + ops.cast(gradient, total.dtype))
            results.append(ops.convert_to_tensor(total))
        return results

    def get_config(self) -> dict[str, Any]:
        return {"rate": self.rate}


@keras.saving.register_keras_serializable(package="test_gradients")
def add_weights(gradients: Sequence[Any], variables: Sequence[keras.Variable]) -> Sequence[Any]:
    """A user's own function: the gradient of an L2 penalty."""
    return [
        gradient + ops.cast(0.125 * ops.convert_to_tensor(variable), gradient.dtype)
        for gradient, variable in zip(gradients, variables, strict=True)
    ]


TRANSFORMS: dict[str, Callable[[], GradientTransform]] = {
    name: partial(factory, **arguments)
    for name, factory, arguments in [
        ("clip_value", gradients.ClipValue, {"limit": 0.01}),
        ("clip_norm_1", gradients.ClipNorm, {"max_norm": 0.02, "ord": 1}),
        ("clip_norm_2", gradients.ClipNorm, {"max_norm": 0.02}),
        ("clip_norm_inf", gradients.ClipNorm, {"max_norm": 0.02, "ord": float("inf")}),
        ("clip_norm_rule", gradients.ClipNorm, {"max_norm": 0.02, "per": "rule"}),
        ("adaptive_clip", gradients.AdaptiveClip, {"ratio": 0.01}),
        ("scale", gradients.Scale, {"factor": -0.5}),
        ("zero", gradients.Zero, {}),
        ("normalize", gradients.Normalize, {}),
        ("normalize_inf", gradients.Normalize, {"ord": float("inf")}),
        ("sign", gradients.Sign, {}),
        ("centralize", gradients.Centralize, {}),
        ("noise", gradients.Noise, {"stddev": 0.5, "seed": drawn.seed(1)}),
        ("dropout", gradients.Dropout, {"rate": 0.5, "seed": drawn.seed(1)}),
        ("function", gradients.Function, {"fn": add_weights}),
        ("momentum", Momentum, {}),
    ]
}
"""Name → factory without arguments, of transforms that change any gradient of size about 1."""


def arrays(seed: int, shapes: Sequence[tuple[int, ...]] = tuple(SHAPES)) -> list[np.ndarray]:
    """An array of each of `shapes`, which depend on `seed` only."""
    random = drawn.generator(seed)
    return [np.asarray(random.normal(size=shape), "float32") for shape in shapes]


def as_variables(weights: Sequence[np.ndarray], dtype: str = "float32") -> list[keras.Variable]:
    """A Keras variable `w0`, `w1`, … of each array."""
    return [
        keras.Variable(np.asarray(weight), dtype=dtype, name=f"w{index}")
        for index, weight in enumerate(weights)
    ]


def array(tensor: Any) -> np.ndarray:
    """A tensor or variable of any float dtype as an array of its own in float32."""
    value = tensor.value if isinstance(tensor, keras.Variable) else tensor
    return np.array(ops.convert_to_numpy(ops.cast(value, "float32")))


def applied(
    transform: GradientTransform,
    gradients: Sequence[np.ndarray],
    weights: Sequence[np.ndarray] | None = None,
    steps: int = 1,
) -> list[np.ndarray]:
    """What `transform` makes of `gradients` in float32, for `weights`, at the last of `steps`."""
    variables = as_variables(gradients if weights is None else weights)
    bound = transform.bound_to(variables)
    for _ in range(steps):
        given = [ops.convert_to_tensor(np.asarray(gradient, "float32")) for gradient in gradients]
        results = transformed(bound, given, variables)
    return [array(result) for result in results]


def assert_close(
    results: Sequence[np.ndarray], expected: Sequence[Any], rtol: float = 1e-5
) -> None:
    """Each result is near what float64 says."""
    for result, reference in zip(results, expected, strict=True):
        np.testing.assert_allclose(result, reference, rtol=rtol, atol=1e-6)


def order_norm(values: Any, order: float) -> float:
    """A norm of all numbers of an array, in float64 by its definition."""
    sizes = np.abs(np.asarray(values, "float64"))
    return {1: sizes.sum(), 2: np.sqrt((sizes**2).sum()), float("inf"): sizes.max()}[order]
