"""Games that gradient descent does not solve, and the recurrences of what does, in float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops

import drawn
import finegrain as fg
from optimizers.contract import apply, values, variables

A = drawn.generator(31).normal(size=(3, 3))
"""The matrix of a bilinear game: x descends on xᵀ A y, and y ascends."""

LIPSCHITZ = float(np.linalg.norm(A, 2))
START = (np.array([1.0, -1.0, 0.5]), np.array([0.5, 1.0, 1.0]))

Field = Callable[[np.ndarray], np.ndarray]


def field(point: np.ndarray, matrix: np.ndarray = A) -> np.ndarray:
    """What the players of a bilinear game descend along, at (x, y)."""
    x, y = np.split(point, 2)
    return np.concatenate([matrix @ y, -matrix.T @ x])


def played(
    optimizer: keras.optimizers.Optimizer, steps: int, matrix: np.ndarray = A, start: Any = START
) -> np.ndarray:
    """The points (x, y) of a bilinear game after each of `steps`, with gradients by hand."""
    players = variables(x=start[0], y=start[1])
    seen = []
    for _ in range(steps):
        x, y = (player.astype("float64") for player in values(players))
        apply(optimizer, players, [matrix @ y, -matrix.T @ x])
        seen.append(np.concatenate(values(players)))
    return np.array(seen)


class Game(keras.Model):
    """A bilinear game as a model with one loss: the gradient of `y` is reversed on its way."""

    def __init__(self) -> None:
        super().__init__()
        self.x, self.y = (
            self.add_weight(
                shape=(3,), initializer=lambda shape, dtype, a=a: ops.convert_to_tensor(a, dtype)
            )
            for a in START
        )

    def call(self, inputs: Any) -> Any:
        """The value of the game for each input."""
        y = fg.routing.reverse_gradient(ops.convert_to_tensor(self.y))
        value = ops.sum(self.x * ops.matmul(ops.convert_to_tensor(A, "float32"), y))
        return value * ops.ones_like(inputs)


def fitted(optimizer: keras.optimizers.Optimizer, steps: int) -> np.ndarray:
    """The point that `fit` ends at, compiled as Keras chooses."""
    game = Game()
    game.compile(optimizer, lambda _, value: value, jit_compile=keras.backend.backend() == "jax")
    game.fit(np.ones((steps, 1)), np.ones((steps, 1)), batch_size=1, verbose=0)
    return np.concatenate(values([game.x, game.y]))


class AdamInFloat64:
    """The steps of Keras's Adam."""

    def __init__(self, rate: float, beta_1: float = 0.9, beta_2: float = 0.999) -> None:
        self.rate, self.betas, self.count = rate, (beta_1, beta_2), 0
        self.m = self.v = 0.0

    def step(self, gradient: np.ndarray) -> np.ndarray:
        """What is added to the weights."""
        self.count += 1
        one, two = self.betas
        self.m = one * self.m + (1 - one) * gradient
        self.v = two * self.v + (1 - two) * gradient**2
        rate = self.rate * np.sqrt(1 - two**self.count) / (1 - one**self.count)
        return -rate * self.m / (np.sqrt(self.v) + 1e-7)


class SGDInFloat64:
    """The steps of gradient descent."""

    def __init__(self, rate: float) -> None:
        self.rate = rate

    def step(self, gradient: np.ndarray) -> np.ndarray:
        """What is added to the weights."""
        return -self.rate * gradient


def extragradient(inner: Any, steps: int, along: Field = field, start: Any = START) -> np.ndarray:
    """The points of both halves of each pair."""
    point, seen = np.concatenate(start), []
    for _ in range(steps // 2):
        ahead = point + inner.step(along(point))
        point = point + inner.step(along(ahead))
        seen += [ahead, point]
    return np.array(seen)


def optimistic(inner: Any, steps: int, along: Field = field, start: Any = START) -> np.ndarray:
    """The points of optimistic steps, the first of which is plain."""
    point, last, seen = np.concatenate(start), None, []
    for _ in range(steps):
        step = inner.step(along(point))
        point = point + 2 * step - (step if last is None else last)
        last = step
        seen.append(point)
    return np.array(seen)


def radius(point: np.ndarray) -> float:
    """How far a point is from the equilibrium, 0."""
    return float(np.linalg.norm(point))
